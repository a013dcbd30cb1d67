"""Is a build on disk what its manifest says? Every picture is decoded, every row compared with its pair."""

from __future__ import annotations

import dataclasses
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError, StcrError
from stcr_plugin.figures import AnnotatedTexts
from stcr_plugin.progress_bar import progress
from stcr_plugin.registry import manifest as manifests
from stcr_plugin.registry import picture_store
from stcr_plugin.registry.check_tables import PairTable, PictureUses
from stcr_plugin.registry.data_config import SINGLE
from stcr_plugin.registry.group_rows import GroupCheck
from stcr_plugin.registry.manifest import Manifest, PairCounts, RowCounts, SetRule, total
from stcr_plugin.registry.preference_rows import PreferenceCheck
from stcr_plugin.samples.cot import halves_of
from stcr_plugin.samples.general import SHOWN, names_in
from stcr_plugin.samples.questions import fill_task, paraphrases, questions
from stcr_plugin.samples.reflections import PROPOSALS, proposed_in, reflect_paraphrases, reflected, verdict
from stcr_plugin.samples.single_pictures import QUESTIONS, described
from stcr_plugin.samples.weak import answer_line
from stcr_plugin.types import ORDERS, Pair, Query

_ROWS_NAMED = 5
_ROWS_AT_ONCE = 10_000
_ALL_PROPOSALS = tuple(f"{order} {proposed}" for order in ORDERS for proposed in PROPOSALS)
# Kind -> the check of its rows, where they are not of one pair with one answer.
_CHECKS: dict[str, type[GroupCheck] | type[PreferenceCheck]] = {"group": GroupCheck, "prefer": PreferenceCheck}


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where: a file, and a row from 1 where it has rows."""

    where: str
    what: str


@dataclass(frozen=True)
class CheckReport:
    """How many pictures, pairs and rows of the build `name` were checked, and all that is wrong with them.

    Attributes:
        texts: Dataset -> its annotated texts, which nothing here can check.
        splits: Split -> the figures of its pairs in the manifest, with which they were compared.
    """

    name: str
    pictures: int
    pairs: int
    rows: int
    problems: tuple[Problem, ...]
    texts: Mapping[str, AnnotatedTexts] = field(default_factory=dict)
    splits: Mapping[str, PairCounts] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.problems


def check(name: str, registry: str | Path) -> CheckReport:
    """Compare the build `name` (or the one that the dataset `name` belongs to) with its manifest.

    Raises:
        ConfigError: for an unknown name.
        DataError: for an unreadable manifest. All else is a Problem.
    """
    build = _Build(Path(registry), manifests.read_manifest(registry, name))
    try:
        return _checked(build)
    except sqlite3.OperationalError as error:
        problem = f"the temporary files of the check cannot be written ({error})"
        raise DataError(tempfile.gettempdir(), problem, "free space there, or name another folder in TMPDIR") from None


def _checked(build: _Build) -> CheckReport:
    pairs = _check_pairs(build)
    rows = sum(_check_dataset(build, dataset, pairs) for dataset in build.manifest.counts.datasets)
    _check_pictures(build)
    _check_files(build)
    return CheckReport(
        name=build.manifest.name,
        pictures=len(build.uses),
        pairs=len(pairs),
        rows=rows,
        problems=tuple(build.problems),
        texts=build.manifest.texts,
        splits=build.manifest.counts.splits,
    )


@dataclass(frozen=True)
class _Build:
    """A build, what was found wrong with it, and the rows that use its pictures."""

    registry: Path
    manifest: Manifest
    problems: list[Problem] = field(default_factory=list)
    uses: PictureUses = field(default_factory=PictureUses)

    def fault(self, where: str, what: str) -> None:
        self.problems.append(Problem(where, what))

    def used_by(self, image: str) -> str:
        """E.g. "used by stcr/pairs.jsonl rows 1, 7"; long lists are cut."""
        texts = []
        for file, rows in self.uses.rows(image).items():
            shown = ", ".join(str(row) for row in rows[:_ROWS_NAMED])
            more = f" and {len(rows) - _ROWS_NAMED} more" if len(rows) > _ROWS_NAMED else ""
            texts.append(f"{file} row{'s' if len(rows) > 1 else ''} {shown}{more}")
        return f"used by {'; '.join(texts) or 'no pair'}"

    def compare(self, where: str, found: Any, expected: Any) -> None:
        """Compare two sets of figures of one kind, field by field."""
        for key, value in vars(found).items():
            if value != getattr(expected, key):
                self.fault(where, f"{key} are {value}, the manifest says {getattr(expected, key)}")


def _check_pairs(build: _Build) -> PairTable:
    """The pairs that can be read."""
    manifest = build.manifest
    split_of: dict[str, str] = {}
    for split, episodes in manifest.splits.items():
        for episode_id in episodes:
            if episode_id in split_of:
                where = f"{manifest.name}/{manifests.MANIFEST}"
                build.fault(where, f"episode {episode_id} is in {split_of[episode_id]} and in {split}; build again")
            split_of[episode_id] = split
    pairs = PairTable()
    counts: dict[str, list[PairCounts]] = {split: [] for split in manifest.counts.splits}
    broken = False
    for file in manifests.pair_files(manifest):
        own: dict[str, list[Pair]] = {split: [] for split in counts}
        try:
            for row, pair in manifests.pair_rows(build.registry / file, build.registry):
                where = f"{file}, row {row}"
                if pairs.add(pair):
                    own.setdefault(pair.split, []).append(pair)
                else:
                    build.fault(where, f"pair {pair.pair_id} is here a second time")
                for image in Query(pair, "forward").images:
                    build.uses.add(image, file, row)
                if split_of.get(pair.episode_id) != pair.split:
                    known = split_of.get(pair.episode_id, "no split")
                    build.fault(where, f"episode {pair.episode_id} is of {known} in the manifest, here of {pair.split}")
        except DataError as error:
            broken = True
            build.fault(file, str(error))
        for split, counted in counts.items():
            counted.append(manifests.count_pairs(own[split], ()))
    for split, expected in manifest.counts.splits.items() if not broken else ():
        found = dataclasses.replace(
            total([*counts[split], manifests.count_pairs((), manifest.splits.get(split, ()))]),
            dropped=expected.dropped,
            almost_same=expected.almost_same,
        )
        build.compare(f"{manifest.name}/pairs, split {split}", found, expected)
    return pairs


def _check_dataset(build: _Build, dataset: str, pairs: Mapping[str, Pair]) -> int:
    """Check one training set; how many rows it has."""
    manifest, rule = build.manifest, build.manifest.rules[dataset]
    file = manifests.file_name(manifest.datasets[dataset])
    tally = _Tally(build, rule, file, pairs=pairs)
    check: GroupCheck | PreferenceCheck | None = None
    if rule.kind in _CHECKS:
        check = _CHECKS[rule.kind](rule, pairs)
    number = 0
    sound = True
    try:
        entry = manifests.listed(build.registry).get(dataset)
        if not isinstance(entry, dict) or entry.get("file_name") != file:
            build.fault(manifests.DATASET_INFO, f"does not list {dataset} as {file}; build again")
        for number, row in enumerate(manifests.dataset_rows(build.registry, dataset), 1):
            try:
                faults = list(_row_faults(row, manifest, rule=rule, pairs=pairs, check=check))
                pair = pairs.get(row["pair_id"])
                looked_at = Query(pair, "forward").images if pair else ()
                for image in row["images"]:
                    if image not in looked_at:
                        artefacts.inside(build.registry, image)
                    build.uses.add(image, file, number)
                tally.add(row)
            except StcrError as error:
                faults = [str(error)]
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                sound = False
                faults = [f"does not have the form of a row ({error!r}); build again"]
            for fault in faults:
                build.fault(f"{file}, row {number}", fault)
    except DataError as error:
        build.fault(file, str(error))
        return number
    counts = tally.counts()
    if rule.kind == "describe":
        for image in build.uses.used_twice(file):
            described_in = build.uses.rows(image)[file]
            build.fault(file, f"{image} is described twice, in rows {', '.join(map(str, described_in))}")
    for fault in check.rest() if check else ():
        build.fault(file, fault)
    if sound:
        expected = manifest.counts.datasets[dataset]
        found = dataclasses.replace(counts, short_by=expected.short_by)
        if expected.same_text is None:  # older builds did not count them
            found = dataclasses.replace(found, same_text=None)
        build.compare(file, found, expected)
        texts = manifest.texts.get(dataset)
        if texts is not None and texts.counts.pairs != expected.pairs:
            build.fault(
                file, f"the manifest knows of {texts.counts.pairs} texts for {expected.pairs} pairs; build again"
            )
    return number


class _Tally:
    """Counts the rows of one dataset, some whole pairs at a time, and looks how often each pair is shown."""

    def __init__(self, build: _Build, rule: SetRule, file: str, *, pairs: Mapping[str, Pair]) -> None:
        self._build, self._rule, self._file, self._pairs = build, rule, file, pairs
        self._rows: list[dict[str, Any]] = []
        self._shown: dict[str, Counter[str]] = {}
        self._counts: list[RowCounts] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one more row, which lies beside the others of its pair."""
        if len(self._rows) >= _ROWS_AT_ONCE and row["pair_id"] != self._rows[-1]["pair_id"]:
            self._flush()
        columns = ("kind", "messages") if self._rule.kind == "cot" else ()
        self._rows.append({key: row[key] for key in ("pair_id", "answer", "order", "language", *columns)})
        if self._rule.kind in ("cot", "weak", "reflect"):
            self._shown.setdefault(str(row["pair_id"]), Counter())[_shown_as(row, self._rule)] += 1

    def counts(self) -> RowCounts:
        """The figures of all rows."""
        self._flush()
        return total(self._counts)

    def _flush(self) -> None:
        self._counts.append(manifests.count_rows(self._rows))
        for pair_id, orders in self._shown.items():
            own = self._pairs[pair_id].orders if pair_id in self._pairs else ORDERS
            due: tuple[str, ...] | None = {"both": ORDERS, "given": own}.get(self._rule.orders)
            each = "in each order"
            if self._rule.kind == "reflect":
                due, each = _ALL_PROPOSALS, "in each order with each proposed answer"
            if due and orders != Counter(due):
                self._build.fault(self._file, f"pair {pair_id} is not shown once {each}: {dict(orders)}")
        self._rows, self._shown = [], {}


