import dataclasses

import pytest
import spatiallogic_files as made
from fake_source import FakeSource, episode
from spatiallogic_files import OTHER, PLACE, path, row

from stcr_plugin.config import from_mapping
from stcr_plugin.episodes.tabletop import TabletopConfig, TabletopSource
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry.build import DataConfig, build
from stcr_plugin.registry.check import check
from stcr_plugin.registry.manifest import dataset_rows, read_manifest
from stcr_plugin.samples.cot import Phrases, check_target, cot_sample, load_phrases
from stcr_plugin.types import ORDERS, Claim, Episode, Pair, Query

WORDING = Phrases(
    separator=", ",
    claims={"grey": "shade {value}", "cup": "the {part} cup is {value}"},
    words={"left": "on the left", "right": "on the right"},
)
PAIR = Pair("e:3-15", "e", "train", "stack cups", 3, 15, 1.2)
SOURCE = FakeSource([episode("e")])
STATES = SOURCE.states(episode("e"))
SHOWN = {"forward": (STATES[3], STATES[15]), "backward": (STATES[15], STATES[3])}


def target(order="forward"):
    return cot_sample(Query(PAIR, order), SHOWN[order], SOURCE, phrases=WORDING, language="en", seed=0).target


def checked(text, order="forward"):
    return check_target(text, Query(PAIR, order), SHOWN[order], source=SOURCE, phrases=WORDING)


def test_target_reads_as_the_authors_write_it():
    assert target() == (
        "spatial details: img1: shade 3, the blue cup is on the left. img2: shade 15, the blue cup is on the right.\n"
        "closer to completion: img2"
    )
    assert target("backward").endswith("the left.\ncloser to completion: img1")


@pytest.mark.parametrize("order", ORDERS)
def test_true_target_passes_and_every_claim_is_counted(order):
    assert checked(target(order), order) == 4


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("shade 15", "shade 16", "img2: the text states grey = 16, which is false"),
        ("on the left", "on the right", "img1: the text states cup:blue = 'right', which is false"),
        ("blue", "red", "cup:red = 'left', which is false"),
        ("completion: img2", "completion: img1", "ends with 'closer to completion: img1'"),
        ("completion: img2", "completion: img1 or img2", "where 'closer to completion: img2' is true"),
        ("shade 3", "shadow 3", "'shadow 3' can be read as no claim"),
        ("shade 3, ", "", None),
        (". img2: ", " img2: ", "does not read"),
        ("spatial details", "details", "does not read"),
        ("right.\n", "right.\n\n", "does not read"),
    ],
)
def test_doctored_target_is_caught(old, new, words):
    text = target()
    assert old in text
    if words is None:  # leaving a true claim out is not false; claims are counted
        assert checked(text.replace(old, new)) == 3
        return
    with pytest.raises(DataError, match=words) as caught:
        checked(text.replace(old, new, 1))
    assert "pair e:3-15, forward" in str(caught.value)


def test_target_of_the_other_order_is_caught():
    with pytest.raises(DataError, match="which is false"):
        checked(target("backward"), "forward")


def test_phrase_with_the_most_fixed_text_is_meant():
    phrases = Phrases(", ", {"phase": "{value}", "hand": "{part} hand {value}", "gripper": "gripper {value}"})
    claims = (Claim("phase", "lift"), Claim("gripper", "open"), Claim("hand:left", "half closed"))
    assert phrases.read(phrases.say(claims)) == claims


def test_two_equal_phrases_cannot_be_distinguished():
    phrases = Phrases(", ", {"reach": "{value} cm far", "goal": "{value} cm far"})
    with pytest.raises(DataError, match="reach and as goal"):
        phrases.read("3 cm far")


