"""Prompts -> responses of a model behind any OpenAI-compatible server (`POST URL/chat/completions`).

Format of requests and replies: OpenAI's API reference, "Create chat completion"; of Retry-After: RFC 9110, 10.2.3.
The `openai` client sends requests; when they are sent is decided here, since its own retries neither count for
requests_per_minute nor hold the other requests after Retry-After, and do not repeat a reply without an answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stcr_plugin import artefacts
from stcr_plugin.engines.picture_loading import Pictures
from stcr_plugin.engines.picture_urls import DataUrls
from stcr_plugin.engines.prompts import content, generates
from stcr_plugin.engines.sealed import named
from stcr_plugin.engines.server_connection import ReplyError, connect
from stcr_plugin.engines.server_replies import ServerReply, read_reply, refused, retry_after, short, words
from stcr_plugin.engines.server_scores import CONTINUED, NEXT_TOKEN, compared, shared_start
from stcr_plugin.engines.server_settings import ServerSettings, key_for
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, ServerError
from stcr_plugin.types import Prompt, Response, Shown

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_RETRIED = frozenset({408, 409, 429})  # and all of 500 and above
_LONGEST_BACK_OFF, _LONGEST_HOLD = 60.0, 600.0  # seconds
_JITTER = random.Random()  # its own, so that it does not change what a run's seed draws
_SAMPLE = Prompt("", "", "", (Shown(""), Shown("")), ("img1", "img2"), "?")
_FIRST = 20  # replies; a run stops where all of them are without an answer, or where as many prompts in a row fail
_POLL, _LOOK = 0.02, 0.25  # seconds until a call looks again whether another one left it a place, or has ended all
_PREPARED = 4  # requests whose pictures are loaded while others are under way
_REASONED = "<think></think>"  # the text of a reply that holds nothing but a reasoning, where its reader must know
_FILTERS = (400, 403, 422, 451)  # by which servers say that a content filter refused
_CHECK_KEY = "check the key in the variable {key_env!r}"
_REFUSED_REQUEST = "change what the server names, such as the size of the pictures or the settings of the engine"
_FIXES = {
    400: _REFUSED_REQUEST,
    422: _REFUSED_REQUEST,
    401: _CHECK_KEY,
    403: _CHECK_KEY,
    **dict.fromkeys((301, 302, 307, 308), "set the url to the address that this one leads to; it is not followed"),
    404: "check that the url ends as it should, such as in /v1, and that there is such a model",
}
_NOT_CONTINUED = (
    "leave out `engine.logprobs`, so that answers are generated, if the server cannot continue a begun answer; else "
    f"{_REFUSED_REQUEST}"
)
_STOPS = frozenset({301, 302, 307, 308, 401, 402, 403, 404, 405})  # each prompt would meet the same


class _PromptError(ServerError):
    """A prompt without a reply, where other prompts may have one."""


class StoppedError(ServerError):
    """A call that ended early since another one failed, or the run was interrupted."""


class ServerEngine:
    """The model behind an OpenAI-compatible server. Pictures below `registry` are sent as PNG, sized by `ask`.

    Responses are generated and parsed. With `logprobs` answers are compared instead, see server_scores.py, and a
    response may be begun for the model. Only the first choice of a reply counts. A reply after the time-out is not
    used, and the prompt is sent again. Prompts that begin with the same picture are sent one after another, for
    servers that keep what they computed of a prompt's start.

    Attributes:
        goes_on: Whether a prompt without a reply gives a response that is lost as "failed", where otherwise the run
            stops. It still stops where no prompt can have a reply, and after _FIRST failed ones in a row.
        traffic: What it shares with other calls and engines that use the server at the same time.

    Raises:
        ConfigError: For a missing or malformed key.
    """

    def __init__(self, registry: Path, ask: AskSettings, server: ServerSettings) -> None:
        self.ask, self.server = ask, server
        self.goes_on = False
        self.traffic = Traffic(server)
        self._pictures = DataUrls(Pictures(Path(registry), ask))
        self._key = key_for(server)

    def identity(self) -> Mapping[str, Any]:
        sample = replace(_SAMPLE, reasons=self.ask.mode == "cot")
        return {
            "engine": "server",
            "url": self.server.url,
            "model": self.server.model,
            # Not a digest of our code: responses that were paid for are used until another request would be sent.
            "request_digest": artefacts.digest(
                {**self._body(sample, ["img1", "img2"]), **(self.server.extra_body or {})}
            ),
        }

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """As `Priced.cost`."""
        if self.server.price_in is None or self.server.price_out is None:
            return None
        return (prompt_tokens * self.server.price_in + completion_tokens * self.server.price_out) / 1e6

    def respond(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        """As `Engine.respond`. Raises ServerError for a prompt without a response, after all other responses."""
        from stcr_plugin.progress_bar import progress

        for prompt in prompts:
            self._refuse(prompt)
        # The loop runs only while the next response is awaited, so the caller's code need not be asynchronous.
        with (
            asyncio.Runner() as runner,
            progress(len(prompts), "server: answering", "queries", shown=not self.goes_on) as bar,
        ):
            responses = self._responses(prompts)
            while (found := runner.run(_next(responses))) is not None:
                yield found
                bar.update()

    def _refuse(self, prompt: Prompt) -> None:
        if (prompt.begin or not generates(prompt, self.ask)) and not self.server.logprobs:
            what = "continue a response that is begun for it" if prompt.begin else "compare answers"
            fix = "set `engine.logprobs: true` for a server that gives log-probabilities, as vLLM and SGLang do, or "
            fix += "use --engine local" if prompt.begin else "set `generate: true` (--generate)"
            raise ConfigError(named(prompt), f"a server may not be able to {what}", fix)

    async def _responses(self, prompts: Sequence[Prompt]) -> AsyncIterator[tuple[int, Response]]:
        """Each response as it comes. After the first failure no request is started; those under way are awaited."""
        traffic, waiting = self.traffic, deque(_by_first_picture(prompts))
        tasks: dict[asyncio.Task[ServerReply], int] = {}
        failed: BaseException | None = None
        hopeless: ServerError | None = None
        tally, first = (traffic.tally, _FIRST) if self.goes_on else (_Tally(), min(_FIRST, max(len(prompts), 2)))
        async with connect(self.server, self._key) as client:
            call = _Call(client)
            try:
                while True:
                    if traffic.ended and failed is None:
                        failed = StoppedError(self.server.url, "the run was stopped")
                        call.stop.set()
                    if traffic.ended == "now":
                        break
                    while failed is None and waiting and len(tasks) < self.server.concurrency + _PREPARED:
                        number = waiting.popleft()
                        tasks[asyncio.create_task(self._response(call, prompts[number]))] = number
                    if not tasks:
                        break
                    done, _ = await asyncio.wait(tasks, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        number = tasks.pop(task)
                        error = task.exception()
                        if isinstance(error, _PromptError) and self._skips(error, tally):
                            yield number, Response("", lost="failed")
                        elif error is None:
                            tally.add(task.result(), cut_counts=self.goes_on)
                            yield number, task.result().response
                            if failed is None and tally.hopeless(first):
                                failed = hopeless = self._silent(tally)
                                call.stop.set()
                        elif failed is None and not isinstance(error, StoppedError):
                            failed = error
                            call.stop.set()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(failed, ServerError) and failed is not hopeless and not isinstance(failed, StoppedError):
            again = f"run the same command again to continue ({tally.replies} responses of this run are kept)"
            raise ServerError(failed.where, failed.problem, ", then ".join(filter(None, (failed.fix, again))))
        if failed is not None:
            raise failed
        if tally.silent and not self.goes_on:
            logging.getLogger(__name__).warning("%s (they count as unparsed)", self._silent(tally))

    def _skips(self, error: _PromptError, tally: _Tally) -> bool:
        """Whether the run goes on without a reply to this prompt."""
        tally.failed_in_a_row += 1
        if not self.goes_on or tally.failed_in_a_row >= _FIRST:
            return False
        logging.getLogger(__name__).info("%s", error)
        return True

    def _silent(self, tally: _Tally) -> ServerError:
        """What is wrong with replies without an answer, and what helps."""
        of = f"{tally.silent} of {tally.replies} replies hold no answer"
        causes = {
            "carried a reasoning": tally.reasoned,
            f"were cut at {self.ask.max_new_tokens} tokens": tally.cut,
            "were refused by a content filter": tally.refused,
        }
        known = ", ".join(f"{count} {cause}" for cause, count in causes.items() if count)
        fixes = []
        if tally.cut or tally.reasoned:
            fixes.append(
                "raise max_new_tokens (--set max_new_tokens=4096), or turn the model's thinking off, for many by --set "
                "'engine.extra_body={chat_template_kwargs: {enable_thinking: false}}'"
            )
        if tally.refused:
            fixes.append("use a model or a server without that content filter")
        where = f"{self.server.url} (model {self.server.model})"
        return ServerError(where, f"{of}: {known}" if known else of, "; ".join(fixes))

    async def _response(self, call: _Call, prompt: Prompt) -> ServerReply:
        """The reply, of which a content filter may have refused the prompt.

        Raises ServerError where no try brought a reply, or where the server refuses the request.
        """
        urls = self._pictures.kept(prompt)
        loading = asyncio.ensure_future(asyncio.to_thread(self._pictures.urls, prompt)) if urls is None else None
        async with call.place(self.traffic, loading):
            try:
                shown, where = loading.result() if loading else urls or [], named(prompt)
                if generates(prompt, self.ask):
                    return await self._sent(call, self._body(prompt, shown), where=where)

                async def next_tokens(start: str) -> ServerReply:
                    return await self._sent(call, self._body(prompt, shown, start), where=where)

                return await compared(prompt, next_tokens, where)
            except Exception as error:
                if not (self.goes_on and isinstance(error, _PromptError)):
                    call.stop.set()  # before the place is free, so that nothing more is sent
                raise

    async def _sent(self, call: _Call, body: Mapping[str, Any], where: str) -> ServerReply:
        import openai

        pace, server = self.traffic.pace, f"{self.server.url} (model {self.server.model})"
        create: Any = call.client.chat.completions.with_raw_response.create
        # The client checks each part of `messages` for a third of a request's time; extra_body is sent as it is.
        own = {"model": self.server.model, "messages": [], "extra_body": {**body, **(self.server.extra_body or {})}}
        trouble, reached = "", False
        for tried in range(self.server.tries):
            await call.pause(pace.delay())
            if call.stop.is_set():
                break
            try:
                async with asyncio.timeout(self.server.timeout):
                    reply = await create(**own)
                reached = True
                if (found := read_reply(reply.content, self._key)) is not None:
                    return self._noted(found, where)
                trouble = f"a reply without an answer: {words(reply.content, self._key)}"
            except TimeoutError:
                trouble = f"no reply within {self.server.timeout:g} seconds"
            except (openai.APIConnectionError, ReplyError) as error:
                cause = error.__cause__ or error
                reached |= isinstance(cause, ReplyError) or type(cause).__name__ != "ConnectError"
                name = "" if isinstance(cause, ReplyError) else f"{type(cause).__name__} "
                trouble = short(f"{name}{cause}", self._key)
            except openai.APIStatusError as error:
                status, reached = error.status_code, True
                trouble = f"HTTP {status}: {words(error.response.content, self._key)}"
                if status in _FILTERS and (refusal := refused(error.response.content, self._key)):
                    return self._noted(ServerReply(refusal), where)
                if status not in _RETRIED and status < 500:
                    fix = _FIXES.get(status, "").format(key_env=self.server.key_env)
                    if fix == _REFUSED_REQUEST and body.keys() >= CONTINUED.keys():
                        fix = _NOT_CONTINUED
                    kind = ServerError if status in _STOPS else _PromptError
                    raise kind(where, f"no answer from {server}: {trouble}", fix) from None
                wait = retry_after(error.response.headers.get("retry-after", ""))
                if wait > _LONGEST_HOLD:
                    raise ServerError(
                        where, f"{server} asks for a break of {wait:.0f} seconds: {trouble}", "wait as long"
                    ) from None
                pace.hold(wait)
            if tried + 1 < self.server.tries:
                back_off = min(_LONGEST_BACK_OFF, self.server.back_off * 2.0 ** min(tried, 30))
                await call.pause(back_off * _JITTER.uniform(0.5, 1))
        # Nobody listens at that address, and nobody did before.
        kind = _PromptError if reached or self.traffic.tally.replies else ServerError
        raise kind(where, f"no answer from {server} after {self.server.tries} tries, the last one: {trouble}")

    def _noted(self, reply: ServerReply, where: str) -> ServerReply:
        if self.goes_on and reply.reasoned and not reply.response.text.strip():
            return replace(reply, response=replace(reply.response, text=_REASONED))
        if reply.response.lost == "refused" and not self.goes_on:
            logging.getLogger(__name__).warning(
                "%s: refused (%s); counted as unparsed", where, short(reply.response.text, self._key)
            )
        return reply

    def _body(self, prompt: Prompt, urls: Sequence[str], start: str | None = None) -> dict[str, Any]:
        """A request; `start` is the answer's start whose next token is asked for, by default that of all answers."""
        pictures = iter(urls)
        parts = [
            {"type": "image_url", "image_url": {"url": next(pictures)}} if part["type"] == "image" else part
            for part in content(prompt)
        ]
        messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
        body: dict[str, Any] = {"model": self.server.model, "messages": messages}
        body[self.server.limit_name] = self.ask.max_new_tokens
        begun = prompt.begin
        if not generates(prompt, self.ask):
            begun += start or shared_start(prompt)
            body |= {**NEXT_TOKEN, self.server.limit_name: 1}
        if begun:
            messages.append({"role": "assistant", "content": begun})
            body |= CONTINUED
        return body if self.server.temperature is None else {**body, "temperature": self.server.temperature}


