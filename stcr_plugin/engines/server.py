"""Prompts -> what is said, by a model behind any OpenAI-compatible server (`POST URL/chat/completions`).

Format of requests and replies: OpenAI's API reference, "Create chat completion"; of Retry-After: RFC 9110, 10.2.3.
"""

from __future__ import annotations

import asyncio
import base64
import io
import ipaddress
import json
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import SplitResult, urlsplit

from stcr_plugin import artefacts
from stcr_plugin.config import settings
from stcr_plugin.engines.picture_loading import Pictures
from stcr_plugin.engines.prompts import content, generates
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, ServerError
from stcr_plugin.types import Prompt, Response, Shown

if TYPE_CHECKING:
    import httpx

_TRY_AGAIN = frozenset({408, 409, 429})  # and all of 500 and above
_LONGEST_BACK_OFF, _LONGEST_HOLD = 60.0, 600.0  # seconds
_JITTER = random.Random()  # our own, for a run's seed is not ours to use up
_SAMPLE = Prompt("", "", "", (Shown(""), Shown("")), ("img1", "img2"), "?")


@settings
class ServerSettings:
    """Which server is asked, how fast, and when it is given up.

    url: up to and without `/chat/completions`, such as http://127.0.0.1:8000/v1.
    model: the model's name there.
    key_env: name of the environment variable that holds the key, "" for none. A server on this machine needs none.
    concurrency: requests under way at once. timeout: seconds for one of them, from start to end.
    tries: requests for one prompt before the run stops. back_off: seconds before the second; it doubles each time.
    requests_per_minute: at most so many go out, evenly apart; repeated ones count. None: as many as are answered.
    limit_name: how the server calls the most tokens it may write; OpenAI's newer models refuse max_tokens.
    temperature: None sends none, for models that refuse it.
    price_in, price_out: what a million tokens of the prompt and of the answer cost, in one currency of your choice.
    """

    url: str
    model: str
    key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 120.0
    tries: int = 6
    back_off: float = 1.0
    requests_per_minute: float | None = None
    limit_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: float | None = 0.0
    price_in: float | None = None
    price_out: float | None = None

    def __post_init__(self) -> None:
        parts = _parts(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url {parts.hostname or self.url!r}: give an address such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("url: holds more than an address; the key goes into the variable that key_env names")
        if not self.model:
            raise ValueError("model: is empty; give the name that the server knows its model by")
        if self.concurrency < 1 or self.tries < 1:
            raise ValueError("concurrency and tries are at least 1")
        rate = self.requests_per_minute
        if self.timeout <= 0 or self.back_off < 0 or (rate is not None and rate <= 0):
            raise ValueError("timeout and requests_per_minute are above 0, back_off is not below")
        if (self.price_in is None) != (self.price_out is None) or min(self.price_in or 0, self.price_out or 0) < 0:
            raise ValueError("price_in and price_out are given together, neither below 0")

    @property
    def loopback(self) -> bool:
        """Whether the server runs on this very machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


class ServerEngine:
    """The model behind an OpenAI-compatible server. Pictures lie under `registry` and are sent as PNG, sized by `ask`.

    It writes, and what it writes is parsed: answers cannot be compared by log-probability, and its turn cannot be
    begun for it, since few servers can do either. Of its reply only the first choice counts. A reply that comes after
    its time-out is not heard, and the prompt is put again. Raises ConfigError for a key that is missing or no key.
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
            # Not a digest of our code: paid answers are asked for anew only where other words would be sent.
            "request_digest": artefacts.digest(self._body(_SAMPLE, ["img1", "img2"])),
        }

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What so many tokens cost, None without prices."""
        if self.server.price_in is None or self.server.price_out is None:
            return None
        return (prompt_tokens * self.server.price_in + completion_tokens * self.server.price_out) / 1e6

    def say(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        """As Engine.say. Raises ServerError naming the prompt that got no answer, after all that others got."""
        from stcr_plugin.progress_bar import progress

        for prompt in prompts:
            self._refuse(prompt)
        # The loop runs only while the next answer is awaited, so whoever takes them needs to know nothing of it.
        with asyncio.Runner() as runner, progress(len(prompts), "server: answering", "queries") as bar:
            answers = self._answers(prompts)
            while (found := runner.run(_next(answers))) is not None:
                yield found
                bar.update()

    def _refuse(self, prompt: Prompt) -> None:
        where = f"{prompt.item}, {prompt.order}"
        if prompt.begin:
            raise ConfigError(f"{where}: a server's answer cannot be begun for it; ask a local model (--engine local)")
        if not generates(prompt, self.ask):
            raise ConfigError(f"{where}: a server cannot compare answers; set `generate: true` (--generate)")

    async def _answers(self, prompts: Sequence[Prompt]) -> AsyncIterator[tuple[int, Response]]:
        """Each answer as it comes. After the first failure no request is begun, and those under way are awaited."""
        pace, stop = _Pace(self.server.requests_per_minute), asyncio.Event()
        numbers = iter(range(len(prompts)))
        tasks: set[asyncio.Task[tuple[int, Response]]] = set()
        failed: BaseException | None = None
        kept = 0
        async with self._client() as client:
            try:
                while True:
                    while failed is None and len(tasks) < self.server.concurrency:
                        if (number := next(numbers, None)) is None:
                            break
                        tasks.add(asyncio.create_task(self._numbered(number, client, pace, stop, prompts[number])))
                    if not tasks:
                        break
                    done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        if (error := task.exception()) is None:
                            kept += 1
                            yield task.result()
                        elif failed is None:
                            failed = error
                            stop.set()
            finally:
                for task in tasks:
                    task.cancel()
        if isinstance(failed, ServerError):
            raise ServerError(f"{failed}. {kept} answers of this run are kept; run the same command again to go on")
        if failed is not None:
            raise failed

    async def _numbered(
        self, number: int, client: httpx.AsyncClient, pace: _Pace, stop: asyncio.Event, prompt: Prompt
    ) -> tuple[int, Response]:
        return number, await self._asked(client, pace, stop, prompt)

    async def _asked(self, client: httpx.AsyncClient, pace: _Pace, stop: asyncio.Event, prompt: Prompt) -> Response:
        """Raises ServerError where no try brought an answer, or where the server refuses the request as it is."""
        import httpx

        where = f"{prompt.item}, {prompt.order}: no answer from {self.server.url} (model {self.server.model})"
        urls = await asyncio.to_thread(self._urls, prompt)
        address = f"{self.server.url.rstrip('/')}/chat/completions"
        body = self._body(prompt, urls)
        trouble = ""
        for tried in range(self.server.tries):
            await _pause(stop, pace.delay())
            if stop.is_set():
                break
            try:
                async with asyncio.timeout(self.server.timeout):
                    response = await client.post(address, json=body)
                if response.status_code in _TRY_AGAIN or response.status_code >= 500:
                    trouble = f"HTTP {response.status_code}: {self._words(response.text)}"
                    wait = _retry_after(response.headers.get("retry-after", ""))
                    if wait > _LONGEST_HOLD:
                        raise ServerError(f"{where}: it asks to be left alone for {wait:.0f} seconds; {trouble}")
                    pace.hold(wait)
                elif not response.is_success:
                    hint = _HINTS.get(response.status_code, "").format(key_env=self.server.key_env)
                    raise ServerError(f"{where}: HTTP {response.status_code}: {self._words(response.text)}{hint}")
                elif (said := _said(response.content)) is not None:
                    return said
                else:
                    trouble = f"a reply without an answer in it: {self._words(response.text)}"
            except TimeoutError:
                trouble = f"nothing within {self.server.timeout:g} seconds"
            except httpx.RequestError as error:
                trouble = self._words(f"{type(error).__name__} {error}")
            if tried + 1 < self.server.tries:
                await _pause(stop, min(_LONGEST_BACK_OFF, self.server.back_off * 2**tried) * _JITTER.uniform(0.5, 1))
        raise ServerError(f"{where} after {self.server.tries} tries; the last one: {trouble}")

    def _client(self) -> httpx.AsyncClient:
        import httpx

        return httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            verify=_certificates(),
            timeout=None,  # the whole try is timed, for a server may trickle
            limits=httpx.Limits(max_connections=self.server.concurrency),
            trust_env=not self.server.loopback,  # no proxy between us and this machine
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
        """What a server said of itself: its error's message where it has one, short and without the key."""
        try:
            error = json.loads(text)["error"]
            text = str(error.get("message") or error) if isinstance(error, Mapping) else str(error)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        text = " ".join(text.split())
        text = text.replace(self._key, "[key]") if self._key else text
        return f"{text[:300]}..." if len(text) > 300 else text or "(no words)"


