"""Whether a build on disk is what its manifest says: every picture decoded, every row held against its pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError, StcrError
from stcr_plugin.registry import manifest as manifests
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
    pairs = _check_pairs(registry, manifest, problems)
    images = _Uses()
    for row, pair in pairs.items():
        for image in Query(pair, "forward").images:
            images.add(image, f"{manifest['name']}/{manifests.PAIRS}", row)
    rows = 0
    by_id = {pair.pair_id: pair for pair in pairs.values()}
    for dataset in manifest["counts"]["datasets"]:
        rows += _check_dataset(registry, manifest, dataset, by_id, images, problems)
    _check_pictures(registry, manifest, images, problems)
    _check_files(registry, manifest, problems)
    return CheckReport(manifest["name"], len(images.rows), len(pairs), rows, tuple(problems))


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


def _check_pairs(registry: Path, manifest: Mapping[str, Any], problems: list[Problem]) -> dict[int, Pair]:
    """Row -> pair, of those that can be read."""
    file = f"{manifest['name']}/{manifests.PAIRS}"
    split_of: dict[str, str] = {}
    for split, episodes in manifest["splits"].items():
        for episode_id in episodes:
            if episode_id in split_of:
                where = f"{manifest['name']}/{manifests.MANIFEST}"
                problems.append(
                    Problem(where, f"episode {episode_id} stands in {split_of[episode_id]} and in {split}; build again")
                )
            split_of[episode_id] = split
    pairs: dict[int, Pair] = {}
    seen: set[str] = set()
    try:
        for row, pair in manifests.pair_rows(registry / file, registry):
            pairs[row] = pair
            where = f"{file}, row {row}"
            if pair.pair_id in seen:
                problems.append(Problem(where, f"pair {pair.pair_id} stands here a second time"))
            seen.add(pair.pair_id)
            if split_of.get(pair.episode_id) != pair.split:
                known = split_of.get(pair.episode_id, "no split")
                problems.append(
                    Problem(where, f"episode {pair.episode_id} is of {known} in the manifest, here of {pair.split}")
                )
    except DataError as error:
        problems.append(Problem(file, str(error)))
        return pairs
    for split, episodes in manifest["splits"].items():
        found = manifests.count_pairs([pair for pair in pairs.values() if pair.split == split], episodes)
        _compare(found, manifest["counts"]["splits"].get(split), f"{file}, split {split}", problems)
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
    file = f"{manifest['name']}/{dataset}.json"
    try:
        rows = artefacts.read_json(registry / file)
        entry = artefacts.read_json(registry / manifests.DATASET_INFO).get(dataset)
    except DataError as error:
        problems.append(Problem(file, str(error)))
        return 0
    if not isinstance(entry, dict) or entry.get("file_name") != file:
        problems.append(Problem(manifests.DATASET_INFO, f"does not list {dataset} as {file}; build again"))
    if not isinstance(rows, list):
        problems.append(Problem(file, "is no list of rows; build again"))
        return 0
    rule = manifest["config"]["datasets"][dataset.removeprefix(f"{manifest['name']}_")]
    whole = []
    for number, row in enumerate(rows, 1):
        try:
            faults = list(_row_faults(row, rule, pairs))
            for image in row["images"]:
                if image not in images.rows:
                    artefacts.inside(registry, image)
                images.add(image, file, number)
            whole.append(row)
        except StcrError as error:
            faults = [str(error)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            faults = [f"is not made as a row is ({error!r}); build again"]
        problems += [Problem(f"{file}, row {number}", fault) for fault in faults]
    if rule["orders"] == "both":
        shown: dict[str, Counter[str]] = {}
        for row in whole:
            shown.setdefault(str(row.get("pair_id")), Counter())[str(row.get("order"))] += 1
        for pair_id, orders in shown.items():
            if orders != Counter(ORDERS):
                problems.append(Problem(file, f"pair {pair_id} is not shown once in each order: {dict(orders)}"))
    if len(whole) == len(rows):
        expected = dict(manifest["counts"]["datasets"][dataset])
        expected.pop("short_by", None)
        _compare(manifests.count_rows(whole), expected, file, problems)
    return len(rows)


def _row_faults(row: Mapping[str, Any], rule: Mapping[str, Any], pairs: Mapping[str, Pair]) -> Iterator[str]:
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
        yield f"pair {row['pair_id']} is not in {manifests.PAIRS}"
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
    heldout = paraphrases("cot" if rule["kind"] == "cot" else "direct", row["language"], "heldout")
    if asked in {fill(template, pair.task) for template in heldout}:
        yield "the question is a held-out paraphrase, which training must not see"


def _check_pictures(registry: Path, manifest: Mapping[str, Any], images: _Uses, problems: list[Problem]) -> None:
    """Decode every picture to its last byte; a cut one passes a look at its head."""
    from PIL import Image
    from tqdm import tqdm

    rules = manifest["config"]["frames"]
    size = (rules["width"], rules["height"]) if rules["width"] else None
    sound = True
    for image in tqdm(sorted(images.rows), desc=f"{manifest['name']}: decoding", unit="picture"):
        try:
            with Image.open(artefacts.inside(registry, image)) as picture:
                picture.load()
                fault = "" if size in (None, picture.size) else f"is {picture.size}, configured is {size}"
        except FileNotFoundError:
            fault = "no such file"
        except DataError as error:
            fault = str(error)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            fault = f"cannot be decoded ({error})"
        if fault:
            sound = False
            problems.append(Problem(image, f"{fault}; {images.of(image)}; delete it and build again"))
    if len(images.rows) != manifest["frames"]["count"]:
        sound = False
        where = f"{manifest['name']}/{manifests.MANIFEST}"
        problems.append(Problem(where, f"counts {manifest['frames']['count']} pictures, {len(images.rows)} are used"))
    if sound and manifests.frames_digest(registry, images.rows) != manifest["checksums"]["frames"]:
        where = manifest["frames"]["folder"]
        problems.append(Problem(where, "the pictures are not those that were built; delete the folder and build again"))


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
