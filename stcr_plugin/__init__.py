"""STCR: train a vision-language model to judge task progress by looking, whatever the order of the frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stcr_plugin.api import EvalRequest, build, evaluate, judge, judge_all

__version__ = "0.1.0"
__all__ = ["EvalRequest", "__version__", "build", "evaluate", "judge", "judge_all"]


def __getattr__(name: str) -> object:
    """The public functions, imported when they are first used."""
    if name not in __all__:
        raise AttributeError(f"module 'stcr_plugin' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("stcr_plugin.api"), name)
