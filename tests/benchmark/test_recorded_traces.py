"""Progress that is written as recorded traces of PRM-as-a-Judge."""

import json
from dataclasses import replace

import benchmark_files as made
import pytest

from stcr_plugin.benchmark.recorded_traces import RecordedCase, traces_of_rankings, write_traces
from stcr_plugin.cli import main
from stcr_plugin.config import from_mapping
from stcr_plugin.episodes import open_source
from stcr_plugin.episodes.prm_manifest import PrmManifestConfig
from stcr_plugin.errors import DataError
from stcr_plugin.rankings import RankedFrame, Ranking


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prm")
    made.prm_manifest(folder, cases=3)
    return folder


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def ranking(folder, case, values):
    frames = tuple(
        RankedFrame(
            place, 4 * place, None, f"{place}.png", progress=value, progress_error=0.0, score=0.0, score_error=0.0
        )
        for place, value in enumerate(values)
    )
    found = Ranking(words="", episode_id=case, task="Put the can away.", frames=frames)
    found.write(folder / Ranking.file)
    return folder


def case(root, name="case/1", **more):
    values = {"task": "Put the can away.", "video": root / "videos/0.mp4", "progress": (0.0, 0.25, 1.0)}
    return RecordedCase(name, **values | more)


def test_what_is_written_is_read_back_with_the_same_progress(root):
    manifest = write_traces([case(root, label="success")], root / "recorded")
    (row,) = rows(manifest)
    assert (row["case_id"], row["label"]) == ("case/1", "success")
    assert json.loads((manifest.parent / row["progress_path"]).read_text()) == {"progress": [0.0, 0.25, 1.0]}
    settings = {"file": str(manifest), "root": str(root), "trace": "even"}
    source = open_source(from_mapping(PrmManifestConfig, settings, "test"))
    (episode,) = source.episodes()
    known = [state["progress"] for state in source.states(episode) if state["progress"] is not None]
    assert (known, episode.group) == ([0.0, 0.25, 1.0], "success")
    with pytest.raises(DataError, match=r"its video is a path that leaves source\.root"):
        open_source(from_mapping(PrmManifestConfig, settings | {"root": ""}, "test"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"progress": (0.1,)}, "two or more numbers from 0 to 1"),
        ({"progress": (0.1, float("nan"))}, "two or more numbers from 0 to 1"),
        ({"progress": (0.1, 1.2)}, "two or more numbers from 0 to 1"),
        ({"label": "maybe"}, "its label 'maybe' is not success or failure"),
    ],
)
def test_cases_that_others_could_not_read_are_refused(root, tmp_path, changes, problem):
    with pytest.raises(DataError, match=problem):
        write_traces([replace(case(root), **changes)], tmp_path)


def test_no_case_and_two_cases_of_one_id_are_refused(root, tmp_path):
    with pytest.raises(DataError, match="no case has progress"):
        write_traces([], tmp_path)
    with pytest.raises(DataError, match="there are two cases of that id"):
        write_traces([case(root), case(root)], tmp_path)


def test_rankings_replace_the_progress_of_their_cases(root, tmp_path, capsys):
    folders = [ranking(tmp_path / f"rank{n}", f"case_{n}", (0.0, 0.5, 0.75)) for n in (0, 2)]
    out = tmp_path / "recorded"
    main(["benchmark", "traces", *map(str, folders), "--manifest", str(root / "cases.jsonl"), "--out", str(out)])
    said = capsys.readouterr().out
    assert "2 cases, 1 without a ranking left out" in said
    found = rows(out / "manifest.jsonl")
    assert [(row["case_id"], row["label"], row["benchmark"], row["model"]) for row in found] == [
        ("case_0", "failure", "made", "pi0"),
        ("case_2", "success", "made", "pi0"),
    ]
    for row in found:
        assert not {"progress", "videos"} & row.keys()
        assert (out / row["video"]).is_file()
        assert json.loads((out / row["progress_path"]).read_text()) == {"progress": [0.0, 0.5, 0.75]}


def test_a_ranking_of_no_case_and_a_damaged_manifest_are_named(root, tmp_path):
    folder = ranking(tmp_path / "rank", "case_9", (0.0, 1.0))
    with pytest.raises(DataError, match="has no case 'case_9', of which a ranking is"):
        traces_of_rankings([folder], root / "cases.jsonl", tmp_path / "out")
    bad = made.write_lines(root / "bad.jsonl", [*rows(root / "cases.jsonl"), {"case_id": "x"}])
    with pytest.raises(DataError, match=r"bad.jsonl, row 4.*: it has no field 'task'"):
        traces_of_rankings([folder], bad, tmp_path / "out")
