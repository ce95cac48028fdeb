"""Completions from an OpenAI-compatible server: many at a time, tried again where that can help."""

from __future__ import annotations

import math
import os
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from introspection_probe.errors import IntrospectionError

In = TypeVar("In")
Out = TypeVar("Out")

CONCURRENCY = 32
"""Requests under way at once: vLLM batches what arrives together."""

BATCH = 8
"""Prompts in one request: enough that HTTP costs little, few enough that a retry repeats little."""

ATTEMPTS = 6
TIMEOUT_S = 300.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})

# What vLLM and its relatives know and OpenAI does not. Rendered prompts hold their special tokens already; ids tell
# tokens apart whose text is the same; the model's own generation settings must not bend greedy decoding.
_EXTRAS: Mapping[str, Any] = {
    "add_special_tokens": False,
    "return_tokens_as_token_ids": True,
    "repetition_penalty": 1.0,
}
_TOP_LOGPROBS = (20, 5)  # the usual limits of vLLM and of OpenAI


@dataclass(frozen=True, slots=True)
class Completion:
    """What a server wrote after a prompt.

    Attributes:
        top: log-probabilities of the likeliest first tokens, by token; empty where none were asked for.
    """

    text: str
    top: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Scored:
    """A text as a server reads it: its tokens, and each one's log-probability given those before it (first: None).

    A token is whatever names it: its id where the server gives ids, else its text.
    """

    tokens: tuple[str, ...]
    logprobs: tuple[float | None, ...]


