"""A strip of frames -> values by methods that need no training and no pairs: what a user could take instead.

gvl: the frames in random order beside the first one, of which the model is told that 0 % is done; it writes a
percentage for each. After Ma et al. 2024, Vision Language Models are In-Context Value Learners, arXiv 2411.04549.

topreward: for each beginning of the video, the log-probability of the token that says that the instruction is done.
After Chen et al. 2026, TOPReward: Token Probabilities as Hidden Zero-Shot Rewards for Robotics, arXiv 2602.19313. Their
values are scaled to 0..1 within each episode, after which a failed episode ends at 1 too; here they are not.

Both are written from the papers' descriptions: prompts, parsing and the numbers of frames are ours, and no examples are
given in the prompt. Their published figures are of other prompts and much larger models.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import nearest, read_yaml
from stcr_plugin.engines.prompts import PROMPT_VARIANTS
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError
from stcr_plugin.evaluation.asking import Asked, asked_about
from stcr_plugin.evaluation.rank import VOC, correlated, valued, written
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.evaluation.strips import Strip
from stcr_plugin.rankings import Ranking, StripCorrelations, ValueOrder
from stcr_plugin.samples.group_texts import names
from stcr_plugin.samples.questions import fill_task
from stcr_plugin.scoring.percentages import percentages
from stcr_plugin.scoring.rank_correlation import correlation
from stcr_plugin.types import Prompt, Response, Shown

QUESTIONS = PROMPT_VARIANTS / "values.yaml"
MEANINGS: Mapping[str, str] = {
    "voc": "rank correlation of the values with time",
    "vroc": "the same with the values that the frames get in the reversed video; +1 is right here too",
    "voc_f1": "harmonic mean of the two; 0 where one of them is not above 0",
    "voc_both": "rank correlation with time of the mean of the values from both directions",
}
_LEAST = -1000.0  # log-probability, in place of minus infinity, which JSON has not
_OF_PAIRS = ("style", "part", "warn")  # settings that these questions do not have


@dataclass(frozen=True)
class Values:
    """What a method gives to the frames of a strip, in the strip's order.

    Attributes:
        scores: What the method reads: a share 0..1, or a log-probability.
        progress: The same as a share 0..1.
        unread: How many frames got none, and so the mean of the others.
    """

    scores: tuple[float, ...]
    progress: tuple[float, ...]
    unread: int


@dataclass(frozen=True)
class _Played:
    """A strip in one direction: `line` has its positions in the order played, `places` their ranks in the truth."""

    strip: Strip
    line: tuple[int, ...]
    item: str
    places: tuple[int, ...]

    def prompt(self, shown: Sequence[int], **more: Any) -> Prompt:
        """A prompt that shows the frames at these positions; the truth is in its id alone, which engines do not get."""
        return Prompt(
            item=self.item,
            episode_id=self.strip.episode_id,
            order="-".join(str(self.places[place]) for place in shown),
            shown=tuple(Shown(self.strip.images[place]) for place in shown),
            **more,
        )


@dataclass(frozen=True)
class _Method:
    """How the frames of a played strip are asked about, and what the responses say of them.

    Attributes:
        prompts: Of a played strip, with settings and seed.
        read: (score, progress) of each position of the strip that gets one.
    """

    prompts: Callable[[_Played, AskSettings, int], list[Prompt]]
    read: Callable[[_Played, Sequence[Response], int], dict[int, tuple[float, float]]]


def rank_values(request: EvalRequest, strip: Strip, out: Path, *, method: str) -> Ranking:
    """Order the frames of `strip` by the values of a method, in the files of `rank.rank_frames`.

    Args:
        request: Model or engine, settings and seed; the data are those of the strip.
        strip: The pictures, in time order.
        out: Folder of the results.
        method: A key of METHODS.

    Raises:
        ConfigError: The settings, the engine or the strip do not fit the method.
        DataError: A picture cannot be read.
    """
    asked, pictures = asked_about(request, [strip], out)
    with artefacts.locked(out / ".lock"):
        (found,) = _values(asked, [_played(strip)], method, pictures=pictures)
        placed = valued(strip, {"progress": found.progress, "score": found.scores})
        n = len(strip.images)
        lost = f" {found.unread} of {n} frames got no value that could be read." if found.unread else ""
        words = f"{n} frames by {method}: {placed.words}.{lost}"
        return written(dataclasses.replace(placed, words=words, method=method, unread=found.unread), asked, out)


def order_values(request: EvalRequest, strips: Sequence[Strip], out: Path, *, method: str) -> ValueOrder:
    """How well the values of a method agree with time, in the video and in the reversed one, as `rank.value_order`.

    Reversed, the last frame is the first one: gvl calls it 0 % done, and topreward's beginnings start with it.
    """
    asked, pictures = asked_about(request, strips, out)
    played = [_played(strip, reverse) for strip in strips for reverse in (False, True)]
    with artefacts.locked(out / ".lock"):
        found = _values(asked, played, method, pictures=pictures)
        rows = [_row(*one) for one in zip(strips, found[::2], found[1::2], strict=True)]
        result = dataclasses.replace(
            correlated(rows, asked, request),
            method=method,
            meanings=MEANINGS,
            unread=sum(one.unread for one in found),
        )
        result.write(out / VOC)
    return result


def _row(strip: Strip, forward: Values, backward: Values) -> StripCorrelations:
    time = range(len(strip.images))
    both = [sum(values) for values in zip(forward.scores, backward.scores, strict=True)]
    return StripCorrelations(
        strip.episode_id,
        strip.task,
        strip.frames,
        voc=correlation(forward.scores, time),
        vroc=correlation(backward.scores, time),
        voc_both=correlation(both, time),
    )


def _played(strip: Strip, reverse: bool = False) -> _Played:
    everything = range(len(strip.images))
    group = strip.group(everything)
    places = tuple(group.frames.index(frame) for frame in strip.frames)
    return _Played(strip, tuple(everything[::-1] if reverse else everything), group.group_id, places)


def _values(asked: Asked, played: Sequence[_Played], method: str, *, pictures: Mapping[str, str]) -> list[Values]:
    """The values of each strip as it is played."""
    if method not in METHODS:
        raise ConfigError("--method", f"unknown method {method!r}", nearest(method, list(METHODS)))
    for name in _OF_PAIRS:
        if getattr(asked.settings, name) != getattr(AskSettings, name):
            raise ConfigError(f"--method {method}", f"its question has no {name!r}", "leave it out")
    of = METHODS[method]
    prompts = [of.prompts(one, asked.settings, asked.seed) for one in played]
    responses = iter(asked.responses([prompt for some in prompts for prompt in some], pictures))
    found = []
    for one, some in zip(played, prompts, strict=True):
        read = of.read(one, [next(responses) for _ in some], asked.seed)
        mean = [sum(side) / len(read) for side in zip(*read.values(), strict=True)] if read else [0.5, 0.5]
        scores, progress = zip(*(read.get(place, mean) for place in range(len(one.line))), strict=True)
        found.append(Values(scores, progress, len(one.line) - len(read)))
    return found


# ---- the methods


@cache
def _questions() -> dict[str, Any]:
    return read_yaml(QUESTIONS)


def _question(kind: str, language: str) -> dict[str, Any]:
    known: dict[str, dict[str, Any]] = _questions()[kind]
    if language not in known:
        raise ConfigError("language", f"no such question in {language!r}", nearest(language, list(known)))
    return known[language]


def _drawn(played: _Played, seed: int) -> list[int]:
    """Its positions in the random order in which they are shown."""
    random = artefacts.rng("shuffled frames", seed, played.item, played.line[0])
    return [played.line[int(number)] for number in random.permutation(len(played.line))]


def _percentage_prompts(played: _Played, settings: AskSettings, seed: int) -> list[Prompt]:
    """One prompt: the first frame, then all of them in random order. It is always generated, as each frame's line."""
    asked = _question("percentages", settings.language)
    called = names(len(played.line))
    return [
        played.prompt(
            [played.line[0], *_drawn(played, seed)],
            labels=(asked["start"], *called),
            question=fill_task(asked["question"].replace("{names}", ", ".join(called)), played.strip.task),
            names=called,
            answer="{percents}",
            reasons=True,
        )
    ]


