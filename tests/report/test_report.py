"""What a report says of a chain, in Markdown."""

import dataclasses
import json
import random

import pytest
from chain_of_runs import answered_chain, chain, judged, results, write, write_answered
from PIL import Image

from stcr_plugin.errors import DataError
from stcr_plugin.figures import Breakdowns
from stcr_plugin.report.chain import says_img2
from stcr_plugin.report.chain_report import report
from stcr_plugin.report.runs import read
from stcr_plugin.report.tables import console_table
from stcr_plugin.results import Evaluation
from stcr_plugin.scoring.metrics import figures
from stcr_plugin.types import Answer

pytestmark = pytest.mark.usefixtures("undrawn")


def written(runs, out):
    return report(read(runs), out).read_text()


def test_gap_before_and_after_is_reported(tmp_path):
    text = written(chain(tmp_path, results(96.0, 94.5, 91.0), results(80.0, 40.0, 30.0)), tmp_path / "out")
    assert "`stage2` is shown to do better than a judge that ignores order" in text
    before = "pair accuracy 0.0 (-3.0 to 3.0) %, forward 100.0 %, backward 0.0 %, gap +100.0 points"
    after = "pair accuracy 91.0 (88.0 to 94.0) %, forward 96.0 %, backward 94.5 %, gap +1.5 points"
    assert f"Before, `base`: {before}. After, `stage2`: {after}. " in text
    assert "Pair accuracy rose by 91.0 points, the gap's size fell by 98.5 points. " in text
    assert "still has an order bias" not in text


def test_weak_only_that_does_as_well_is_reported(tmp_path):
    text = written(answered_chain(tmp_path, judged(0.9, 3), judged(0.9, 4)), tmp_path / "out")
    assert "`stage2` minus `base` is +" in text
    assert "no difference is shown. This evaluation does not show that the CoT stage helps" in text


def test_weak_only_that_does_better_is_reported(tmp_path):
    text = written(answered_chain(tmp_path, judged(0.6, 1), judged(0.95, 2)), tmp_path / "out")
    assert "`stage2` minus `weak_only` is -" in text
    assert "worse. This evaluation does not show that the CoT stage helps" in text


def test_weak_only_that_does_worse_is_reported(tmp_path):
    text = written(answered_chain(tmp_path, judged(0.95, 1), judged(0.6, 2)), tmp_path / "out")
    assert "better. This is one training run of each" in text
    assert "does not show" not in text


def test_difference_that_separate_intervals_hide_is_found_pair_by_pair(tmp_path):
    """Both fail the same hard episodes; stage2 is right on one pair more in each of them."""
    weak = [
        dataclasses.replace(answer, chosen="img1") if int(answer.episode_id[1:]) % 2 else answer
        for answer in judged(1, 0)
    ]
    better = [
        dataclasses.replace(answer, chosen=answer.expected) if answer.pair_id.endswith("3") else answer
        for answer in weak
    ]
    runs = answered_chain(tmp_path, better, weak)
    rows = [json.loads((run / "eval/heldout/results.json").read_text()) for run in runs[1:]]
    assert rows[0]["intervals"]["pair_accuracy"][0] < rows[1]["intervals"]["pair_accuracy"][1]
    assert "`stage2` minus `weak_only` is +5.0 points" in (text := written(runs, tmp_path / "out"))
    assert "better. This is one training run of each" in text


@pytest.mark.parametrize("spoilt", ["absent", "of other figures", "other pairs", "other pictures", "no answers"])
def test_nothing_is_claimed_without_answers_to_the_same_pairs(tmp_path, spoilt):
    runs = answered_chain(tmp_path, judged(0.95, 1), judged(0.6, 2))
    path = runs[2] / "eval" / "heldout" / "answers.jsonl"
    if spoilt == "absent":
        path.unlink()
    elif spoilt == "of other figures":
        path.write_text((runs[0] / "eval" / "heldout" / "answers.jsonl").read_text())
    elif spoilt == "other pairs":
        path.write_text(path.read_text().replace('"p7"', '"q7"'))
    elif spoilt == "other pictures":
        row = json.loads(path.with_name("results.json").read_text())
        path.with_name("results.json").write_text(json.dumps(row | {"data_digest": "other"}))
    else:
        path.write_text('{"pair_id": 1}\n')
    text = written(runs, tmp_path / "out")
    assert "They cannot be compared pair by pair, so nothing is shown: " in text
    assert "does not show that the CoT stage helps" in text


