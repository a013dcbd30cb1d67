import dataclasses
import hashlib
import json
import re
import shutil

import pytest
from PIL import Image

from stcr_plugin import artefacts
from stcr_plugin.engines import local, picture_loading, prompts
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.evaluate import evaluate
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.pairs import spread
from stcr_plugin.registry.manifest import read_manifest, read_pairs
from stcr_plugin.report.overlap_words import overlap_words
from stcr_plugin.results import Evaluation
from stcr_plugin.samples.questions import paraphrases
from stcr_plugin.scoring.breakdown import breakdowns
from stcr_plugin.scoring.metrics import RATES, figures, per_episode
from stcr_plugin.scoring.significance import gap_p
from stcr_plugin.types import Answer, Pair

SMALL = AskSettings(batch_size=4)


@pytest.fixture
def asked(monkeypatch):
    """Counts the queries that reach the model."""
    seen = []
    real = local.respond

    def spy(model, processor, prompts, **more):
        seen.append(len(prompts))
        return real(model, processor, prompts, **more, progress=False)

    monkeypatch.setattr(local, "respond", spy)
    return seen


def run(model, registry, out, settings=SMALL, **more):
    more = {"dataset": "toy", "resamples": 100} | more
    return evaluate(EvalRequest(model=model, registry=registry, settings=settings, **more), out)


