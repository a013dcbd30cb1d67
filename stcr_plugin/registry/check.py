"""Whether a build on disk is what its manifest says: every picture decoded, every row held against its pair."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError, StcrError
from stcr_plugin.progress_bar import progress
from stcr_plugin.registry import manifest as manifests
from stcr_plugin.registry import picture_store
from stcr_plugin.samples.general import SHOWN, names_in
from stcr_plugin.samples.questions import fill, paraphrases, questions
from stcr_plugin.samples.weak import answer_line
from stcr_plugin.types import ORDERS, Pair, Query

_ROWS_NAMED = 5


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where: a file, and a row from 1 where it has rows."""

    where: str
    what: str


@dataclass(frozen=True)
class CheckReport:
    """How much was looked at, and all that is wrong with it."""

    name: str
    pictures: int
    pairs: int
    rows: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        looked = f"{self.name}: {self.pictures} pictures, {self.pairs} pairs and {self.rows} rows checked"
        found = [f"{problem.where}: {problem.what}" for problem in self.problems]
        return "\n".join([f"{looked}, {len(found) or 'no'} problem{'' if len(found) == 1 else 's'}", *found])


def check(name: str, registry: str | Path) -> CheckReport:
    """Hold the build `name` (or the one that the dataset `name` belongs to) against its manifest.

    Raises ConfigError for an unknown name and DataError for an unreadable manifest; all else is a Problem.
    """
    registry = Path(registry)
    manifest = manifests.read_manifest(registry, name)
    problems: list[Problem] = []
    images = _Uses()
    by_id = _check_pairs(registry, manifest, images, problems)
    rows = 0
    for dataset in manifest["counts"]["datasets"]:
        rows += _check_dataset(registry, manifest, dataset, by_id, images, problems)
    _check_pictures(registry, manifest, images, problems)
    _check_files(registry, manifest, problems)
    return CheckReport(manifest["name"], len(images.rows), len(by_id), rows, tuple(problems))


