"""Errors that a user can mend: what went wrong, where, and what to do about it."""

from __future__ import annotations


class StcrError(Exception):
    """An error of the user's input or setting.

    The command line prints its text without a traceback, so the text must say what is wrong, where
    (file, row, episode) and how to mend it.
    """


class ConfigError(StcrError):
    """A configuration file that cannot be loaded: unknown key, wrong type, value out of range."""


class DataError(StcrError):
    """Data on disk that cannot be used: missing, truncated, outside its root, or inconsistent."""


class ChainError(StcrError):
    """A stage that cannot start, because its parent is missing, unfinished or of another template."""


class ServerError(StcrError):
    """A server that was asked and gave no answer that can be used: unreachable, overloaded, or refusing."""