def sums(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def answers_in(out):
    return [Answer(**json.loads(line)) for line in (out / "answers.jsonl").read_text().splitlines()]


def test_results_are_the_figures_of_the_answers_on_disk(model, registry, tmp_path):
    found = run(model, registry, tmp_path / "out")
    answers, pairs = answers_in(tmp_path / "out"), read_pairs(registry, "toy", "heldout")
    assert Evaluation.read(tmp_path / "out" / "results.json") == found
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == json.loads(json.dumps(found.row()))
    assert found.figures == figures(answers)
    assert (found.name, found.dataset, found.split, found.mode, found.unit) == (
        "base",
        "toy",
        "heldout",
        "direct",
        "percent",
    )
    assert found.per_episode == per_episode(answers)
    assert found.figures.n_episodes == 3
    assert set(found.intervals) == set(RATES)
    assert all(low <= getattr(found.figures, name) <= high for name, (low, high) in found.intervals.items())
    phases = found.parts.by_phase
    assert phases["within"].figures.n_pairs + phases["crossing"].figures.n_pairs == found.figures.n_pairs
    assert found.parts == breakdowns(pairs, answers, resamples=100)
    assert found.p_gap == gap_p(answers)


def test_same_seed_gives_the_same_bytes(model, registry, tmp_path):
    run(model, registry, tmp_path / "a")
    run(model, registry, tmp_path / "b")
    assert sums(tmp_path / "a") == sums(tmp_path / "b")


def test_killed_run_goes_on_and_ends_as_if_it_had_not_been(model, registry, tmp_path, asked, monkeypatch):
    run(model, registry, tmp_path / "whole")
    total = asked.pop()
    opened = picture_loading.open_picture
    left = iter(range(5))  # a batch of 4 queries, both orders of two pairs, opens 4 pictures at most

    def killed(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return opened(*arguments)

    monkeypatch.setattr(picture_loading, "open_picture", killed)
    with pytest.raises(KeyboardInterrupt):
        run(model, registry, tmp_path / "killed")
    assert len((tmp_path / "killed" / "said.jsonl").read_text().splitlines()) == 4
    assert not (tmp_path / "killed" / "answers.jsonl").exists()
    assert not (tmp_path / "killed" / "results.json").exists()
    monkeypatch.setattr(picture_loading, "open_picture", opened)
    run(model, registry, tmp_path / "killed")
    assert asked == [total, total - 4]
    assert sums(tmp_path / "killed") == sums(tmp_path / "whole")


def test_line_that_was_cut_is_asked_again(model, registry, tmp_path, asked):
    before = run(model, registry, tmp_path)
    path = tmp_path / "said.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert run(model, registry, tmp_path).figures == before.figures
    assert asked[1:] == [1]
    assert path.read_bytes().splitlines()[:-1] == whole.splitlines()[:-1]


def test_finished_run_asks_nothing_even_with_another_batch_size(model, registry, tmp_path, asked):
    first = run(model, registry, tmp_path)
    assert run(model, registry, tmp_path, AskSettings(batch_size=3)).figures == first.figures
    assert len(asked) == 1


def test_higher_limit_asks_only_the_pairs_that_are_new(model, registry, tmp_path, asked):
    run(model, registry, tmp_path / "out", limit=4)
    found = run(model, registry, tmp_path / "out")
    assert asked == [8, len(answers_in(tmp_path / "out")) - 8]
    assert run(model, registry, tmp_path / "whole").figures == found.figures
    for one, whole in zip(answers_in(tmp_path / "out"), answers_in(tmp_path / "whole"), strict=True):
        assert (one.pair_id, one.order, one.chosen) == (whole.pair_id, whole.order, whole.chosen)
        assert one.logprob_img1 == pytest.approx(whole.logprob_img1, abs=1e-5)  # batches of other pairs round otherwise


def test_pairs_whose_picture_was_replaced_are_asked_again(model, registry, tmp_path, asked, caplog):
    folder = shutil.copytree(registry, tmp_path / "registry")
    before = run(model, folder, tmp_path / "out").data_digest
    pairs = read_pairs(folder, "toy", "heldout")
    image = pairs[-1].later_image
    Image.new("RGB", (56, 56)).save(folder / image)
    assert run(model, folder, tmp_path / "out").data_digest != before
    shown = sum(image in (pair.earlier_image, pair.later_image) for pair in pairs)
    assert asked[1:] == [2 * shown]
    assert f"{2 * shown} responses are to other questions or pictures, asking again" in caplog.text


@pytest.mark.parametrize("change", ["settings", "model", "seed", "wording", "code"])
def test_answers_to_anything_else_are_not_used_again(model, registry, tmp_path, asked, caplog, monkeypatch, change):
    folder = shutil.copytree(registry, tmp_path / "registry")
    weights = shutil.copytree(model, tmp_path / "model")
    total = run(weights, folder, tmp_path / "out").figures.n_queries
    settings, seed = SMALL, 0
    if change == "settings":
        settings = dataclasses.replace(SMALL, part="heldout")
    elif change == "model":
        config = json.loads((weights / "config.json").read_text())
        (weights / "config.json").write_text(json.dumps({**config, "use_cache": False}))
    elif change == "wording":
        monkeypatch.setattr(prompts, "question_text", lambda *arguments, **named: "Another wording?")
    elif change == "code":
        monkeypatch.setattr(artefacts, "code_digest", lambda *rooms: "of another engine")
    else:
        seed = 1
    run(weights, folder, tmp_path / "out", settings, seed=seed)
    assert asked == [total, total]
    assert "asking again" in caplog.text
    assert len(answers_in(tmp_path / "out")) == total


def test_spoilt_answers_are_told_with_the_way_out(model, registry, tmp_path):
    run(model, registry, tmp_path)
    (tmp_path / "said.jsonl").write_text('{"item": 1}\n')
    with pytest.raises(DataError, match=r"said\.jsonl.*delete the file"):
        run(model, registry, tmp_path)


def test_mode_and_name_come_from_the_stage(model, registry, tmp_path, asked):
    stage = shutil.copytree(model, tmp_path / "model")
    (stage / "stage.json").write_text(json.dumps({"name": "stage1", "mode": "cot"}))
    found = run(stage, registry, tmp_path / "out", AskSettings(max_new_tokens=3), limit=1)
    assert (found.name, found.mode) == ("stage1", "cot")
    assert found.intervals is None
    named = run(stage, registry, tmp_path / "out", AskSettings(mode="direct"), limit=1, name="mine")
    assert (named.name, named.mode) == ("mine", "direct")


@pytest.mark.parametrize("given", [None, 900])
def test_pictures_are_sized_as_in_training_unless_told_otherwise(model, registry, tmp_path, monkeypatch, given):
    stage = shutil.copytree(model, tmp_path / "model")
    (stage / "stage.json").write_text(json.dumps({"image_max_pixels": 1600, "image_min_pixels": 800}))
    sizes = []
    real = picture_loading.fit
    monkeypatch.setattr(picture_loading, "fit", lambda image, *pixels: sizes.append(pixels) or real(image, *pixels))
    asked = AskSettings(image_max_pixels=given, other_image_size=given is not None)
    found = run(stage, registry, tmp_path / "out", asked, limit=1)
    assert set(sizes) == {(given or 1600, 800)}
    assert found.settings["image_max_pixels"] == (given or 1600)


def test_model_without_a_stage_gets_llamafactorys_sizes(model, registry, tmp_path):
    settings = run(model, registry, tmp_path, limit=1).settings
    assert (settings["image_max_pixels"], settings["image_min_pixels"]) == (768 * 768, 32 * 32)


def test_missing_and_cut_pictures_are_named_with_their_pair(model, registry, tmp_path):
    folder = shutil.copytree(registry, tmp_path / "registry")
    path = folder / read_pairs(folder, "toy", "heldout")[0].earlier_image
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=f"{path.name}: picture of pair .* is not readable"):
        run(model, folder, tmp_path / "out")
    path.unlink()
    with pytest.raises(DataError, match=f"{path.name}: picture of pair .* is not readable .no such file"):
        run(model, folder, tmp_path / "out")


def test_unknown_split_and_model_are_refused(model, registry, tmp_path):
    with pytest.raises(ConfigError, match="heldout"):
        run(model, registry, tmp_path, split="heldot")
    with pytest.raises(DataError, match="no model there"):
        run(tmp_path / "nowhere", registry, tmp_path)


def trained(model, registry, folder, name="stage1", dataset="toy_weak", **changes):
    """A copy of the model as a finished stage that was trained on a dataset; by default of the registry's build."""
    run = shutil.copytree(model, folder / name)
    record = {
        "name": name,
        "mode": "direct",
        "parent": str(model),
        "parent_stage": None,
        "datasets": [dataset],
        "data": {"build": "toy", "config_digest": read_manifest(registry, "toy").config_digest},
        "recipe": {"dataset_dir": str(registry)},
        "model_digest": artefacts.model_digest(run),
        "finished": True,
    }
    (run / "stage.json").write_text(json.dumps(record | changes))
    return run


def test_training_that_shares_nothing_is_told_with_how_near_it_is(model, registry, tmp_path, caplog):
    stage = trained(model, registry, tmp_path)
    overlap = run(stage, registry, tmp_path / "out", limit=2).overlap
    found = overlap.found
    assert overlap.unknown == ""
    assert (found.trained, found.evaluated) == ("toy_weak", "toy:heldout")
    assert (found.episodes.shared, found.episodes.trained, found.pictures.shared) == (0, 2, 0)
    assert found.episodes.evaluated == 2  # those of the pairs that were evaluated
    assert set(found.questions.named) <= set(paraphrases("direct", "en"))
    other = run(stage, registry, tmp_path / "other", AskSettings(part="heldout"), limit=2).overlap.found
    assert other.questions.evaluated > 0 == other.questions.shared
    assert found.near.sampled > 0
    assert "No evaluated episode or picture is in the training data (toy_weak)." in overlap_words(overlap)
    assert "WARNING" not in overlap_words(overlap)
    assert "trained on" not in caplog.text


def test_evaluation_on_the_training_split_is_told_loudly_and_goes_on(model, registry, tmp_path, caplog):
    stage = trained(model, registry, tmp_path)
    found = run(stage, registry, tmp_path / "out", split="train", limit=2)
    shared = found.overlap.found.episodes.shared
    assert shared == found.figures.n_episodes > 0
    words = f"the model was trained on what it is evaluated on: {shared} of {shared} episodes"
    assert words in caplog.text
    assert f"WARNING: {words}" in overlap_words(found.overlap)


def test_training_of_the_stages_before_counts_too(model, registry, tmp_path):
    """Stage 2 was trained on nothing that is evaluated, stage 1 on the very split."""
    folder = shutil.copytree(registry, tmp_path / "registry")
    first = trained(model, folder, tmp_path, dataset="toy_weak")
    build_of = {"parent": str(first), "parent_stage": "stage1", "parent_digest": artefacts.model_digest(first)}
    second = trained(model, folder, tmp_path, name="stage2", dataset="elsewhere", data=None, **build_of)
    found = run(second, folder, tmp_path / "out", split="train", limit=2)
    assert found.overlap.leaks
    assert found.overlap.found.episodes.shared == found.figures.n_episodes
    assert "stage stage2: its dataset elsewhere: cannot be read" in found.overlap.unknown
    words = overlap_words(found.overlap)
    assert words.startswith("WARNING")
    assert "Not all of the training is known: stage stage2" in words


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("no record", "holds no stage.json"),
        ("old record", "stage stage1 does not say what it was trained on"),
        ("data are gone", "its dataset toi_weak: cannot be read .*no build or dataset 'toi_weak'"),
        ("built anew", "toy was built again since"),
        ("parent is gone", "stage base_stage: .*nowhere holds no stage.json any more"),
        ("parent trained anew", "trained again since stage1 started from it"),
    ],
)
def test_training_that_cannot_be_looked_at_is_unknown_and_no_error(model, registry, tmp_path, case, reason):
    changes = {
        "no record": None,
        "old record": {"datasets": None},
        "data are gone": {"datasets": ["toi_weak"]},
        "built anew": {"data": {"build": "toy", "config_digest": "0" * 64}},
        "parent is gone": {"datasets": ["toi"], "parent": str(tmp_path / "nowhere"), "parent_stage": "base_stage"},
        "parent trained anew": {"datasets": ["toi"], "parent": str(tmp_path / "base"), "parent_digest": "0" * 64},
    }[case]
    stage = model if changes is None else trained(model, registry, tmp_path, **changes)
    if case == "parent trained anew":
        trained(model, registry, tmp_path, name="base")
    overlap = run(stage, registry, tmp_path / "out", limit=1).overlap
    assert overlap.found is None
    assert re.search(reason, overlap.unknown)
    assert "Overlap with the training data is unknown" in overlap_words(overlap)