def _row_faults(
    row: Mapping[str, Any],
    manifest: Manifest,
    *,
    rule: SetRule,
    pairs: Mapping[str, Pair],
    check: GroupCheck | PreferenceCheck | None,
) -> Iterator[str]:
    """What is wrong with one row. Raises KeyError and the like for one that does not have the form of a row."""
    user, assistant = manifests.turns_of(row)
    if (user["role"], assistant["role"]) != ("user", "assistant"):
        yield "the messages are not one of the user and one of the assistant"
    text, target = str(user["content"]), str(assistant["content"])
    markers = text.count("<image>")
    if markers != len(row["images"]):
        yield f"the prompt has {markers} <image> for {len(row['images'])} pictures"
    if check is not None:
        yield from check.row(row)
        return
    pair = pairs.get(row["pair_id"])
    if pair is None:
        yield f"pair {row['pair_id']} is not among the build's pairs"
        return
    if rule.kind in SINGLE:
        yield from _single_faults(row, rule, pair)
        return
    if row["order"] not in ORDERS or row["kind"] != rule.kind or row["language"] not in questions():
        yield f"order {row['order']!r}, kind {row['kind']!r} or language {row['language']!r} is not as configured"
        return
    query = Query(pair, row["order"])
    if pair.split != rule.split or row["episode_id"] != pair.episode_id:
        yield f"pair {pair.pair_id} of episode {pair.episode_id} is of split {pair.split}, not {rule.split}"
    if tuple(row["images"]) != query.images:
        yield f"the pictures are not those of pair {pair.pair_id} in {query.order} order"
    if row["answer"] != query.answer:
        yield f"the answer is {row['answer']!r} where {query.answer!r} is true of the {query.order} order"
    if target.rpartition("\n")[2] != answer_line(query) or (rule.kind == "weak" and "\n" in target):
        yield f"the target does not end with {answer_line(query)!r}, or a weak one says more"
    question = text.removeprefix("<image>" * len(query.images))
    if manifests.teaches_ties(manifest):
        question = question.removesuffix(questions()[row["language"]].neither)
    if rule.kind == "reflect":
        question, proposed = proposed_in(question)
        yield from _reflection_faults(target, query, proposed)
        heldout = reflect_paraphrases(row["language"], "heldout")
    else:
        if rule.texts is not None and halves_of(target) is None:
            yield "the target does not describe img1 and img2"
        heldout = paraphrases("cot" if rule.kind == "cot" else "direct", row["language"], "heldout")
    if question in {fill_task(template, pair.task) for template in heldout}:
        yield "the question is a held-out paraphrase, which training must not see"


