"""The result of annotating a split, summary.json, and what it is summed from: one account per chunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from stcr_plugin.result_files import Result
from stcr_plugin.samples.annotations import COLUMNS, PASSED, SAME_POSITION, UNCHECKED, VERDICTS, Annotation

Role = Literal["describer", "verifier"]
"""Of a model: it describes and judges, or it confirms and judges without pictures."""


@dataclass(frozen=True)
class Funnel:
    """One check: how many texts, or pairs of texts, it looked at, and reason -> how many failed for it."""

    asked: int = 0
    passed: int = 0
    unchecked: int = 0
    failed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RowFigures:
    """The figures of some rows.

    Attributes:
        pairs: That they are about.
        accepted_pairs: Pairs with an accepted row.
        same_position: Rows whose describing model named the same position in both orders.
        unanswered: Rows for which the server gave no reply; the same command asks for them again.
        checks: Check -> its funnel, over both texts where it is made for each.
        attempts: Attempt -> accepted rows.
        languages: Language -> accepted rows.
    """

    rows: int = 0
    pairs: int = 0
    accepted: int = 0
    accepted_pairs: int = 0
    suspect_labels: int = 0
    same_position: int = 0
    unanswered: int = 0
    checks: dict[str, Funnel] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Use:
    """What one model was asked.

    Attributes:
        requests: Prompts, each once however often it had to be sent.
        failed: Prompts without a reply.
        uncounted: Replies without a number of tokens.
    """

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0

    def __add__(self, other: Use) -> Use:
        return Use(*(one + another for one, another in zip(self._counts, other._counts, strict=True)))

    @property
    def _counts(self) -> tuple[int, ...]:
        return self.requests, self.failed, self.prompt_tokens, self.completion_tokens, self.uncounted


@dataclass(frozen=True)
class ChunkAccount(Result):
    """A finished chunk of rows.

    Attributes:
        digest: Of all that decides its rows.
        rows_digest: SHA-256 of its rows' file.
        unchecked: Check -> why it could not be made.
        use: Role of a model -> what it was asked.
        seconds: In the run that finished it.
    """

    file: ClassVar[str] = "chunk.json"
    command: ClassVar[str] = "stcr annotate"

    digest: str
    rows_digest: str
    figures: RowFigures
    unchecked: dict[str, str]
    use: dict[Role, Use]
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every prompt had a reply."""
        return not self.figures.unanswered and not any(one.failed for one in self.use.values())


@dataclass(frozen=True)
class ModelUse:
    """A model, its part in the work, what it was asked and what that cost; None without prices."""

    role: Role
    model: str
    use: Use
    cost: float | None = None


@dataclass(frozen=True)
class Estimate:
    """What the rest will take, by what the first pairs took.

    Attributes:
        pairs: On which it rests.
        left: Pairs that are left.
        tokens: Of prompts and of responses, None where they were not counted.
        cost: In the currency of the prices, None without them.
    """

    pairs: int
    left: int
    requests: int
    tokens: tuple[int, int] | None
    cost: float | None
    seconds: float


@dataclass(frozen=True)
class AnnotationSummary(Result):
    """What was annotated, with which figures, and what made it.

    Attributes:
        of: Pairs that were chosen; the rows are about the first `figures.pairs` of them.
        unchecked: Check -> why it was not made.
        describer: The describing model's name, as `verifier` of the second one.
        limit: As many pairs at most; None for all.
        seconds: That finished chunks took in the runs that finished them.
        manifest_digest: SHA-256 of the build's manifest.
        rows_digest: SHA-256 of annotations.jsonl.
        engines: Role -> the engine's identity.
    """

    file: ClassVar[str] = "summary.json"
    command: ClassVar[str] = "stcr annotate"

    dataset: str
    split: str
    of: int
    figures: RowFigures
    unchecked: dict[str, str]
    describer: str
    verifier: str
    models: tuple[ModelUse, ...]
    seconds: float
    settings: Mapping[str, Any]
    seed: int
    limit: int | None
    manifest_digest: str
    rows_digest: str
    engines: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether there are rows about all chosen pairs."""
        return self.figures.pairs == self.of


def reason_of(verdict: str) -> str:
    """A verdict without its details."""
    return verdict.partition(": ")[0]


def figures_of(rows: Sequence[Annotation], unanswered: str) -> RowFigures:
    """The figures of rows; a verdict `unanswered` says that no reply came."""
    checks = {name: [getattr(row, one) for one in columns for row in rows] for name, columns in COLUMNS.items()}
    accepted = [row for row in rows if row.accepted]
    return RowFigures(
        rows=len(rows),
        pairs=len({row.pair_id for row in rows}),
        accepted=len(accepted),
        accepted_pairs=len({row.pair_id for row in accepted}),
        suspect_labels=sum(row.suspect_label for row in rows),
        same_position=sum(row.judged == SAME_POSITION for row in rows),
        unanswered=sum(any(getattr(row, column) == unanswered for column in VERDICTS) for row in rows),
        checks={name: _funnel(verdicts) for name, verdicts in checks.items()},
        attempts=_counted(str(row.attempt) for row in accepted),
        languages=_counted(row.language for row in accepted),
    )


def _funnel(verdicts: Sequence[str]) -> Funnel:
    counts = Counter(map(reason_of, verdicts))
    unchecked, passed = counts.pop(UNCHECKED, 0), counts.pop(PASSED, 0)
    return Funnel(len(verdicts) - unchecked, passed, unchecked, dict(sorted(counts.items())))


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def joined(parts: Sequence[RowFigures]) -> RowFigures:
    """The figures of the rows of several chunks, which share no pair."""
    names = list(dict.fromkeys(name for part in parts for name in part.checks))
    whole = {
        name: sum(getattr(part, name) for part in parts)
        for name in ("rows", "pairs", "accepted", "accepted_pairs", "suspect_labels", "same_position", "unanswered")
    }
    return RowFigures(
        **whole,
        checks={name: _joined_funnel([part.checks.get(name, Funnel()) for part in parts]) for name in names},
        attempts=_added(part.attempts for part in parts),
        languages=_added(part.languages for part in parts),
    )


def _joined_funnel(parts: Sequence[Funnel]) -> Funnel:
    asked, passed, unchecked = (sum(getattr(one, name) for one in parts) for name in ("asked", "passed", "unchecked"))
    return Funnel(asked, passed, unchecked, _added(one.failed for one in parts))


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found = Counter[str]()
    for one in counts:
        found.update(one)
    return dict(sorted(found.items()))