def test_moved_registry_is_found_where_the_evaluation_has_it(model, registry, tmp_path):
    stage = trained(model, registry, tmp_path, recipe={"dataset_dir": str(tmp_path / "moved_away")})
    overlap = run(stage, registry, tmp_path / "out", limit=1).overlap
    assert (overlap.unknown, overlap.found.episodes.trained) == ("", 2)


def test_chain_that_names_itself_as_parent_ends(model, registry, tmp_path):
    own = tmp_path / "stage1"
    stage = trained(model, registry, tmp_path, parent=str(own), parent_stage=None)
    assert run(stage, registry, tmp_path / "out", limit=1).overlap.found.trained == "toy_weak"


def test_model_digest_ignores_what_decides_no_answer(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "trainer_state.json").write_text("{}")
    (folder / "training_args.bin").write_bytes(b"1")
    assert artefacts.model_digest(folder) == artefacts.model_digest(model)
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert artefacts.model_digest(folder) != artefacts.model_digest(model)


def pairs(*sizes):
    return [
        Pair(f"e{e}-{i}", f"e{e}", "test", "stack cups", i, i + 5, 0.5)
        for e, size in enumerate(sizes)
        for i in range(size)
    ]


@pytest.mark.parametrize(("limit", "counts"), [(3, [1, 1, 1]), (9, [2, 3, 4]), (12, [2, 5, 5]), (99, [2, 10, 10])])
def test_limit_is_spread_over_episodes(limit, counts):
    every = pairs(2, 10, 10)
    chosen = spread(every, limit, seed=0)
    assert len(chosen) == min(limit, len(every))
    assert chosen == [pair for pair in every if pair in chosen]
    assert sorted(sum(pair.episode_id == f"e{e}" for pair in chosen) for e in range(3)) == counts


def test_limit_draws_the_same_for_the_same_seed_and_others_for_another():
    every = pairs(20, 20)
    assert spread(every, 6, seed=0) == spread(every, 6, seed=0) != spread(every, 6, seed=1)
    assert spread(every, None, seed=0) == every
    with pytest.raises(ConfigError, match="limit 0"):
        spread(every, 0, seed=0)


def test_build_that_teaches_ties_is_asked_for_one_of_three_answers(model, registry, tmp_path):
    folder = shutil.copytree(registry, tmp_path / "registry")
    manifest = artefacts.read_json(folder / "toy" / "manifest.json")
    assert manifest["config"]["pairs"]["ties"] == "drop"
    manifest["config"]["pairs"]["ties"] = "teach"
    artefacts.write_json(folder / "toy" / "manifest.json", manifest)
    tied = run(model, folder, tmp_path / "tied", limit=2)
    plain = run(model, registry, tmp_path / "plain", limit=2)
    assert (tied.ties, plain.ties) == (True, False)
    assert tied.questions_digest != plain.questions_digest
    assert all(answer.logprob_neither is not None for answer in answers_in(tmp_path / "tied"))
    assert all(answer.logprob_neither is None for answer in answers_in(tmp_path / "plain"))
