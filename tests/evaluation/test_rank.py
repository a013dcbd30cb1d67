import csv
import dataclasses
import hashlib
import json
import logging

import lerobot_dataset as made
import numpy as np
import pytest
import video_files
from PIL import Image
from scipy.stats import spearmanr
from toy_build import build_toy

from stcr_plugin.cli import main
from stcr_plugin.engines.oracles import Oracle
from stcr_plugin.engines.sealed import unsealed
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation import rank, strips
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.evaluation.strips import Strip
from stcr_plugin.report import ranking_words
from stcr_plugin.scoring.rank_correlation import correlation
from stcr_plugin.types import Response

EPISODES = 4
ASK = AskSettings(mode="direct")
WRITES = AskSettings(mode="direct", generate=True)
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return build_toy(tmp_path_factory.mktemp("registry"), EPISODES, pairs={"per_episode": 8, "min_seconds": 0.5})


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """For oracles, who do not look."""
    folder = tmp_path_factory.mktemp("picture")
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    return folder


def strip(picture, episode_id="e", n=8, **more):
    """Frames a second apart, all with the same picture."""
    return Strip(picture, episode_id, "a task", ("a.png",) * n, tuple(range(n)), tuple(map(float, range(n))), **more)


def value_order(engine, found, out, settings=ASK, **more):
    return rank.value_order(EvalRequest(engine=engine, settings=settings, **more), found, out)


def rank_frames(engine, found, out, settings=ASK, comparisons=None, group=None, **more):
    request = EvalRequest(engine=engine, settings=settings, **more)
    return rank.rank_frames(request, found, out, comparisons=comparisons, group=group)


def oracle(name, found, ask=ASK):
    return Oracle(name, [pair for one in found for pair in one.pairs()], generates=ask.generate)


