"""One question to an OpenAI-compatible endpoint over HTTP: deadline, retries with back-off, sizes.

Only the standard library; a connection per request, redirects are not followed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from manifests.errors import ConfigError, EgodojoError, SampleError

MAX_ANSWER_BYTES = 1 << 20
MAX_WAIT_S = 60.0
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_OUR_FAULT = {401, 403, 404, 405}


class PassingError(Exception):
    """A failure that may be gone next time."""

    def __init__(self, why: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to ask and how patiently."""

    url: str
    """Base URL as for OpenAI clients, with or without `/v1`."""
    api_key: str | None
    timeout_s: float
    """For one request as a whole, also when the server sends a byte now and then."""
    attempts: int
    backoff_s: float
    """Wait before the second attempt; doubles each time, with jitter."""

    def __post_init__(self) -> None:
        """Check the URL before any work."""
        try:
            parts = urlsplit(self.url)
            is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number, a bracket that is not closed
            is_url = False
        if not is_url or any(sign.isspace() for sign in self.url):
            raise ConfigError(
                f"endpoint is {self.url!r}, must be a URL such as http://localhost:8000/v1."
            )
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ConfigError("The key holds signs that no HTTP header takes, perhaps a line end.")

    def ask(
        self,
        body: Mapping[str, Any],
        *,
        check: Callable[[dict[str, Any]], Any],
        may_ask: Callable[[], bool] = lambda: True,
        sleep: Callable[[float], Any] = time.sleep,
    ) -> Any:
        """Post a chat completion and return what `check` makes of the answer.

        Args:
            body: The request.
            check: Turns the answer into a result; PassingError asks again.
            may_ask: Looked at before each attempt after the first; False ends the asking.
            sleep: Waits.

        Raises:
            SampleError: `no_answer`: every attempt failed; `refused`: the server does not take
                this request.
            EgodojoError: Nothing at this endpoint can work: wrong key, path or model.
        """
        data = json.dumps(body).encode()
        why = ""
        for attempt in range(self.attempts):
            try:
                return check(self._post(data))
            except PassingError as error:
                why = str(error)
                if attempt + 1 == self.attempts or not may_ask():
                    break
                sleep(self._wait_s(attempt, error.retry_after_s))
        raise SampleError(f"no usable answer: {why}", reason="no_answer")

    def _wait_s(self, attempt: int, retry_after_s: float | None) -> float:
        wait_s: float = self.backoff_s * 2.0**attempt * random.uniform(0.5, 1.5)
        return min(MAX_WAIT_S, max(wait_s, retry_after_s or 0.0))

    def _post(self, data: bytes) -> dict[str, Any]:
        connection = self._connection()
        is_late = threading.Event()
        timer: threading.Timer | None = None
        try:
            connection.connect()
            timer = threading.Timer(self.timeout_s, _hang_up, (connection.sock, is_late))
            timer.start()
            connection.request("POST", self._path(), body=data, headers=self._headers())
            response = connection.getresponse()
            text = _read(response)
            if is_late.is_set():  # a body without a length ends where we hung up
                raise TimeoutError
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            if is_late.is_set() or isinstance(error, TimeoutError):
                raise PassingError(f"no answer within {self.timeout_s:g} s") from error
            raise PassingError(f"{type(error).__name__}: {error}") from error
        finally:
            if timer is not None:
                timer.cancel()
            connection.close()
        if response.status != 200:
            raise self._refusal(response, text)
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PassingError(f"the answer is not JSON: {_start(text)!r}") from error
        if not isinstance(answer, dict):
            raise PassingError(f"the answer is no JSON object: {_start(text)!r}")
        return answer

    def _refusal(self, response: http.client.HTTPResponse, text: bytes) -> Exception:
        """What a status other than 200 means: try again, give this clip up, or stop altogether."""
        why = f"HTTP {response.status} {response.reason}: {_start(text)!r}"
        if response.status in _PASSING:
            return PassingError(why, retry_after_s=_seconds(response.getheader("Retry-After")))
        if response.status in _OUR_FAULT or 300 <= response.status < 400:
            return EgodojoError(
                f"The endpoint {self.url} refuses every request: {why}",
                hint="Check endpoint, model and api_key_env.",
            )
        return SampleError(f"the endpoint refused the request: {why}", reason="refused")

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        if parts.scheme == "https":
            return http.client.HTTPSConnection(
                parts.hostname,
                parts.port,
                timeout=self.timeout_s,
                context=ssl.create_default_context(),
            )
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=self.timeout_s)

    def _path(self) -> str:
        """With the URL's own query, by which some services choose a version of their interface."""
        parts = urlsplit(self.url)
        path = f"{parts.path.rstrip('/') or '/v1'}/chat/completions"
        return f"{path}?{parts.query}" if parts.query else path

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers


def _hang_up(sock: socket.socket, is_late: threading.Event) -> None:
    """End a request at its deadline: a socket's own timeout starts anew with every byte."""
    is_late.set()
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _read(response: http.client.HTTPResponse) -> bytes:
    """The whole body.

    Raises:
        PassingError: It is too long.
        HTTPException: It broke off.
    """
    found = response.read(MAX_ANSWER_BYTES + 1)
    if len(found) > MAX_ANSWER_BYTES:
        raise PassingError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
    if response.length:
        raise http.client.IncompleteRead(found, response.length)
    return found


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header is not None else None
    except ValueError:  # a date; our own back-off is long enough
        return None


def _start(text: bytes) -> str:
    return " ".join(text[:200].decode("utf-8", "replace").split())
