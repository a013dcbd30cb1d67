"""Rows as tasks of Label Studio, and decisions from its export."""

import base64
import io
import json
import xml.etree.ElementTree as ElementTree

import pytest
from annotated_rows import annotate
from PIL import Image

from stcr_plugin.annotation.decisions import ReviewedRows
from stcr_plugin.errors import DataError
from stcr_plugin.report import label_studio


@pytest.fixture
def reviewed(tmp_path, registry):
    return ReviewedRows(annotate(tmp_path / "annotations.jsonl", registry, 5))


def exported(reviewed, registry, tmp_path):
    config = label_studio.export(reviewed, range(5), registry, out=tmp_path / "tasks.json")
    return config, json.loads((tmp_path / "tasks.json").read_text())


def labelled(task, *, review=None, at="2026-01-01", cancelled=False, **texts):
    """The task as Label Studio exports it, with one more annotation by a person."""
    result = [
        {"id": name, "from_name": name, "to_name": "earlier_image", "type": "textarea", "value": {"text": [text]}}
        for name, text in texts.items()
    ]
    if review:
        choice = {"choices": [review]}
        result.append({"from_name": "review", "to_name": "earlier_image", "type": "choices", "value": choice})
    made = {"id": 7, "result": result, "was_cancelled": cancelled, "updated_at": at, "completed_by": 1}
    return task | {"id": 3, "annotations": [*task.get("annotations", []), made], "predictions": [12]}


def written(tmp_path, tasks):
    path = tmp_path / "export.json"
    path.write_text(tasks if isinstance(tasks, str) else json.dumps(tasks))
    return path


def test_tasks_have_pictures_texts_and_names_of_the_labelling_interface(reviewed, registry, tmp_path):
    config, tasks = exported(reviewed, registry, tmp_path)
    root = ElementTree.parse(config).getroot()
    shown = {one.get("value").removeprefix("$") for one in root.iter() if (one.get("value") or "").startswith("$")}
    named = {one.get("name"): one.get("toName") for one in root.iter() if one.get("name")}
    assert [task["data"]["pair_id"] for task in tasks] == [row.pair_id for row in reviewed.rows]
    for task, row in zip(tasks, reviewed.rows, strict=True):
        assert shown <= set(task["data"])
        for side in ("earlier", "later"):
            head, data = task["data"][f"{side}_image"].split(",")
            assert head == "data:image/png;base64"
            assert Image.open(io.BytesIO(base64.b64decode(data))).size == (56, 56)
        (prediction,) = task["predictions"]
        texts = {one["from_name"]: one["value"]["text"] for one in prediction["result"]}
        assert texts == {"earlier_text": [row.earlier_text], "later_text": [row.later_text]}
        assert all(named[one["from_name"]] == one["to_name"] for one in prediction["result"])


def test_decisions_come_back_and_the_rest_stays(reviewed, registry, tmp_path):
    tasks = exported(reviewed, registry, tmp_path)[1]
    back = [
        labelled(tasks[0], review="accept", earlier_text=tasks[0]["data"]["earlier_text"], later_text="Corrected."),
        labelled(tasks[1], review="reject", note="blurred"),
        labelled(tasks[2], review="accept", cancelled=True),
        labelled(tasks[3], note="no decision"),
        tasks[4] | {"annotations": []},
    ]
    path = written(tmp_path, back)
    found = label_studio.read(reviewed, path)
    reviewed.decide(found)
    assert [row.review for row in reviewed.rows] == ["accept", "reject", "", "", ""]
    assert (reviewed.rows[0].later_text, reviewed.rows[1].note) == ("Corrected.", "blurred")
    assert [reviewed.edited(at) for at in range(2)] == [True, False]
    assert label_studio.read(reviewed, path) == []


def test_annotation_that_was_changed_last_counts(reviewed, registry, tmp_path):
    task = exported(reviewed, registry, tmp_path)[1][0]
    twice = labelled(labelled(task, review="reject", at="2026-02-02"), review="accept", at="2026-01-01")
    (decision,) = label_studio.read(reviewed, written(tmp_path, [twice]))
    assert decision.review == "reject"


def test_reviewed_rows_are_exported_with_their_decision_and_come_back_unchanged(reviewed, registry, tmp_path):
    reviewed.decide([reviewed.decision(1, "reject", note="why", texts=("One.", "Two."))])
    tasks = exported(reviewed, registry, tmp_path)[1]
    assert "predictions" not in tasks[1]
    assert label_studio.read(reviewed, written(tmp_path, [tasks[1]])) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tasks: tasks[0]["data"].update(pair_id="x:1-2"), "task 1: no row is of pair 'x:1-2', sample 0; name"),
        (lambda tasks: tasks[0]["data"].update(sample=3), "task 1: no row is of pair"),
        (lambda tasks: tasks[0]["data"].update(pair_id=["x"]), "task 1: is not a task of Label Studio"),
        (lambda tasks: tasks[1].pop("data"), "task 2: is not a task of Label Studio for these rows; export it again"),
        (lambda tasks: tasks[1].pop("annotations"), "task 2: is not a task of Label Studio"),
        (lambda tasks: tasks.insert(0, 3), "task 1: is not a task of Label Studio"),
        (lambda tasks: tasks[1]["annotations"][0].update(result=[{"from_name": "review"}]), "task 2: is not a task"),
        (lambda tasks: tasks[1]["annotations"][0].update(result=None), "task 2: is not a task"),
        (lambda tasks: tasks[0]["annotations"][0]["result"][0]["value"].update(choices=["maybe"]), "is 'maybe'; use"),
        (lambda tasks: tasks[0]["annotations"][0]["result"][0]["value"].update(choices=[{}]), "its decision is {}"),
    ],
)
def test_broken_exports_are_named_in_one_line_and_nothing_is_taken(reviewed, registry, tmp_path, change, words):
    tasks = [labelled(task, review="accept") for task in exported(reviewed, registry, tmp_path)[1][:2]]
    change(tasks)
    with pytest.raises(DataError) as error:
        label_studio.read(reviewed, written(tmp_path, tasks))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{}", "[", '"x"'])
def test_other_files_are_refused(reviewed, tmp_path, text):
    with pytest.raises(DataError, match=r"export\.json: (not readable as JSON|is not a list of tasks)"):
        label_studio.read(reviewed, written(tmp_path, text))


def test_picture_that_cannot_be_read_is_named_and_nothing_is_written(reviewed, tmp_path):
    with pytest.raises(DataError, match=r"no such file; name its registry by --registry"):
        label_studio.export(reviewed, [0], tmp_path, out=tmp_path / "tasks.json")
    assert not (tmp_path / "tasks.json").exists()
