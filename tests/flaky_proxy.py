"""An HTTP proxy before a storage server that spoils one request in N, in one of five ways.

Run as a process of its own: `python flaky_proxy.py UPSTREAM_PORT --one-in 10 --seed 0`. Prints its
port, and at the end of its life (a newline on stdin) the counts as JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("503", "500 after it was done", "dropped", "dropped after it was done", "cut short")


class Faults:
    """Which requests fail: one of every `one_in` that follow each other, drawn by seed."""

    def __init__(self, one_in: int, seed: int, status: str | None) -> None:
        self._one_in, self._random, self._lock = one_in, random.Random(seed), threading.Lock()
        self._number, self._chosen = 0, 0
        self.status = status
        self.counts: Counter[str] = Counter()

    def next(self, method: str) -> str | None:
        with self._lock:
            self.counts[method] += 1
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

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.faults.next(self.command)
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
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.readline()
    print(json.dumps(Handler.faults.counts), flush=True)


if __name__ == "__main__":
    main()