def test_runs_of_one_name_are_distinguished_by_their_folders(tmp_path):
    runs = [write_answered(tmp_path / seed, "stage2", judged(share, 1)) for seed, share in (("A", 0.6), ("B", 0.9))]
    text = written(runs, tmp_path / "out")
    assert "The first, `stage2 (A/stage2)`: pair accuracy" in text
    assert "The second, `stage2 (B/stage2)`: pair accuracy" in text
    assert "`stage2 (B/stage2)` minus `stage2 (A/stage2)` is +" in text
    assert "| stage2 (A/stage2) | toy | heldout | direct |" in text
    assert "| stage2 (B/stage2) | toy | heldout | direct |" in text
    assert "Only `stage2" not in text


def test_name_given_to_an_evaluation_is_that_of_the_report(tmp_path):
    runs = [write_answered(tmp_path / "A", "stage2", judged(0.9, 1))]
    runs.append(write_answered(tmp_path / "B", "stage2", judged(0.6, 1), called="modelB"))
    text = written(runs, tmp_path / "out")
    assert "`stage2` minus `modelB` is +" in text
    assert "(A/stage2)" not in text


def test_end_of_a_chain_stays_stage2_beside_another_chain(tmp_path):
    runs = answered_chain(tmp_path / "A", judged(0.9, 1), judged(0.6, 2))
    runs.append(write_answered(tmp_path / "B", "stage2", judged(0.5, 3)))
    text = written(runs, tmp_path / "out")
    assert "Before, `base`: pair accuracy 0.0" in text
    assert "After, `stage2 (A/stage2)`: pair accuracy" in text
    assert "`stage2 (A/stage2)` minus `weak_only` is +" in text


def test_other_results_of_two_runs_of_one_name_are_distinguished(tmp_path):
    runs = [write_answered(tmp_path / seed, "stage2", judged(0.9, 1)) for seed in "AB"]
    rates = {"accuracy": 80.0, "precision": 80.0, "recall": 80.0, "f1": 80.0, "yes_ratio": 50.0, "unparsed_rate": 0.0}
    rates |= {"n": 40}
    row = {"name": "stage2", "questions": "own", "n_pictures": 20, "kinds": {"random": rates}}
    for run in runs:
        (run / "guard.json").write_text(json.dumps(row))
    text = written(runs, tmp_path / "out")
    assert "| stage2 (A/stage2) | random | 80.0 |" in text
    assert "| stage2 (B/stage2) | random | 80.0 |" in text


def test_file_that_two_runs_hold_is_read_once(tmp_path):
    run = write_answered(tmp_path, "stage2", judged(0.9, 1))
    text = written([run, tmp_path / "." / "stage2", run / "eval" / "heldout"], tmp_path / "out")
    assert "Only `stage2` was evaluated" in text
    assert text.count("| stage2 | toy | heldout | direct |") == 1