@pytest.mark.parametrize("claims", [(), (Claim("colour", "red"),), (Claim("cup", "left"),), (Claim("grey:a", 1),)])
def test_claims_without_words_are_refused(claims):
    with pytest.raises(DataError, match=r"no claim|no phrase"):
        WORDING.say(claims)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"claims": {"grey": "shade"}}, "holds {value} once"),
        ({"words": {"a": "x", "b": "x"}}, "same word for two things"),
        ({"separater": ", "}, "did you mean 'separator'"),
    ],
)
def test_bad_phrases_are_refused(change, words):
    values = {"separator": ", ", "claims": {"grey": "shade {value}"}} | change
    with pytest.raises(ConfigError, match=words):
        from_mapping(Phrases, values, "claims.yaml")


def test_source_without_claim_texts_can_only_be_weak():
    with pytest.raises(ConfigError, match="use kind: weak"):
        load_phrases("spatiallogic")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_tabletop_frame_can_be_said_and_read_back(language):
    source = TabletopSource(TabletopConfig(seen=2, heldout=2, size=28))
    phrases = load_phrases("tabletop")[language]
    frames = 0
    for one in source.episodes():
        assert isinstance(one, Episode)
        for state in source.states(one):
            assert phrases.read(phrases.say(source.claims(state))) == source.claims(state)
            frames += 1
    assert frames > 100


# ---- descriptions that were published ----


def published(tmp_path, described, pairs=None, **more):
    """A config of published pairs, `described` with descriptions and two without, of two clips."""
    rows = [
        row(path(PLACE, 1), path(PLACE, 5 + at), made.cot("corn in hand.", f"corn {at} in the bag.", "img2"))
        for at in range(described)
    ]
    rows += [row(path(clip, 2), path(clip, 4), made.weak("img2")) for clip in (PLACE, OTHER)]
    return from_mapping(
        DataConfig,
        {
            "name": "theirs",
            "source": {
                "kind": "spatiallogic",
                "file": str(made.write_json(tmp_path / "rows.json", rows)),
                "root": str(made.write_clips(tmp_path / "clips")),
            },
            "splits": {"train": {"fraction": 1.0}},
            "datasets": {
                "cot": {"split": "train", "kind": "cot", "pairs": pairs},
                "weak": {"split": "train", "kind": "weak"},
            },
            **more,
        },
        "test",
    )


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_published_pair_without_descriptions_is_left_out_of_cot_alone_and_counted(tmp_path, form):
    config = published(tmp_path, 3)
    config = dataclasses.replace(
        config, datasets={key: dataclasses.replace(rule, format=form) for key, rule in config.datasets.items()}
    )
    build(config, tmp_path / "sets")
    counts = read_manifest(tmp_path / "sets", "theirs").counts
    assert {name: figures.pairs for name, figures in counts.datasets.items()} == {
        "theirs_cot": 3,
        "theirs_weak": 5,
    }
    assert counts.excluded == {"published without a description of each picture; only kind: weak can use it": 2}
    assert all(
        "corn in hand" in item["messages"][1]["content"] for item in dataset_rows(tmp_path / "sets", "theirs_cot")
    )
    assert check("theirs", tmp_path / "sets").ok


def test_as_many_described_pairs_are_taken_as_were_asked_for(tmp_path):
    build(published(tmp_path, 3, pairs=3), tmp_path / "sets")
    counts = read_manifest(tmp_path / "sets", "theirs").counts.datasets["theirs_cot"]
    assert (counts.pairs, counts.short_by) == (3, 0)


@pytest.mark.parametrize(("described", "pairs", "have"), [(0, None, 0), (3, 4, 3)])
def test_too_few_described_pairs_stop_the_build_before_a_picture_is_decoded(tmp_path, described, pairs, have):
    words = rf"datasets\.cot\.pairs: .* has {have}.*skipped 2 times: published without a description"
    with pytest.raises(ConfigError, match=words):
        build(published(tmp_path, described, pairs), tmp_path / "sets")
    assert not list((tmp_path / "sets").rglob("*.png"))


def test_pair_without_descriptions_stops_a_build_that_takes_no_bad_data(tmp_path):
    with pytest.raises(
        DataError, match=r"^description episode .*, frames 2-4: published without .*on_bad_data: exclude"
    ):
        build(published(tmp_path, 3, on_bad_data="error"), tmp_path / "sets")
