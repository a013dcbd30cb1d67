"""The frozen dataclasses that the parts of the package exchange, and the conventions of time and shape.

Time: a frame is named by its index at the episode's native rate, from 0; seconds are index / fps.
Ranges are half-open, [start, end). Pictures are uint8 arrays of shape [height, width, 3], RGB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Picture = npt.NDArray[np.uint8]

Order = Literal["forward", "backward"]
ORDERS: tuple[Order, Order] = ("forward", "backward")
Closer = Literal["earlier", "later", "neither"]
Choice = Literal["img1", "img2", "neither"]
Change = Literal["", "mirror", "blank", "noise", "mask change", "mask elsewhere", "mask border", "swap rest"]
Lost = Literal["", "cut", "refused", "garbled", "failed"]
"""Why a response may be no answer: stopped at the most tokens, refused, with half a character, or it never came."""
State = Mapping[str, Any]
"""The true state of one frame as its source records it: name -> number, word or boolean."""


def under(state: State, task: str) -> State:
    """The state as it is for one of an episode's tasks.

    A source whose pictures serve several tasks records under "tasks" what is different for each: text -> values.
    """
    own = state.get("tasks", {}).get(task)
    return {**state, **own} if own else state


@dataclass(frozen=True)
class Segment:
    """Part of an episode with its own task text: frames [start, end) at the native rate."""

    task: str
    start: int
    end: int


@dataclass(frozen=True)
class Episode:
    """One demonstration.

    Attributes:
        source: Kind of its source.
        episode_id: Unique within its source and safe as a file name.
        task: What is being done, in words.
        fps: Native frame rate.
        segments: Never empty: without annotation, the whole episode.
        group: The population that it was drawn from, such as "seen", for split rules to select on.
        object: What is handled, "" where unknown, for split rules too.
    """

    source: str
    episode_id: str
    task: str
    fps: float
    n_frames: int
    segments: tuple[Segment, ...]
    group: str = ""
    object: str = ""


@dataclass(frozen=True)
class Exclusion:
    """Something skipped: what, where, and why. Reasons are counted in the manifest, so equal ones have equal texts."""

    what: str
    where: str
    reason: str


@dataclass(frozen=True)
class Omission(Exclusion):
    """An Exclusion that nobody can fix, such as a draw that a simulator made again: it never stops a build."""


@dataclass(frozen=True)
class Claim:
    """One machine-checkable statement about one frame, such as Claim("gripper", "open")."""

    name: str
    value: str | int


class EpisodeSource(Protocol):
    """Where episodes come from. A new source implements `kind` and these five methods."""

    kind: str

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """Every episode in recorded order, without decoding a picture; an Exclusion for each that cannot be used."""
        ...

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        """The pictures at strictly ascending `indices`, in that order, uint8 [height, width, 3].

        Raises:
            DataError: For a picture that cannot be read.
        """
        ...

    def states(self, episode: Episode) -> Sequence[State] | None:
        """One State per frame, or None where the source records none.

        Keys with a meaning for pair rules and evaluations: "motion" (how much moves between this frame and the next,
        0..1 of the episode's fastest), "phase" (a word), "progress" (a number, greater is closer to the task's
        completion; None where it is unknown), "stage" (what is being done, as it was annotated; None where nothing
        says it, so that the frame may give no claim) and "tasks" (task text -> what is different for it, see `under`).
        """
        ...

    def claims(self, state: State) -> tuple[Claim, ...]:
        """What can be said of a frame with that state, in the order to say it."""
        ...

    def holds(self, claim: Claim, state: State) -> bool:
        """Whether `claim` is true of `state`; written against the raw state, not by calling `claims`."""
        ...


@dataclass(frozen=True)
class GivenPair:
    """A pair that a source brings with it, as its publishers chose it: frames earlier < later of one episode.

    Attributes:
        task: Text of one of the episode's segments.
        orders: The orders in which it was published.
        descriptions: The published texts of the earlier and the later picture, "" where there is none; nothing in
            them can be checked by a machine.
    """

    earlier: int
    later: int
    task: str
    closer: Closer = "later"
    orders: tuple[Order, ...] = ORDERS
    descriptions: tuple[str, str] = ("", "")


@runtime_checkable
class PairSource(EpisodeSource, Protocol):
    """A source that brings its own pairs, so that the same rows are used as by others; pair rules do not apply."""

    def given_pairs(self, episode: Episode) -> Sequence[GivenPair]:
        """The pairs of `episode`, in published order, none twice; a pair's task is that of one of its segments."""
        ...


