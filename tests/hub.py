"""A small Hugging Face hub on loopback that holds one dataset: what `datasets` asks a real one for, and no more."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pyarrow as pa
import pyarrow.parquet as pq

COMMIT = "a" * 40
_CARD = b"---\nconfigs:\n- config_name: all\n  data_files:\n  - split: test\n    path: all/test-*.parquet\n---\n"


def hub_with(name: str, rows: Sequence[Mapping[str, Any]]) -> AbstractContextManager[str]:
    """Its address, for HF_ENDPOINT. The dataset ``name`` has one configuration, ``all``, and one split, ``test``."""
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), parquet)
    return hub_of(name, {"README.md": _CARD, "all/test-00000-of-00001.parquet": parquet.getvalue()})


@contextmanager
def hub_of(name: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """Its address, for HF_ENDPOINT. The dataset ``name`` has these files, at most one folder deep."""

    def entry(path: str) -> dict[str, Any]:
        if path in files:
            return {"type": "file", "path": path, "size": len(files[path]), "oid": "0" * 40}
        return {"type": "directory", "path": path, "size": 0, "oid": "1" * 40}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            wanted = json.loads(asked)["paths"] if asked.startswith(b"{") else parse_qs(asked.decode())["paths"]
            folders = {file.rpartition("/")[0] for file in files}
            self._send(json.dumps([entry(path) for path in wanted if path in files or path in folders]).encode())

        def _answer(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith(f"/datasets/{name}/resolve/"):
                wanted = path.removeprefix(f"/datasets/{name}/resolve/").partition("/")[2]
                if wanted in files:
                    tag = hashlib.sha1(files[wanted]).hexdigest()
                    self._send_file(files[wanted], ETag=f'"{tag}"', **{"X-Repo-Commit": COMMIT})
                else:
                    self._send(b"{}", code=404, **{"X-Error-Code": "EntryNotFound"})
            elif path.startswith(f"/api/datasets/{name}/tree/"):
                folder = path.partition(COMMIT)[2].strip("/")
                tree = [file for file in files if file.rpartition("/")[0] == folder]
                if not folder:
                    tree += sorted({file.partition("/")[0] for file in files if "/" in file})
                self._send(json.dumps([entry(path) for path in tree]).encode())
            elif path.startswith(f"/api/datasets/{name}"):
                info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files], "tags": []}
                self._send(json.dumps({**info, "private": False, "gated": False, "downloads": 0, "likes": 0}).encode())
            else:
                self._send(b"{}", code=404)

        def _send_file(self, content: bytes, **headers: str) -> None:
            """All of it, or the range that is asked for, which is how a stream is read."""
            first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
            if not first:
                self._send(content, **headers)
                return
            end = min(int(last or len(content)), len(content) - 1)
            place = f"bytes {first}-{end}/{len(content)}"
            self._send(content[int(first) : end + 1], code=206, **{"Content-Range": place, **headers})

        def _send(self, body: bytes, code: int = 200, **headers: str) -> None:
            self.send_response(code)
            for header, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