def _shown_as(row: Mapping[str, Any], rule: SetRule) -> str:
    """The order in which a row shows its pair, and with kind reflect the proposed answer."""
    proposed = proposed_in(str(row["messages"][0]["content"]))[1] if rule.kind == "reflect" else ""
    return f"{row['order']} {proposed}".rstrip()


def _reflection_faults(target: str, query: Query, proposed: str) -> Iterator[str]:
    """What is wrong with a row that judges the answer `proposed`."""
    found = reflected(target)
    if found is None or proposed not in PROPOSALS:
        yield "the question does not end with a proposed answer, or the target does not judge it and give reasons"
    elif found.verdict != verdict(query, proposed):
        yield f"the target calls {proposed} {found.verdict}, which is false of the {query.order} order"


def _single_faults(row: Mapping[str, Any], rule: SetRule, pair: Pair) -> Iterator[str]:
    """What is wrong with a row that asks about one picture of `pair`."""
    text, target = (str(message["content"]) for message in row["messages"])
    if row["kind"] != rule.kind or row["order"] != "":
        yield f"kind {row['kind']!r} or order {row['order']!r} is not as configured"
    if pair.split != rule.split or row["episode_id"] != pair.episode_id:
        yield f"pair {pair.pair_id} of episode {pair.episode_id} is of split {pair.split}, not {rule.split}"
    if list(row["images"]) not in ([pair.earlier_image], [pair.later_image]):
        yield f"the picture is not one of pair {pair.pair_id}"
    if rule.kind == "describe":
        if row["language"] not in QUESTIONS or row["answer"] != "":
            yield f"language {row['language']!r} or answer {row['answer']!r} is not as configured"
        if described(target) is None:
            yield "the target does not describe img1, or says more"
    elif target != dict(zip(("yes", "no"), names_in(row["language"]), strict=True)).get(str(row["answer"])):
        yield f"the target is {target!r} where the answer is {row['answer']!r}"
    if not text.startswith(SHOWN):
        yield f"the question does not start with {SHOWN!r}, as the guard's does"


