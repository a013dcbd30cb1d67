"""Stages that a recording was annotated with: spans of its frames with a text, and what they let one claim of a frame.

A frame in no span has no stage, and nothing is claimed of it. How the spans are stored differs by source; what makes
them usable does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from stcr_plugin.config import settings
from stcr_plugin.episodes.recordings import check_text
from stcr_plugin.episodes.stored_values import is_empty, shown, single, whole
from stcr_plugin.types import Claim, Exclusion, State

Said = Literal["stage", "stage_of"]
_LONGEST = 10**9  # frames


@settings
class StageClaims:
    """Annotated stages as claims.

    Attributes:
        say: `stage`: what is being done, as it was annotated. `stage_of`: its number, as in 2/5, which is close to the
            label in other words.
    """

    say: tuple[Said, ...] = ("stage",)

    def __post_init__(self) -> None:
        check_said(self.say)


def check_said(say: Sequence[Said]) -> None:
    """Raises ValueError for a `say` that names nothing, or something twice."""
    if not say or len(set(say)) < len(say):
        raise ValueError(f"`say` names stage, stage_of or both, each once, got {list(say)}")


@dataclass(frozen=True)
class StageEntry:
    """A stage as it is stored, unchecked: `start` is its first frame, `end` the frame after its last.

    Attributes:
        problem: Why it is not even that.
    """

    text: Any = None
    start: Any = None
    end: Any = None
    problem: str = ""


@dataclass(frozen=True)
class StageSpan:
    """Frames [start, end) of an episode in which `text` is done; `number` from 1, 0 where that is not certain."""

    text: str
    start: int
    end: int
    number: int = 0


@dataclass(frozen=True)
class StageSpans:
    """The stages of one episode in order of time, none of which overlap.

    Attributes:
        count: How many were annotated, 0 where that is not certain.
        problems: What of the annotation cannot be used.
    """

    spans: tuple[StageSpan, ...] = ()
    count: int = 0
    problems: tuple[str, ...] = ()


def mapped_entries(items: Sequence[Any], texts: Sequence[str], *, start: str, end: str) -> list[StageEntry]:
    """The entries of a list of mappings, whose text is under the first of the keys `texts` that they have."""
    found = []
    for item in items:
        if isinstance(item, Mapping):
            text = next((item[key] for key in texts if key in item), None)
            found.append(StageEntry(text, item.get(start), item.get(end)))
        else:
            found.append(StageEntry(problem=f"a stage is {shown(item)}, not a mapping"))
    return found


def check_stages(entries: Sequence[StageEntry], n_frames: int) -> StageSpans:
    """The usable stages of an episode of `n_frames`. Each that is not becomes a problem; no frame is guessed.

    Of stages that overlap none is used, since nothing says which is right. A text that cannot be used keeps its
    place in the numbering; where a span is wrong, no stage of the episode has a number.
    """
    problems: list[str] = []
    placed: list[StageSpan] = []
    for entry in entries:
        try:
            start, end = _placed(entry, n_frames)
        except ValueError as error:
            problems.append(str(error))
            continue
        try:
            text = _sound_text(entry.text)
        except ValueError as error:
            problems.append(str(error))
            text = ""
        placed.append(StageSpan(text, start, end))
    placed.sort(key=lambda span: (span.start, span.end))
    clashing, clashes = _overlaps(placed)
    problems += clashes
    certain = len(placed) == len(entries) and not clashing
    numbered = [replace(span, number=number) for number, span in enumerate(placed, 1)] if certain else placed
    spans = tuple(span for position, span in enumerate(numbered) if span.text and position not in clashing)
    return StageSpans(spans, len(placed) if certain else 0, tuple(problems))


def exclusions(stages: StageSpans, where: str) -> Iterator[Exclusion]:
    """What of the stages cannot be used, to be counted."""
    for problem in stages.problems:
        yield Exclusion("stage", where, problem)


def add_stages(states: Sequence[State] | None, stages: StageSpans, n_frames: int) -> list[State]:
    """`states` of all frames of an episode, None for none, with what is known of their stages.

    Keys: `stage` (its text, None in no stage), `stage_number` and `stage_count` (None where not certain), `phase` (the
    stage's text, "" in none), unless the states have one, and for `holds` `frame` and `stages`, all of the episode's.
    """
    of: list[StageSpan | None] = [None] * n_frames
    for span in stages.spans:
        of[span.start : span.end] = [span] * (span.end - span.start)
    return [
        {
            "phase": "" if span is None else span.text.replace(">", "-"),  # ">" stands between two phases
            **({} if states is None else states[frame]),
            "stage": None if span is None else span.text,
            "stage_number": None if span is None else span.number or None,
            "stage_count": None if span is None else stages.count or None,
            "frame": frame,
            "stages": stages,
        }
        for frame, span in enumerate(of)
    ]


def claims(state: State, say: Sequence[Said]) -> tuple[Claim, ...]:
    """The claims of `say` for a state made by `add_stages`; none for a frame in no stage."""
    if state.get("stage") is None:
        return ()
    found = []
    for name in say:
        if name == "stage":
            found.append(Claim(name, str(state["stage"])))
        elif state["stage_number"] is not None:
            found.append(Claim(name, f"{state['stage_number']}/{state['stage_count']}"))
    return tuple(found)


def holds(claim: Claim, state: State) -> bool:
    """Whether a span with the claim's text, or number, covers the frame. False for a claim of another family."""
    stages, frame = state.get("stages"), state.get("frame")
    if not isinstance(stages, StageSpans) or frame is None:
        return False
    here = [span for span in stages.spans if span.start <= frame < span.end]
    if claim.name == "stage":
        return any(span.text == str(claim.value) for span in here)
    if claim.name == "stage_of":
        return any(span.number and claim.value == f"{span.number}/{stages.count}" for span in here)
    return False


def _placed(entry: StageEntry, n_frames: int) -> tuple[int, int]:
    """The frames [start, end) of an entry. Raises ValueError."""
    if entry.problem:
        raise ValueError(entry.problem)
    try:
        start, end = whole("start", entry.start, least=-_LONGEST), whole("end", entry.end, least=-_LONGEST)
    except ValueError as error:
        raise ValueError(f"a stage has no span: {error}") from None
    if start >= end:
        raise ValueError(f"a stage starts at frame {start} and ends before frame {end}, so it has no frame")
    if start < 0 or end > n_frames:
        raise ValueError(f"a stage is frames [{start}, {end}) of an episode of {n_frames}")
    return start, end


def _sound_text(value: Any) -> str:
    """The text of a stage on one line, without its full stop. Raises ValueError."""
    value = single(value)
    if is_empty(value):
        raise ValueError("a stage has no text")
    try:
        text = " ".join(check_text("text", value).split()).rstrip(".。 ")
    except ValueError as error:
        raise ValueError(f"the text of a stage cannot be used: {error}") from None
    if not text:
        raise ValueError("a stage has no text")
    return text


def _overlaps(spans: Sequence[StageSpan]) -> tuple[set[int], list[str]]:
    """The positions of sorted spans that overlap another one, and a reason for each pair of neighbours that do."""
    clashing: set[int] = set()
    reasons = []
    furthest = 0
    for position in range(1, len(spans)):
        before, span = spans[furthest], spans[position]
        if span.start < before.end:
            clashing |= {furthest, position}
            frames = f"[{span.start}, {min(span.end, before.end)})"
            reasons.append(f"the stages {shown(before.text)} and {shown(span.text)} overlap in frames {frames}")
        if span.end > before.end:
            furthest = position
    return clashing, reasons
