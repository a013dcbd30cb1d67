import shutil

import pytest
from toy_build import build_toy

from stcr_plugin import artefacts
from stcr_plugin.episodes.tabletop import TabletopSource
from stcr_plugin.errors import DataError
from stcr_plugin.registry.ground_truth import config_of, source_of, true_progress
from stcr_plugin.registry.manifest import read_manifest, read_pairs


def episodes_of(registry):
    return sorted({pair.episode_id for pair in read_pairs(registry, "toy", "heldout")})


def test_progress_is_that_of_the_source_frame_by_frame(registry):
    wanted = episodes_of(registry)
    found = true_progress(registry, "toy", [(episode_id, "any") for episode_id in wanted])
    source, episodes = source_of(config_of(read_manifest(registry, "toy")), wanted)
    assert sorted(found) == [(episode_id, "any") for episode_id in sorted(episodes)]
    for episode_id, episode in episodes.items():
        assert found[episode_id, "any"] == [state["progress"] for state in source.states(episode)]
        assert len(found[episode_id, "any"]) == episode.n_frames


def test_source_that_records_no_progress_knows_none(registry, monkeypatch):
    first = episodes_of(registry)[0]
    monkeypatch.setattr(TabletopSource, "states", lambda *_: None)
    assert true_progress(registry, "toy", [(first, "any")]) == {(first, "any"): None}


def test_progress_of_an_episode_of_several_tasks_is_known_for_each_of_them(tmp_path):
    source = {"kind": "tabletop", "seen": 0, "heldout": 0, "tasks": 1, "size": 28}
    rules = {"min_seconds": 2.0, "label": "progress", "tasks": "opposed"}
    build_toy(tmp_path, source=source, splits={"train": {"episodes": 1}}, pairs=rules)
    pairs = read_pairs(tmp_path, "toy", "train")
    (episode_id,) = {pair.episode_id for pair in pairs}
    for pair in pairs:
        progress = true_progress(tmp_path, "toy", [(episode_id, pair.task)])[episode_id, pair.task]
        assert (progress[pair.later] > progress[pair.earlier]) == (pair.closer == "later")
    assert true_progress(tmp_path, "toy", [(episode_id, "other")]) == {(episode_id, "other"): None}


def test_lost_episode_and_other_code_are_told(registry, tmp_path):
    with pytest.raises(DataError, match="the source of toy: has no episode nowhere any more"):
        true_progress(registry, "toy", [("nowhere", "any")])
    folder = shutil.copytree(registry, tmp_path / "registry")
    manifest = artefacts.read_json(folder / "toy" / "manifest.json")
    manifest["frames"]["folder"] = "toy/frames-of-other-code"
    artefacts.write_json(folder / "toy" / "manifest.json", manifest)
    with pytest.raises(DataError, match="the code that makes its pictures has changed"):
        true_progress(folder, "toy", [(episode_id, "any") for episode_id in episodes_of(registry)])