@dataclass
class _Tally:
    """Replies so far, and those of them that are silent, see ServerReply; the other counts are of the silent ones."""

    replies: int = 0
    silent: int = 0
    reasoned: int = 0
    cut: int = 0
    refused: int = 0
    failed_in_a_row: int = 0

    def add(self, reply: ServerReply, cut_counts: bool = False) -> None:
        """`cut_counts`: A text that was cut is as good as none."""
        self.replies += 1
        self.failed_in_a_row = 0
        if reply.silent or (cut_counts and reply.response.lost == "cut"):
            self.silent += 1
            self.reasoned += reply.reasoned
            self.cut += reply.response.lost == "cut"
            self.refused += reply.response.lost == "refused"

    def hopeless(self, first: int) -> bool:
        """Whether exactly the `first` replies are there, all without an answer, for a known cause."""
        return self.replies == first == self.silent and bool(self.reasoned or self.cut or self.refused)


class Traffic:
    """What all calls that use one server at the same time share, from any thread: places, pace and how it went.

    Attributes:
        ended: Whether all calls have to end: "gently" once the requests under way are answered, or "now".
    """

    def __init__(self, server: ServerSettings) -> None:
        self.pace, self.tally = _Pace(server.requests_per_minute), _Tally()
        self.ended: Literal["", "gently", "now"] = ""
        self._places, self._lock = server.concurrency, threading.Lock()

    def enter(self) -> bool:
        """Take one of `concurrency` places; False where none is free."""
        with self._lock:
            free = self._places > 0
            self._places -= free
            return free

    def leave(self) -> None:
        with self._lock:
            self._places += 1