@dataclass(frozen=True)
class Pair:
    """Two frames of one segment, earlier < later, and which of them is closer to completion.

    Attributes:
        pair_id: `<episode_id>:<earlier>-<later>`; where two tasks have a pair of the same frames, with `:<number>` of
            the segment.
        task: Text of the segment.
        seconds: Distance in time.
        orders: The orders that training may show: both, except for pairs that were published in one.
        phase: "approach" where both frames share a phase, "approach>lift" where not, "" where the source has none.
        earlier_image: Path relative to the registry folder, as `later_image`; empty until pictures are written.
    """

    pair_id: str
    episode_id: str
    split: str
    task: str
    earlier: int
    later: int
    seconds: float
    closer: Closer = "later"
    orders: tuple[Order, ...] = ORDERS
    phase: str = ""
    earlier_image: str = ""
    later_image: str = ""

    @property
    def distance(self) -> int:
        """Distance in native frames."""
        return self.later - self.earlier


@dataclass(frozen=True)
class Query:
    """A pair shown to a model in one order: forward shows earlier then later, backward swaps them."""

    pair: Pair
    order: Order

    @property
    def images(self) -> tuple[str, str]:
        """Paths of img1 and img2, relative to the registry folder."""
        pair = self.pair
        shown = (pair.earlier_image, pair.later_image)
        return shown if self.order == "forward" else (shown[1], shown[0])

    @property
    def answer(self) -> Choice:
        """The image that is closer to completion, or neither."""
        if self.pair.closer == "neither":
            return "neither"
        closer_is_second = (self.pair.closer == "later") == (self.order == "forward")
        return "img2" if closer_is_second else "img1"


@dataclass(frozen=True)
class Group:
    """Three to eight frames of one segment, the farthest from completion first.

    Attributes:
        group_id: `<episode_id>:<frame>-<frame>-...`.
        images: Those of `frames`, relative to the registry folder.
    """

    group_id: str
    episode_id: str
    task: str
    frames: tuple[int, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """A query with its target text.

    Attributes:
        kind: cot: the target describes the pictures first. reflect: it judges a proposed answer and says why.
        prompt: One `<image>` per image, then the question.
    """

    query: Query
    kind: Literal["cot", "weak", "reflect"]
    prompt: str
    target: str


@dataclass(frozen=True)
class Shown:
    """A picture as it is shown to a model.

    Attributes:
        image: Path relative to the registry folder.
        change: What is done to it first; its size stays. mirror: left and right change places. blank: all of it one
            middle grey. noise: uniform random pixels, the same for the same path. The rest: see picture_changes.
        other: The other picture of a pair, for a change that compares the two.
    """

    image: str
    change: Change = ""
    other: str = ""


@dataclass(frozen=True)
class Prompt:
    """A query as it is shown to a model, with all of its text.

    Attributes:
        item: A pair_id or the id of a group of frames; with `order` it is unique in one evaluation.
        shown: The pictures in their order, none for text alone.
        labels: The text directly before each of them ("img1").
        question: The text after the last picture, or before the first one with `question_first`.
        names: The answers that count, one per picture in their order, then "neither" where it is offered.
        answer: The line that gives one, with `{name}` in it, or all in their order, with `{names}`, or a percentage
            for each, with `{percents}`.
        reasons: Whether the model may reason before it answers.
        begin: Start of the model's turn, such as a reasoning that is given to it.
    """

    item: str
    episode_id: str
    order: str
    shown: tuple[Shown, ...]
    labels: tuple[str, ...]
    question: str
    names: tuple[str, ...] = ("img1", "img2")
    answer: str = "closer to completion: {name}"
    reasons: bool = False
    begin: str = ""
    question_first: bool = False


@dataclass(frozen=True)
class Response:
    """A model's reply to one prompt.

    Attributes:
        text: What it wrote, or the answer line of the most likely name, "" for a tie.
        logprobs: Name -> natural log-probability of each answer that was compared; empty where the model wrote freely.
        prompt_tokens: None where not counted, as `completion_tokens`.
        lost: What the engine knows to be wrong with the text: "cut" before its end of turn, "refused" by a content
            filter or the model, "garbled" where half of a surrogate pair became the replacement character, "failed"
            where no reply came, which only an engine that goes on after it says.
    """

    text: str
    logprobs: Mapping[str, float] = field(default_factory=dict)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    lost: Lost = ""

    def __post_init__(self) -> None:
        whole = self.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if whole != self.text:  # halves that belong together are joined, one alone cannot be written to any file
            lost = "garbled" if "\ufffd" in whole else self.lost
            object.__setattr__(self, "text", whole)
            object.__setattr__(self, "lost", lost)


@dataclass(frozen=True)
class Answer:
    """A model's answer to one query. Log-probabilities are natural, and None where answers were not compared.

    Attributes:
        expected: The right answer.
        chosen: The image that was named, None where the text names no image or both (unparsed).
        text: What the model wrote.
        lost: Why `chosen` is None, where that is known.
    """

    pair_id: str
    episode_id: str
    order: Order
    expected: Choice
    chosen: Choice | None
    text: str
    logprob_img1: float | None = None
    logprob_img2: float | None = None
    logprob_neither: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    lost: Lost = ""

    @property
    def right(self) -> bool:
        """Whether the expected answer was given."""
        return self.chosen == self.expected
