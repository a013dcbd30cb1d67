"""A strip of an episode's frames -> its progress curve, by asking a model about pairs of them in both orders."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.engines.cache import SAID, collect_responses
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.evaluation.strips import Strip
from stcr_plugin.scoring.bradley_terry import Comparison, outcome
from stcr_plugin.scoring.parsing import answered
from stcr_plugin.scoring.progress_curve import Curve, curve, pairs_of, reference_pairs
from stcr_plugin.types import ORDERS, Answer, Pair, Query

Places = tuple[int, int]


@dataclass(frozen=True)
class Scale:
    """Reference frames of one task, on whose scale progress is read; without any, progress is relative.

    Attributes:
        images: Relative to the root of the strips.
        positions: 0 (the start of a demonstration) to 1 (its end, or a goal picture), one demonstration after another.
        truth: Their true progress; empty where it is not known.
        between: Comparisons of these frames with each other, made once for all episodes.
    """

    images: tuple[str, ...] = ()
    positions: tuple[float, ...] = ()
    truth: tuple[float | None, ...] = ()
    between: tuple[Comparison, ...] = ()


@dataclass(frozen=True)
class Judge:
    """Whom to ask, and all that decides a response besides the prompts.

    Attributes:
        engine: The engine for some pairs: always the same one, but for an oracle, which is made with the truth.
        identity: What it is called in files, for all pairs.
    """

    engine: Callable[[Sequence[Pair]], Engine]
    identity: Mapping[str, Any]
    settings: AskSettings
    seed: int = 0

    def answers(self, strip: Strip, places: Sequence[Places], out: Path) -> list[tuple[Places, tuple[Answer, Answer]]]:
        """Two positions of a strip -> the answers about them, forward and backward.

        Responses are kept in the folder `out`, so that a killed run goes on, and in whole batches: the numbers that a
        model gives depend in their last digits on what is in a batch, and the end should be the same bytes.
        """
        if not places:
            return []
        pairs = [_pair(strip, *place) for place in places]
        queries = [Query(pair, order) for pair in pairs for order in ORDERS]
        prompts = prompts_for(queries, self.settings, self.seed)
        _keep_whole_batches(out / SAID, self.settings.batch_size)
        pictures = strip.sums()
        header = {"settings": self.settings.decides, "seed": self.seed}
        responses = collect_responses(self.engine(pairs), prompts, out, asked=header, pictures=pictures)
        found = [answered(*one) for one in zip(queries, prompts, responses, strict=True)]
        return list(zip(places, zip(found[::2], found[1::2], strict=True), strict=True))


@dataclass(frozen=True)
class Judged:
    """The curve of one strip, and how many queries it took."""

    curve: Curve
    queries: int


def judged(judge: Judge, strip: Strip, out: Path, scale: Scale | None = None) -> Judged:
    """The progress curve of a strip whose frames are in time order, on the scale of `scale` where it has frames.

    Raises:
        DataError: A picture cannot be read.
    """
    scale, n = scale or Scale(), len(strip.images)
    found = judge.answers(beside(strip, scale), pairs_of(n, len(scale.images)), out)
    return Judged(curve(n, found, scale.positions, between=scale.between), 2 * len(found))


def compared(judge: Judge, strip: Strip, positions: Sequence[float], out: Path) -> tuple[Comparison, ...]:
    """The comparisons of reference frames, which are the pictures of `strip`, with each other."""
    found = judge.answers(strip, reference_pairs(positions), out)
    return tuple(Comparison(*places, *outcome(both)) for places, both in found)


def beside(strip: Strip, scale: Scale) -> Strip:
    """The strip with the reference frames behind its own, under numbers that no frame of it has."""
    if not scale.images:
        return strip
    first, n = max(strip.frames) + 1, len(scale.images)
    truth = (*(strip.truth or (None,) * len(strip.images)), *(scale.truth or (None,) * n))
    return dataclasses.replace(
        strip,
        images=(*strip.images, *scale.images),
        frames=(*strip.frames, *range(first, first + n)),
        seconds=(),
        truth=truth if any(value is not None for value in truth) else (),
    )


def _pair(strip: Strip, first: int, second: int) -> Pair:
    """A pair of the strip; where both are equally far in truth neither is closer, which only an oracle knows."""
    pair = strip.pair(first, second)
    alike = bool(strip.truth) and strip.truth[first] is not None and strip.truth[first] == strip.truth[second]
    return dataclasses.replace(pair, closer="neither") if alike else pair


def _keep_whole_batches(path: Path, size: int) -> None:
    """Drop the responses of a batch that a killed run had not written whole."""
    if path.is_file():
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line end was cut
        kept = lines[: len(lines) // size * size]
        if len(kept) < len(lines):
            artefacts.write_bytes(path, b"".join(line + b"\n" for line in kept))
