"""What lmms-eval and VLMEvalKit would log of a benchmark with given responses."""

import csv
import json

from stcr_plugin.benchmark import task
from stcr_plugin.engines.settings import AskSettings

GENERATED = AskSettings(mode="direct", generate=True)
# Answers of a model that can be wrong in every way; the empty one, "NA" and the number must survive a table.
WORDS = (
    "closer to completion: img2",
    "closer to completion: img1",
    "img1 or img2",
    "",
    "spatial details: img1: a, b\n\nimg2: \t“c”\ncloser to completion: img2",
    "更接近的是 img1",
    "NA",
    "2",
    '"closer to completion": "img 1"',
)


def document(made, row, **pictures):
    """A row of data.parquet as lmms-eval gives it to a task's functions."""
    texts = {"introduction": row.introduction, "question": row.question, "benchmark": made.label}
    return {**pictures, **texts, **row.columns()}


def samples(made, texts):
    """What lmms-eval 0.7.3 logs with --log_samples, less the hashes and token counts that nobody reads."""
    for number, row in enumerate(made.rows):
        text = texts[row.pair.pair_id, row.order]
        doc = document(made, row)
        yield {
            "doc_id": number,
            "target": task.doc_to_target(doc),
            "filtered_resps": text,
            **task.process_results(doc, [text.strip()]),
            "input": task.doc_to_text(doc),
        }


def predictions(made, texts):
    """The table that VLMEvalKit writes: the TSV's columns less `image`, and the prediction."""
    for row in made.rows:
        columns = {"index": row.number, "image_path": "['a.png', 'b.png']", "question": row.question, **row.columns()}
        yield {**columns, "benchmark": made.label, "prediction": texts[row.pair.pair_id, row.order]}


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path, rows):
    path.write_text(json.dumps(list(rows), indent=4, ensure_ascii=False))


def write_tsv(path, rows):
    _separated(path, rows, "\t")


def write_csv(path, rows):
    _separated(path, rows, ",")


def _separated(path, rows, delimiter):
    rows = list(rows)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_xlsx(path, rows):
    import openpyxl

    rows = list(rows)
    book = openpyxl.Workbook()
    book.active.append(list(rows[0]))
    for row in rows:
        book.active.append([value or None for value in row.values()])  # as pandas writes an empty text
    book.save(path)
