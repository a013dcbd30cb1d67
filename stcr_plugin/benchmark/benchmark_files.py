"""A benchmark in the files of lmms-eval and of VLMEvalKit, with pictures: a folder that can be shared.

Formats: lmms-eval's task YAML (its docs/task_guide.md) over a local Parquet file with embedded pictures, as `datasets`
stores them; VLMEvalKit's TSV (its docs/en/Development.md), where several pictures of a row are a list in `image`.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.benchmark.rows import Benchmark, Row, benchmark
from stcr_plugin.config import nearest
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError
from stcr_plugin.progress_bar import progress
from stcr_plugin.provenance import provenance
from stcr_plugin.registry.picture_store import read
from stcr_plugin.scoring.metrics import RATES

TASK = Path(__file__).with_name("lmms_eval.yaml")
# The gap is signed and best at 0, position bias is best at 50.
_HIGHER_IS_BETTER = {"gap_points": "null", "position_bias": "null", "unparsed_rate": "false"}
_AT_ONCE = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported benchmark.

    Attributes:
        path: The file or folder that the other tool takes.
        how: The command that runs it there.
    """

    name: str
    path: Path
    rows: int
    how: str


def export(
    registry: Path,
    dataset: str,
    split: str,
    *,
    out: Path,
    format: str,
    settings: AskSettings | None = None,
    seed: int = 0,
) -> Exported:
    """Write every pair of a split in both orders into the folder `out`, which may hold other benchmarks.

    Args:
        registry: Folder of the builds.
        dataset: Name of a build.
        split: Split of the build.
        out: The folder.
        format: "lmms-eval" or "vlmevalkit".
        settings: See `rows.benchmark`.
        seed: Likewise.

    Raises:
        ConfigError: The format, a name or a setting is unknown.
        DataError: Data cannot be read or written.
    """
    if format not in _WRITERS:
        raise ConfigError("format", f"unknown {format!r}", nearest(format, list(_WRITERS)))
    settings = settings or AskSettings()
    made = benchmark(registry, dataset, split, settings=settings, seed=seed)
    path, how = _WRITERS[format](made, registry, Path(out), max_new_tokens=settings.max_new_tokens)
    about = {
        "name": made.name,
        "format": format,
        **dataclasses.asdict(made.source),
        "rows": len(made.rows),
        "pairs": len(made.rows) // 2,
        "episodes": len({row.pair.episode_id for row in made.rows}),
        "how": how,
        "provenance": provenance(),
    }
    artefacts.write_json((path if path.is_dir() else path.parent) / f"{made.name}.json", about)
    return Exported(name=made.name, path=path, rows=len(made.rows), how=how.replace("DIR", str(out)))


def _lmms_eval(made: Benchmark, registry: Path, out: Path, *, max_new_tokens: int) -> tuple[Path, str]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features, Image, Value

    features = {"img1": Image(), "img2": Image(), "introduction": Value("string"), "question": Value("string")}
    features |= {
        name: Value("float64" if isinstance(value, float) else "string") for name, value in _columns(made).items()
    }
    schema = Features(features).arrow_schema
    folder = out / made.name
    with (
        artefacts.whole_file(folder / "data.parquet") as part,
        pq.ParquetWriter(part, schema, compression="zstd") as writer,
    ):
        for rows in _batches(made):
            table = [_lmms_eval_row(made, row, registry) for row in rows]
            writer.write_table(pa.Table.from_pylist(table, schema=schema))
    lines = [
        f"  - metric: {name}\n"
        f"    aggregation: !function stcr_plugin.benchmark.task.{name}\n"
        f"    higher_is_better: {_HIGHER_IS_BETTER.get(name, 'true')}"
        for name in RATES
    ]
    task = Template(TASK.read_text(encoding="utf-8")).substitute(
        name=made.name, max_new_tokens=max_new_tokens, metrics="\n".join(lines)
    )
    artefacts.write_text(folder / f"{made.name}.yaml", task)
    return folder, (
        f"python -m lmms_eval --include_path DIR --tasks {made.name} --model MODEL --model_args ARGS "
        "--log_samples --output_path LOGS"
    )


def _lmms_eval_row(made: Benchmark, row: Row, registry: Path) -> dict[str, Any]:
    first, second = ({"bytes": read(registry, image), "path": None} for image in row.images)
    texts = {"introduction": row.introduction, "question": row.question}
    return {"img1": first, "img2": second, **texts, **row.columns(), "benchmark": made.label}


def _vlmevalkit(made: Benchmark, registry: Path, out: Path, *, max_new_tokens: int) -> tuple[Path, str]:
    path = out / f"{made.name}.tsv"
    columns = ["index", "image", "image_path", "question", *_columns(made)]
    with artefacts.whole_file(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        for rows in _batches(made):
            writer.writerows(_vlmevalkit_row(made, row, registry) for row in rows)
    return path, f"LMUData=DIR python run.py --data {made.name} --model MODEL --mode infer --work-dir LOGS"


def _vlmevalkit_row(made: Benchmark, row: Row, registry: Path) -> dict[str, Any]:
    pictures = [read(registry, image) for image in row.images]
    return {
        "index": row.number,
        "image": json.dumps([base64.b64encode(data).decode() for data in pictures]),
        # Named by content: VLMEvalKit keeps decoded pictures by name, and takes PNG for what PIL can open.
        "image_path": json.dumps([f"{artefacts.sha256_of(data)[:32]}.png" for data in pictures]),
        "question": f"{row.introduction}\n{row.question}",
        **row.columns(),
        "benchmark": made.label,
    }


def _columns(made: Benchmark) -> Mapping[str, Any]:
    return {**made.rows[0].columns(), "benchmark": made.label}


def _batches(made: Benchmark) -> Iterator[list[Row]]:
    with progress(len(made.rows), f"{made.name}: writing", "rows") as bar:
        for start in range(0, len(made.rows), _AT_ONCE):
            rows = list(made.rows[start : start + _AT_ONCE])
            yield rows
            bar.update(len(rows))


_WRITERS: dict[str, Callable[..., tuple[Path, str]]] = {
    "lmms-eval": _lmms_eval,
    "vlmevalkit": _vlmevalkit,
}
