"""A finished build in the files of STCR's authors, so that their code trains or is measured on the very same rows.

Formats as in episodes/spatiallogic.py, in the newer spelling. Picture paths are relative to the registry folder; give
it as their `--base_dir`. A question in JSON is ours, in the prompt variant that the row was built with; their
evaluation script takes the CSV's task_name and asks its own question.
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
from stcr_plugin.registry.data_config import SINGLE
from stcr_plugin.registry.group_rows import group_of, shots_of
from stcr_plugin.samples.group_texts import names
from stcr_plugin.samples.weak import weak_sample
from stcr_plugin.types import ORDERS, Query

COLUMNS = ("video_path1", "video_path2", "task_name", "spatial_details", "target")
DETAILS = "spatial details: "


@dataclass(frozen=True)
class Shown:
    """Two pictures as a row shows them, or a group of more.

    Attributes:
        images: Paths of img1, img2, ..., relative to the registry.
        closer: The answer; of an order all names, the closest first.
        details: "img1: ... img2: ...", "" for a weak row.
    """

    images: tuple[str, ...]
    task: str
    question: str
    closer: str
    details: str = ""


@dataclass(frozen=True)
class Exported:
    """What was written, and how many rows were left out since neither image is closer, for which there is no label."""

    path: Path
    rows: int
    ties: int


def export(name: str, registry: str | Path, out: str | Path, format: str, split: str | None = None) -> Exported:
    """Write the dataset `name`, or with `split` every pair of that split of the build `name` in both orders.

    A dataset's rows keep their order; those of a split are weak.

    Raises:
        ConfigError: for an unknown name, split or format, and a build whose pictures are not single files.
        DataError: for a build that cannot be read, and paths that the authors' loader would misread.
    """
    if format not in _WRITERS:
        raise ConfigError("format", f"unknown format {format!r}", nearest(format, list(_WRITERS)))
    if not manifests.read_manifest(registry, name).stored.loose:
        raise ConfigError(
            name,
            "its pictures are not single files, which the authors' code needs",
            "build it with frames.store=folder and frames.format=png or jpeg",
        )
    every = list(_of_dataset(name, registry) if split is None else _of_split(name, registry, split))
    if format == "csv" and any(len(shown.images) > 2 for shown in every):
        problem = "shows groups of pictures, and the authors' evaluation file has two columns of pictures"
        raise ConfigError(name, problem, "export it with --format json")
    rows = [shown for shown in every if shown.closer != "neither"]
    for image in (image for shown in rows for image in shown.images):
        if "_/" in image:
            raise DataError(
                image,
                "a folder's name ends in `_`, which the authors' loader reads as a full stop",
                "choose another name for the build or the episode, and build again",
            )
    artefacts.write_text(out, _WRITERS[format](rows))
    return Exported(Path(out), len(rows), len(every) - len(rows))


def json_row(shown: Shown) -> dict[str, Any]:
    """One row of their training files; without details one of the weak files."""
    images = [
        {"type": "image", "image": image, "image_id": image_id}
        for image, image_id in zip(shown.images, names(len(shown.images)), strict=True)
    ]
    content = [*images, {"type": "text", "text": shown.question}]
    details = {"spatial details": shown.details} if shown.details else {}
    return {
        "messages": [{"role": "user", "content": content}],
        "target": details | {"closer to completion": shown.closer},
    }


def csv_row(shown: Shown) -> dict[str, str]:
    """One row of their evaluation file; its columns are those that their script requires."""
    values = (*shown.images, shown.task, shown.details, shown.closer)
    return dict(zip(COLUMNS, values, strict=True))


def _of_dataset(dataset: str, registry: str | Path) -> Iterator[Shown]:
    manifest = manifests.read_manifest(registry, dataset)
    if dataset == manifest.name:
        known = ", ".join([*manifest.datasets, *(f"{dataset} --split {split}" for split in manifest.splits)])
        raise ConfigError(dataset, "is a whole build", f"export one of: {known}")
    rule = manifest.rules[dataset]
    if rule.kind in SINGLE:
        problem = "asks about single pictures, and the authors' format is of pairs"
        raise ConfigError(dataset, problem, "export another dataset")
    if rule.kind == "reflect":
        problem = "judges a proposed answer, for which the authors' format has no place"
        raise ConfigError(dataset, problem, "export another dataset")
    if rule.kind == "prefer":
        problem = "has two answers to each question, and the authors' format one"
        raise ConfigError(dataset, problem, "export a dataset of kind: cot")
    pairs = manifests.read_pairs(registry, dataset, rule.split)
    tasks = {pair.pair_id: pair.task for pair in pairs}
    shots = shots_of(pairs) if rule.kind == "group" else {}
    for row in manifests.dataset_rows(registry, dataset):
        prompt, target = (message["content"] for message in row["messages"])
        # The judgment is the last line, the description before it.
        details, _, judgment = target.rpartition("\n")
        yield Shown(
            images=tuple(row["images"]),
            task=group_of(row, shots).task if shots else tasks[row["pair_id"]],
            question=prompt.removeprefix("<image>" * len(row["images"])),
            closer=judgment.rpartition(": ")[2] if shots else row["answer"],
            details=details.removeprefix(DETAILS),
        )


def _of_split(name: str, registry: str | Path, split: str) -> Iterator[Shown]:
    seed = manifests.read_manifest(registry, name).seed
    for pair in manifests.read_pairs(registry, name, split):
        for order in ORDERS:
            query = Query(pair, order)
            question = weak_sample(query, "en", seed).prompt.removeprefix("<image>" * 2)
            yield Shown(images=query.images, task=pair.task, question=question, closer=query.answer)


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
