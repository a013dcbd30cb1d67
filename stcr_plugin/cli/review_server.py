"""The page of `stcr annotate review`, served to this machine alone.

Any site that is open in the same browser can send requests to a port of this machine, and any other user of it can
connect. So every request needs the random token in its path and a Host header that names this very address (a name of a
foreign site that resolves to 127.0.0.1 does not), and a write needs the page's own Origin. No CORS header is ever sent.
A client names rows by their number and never a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stcr_plugin.annotation.decisions import ReviewedRows
from stcr_plugin.annotation.strata import Stratum
from stcr_plugin.errors import ConfigError, StcrError
from stcr_plugin.report import review_page
from stcr_plugin.result_files import Result
from stcr_plugin.samples.annotations import Review

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
_LARGEST = 200_000  # bytes of a decision: two texts and a note
_PAUSE_SECONDS = 3.0
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # the address has the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Posted(Result):
    """What the page sends as a decision: the row's position, and both texts where they were edited."""

    position: int
    review: Review
    note: str = ""
    texts: tuple[str, str] | None = None

    file: ClassVar[str] = "decision"
    command: ClassVar[str] = "the page"


def serve(
    reviewed: ReviewedRows, strata: Mapping[str, Stratum], registry: Path, *, port: int, ready: Callable[[str], None]
) -> None:
    """Serve the page until the process is interrupted or ended. Decisions are folded in pauses and at the end.

    Args:
        reviewed: The rows.
        strata: Their lists.
        registry: Folder of the pictures.
        port: 0 takes a free one.
        ready: Called with the page's address.

    Raises:
        ConfigError: The web server is not installed, or the port is taken.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        fix = "install it: `pip install fastapi uvicorn`"
        raise ConfigError("stcr annotate review", f"its web server is missing ({error})", fix) from None
    try:
        listening = socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--port {port}", f"cannot be used ({reason})", "name another, or none") from None
    host = f"{HOST}:{listening.getsockname()[1]}"
    token = secrets.token_urlsafe(24)
    app = guarded(_app(reviewed, strata, registry), host, token)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=2,
        )
    )

    def end(*_: object) -> None:
        server.should_exit = True

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the closed window of a terminal sends the last one
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end)
    ready(f"http://{host}/{token}/")
    try:
        server.run(sockets=[listening])
    finally:
        reviewed.fold()


def guarded(app: ASGIApp, host: str, token: str) -> ASGIApp:
    """`app` for requests that know the token and come from the page itself; all others get a refusal."""
    hosts = {host.encode(), host.replace(HOST, "localhost").encode()}

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        from starlette.responses import PlainTextResponse

        refusal = _refusal(scope, hosts, token)
        answer = PlainTextResponse(refusal[1], refusal[0]) if refusal else app
        return await answer(scope, receive, send_with_headers)

    return guard


def _refusal(scope: Scope, hosts: set[bytes], token: str) -> tuple[int, str] | None:
    """Status and reason where a request is not from the page."""

    def header(name: bytes) -> list[bytes]:
        return [value for key, value in scope["headers"] if key == name]

    host = header(b"host")
    if len(host) != 1 or host[0].lower() not in hosts:
        return 421, "This server is for one address of this machine only."
    given = scope["path"].partition("/")[2].partition("/")[0]
    if not secrets.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode()):
        return 404, "Nothing is here. Use the whole address that the command printed."
    origin = header(b"origin")
    foreign = origin not in ([], [b"http://" + host[0].lower()])
    if foreign or any(value not in (b"same-origin", b"none") for value in header(b"sec-fetch-site")):
        return 403, "Another site asked for this."
    if scope["method"] not in ("GET", "HEAD"):
        if not origin:
            return 403, "A write needs the Origin of the page."
        if header(b"content-type") != [b"application/json"]:
            return 415, "A write is JSON."
    return None


def _app(reviewed: ReviewedRows, strata: Mapping[str, Stratum], registry: Path) -> Starlette:
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
    from starlette.routing import Route

    found = dict(strata)

    async def page(request: Request) -> Response:
        return HTMLResponse(review_page.review_page(found, reviewed))

    async def style(request: Request) -> Response:
        return PlainTextResponse(review_page.style(), media_type="text/css")

    async def script(request: Request) -> Response:
        return PlainTextResponse(review_page.script(), media_type="text/javascript")

    async def listed(request: Request) -> Response:
        stratum = found.get(request.query_params.get("name", ""))
        if stratum is None:
            return PlainTextResponse("There is no such list.", 404)
        which = request.query_params.get("which")
        rows = stratum.sample if which == "sample" else stratum.rows
        return JSONResponse([at for at in rows if which != "reviewed" or reviewed.rows[at].review])

    async def row(request: Request) -> Response:
        number = request.query_params.get("n", "")
        at = int(number) if number.isdecimal() and len(number) < 10 else len(reviewed.rows)
        if at >= len(reviewed.rows):
            return PlainTextResponse("There is no such row.", 404)
        return HTMLResponse(await run_in_threadpool(review_page.card_part, reviewed, at, registry))

    async def decide(request: Request) -> Response:
        posted = Posted.from_row(await _json(request), "the request")
        if not 0 <= posted.position < len(reviewed.rows):
            return PlainTextResponse("There is no such row.", 404)
        made = reviewed.decision(posted.position, posted.review, note=posted.note, texts=posted.texts)
        reviewed.decide([made])
        return HTMLResponse(review_page.figures(found, reviewed))

    async def undo(request: Request) -> Response:
        await _json(request)
        return JSONResponse({"row": reviewed.undo(), "figures": review_page.figures(found, reviewed)})

    async def refused(request: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error).encode("utf-8", "backslashreplace"), 400)

    async def fold_in_pauses() -> None:
        before = -1
        while True:
            if reviewed.taken == before:  # writing a large file would make a person wait
                with contextlib.suppress(StcrError):  # such as a full disk; the last fold, at the end, raises it
                    await run_in_threadpool(reviewed.fold)
            before = reviewed.taken
            await asyncio.sleep(_PAUSE_SECONDS)

    @contextlib.asynccontextmanager
    async def folding(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(fold_in_pauses())
        yield
        task.cancel()

    routes = [
        Route(f"/{{token}}/{path}", work, methods=[method])
        for path, work, method in (
            ("", page, "GET"),
            ("style.css", style, "GET"),
            ("script.js", script, "GET"),
            ("list", listed, "GET"),
            ("row", row, "GET"),
            ("decide", decide, "POST"),
            ("undo", undo, "POST"),
        )
    ]
    return Starlette(routes=routes, lifespan=folding, exception_handlers={StcrError: refused})


async def _json(request: Request) -> Any:
    """The body as JSON, of which no more is read than a decision takes. Raises ConfigError for any other body."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST:
            raise ConfigError("the request", f"has more than {_LARGEST:,} bytes", "shorten the texts")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ConfigError("the request", "is not JSON") from None
