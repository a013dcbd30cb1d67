"""Annotated texts as tasks of Label Studio, and what people decided there.

Formats: https://labelstud.io/guide/task_format, https://labelstud.io/guide/predictions (tasks and results) and
https://labelstud.io/tags/textarea (texts). Pictures are data addresses, so no storage has to be connected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.annotation.decisions import Decision, ReviewedRows
from stcr_plugin.errors import DataError
from stcr_plugin.report import html
from stcr_plugin.samples.annotations import Annotation

CONFIG = """\
<View>
  <Header value="$task"/>
  <View style="display: flex; gap: 1em">
    <View style="flex: 50%">
      <Image name="earlier_image" value="$earlier_image"/>
      <TextArea name="earlier_text" toName="earlier_image" value="$earlier_text" rows="6" editable="true" \
maxSubmissions="1"/>
    </View>
    <View style="flex: 50%">
      <Image name="later_image" value="$later_image"/>
      <TextArea name="later_text" toName="later_image" value="$later_text" rows="6" editable="true" \
maxSubmissions="1"/>
    </View>
  </View>
  <Choices name="review" toName="earlier_image" choice="single" required="true" showInline="true">
    <Choice value="accept" hotkey="a"/>
    <Choice value="reject" hotkey="r"/>
  </Choices>
  <TextArea name="note" toName="earlier_image" placeholder="note" rows="1" editable="true" maxSubmissions="1"/>
</View>
"""
"""The labelling interface that the tasks need."""
_ON = {"earlier_text": "earlier_image", "later_text": "later_image", "note": "earlier_image", "review": "earlier_image"}
_LONGEST, _QUALITY = 640, 88  # a picture's longest side in pixels, and JPEG quality
_EXPORT = "export it again from Label Studio as JSON, not JSON-MIN"


def export(reviewed: ReviewedRows, positions: Sequence[int], registry: Path, *, out: Path) -> Path:
    """Write rows as tasks to `out`, and the labelling interface beside it as XML, whose path is returned.

    A row that was reviewed has an annotation with the decision, any other one a prediction with its texts.

    Raises:
        DataError: for a picture that cannot be read.
    """
    tasks = [_task(reviewed.rows[position], registry) for position in positions]
    config = out.with_suffix(".xml")
    artefacts.write_text(config, CONFIG)
    artefacts.write_json(out, tasks)
    return config


def _task(row: Annotation, registry: Path) -> dict[str, Any]:
    pictures = {}
    for name in ("earlier_image", "later_image"):
        image = getattr(row, name)
        frame = html.frame(registry, image, name, longest=_LONGEST, quality=_QUALITY)
        if not frame.address:
            raise DataError(f"pair {row.pair_id}", frame.missing, "name its registry by --registry")
        pictures[name] = frame.address
    texts = {"earlier_text": row.earlier_text, "later_text": row.later_text}
    results = [_result(name, {"text": [text]}) for name, text in texts.items()]
    data = {"pair_id": row.pair_id, "sample": row.sample, "task": row.task, **pictures, **texts}
    if not row.review:
        return {"data": data, "predictions": [{"model_version": "stcr annotate", "result": results}]}
    results += [_result("review", {"choices": [row.review]})]
    results += [_result("note", {"text": [row.note]})] if row.note else []
    return {"data": data, "annotations": [{"result": results}]}


def _result(name: str, value: dict[str, list[str]]) -> dict[str, Any]:
    kind = "choices" if "choices" in value else "textarea"
    return {"id": name, "from_name": name, "to_name": _ON[name], "type": kind, "value": value}


def read(reviewed: ReviewedRows, path: Path) -> list[Decision]:
    """The decisions in an export of Label Studio that differ from what the rows say; skipped tasks have none.

    Of several annotations of a task the one that was changed last counts.

    Raises:
        DataError: for a file that is not such an export, a task of no row of ours, or texts that do not belong to it.
    """
    tasks = artefacts.read_json(path)
    if not isinstance(tasks, list):
        raise DataError(path, "is not a list of tasks", _EXPORT)
    found = {}
    for number, task in enumerate(tasks, 1):
        where = f"{path}, task {number}"
        try:
            position, values = _row_of(reviewed, task["data"], where), _values(task)
        except (KeyError, TypeError, AttributeError, IndexError):
            raise DataError(where, "is not a task of Label Studio for these rows", _EXPORT) from None
        if values is None:
            continue
        row = reviewed.rows[position]
        review = values.get("review", "")
        if review not in ("", "accept", "reject") or not all(isinstance(one, str) for one in values.values()):
            raise DataError(where, f"its decision is {review!r:.80}", "use accept or reject")
        texts = values.get("earlier_text", row.earlier_text), values.get("later_text", row.later_text)
        state = review, values.get("note", ""), texts
        if review and state != (row.review, row.note, (row.earlier_text, row.later_text)):
            found[position] = reviewed.decision(position, review, note=state[1], texts=texts)
    return list(found.values())


def _row_of(reviewed: ReviewedRows, data: dict[str, Any], where: str) -> int:
    position = reviewed.position(data["pair_id"], data["sample"])
    if position is None:
        problem = f"no row is of pair {data['pair_id']!r:.80}, sample {data['sample']!r:.20}"
        raise DataError(where, problem, f"name the file that the tasks were made of, not {reviewed.path}")
    return position


def _values(task: dict[str, Any]) -> dict[str, Any] | None:
    """Name of a control -> its value, of the latest annotation; None for a task that nobody annotated."""
    done = [one for one in task["annotations"] if not one.get("was_cancelled")]
    if not done:
        return None
    latest = max(done, key=lambda one: str(one.get("updated_at") or one.get("created_at") or ""))
    return dict(_read_results(latest["result"]))


def _read_results(results: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    for result in results:
        if (name := result["from_name"]) in _ON:
            value = result["value"]["choices" if name == "review" else "text"]
            yield name, value if isinstance(value, str) else value[0]
