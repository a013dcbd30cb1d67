"""What goes wrong within a batch is called by name: pictures that cannot be read, and losses that are no numbers."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_stage import RECIPES, Workshop, losses, stage_row

from stcr_plugin.errors import DataError, StcrError
from stcr_plugin.frameworks.batches import NOTE, NamingCollator
from stcr_plugin.frameworks.checkpoints import checkpoints
from stcr_plugin.frameworks.images import picture_name
from stcr_plugin.frameworks.sample_changes import sample_key


def encoded(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "png")
    return file.getvalue()


def sample(folder: Path, k: int, cut: bool = False) -> dict[str, Any]:
    data = encoded(k)
    path = folder / f"{k}.png"
    path.write_bytes(data[: len(data) // 2] if cut else data)
    return {"images": [str(path)], "input_ids": [k]}


def collated(features: Any) -> dict[str, Any]:
    return {"ids": [feature["input_ids"][0] for feature in features], "images": [f.get("images") for f in features]}


# ---- names ----


def test_a_sample_is_known_by_its_text_and_its_pictures_in_whatever_form(tmp_path: Path) -> None:
    path = sample(tmp_path, 0)["images"][0]
    forms: list[Any] = [path, {"path": path, "bytes": None}, Image.open(path)]
    assert {picture_name(form) for form in forms} == {path}
    one = sample_key({"input_ids": [1, 2]}, [path])
    others = [([1, 3], [path]), ([1, 2], [path, path]), ([1, 2], [path[:-1], path[-1]])]
    assert len({one, *(sample_key({"input_ids": ids}, names) for ids, names in others)}) == 4
    assert one == sample_key({"input_ids": [1, 2]}, [path.encode()])
    assert picture_name(encoded(0)) == picture_name({"path": None, "bytes": encoded(0)}) != picture_name(encoded(1))


# ---- pictures that cannot be read ----


def test_pictures_arrive_decoded_and_the_batch_knows_their_names(tmp_path: Path) -> None:
    rows = [sample(tmp_path, 0), {"input_ids": [7], "images": None}, sample(tmp_path, 2)]
    batch = NamingCollator(collated)(rows)
    assert batch["ids"] == [0, 7, 2]
    assert (np.asarray(batch["images"][2][0]) == np.asarray(Image.open(rows[2]["images"][0]))).all()
    assert batch[NOTE] == {"pictures": [rows[0]["images"], [], rows[2]["images"]], "bad": []}
    assert isinstance(rows[0]["images"][0], str)  # the dataset's own row is not written to


def test_a_cut_picture_is_an_error_that_names_it_and_its_sample(tmp_path: Path) -> None:
    rows = [sample(tmp_path, 0), sample(tmp_path, 1, cut=True)]
    rows[1]["images"].insert(0, rows[0]["images"][0])
    with pytest.raises(DataError) as caught:
        NamingCollator(collated)(rows)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / '1.png'}: cannot be decoded")
    assert f"the sample of {tmp_path / '0.png'}, {tmp_path / '1.png'}" in said
    assert "stcr.bad_pictures: replace" in said


def test_a_replaced_sample_is_drawn_by_seed_and_sample_and_is_itself_readable(tmp_path: Path) -> None:
    rows = [sample(tmp_path, k, cut=k in (1, 2, 3)) for k in range(20)]

    def drawn(batch: list[dict[str, Any]], seed: int) -> Any:
        return NamingCollator(collated, bad="replace", rows=rows, seed=seed)(batch)

    first = drawn(rows[:4], 0)
    assert first["ids"][0] == 0
    assert not {1, 2, 3} & set(first["ids"])
    assert [bad.partition(":")[0] for bad in first[NOTE]["bad"]] == [str(tmp_path / f"{k}.png") for k in (1, 2, 3)]
    alone = [drawn([rows[k]], 0)["ids"][0] for k in (1, 2, 3)]  # batches of one never come out empty
    assert alone == first["ids"][1:]
    assert drawn(rows[:4], 1)["ids"] != first["ids"]


def test_in_a_stream_the_next_sample_of_the_batch_is_shown_twice_and_a_batch_without_one_is_an_error(
    tmp_path: Path,
) -> None:
    rows = [sample(tmp_path, k, cut=k > 0) for k in range(3)]
    collate = NamingCollator(collated, bad="replace", rows=iter(()))
    assert collate(rows)["ids"] == [0, 0, 0]
    with pytest.raises(DataError, match=r"nor can the 19 samples be read that could replace it"):
        collate(rows[1:])


@pytest.fixture(scope="module")
def holed(shared_workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workshop, str]:
    """The shared workshop once more, with one picture of the weak set cut, and that picture's name."""
    workshop = Workshop(tmp_path_factory.mktemp("holed"))
    shutil.copytree(shared_workshop.registry, workshop.registry)
    shutil.copytree(shared_workshop.base, workshop.base)
    rows = json.loads((workshop.registry / "tiny" / "tiny_weak.json").read_text(encoding="utf-8"))
    name = rows[0]["images"][0]
    path = workshop.registry / name
    path.write_bytes(path.read_bytes()[:-200])
    return workshop, name


