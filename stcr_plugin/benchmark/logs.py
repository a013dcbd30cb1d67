"""A log of lmms-eval or VLMEvalKit -> the results that `stcr eval` writes for the same responses.

lmms-eval: `*_samples_NAME.jsonl` of --log_samples. VLMEvalKit: its prediction table MODEL_NAME as xlsx (its default),
tsv, csv or json (PRED_FORMAT). Each row carries its query and how the benchmark was made.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from stcr_plugin import artefacts
from stcr_plugin.benchmark.rows import Benchmark, benchmark_again, title
from stcr_plugin.benchmark.task import RECORD
from stcr_plugin.config import nearest
from stcr_plugin.engines.sealed import unsealed
from stcr_plugin.episodes.episode_table import LONGEST_CELL
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.evaluate import evaluate
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.results import Evaluation
from stcr_plugin.scoring.reasoning import ends_unbegun, marks_none
from stcr_plugin.types import Prompt, Response

# What VLMEvalKit writes as a prediction where the model was not reached (INFER_FAIL_MSG in its vlmeval/smp/file.py).
FAILED = "Failed to obtain answer"
_MOST_IN_EXCEL = 32_767  # characters of a cell, which Excel's format cuts


@dataclass(frozen=True, kw_only=True)
class Logged:
    """One row of a log.

    Attributes:
        text: The response; None where the tool got none.
        label: See Benchmark.label.
        number: The row's number in the file, from 1.
    """

    pair_id: str
    order: str
    text: str | None
    label: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Log:
    """A whole log, as an engine that gives the logged responses: (pair_id, order) -> text."""

    path: Path
    tool: str
    model: str
    responses: Mapping[tuple[str, str], str]

    @cached_property
    def template_begins(self) -> bool:
        """Whether the model's template begins a reasoning, which the texts then only end, if they were not cut."""
        return any(ends_unbegun(text) for text in self.responses.values())

    def response(self, text: str) -> Response:
        cut = len(text) >= _MOST_IN_EXCEL if self.path.suffix == ".xlsx" else False
        return Response(text, lost="cut" if cut or (self.template_begins and marks_none(text)) else "")

    def identity(self) -> Mapping[str, Any]:
        # The tool sized the pictures by its own rule, whatever the settings say.
        return {"engine": self.tool, "log": self.path.name, "log_digest": artefacts.sha256(self.path)}

    def respond(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        for index, prompt in enumerate(map(unsealed, prompts)):
            yield index, self.response(self.responses[prompt.item, prompt.order])


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
    """Write into `out` the results that `stcr eval` writes, of the responses in a log.

    Args:
        logs: A log, or a folder with one log of this split.
        dataset: Name of the build.
        split: Split of the build.
        out: Folder of the results.
        registry: Folder of the builds.
        name: What tables call the model (default: that of its log).
        model: Its folder where it is one here, to compare its training data with the split.

    Raises:
        ConfigError: See `open_log`.
        DataError: Likewise.
    """
    made, log = open_log(logs, dataset, split, registry=registry)
    request = EvalRequest(
        model=model,
        engine=log,
        dataset=dataset,
        split=split,
        registry=registry,
        settings=made.source.ask,
        seed=made.source.seed,
        name=name or (None if model else log.model),
    )
    return evaluate(request, out)


def open_log(logs: Path, dataset: str, split: str, *, registry: Path) -> tuple[Benchmark, Log]:
    """A log with one response to every query of its benchmark, and the benchmark, made again from the registry.

    Raises:
        ConfigError: There is not exactly one log, or it cannot be read.
        DataError: The log is of other pairs, pictures or prompts, or a query has no response or two.
    """
    path = _found(Path(logs), dataset, split)
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise ConfigError(path, "is not a log by its ending", nearest(path.suffix, list(_READERS)))
    rows = list(reader(path))
    if not rows:
        raise DataError(path, "has no rows", "run the benchmark again")
    other = next((row for row in rows if row.label != rows[0].label), None)
    if other:
        where = f"{path}, row {other.number}"
        raise DataError(where, f"is of another benchmark than row {rows[0].number}", "give a log of one benchmark")
    made = benchmark_again(registry, rows[0].label, path)
    if (made.source.dataset, made.source.split) != (dataset, split):
        problem = f"is a log of {made.source.dataset}, split {made.source.split}"
        raise DataError(path, problem, "name these, or give another log")
    responses = _responses(path, rows, [(row.pair.pair_id, row.order) for row in made.rows])
    if path.suffix == ".jsonl":
        return made, Log(path=path, tool="lmms-eval", model=path.parent.name, responses=responses)
    model = path.stem.removesuffix(f"_{made.name}")
    return made, Log(path=path, tool="VLMEvalKit", model=model, responses=responses)


def _found(logs: Path, dataset: str, split: str) -> Path:
    """The one log of this benchmark in a folder, or the file given."""
    if logs.is_file():
        return logs
    if not logs.is_dir():
        raise ConfigError(logs, "no such file or folder", "give the log, or the folder that it was written into")
    ending = re.compile(rf"(^|_){title(dataset, split)}_[0-9a-f]{{8}}$")
    # Resolved, since VLMEvalKit links its newest tables into the folder above.
    named = {path.resolve() for path in logs.rglob("*") if path.suffix in _READERS and ending.search(path.stem)}
    # An export in the same folder is not a log, and neither is the JSON file beside it.
    named = {path for path in named if path.suffix == ".jsonl" or not ending.fullmatch(path.stem)}
    if len(named) != 1:
        found = ", ".join(str(path) for path in sorted(named)) or "none"
        problem = f"expected one log of {dataset}, split {split}, found: {found}"
        raise ConfigError(logs, problem, "name the file itself, or run with --log_samples (lmms-eval)")
    return named.pop()


def _responses(path: Path, rows: Sequence[Logged], queries: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """(pair_id, order) -> text of each query. Raises DataError for one that is missing, double or unknown."""
    found: dict[tuple[str, str], Logged] = {}
    known = set(queries)
    for row in rows:
        key = (row.pair_id, row.order)
        where, query = f"{path}, row {row.number}", f"pair {row.pair_id}, {row.order},"
        if key not in known:
            raise DataError(where, f"{query} is not in the benchmark", "give a log of this benchmark")
        if key in found:
            raise DataError(where, f"{query} is in row {found[key].number} too", "give the log of one run")
        found[key] = row
    responses = {key: row.text for key, row in found.items() if row.text is not None}
    if missing := [key for key in queries if key not in responses]:
        pair_id, order = missing[0]
        why = f"row {found[missing[0]].number}: {FAILED}" if missing[0] in found else "no row"
        raise DataError(
            path,
            f"has no answer to {len(missing)} of {len(queries)} queries, the first pair {pair_id}, {order} ({why})",
            "run the whole benchmark without --limit, and run it again where the model was not reached",
        )
    return responses


def _lmms_eval(path: Path) -> Iterator[Logged]:
    """A line is a JSON object with `filtered_resps` (a text, or a list of one) and what process_results returned."""
    for number, row in enumerate(artefacts.read_jsonl(path), 1):
        try:
            text = row["filtered_resps"]
            text = text[0] if isinstance(text, list) and len(text) == 1 else text
            if not isinstance(text, str):
                raise TypeError(f"filtered_resps is {type(text).__name__}, not one text; run with --repeats 1")
            yield _logged(row[RECORD], text, number)
        except (KeyError, TypeError) as error:
            raise _unexpected(path, number, error) from error


def _table(rows: Callable[[Path], Iterator[Mapping[str, Any]]]) -> Callable[[Path], Iterator[Logged]]:
    def logged(path: Path) -> Iterator[Logged]:
        number = 0
        try:
            for number, row in enumerate(rows(path), 1):
                cell = row["prediction"]
                # An empty response is an empty cell, which pandas writes as NaN into JSON.
                text = "" if cell is None or cell != cell else str(cell)
                yield _logged(row, None if text.startswith(FAILED) else text, number)
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise _unexpected(path, number, error) from error

    return logged


def _logged(row: Mapping[str, Any], text: str | None, number: int) -> Logged:
    pair_id, order, label = (str(row[key]) for key in ("pair_id", "order", "benchmark"))
    return Logged(pair_id=pair_id, order=order, text=text, label=label, number=number)


def _unexpected(path: Path, number: int, error: Exception) -> DataError:
    problem = f"not a row of a benchmark that `stcr benchmark` exported ({type(error).__name__}: {error})"
    return DataError(f"{path}, row {number}", problem, "give the log itself")


def _separated(delimiter: str) -> Callable[[Path], Iterator[Mapping[str, Any]]]:
    def rows(path: Path) -> Iterator[Mapping[str, Any]]:
        with open(path, encoding="utf-8-sig", newline="") as file:
            csv.field_size_limit(LONGEST_CELL)  # a cell may hold a picture
            yield from csv.DictReader(file, delimiter=delimiter)

    return rows


def _json(path: Path) -> Iterator[Mapping[str, Any]]:
    yield from artefacts.read_json(path)


def _xlsx(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import openpyxl
    except ImportError:
        fix = "run pip install 'stcr-plugin[vlmevalkit]', or set PRED_FORMAT=tsv in VLMEvalKit's environment"
        raise ConfigError(path, "reading xlsx needs openpyxl", fix) from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (OSError, KeyError, ValueError, openpyxl.utils.exceptions.InvalidFileException, BadZipFile) as error:
        raise DataError(path, f"cannot be read as xlsx ({error})", "give VLMEvalKit's prediction table") from error
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