class _Pace:
    """When the next request may be sent, from any thread: evenly apart, none while the server asks to wait."""

    def __init__(self, per_minute: float | None) -> None:
        self.apart, self.free = (60 / per_minute if per_minute else 0.0), 0.0
        self._lock = threading.Lock()

    def delay(self) -> float:
        """Seconds that the next request must wait; the one after it is counted from there."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self.free)
            self.free = start + self.apart
            return start - now

    def hold(self, seconds: float) -> None:
        with self._lock:
            self.free = max(self.free, time.monotonic() + seconds)


@dataclass(frozen=True)
class _Call:
    """One call of `respond`: its client, whether it has to stop, and that one of its places became free."""

    client: AsyncOpenAI
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def place(self, traffic: Traffic, loading: asyncio.Future[Any] | None) -> AsyncIterator[None]:
        """A place, in the order in which they are asked for, once `loading`, if anything is loaded, has ended.

        Places that other calls leave are seen after _POLL seconds. Raises StoppedError after `stop`.
        """
        async with self.turn:
            if loading:
                await asyncio.wait([loading])
            while not (self.stop.is_set() or traffic.enter()):
                self.freed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.freed.wait(), _POLL)
            if self.stop.is_set():
                raise StoppedError("", "the call has ended")
        try:
            yield
        finally:
            traffic.leave()
            self.freed.set()

    async def pause(self, seconds: float) -> None:
        """Sleep, but no longer than until `stop`."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), seconds)


def _by_first_picture(prompts: Sequence[Prompt]) -> list[int]:
    """Indices of `prompts`, those that begin with the same picture one after another."""
    places: dict[str, int] = {}
    return sorted(
        range(len(prompts)),
        key=lambda number: places.setdefault(prompts[number].shown[0].image if prompts[number].shown else "", number),
    )


async def _next(answers: AsyncIterator[tuple[int, Response]]) -> tuple[int, Response] | None:
    return await anext(answers, None)
