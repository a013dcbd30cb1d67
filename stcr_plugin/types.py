"""The frozen dataclasses that cross the rooms' borders, and the conventions of time and shape.

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
Change = Literal["", "mirror", "blank", "noise"]
State = Mapping[str, Any]
"""The true state of one frame as its source records it: name -> number, word or truth value."""


@dataclass(frozen=True)
class Segment:
    """Part of an episode with its own task text: frames [start, end) at the native rate."""

    task: str
    start: int
    end: int


@dataclass(frozen=True)
class Episode:
    """One demonstration. `segments` is never empty: without annotation it is the whole episode.

    `episode_id` is unique within its source and safe as a file name. `group` names the population the
    episode was drawn from (tabletop: such as "seen" looks) and `object` what is handled ("" where the source
    does not say), for split rules to select on.
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
    """Something set aside instead of used: what, where it stands, and why. Counted in the manifest."""

    what: str
    where: str
    reason: str


@dataclass(frozen=True)
class Omission(Exclusion):
    """An Exclusion that nobody can mend, such as a draw that a simulator made again: it never stops a build."""


@dataclass(frozen=True)
class Claim:
    """One machine-checkable statement about one frame, e.g. Claim("gripper", "open")."""

    name: str
    value: str | int


class EpisodeSource(Protocol):
    """Where episodes come from. A new source implements these five and nothing else."""

    kind: str

    def episodes(self) -> Iterator[Episode | Exclusion]:
        """Every episode in recorded order, without decoding a picture; what cannot be used as an Exclusion."""
        ...

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[Picture]:
        """The pictures at strictly ascending `indices`, in that order. Raises DataError for an unreadable one."""
        ...

    def states(self, episode: Episode) -> Sequence[State] | None:
        """One State a frame, or None where the source records none.

        Keys that every room may rely on where present: "motion" (how much moves between this frame and the
        next, 0..1 of the episode's fastest), "phase" (a word) and "progress" (a number, greater is closer to the
        task's completion; None where the truth does not say).
        """
        ...

    def claims(self, state: State) -> tuple[Claim, ...]:
        """What the state lets one say of a frame, in the order to say it."""
        ...

    def holds(self, claim: Claim, state: State) -> bool:
        """Whether `claim` is true of `state`; written against the raw state, not by calling `claims`."""
        ...


@dataclass(frozen=True)
class GivenPair:
    """A pair that a source brings with it, as its publishers chose it: frames earlier < later of one episode.

    `orders` are those in which it was published. `descriptions` are the published texts of the earlier and of
    the later picture, "" where there is none; nothing in them can be checked by a machine.
    """

    earlier: int
    later: int
    task: str
    closer: Closer = "later"
    orders: tuple[Order, ...] = ORDERS
    descriptions: tuple[str, str] = ("", "")


@runtime_checkable
class PairSource(EpisodeSource, Protocol):
    """A source whose pairs are given, so that the same rows are used as by others; pair rules do not apply."""

    def given_pairs(self, episode: Episode) -> Sequence[GivenPair]:
        """The pairs of `episode`, in published order, none twice; a pair's task is that of one of its segments."""
        ...


@dataclass(frozen=True)
class Pair:
    """Two frames of one segment, earlier < later. It knows which is closer to completion.

    `orders` are those that may be shown in training: both, but for pairs that were published in one. `phase` is
    "approach" where both frames share a phase, "approach>lift" where they do not, "" where the source has none. The
    image paths are relative to the registry folder and empty until frames are written.
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
    """A pair put to a model in one order: forward shows earlier then later, backward swaps them."""

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
class Sample:
    """A query with its prompt and target text. `prompt` holds one `<image>` an image, then the question."""

    query: Query
    kind: Literal["cot", "weak"]
    prompt: str
    target: str


@dataclass(frozen=True)
class Shown:
    """A picture as a model is shown it: a path relative to the registry folder, and what is done to it first.

    mirror: left and right change places. blank: all of it one middle grey. noise: uniform random pixels, the same for
    the same path. A blank or noise picture keeps its size.
    """

    image: str
    change: Change = ""


@dataclass(frozen=True)
class Prompt:
    """A query as it is put to a model, to the last word.

    item: what is asked about, a pair_id or the id of a group of frames; with `order` it is unique in one evaluation.
    shown: the pictures in their order, none for text alone. labels: what stands straight before each of them ("img1").
    question: what follows the last picture. names: the answers that count, one a picture in their order, then
    "neither" where it is offered. answer: the line in which one is given, `{name}` in it. reasons: the model is let
    reason before it answers. begin: what its own turn is made to begin with, such as a reasoning that is given to it.
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


@dataclass(frozen=True)
class Response:
    """What a model made of one prompt: the text it wrote, or the log-probability of each name that was compared.

    logprobs: name -> natural logarithm; empty where the model was left to write. Tokens are None where not counted.
    """

    text: str
    logprobs: Mapping[str, float] = field(default_factory=dict)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a model said to one query. `chosen` is None where the text names no image or both (unparsed).

    Log-probabilities (natural log) are of the answers that were compared, None where they were not.
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

    @property
    def right(self) -> bool:
        return self.chosen == self.expected
