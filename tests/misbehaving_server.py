"""An OpenAI-style server on loopback that does what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What is sent back. `cut`: the connection is closed after half of the body; `held`: what it waits for, and
    `after`: the seconds then, before any of it."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    held: threading.Event | None = None
    after: float = 0.0


def answer(text: Any, finish: str | None = None, beside: Mapping[str, Any] | None = None, **more: Any) -> Reply:
    """A whole reply in OpenAI's format, of 100 prompt and 7 completion tokens.

    `finish` is its finish_reason, and `beside` what else its message holds.
    """
    usage = {"prompt_tokens": 100, "completion_tokens": 7}
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **(beside or {})}}
    choice |= {"finish_reason": finish} if finish else {}
    return Reply(body=json.dumps({"choices": [choice], "usage": usage}).encode(), **more)


@dataclass
class Desk:
    """What the server was asked: `bodies` and `headers` (names in lower case) by arrival, and the most at once."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    tries: Counter[str] = field(default_factory=Counter)
    most: int = 0
    busy: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


def question(body: Mapping[str, Any]) -> str:
    """The question of a request: the last part of its message, or the first one where a picture is last."""
    parts = body["messages"][0]["content"]
    return str(parts[-1].get("text") or parts[0]["text"]).strip()


@contextmanager
def serving(script: Callable[[str, int], Reply]) -> Iterator[Desk]:
    """A server that replies to the n-th try (from 1) of a question with `script(question, n)`."""
    desk = Desk()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = question(body)
            with desk.lock:
                desk.bodies.append(body)
                desk.headers.append({name.lower(): value for name, value in self.headers.items()})
                desk.times.append(time.monotonic())
                desk.tries[asked] += 1
                desk.busy += 1
                desk.most = max(desk.most, desk.busy)
                reply = script(asked, desk.tries[asked])
            if reply.held is not None:
                reply.held.wait(30)
            time.sleep(reply.after)
            with desk.lock:
                desk.busy -= 1
                desk.answered[asked] += 1
            try:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body[: len(reply.body) // 2] if reply.cut else reply.body)
            except OSError:  # the client has long gone
                self.close_connection = True
            self.close_connection |= reply.cut

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    desk.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield desk
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Pipe:
    """A server that sends bytes to whoever connects, whatever is asked; `sent` counts them."""

    url: str = ""
    sent: int = 0


@contextmanager
def pouring(parts: Callable[[], Iterable[bytes]]) -> Iterator[Pipe]:
    """A server whose every connection gets `parts`(), until they end or the client has gone."""
    pipe, listener = Pipe(), socket.create_server(("127.0.0.1", 0))
    pipe.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: the test is over
                return
            with connection, suppress(OSError):
                for part in parts():
                    connection.sendall(part)
                    pipe.sent += len(part)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # unread requests would make the close a reset
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield pipe
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
