"""An OpenAI-style server on loopback that answers quickly, keeps count, and forgets what it was sent.

Unlike misbehaving_server.py it keeps no request, so that many thousands may be sent, and it can run in a process of its
own, so that a measured command does not share its interpreter with it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What a model wrote. `round` is what it was asked for, under which the request is counted."""

    text: str
    finish: str = "stop"
    refusal: str | None = None
    round: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class Counts:
    """What the server was asked: requests by round, the most at once, the seconds of its clock from the first to the
    last of them, and how many it had answered before."""

    url: str = ""
    requests: Counter[str] = field(default_factory=Counter)
    tokens_in: int = 0
    tokens_out: int = 0
    most_at_once: int = 0
    first: float = 0.0
    last: float = 0.0
    repeated: int = 0
    answered: set[int] = field(default_factory=set)

    @property
    def total(self) -> int:
        return sum(self.requests.values())


class _Server:
    def __init__(self, answer: Callable[[Mapping[str, Any]], Reply], latency: float, counts: Counts) -> None:
        self.answer, self.latency, self.counts, self.busy = answer, latency, counts, 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                reply = self._counts(first) if first.startswith("GET") else await self._reply(body)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                writer.write(f"Content-Length: {len(reply)}\r\n\r\n".encode() + reply)
                await writer.drain()
        writer.close()

    async def _reply(self, body: bytes) -> bytes:
        loop, counts = asyncio.get_running_loop(), self.counts
        due = loop.time() + self.latency
        counts.first = counts.first or loop.time()
        self.busy += 1
        counts.most_at_once = max(counts.most_at_once, self.busy)
        digest = hash(body)  # of one process alone, which is all that it is compared in
        said = self.answer(json.loads(body))
        try:
            await asyncio.sleep(due - loop.time())
        finally:
            self.busy -= 1
        counts.requests[said.round] += 1
        counts.repeated += digest in counts.answered
        counts.answered.add(digest)
        counts.tokens_in += said.prompt_tokens
        counts.tokens_out += said.completion_tokens
        counts.last = loop.time()
        message = {"role": "assistant", "content": said.text, "refusal": said.refusal}
        usage = {"prompt_tokens": said.prompt_tokens, "completion_tokens": said.completion_tokens}
        choice = {"index": 0, "message": message, "finish_reason": said.finish}
        return json.dumps({"choices": [choice], "usage": usage}).encode()

    def _counts(self, line: str) -> bytes:
        """The counts as JSON; those of `/forget` begin again from nothing behind it."""
        counts = self.counts
        kept = ("requests", "tokens_in", "tokens_out", "most_at_once", "first", "last", "repeated")
        found = json.dumps({**{name: getattr(counts, name) for name in kept}, "total": counts.total}).encode()
        if "/forget" in line:
            for name, value in vars(Counts(counts.url)).items():
                setattr(counts, name, value)
        return found


def counts_at(url: str, forget: bool = False) -> dict[str, Any]:
    """The counts of a server in another process."""
    with urllib.request.urlopen(f"{url}/forget" if forget else url) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


@contextmanager
def answering(answer: Callable[[Mapping[str, Any]], Reply], latency: float = 0.0) -> Iterator[Counts]:
    """A server that replies with `answer(body of the request)`, `latency` seconds after each request came.

    GET gives its counts as JSON, of /forget for the last time.
    """
    counts, loop, started = Counts(), asyncio.new_event_loop(), threading.Event()
    stop = asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(
            _Server(answer, latency, counts).connection, "127.0.0.1", 0, limit=2**24, backlog=1024
        )
        counts.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        started.set()
        await stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert started.wait(30)
        yield counts
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def _in_the_same_words(body: Mapping[str, Any]) -> Reply:
    """As a model that looks at nothing; what is asked for shows in the number of pictures and the names in it."""
    parts = body["messages"][0]["content"]
    pictures = sum(part["type"] == "image_url" for part in parts)
    question = str(parts[-1]["text"])
    if pictures == 1 and "yes or no" not in question:
        return Reply("The gripper is open. The cup stands on the table.", round="describe")
    if pictures == 1:
        return Reply("yes", round="confirm")
    return Reply("closer to completion: img2", round="judge" if pictures else "blind")


if __name__ == "__main__":
    with answering(_in_the_same_words, float(sys.argv[1])) as served:
        print(served.url, flush=True)
        sys.stdin.read()  # until the process that started it closes the pipe