_HINTS = {
    401: " (is the key in the variable {key_env!r} right?)",
    403: " (is the key in the variable {key_env!r} right?)",
    404: " (does the url end as it should, such as in /v1, and is there such a model?)",
}


class _Pace:
    """When the next request may go out: evenly apart, and none while the server asks to wait. Times in seconds."""

    def __init__(self, per_minute: float | None) -> None:
        self.apart, self.free = (60 / per_minute if per_minute else 0.0), 0.0

    def delay(self) -> float:
        """How long the request that is about to go out must wait; the next one is counted from there."""
        now = time.monotonic()
        start = max(now, self.free)
        self.free = start + self.apart
        return start - now

    def hold(self, seconds: float) -> None:
        self.free = max(self.free, time.monotonic() + seconds)


@cache
def _certificates() -> ssl.SSLContext:
    """Read once, which takes longer than many a request."""
    import httpx

    return httpx.create_ssl_context()


async def _next(answers: AsyncIterator[tuple[int, Response]]) -> tuple[int, Response] | None:
    return await anext(answers, None)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but no longer than until `stop`."""
    if seconds > 0:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)


def _parts(url: str) -> SplitResult:
    """Of an address that httpx can ask. The ValueError for any other does not repeat it: it might hold a key."""
    import httpx

    try:
        parts = urlsplit(url)
        _ = httpx.URL(url), parts.port  # which is checked when it is read
    except (ValueError, httpx.InvalidURL):
        raise ValueError("url: its host or port is none; give an address such as http://127.0.0.1:8000/v1") from None
    return parts


def _key(server: ServerSettings) -> str:
    """The key to send, "" for none."""
    key = os.environ.get(server.key_env, "").strip() if server.key_env else ""
    if server.key_env and not key and not server.loopback:
        raise ConfigError(
            f"{server.url} needs a key: put it into the environment variable {server.key_env}, name another with "
            "key_env (--key-env), or set that to '' for a server without one"
        )
    if not (key.isascii() and key.isprintable() and " " not in key) and key:
        raise ConfigError(f"the environment variable {server.key_env} holds no key: blanks or odd characters are in it")
    return key


def _data_url(picture: Any) -> str:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or as a date; 0 where it says nothing readable."""
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


def _said(data: bytes) -> Response | None:
    """The first choice of a reply; None where the reply is cut, or holds none.

    A choice without words, such as one whose tokens all went into hidden reasoning, is an answer too: an empty one. So
    is a refusal, which OpenAI sends beside the content.
    """
    try:
        reply = json.loads(data)
        message = reply["choices"][0]["message"]
        written = message.get("refusal") or message["content"]
        usage = reply.get("usage")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None
    if isinstance(written, list):  # some servers reply in parts
        written = "".join(str(part.get("text") or "") for part in written if isinstance(part, Mapping))
    if not isinstance(written, str | None):
        return None
    counts = usage if isinstance(usage, Mapping) else {}
    tokens = [counts.get(name) for name in ("prompt_tokens", "completion_tokens")]
    asked, wrote = (one if isinstance(one, int) and not isinstance(one, bool) else None for one in tokens)
    return Response(written or "", {}, asked, wrote)