def test_two_evaluations_of_one_run_are_distinguished_and_timed_once(tmp_path):
    run = write_answered(tmp_path, "stage2", judged(0.9, 1))
    write_answered(tmp_path, "stage2", judged(0.8, 1), room="again", data_digest="other")
    (run / "stage.json").write_text(json.dumps({"name": "stage2", "seconds": 30}))
    text = written([run], tmp_path / "out")
    assert "The first, `stage2 (again)`" in text
    assert "The second, `stage2 (heldout)`" in text
    assert "| total |  |  | 30 |" in text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"style": "letters", "warn": True}, "pictures named by letters, with a warning about order"),
        ({"generate": True}, "generated answers"),
        ({"image_max_pixels": 7056, "image_min_pixels": 784}, "pictures of 784 to 7056 pixels"),
    ],
)
def test_one_run_with_other_settings_is_not_the_headline(tmp_path, settings, told):
    base = write_answered(tmp_path, "base", judged(0.5, 1))
    run = write_answered(tmp_path, "stage2", judged(0.9, 1))
    write_answered(tmp_path, "stage2", judged(0.2, 1), room="another", settings=settings)
    (run / "stage.json").write_text(json.dumps({"name": "stage2", "image_max_pixels": 50176, "image_min_pixels": 784}))
    plain, other = written([run, base], tmp_path / "out").split("### toy, heldout\n\n")[1].split("### ")[:2]
    assert "Before, `base`" in plain
    assert "After, `stage2`" in plain
    assert other.startswith(f"toy, heldout, {told}\n")
    assert "Only `stage2` was evaluated" in other


def test_settings_are_beside_the_figures(tmp_path):
    run = write_answered(tmp_path, "stage2", judged(0.9, 1))
    assert "| direct | default |" not in written([run], tmp_path / "out")
    write_answered(tmp_path, "stage2", judged(0.2, 1), room="another", settings={"style": "letters"})
    text = written([run], tmp_path / "out")
    assert "| stage2 | toy | heldout | direct | pictures named by letters |" in text
    assert "| stage2 | toy | heldout | direct | default |" in text


def test_what_a_run_could_not_choose_is_not_another_setting(tmp_path):
    """A server only writes, a model without a stage has no size of its own, and stage 1 reasons."""
    settings = {"generate": True, "image_max_pixels": 50176, "image_min_pixels": 784}
    runs = [
        write_answered(tmp_path, "api", judged(0.5, 1), settings=settings, engine={"engine": "server"}),
        write_answered(tmp_path, "stage1", judged(0.5, 1), settings=settings, mode="cot"),
        write_answered(tmp_path, "stage2", judged(0.9, 1)),
    ]
    text = written(runs, tmp_path / "out")
    assert "### toy, heldout,".casefold() not in text.casefold()
    assert "Before, `api`" in text


def test_other_prompt_variants_are_not_compared(tmp_path):
    runs = [
        write_answered(tmp_path, "base", judged(0.5, 1)),
        write_answered(tmp_path, "stage2", judged(0.9, 1), settings={"part": "heldout", "language": "zh"}),
    ]
    text = written(runs, tmp_path / "out")
    plain, other = text.split("### toy, heldout\n\n")[1].split(
        "### toy, heldout, prompt variants not used in training, zh\n\n"
    )[:2]
    assert "Only `base` was evaluated" in plain
    assert "Only `stage2` was evaluated" in other


def test_interval_without_width_is_not_shown_as_certainty(tmp_path):
    text = written([write_answered(tmp_path, "stage2", judged(1, 0))], tmp_path / "out")
    assert "pair accuracy 100.0 (alike in all episodes) %" in text
    assert "100.0 to 100.0" not in text


def test_bad_figures_are_reported_as_bad(tmp_path):
    runs = [
        write(tmp_path, "base", results(90.0, 60.0, 55.0)),
        write(tmp_path, "stage2", results(100.0, 5.0, 4.0, unparsed_rate=12.5)),
    ]
    text = written(runs, tmp_path / "out")
    assert "Pair accuracy fell by 51.0 points, the gap's size rose by 65.0 points" in text
    assert (
        "`stage2` is shown not to do better than a judge that ignores order but cannot distinguish the frames" in text
    )
    assert "still has an order bias" in text
    assert "12.5 % of `stage2`'s answers could not be read" in text


