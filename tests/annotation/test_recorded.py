"""Texts held against the recorded states of a build's source."""

import shutil

import pytest
from teacher_server import frames_by_pixels, request, rows_of, teaching
from toy_build import DATA, build_toy

from stcr_plugin.annotation.annotate import annotate
from stcr_plugin.annotation.recorded import Recorded
from stcr_plugin.registry import parquet
from stcr_plugin.registry.ground_truth import config_of, source_of
from stcr_plugin.registry.manifest import read_manifest, read_pairs
from stcr_plugin.samples.cot import load_phrases


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return build_toy(tmp_path_factory.mktemp("registry"))


def said_of(registry, pair, frame, **changes):
    """The text of a frame as the claim texts of its source say it, with values changed."""
    manifest = read_manifest(registry, "toy")
    source, episodes = source_of(config_of(manifest), [pair.episode_id])
    state = {**source.states(episodes[pair.episode_id])[frame], **changes}
    return load_phrases("tabletop")["en"].say(source.claims(state))


def test_a_true_text_passes_and_the_text_of_another_frame_does_not(registry):
    pairs = read_pairs(registry, "toy", "heldout")
    recorded = Recorded(registry, read_manifest(registry, "toy"), "heldout", language="en")
    check = recorded.checking(pairs)
    assert recorded.unknown == ""
    for pair in pairs:
        true, other = said_of(registry, pair, pair.earlier), said_of(registry, pair, pair.later)
        assert check(true, pair.episode_id, pair.earlier) == "passed"
        if true != other:
            assert check(other, pair.episode_id, pair.earlier).startswith("false claim: ")
        assert check("It is a nice day.", pair.episode_id, pair.earlier) == "unchecked"


def test_the_reason_why_nothing_is_held_against_a_source_is_said_once(registry, caplog):
    recorded = Recorded(registry, read_manifest(registry, "toy"), "heldout", language="fr")
    assert "no texts for claims" in recorded.unknown
    assert len(caplog.records) == 1
    assert recorded.checking([])("The gripper is open.", "e", 0) == "unchecked"


def test_other_pictures_than_the_source_gives_are_not_held_against_its_states(registry, tmp_path):
    folder = tmp_path / "registry"
    shutil.copytree(registry, folder)
    pair = next(iter_pairs(folder))
    shutil.copy(folder / pair.later_image, folder / pair.earlier_image)
    recorded = Recorded(folder, read_manifest(folder, "toy"), "heldout", language="en")
    assert "gives other pictures" in recorded.unknown


def iter_pairs(folder):
    manifest = read_manifest(folder, "toy")
    shard = next(one for one in manifest.shards if one.split == "heldout")
    first = next(iter(parquet.read(folder / "toy" / shard.pairs)))["pair_id"]
    return (pair for pair in read_pairs(folder, "toy", "heldout") if pair.pair_id == first)


def test_a_false_claim_is_asked_for_again_and_its_reason_is_in_the_row(registry, tmp_path):
    frames = frames_by_pixels(registry, "toy")

    def claiming(kind, body, text):
        return f"{text} Gripper is on the moon." if kind == "describe" else text

    with teaching(frames, claiming) as desk:
        found = annotate(request(registry, desk, split="heldout", checks=["claims"], tries=1), tmp_path)
    assert DATA["source"]["kind"] == "tabletop"
    rows = rows_of(tmp_path)
    assert {row.earlier_claims.partition(":")[0] for row in rows} <= {"passed", "false claim"}
    assert found.figures.checks["claims"].asked == 2 * len(rows)
    assert found.unchecked == {}
