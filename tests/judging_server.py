"""A judge behind a real HTTP endpoint, which can be told to fall silent."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from introspection_probe.tasks.judges import RuleJudge


class JudgingServer:
    """Gives the rules' verdicts in the format of ``/chat/completions``.

    Attributes:
        silent_on: requests that hold this text are answered 503; None answers all.
        requests: so far.
    """

    def __init__(self) -> None:
        self.silent_on: str | None = None
        self.requests = 0
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                pair = json.loads(body["messages"][1]["content"])
                with lock:
                    outer.requests += 1
                silent = outer.silent_on is not None and outer.silent_on in pair["request"]
                message = {"role": "assistant", "content": RuleJudge().judge(pair["request"], pair["response"])}
                content = b"" if silent else json.dumps({"choices": [{"message": message}]}).encode()
                self.send_response(503 if silent else 200)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def forget(self) -> None:
        """Delete the verdicts that were paid for already."""
        (Path(os.environ["XDG_CACHE_HOME"]) / "introspection_probe" / "verdicts.sqlite").unlink()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
