"""Pictures as a request to a server holds them: PNG in base64, the last ones kept."""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from typing import Any

from stcr_plugin.engines.picture_loading import Pictures
from stcr_plugin.types import Prompt, Shown

_KEPT_LETTERS = 64 * 2**20  # of pictures in memory, in base64


class DataUrls:
    """Pictures as they are sent, the last ones kept: many prompts in a row show the same few. From any thread."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures, self._lock = pictures, threading.Lock()
        self._kept: OrderedDict[tuple[str, str, str], str] = OrderedDict()
        self._letters = 0

    def kept(self, prompt: Prompt) -> list[str] | None:
        """The pictures of a prompt; None where one of them has to be loaded."""
        urls = [self._known(_key(shown)) for shown in prompt.shown]
        return None if None in urls else [url for url in urls if url is not None]

    def urls(self, prompt: Prompt) -> list[str]:
        """The pictures of a prompt, loaded where they have to be."""
        return [self._url(shown, prompt.item) for shown in prompt.shown]

    def _known(self, key: tuple[str, str, str]) -> str | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _url(self, shown: Shown, item: str) -> str:
        key = _key(shown)
        if (known := self._known(key)) is not None:
            return known
        url = _data_url(self._pictures.open(shown, item))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = url
                self._letters += len(url)
            while self._letters > _KEPT_LETTERS:
                self._letters -= len(self._kept.popitem(last=False)[1])
        return url


def _key(shown: Shown) -> tuple[str, str, str]:
    return shown.image, shown.change, shown.other  # sealed: the same for all prompts of one call


def _data_url(picture: Any) -> str:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
