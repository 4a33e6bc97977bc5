"""An HTTP proxy in front of a real S3 server that does to chosen requests what networks and object stores do at times.

    with FaultyProxy(upstream_port, seed=1) as proxy:
        proxy.faults = [Fault(answer(503, "SlowDown"), methods="GET", keys="*/archive/*", count=5)]

Requests pass unchanged, `Host` included: it is what clients signed, so signatures hold behind the proxy. It is a
process of its own: some calls of delta-rs keep the interpreter to themselves, and would wait for its thread for ever.
"""

import contextlib
import http.client
import pickle
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection"}


@dataclass
class Exchange:
    """One request on its way, and what can be done with it."""

    client: "_Client"
    method: str
    key: str
    body: bytes

    def forward(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """Ask the server: status, headers, body."""
        return self.client.ask_server(self.method, self.body)

    def reply(self, status: int, headers: Sequence[tuple[str, str]], body: bytes, *, length: int | None = None) -> None:
        """Answer the client; `length`: what is announced where that is not what comes."""
        self.client.tell(status, headers, body, length=length)

    def pass_on(self) -> None:
        self.reply(*self.forward())

    def reset(self) -> None:
        """End the connection as a crashed load balancer does: with RST."""
        self.client.reset()


Act = Callable[[Exchange], None]


def answer(status: int, code: str) -> Act:
    """An error of the object store, without asking it."""
    return partial(_answer, status, code)


def _answer(status: int, code: str, exchange: Exchange) -> None:
    told = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>planted: {code}</Message></Error>'.encode()
    exchange.reply(status, [("Content-Type", "application/xml")], b"" if exchange.method == "HEAD" else told)


def reset(exchange: Exchange) -> None:
    """The connection breaks before the server sees the request."""
    exchange.reset()


def lose_answer(exchange: Exchange) -> None:
    """The server does what it is asked, and the client never hears of it."""
    exchange.forward()
    exchange.reset()


def cut_off(exchange: Exchange) -> None:
    """Half of the announced body comes, then the connection ends."""
    status, headers, body = exchange.forward()
    exchange.reply(status, headers, body[: len(body) // 2], length=len(body))
    exchange.reset()


def delay(seconds: float) -> Act:
    return partial(_delay, seconds)


def _delay(seconds: float, exchange: Exchange) -> None:
    time.sleep(seconds)
    exchange.pass_on()


def replaced(data: bytes | None) -> Act:
    """The object that is asked for is replaced, or (None) deleted, just before the request arrives."""
    return partial(_replaced, data)


def _replaced(data: bytes | None, exchange: Exchange) -> None:
    import s3fs

    server = f"http://127.0.0.1:{exchange.client.server.proxy.upstream_port}"
    storage = s3fs.S3FileSystem(endpoint_url=server, use_listings_cache=False)
    if data is None:
        storage.rm_file(exchange.key)
    else:
        storage.pipe_file(exchange.key, data)
    exchange.pass_on()


@dataclass
class Fault:
    """What is done to which requests: the `skip`-th to `skip + count`-th that match, or a random share of those.

    `keys` is a glob of `bucket/key`, `query` a part of the query.
    """

    act: Act
    methods: str = "*"
    keys: str = "*"
    query: str = ""
    skip: int = 0
    count: int | None = 1
    share: float = 1.0
    seen: int = field(default=0, init=False)
    done: int = field(default=0, init=False)

    def meets(self, method: str, key: str, query: str, chance: random.Random) -> bool:
        if not (fnmatchcase(method, self.methods) and fnmatchcase(key, self.keys) and self.query in query):
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.count is not None and self.done >= self.count):
            return False
        if self.share < 1 and chance.random() >= self.share:
            return False
        self.done += 1
        return True


class FaultyProxy:
    """Listens on 127.0.0.1 as long as the context lasts. `faults` may change at any time; the first that fits acts."""

    def __init__(self, upstream_port: int, *, seed: int = 0) -> None:
        command = f"import proxy; proxy.serve({upstream_port}, {seed})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", command], cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.url: str = self._ask(None)["url"]

    def __enter__(self) -> "FaultyProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def faults(self) -> list[Fault]:
        """As they are now: `done` says how often each has acted."""
        found: list[Fault] = self._ask(None)["faults"]
        return found

    @faults.setter
    def faults(self, faults: list[Fault]) -> None:
        self._ask(faults)

    @property
    def requests(self) -> int:
        return int(self._ask(None)["requests"])

    def _ask(self, faults: list[Fault] | None) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump(faults, self._process.stdin)
        self._process.stdin.flush()
        found: dict[str, Any] = pickle.load(self._process.stdout)  # what our own process says
        return found


def serve(upstream_port: int, seed: int) -> None:
    """The process of a `FaultyProxy`: takes new faults (or None) from its input, answers how things stand."""
    state = _State(upstream_port, seed)
    server = _Server(("127.0.0.1", 0), _Client)
    server.proxy = state
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    with contextlib.suppress(EOFError):
        while True:
            faults = pickle.load(sys.stdin.buffer)
            with state.lock:
                state.faults = state.faults if faults is None else faults
                told = {"url": url, "faults": state.faults, "requests": state.requests}
                pickle.dump(told, sys.stdout.buffer)
            sys.stdout.buffer.flush()


class _State:
    def __init__(self, upstream_port: int, seed: int) -> None:
        self.faults: list[Fault] = []
        self.requests = 0
        self.lock = threading.Lock()
        self.upstream_port, self._chance = upstream_port, random.Random(seed)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.upstream_port, timeout=120)

    def chosen(self, method: str, key: str, query: str) -> Act:
        """What becomes of a request."""
        with self.lock:
            self.requests += 1
            for fault in self.faults:
                if fault.meets(method, key, query, self._chance):
                    return fault.act
        return Exchange.pass_on


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    proxy: _State

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are none of ours."""


class _Client(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    _upstream: http.client.HTTPConnection | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        place = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = unquote(place.path).lstrip("/")
        act = self.server.proxy.chosen(self.command, key, place.query)
        act(Exchange(self, self.command, key, body))

    def ask_server(self, method: str, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        for attempt in range(2):  # the server may have closed a connection that was idle
            fresh = self._upstream is None
            self._upstream = self._upstream or self.server.proxy.connect()
            try:
                self._upstream.putrequest(method, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in _HOP_BY_HOP:
                        self._upstream.putheader(name, value)
                self._upstream.endheaders(body or None)
                got = self._upstream.getresponse()
                return got.status, got.getheaders(), got.read()
            except (OSError, http.client.HTTPException):
                self._upstream.close()
                self._upstream = None
                if fresh or attempt:
                    raise
        raise AssertionError("the second try returns or raises")

    def tell(self, status: int, headers: Sequence[tuple[str, str]], body: bytes, *, length: int | None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP and (name.lower() != "content-length" or self.command == "HEAD"):
                self.send_header(name, value)
        if self.command != "HEAD" and status not in (204, 304):
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
        with contextlib.suppress(OSError):  # the client is gone, or we reset it
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests read what the job says."""
