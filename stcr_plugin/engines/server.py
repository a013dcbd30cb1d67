"""Prompts -> responses of a model behind any OpenAI-compatible server (`POST URL/chat/completions`).

Format of requests and replies: OpenAI's API reference, "Create chat completion"; of Retry-After: RFC 9110, 10.2.3.
The `openai` client sends requests; when they are sent is decided here, since its own retries neither count for
requests_per_minute nor hold the other requests after Retry-After, and do not repeat a reply without an answer.
"""

from __future__ import annotations

import asyncio
import base64
import io
import ipaddress
import json
import os
import random
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import SplitResult, urlsplit

from stcr_plugin import artefacts
from stcr_plugin.config import option, settings
from stcr_plugin.engines.picture_loading import Pictures
from stcr_plugin.engines.prompts import content, generates
from stcr_plugin.engines.sealed import named
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, ServerError
from stcr_plugin.types import Prompt, Response, Shown

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_RETRIED = frozenset({408, 409, 429})  # and all of 500 and above
_LONGEST_BACK_OFF, _LONGEST_HOLD = 60.0, 600.0  # seconds
_JITTER = random.Random()  # its own, so that it does not change what a run's seed draws
_SAMPLE = Prompt("", "", "", (Shown(""), Shown("")), ("img1", "img2"), "?")
# The last one is how the client knows that the reply is wanted as it is.
_HEADERS = {"host", "accept", "accept-encoding", "connection", "content-type", "content-length", "user-agent"} | {
    "x-stainless-raw-response"
}
_CHECK_KEY = "check the key in the variable {key_env!r}"
_FIXES = {
    401: _CHECK_KEY,
    403: _CHECK_KEY,
    404: "check that the url ends as it should, such as in /v1, and that there is such a model",
}