def _check_pictures(build: _Build) -> None:
    """Decode every picture to its last byte (the head of a cut one is sound) and compare it with the index."""
    manifest, stored = build.manifest, build.manifest.stored
    if stored.format == "none":
        build.fault(manifest.frames.folder, "has no pictures (frames.format: none); build with them")
        return
    size = (stored.width, stored.height) if stored.width and stored.height else None
    rows = manifests.frame_rows(build.registry, manifest)
    try:
        for row in progress(rows, f"{manifest.name}: decoding", "pictures", total=manifest.frames.count):
            build.uses.add_indexed(row["image"])
            if fault := _picture_fault(build.registry, row, size):
                build.fault(row["image"], f"{fault}; {build.used_by(row['image'])}; delete it and build again")
    except DataError as error:
        build.fault(f"{manifest.name}/frames", str(error))
        return
    for image in build.uses.not_indexed():
        build.fault(image, f"is not in the index of pictures; {build.used_by(image)}; build again")
    if (used := len(build.uses)) != manifest.frames.count:
        where = f"{manifest.name}/{manifests.MANIFEST}"
        build.fault(where, f"counts {manifest.frames.count} pictures, {used} are used")


def _picture_fault(registry: Path, row: Mapping[str, Any], size: tuple[int, int] | None) -> str:
    try:
        data = picture_store.read(registry, row["image"])
        picture = picture_store.decode(data, row["image"])
    except DataError as error:
        return error.problem
    if size not in (None, picture.size):
        return f"is {picture.size}, configured is {size}"
    return "" if artefacts.sha256_of(data) == row["sha256"] else "is not the picture that was built"


def _check_files(build: _Build) -> None:
    for file, expected in build.manifest.checksums.files.items():
        path = artefacts.inside(build.registry, file)
        if not path.is_file():
            build.fault(file, "no such file; build again")
        elif artefacts.sha256(path) != expected:
            build.fault(file, "was changed after it was built; delete it and build again")
