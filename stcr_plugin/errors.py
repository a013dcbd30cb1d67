"""Errors that a user can fix: where something went wrong, what it was, and how to fix it."""

from __future__ import annotations

from pathlib import Path


class StcrError(Exception):
    """An error of the user's input or settings; the command line prints it on one line, without a traceback.

    Attributes:
        where: File, row, episode, option or key.
        problem: What is wrong with it.
        fix: What to do about it, verb first.
    """

    def __init__(self, where: str | Path, problem: str = "", fix: str = "") -> None:
        super().__init__(where, problem, fix)  # all three, so that the error survives pickling
        self.where, self.problem, self.fix = str(where), problem, fix

    def __str__(self) -> str:
        """`where: problem; fix`, without the parts that are empty."""
        return "; ".join(filter(None, (": ".join(filter(None, (self.where, self.problem))), self.fix)))


class ConfigError(StcrError):
    """A configuration file that cannot be loaded: unknown key, wrong type, value out of range."""


class DataError(StcrError):
    """Data on disk that cannot be used: missing, truncated, outside its root, or inconsistent."""


class NoPathError(DataError):
    """A path that no file can have, or links that lead to each other."""


class ChainError(StcrError):
    """A stage that cannot start, because its parent is missing, unfinished or of another template."""


class ServerError(StcrError):
    """A server that gave no usable answer: unreachable, overloaded, or refusing."""
