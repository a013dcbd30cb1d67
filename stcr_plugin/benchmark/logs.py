"""What lmms-eval and VLMEvalKit logged of a benchmark -> the results that `stcr eval` writes for the same texts.

lmms-eval: `*_samples_NAME.jsonl` of --log_samples. VLMEvalKit: its prediction table MODEL_NAME as xlsx (its default),
tsv, csv or json (PRED_FORMAT). Both carry of each row which query it is and what was asked.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from stcr_plugin import artefacts
from stcr_plugin.benchmark.rows import Benchmark, benchmark_again, title
from stcr_plugin.benchmark.task import RECORD
from stcr_plugin.config import from_mapping, nearest
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.evaluate import evaluate
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.results import Evaluation
from stcr_plugin.types import Prompt, Response

# What VLMEvalKit writes as a prediction where the model was not reached (INFER_FAIL_MSG in its vlmeval/smp/file.py).
FAILED = "Failed to obtain answer"


@dataclass(frozen=True)
class Logged:
    """One row of a log: which query it is, what was said to it, and `asked` of its benchmark as JSON text.

    `text` is None where the tool got no answer. `where` is the row's place in the file, from 1.
    """

    pair_id: str
    order: str
    text: str | None
    asked: str
    where: int


@dataclass(frozen=True)
class Log:
    """A whole log, as an engine that says what was logged."""

    path: Path
    tool: str
    model: str
    said: Mapping[tuple[str, str], str]

    def identity(self) -> Mapping[str, Any]:
        # The tool sized the pictures by its own rule, whatever the settings say.
        return {"engine": self.tool, "log": self.path.name, "log_digest": artefacts.sha256(self.path)}

    def respond(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        for index, prompt in enumerate(prompts):
            yield index, Response(self.said[prompt.item, prompt.order])


def read(
    logs: Path,
    dataset: str,
    split: str,
    *,
    out: Path,
    registry: Path = Path("data_registry"),
    name: str | None = None,
    model: Path | None = None,
) -> Evaluation:
    """Write into `out` the figures that `stcr eval` writes, of the answers in `logs`: a file, or a folder with one log.

    `name` is the model's in tables (default: that of its log); `model` its folder where it is one here, so that what
    it was trained on is looked at. Raises what `open_log` raises.
    """
    made, log = open_log(logs, dataset, split, registry)
    settings = from_mapping(AskSettings, made.asked["settings"], str(log.path))
    called = None if model else log.model
    request = EvalRequest(
        model=model,
        engine=log,
        dataset=dataset,
        split=split,
        registry=registry,
        settings=settings,
        seed=made.asked["seed"],
        name=name or called,
    )
    return evaluate(request, out)


def open_log(logs: Path, dataset: str, split: str, registry: Path) -> tuple[Benchmark, Log]:
    """A log, every query of its benchmark answered once, and the benchmark, made again from the registry.

    Raises DataError for a log of other pairs, pictures or wordings, for a query that it has no answer to or two, and
    ConfigError where a log cannot be told or read.
    """
    path = _found(Path(logs), dataset, split)
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise ConfigError(f"{path}: no log that can be read by its ending, {nearest(path.suffix, list(_READERS))}")
    rows = list(reader(path))
    if not rows:
        raise DataError(f"{path}: no rows; run the benchmark again")
    other = next((row for row in rows if row.asked != rows[0].asked), None)
    if other:
        raise DataError(f"{path}, row {other.where}: of another benchmark than row {rows[0].where}; give one log")
    try:
        asked = json.loads(rows[0].asked)
    except ValueError:
        asked = None
    made = benchmark_again(registry, asked, str(path))
    if (made.asked["dataset"], made.asked["split"]) != (dataset, split):
        raise DataError(
            f"{path}: answers to {made.asked['dataset']}, split {made.asked['split']}; name these, or another log"
        )
    said = _said(path, rows, [(row.pair.pair_id, row.order) for row in made.rows])
    if path.suffix == ".jsonl":
        return made, Log(path, "lmms-eval", path.parent.name, said)
    return made, Log(path, "VLMEvalKit", path.stem.removesuffix(f"_{made.name}"), said)


def _found(logs: Path, dataset: str, split: str) -> Path:
    """The one log of this benchmark in a folder, or the file given."""
    if logs.is_file():
        return logs
    if not logs.is_dir():
        raise ConfigError(f"{logs}: no such file or folder; give the log, or the folder that it was written into")
    ending = re.compile(rf"(^|_){title(dataset, split)}_[0-9a-f]{{8}}$")
    # Resolved, since VLMEvalKit links its newest tables into the folder above.
    named = {path.resolve() for path in logs.rglob("*") if path.suffix in _READERS and ending.search(path.stem)}
    # An export in the same folder is no log, and neither is what it says of itself.
    named = {path for path in named if path.suffix == ".jsonl" or not ending.fullmatch(path.stem)}
    if len(named) != 1:
        found = ", ".join(str(path) for path in sorted(named)) or "none"
        raise ConfigError(
            f"{logs}: expected one log of {dataset}, split {split}, found: {found}; "
            "name the file itself, or run with --log_samples (lmms-eval)"
        )
    return named.pop()


def _said(path: Path, rows: Sequence[Logged], asked: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """(pair_id, order) -> text of each query in `asked`. Raises DataError for one missing, double or strange."""
    found: dict[tuple[str, str], Logged] = {}
    wanted = set(asked)
    for row in rows:
        key = (row.pair_id, row.order)
        if key not in wanted:
            raise DataError(f"{path}, row {row.where}: pair {row.pair_id}, {row.order}, is not in the benchmark")
        if key in found:
            raise DataError(
                f"{path}, row {row.where}: pair {row.pair_id}, {row.order}, stands in row {found[key].where} too; "
                "give the log of one run, each query asked once"
            )
        found[key] = row
    said = {key: row.text for key, row in found.items() if row.text is not None}
    missing = [key for key in asked if key not in said]
    if missing:
        pair_id, order = missing[0]
        where = f"row {found[missing[0]].where}: {FAILED}" if missing[0] in found else "no row"
        raise DataError(
            f"{path}: no answer to {len(missing)} of {len(asked)} queries, the first pair {pair_id}, {order} "
            f"({where}); run all of the benchmark, without --limit, and again where the model was not reached"
        )
    return said


def _lmms_eval(path: Path) -> Iterator[Logged]:
    """A line is a JSON object with `filtered_resps` (a text, or a list of one) and what process_results returned."""
    for where, row in enumerate(artefacts.read_jsonl(path), 1):
        try:
            record, text = row[RECORD], row["filtered_resps"]
            text = text[0] if isinstance(text, list) and len(text) == 1 else text
            if not isinstance(text, str):
                raise TypeError(f"filtered_resps is {type(text).__name__}, not one text; run with --repeats 1")
            yield Logged(str(record["pair_id"]), str(record["order"]), text, str(record["benchmark"]), where)
        except (KeyError, TypeError) as error:
            raise _strange(path, where, error) from error


def _table(rows: Callable[[Path], Iterator[Mapping[str, Any]]]) -> Callable[[Path], Iterator[Logged]]:
    def logged(path: Path) -> Iterator[Logged]:
        where = 0
        try:
            for where, row in enumerate(rows(path), 1):
                said = row["prediction"]
                # An empty answer is an empty cell, which pandas writes as NaN into JSON.
                text = "" if said is None or said != said else str(said)
                failed = text.startswith(FAILED)
                yield Logged(
                    str(row["pair_id"]), str(row["order"]), None if failed else text, str(row["benchmark"]), where
                )
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise _strange(path, where, error) from error

    return logged


def _strange(path: Path, where: int, error: Exception) -> DataError:
    return DataError(
        f"{path}, row {where}: not a row of a benchmark that `stcr benchmark` exported "
        f"({type(error).__name__}: {error}); give the log itself"
    )


def _separated(delimiter: str) -> Callable[[Path], Iterator[Mapping[str, Any]]]:
    def rows(path: Path) -> Iterator[Mapping[str, Any]]:
        with open(path, encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file, delimiter=delimiter)

    return rows


def _json(path: Path) -> Iterator[Mapping[str, Any]]:
    yield from artefacts.read_json(path)


def _xlsx(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import openpyxl
    except ImportError:
        raise ConfigError(
            f"{path}: reading xlsx needs openpyxl: pip install 'stcr-plugin[vlmevalkit]'; or let VLMEvalKit write "
            "another format, with PRED_FORMAT=tsv in its environment"
        ) from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (OSError, KeyError, ValueError, openpyxl.utils.exceptions.InvalidFileException, BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as xlsx ({error}); give VLMEvalKit's prediction table") from error
    with closing(book):
        cells = book.active.iter_rows(values_only=True)
        heads = next(cells, ())
        for row in cells:
            yield dict(zip(heads, row, strict=False))


_READERS: Mapping[str, Callable[[Path], Iterator[Logged]]] = {
    ".jsonl": _lmms_eval,
    ".xlsx": _table(_xlsx),
    ".tsv": _table(_separated("\t")),
    ".csv": _table(_separated(",")),
    ".json": _table(_json),
}
