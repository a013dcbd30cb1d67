"""A finished build in the files of STCR's authors, so that their code trains or is measured on the very same rows.

Formats as in episodes/spatiallogic.py, in the newer spelling. Picture paths are relative to the registry folder, which
is what their `--base_dir` is to be. A question in JSON is ours, in the wording that the row was built with; their
evaluation script takes the CSV's task_name and asks a question of its own.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import nearest
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry import manifest as manifests
from stcr_plugin.samples.weak import weak_sample
from stcr_plugin.types import ORDERS, Choice, Query

COLUMNS = ("video_path1", "video_path2", "task_name", "spatial_details", "target")
DETAILS = "spatial details: "


@dataclass(frozen=True)
class Shown:
    """Two pictures as a row shows them: paths of img1 and img2 relative to the registry, and what is said of them.

    `details` reads "img1: ... img2: ...", "" for a weak row.
    """

    images: tuple[str, str]
    task: str
    question: str
    closer: Choice
    details: str = ""


@dataclass(frozen=True)
class Exported:
    """What was written, and how many rows were left out since neither image is closer: theirs has no such label."""

    path: Path
    rows: int
    ties: int


def export(name: str, registry: str | Path, out: str | Path, format: str, split: str | None = None) -> Exported:
    """Write the dataset `name`, or with `split` every pair of that split of the build `name` in both orders.

    A dataset's rows keep their order; those of a split are weak. Raises ConfigError for an unknown name, split or
    format and for a build whose pictures are no files of their own, DataError for a build that cannot be read and for
    paths that their loader would take for others.
    """
    if format not in _WRITERS:
        raise ConfigError(f"no export format {format!r}, {nearest(format, list(_WRITERS))}")
    stored = manifests.read_manifest(registry, name)["config"]["frames"]
    if stored["store"] != "folder" or stored["format"] == "none":
        raise ConfigError(
            f"{name}: its pictures are no files of their own, which the authors' code needs; build it with "
            "frames.store=folder and frames.format=png or jpeg"
        )
    every = list(_of_dataset(name, registry) if split is None else _of_split(name, registry, split))
    rows = [shown for shown in every if shown.closer != "neither"]
    for shown in rows:
        for image in shown.images:
            if "_/" in image:
                raise DataError(
                    f"{image}: a folder's name ends in `_`, which the authors' loader takes for a full stop; choose "
                    "another name for the build or the episode, and build again"
                )
    artefacts.write_text(out, _WRITERS[format](rows))
    return Exported(Path(out), len(rows), len(every) - len(rows))


def json_row(shown: Shown) -> dict[str, Any]:
    """One row of their training files; without details one of the weak files."""
    images = [
        {"type": "image", "image": image, "image_id": image_id}
        for image, image_id in zip(shown.images, ("img1", "img2"), strict=True)
    ]
    content = [*images, {"type": "text", "text": shown.question}]
    details = {"spatial details": shown.details} if shown.details else {}
    return {
        "messages": [{"role": "user", "content": content}],
        "target": details | {"closer to completion": shown.closer},
    }


def csv_row(shown: Shown) -> dict[str, str]:
    """One row of their evaluation file; its columns are the ones that their script insists on."""
    values = (*shown.images, shown.task, shown.details, shown.closer)
    return dict(zip(COLUMNS, values, strict=True))


def _of_dataset(dataset: str, registry: str | Path) -> Iterator[Shown]:
    manifest = manifests.read_manifest(registry, dataset)
    if dataset == manifest["name"]:
        known = ", ".join([*manifest["datasets"], *(f"{dataset} --split {split}" for split in manifest["splits"])])
        raise ConfigError(f"{dataset} is a whole build; export one of: {known}")
    rules = {
        manifests.dataset_name(manifest["name"], key): rule for key, rule in manifest["config"]["datasets"].items()
    }
    if rules[dataset]["kind"] == "general":
        raise ConfigError(f"{dataset} asks about single pictures, and their format is of pairs; export another dataset")
    splits = {name: rule["split"] for name, rule in rules.items()}
    tasks = {pair.pair_id: pair.task for pair in manifests.read_pairs(registry, dataset, splits[dataset])}
    for row in manifests.dataset_rows(registry, dataset):
        prompt, target = (message["content"] for message in row["messages"])
        one, two = row["images"]
        # The judgment is the last line; what stands before it is the description.
        details = target.rpartition("\n")[0].removeprefix(DETAILS)
        yield Shown((one, two), tasks[row["pair_id"]], prompt.removeprefix("<image>" * 2), row["answer"], details)


def _of_split(name: str, registry: str | Path, split: str) -> Iterator[Shown]:
    seed = manifests.read_manifest(registry, name)["seed"]
    for pair in manifests.read_pairs(registry, name, split):
        for order in ORDERS:
            query = Query(pair, order)
            question = weak_sample(query, "en", seed).prompt.removeprefix("<image>" * 2)
            yield Shown(query.images, pair.task, question, query.answer)


def _as_json(rows: Sequence[Shown]) -> str:
    lines = ",\n".join(json.dumps(json_row(shown), ensure_ascii=False, allow_nan=False) for shown in rows)
    return f"[\n{lines}\n]\n"


def _as_csv(rows: Sequence[Shown]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_row(shown) for shown in rows)
    return file.getvalue()


_WRITERS: dict[str, Callable[[Sequence[Shown]], str]] = {"json": _as_json, "csv": _as_csv}
FORMATS = tuple(_WRITERS)
