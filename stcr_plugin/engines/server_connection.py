"""The `openai` client as this package uses it: nothing of the environment is sent, and no reply takes much memory."""

from __future__ import annotations

import os
import sys
import zlib
from typing import TYPE_CHECKING, Any

from stcr_plugin.engines.server_settings import ServerSettings
from stcr_plugin.errors import ConfigError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MOST_BYTES = 4_000_000
"""Of a reply's body, as sent and unpacked; its headers are limited by the HTTP library, to 100 KB."""
# The last one is how the client knows that the reply is wanted as it is.
HEADERS = {"host", "accept", "accept-encoding", "connection", "content-type", "content-length", "user-agent"} | {
    "x-stainless-raw-response"
}
_CERTIFICATES, _PROXIES = ("SSL_CERT_FILE", "SSL_CERT_DIR"), ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class ReplyError(Exception):
    """A reply whose body is not taken, and why."""


def connect(server: ServerSettings, key: str) -> AsyncOpenAI:
    """A client for `server`. Raises ConfigError where variables of the environment make that impossible."""
    import ssl

    import openai

    # No TLS is spoken then, and the certificates take 50 ms to read.
    plain = server.loopback and server.url.startswith("http://")

    async def only_ours(request: Any) -> None:
        """Nothing that the client adds from its environment, such as OPENAI_CUSTOM_HEADERS, is sent."""
        for name in request.headers.keys() - HEADERS:
            del request.headers[name]
        request.headers["Accept-Encoding"] = "identity"
        if key:
            request.headers["Authorization"] = f"Bearer {key}"

    try:
        http = openai.DefaultAsyncHttpxClient(
            follow_redirects=False,  # so that the key goes to no other host
            trust_env=not server.loopback,  # no proxy to this machine
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else True,  # that one trusts no server
            event_hooks={"request": [only_ours], "response": [_limited]},
        )
    except Exception as error:  # of many kinds: a missing file, a malformed address, a package for SOCKS
        given = {name: os.environ.get(name) or os.environ.get(name.lower()) for name in _CERTIFICATES + _PROXIES}
        missing = [name for name in _CERTIFICATES if (path := given[name]) and not os.path.exists(path)]
        suspects = missing or [name for name in _PROXIES if given[name]] or _CERTIFICATES
        # Without the error's text, which may repeat the password of a proxy.
        raise ConfigError(
            server.url,
            f"a connection cannot be prepared ({type(error).__name__})",
            f"check the environment variables {', '.join(suspects)}",
        ) from None
    return openai.AsyncOpenAI(
        api_key=key or "none",  # the client does not start without one
        base_url=server.url,
        max_retries=0,
        timeout=None,  # the whole try is timed, since a server may send byte by byte
        http_client=http,
    )


async def _limited(response: Any) -> None:
    """Read the whole body, of MOST_BYTES at most. Raises ReplyError for a longer or oddly packed one."""
    parts, size = [], 0
    async for part in response.stream:
        size += len(part)
        if size > MOST_BYTES:
            raise ReplyError(_TOO_LONG)
        parts.append(part)
    body = _unpacked(b"".join(parts), response.headers.pop("content-encoding", "identity").strip().lower())
    await response.stream.aclose()
    response.stream = sys.modules[type(response).__module__.partition(".")[0]].ByteStream(body)


_TOO_LONG = f"reply too long, over {MOST_BYTES / 1e6:g} MB"


def _unpacked(data: bytes, encoding: str) -> bytes:
    if encoding in ("", "identity"):
        return data
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ReplyError("a reply in a content encoding that was not asked for")
    try:
        body = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, MOST_BYTES + 1)
    except zlib.error as error:
        raise ReplyError(f"a reply that cannot be unpacked ({error})") from None
    if len(body) > MOST_BYTES:
        raise ReplyError(_TOO_LONG)
    return body
