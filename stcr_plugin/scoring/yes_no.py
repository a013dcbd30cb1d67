"""Responses to yes/no questions -> answers and figures, as POPE defines them (Li et al. 2023, arXiv 2305.10355)."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stcr_plugin.figures import Difference, GuardKind, Intervals, YesNoFigures
from stcr_plugin.samples.general import Label, Question
from stcr_plugin.scoring import metrics
from stcr_plugin.scoring.parsing import why_lost
from stcr_plugin.scoring.reasoning import behind_reasoning, tagged
from stcr_plugin.types import Response


@dataclass(frozen=True)
class Reply:
    """A question with what was chosen; None where the text says neither yes nor no, or both."""

    question: Question
    chosen: Label | None
    said: Response

    @property
    def right(self) -> bool:
        return self.chosen == self.question.label


def reply(question: Question, response: Response, names: tuple[str, str]) -> Reply:
    """What `response` chooses: the likelier of `names` (yes, no) where they were compared, else what its text says."""
    return Reply(question, label_in(response, names), response)


def label_in(response: Response, names: tuple[str, str]) -> Label | None:
    """The likelier of `names` (yes, no) where they were compared, else what the text says; None for none or both."""
    if response.logprobs:  # without a text both were equally likely
        yes, no = (response.logprobs[name] for name in names)
        return None if yes == no else "yes" if yes > no else "no"
    return None if response.lost in ("refused", "garbled") else parse(response.text)


_YES = re.compile(r"(?<![a-z])yes(?![a-z])|是|有")
_NO = re.compile(r"(?<![a-z])(?:no|not)(?![a-z])|n't(?![a-z])|否|没有|不")


def parse(text: str) -> Label | None:
    """Whether `text` says yes or no, in English or Chinese; None where it says neither.

    Read behind any reasoning and inside an `<answer>` tag (see scoring.reasoning). A word that it begins with decides;
    else its first line that has words, where that says one of them and not the other. POPE's own script takes every
    answer that does not say no or not for a yes; this does not.
    """
    plain = behind_reasoning(unicodedata.normalize("NFKC", text))
    if plain is None:
        return None
    held = tagged(plain)
    plain = (held[0] if held else plain).lower().replace("’", "'")
    line = next((line.strip(" \t\"'`*_>#-.") for line in plain.splitlines() if line.strip(" \t\"'`*_>#-.")), "")
    if found := re.match(r"(yes|no)(?![a-z])(?!\s+or\s)|(是|有)(?![否没不])|(否|没有|不)", line):
        return "yes" if found[1] == "yes" or found[2] else "no"
    no = bool(_NO.search(line))
    yes = bool(_YES.search(_NO.sub(" ", line.replace("不是", "不"))))
    return None if yes == no else "yes" if yes else "no"


_RATIOS: Mapping[str, Callable[[Mapping[str, int]], tuple[int, int]]] = {
    "accuracy": lambda n: (n["tp"] + n["tn"], n["n"]),
    "precision": lambda n: (n["tp"], n["yes"]),
    "recall": lambda n: (n["tp"], n["there"]),
    "f1": lambda n: (2 * n["tp"], n["yes"] + n["there"]),
    "yes_ratio": lambda n: (n["yes"], n["n"]),
    "unparsed_rate": lambda n: (n["unparsed"], n["n"]),
}
"""Figure -> (part, whole) of it, with yes as the positive answer."""


def figures(replies: Sequence[Reply]) -> YesNoFigures:
    """The figures of POPE, in percent."""
    counts = _counts(replies)
    ratios = {key: ratio(counts) for key, ratio in _RATIOS.items()}
    lost = [why_lost(one.said) for one in replies if one.chosen is None]
    return YesNoFigures(
        **{key: 100 * part / whole if whole else None for key, (part, whole) in ratios.items()},
        cut_rate=100 * lost.count("cut") / max(1, len(replies)),
        refused_rate=100 * lost.count("refused") / max(1, len(replies)),
    )


def intervals(replies: Sequence[Reply], resamples: int = 2000, seed: int = 0) -> Intervals:
    """95 % interval of each figure, by the bootstrap over pictures (metrics.pooled_interval); some may have none."""
    pictures = {picture: _counts(group) for picture, group in _by_picture(replies).items()}
    found = {
        key: metrics.pooled_interval({name: ratio(counts) for name, counts in pictures.items()}, resamples, seed)
        for key, ratio in _RATIOS.items()
    }
    return {key: bounds for key, bounds in found.items() if bounds}


def by_kind(replies: Sequence[Reply], resamples: int, seed: int) -> dict[str, GuardKind]:
    """Kind of negatives -> its figures; "all" has a question once per kind that it belongs to, so it is balanced."""
    return {
        kind: GuardKind(len(group), figures(group), intervals(group, resamples, seed))
        for kind, group in _kinds(replies).items()
    }


def constant_figures(replies: Sequence[Reply]) -> dict[Label, YesNoFigures]:
    """What always saying yes, and always saying no, gets to the same questions."""
    every = _kinds(replies)["all"]
    labels: tuple[Label, Label] = ("yes", "no")
    return {label: figures([dataclasses.replace(one, chosen=label) for one in every]) for label in labels}


def differences(replies: Sequence[Reply], first: Sequence[Reply], resamples: int, seed: int) -> dict[str, Difference]:
    """Kind -> accuracy of `replies` minus that of `first` on the same questions, with its interval over pictures."""
    before = {one.question.item: one.right for one in first}
    found = {}
    for kind, group in _kinds(replies).items():
        sums = {
            picture: (sum(one.right - before[one.question.item] for one in own), len(own))
            for picture, own in _by_picture(group).items()
        }
        lead = sum(part for part, _ in sums.values())
        found[kind] = Difference(100 * lead / len(group), metrics.pooled_interval(sums, resamples, seed))
    return found


def _counts(replies: Sequence[Reply]) -> dict[str, int]:
    pairs = Counter((reply.question.label, reply.chosen) for reply in replies)
    return {
        "n": len(replies),
        "there": sum(count for (label, _), count in pairs.items() if label == "yes"),
        "yes": sum(count for (_, chosen), count in pairs.items() if chosen == "yes"),
        "unparsed": sum(count for (_, chosen), count in pairs.items() if chosen is None),
        "tp": pairs["yes", "yes"],
        "tn": pairs["no", "no"],
    }


def _by_picture(replies: Sequence[Reply]) -> dict[str, list[Reply]]:
    found: dict[str, list[Reply]] = {}
    for one in replies:
        found.setdefault(one.question.picture, []).append(one)
    return found


def _kinds(replies: Sequence[Reply]) -> dict[str, list[Reply]]:
    kinds = dict.fromkeys(kind for one in replies for kind in one.question.kinds)
    groups = {kind: [one for one in replies if kind in one.question.kinds] for kind in kinds}
    return groups | {"all": [one for group in groups.values() for one in group]}