def _percentages(played: _Played, responses: Sequence[Response], seed: int) -> dict[int, tuple[float, float]]:
    (response,) = responses
    found = percentages(response.text, names(len(played.line)))
    shares = {place: value / 100 for place, value in zip(_drawn(played, seed), found, strict=True) if value is not None}
    return {place: (share, share) for place, share in shares.items()}


def _statement_prompts(played: _Played, settings: AskSettings, seed: int) -> list[Prompt]:
    """One prompt for each beginning, which shows all of its frames."""
    if not played.strip.seconds:
        raise ConfigError("--method topreward", "needs the order of the pictures in time", "give an episode or a video")
    if settings.generate:
        raise ConfigError(
            "--method topreward",
            "needs log-probabilities, which generated answers do not have",
            "use --engine local, or a server with --set engine.logprobs=true, without --generate",
        )
    asked = _question("statement", settings.language)
    return [
        played.prompt(
            played.line[:end],
            labels=names(end),
            question=fill_task(asked["question"], played.strip.task),
            names=tuple(asked["names"]),
            answer="{name}",
        )
        for end in range(1, len(played.line) + 1)
    ]


def _log_probabilities(played: _Played, responses: Sequence[Response], seed: int) -> dict[int, tuple[float, float]]:
    found = {}
    for place, response in zip(played.line, responses, strict=True):
        if not response.logprobs:
            raise ConfigError("--method topreward", "needs log-probabilities, which this engine does not give")
        value = max(_LEAST, next(iter(response.logprobs.values())))
        found[place] = (value, min(1.0, math.exp(value)))
    return found


METHODS: Mapping[str, _Method] = {
    "gvl": _Method(_percentage_prompts, _percentages),
    "topreward": _Method(_statement_prompts, _log_probabilities),
}