class _Uses:
    """Which rows of which files use a picture."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, list[int]]] = {}

    def add(self, image: str, file: str, row: int) -> None:
        self.rows.setdefault(image, {}).setdefault(file, []).append(row)

    def of(self, image: str) -> str:
        """E.g. "used by stcr/pairs.jsonl rows 1, 7"; long lists are cut."""
        texts = []
        for file, rows in self.rows[image].items():
            shown = ", ".join(str(row) for row in rows[:_ROWS_NAMED])
            more = f" and {len(rows) - _ROWS_NAMED} more" if len(rows) > _ROWS_NAMED else ""
            texts.append(f"{file} row{'s' if len(rows) > 1 else ''} {shown}{more}")
        return "used by " + "; ".join(texts)


def _check_pairs(
    registry: Path, manifest: Mapping[str, Any], images: _Uses, problems: list[Problem]
) -> dict[str, Pair]:
    """Pair id -> pair, of those that can be read."""
    split_of: dict[str, str] = {}
    for split, episodes in manifest["splits"].items():
        for episode_id in episodes:
            if episode_id in split_of:
                where = f"{manifest['name']}/{manifests.MANIFEST}"
                problems.append(
                    Problem(where, f"episode {episode_id} stands in {split_of[episode_id]} and in {split}; build again")
                )
            split_of[episode_id] = split
    pairs: dict[str, Pair] = {}
    broken = False
    for file in manifests.pair_files(manifest):
        try:
            for row, pair in manifests.pair_rows(registry / file, registry):
                where = f"{file}, row {row}"
                if pair.pair_id in pairs:
                    problems.append(Problem(where, f"pair {pair.pair_id} stands here a second time"))
                pairs[pair.pair_id] = pair
                for image in Query(pair, "forward").images:
                    images.add(image, file, row)
                if split_of.get(pair.episode_id) != pair.split:
                    known = split_of.get(pair.episode_id, "no split")
                    problems.append(
                        Problem(where, f"episode {pair.episode_id} is of {known} in the manifest, here of {pair.split}")
                    )
        except DataError as error:
            broken = True
            problems.append(Problem(file, str(error)))
    for split, episodes in manifest["splits"].items() if not broken else ():
        found = manifests.count_pairs([pair for pair in pairs.values() if pair.split == split], episodes)
        expected = dict(manifest["counts"]["splits"].get(split, {}))
        expected["dropped"] = None
        _compare(vars(found), expected, f"{manifest['name']}/pairs, split {split}", problems)
    return pairs


def _check_dataset(
    registry: Path,
    manifest: Mapping[str, Any],
    dataset: str,
    pairs: Mapping[str, Pair],
    images: _Uses,
    problems: list[Problem],
) -> int:
    """Check one training set; how many rows it has."""
    file = manifests.file_name(manifest["datasets"][dataset])
    rule = manifest["config"]["datasets"][dataset.removeprefix(f"{manifest['name']}_")]
    counted: list[dict[str, Any]] = []
    shown: dict[str, Counter[str]] = {}
    number = 0
    sound = True
    try:
        entry = artefacts.read_json(registry / manifests.DATASET_INFO).get(dataset)
        if not isinstance(entry, dict) or entry.get("file_name") != file:
            problems.append(Problem(manifests.DATASET_INFO, f"does not list {dataset} as {file}; build again"))
        for number, row in enumerate(manifests.dataset_rows(registry, dataset), 1):
            try:
                faults = list(_row_faults(row, manifest, rule, pairs))
                for image in row["images"]:
                    if image not in images.rows:
                        artefacts.inside(registry, image)
                    images.add(image, file, number)
                counted.append({key: row[key] for key in ("pair_id", "answer", "order", "language")})
                shown.setdefault(str(row["pair_id"]), Counter())[str(row["order"])] += 1
            except StcrError as error:
                faults = [str(error)]
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                sound = False
                faults = [f"is not made as a row is ({error!r}); build again"]
            problems += [Problem(f"{file}, row {number}", fault) for fault in faults]
    except DataError as error:
        problems.append(Problem(file, str(error)))
        return number
    for pair_id, orders in shown.items():
        due = {"both": ORDERS, "given": pairs[pair_id].orders if pair_id in pairs else ORDERS}.get(rule["orders"])
        if rule["kind"] != "general" and due and orders != Counter(due):
            problems.append(Problem(file, f"pair {pair_id} is not shown once in each order: {dict(orders)}"))
    if sound:
        expected = manifest["counts"]["datasets"][dataset]
        found = dataclasses.replace(manifests.count_rows(counted), short_by=expected["short_by"])
        _compare(vars(found), expected, file, problems)
    return number


def _row_faults(
    row: Mapping[str, Any], manifest: Mapping[str, Any], rule: Mapping[str, Any], pairs: Mapping[str, Pair]
) -> Iterator[str]:
    """What is wrong with one row. Raises KeyError and the like for one that is not made as a row is."""
    user, assistant = row["messages"]
    if (user["role"], assistant["role"]) != ("user", "assistant"):
        yield "the messages are not one of the user and one of the assistant"
    text, target = str(user["content"]), str(assistant["content"])
    markers = text.count("<image>")
    if markers != len(row["images"]):
        yield f"the prompt has {markers} <image> for {len(row['images'])} pictures"
    pair = pairs.get(row["pair_id"])
    if pair is None:
        yield f"pair {row['pair_id']} is not among the build's pairs"
        return
    if rule["kind"] == "general":
        yield from _general_faults(row, rule, pair)
        return
    if row["order"] not in ORDERS or row["kind"] != rule["kind"] or row["language"] not in questions():
        yield f"order {row['order']!r}, kind {row['kind']!r} or language {row['language']!r} is not as configured"
        return
    query = Query(pair, row["order"])
    if pair.split != rule["split"] or row["episode_id"] != pair.episode_id:
        yield f"pair {pair.pair_id} of episode {pair.episode_id} is of split {pair.split}, not {rule['split']}"
    if tuple(row["images"]) != query.images:
        yield f"the pictures are not those of pair {pair.pair_id} in {query.order} order"
    if row["answer"] != query.answer:
        yield f"the answer is {row['answer']!r} where {query.answer!r} is true of the {query.order} order"
    if target.rpartition("\n")[2] != answer_line(query) or (rule["kind"] == "weak" and "\n" in target):
        yield f"the target does not end with {answer_line(query)!r}, or a weak one says more"
    asked = text.removeprefix("<image>" * len(query.images))
    if manifests.teaches_ties(manifest):
        asked = asked.removesuffix(questions()[row["language"]].neither)
    heldout = paraphrases("cot" if rule["kind"] == "cot" else "direct", row["language"], "heldout")
    if asked in {fill(template, pair.task) for template in heldout}:
        yield "the question is a held-out paraphrase, which training must not see"


def _general_faults(row: Mapping[str, Any], rule: Mapping[str, Any], pair: Pair) -> Iterator[str]:
    """What is wrong with a row that asks about one picture of `pair`."""
    said = dict(zip(("yes", "no"), names_in(row["language"]), strict=True))
    text, target = (str(message["content"]) for message in row["messages"])
    if row["kind"] != "general" or row["order"] != "":
        yield f"kind {row['kind']!r} or order {row['order']!r} is not as configured"
    if pair.split != rule["split"] or row["episode_id"] != pair.episode_id:
        yield f"pair {pair.pair_id} of episode {pair.episode_id} is of split {pair.split}, not {rule['split']}"
    if list(row["images"]) not in ([pair.earlier_image], [pair.later_image]):
        yield f"the picture is none of pair {pair.pair_id}"
    if target != said.get(str(row["answer"])):
        yield f"the target is {target!r} where the answer is {row['answer']!r}"
    if not text.startswith(SHOWN):
        yield f"the question does not start as the guard's does, {SHOWN!r}"


def _check_pictures(registry: Path, manifest: Mapping[str, Any], images: _Uses, problems: list[Problem]) -> None:
    """Decode every picture to its last byte (a cut one passes a look at its head) and hold it against the index."""
    rules = manifest["config"]["frames"]
    if rules["format"] == "none":
        problems.append(Problem(manifest["frames"]["folder"], "has no pictures (frames.format: none); build with them"))
        return
    size = (rules["width"], rules["height"]) if rules["width"] else None
    indexed: set[str] = set()
    total = manifest["frames"]["count"]
    try:
        rows = manifests.frame_rows(registry, manifest)
        for row in progress(rows, f"{manifest['name']}: decoding", "pictures", total=total):
            indexed.add(row["image"])
            fault = _picture_fault(registry, row, size)
            if fault:
                used = images.of(row["image"]) if row["image"] in images.rows else "used by no pair"
                problems.append(Problem(row["image"], f"{fault}; {used}; delete it and build again"))
    except DataError as error:
        problems.append(Problem(f"{manifest['name']}/frames", str(error)))
        return
    for image in images.rows.keys() - indexed:
        problems.append(Problem(image, f"is not in the index of pictures; {images.of(image)}; build again"))
    if len(images.rows) != total:
        where = f"{manifest['name']}/{manifests.MANIFEST}"
        problems.append(Problem(where, f"counts {total} pictures, {len(images.rows)} are used"))


def _picture_fault(registry: Path, row: Mapping[str, Any], size: tuple[int, int] | None) -> str:
    try:
        data = picture_store.read(registry, row["image"])
        picture = picture_store.decode(data, row["image"])
    except DataError as error:
        return str(error).removeprefix(f"{row['image']}: ")
    if size not in (None, picture.size):
        return f"is {picture.size}, configured is {size}"
    return "" if artefacts.sha256_of(data) == row["sha256"] else "is not the picture that was built"


def _check_files(registry: Path, manifest: Mapping[str, Any], problems: list[Problem]) -> None:
    for file, expected in manifest["checksums"]["files"].items():
        path = artefacts.inside(registry, file)
        if not path.is_file():
            problems.append(Problem(file, "no such file; build again"))
        elif artefacts.sha256(path) != expected:
            problems.append(Problem(file, "was changed after it was built; delete it and build again"))


def _compare(found: Mapping[str, Any], expected: Any, where: str, problems: list[Problem]) -> None:
    if not isinstance(expected, Mapping):
        expected = {}
    for key in [*found, *(key for key in expected if key not in found)]:
        if found.get(key) != expected.get(key):
            problems.append(Problem(where, f"{key} are {found.get(key)}, the manifest says {expected.get(key)}"))