def test_order_bias_is_reported_where_the_gap_cannot_show_it(tmp_path):
    """Always img2: where the earlier frame is closer in half of the pairs, its gap is 0."""
    row = results(50.0, 50.0, 0.0, position_bias=100.0, order_consistency=0.0, n_closer_earlier=100)
    text = written([write(tmp_path, "stage2", row)], tmp_path / "out")
    assert "`stage2` still has an order bias: 100.0 % of its answers that name a picture say img2" in text
    assert "in 100 of 200 pairs the earlier frame is closer, so the gap shows less of the bias" in text
    assert "in 100.0 % of the pairs it does not choose the same frame in both orders" in text


@pytest.mark.parametrize(("bias", "name"), [(100.0, "img2"), (0.0, "img1")])
def test_a_training_that_names_one_picture_in_every_answer_is_reported(tmp_path, bias, name):
    row = results(bias, 100 - bias, 0.0, position_bias=bias, order_consistency=0.0)
    text = written([write(tmp_path, "stage2", row, steps=3800)], tmp_path / "out")
    assert f"`stage2` names the same picture, {name}, in every answer, as a training does" in text
    untrained = written([write(tmp_path / "b", "base", row)], tmp_path / "out_b")
    assert "in every answer" not in untrained


def unread(answers, pairs):
    """`answers`, but none to the first `pairs` can be read."""
    return [dataclasses.replace(one, chosen=None) if int(one.pair_id[1:]) < pairs else one for one in answers]


def test_unparsed_answers_are_not_an_order_bias(tmp_path):
    """Right in both orders, but for a fifth that nobody can read: 40 % of all answers say img2, half of those read."""
    text = written([write_answered(tmp_path, "stage2", unread(judged(1, 0), 40))], tmp_path / "out")
    assert "20.0 % of `stage2`'s answers could not be read" in text
    assert "still has an order bias" not in text
    assert "contradicts itself" not in text
    assert "in 20.0 % of the pairs it does not choose the same frame in both orders" in text


def test_order_bias_is_measured_among_the_answers_that_were_read(tmp_path):
    """Half unread, the others always img2: that is half of all, as if unbiased."""
    always = [dataclasses.replace(one, chosen="img2") for one in judged(1, 0)]
    row = dataclasses.asdict(figures(unread(always, 100)))
    assert row["position_bias"] == 50
    text = written([write_answered(tmp_path, "stage2", unread(always, 100))], tmp_path / "out")
    assert "`stage2` still has an order bias: 100.0 % of its answers that name a picture say img2" in text


def test_unparsed_answers_to_ties_and_neither_are_not_an_order_bias(tmp_path):
    """Unbiased where it names a picture: it cannot be read on ties alone, and says neither to some other pairs."""
    ties = [
        dataclasses.replace(one, expected="neither", chosen=None, pair_id=f"t{one.pair_id}") for one in judged(1, 0)
    ]
    shy = [dataclasses.replace(one, chosen="neither") if int(one.pair_id[1:]) < 40 else one for one in judged(1, 0)]
    text = written([write_answered(tmp_path, "stage2", shy + ties)], tmp_path / "out")
    assert "50.0 % of `stage2`'s answers could not be read" in text
    assert "still has an order bias" not in text


@pytest.mark.parametrize("ties", [0, 30])
def test_share_of_img2_among_answers_that_name_a_picture_is_that_of_the_answers(ties):
    """Counted from random answers; exact without ties, within its bounds with them."""
    for seed in range(20):
        draw = random.Random(seed)
        weights = [draw.random() for _ in range(4)]
        answers = [
            dataclasses.replace(
                one,
                expected="neither" if int(one.pair_id[1:]) < ties else one.expected,
                chosen=draw.choices(["img1", "img2", "neither", None], weights)[0],
            )
            for one in judged(1, 0)
        ]
        named = [one.chosen for one in answers if one.expected != "neither" and one.chosen in ("img1", "img2")]
        share = 100 * named.count("img2") / len(named)
        low, high = says_img2(
            Evaluation(name="", dataset="", split="", mode="direct", figures=figures(answers), parts=Breakdowns())
        )
        assert low - 1e-9 <= share <= high + 1e-9
        assert ties or low == pytest.approx(high)


