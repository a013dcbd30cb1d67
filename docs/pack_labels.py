"""Pack the progress that `stcr label` found into one small file of docs/results, from which make_tables.py computes its
figures.

    python docs/pack_labels.py docs/results/labels/NAME.jsonl "stcr label ..." REVISION LABELS heldout=000004,000016

Arguments: the file to write, the command of the run, the revision of the code, the folder of the labels, and groups of
episodes whose figures are published too. The first line says how the run was made, with its counts and its controls.
Each further line is one episode: its anchors, their progress, and their true progress where the source records it,
which is read from the dataset.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.robotics.label_files import ANCHORS, LABEL, LabelRecord, read_anchors
from stcr_plugin.robotics.labelled_data import LabelledData


def main(arguments: list[str]) -> None:
    out, command, revision, given, *groups = arguments
    head, lines = packed(Path(given))
    head = {"command": command, "revision": revision, **head}
    head["groups"] = {name: names.split(",") for name, _, names in (group.partition("=") for group in groups)}
    artefacts.write_jsonl(Path(out), [head, *lines])


def packed(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How the labels of a folder were made, and a line per episode."""
    record = LabelRecord.read(folder / LABEL)
    data = LabelledData(Path(record.dataset)).opened()
    episodes = {episode.episode_id: episode for _, episode in data.listed()[0]}
    head = {
        "model_digest": record.engine.get("model_digest"),
        "counts": record.counts,
        "reference": list(record.settings["reference"]),
        "controls": [asdict(one) for one in record.controls],
    }
    lines = []
    for name, anchors in groupby(read_anchors(folder / ANCHORS), key=lambda one: one.episode_id):
        rows = list(anchors)
        frames = [one.frame_index for one in rows]
        differ = round(sum(one.disagreement for one in rows) / len(rows), 4)
        line = {"episode": name, "frames": frames, "progress": [round(one.progress, 4) for one in rows]}
        line |= {"disagreement": differ}
        truth = [round(value, 4) for value in data.truth(episodes[name], episodes[name].task, frames)]
        lines.append(line | ({"truth": truth} if truth else {}))
    return head, lines


if __name__ == "__main__":
    main(sys.argv[1:])
