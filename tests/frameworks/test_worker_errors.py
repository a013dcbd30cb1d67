"""An error of a dataloader worker arrives with its fields."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stcr_plugin.errors import DataError
from stcr_plugin.frameworks import worker_errors


class Broken(torch.utils.data.Dataset[Any]):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int) -> Any:
        raise self.error


def first_batch(error: Exception) -> Any:
    with worker_errors.kept():
        return next(iter(torch.utils.data.DataLoader(Broken(error), num_workers=1)))


def test_an_error_of_ours_keeps_where_problem_and_fix() -> None:
    with pytest.raises(DataError) as caught:
        first_batch(DataError("a.png", "cannot be read", "build again"))
    assert (caught.value.where, caught.value.problem, caught.value.fix) == ("a.png", "cannot be read", "build again")


def test_another_error_comes_with_the_workers_traceback() -> None:
    with pytest.raises(ValueError, match="Caught ValueError in DataLoader worker process 0"):
        first_batch(ValueError("odd"))