def test_judge_that_names_no_picture_has_no_order_bias(tmp_path):
    text = written([write_answered(tmp_path, "stage2", unread(judged(1, 0), 200))], tmp_path / "out")
    assert "100.0 % of `stage2`'s answers could not be read" in text
    assert "still has an order bias" not in text


def test_ties_are_in_no_verdict(tmp_path):
    """50 ties answered rightly, and 50 ordinary pairs always answered img2."""
    answers = [
        dataclasses.replace(one, expected="neither", chosen="neither")
        if int(one.pair_id[1:]) % 2
        else dataclasses.replace(one, chosen="img2")
        for one in judged(1, 0, episodes=10)
    ]
    text = written([write_answered(tmp_path, "stage2", answers)], tmp_path / "out")
    assert "| stage2 | toy, heldout | 0 (0.0 %) | 50 (100.0 %) | 0 (0.0 %) | 0 (0.0 %) |" in text
    assert "50 ties are left out" in text


def test_judge_of_time_is_not_called_one_of_progress(tmp_path):
    """Nine in ten pairs right, none of those whose earlier frame is closer."""
    bounds = {"pair_accuracy": [86.0, 94.0], "earlier_closer_accuracy": [0.0, 4.0]}
    row = results(90.0, 90.0, 90.0, n_closer_earlier=20, earlier_closer_accuracy=0.0) | {"intervals": bounds}
    text = written([write(tmp_path, "stage2", row)], tmp_path / "out")
    assert "`stage2` is shown not to do better" in text
    assert "pair accuracy 90.0 (86.0 to 94.0) % and where the earlier frame is closer 0.0 (0.0 to 4.0) %" in text


def test_small_gap_alone_is_no_success(tmp_path):
    """A coin: no gap, a quarter of the pairs right."""
    coin = results(50.0, 50.0, 25.0, p_gap={"p": 0.97, "method": "monte carlo", "permutations": 5000, "clusters": 20})
    text = written([write(tmp_path, "stage2", coin)], tmp_path / "out")
    assert "`stage2` is shown not to do better" in text
    assert "p = 0.97 (5000 random sign flips of whole episodes)" in text
    assert "no gap does not prove knowledge: a coin has none" in text


def test_single_episode_is_named_and_nothing_compared(tmp_path):
    alone = judged(0.9, 1, episodes=1)
    runs = [write_answered(tmp_path, name, alone) for name in ("base", "stage2")]
    text = written(runs, tmp_path / "out")
    assert "has no intervals" in text
    assert "`stage2` is not shown to do better" in text
    assert "a single episode cannot show whether that is more than chance" in text


def test_chain_file_lists_rows_in_the_order_given_without_episodes(tmp_path):
    runs = chain(tmp_path, results(96.0, 94.5, 91.0), results(95.0, 94.0, 90.0))
    report(read(runs[::-1]), tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "chain.json").read_text())
    assert [(row["name"], row["split"]) for row in rows] == [
        ("weak_only", "heldout"),
        ("stage2", "heldout"),
        ("base", "heldout"),
    ]
    assert rows[1]["pair_accuracy"] == 91.0
    assert (rows[1]["parent"], rows[1]["steps"], rows[1]["seconds"]) == ("stage1", 400, 61.2)
    assert all("per_episode" not in row for row in rows)


def test_every_split_has_its_row_its_words_and_its_panel(tmp_path, drawn):
    run = write(tmp_path, "stage1", results(80.0, 70.0, 60.0))
    report(read([run]), tmp_path / "one")
    write(tmp_path, "stage1", results(75.0, 65.0, 55.0, split="looks"))
    text = written([run], tmp_path / "two")
    assert "| stage1 | toy | heldout | direct | 80.0 | 70.0 | +10.0 | 60.0 (57.0 to 63.0) |" in text
    assert "| stage1 | toy | looks | direct | 75.0 |" in text
    assert "### toy, looks" in text
    widths = []
    for out in ("one", "two"):
        with Image.open(tmp_path / out / "accuracies.png") as picture:
            picture.load()
            widths.append(picture.width)
    assert widths[1] > 1.5 * widths[0]