EPOCH = ("max_steps=-1", "num_train_epochs=1", "stcr.evaluate=null")


def test_a_stage_stops_at_a_cut_picture_saying_which(holed: tuple[Workshop, str], workshop: Workshop) -> None:
    cut, name = holed
    with pytest.raises(DataError, match=rf"{name}: cannot be decoded"):
        cut.train("weak", "stops", *EPOCH)
    ended = stage_row(cut.root / "stops")["ended"]
    assert ended["how"] == "failed"
    assert name in ended["why"]


@pytest.mark.slow
def test_a_stage_replaces_samples_counts_them_and_stops_at_too_many(
    holed: tuple[Workshop, str], workshop: Workshop
) -> None:
    cut, name = holed
    replacing = (*EPOCH, "stcr.bad_pictures=replace", "save_strategy=steps", "save_steps=5")
    allowed = "stcr.bad_pictures_at_most=0.2"
    alone = cut.train("weak", "replaced", *replacing, allowed)
    bad = stage_row(alone)["bad_pictures"]
    steps = [row["step"] for row in bad]
    assert bad
    assert all(name in row["picture"] for row in bad)
    assert steps == sorted(steps)
    worker = cut.train("weak", "replaced_by_worker", *replacing, allowed, "dataloader_num_workers=1")
    assert stage_row(worker)["bad_pictures"] == bad
    assert losses(worker) == losses(alone)
    with pytest.raises(DataError, match=rf"step {steps[0]}: 1 of the run's \d+ samples had pictures that cannot be"):
        cut.train("weak", "too_many", *replacing, "stcr.bad_pictures_at_most=0")
    assert checkpoints(cut.root / "too_many") == list(range(5, steps[0], 5))


# ---- losses that are no numbers ----


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_stage_naming_step_pictures_and_text(workshop: Workshop) -> None:
    settings = ("stcr.evaluate=null", "learning_rate=1.0e30", "warmup_ratio=0", "max_steps=6")
    with pytest.raises(StcrError) as caught:
        workshop.train("weak", "diverged", *settings, "save_strategy=steps", "save_steps=1")
    run = workshop.root / "diverged"
    said, record = str(caught.value), stage_row(run)
    step = int(said.partition("step ")[2].partition(":")[0])
    assert said.startswith(f"step {step}: the loss is not a finite number, on rank 0: nan. In its batch: (1) ")
    assert said.count("closer to completion: img") >= 4  # the samples' answers
    assert said.count(str(workshop.registry)) >= 8  # and their pictures
    assert (record["ended"]["how"], record["ended"]["step"]) == ("failed", step - 1)
    assert record["ended"]["why"] == said
    assert checkpoints(run) == list(range(1, step))
    assert not (run / "model.safetensors").exists()


# What goes wrong on the second of two ranks alone: a loss at step 3, and a measurement at step 2.
TWO_RANKS = """
import os, sys
from stcr_plugin.frameworks import callback
from stcr_plugin.frameworks.llamafactory.experiment import train
from transformers import Trainer

def training_step(self, *given, **options):
    loss = original(self, *given, **options)
    return loss * float("inf") if self.state.global_step == 2 and os.environ["RANK"] == "1" else loss

def respond(*given, **options):
    calls.append(1)
    if len(calls) == 2 and os.environ["RANK"] == "1":
        raise MemoryError("of this rank alone")
    return asked(*given, **options)

calls = []
original, Trainer.training_step = Trainer.training_step, training_step
asked, callback.respond = callback.respond, respond
train(sys.argv[1], sys.argv[2:])
"""


@pytest.mark.slow(seconds=15)
def test_what_goes_wrong_on_one_rank_is_said_by_all_and_none_hangs(workshop: Workshop) -> None:
    script = workshop.root / "two_ranks.py"
    script.write_text(TWO_RANKS, encoding="utf-8")
    settings = ("per_device_train_batch_size=2", "stcr.evaluate.every_steps=2", "save_strategy=steps", "save_steps=1")
    overrides = workshop.overrides("weak", "two_ranks", workshop.base, *settings)
    done = workshop.fork(["python", script, RECIPES / "weak_only.yaml", *overrides], ranks=2)
    assert done.returncode == 1
    run = workshop.root / "two_ranks"
    record = stage_row(run)
    assert record["figures_missing"] == [
        {"when": "step 2", "step": 2, "why": "rank 1: MemoryError: of this rank alone"}
    ]
    assert [row["when"] for row in record["figures"]] == ["before"]
    why = record["ended"]["why"]
    assert why.startswith("step 3: the loss is not a finite number, on rank 1: inf. In its batch: (1) ")
    assert why.count("closer to completion: img") >= 2
    assert checkpoints(run) == [1, 2]
