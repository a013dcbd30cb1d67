"""Audits of labels that a judge who knows the truth gives to simulated episodes."""

import json
from pathlib import Path

import lerobot_dataset as made
import pytest
import yaml
from PIL import Image

from stcr_plugin.cli import main
from stcr_plugin.engines.oracles import Oracle
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.episodes.tabletop import TabletopConfig, TabletopSource
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.rank import rank_frames
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.evaluation.strips import Strip
from stcr_plugin.robotics.audit import audit
from stcr_plugin.robotics.label_files import (
    ANCHORS,
    LABEL,
    SUCCESS,
    Anchor,
    EpisodeSuccess,
    LabelRecord,
    write_anchors,
    write_success,
)
from stcr_plugin.scoring.suspicion import AuditedEpisode

SOURCE = {"kind": "tabletop", "seen": 4, "heldout": 0, "regress": 2, "size": 56}


def labelled(folder, anchors, dataset="", relative=True):
    write_anchors(folder / ANCHORS, anchors)
    LabelRecord(
        dataset=str(dataset),
        relative=relative,
        seed=0,
        settings={},
        ask={},
        engine={"engine": "right"},
        counts={"episodes": len(anchors)},
    ).write(folder / LABEL)
    return folder


def judged(folder, number, episode_id, truth):
    """The anchors of an episode by the oracle that is always right, from the true progress of its frames."""
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    frames = tuple(round(place * (len(truth) - 1) / 7) for place in range(8))
    seconds = tuple(frame / 10 for frame in frames)
    known = tuple(truth[frame] for frame in frames)
    strip = Strip(folder, episode_id, "a task", ("a.png",) * 8, frames, seconds, known)
    request = EvalRequest(engine=Oracle("right", strip.pairs()), settings=AskSettings(mode="direct"))
    found = rank_frames(request, strip, folder / "asked" / str(number))
    compared = [place for one in found.comparisons for place in (one.first, one.second)]
    return [Anchor(episode_id, number, one.frame, one.progress, 0.0, compared.count(one.place)) for one in found.frames]


@pytest.fixture(scope="module")
def tabletop(tmp_path_factory):
    """Labels of four episodes, one of them played backwards, and of two that regress."""
    folder = tmp_path_factory.mktemp("tabletop")
    config = {"name": "toy", "source": SOURCE, "splits": {"heldout": {"episodes": 2}}}
    (folder / "data.yaml").write_text(yaml.safe_dump(config | {"datasets": {}}))
    source = TabletopSource(TabletopConfig(**SOURCE), 0)
    every = []
    for number, episode in enumerate(source.episodes()):
        truth = [float(state["progress"]) for state in source.states(episode)]
        backwards = number == 2
        every.append(judged(folder, number, episode.episode_id, truth[::-1] if backwards else truth))
    (folder / "labels").mkdir()
    return labelled(folder / "labels", every, folder / "data.yaml")


def test_opposite_comes_first_then_what_regresses_then_the_rest(tabletop, tmp_path):
    found = audit(tabletop, tmp_path)
    ids = [row.episode_id for row in found.rows]
    assert found.rows[0].episode_index == 2
    assert found.rows[0].figures.tau < -0.9
    assert all("regress" in one for one in ids[1:3])
    assert all("seen" in one for one in ids[3:])
    assert found.dropped == [2]
    assert list(AuditedEpisode.read_rows(tmp_path / "audit.jsonl")) == list(found.rows)


def test_command_writes_a_page_with_pictures_and_prints_the_editing_command(tabletop, tmp_path, capsys):
    before = {path: path.read_bytes() for path in tabletop.iterdir()}
    assert main(["audit", str(tabletop), "--out", str(tmp_path), "--drop", "tau<-0.5"]) == 0
    said = capsys.readouterr().out
    assert "lerobot-edit-dataset --repo_id DATASET --new_repo_id COPY --operation.type delete_episodes" in said
    assert '--operation.episode_indices "[2]"' in said
    page = (tmp_path / "audit.html").read_text()
    assert page.count("<article") == 6
    assert page.count("data:image/jpeg") == 6 * 8
    assert page.count("<polyline") == 6
    assert "These labels are relative" in page
    assert {path: path.read_bytes() for path in tabletop.iterdir()} == before
    again = tmp_path / "again"
    assert main(["audit", str(tabletop), "--out", str(again), "--drop", "tau<-0.5"]) == 0
    assert (again / "audit.html").read_bytes() == (tmp_path / "audit.html").read_bytes()
    assert (again / "audit.jsonl").read_bytes() == (tmp_path / "audit.jsonl").read_bytes()


def rising(episode_id, number, n=5):
    return [Anchor(episode_id, number, 10 * place, place / (n - 1), 0.0, 4) for place in range(n)]


def test_a_page_without_recordings_says_why_and_escapes_what_it_shows(tmp_path, capsys):
    labels = labelled(tmp_path, [rising("<script>alert(1)</script>", 0), rising("b", 1)], tmp_path / "gone.yaml")
    assert main(["audit", str(labels), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "gone.yaml" in page
    assert "No episode." in page
    assert "no episode is above the rule of --drop" in capsys.readouterr().out


def test_success_of_several_tasks_is_that_of_the_worst(tmp_path):
    labels = labelled(tmp_path / "labels", [rising(f"e{number}", number) for number in range(4)])
    rows = [EpisodeSuccess(f"e{number}", number, "a", 0.9) for number in range(4)]
    write_success(labels / SUCCESS, [*rows, EpisodeSuccess("e2", 2, "b", 0.2)])
    found = audit(labels, tmp_path / "out")
    assert (found.rows[0].episode_id, found.rows[0].reason, found.rows[0].figures.success) == ("e2", "success", 0.2)


def test_a_lerobot_dataset_is_only_read_and_gives_its_pictures(tmp_path):
    root = made.write_v21(tmp_path / "data", made.Layout(lengths=(21, 21)))
    labelled(root, [rising("000000", 0, 3), rising("000001", 1, 3)], root)
    with pytest.raises(ConfigError, match="is in the dataset"):
        audit(root, root / "audit")
    found = audit(root, tmp_path / "out")
    assert found.recordings.problem == ""
    (first, last) = found.recordings.pictures(found.rows[0].episode_id, [0, 20])
    assert [made.number(picture)[1] for picture in (first, last)] == [0, 20]


def test_folders_without_labels_are_refused(tmp_path):
    with pytest.raises(DataError, match="run `stcr label` first"):
        audit(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="has no episode"):
        audit(labelled(tmp_path, []), tmp_path / "out")
    with pytest.raises(DataError, match="not in one piece"):
        audit(labelled(tmp_path, [rising("a", 0), rising("b", 1), rising("a", 0)]), tmp_path / "out")
    assert not (tmp_path / "out" / "audit.jsonl").exists()
    assert json.loads((Path(tmp_path) / LABEL).read_text())["relative"]