def sums(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


class Judge:
    """Knows each frame's worth, and adds a bias to the log-odds of the second place; counts what it is asked."""

    def __init__(self, worth, bias=0.0):
        self.worth, self.bias, self.asked = worth, bias, 0

    def identity(self):
        return {"engine": "judge", "bias": self.bias}

    def respond(self, prompts):
        for number, prompt in enumerate(map(unsealed, prompts)):
            self.asked += 1
            first, second = (int(text) for text in prompt.item.rsplit(":", 1)[1].split("-"))
            odds = self.worth[second] - self.worth[first]
            yield (
                number,
                Response("closer", dict(zip(prompt.names, (0.0, self.bias + self.sign(prompt) * odds), strict=True))),
            )

    def sign(self, prompt):
        return 1 if prompt.order == "forward" else -1


# ---- value-order correlation ----

FIGURES = {
    "right": (1, 1, 1, 1),
    "chronological": (1, 1, 1, 1),
    "position-only": (1, -1, 0, 0),
}


@pytest.mark.parametrize("ask", [ASK, WRITES], ids=["compares", "writes"])
@pytest.mark.parametrize("name", FIGURES)
def test_oracles_have_the_correlations_that_theory_gives(registry, tmp_path, name, ask):
    found = strips.of_split(registry, "toy", "heldout", frames=8)
    row = value_order(oracle(name, found, ask), found, tmp_path, ask, resamples=100)
    assert tuple(getattr(row, key) for key in ("voc", "vroc", "voc_f1", "voc_both")) == FIGURES[name]
    assert row.undefined["voc_both"] == (EPISODES if name == "position-only" else 0)
    assert row.n_episodes == EPISODES
    assert row.n_comparisons == EPISODES * (7 + 6 + 4)
    assert all(low <= getattr(row, key) <= high for key, (low, high) in row.intervals.items())


def test_coin_has_no_correlation(picture, tmp_path):
    found = [strip(picture, f"e{number}") for number in range(50)]
    row = value_order(oracle("coin", found), found, tmp_path, ASK, resamples=200)
    for key in ("voc", "vroc", "voc_both"):
        low, high = row.intervals[key]
        assert abs(getattr(row, key)) < 0.15, key
        assert 0.1 < high - low < 0.35
    assert 0 <= row.voc_f1 < 0.15
    assert row.answers.position_bias == pytest.approx(50, abs=4)


def test_knowledge_behind_a_strong_bias_shows_in_both_orders_together_alone(picture, tmp_path, drawn):
    found = [strip(picture)]
    row = value_order(Judge(range(8), bias=50.0), found, tmp_path, ASK)
    assert (row.voc, row.vroc, row.voc_f1, row.voc_both) == (1, -1, 0, 1)
    assert row.answers.position_bias == 100
    assert row.intervals == {}  # a single episode
    ranking_words.draw_value_order(tmp_path, row)
    with Image.open(tmp_path / "voc.png") as plot:
        plot.load()
        assert len(plot.convert("RGB").getcolors(1 << 24)) > 50


def test_reversed_judge_is_at_minus_one(picture, tmp_path):
    row = value_order(Judge(range(0, -8, -1)), [strip(picture)], tmp_path, ASK)
    assert (row.voc, row.vroc, row.voc_f1, row.voc_both) == (-1, -1, 0, -1)


def test_mean_is_over_strips_and_harmonic_mean_of_the_means(picture, tmp_path):
    """Two episodes, one of two strips; what each strip gets is read from its row."""
    found = [strip(picture), strip(picture, "f"), dataclasses.replace(strip(picture, "f"), task="another")]
    row = value_order(oracle("coin", found), found, tmp_path, ASK, resamples=100)
    voc, vroc = (np.mean([getattr(one, key) for one in row.per_strip]) for key in ("voc", "vroc"))
    assert (row.voc, row.vroc) == pytest.approx((voc, vroc), abs=1e-6)
    assert row.voc_f1 == pytest.approx(2 * voc * vroc / (voc + vroc) if min(voc, vroc) > 0 else 0, abs=1e-6)
    assert (row.n_strips, row.n_episodes) == (3, 2)


def test_correlation_is_spearmans_and_none_of_values_alike():
    values, others = np.random.default_rng(0).integers(0, 5, (2, 12))
    assert correlation(values, others) == pytest.approx(spearmanr(values, others).statistic, abs=1e-6)
    assert correlation([1.0, 1.0 + 1e-12, 1.0], range(3)) is None


def test_voc_goes_on_where_it_was_killed(picture, tmp_path, monkeypatch):
    found = [strip(picture), strip(picture, "f")]
    value_order(Judge(range(8)), found, tmp_path / "whole", ASK)

    class Killed(Judge):
        def respond(self, prompts):
            for number, said in super().respond(prompts):
                if self.asked > 20:
                    raise KeyboardInterrupt
                yield number, said

    with pytest.raises(KeyboardInterrupt):
        value_order(Killed(range(8)), found, tmp_path / "killed", ASK)
    assert not (tmp_path / "killed" / "voc.json").exists()
    judge = Judge(range(8))
    value_order(judge, found, tmp_path / "killed", ASK)
    assert judge.asked == 2 * 2 * (7 + 6 + 4) - 20
    assert sums(tmp_path / "killed") == sums(tmp_path / "whole")


# ---- ranking ----


def test_right_oracle_ranks_an_episode_of_a_build_by_its_truth(registry, tmp_path, drawn):
    episode = strips.of_split(registry, "toy", "heldout")[0].episode_id
    found = strips.of_episode(registry, "toy", "heldout", episode_id=episode, frames=10)
    ranked = rank_frames(oracle("right", [found]), found, tmp_path, ASK)
    assert ranked.correlation_with_time == 1
    assert ranked.correlation_with_truth > 0.98  # which calls two frames alike that time tells apart
    assert ranked.order == found.images
    with open(tmp_path / "progress.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == list(found.images)
    progress = [float(row["progress"]) for row in rows]
    assert progress == sorted(progress)
    assert 0 < progress[0] < 0.2
    assert 0.8 < progress[-1] < 1
    truth = [float(row["truth"]) for row in rows]
    assert truth == sorted(truth)
    assert truth[0] == 0
    assert [float(row["seconds"]) for row in rows] == [frame / 10 for frame in found.frames]
    assert "rank correlation with time +1.00" in ranked.words
    ranking_words.draw_ranking(tmp_path, ranked)
    with Image.open(tmp_path / "progress.png") as plot:
        plot.load()
        assert len(plot.convert("RGB").getcolors(1 << 24)) > 50


def test_truth_that_falls_is_followed_by_the_right_and_missed_by_the_chronological(picture, tmp_path):
    found = strip(picture, truth=(0.0, 1.0, 2.0, 3.0, 1.0, 0.5, None, 4.0))
    by_truth = {
        name: rank_frames(oracle(name, [found]), found, tmp_path / name, ASK, comparisons=28)
        for name in ("right", "chronological")
    }
    assert by_truth["right"].correlation_with_truth > 0.95
    assert by_truth["right"].correlation_with_time < 0.9
    assert by_truth["chronological"].correlation_with_time == 1
    assert by_truth["chronological"].correlation_with_truth < 0.7
    assert [frame.truth for frame in by_truth["right"].frames][6:] == [None, 1.0]


def test_bias_to_a_place_does_not_move_the_ranking(picture, tmp_path):
    worth = [0.0, 2.0, 1.0, 4.0, 3.0, 5.0]
    scores = [
        [frame.score for frame in rank_frames(Judge(worth, bias), strip(picture, n=6), tmp_path / str(bias)).frames]
        for bias in (0.0, 6.0)
    ]
    np.testing.assert_allclose(*scores, atol=1e-9)
    assert np.argsort(scores[0]).tolist() == [0, 2, 1, 4, 3, 5]


def test_position_only_judge_tells_nothing_apart(picture, tmp_path):
    found = strip(picture)
    ranked = rank_frames(oracle("position-only", [found], WRITES), found, tmp_path, WRITES)
    assert {frame.progress for frame in ranked.frames} == {0.5}
    assert ranked.correlation_with_time is None
    assert "all came out alike" in ranked.words
    assert "img2 in 100 % of the answers" in ranked.words


def test_unparsed_answers_weigh_nothing_and_are_counted(picture, tmp_path):
    class Mumbles(Judge):
        def respond(self, prompts):
            for number, _ in super().respond(prompts):
                yield number, Response("hm")

    row = rank_frames(Mumbles(range(8)), strip(picture), tmp_path, ASK)
    assert {one.weight for one in row.comparisons} == {0}
    assert {frame.progress for frame in row.frames} == {0.5}
    assert row.answers.unparsed_rate == 100


def test_same_seed_gives_the_same_bytes_and_a_finished_ranking_asks_nothing(picture, tmp_path, caplog):
    for folder in ("a", "b"):
        rank_frames(Judge(range(8)), strip(picture), tmp_path / folder, ASK, seed=3)
    assert sums(tmp_path / "a") == sums(tmp_path / "b")
    judge = Judge(range(8))
    with caplog.at_level(logging.WARNING):
        rank_frames(judge, strip(picture), tmp_path / "a", dataclasses.replace(ASK, batch_size=2), seed=3)
    assert judge.asked == 0
    assert not caplog.records


def test_ranking_goes_on_in_the_round_where_it_was_killed(picture, tmp_path):
    whole = Judge([0, 3, 1, 2, 5, 4, 7, 6])
    rank_frames(whole, strip(picture), tmp_path / "whole", ASK)

    class Killed(Judge):
        def respond(self, prompts):
            for number, said in super().respond(prompts):
                if self.asked > 22:  # of the 16 of the ring and those of the next round
                    raise KeyboardInterrupt
                yield number, said

    with pytest.raises(KeyboardInterrupt):
        rank_frames(Killed(whole.worth), strip(picture), tmp_path / "killed", ASK)
    assert not (tmp_path / "killed" / "ranking.json").exists()
    judge = Judge(whole.worth)
    rank_frames(judge, strip(picture), tmp_path / "killed", ASK)
    assert judge.asked == whole.asked - 22 == 2 * 24 - 22
    assert sums(tmp_path / "killed") == sums(tmp_path / "whole")


def test_replaced_picture_is_asked_about_anew(picture, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes((picture / "a.png").read_bytes())
    rank_frames(Judge(range(8)), strip(folder), tmp_path / "out", ASK)
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    judge = Judge(range(8))
    rank_frames(judge, strip(folder), tmp_path / "out", ASK)
    assert judge.asked == 48


# ---- groups ----


class Lister:
    """Lists a group by the worth of its frames, or as it is shown; counts what it is asked."""

    def __init__(self, worth=None):
        self.worth, self.asked = worth, 0

    def identity(self):
        return {"engine": "lister", "looks": self.worth is not None}

    def respond(self, prompts):
        for number, one in enumerate(map(unsealed, prompts)):
            self.asked += 1
            frames = [int(text) for text in one.item.rsplit(":", 1)[1].split("-")]
            shown = [frames[int(place)] for place in one.order.split("-")]
            places = sorted(range(len(shown)), key=lambda place: -self.worth[shown[place]] if self.worth else 0)
            yield number, Response(f"closer to completion: {', '.join(one.names[place] for place in places)}")


@pytest.mark.parametrize("size", [3, 4, 5, 8])
def test_groups_give_the_order_with_fewer_queries_than_pairs(registry, tmp_path, size):
    episode = strips.of_split(registry, "toy", "heldout")[0].episode_id
    found = strips.of_episode(registry, "toy", "heldout", episode_id=episode, frames=12)
    grouped = rank_frames(oracle("right", [found]), found, tmp_path / "groups", group=size)
    paired = rank_frames(oracle("right", [found]), found, tmp_path / "pairs")
    assert grouped.order == found.images
    assert grouped.correlation_with_time == paired.correlation_with_time == 1
    assert grouped.n_comparisons >= paired.n_comparisons  # of different pairs
    assert grouped.answers.n_queries <= paired.answers.n_queries / (size - 1)
    assert (grouped.group, grouped.pairwise_queries) == (size, 2 * grouped.n_comparisons)
    assert f"{grouped.answers.n_queries} queries about groups of {size} (two at a time: " in grouped.words
    effects = grouped.answers
    assert (effects.order_consistency, effects.position_bias, effects.unparsed_rate) == (100, 50, 0)
    assert "the one shown later in 50 % of the answers" in effects.words
    written = json.loads((tmp_path / "pairs" / "ranking.json").read_text())
    assert not {"group", "pairwise_queries"} & written.keys()  # of pairs the file is as it was


def test_a_group_of_all_frames_is_two_queries(picture, tmp_path):
    judge = Lister([3, 0, 2, 5, 1, 4])
    ranked = rank_frames(judge, strip(picture, n=6), tmp_path, group=6)
    assert judge.asked == ranked.answers.n_queries == 2
    assert np.argsort([frame.score for frame in ranked.frames]).tolist() == [1, 4, 2, 0, 5, 3]
    assert ranked.n_comparisons == 15


def test_truth_that_falls_orders_groups_for_the_right_and_not_for_the_chronological(picture, tmp_path):
    found = strip(picture, truth=(0.0, 1.0, 2.0, 3.0, 1.5, 0.5, 2.5, 4.0))
    by_truth = {
        name: rank_frames(oracle(name, [found]), found, tmp_path / name, comparisons=28, group=4)
        for name in ("right", "chronological")
    }
    assert by_truth["right"].correlation_with_truth == 1
    assert by_truth["chronological"].correlation_with_time == 1


def test_a_judge_that_repeats_the_order_shown_tells_nothing(picture, tmp_path):
    ranked = rank_frames(Lister(), strip(picture), tmp_path, group=4)
    assert {frame.progress for frame in ranked.frames} == {0.5}
    assert ranked.answers.order_consistency == ranked.answers.position_bias == 0
    assert "all came out alike" in ranked.words


def test_groups_that_list_nothing_weigh_nothing(picture, tmp_path):
    class Mumbles(Lister):
        def respond(self, prompts):
            for number, _ in super().respond(prompts):
                yield number, Response("img2")

    row = rank_frames(Mumbles(range(8)), strip(picture), tmp_path, group=4)
    assert {one.weight for one in row.comparisons} == {0}
    assert row.answers.unparsed_rate == 100


def test_ranking_by_groups_goes_on_where_it_was_killed(picture, tmp_path):
    whole = Lister([0, 3, 1, 2, 5, 4, 7, 6])
    rank_frames(whole, strip(picture), tmp_path / "whole", group=3)

    class Killed(Lister):
        def respond(self, prompts):
            for number, said in super().respond(prompts):
                if self.asked > 10:
                    raise KeyboardInterrupt
                yield number, said

    with pytest.raises(KeyboardInterrupt):
        rank_frames(Killed(whole.worth), strip(picture), tmp_path / "killed", group=3)
    judge = Lister(whole.worth)
    rank_frames(judge, strip(picture), tmp_path / "killed", group=3)
    assert judge.asked == whole.asked - 10
    assert sums(tmp_path / "killed") == sums(tmp_path / "whole")


@pytest.mark.parametrize(
    ("size", "says"), [(2, "pictures must be 3 to 8"), (8, "groups of 8 need 8 frames, there are 5")]
)
def test_a_group_that_cannot_be_asked_is_refused(picture, tmp_path, size, says):
    with pytest.raises(ConfigError, match=says):
        rank_frames(Lister(range(5)), strip(picture, n=5), tmp_path, group=size)


def test_command_ranks_by_groups_and_refuses_them_with_voc(registry, tmp_path, capsys):
    episode = strips.of_split(registry, "toy", "heldout")[0].episode_id
    given = ["rank", "--oracle", "right", "--dataset", "toy", "--registry", str(registry), "--out", str(tmp_path)]
    assert main([*given, "--episode", episode, "--frames", "8", "--group", "4"]) == 0
    said = capsys.readouterr().out
    assert "queries about groups of 4 (two at a time: " in said
    assert "rank correlation with time +1.00" in said
    assert main([*given, "--voc", "--group", "4"]) == 1
    assert "--voc and --group exclude each other" in capsys.readouterr().err


# ---- where frames come from ----


def test_frames_of_an_episode_are_spread_from_its_first_to_its_last(registry):
    (every, *_) = strips.of_split(registry, "toy", "heldout", frames=1000)
    few = strips.of_episode(registry, "toy", "heldout", episode_id=every.episode_id, frames=5)
    assert len(few.images) == len(set(few.frames)) == 5
    assert set(few.frames) <= set(every.frames)
    assert (few.frames[0], few.frames[-1]) == (every.frames[0], every.frames[-1])
    assert len(few.truth) == 5


def test_drawn_episodes_are_the_same_for_the_same_seed(registry):
    ids = [
        [one.episode_id for one in strips.of_split(registry, "toy", "heldout", frames=4, episodes=2, seed=seed)]
        for seed in (0, 0, 1, 2)
    ]
    assert ids[0] == ids[1]
    assert all(len(one) == 2 for one in ids)
    assert len({tuple(one) for one in ids}) > 1


def test_truth_of_a_build_by_other_code_is_not_believed(registry, monkeypatch, caplog):
    episode = strips.of_split(registry, "toy", "heldout")[0].episode_id
    monkeypatch.setattr("stcr_plugin.registry.data_config.frames_folder", lambda config: "toy/frames-of-other-code")
    assert strips.of_episode(registry, "toy", "heldout", episode_id=episode).truth == ()
    assert "the code that makes its pictures has changed" in caplog.text


@pytest.mark.parametrize("name", ["v.mp4", "v.avi", "v.ts"])
def test_frames_of_a_video_stand_at_the_seconds_at_which_they_are_shown(tmp_path, name):
    times = [100 * number + 3000 * (number > 4 and name != "v.avi") for number in range(9)]
    path = video_files.write(tmp_path / name, "h264", times=None if name == "v.avi" else times, frames=9)
    found = strips.of_video(path, "a task", tmp_path / "frames", frames=3)
    assert found.frames == (0, 4, 8)
    assert found.seconds == pytest.approx([0, 0.4, times[8] / 1000])
    pictures = [np.asarray(Image.open(found.root / image)) for image in found.images]
    assert [made.number(picture)[1] for picture in pictures] == [0, 4, 8]


def test_video_is_cut_evenly_and_exactly(tmp_path):
    made.write_video(tmp_path / "v.mp4", [(3, 41)], "h264 long", 10)
    found = strips.of_video(tmp_path / "v.mp4", "a task", tmp_path / "frames", frames=5)
    assert found.frames == (0, 10, 20, 30, 40)
    assert found.seconds == pytest.approx((0, 1, 2, 3, 4))
    for frame, image in zip(found.frames, found.images, strict=True):
        with Image.open(found.root / image) as shown:
            assert made.number(np.asarray(shown.convert("RGB"))) == (3, frame)
    assert strips.of_video(tmp_path / "v.mp4", "a task", tmp_path / "all", frames=99).frames == tuple(range(41))


def test_pictures_of_several_folders_are_named_from_the_folder_that_holds_them_all(tmp_path):
    for name in ("one/a.png", "two/deep/b.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    found = strips.of_pictures([tmp_path / "two" / "deep" / "b.png", tmp_path / "one" / "a.png"], "a task")
    assert (found.root, found.images) == (tmp_path.resolve(), ("two/deep/b.png", "one/a.png"))
    assert found.seconds == ()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda registry, _: strips.of_episode(registry, "toy", "heldout", episode_id="heldout-0000"),
            ConfigError,
            "did you mean",
        ),
        (lambda registry, _: strips.of_split(registry, "toy", "heldout", frames=2), ConfigError, "three pictures"),
        (lambda registry, _: strips.of_split(registry, "toy", "heldout", episodes=0), ConfigError, "at least 1"),
        (lambda _, picture: strips.of_pictures([picture / "b.png"], "a task"), DataError, "no such picture file"),
        (lambda _, picture: strips.of_pictures([picture / "a.png"] * 2, "a task"), DataError, "given twice"),
        (lambda _, picture: strips.of_pictures([picture / "a.png"], "<image>"), ConfigError, "marker"),
        (lambda _, picture: strips.of_video(picture / "a.mp4", "a task", picture), DataError, "no such video"),
    ],
)
def test_wrong_source_of_frames_is_refused_with_words(registry, picture, call, error, words):
    with pytest.raises(error, match=words):
        call(registry, picture)


def test_episode_of_several_tasks_needs_one_named(registry, monkeypatch):
    pairs = [pair for pairs in strips._of_split(registry, "toy", "heldout").values() for pair in pairs]
    mine = [pair for pair in pairs if pair.episode_id == pairs[0].episode_id]
    two = [dataclasses.replace(pair, task=f"task {number % 2}") for number, pair in enumerate(mine)]
    monkeypatch.setattr("stcr_plugin.registry.manifest.read_pairs", lambda *_: two)
    with pytest.raises(ConfigError, match="name one with --task"):
        strips.of_episode(registry, "toy", "heldout", episode_id=pairs[0].episode_id)
    assert strips.of_episode(registry, "toy", "heldout", episode_id=pairs[0].episode_id, task="task 1").task == "task 1"
    with pytest.raises(ConfigError, match="did you mean 'task 1'"):
        strips.of_episode(registry, "toy", "heldout", episode_id=pairs[0].episode_id, task="task 11")


# ---- the command ----


def test_command_ranks_pictures_with_a_real_model(model, tmp_path, capsys):
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (56, 56), colour).save(tmp_path / f"{number}.png")
    pictures = [str(tmp_path / f"{number}.png") for number in range(3)]
    out = tmp_path / "out"
    assert main(["rank", *pictures, "--model", str(model), "--task", "paint it blue", "--out", str(out)]) == 0
    row = json.loads((out / "ranking.json").read_text())
    assert sorted(row["order"]) == ["0.png", "1.png", "2.png"]
    assert (row["n_comparisons"], row["answers"]["n_queries"]) == (3, 6)
    assert (row["engine"]["engine"], row["settings"]["mode"]) == ("local", "direct")
    assert row["correlation_with_time"] is None
    assert capsys.readouterr().out.startswith(row["words"])


def test_command_measures_voc_with_a_real_model(model, registry, tmp_path, capsys):
    asked = ["--registry", str(registry), "--dataset", "toy", "--voc", "--episodes", "2", "--frames", "3"]
    assert main(["rank", "--model", str(model), *asked, "--out", str(tmp_path)]) == 0
    row = json.loads((tmp_path / "voc.json").read_text())
    assert (row["n_episodes"], row["n_comparisons"], row["answers"]["n_queries"]) == (2, 6, 12)
    assert all(-1 <= row[key] <= 1 for key in ("voc", "vroc", "voc_both"))
    assert "2 strips of 2 episodes: voc" in capsys.readouterr().out


def test_command_ranks_a_video(model, tmp_path):
    made.write_video(tmp_path / "v.mp4", [(3, 9)], "h264 short", 10)
    video = [str(tmp_path / "v.mp4"), "--frames", "3", "--task", "count"]
    assert main(["rank", *video, "--oracle", "right", "--out", str(tmp_path / "out")]) == 0
    row = json.loads((tmp_path / "out" / "ranking.json").read_text())
    assert (row["video"], row["order"][-1]) == ("v.mp4", "frame_000008.png")
    assert row["correlation_with_time"] == 1
