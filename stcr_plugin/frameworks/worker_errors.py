"""Errors of dataloader workers, which arrive in the training process with their fields."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch._utils import ExceptionWrapper
from torch.utils.data._utils import worker

from stcr_plugin.errors import StcrError


class KeptError(ExceptionWrapper):
    """What a worker sends for an error. torch's own makes another error of its traceback's text; this keeps ours."""

    def __init__(self, exc_info: Any = None, where: str = "in background") -> None:
        super().__init__(exc_info, where)  # type: ignore[no-untyped-call]
        error = (exc_info or sys.exc_info())[1]
        self.error = error if isinstance(error, StcrError) else None

    def reraise(self) -> None:
        if self.error is not None:
            raise self.error
        super().reraise()  # type: ignore[no-untyped-call]


@contextmanager
def kept() -> Iterator[None]:
    """Workers that are forked inside send an StcrError as it is."""
    with patch.object(worker, "ExceptionWrapper", KeptError):
        yield
