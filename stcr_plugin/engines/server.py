"""Prompts -> responses of a model behind any OpenAI-compatible server (`POST URL/chat/completions`).

Format of requests and replies: OpenAI's API reference, "Create chat completion"; of Retry-After: RFC 9110, 10.2.3.
The `openai` client sends requests; when they are sent is decided here, since its own retries neither count for
requests_per_minute nor hold the other requests after Retry-After, and do not repeat a reply without an answer.
"""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.engines.picture_loading import Pictures
from stcr_plugin.engines.prompts import content, generates
from stcr_plugin.engines.sealed import named
from stcr_plugin.engines.server_connection import ReplyError, connect
from stcr_plugin.engines.server_replies import ServerReply, read_reply, refused, retry_after, short, words
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
_FIRST = 20  # replies; a run stops where all of them are without an answer
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


class ServerEngine:
    """The model behind an OpenAI-compatible server. Pictures below `registry` are sent as PNG, sized by `ask`.

    Responses are generated and parsed: few servers can compare answers or continue a response that is begun for them.
    Only the first choice of a reply counts. A reply after the time-out is not used, and the prompt is sent again.

    Raises:
        ConfigError: For a missing or malformed key.
    """

    def __init__(self, registry: Path, ask: AskSettings, server: ServerSettings) -> None:
        self.ask, self.server = ask, server
        self._pictures = Pictures(Path(registry), ask)
        self._key = key_for(server)

    def identity(self) -> Mapping[str, Any]:
        return {
            "engine": "server",
            "url": self.server.url,
            "model": self.server.model,
            # Not a digest of our code: responses that were paid for are used until another request would be sent.
            "request_digest": artefacts.digest(
                {**self._body(_SAMPLE, ["img1", "img2"]), **(self.server.extra_body or {})}
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
        with asyncio.Runner() as runner, progress(len(prompts), "server: answering", "queries") as bar:
            responses = self._responses(prompts)
            while (found := runner.run(_next(responses))) is not None:
                yield found
                bar.update()

    def _refuse(self, prompt: Prompt) -> None:
        where = named(prompt)
        if prompt.begin:
            raise ConfigError(where, "a server cannot continue a response that is begun for it", "use --engine local")
        if not generates(prompt, self.ask):
            raise ConfigError(where, "a server cannot compare answers", "set `generate: true` (--generate)")

    async def _responses(self, prompts: Sequence[Prompt]) -> AsyncIterator[tuple[int, Response]]:
        """Each response as it comes. After the first failure no request is started; those under way are awaited."""
        pace = _Pace(self.server.requests_per_minute)
        numbers = iter(range(len(prompts)))
        tasks: dict[asyncio.Task[ServerReply], int] = {}
        failed: BaseException | None = None
        hopeless: ServerError | None = None
        tally = _Tally()
        async with connect(self.server, self._key) as client:
            try:
                while True:
                    while failed is None and len(tasks) < self.server.concurrency:
                        if (number := next(numbers, None)) is None:
                            break
                        tasks[asyncio.create_task(self._response(client, pace, prompts[number]))] = number
                    if not tasks:
                        break
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        number = tasks.pop(task)
                        if (error := task.exception()) is None:
                            tally.add(task.result())
                            yield number, task.result().response
                            if failed is None and tally.hopeless(len(prompts)):
                                failed = hopeless = self._silent(tally)
                                pace.stop.set()
                        elif failed is None:
                            failed = error
                            pace.stop.set()
            finally:
                for task in tasks:
                    task.cancel()
        if isinstance(failed, ServerError) and failed is not hopeless:
            again = f"run the same command again to continue ({tally.replies} responses of this run are kept)"
            raise ServerError(failed.where, failed.problem, ", then ".join(filter(None, (failed.fix, again))))
        if failed is not None:
            raise failed
        if tally.silent:
            logging.getLogger(__name__).warning("%s (they count as unparsed)", self._silent(tally))

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

    async def _response(self, client: AsyncOpenAI, pace: _Pace, prompt: Prompt) -> ServerReply:
        """The reply, of which a content filter may have refused the prompt.

        Raises ServerError where no try brought a reply, or where the server refuses the request.
        """
        import openai

        where = named(prompt)
        server = f"{self.server.url} (model {self.server.model})"
        create: Any = client.chat.completions.with_raw_response.create
        body = self._body(prompt, await asyncio.to_thread(self._urls, prompt))
        trouble = ""
        for tried in range(self.server.tries):
            await pace.pause(pace.delay())
            if pace.stop.is_set():
                break
            try:
                async with asyncio.timeout(self.server.timeout):
                    reply = await create(**body, extra_body=self.server.extra_body)
                if (found := read_reply(reply.content, self._key)) is not None:
                    return self._noted(found, where)
                trouble = f"a reply without an answer: {words(reply.content, self._key)}"
            except TimeoutError:
                trouble = f"no reply within {self.server.timeout:g} seconds"
            except (openai.APIConnectionError, ReplyError) as error:
                cause = error.__cause__ or error
                name = "" if isinstance(cause, ReplyError) else f"{type(cause).__name__} "
                trouble = short(f"{name}{cause}", self._key)
            except openai.APIStatusError as error:
                status = error.status_code
                trouble = f"HTTP {status}: {words(error.response.content, self._key)}"
                if status in _FILTERS and (refusal := refused(error.response.content, self._key)):
                    return self._noted(ServerReply(refusal), where)
                if status not in _RETRIED and status < 500:
                    fix = _FIXES.get(status, "").format(key_env=self.server.key_env)
                    raise ServerError(where, f"no answer from {server}: {trouble}", fix) from None
                wait = retry_after(error.response.headers.get("retry-after", ""))
                if wait > _LONGEST_HOLD:
                    raise ServerError(
                        where, f"{server} asks for a break of {wait:.0f} seconds: {trouble}", "wait as long"
                    ) from None
                pace.hold(wait)
            if tried + 1 < self.server.tries:
                back_off = min(_LONGEST_BACK_OFF, self.server.back_off * 2.0 ** min(tried, 30))
                await pace.pause(back_off * _JITTER.uniform(0.5, 1))
        raise ServerError(where, f"no answer from {server} after {self.server.tries} tries, the last one: {trouble}")

    def _noted(self, reply: ServerReply, where: str) -> ServerReply:
        if reply.response.lost == "refused":
            logging.getLogger(__name__).warning(
                "%s: refused (%s); counted as unparsed", where, short(reply.response.text, self._key)
            )
        return reply

    def _urls(self, prompt: Prompt) -> list[str]:
        return [_data_url(self._pictures.open(shown, prompt.item)) for shown in prompt.shown]

    def _body(self, prompt: Prompt, urls: Sequence[str]) -> dict[str, Any]:
        pictures = iter(urls)
        parts = [
            {"type": "image_url", "image_url": {"url": next(pictures)}} if part["type"] == "image" else part
            for part in content(prompt)
        ]
        body: dict[str, Any] = {
            "model": self.server.model,
            "messages": [{"role": "user", "content": parts}],
            self.server.limit_name: self.ask.max_new_tokens,
        }
        return body if self.server.temperature is None else {**body, "temperature": self.server.temperature}


@dataclass
class _Tally:
    """Replies so far, and those of them that are silent, see ServerReply; the other counts are of the silent ones."""

    replies: int = 0
    silent: int = 0
    reasoned: int = 0
    cut: int = 0
    refused: int = 0

    def add(self, reply: ServerReply) -> None:
        self.replies += 1
        if reply.silent:
            self.silent += 1
            self.reasoned += reply.reasoned
            self.cut += reply.response.lost == "cut"
            self.refused += reply.response.lost == "refused"

    def hopeless(self, asked: int) -> bool:
        """Whether the first replies, of `asked` prompts, are all without an answer, for a known cause."""
        first = min(_FIRST, max(asked, 2))
        return self.replies == first == self.silent and bool(self.reasoned or self.cut or self.refused)


class _Pace:
    """When the next request may be sent: evenly apart, none while the server asks to wait, none after `stop`."""

    def __init__(self, per_minute: float | None) -> None:
        self.apart, self.free, self.stop = (60 / per_minute if per_minute else 0.0), 0.0, asyncio.Event()

    def delay(self) -> float:
        """Seconds that the next request must wait; the one after it is counted from there."""
        now = time.monotonic()
        start = max(now, self.free)
        self.free = start + self.apart
        return start - now

    def hold(self, seconds: float) -> None:
        self.free = max(self.free, time.monotonic() + seconds)

    async def pause(self, seconds: float) -> None:
        """Sleep, but no longer than until `stop`."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), seconds)


async def _next(answers: AsyncIterator[tuple[int, Response]]) -> tuple[int, Response] | None:
    return await anext(answers, None)


def _data_url(picture: Any) -> str:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