class Endpoint:
    """One model of one server; a context manager.

    Attributes:
        model: its name there.
        window: tokens that it can read; no limit where the server does not tell.
        shown: how messages name the server.
        tokens: read and written so far, as the server counts them.

    Args:
        url: ``http(s)://host[:port]``, with or without ``/v1``.
        model: its name there; may be left out where the server has one only.
        api_key: default: the environment's ``IPROBE_API_KEY``, else ``OPENAI_API_KEY``, else none.
        concurrency: requests under way at once.
        timeout_s: seconds that a request may take.
        first_wait_s: seconds before the first of the further attempts; then it doubles.

    Raises:
        IntrospectionError: no such URL, no server there, none or several models, httpx missing.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        concurrency: int = CONCURRENCY,
        timeout_s: float = TIMEOUT_S,
        first_wait_s: float = _FIRST_WAIT_S,
    ) -> None:
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise IntrospectionError(
                "talking to a server needs httpx: pip install 'introspection-probe[endpoint]'"
            ) from error
        self._base, self.shown = _base_url(url)
        key = api_key or os.environ.get("IPROBE_API_KEY") or os.environ.get("OPENAI_API_KEY")
        self._key = key
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_s, connect=10.0, pool=None),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )
        self._request_error = httpx.RequestError
        self._concurrency, self._first_wait_s = concurrency, first_wait_s
        self._stopping = threading.Event()
        self._extras: dict[str, Any] = dict(_EXTRAS)
        self._top_logprobs = _TOP_LOGPROBS[0]
        self._echo_length = 0
        self.tokens = 0
        try:
            self.model, self.window = self._find_model(model)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._stopping.set()
        self._client.close()

    def learn(self, prompt: str) -> list[str]:
        """Find out with a real prompt what the server understands; what a user should know, a sentence each.

        Raises:
            IntrospectionError: it refuses even the plainest request, or gives no log-probabilities.
        """
        notes = []
        request = {"prompt": [prompt], "max_tokens": 1, "temperature": 0}
        attempts = [(extras, top) for extras in (self._extras, {}) for top in _TOP_LOGPROBS]
        refused: _RefusedError | None = None
        for extras, top in attempts:
            self._extras, self._top_logprobs = dict(extras), top
            try:
                reply = self._post({**request, "logprobs": top})
                break
            except _RefusedError as error:
                refused = error
        else:
            assert refused is not None
            raise refused
        if not _completion(_choices(reply, 1, self.shown)[0], self.shown).top:
            raise IntrospectionError(
                f"{self.shown} gives no logprobs with completions, which answers are read from: "
                "use a server that does, such as vLLM"
            )
        if not self._extras:
            notes.append(
                f"{self.shown} takes plain OpenAI fields only: it may put a start token before prompts that have one"
            )
        return notes

    def complete(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int,
        top: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Greedy completions, in the order of the prompts; with ``top`` also the likeliest first tokens.

        Raises:
            IntrospectionError: the server refuses, or fails for longer than it is worth waiting.
        """

        def ask(batch: Sequence[str]) -> list[Completion]:
            request = {"prompt": list(batch), "max_tokens": max_tokens, "temperature": 0, "top_p": 1}
            if top:
                request["logprobs"] = self._top_logprobs
            reply = self._post(request)
            return [_completion(choice, self.shown) for choice in _choices(reply, len(batch), self.shown)]

        batches = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
        found = self._map(ask, batches, (lambda batch: progress(len(batch))) if progress else None)
        return [completion for batch in found for completion in batch]

    def score(self, texts: Sequence[str]) -> list[Scored]:
        """The tokens of whole texts with their log-probabilities (``echo``), in the order of the texts.

        Raises:
            IntrospectionError: as :meth:`complete`, and where the server does not score given text.
        """
        return self._map(self._score, texts)

    def _score(self, text: str) -> Scored:
        request = {"prompt": text, "temperature": 0, "echo": True, "logprobs": 1}
        cannot = (
            f"{self.shown} does not score given text (echo with logprobs), which answers of several tokens need: "
            "use a server that does, such as vLLM"
        )
        written = self._echo_length
        try:
            try:
                reply = self._post({**request, "max_tokens": written})
            except _RefusedError:
                if written:
                    raise
                # Some servers insist on writing something.
                written = 1
                reply = self._post({**request, "max_tokens": written})
                self._echo_length = written
        except _RefusedError as error:
            raise IntrospectionError(f"{cannot} ({error.reason})") from error
        logprobs = _choices(reply, 1, self.shown)[0].get("logprobs") or {}
        tokens, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
        read = (reply.get("usage") or {}).get("prompt_tokens", len(tokens) - written)
        scored = Scored(tuple(map(str, tokens[:read])), tuple(values[:read]))
        whole = isinstance(read, int) and 0 < read == len(scored.tokens) == len(scored.logprobs)
        if not whole or not all(isinstance(value, int | float) for value in scored.logprobs[1:]):
            raise IntrospectionError(cannot)
        return scored

    def _find_model(self, model: str | None) -> tuple[str, float]:
        """Its name, and the tokens it can read where the server tells (vLLM does)."""
        reply = self._request("GET", "/models")
        known = {str(item.get("id")): item for item in reply.get("data") or [] if isinstance(item, dict)}
        if model is None:
            if len(known) != 1:
                names = ", ".join(list(known)[:8]) or "none"
                raise IntrospectionError(f"{self.shown} has {len(known)} models ({names}): name one with --model")
            model = next(iter(known))
        window = known.get(model, {}).get("max_model_len")
        return model, float(window) if isinstance(window, int) else math.inf

    def _post(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        reply = self._request("POST", "/completions", {"model": self.model, **self._extras, **body})
        used = (reply.get("usage") or {}).get("total_tokens")
        self.tokens += used if isinstance(used, int) else 0
        return reply

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """One request, tried again while the server is busy, restarting or out of reach."""
        pause, reason = self._first_wait_s, ""
        for attempt in range(ATTEMPTS):
            if attempt and self._stopping.wait(pause * random.uniform(0.75, 1.25)):
                break
            pause = min(2 * pause, _LONGEST_WAIT_S)
            try:
                response = self._client.request(method, self._base + path, json=body)
            except self._request_error as error:
                reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                continue
            if response.is_success:
                return _json_object(response, self.shown)
            reason = f"HTTP {response.status_code}: {self._without_key(_message(response))}"
            if response.status_code not in _TRANSIENT:
                raise _refusal(response.status_code, reason, self.shown)
            pause = max(pause, min(_retry_after(response), _LONGEST_WAIT_S))
        raise IntrospectionError(f"{self.shown} did not answer in {ATTEMPTS} attempts ({reason}): is the server up?")

    def _without_key(self, text: str) -> str:
        """Servers like to quote the key that they refuse."""
        return text.replace(self._key, "***") if self._key else text

    def _map(
        self, ask: Callable[[In], Out], items: Sequence[In], done: Callable[[In], None] | None = None
    ) -> list[Out]:
        """``ask`` for each item, several at once; the first failure ends it, and what waits is not asked any more."""
        self._stopping.clear()
        results: dict[int, Out] = {}
        waiting = iter(enumerate(items))
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="iprobe-endpoint") as pool:
            running: dict[Future[Out], int] = {}

            def start(some: Iterable[tuple[int, In]]) -> None:
                for index, item in some:
                    running[pool.submit(ask, item)] = index

            try:
                start(islice(waiting, 2 * self._concurrency))
                while running:
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        index = running.pop(future)
                        results[index] = future.result()
                        if done is not None:
                            done(items[index])
                    start(islice(waiting, len(finished)))
            except BaseException:
                self._stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [results[index] for index in range(len(items))]


