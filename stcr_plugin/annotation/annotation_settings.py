"""How texts are asked for and checked: the settings of `stcr annotate`."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from stcr_plugin.config import option, settings
from stcr_plugin.samples.annotations import CHECKS

Check = Literal["described", "leak", "claims", "confirmed", "judged", "blind"]


@settings
class AnnotateSettings:
    """How texts are asked for, how often, and which checks they must pass."""

    questions: Literal["general", "stage", "authors"] = option(
        default="general",
        help="general: for any model; stage: for a stage of this package; authors: as the paper asks, without checks",
    )
    together: bool = option(default=False, help="show both pictures of a pair at once, as the paper does")
    language: str = option(default="en", help="language of questions and texts: en or zh")
    tries: int = option(default=3, help="how often a text is asked for until it passes the checks")
    samples: int = option(default=1, help="candidates per pair, each of another prompt variant")
    checks: tuple[Check, ...] = option(default=get_args(Check), help="checks to make")

    def __post_init__(self) -> None:
        if self.tries < 1 or self.samples < 1:
            raise ValueError("tries and samples must be at least 1")

    def makes(self, check: str) -> bool:
        """Whether a check is made; the first needs no choice: a text that is not there cannot be checked."""
        return check == "described" or check in self.checks

    @property
    def decides(self) -> dict[str, Any]:
        """What decides the texts and verdicts, as JSON has it."""
        return dataclasses.asdict(self) | {"checks": [name for name in CHECKS if self.makes(name)]}
