"""An HTTP proxy before a storage server that spoils one request in N, or chosen ones.

Run as a process of its own: `python flaky_proxy.py UPSTREAM_PORT --one-in 10 --seed 0`. Prints its
port, and at the end of its life (an empty line on stdin) the counts as JSON. Any other line is JSON
such as `{"methods": ["PUT"], "faults": {"7": "held"}}`: from now on the seventh request of these
methods fails so; it is answered with how many there were since the line before.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("503", "500 after it was done", "dropped", "dropped after it was done", "cut short")
HELD = "held"
"""Dropped, and done only when the next request that changes something comes: an answer that is
lost on the way there, so that whoever looks whether it was done does not find it yet."""


class Faults:
    """Which requests fail: one of every `one_in` that follow each other, drawn by seed; or those
    that were chosen by their number."""

    def __init__(self, one_in: int, seed: int, status: str | None) -> None:
        self._methods: tuple[str, ...] = ()
        self._places: dict[int, str] = {}
        self._one_in, self._random, self._lock = one_in, random.Random(seed), threading.Lock()
        self._number, self._chosen = 0, 0
        self.status = status
        self.counts: Counter[str] = Counter()

    def choose(self, methods: tuple[str, ...], places: dict[int, str]) -> int:
        """Begin to count anew; how many there were."""
        with self._lock:
            num_seen, self._number = self._number, 0
            self._methods, self._places = methods, places
            return num_seen

    def next(self, method: str) -> str | None:
        with self._lock:
            self.counts[method] += 1
            if self._methods:
                self._number += method in self._methods
                return self._places.get(self._number) if method in self._methods else None
            if self.status is not None:
                return "status"
            if not self._one_in:
                return None
            place = self._number % self._one_in
            if place == 0:
                self._chosen = self._random.randrange(self._one_in)
            self._number += 1
            if place != self._chosen:
                return None
            fault = self._random.choice(FAULTS)
            self.counts[fault] += 1
            return fault


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: int
    faults: Faults
    held: list[Callable[[], object]]

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.faults.next(self.command)
        while self.held and self.command not in ("GET", "HEAD"):
            self.held.pop()()
        if fault == HELD:
            self.held.append(partial(self.forward, body))
            return self.drop()
        if fault == "status":
            code, _, name = str(self.faults.status).partition(" ")
            return self.answer(int(code), f"<Error><Code>{name}</Code></Error>".encode())
        if fault == "503":
            return self.answer(503, b"<Error><Code>SlowDown</Code></Error>")
        if fault == "dropped":
            return self.drop()
        status, headers, data = self.forward(body)
        if fault == "500 after it was done":
            return self.answer(500, b"<Error><Code>InternalError</Code></Error>")
        if fault == "dropped after it was done":
            return self.drop()
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = len(data)
        if self.command == "HEAD":
            length = int(dict(headers).get("Content-Length", 0))
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault == "cut short" and data:
            self.wfile.write(data[: len(data) // 2])
            return self.drop()
        return self.write(data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

    def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def answer(self, status: int, data: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.write(data)

    def write(self, data: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(data)

    def drop(self) -> None:
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("upstream", type=int)
    parser.add_argument("--one-in", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--status", help="answer everything so: '403 InvalidAccessKeyId'")
    args = parser.parse_args()
    Handler.upstream = args.upstream
    Handler.faults = Faults(args.one_in, args.seed, args.status)
    Handler.held = []
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    while line := sys.stdin.readline().strip():
        wanted = json.loads(line)
        places = {int(place): fault for place, fault in wanted["faults"].items()}
        print(Handler.faults.choose(tuple(wanted["methods"]), places), flush=True)
    print(json.dumps(Handler.faults.counts), flush=True)


if __name__ == "__main__":
    main()