class _RefusedError(IntrospectionError):
    """The server understood the request and will not have it: asking again does not help."""

    def __init__(self, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def _base_url(url: str) -> tuple[str, str]:
    """The URL that paths are put after, and how messages name it: without what may be a password."""
    no_endpoint = f"{url!r} is no endpoint: give one like http://localhost:8000/v1"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError as error:  # a port that is no number, half an IPv6 address
        raise IntrospectionError(no_endpoint) from error
    if not usable:
        raise IntrospectionError(no_endpoint)
    path = parts.path.rstrip("/").removesuffix("/completions")
    base = f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else path + '/v1'}"
    return base, f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _refusal(status: int, reason: str, shown: str) -> IntrospectionError:
    if status in (401, 403):
        return IntrospectionError(
            f"{shown} refuses the key ({reason}): set IPROBE_API_KEY (or OPENAI_API_KEY) in the environment"
        )
    if status == 404:
        return IntrospectionError(f"{shown} has no such model or no completions ({reason}): see {shown}/v1/models")
    return _RefusedError(f"{shown} refuses the request ({reason})", reason)


def _message(response: Any) -> str:
    """What the server says is wrong, short enough for a sentence."""
    try:
        content = response.json()
    except ValueError:
        content = response.text
    error = content.get("error", content) if isinstance(content, dict) else content
    text = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(text).split())[:300] or "no reason given"


def _retry_after(response: Any) -> float:
    try:
        return max(float(response.headers.get("retry-after", 0)), 0.0)
    except ValueError:  # a date: the usual pause will do
        return 0.0


def _json_object(response: Any, shown: str) -> Mapping[str, Any]:
    try:
        content = response.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise IntrospectionError(f"{shown} did not answer with JSON: is it an OpenAI-compatible server?")
    return content


def _choices(reply: Mapping[str, Any], expected: int, shown: str) -> list[Mapping[str, Any]]:
    """One choice for each prompt, in the prompts' order."""
    choices = reply.get("choices")
    if isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices):
        by_index = {choice.get("index", place): choice for place, choice in enumerate(choices)}
        if by_index.keys() == set(range(expected)):
            return [by_index[index] for index in range(expected)]
    raise IntrospectionError(f"{shown} did not give one completion for each of {expected} prompts")


def _completion(choice: Mapping[str, Any], shown: str) -> Completion:
    text = choice.get("text")
    if not isinstance(text, str):
        raise IntrospectionError(f"{shown} gave a completion without text: is it an OpenAI-compatible server?")
    tops = (choice.get("logprobs") or {}).get("top_logprobs") or [{}]
    first = tops[0] if isinstance(tops[0], dict) else {}
    return Completion(text, {str(token): float(value) for token, value in first.items() if value is not None})