@settings
class ServerSettings:
    """Which server is used, how fast, and when it is given up."""

    url: str = option(help="address of the server up to its /v1, such as http://127.0.0.1:8000/v1")
    model: str = option(help="the model's name at the server")
    key_env: str = option(
        default="OPENAI_API_KEY", help="environment variable with the key, '' for none; not needed on this machine"
    )
    concurrency: int = option(default=8, help="requests at the same time")
    timeout: float = option(default=120.0, help="seconds for one request, from start to end")
    tries: int = option(default=6, help="requests for one prompt before the run stops")
    back_off: float = option(default=1.0, help="seconds before the second try; doubled for each further one")
    requests_per_minute: float | None = option(
        default=None, help="most requests per minute, repeated ones included (default: no limit)"
    )
    limit_name: Literal["max_tokens", "max_completion_tokens"] = option(
        default="max_tokens", help="the server's name for the most tokens of a response; newer OpenAI models differ"
    )
    temperature: float | None = option(default=0.0, help="sampling temperature; null sends none")
    price_in: float | None = option(default=None, help="price of a million prompt tokens, for the cost")
    price_out: float | None = option(default=None, help="price of a million response tokens, for the cost")

    def __post_init__(self) -> None:
        parts = _parts(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url {parts.hostname or self.url!r}: give an address such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("url: holds more than an address; put the key into the variable that key_env names")
        if not self.model:
            raise ValueError("model: is empty; give the model's name at the server")
        if self.concurrency < 1 or self.tries < 1:
            raise ValueError("concurrency and tries must be at least 1")
        rate = self.requests_per_minute
        if self.timeout <= 0 or self.back_off < 0 or (rate is not None and rate <= 0):
            raise ValueError("timeout and requests_per_minute must be above 0, and back_off not below 0")
        if (self.price_in is None) != (self.price_out is None) or min(self.price_in or 0, self.price_out or 0) < 0:
            raise ValueError("price_in and price_out must be given together, neither below 0")

    @property
    def loopback(self) -> bool:
        """Whether the server runs on this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


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
        self._key = _key(server)

    def identity(self) -> Mapping[str, Any]:
        return {
            "engine": "server",
            "url": self.server.url,
            "model": self.server.model,
            # Not a digest of our code: responses that were paid for are used until another request would be sent.
            "request_digest": artefacts.digest(self._body(_SAMPLE, ["img1", "img2"])),
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
        tasks: dict[asyncio.Task[Response], int] = {}
        failed: BaseException | None = None
        kept = 0
        async with self._client() as client:
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
                            kept += 1
                            yield number, task.result()
                        elif failed is None:
                            failed = error
                            pace.stop.set()
            finally:
                for task in tasks:
                    task.cancel()
        if isinstance(failed, ServerError):
            again = f"run the same command again to continue ({kept} responses of this run are kept)"
            raise ServerError(failed.where, failed.problem, ", then ".join(filter(None, (failed.fix, again))))
        if failed is not None:
            raise failed

    async def _response(self, client: AsyncOpenAI, pace: _Pace, prompt: Prompt) -> Response:
        """Raises ServerError where no try brought a response, or where the server refuses the request."""
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
                    reply = await create(**body)
                if (response := _read(reply.content)) is not None:
                    return response
                trouble = f"a reply without an answer: {self._words(reply.text)}"
            except TimeoutError:
                trouble = f"no reply within {self.server.timeout:g} seconds"
            except openai.APIConnectionError as error:
                trouble = self._words(f"{type(error.__cause__).__name__} {error.__cause__}")
            except openai.APIStatusError as error:
                status = error.status_code
                trouble = f"HTTP {status}: {self._words(error.response.text)}"
                if status not in _RETRIED and status < 500:
                    fix = _FIXES.get(status, "").format(key_env=self.server.key_env)
                    raise ServerError(where, f"no answer from {server}: {trouble}", fix) from None
                wait = _retry_after(error.response.headers.get("retry-after", ""))
                if wait > _LONGEST_HOLD:
                    raise ServerError(
                        where, f"{server} asks for a break of {wait:.0f} seconds: {trouble}", "wait as long"
                    ) from None
                pace.hold(wait)
            if tried + 1 < self.server.tries:
                await pace.pause(min(_LONGEST_BACK_OFF, self.server.back_off * 2**tried) * _JITTER.uniform(0.5, 1))
        raise ServerError(where, f"no answer from {server} after {self.server.tries} tries, the last one: {trouble}")

    def _client(self) -> AsyncOpenAI:
        import openai

        async def only_ours(request: Any) -> None:
            """Nothing that the client adds from its environment, such as OPENAI_CUSTOM_HEADERS, is sent."""
            for name in request.headers.keys() - _HEADERS:
                del request.headers[name]
            if self._key:
                request.headers["Authorization"] = f"Bearer {self._key}"

        return openai.AsyncOpenAI(
            api_key=self._key or "none",  # the client does not start without one
            base_url=self.server.url,
            max_retries=0,
            timeout=None,  # the whole try is timed, since a server may send byte by byte
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False,  # so that the key goes to no other host
                trust_env=not self.server.loopback,  # no proxy to this machine
                event_hooks={"request": [only_ours]},
            ),
        )

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

    def _words(self, text: str) -> str:
        """A server's text: its error's message where it has one, short and without the key."""
        try:
            error = json.loads(text)["error"]
            text = str(error.get("message") or error) if isinstance(error, Mapping) else str(error)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        text = " ".join(text.split())
        text = text.replace(self._key, "[key]") if self._key else text
        return f"{text[:300]}..." if len(text) > 300 else text or "(no text)"


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


def _parts(url: str) -> SplitResult:
    """The parts of a usable address. The ValueError for another one does not repeat it: it might hold a key."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is checked when it is read
        if not url.isprintable() or not re.fullmatch(r"[\w.:-]*", parts.hostname or ""):
            raise ValueError
    except ValueError:
        raise ValueError("url: host or port is malformed; give an address such as http://127.0.0.1:8000/v1") from None
    return parts


def _key(server: ServerSettings) -> str:
    """The key to send, "" for none."""
    key = os.environ.get(server.key_env, "").strip() if server.key_env else ""
    if server.key_env and not key and not server.loopback:
        raise ConfigError(
            server.url,
            "needs a key",
            f"put it into the environment variable {server.key_env}, name another one with key_env (--key-env), or set "
            "that to '' for a server without a key",
        )
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            f"the environment variable {server.key_env}",
            "does not hold a key: it has blanks or odd characters",
            "set it again",
        )
    return key


def _data_url(picture: Any) -> str:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or as a date; 0 where it is not readable."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _read(data: bytes) -> Response | None:
    """The first choice of a reply; None where the reply is cut, or holds none. The client does not check replies.

    A choice without text, such as one whose tokens all went into hidden reasoning, is an empty response. A refusal is
    one too, which OpenAI sends beside the content.
    """
    try:
        reply = json.loads(data)
        message = reply["choices"][0]["message"]
        text = message.get("refusal") or message["content"]
        usage = reply.get("usage")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None
    if isinstance(text, list):  # some servers reply in parts
        text = "".join(str(part.get("text") or "") for part in text if isinstance(part, Mapping))
    if not isinstance(text, str | None):
        return None
    counts = usage if isinstance(usage, Mapping) else {}
    tokens = [counts.get(name) for name in ("prompt_tokens", "completion_tokens")]
    return Response(text or "", {}, *(one if type(one) is int else None for one in tokens))
