"""Which OpenAI-compatible server is asked, and with which key."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from stcr_plugin.config import option, settings
from stcr_plugin.errors import ConfigError

_OURS = ("model", "messages", "stream", "n", "temperature")


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
    logprobs: bool = option(
        default=False,
        help="compare answers by the log-probabilities that the server gives, as vLLM and SGLang do, instead of "
        "generating them",
    )
    temperature: float | None = option(default=0.0, help="sampling temperature; null sends none")
    price_in: float | None = option(default=None, help="price of a million prompt tokens, for the cost")
    price_out: float | None = option(default=None, help="price of a million response tokens, for the cost")
    extra_body: Mapping[str, Any] | None = option(
        default=None, help="further keys of each request, such as {chat_template_kwargs: {enable_thinking: false}}"
    )

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
        rate = 1.0 if self.requests_per_minute is None else self.requests_per_minute
        if not all(0 < one < math.inf for one in (self.timeout, rate)) or not 0 <= self.back_off < math.inf:
            raise ValueError("timeout and requests_per_minute must be above 0, and back_off not below 0, all finite")
        if ours := sorted({*(self.extra_body or {})} & {*_OURS, self.limit_name}):
            raise ValueError(f"extra_body: {', '.join(ours)} cannot be set there, only other keys of a request")
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


def key_for(server: ServerSettings) -> str:
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
