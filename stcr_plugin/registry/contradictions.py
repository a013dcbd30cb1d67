"""The file of contradicted pairs: one JSON line per pair whose label a trained model contradicts in both orders.

`stcr data refine` writes it, a person edits its decisions, and `pairs: {refine: {file: FILE}}` in a data configuration
applies them to the same pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stcr_plugin import artefacts
from stcr_plugin.registry.data_config import DataConfig, plain
from stcr_plugin.result_files import Result
from stcr_plugin.types import Choice, Closer, Order

Decision = Literal["drop", "tie", "keep"]
DECISIONS: tuple[Decision, ...] = ("drop", "tie", "keep")


@dataclass(frozen=True, kw_only=True)
class Contradiction(Result):
    """A pair of a build, with answers that name the other frame in both orders.

    Attributes:
        pair_id: As in the build, like the fields up to `closer`, the label.
        earlier_image: Path relative to the registry folder, as `later_image`.
        earlier_fingerprint: Perceptual hash of the picture that was judged, see `registry/picture_store.py`.
        answers: Order -> the image that the model named.
        confidence: Sum over both orders of the log-probability (natural) of the named answer minus that of the label's;
            None where the model wrote freely.
        decision: What a build does with the pair: leave it out, teach it as a tie, or keep it as it is.
        proposed: The decision that the command wrote, so that a person's change is known.
        build: Name of the build, as `seed` is its seed.
        pairs_digest: Digest of the rules that its pairs were drawn by.
    """

    pair_id: str
    episode_id: str
    split: str
    task: str
    earlier: int
    later: int
    closer: Closer
    earlier_image: str
    later_image: str
    earlier_fingerprint: str = ""
    later_fingerprint: str = ""
    answers: Mapping[Order, Choice]
    confidence: float | None = None
    decision: Decision
    proposed: Decision = "drop"
    build: str
    seed: int
    pairs_digest: str

    file: ClassVar[str] = "contradicted.jsonl"
    command: ClassVar[str] = "stcr data refine"


def read_contradictions(path: str | Path) -> Iterator[Contradiction]:
    """The rows of a file of contradicted pairs. Raises DataError as `Result.read_rows` does."""
    return Contradiction.read_rows(path)


def pairs_digest(config: DataConfig) -> str:
    """Digest of what decides which pairs a configuration draws, and their labels.

    Where the recordings are does not count, nor do splits and pictures: a row holds its split and fingerprints. `ties`
    counts only where it decides which pairs are drawn.
    """
    values = plain(config)
    ignored = {"refine"} if config.pairs.label == "progress" else {"refine", "ties"}
    source = {key: value for key, value in values["source"].items() if key not in ("root", "file")}
    rules = {key: value for key, value in values["pairs"].items() if key not in ignored}
    return artefacts.digest([source, rules, config.seed])
