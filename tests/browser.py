"""A real browser for tests of pages: headless Chromium, driven by chromedriver over HTTP (W3C WebDriver)."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

KEYS = {
    "Escape": "\ue00c",
    "Enter": "\ue007",
    "Control": "\ue009",
    "Right": "\ue014",
    "Left": "\ue012",
    "Tab": "\ue004",
}


class Browser:
    def __init__(self, address: str, session: str) -> None:
        self.base = f"{address}/session/{session}"

    def do(self, path: str, **body: Any) -> Any:
        return request(f"{self.base}/{path}", body)

    def open(self, address: str) -> None:
        self.do("url", url=address)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.do("execute/sync", script=script, args=list(arguments))

    def keys(self, *names: str) -> None:
        """Press keys, each by its name or character; `Control+Enter` holds the first one."""
        actions = []
        for name in names:
            chord = [KEYS.get(one, one) for one in (name.split("+") if len(name) > 1 else [name])]
            actions += [{"type": "keyDown", "value": one} for one in chord]
            actions += [{"type": "keyUp", "value": one} for one in reversed(chord)]
        self.do("actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    def until(self, script: str, *arguments: Any) -> Any:
        """Wait until `return script` is true, and its value."""
        deadline = time.monotonic() + 20
        while not (found := self.js(f"return {script}", *arguments)):
            assert time.monotonic() < deadline, f"never true: {script}\n{self.js('return document.body.innerText')}"
            time.sleep(0.05)
        return found

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(request(f"{self.base}/screenshot", None)))

    def size(self, width: int, height: int) -> None:
        self.do("window/rect", width=width, height=height)


def request(address: str, body: Any, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=60) as response:
            return json.load(response)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from None


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser whose profile is in `folder`. Skips the test where there is none."""
    driver, binary = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if not driver or not binary:
        pytest.skip("no chromedriver and Chromium here (Debian: apt-get install chromium chromium-driver)")
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        port = next(line for line in process.stdout if "successfully on port" in line).rstrip(".\n").rpartition(" ")[2]
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={folder}",
        ]
        options = {"binary": binary, "args": [*flags, "--window-size=1280,800"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = request(f"http://127.0.0.1:{port}/session", {"capabilities": {"alwaysMatch": wanted}})
        address = f"http://127.0.0.1:{port}"
        try:
            yield Browser(address, made["sessionId"])
        finally:
            request(f"{address}/session/{made['sessionId']}", None, "DELETE")
    finally:
        process.terminate()
        process.wait()
        if process.stdout:
            process.stdout.close()
