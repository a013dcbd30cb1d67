"""Decisions about contradicted pairs in a build: such pairs are left out, taught as ties, or kept.

The file is read once, before a pair is drawn, and a copy goes into the staging folder, so that all workers follow the
same decisions, and one that is edited meanwhile changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry.annotated_texts import same_pictures
from stcr_plugin.registry.contradictions import Contradiction, Decision, pairs_digest, read_contradictions
from stcr_plugin.registry.data_config import DataConfig, file_digest
from stcr_plugin.registry.manifest import RefinedPairs
from stcr_plugin.registry.receipts import Context, Decisions, Staged
from stcr_plugin.types import Exclusion, Pair

_STAGED = "refine.jsonl"


def stage_decisions(config: DataConfig, staging: Path) -> None:
    """Copy the decisions of `pairs.refine` into the staging folder.

    Raises:
        ConfigError: For a file that is missing or was made for other pairs, and for ties that the build would drop.
        DataError: For a row that cannot be read, and two about one pair.
    """
    if config.pairs.refine is None:
        return
    file = config.pairs.refine.file
    if not Path(file).is_file():
        fix = "run `stcr data refine`, or give the path from the folder in which the build is started"
        raise ConfigError("pairs.refine.file", f"{file}: no such file", fix)
    rows = list(read_contradictions(file))
    own = pairs_digest(config)
    for number, row in enumerate(rows, 1):
        if row.pairs_digest != own:
            raise ConfigError(
                "pairs.refine.file",
                f"{file}, row {number}, is about a pair of the build {row.build!r} with seed {row.seed}, which draws "
                "other pairs than this configuration",
                "give the file of a build with the same source, seed and pairs, or run `stcr data refine` again",
            )
    twice = [pair_id for pair_id, count in Counter(row.pair_id for row in rows).items() if count > 1]
    if twice:
        raise DataError(file, f"has two rows about pair {min(twice)}", "delete one of them")
    ties = sum(row.decision == "tie" for row in rows)
    if ties and config.pairs.ties != "teach":
        problem = f"{file} makes ties of {ties} pairs, and this build drops ties"
        raise ConfigError("pairs.ties", problem, "set pairs.ties: teach, or write drop for tie in the file")
    artefacts.write_jsonl(staging / _STAGED, [row.row() for row in rows])


def staged_decisions(config: DataConfig, staging: Path) -> Decisions:
    """Pair id -> the row about it, as `stage_decisions` wrote them."""
    if config.pairs.refine is None:
        return {}
    return {row.pair_id: row for row in read_contradictions(staging / _STAGED)}


@dataclass(frozen=True)
class Refined:
    """The pairs of an episode without those that are left out.

    Attributes:
        pairs: In their order, labels as drawn.
        decided: Pair id -> what was decided of it.
        excluded: Decisions that are not followed, since they are about other pictures.
    """

    pairs: list[Pair]
    decided: dict[str, Decision]
    excluded: tuple[Exclusion, ...] = ()


def refine(context: Context, pairs: Sequence[Pair], prints: Mapping[int, str]) -> Refined:
    """Follow the decisions about the pairs of one episode.

    A decision is about a pair of the same id, split, task and label that shows the pictures which were judged.

    Args:
        context: Of the build.
        pairs: Of one episode, as drawn.
        prints: Frame -> fingerprint of its picture, "" where none is stored.
    """
    decided: dict[str, Decision] = {}
    excluded: list[Exclusion] = []
    for pair in pairs:
        row = context.decisions.get(pair.pair_id)
        if row is None or (row.split, row.task, row.closer) != (pair.split, pair.task, pair.closer):
            continue
        if _is_of(row, (prints[pair.earlier], prints[pair.later]), context.place.pictures):
            decided[pair.pair_id] = row.decision
        else:
            where = f"episode {pair.episode_id}, frames {pair.earlier}-{pair.later}"
            excluded.append(Exclusion("decision", where, "its pictures are not those that were judged in pairs.refine"))
    return Refined([pair for pair in pairs if decided.get(pair.pair_id) != "drop"], decided, tuple(excluded))


def _is_of(row: Contradiction, shown: tuple[str, str], pictures: str) -> bool:
    stored = (row.earlier_fingerprint, row.later_fingerprint)
    return same_pictures(stored, shown, same_store=row.earlier_image.startswith(f"{pictures}/"))


def refined_pairs(context: Context, staged: Staged) -> RefinedPairs | None:
    """What became of the file's rows; None where the configuration names no file."""
    rule = context.config.pairs.refine
    if rule is None:
        return None
    counts: Counter[str] = Counter()
    for receipt in staged.pictured:
        counts.update(receipt.refined)
    return RefinedPairs(
        file=rule.file,
        digest=file_digest(rule.file),
        dropped=counts["drop"],
        ties=counts["tie"],
        kept=counts["keep"],
        unmatched=len(context.decisions) - counts.total(),
    )
