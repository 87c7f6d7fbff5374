"""An OpenAI-compatible endpoint on localhost that can be slow, fail and lie, by a script."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = {
    "task": "Fold a  towel.",
    "scene": "Kitchen",
    "objects": ["Towel", "towel"],
    "skill": "fold",
}

Answer = Callable[["Handler"], None]


class VisionServer(ThreadingHTTPServer):
    """Answers from a script, then well; remembers what was asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.script: list[Answer] = []
        self.always: Answer = say(GOOD)
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.num_now = self.num_most = 0
        self.delay_s = 0.0
        self.paths: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: VisionServer

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.times.append(time.monotonic())
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.paths[self.path] += 1
            server.num_now += 1
            server.num_most = max(server.num_most, server.num_now)
            answer = server.script.pop(0) if server.script else server.always
        time.sleep(server.delay_s)
        with server.lock:  # before the answer: after it the client may already ask again
            server.num_now -= 1
        answer(self)

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Stay silent."""


def say(content: object, *, usage: object = None, finish: str = "stop") -> Answer:
    """A chat completion with this content: text as it is, anything else as JSON."""
    text = content if isinstance(content, str) or content is None else json.dumps(content)
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    answer: dict[str, Any] = {"choices": [choice], "usage": usage or {"total_tokens": 100}}
    return raw(json.dumps(answer).encode())


def raw(body: bytes, status: int = 200, **headers: str) -> Answer:
    """Exactly these bytes."""
    return lambda handler: handler.send(status, body, **headers)


def broken_off(handler: Handler) -> None:
    """Less than the header promised."""
    handler.send(200, b'{"choices": [', Content_Length="500")


def hung_up(handler: Handler) -> None:
    """No answer at all."""
    handler.close_connection = True


def dripping(handler: Handler) -> None:
    """A byte now and then, for ever: every single read is quick."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)