def test_overlap_with_the_training_is_reported_where_results_have_it(tmp_path):
    part = {"shared": 3, "trained": 9, "evaluated": 4, "named": []}
    shared = {"trained": "toy_weak", "evaluated": "toy:heldout", "near": None}
    shared |= dict.fromkeys(("episodes", "pictures", "questions", "tasks"), part)
    runs = [
        write(tmp_path, "base", results(100.0, 0.0, 0.0, overlap={"unknown": "base holds no stage.json"})),
        write(tmp_path, "stage1", results(90.0, 80.0, 75.0, overlap=shared)),
        write(tmp_path, "old", results(90.0, 80.0, 75.0)),
    ]
    text = written(runs, tmp_path / "out")
    assert "| base | toy | heldout | Overlap with the training data is unknown: base holds no stage.json. |" in text
    assert (
        "| stage1 | toy | heldout | WARNING: the model was trained on what it is evaluated on: 3 of 4 episodes" in text
    )
    assert "`stage1` is not shown to do better than a judge" in written(runs[1:2], tmp_path / "stage1_out")
    assert "`old` is shown to do better than a judge" in (old := written(runs[2:], tmp_path / "old_out"))
    assert "Overlap with the training data" not in old


def test_training_time_is_summed_where_known(tmp_path):
    runs = chain(tmp_path, results(96.0, 94.5, 91.0), results(95.0, 94.0, 90.0))
    text = written(runs, tmp_path / "out")
    assert "| stage2 | stage1 | 400 | 61 |" in text
    assert "| total |  |  | 101 |" in text
    assert "Training time" not in written([write(tmp_path, "plain", results(1.0, 2.0, 0.5))], tmp_path / "plain_out")


def test_results_directly_in_the_folder_are_found(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(results(60.0, 50.0, 40.0)))
    assert "Only `model` was evaluated" in written([tmp_path], tmp_path / "out")


def test_same_results_give_the_same_bytes(tmp_path, drawn):
    runs = chain(tmp_path, results(96.0, 94.5, 91.0), results(95.0, 94.0, 90.0))
    for out in ("a", "b"):
        report(read(runs), tmp_path / out)
    for name in ("report.md", "report.html", "chain.json", "evidence.json", "accuracies.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_run_without_results_or_with_foreign_ones_is_refused(tmp_path):
    with pytest.raises(DataError, match="run `stcr eval`"):
        report(read([tmp_path]), tmp_path / "out")
    (tmp_path / "results.json").write_text('{"name": "x"}')
    with pytest.raises(DataError, match=r"results\.json.*'dataset' is missing"):
        report(read([tmp_path]), tmp_path / "out")
    with pytest.raises(DataError, match="no runs"):
        report(read([]), tmp_path / "out")


def test_names_cannot_break_the_table(tmp_path, drawn):
    run = write(tmp_path, "odd", results(60.0, 50.0, 40.0), stage=False)
    row = results(60.0, 50.0, 40.0, name="x | y\n<script>`")
    (run / "results.json").write_text(json.dumps(row))
    text = written([run], tmp_path / "out")
    assert "| x \\| y &lt;script&gt;' | toy |" in text
    assert "<script>" not in text


def test_console_table_lines_up():
    answers = [
        Answer("p0", "e0", "forward", "img2", "img2", ""),
        Answer("p0", "e0", "backward", "img1", "img2", ""),
    ]
    lines = console_table([("before", figures(answers)), ("after step 400", figures(answers))]).splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["before", "100.0", "0.0", "+100.0", "0.0", "0.0", "100.0", "0.0", "1"]
