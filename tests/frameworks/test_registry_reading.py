"""LLaMA-Factory reads what a build writes: pictures in tar files, Parquet, mixtures with other data, curricula."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_stage import DATA, RECIPES, Workshop, losses, stage_row

from stcr_plugin.config import from_mapping, read_yaml
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.frameworks.augmentation import AugmentingCollator
from stcr_plugin.frameworks.images import picture_name
from stcr_plugin.frameworks.llamafactory import experiment
from stcr_plugin.frameworks.numbering import opened
from stcr_plugin.frameworks.recipe import Recipe
from stcr_plugin.frameworks.stage_run import run_stage
from stcr_plugin.frameworks.stcr_block import Augment, StcrSettings
from stcr_plugin.registry.data_config import DataConfig, load_data_config
from stcr_plugin.registry.manifest import dataset_rows, read_pairs

IGNORE = -100
# The same pairs as "tiny", their pictures in tar files, and in the forms that a training set may have.
TARRED = {
    "name": "tarred",
    "frames": {"format": "png", "store": "tar"},
    "shard_episodes": 4,
    "datasets": {
        "weak": {"split": "train", "kind": "weak"},
        "sharded": {"split": "train", "kind": "weak", "format": "parquet"},
        "steps": {"split": "train", "kind": "weak", "format": "parquet", "curriculum": {"bins": 2, "first": "far"}},
    },
}
GENERAL = [
    ([("user", "<image>What is this?"), ("assistant", "A kettle.")], ["general/kettle.png"]),
    (
        [("user", "Say a colour."), ("assistant", "Blue."), ("user", "Another?"), ("assistant", "Red.")],
        [],
    ),
    ([("user", "Which is red? <image><image>"), ("assistant", "The first.")], ["general/kettle.png"] * 2),
]
ENTRY = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "images": "images"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}


@pytest.fixture(scope="module")
def stocked(shared_workshop: Workshop) -> Workshop:
    """The shared workshop with a build in tar files, and general data beside it."""
    from stcr_plugin.registry.build import build

    registry = shared_workshop.registry
    build(from_mapping(DataConfig, {**copy.deepcopy(DATA), **TARRED}, "tarred"), registry)
    (registry / "general").mkdir()
    Image.new("RGB", (84, 84), (200, 30, 30)).save(registry / "general" / "kettle.png")
    rows = [
        {"messages": [{"role": role, "content": text} for role, text in turns], "images": images}
        for turns, images in GENERAL
    ]
    (registry / "general.json").write_text(json.dumps(rows * 8), encoding="utf-8")
    chat = [{"instruction": "Greet me.", "input": "", "output": "Hello."}] * 10
    (registry / "chat.json").write_text(json.dumps(chat), encoding="utf-8")
    path = registry / "dataset_info.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    info |= {"general": {"file_name": "general.json", **ENTRY}, "chat": {"file_name": "chat.json"}}
    path.write_text(json.dumps(info), encoding="utf-8")
    return shared_workshop


def recipe(workshop: Workshop, dataset: str, out: str, name: str = "weak_only", **changes: Any) -> Recipe:
    """A recipe of weak pairs, tiny, for any datasets."""
    from omegaconf import OmegaConf

    overrides = OmegaConf.from_dotlist(
        [*workshop.overrides("weak", out, workshop.base), "stcr.evaluate=null", "stcr.augment=null"]
    )
    args: Any = OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(RECIPES / f"{name}.yaml"), overrides))
    return Recipe.of({**args, "dataset": dataset, "overwrite_output_dir": True, "report_to": "none", **changes})


def loaded(workshop: Workshop, dataset: str, **changes: Any) -> tuple[Any, Any]:
    """The tokenised training set as LLaMA-Factory's own loader gives it, and the tokenizer."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    args = recipe(workshop, dataset, "loaded", **changes).framework_keys()
    model_args, data_args, training_args, _, _ = get_train_args(args)
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    experiment._set_template(args)
    rows = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
    return rows, module["tokenizer"]


def watched(workshop: Workshop, out: str, dataset: str, **changes: Any) -> list[dict[str, Any]]:
    """Train a stage and give the rows that came to its collator, in order."""
    from llamafactory.train import tuner
    from transformers import TrainerCallback

    seen: list[dict[str, Any]] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, train_dataloader: Any = None, **__: Any) -> None:
            loader = getattr(train_dataloader, "base_dataloader", train_dataloader)
            collate = loader.collate_fn

            def watching(features: Any) -> Any:
                # They come decoded, and still know their names.
                seen.extend(
                    {**row, "images": [picture_name(image) for image in row["images"] or ()]} for row in features
                )
                return collate(features)

            loader.collate_fn = watching

    run_exp = getattr(tuner.run_exp, "__wrapped__", tuner.run_exp)
    run_stage(recipe(workshop, dataset, out, **changes), [Watch()], experiment.through(run_exp))
    return seen


def never(args: Any, callbacks: Any) -> None:
    raise AssertionError("this recipe was to be refused before training")


def pixels(image: Any) -> Any:
    return np.asarray(image.convert("RGB"))


# ---- pictures in tar files ----


def test_a_picture_in_a_tar_is_the_picture_of_the_folder(stocked: Workshop) -> None:
    pairs = {build: read_pairs(stocked.registry, build, "train") for build in ("tiny", "tarred")}
    assert [pair.pair_id for pair in pairs["tiny"]] == [pair.pair_id for pair in pairs["tarred"]]
    for loose, packed in zip(pairs["tiny"][:10], pairs["tarred"][:10], strict=True):
        assert ".tar#" in packed.earlier_image
        expected = Image.open(stocked.registry / loose.earlier_image)
        assert (pixels(opened(packed.earlier_image, stocked.registry)) == pixels(expected)).all()


@pytest.mark.parametrize("name", ["tarred/frames-0/00009.tar#512+10", "../secret.tar#0+10"])
def test_a_picture_that_is_not_in_its_tar_is_named_with_its_mend(stocked: Workshop, name: str) -> None:
    with pytest.raises(DataError) as caught:
        opened(name, stocked.registry)
    assert name.partition("#")[0] in str(caught.value)
    assert "set media_dir to the registry that holds it, or build again" in str(caught.value)


def test_other_forms_of_a_picture_are_left_to_llamafactory() -> None:
    for image in ("folder/000001.png", b"\x89PNG", {"path": "a.tar#1+2", "bytes": None}):
        assert opened(image, "registry") is image


def test_samples_are_the_same_from_tar_and_folder_and_nothing_is_warned_of(
    stocked: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    # In one process: after torch has run its threads here, a forked tokenising worker may hang. The CLI's is below.
    logger = logging.getLogger("llamafactory.data.converter")
    logger.addHandler(caplog.handler)
    try:
        packed, _ = loaded(stocked, "tarred_weak", overwrite_cache=True)
    finally:
        logger.removeHandler(caplog.handler)
    loose, _ = loaded(stocked, "tiny_weak")
    assert packed["input_ids"] == loose["input_ids"]
    assert packed["labels"] == loose["labels"]
    assert all(".tar#" in image for images in packed["images"] for image in images)
    assert not [record for record in caplog.records if "does not exist" in record.getMessage()]


def test_augmentation_opens_pictures_in_tars(stocked: Workshop) -> None:
    (packed,) = read_pairs(stocked.registry, "tarred", "train")[:1]
    (loose,) = read_pairs(stocked.registry, "tiny", "train")[:1]
    files = [str(stocked.registry / image) for image in (loose.earlier_image, loose.later_image)]
    collate = AugmentingCollator(list, Augment(), media_dir=stocked.registry)
    shown = collate([{"images": [packed.earlier_image, packed.later_image]}, {"images": files}])
    for one, other in zip(*(feature["images"] for feature in shown), strict=True):
        assert (pixels(one) == pixels(other)).all()


@pytest.mark.slow(seconds=15)
def test_training_on_tars_gives_the_losses_and_figures_of_training_on_files(stocked: Workshop) -> None:
    runs = {}
    for name in ("tiny_weak", "tarred_weak"):
        more = ("max_steps=3", f"dataset={name}", "preprocessing_num_workers=2", "dataloader_num_workers=1")
        overrides = stocked.overrides("weak", f"cli-{name}", stocked.base, *more)
        done = stocked.fork(["llamafactory-cli", "train", RECIPES / "weak_only.yaml", *overrides])
        assert done.returncode == 0, done.stderr[-3000:]
        assert "does not exist in `media_dir`" not in done.stderr + done.stdout
        runs[name] = stocked.root / f"cli-{name}"
    assert len(losses(runs["tiny_weak"])) == 3
    assert losses(runs["tiny_weak"]) == losses(runs["tarred_weak"])
    figures = [[row["pair_accuracy"] for row in stage_row(run)["figures"]] for run in runs.values()]
    assert figures[0] == figures[1]
    assert len(figures[0]) == 2


def test_a_mistake_found_by_a_dataloader_worker_is_told_without_its_traceback(stocked: Workshop) -> None:
    from torch.utils.data import DataLoader

    def read_by_a_worker(args: Any, callbacks: Any) -> None:
        names: Any = ["gone.tar#512+10"]
        list(DataLoader(names, num_workers=1, collate_fn=lambda batch: opened(batch[0], "registry")))

    with pytest.raises(DataError) as caught:
        run_stage(recipe(stocked, "tarred_weak", "broken"), None, experiment.through(read_by_a_worker))
    assert str(caught.value).startswith("registry: gone.tar#512+10: no such file; set media_dir")
    assert "Traceback" not in str(caught.value)


# ---- Parquet, streamed or not ----


@pytest.mark.slow
def test_parquet_shards_give_the_samples_of_the_json_file(stocked: Workshop) -> None:
    assert len(list((stocked.registry / "tarred" / "tarred_sharded").iterdir())) > 1
    sets = []
    for dataset in ("tarred_sharded", "tarred_weak"):
        rows, _ = loaded(stocked, dataset)
        sets.append(sorted(zip(rows["images"], rows["input_ids"], rows["labels"], strict=True)))
    assert sets[0] == sets[1]
    assert len(sets[0]) == sum(1 for _ in dataset_rows(stocked.registry, "tarred_weak"))


@pytest.mark.parametrize(
    ("changes", "lacks"),
    [
        ({}, "dataloader_num_workers: 1 (or more), accelerator_config: {dispatch_batches: false}; add"),
        ({"dataloader_num_workers": 1}, "lacks accelerator_config: {dispatch_batches: false}; add"),
        ({"accelerator_config": {"dispatch_batches": True}, "dataloader_num_workers": 2}, "lacks accelerator_config"),
        (
            {"accelerator_config": '{"dispatch_batches": false}', "dataloader_num_workers": 2, "max_steps": -1},
            "lacks max_steps; add it to the recipe, or set streaming: false",
        ),
    ],
    ids=["both", "dispatch", "dispatch set", "steps"],
)
def test_streaming_without_what_it_needs_is_refused(stocked: Workshop, changes: dict[str, Any], lacks: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_stage(recipe(stocked, "tarred_sharded", "refused", streaming=True, **changes), None, never)
    assert lacks in str(caught.value)
    assert not (stocked.root / "refused").exists()


@pytest.mark.slow
def test_the_streaming_recipe_trains_on_parquet_and_tars(stocked: Workshop) -> None:
    more = ("dataset=tarred_sharded", "stcr.starts_from=model", "buffer_size=32", "preprocessing_batch_size=8",
            "dataloader_num_workers=2")  # fmt: skip
    overrides = stocked.overrides("weak", "streamed", stocked.base, *more)
    done = stocked.fork(["llamafactory-cli", "train", RECIPES / "stage2_stream.yaml", *overrides])
    assert done.returncode == 0, done.stderr[-3000:]
    found = losses(stocked.root / "streamed")
    assert len(found) == 4
    assert all(math.isfinite(loss) for loss in found)
    record = stage_row(stocked.root / "streamed")
    assert record["finished"]
    assert [row["when"] for row in record["figures"]] == ["before", "after"]


# ---- mixed with other data ----

MIX = "tiny_weak,tarred_weak,general,chat"


def kind_of(row: Mapping[str, Any]) -> str:
    images = row["images"] or []
    return next((name for name in ("tiny/frames", "tarred/frames") if images and name in images[0]), "other")


def supervised(tokenizer: Any, row: Mapping[str, Any]) -> str:
    return str(tokenizer.decode([label for label in row["labels"] if label != IGNORE]))


@pytest.mark.slow
def test_a_mixture_has_the_shares_that_it_asks_for(stocked: Workshop) -> None:
    rows, _ = loaded(
        stocked, MIX, mix_strategy="interleave_over", interleave_probs="0.4,0.2,0.2,0.2", overwrite_cache=True
    )
    counts = Counter(kind_of(row) for row in rows)
    assert counts.keys() == {"tiny/frames", "tarred/frames", "other"}
    total = sum(counts.values())
    for kind, share in {"tiny/frames": 0.4, "tarred/frames": 0.2, "other": 0.4}.items():
        assert counts[kind] == pytest.approx(share * total, abs=3 * math.sqrt(total * share * (1 - share)))


def test_every_kind_of_row_is_supervised_on_its_answers_alone(stocked: Workshop) -> None:
    rows, tokenizer = loaded(stocked, MIX)
    targets = {row["messages"][1]["content"] for row in dataset_rows(stocked.registry, "tiny_weak")}
    wanted = {f"{target}<|im_end|>" for target in targets} | {
        "A kettle.<|im_end|>",
        "Blue.<|im_end|>Red.<|im_end|>",
        "The first.<|im_end|>",
        "Hello.<|im_end|>",
    }
    assert {supervised(tokenizer, row) for row in rows} == wanted
    picture = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert not any(picture in row["labels"] for row in rows)


def test_pictures_are_numbered_where_there_are_two_and_a_single_one_is_not(stocked: Workshop) -> None:
    from transformers import AutoProcessor

    rows, tokenizer = loaded(stocked, "general")
    texts = [tokenizer.decode(row["input_ids"]) for row in rows]
    pad = "<|image_pad|>"
    one, _, two = (text.replace(pad * 9, pad) for text in texts[:3])
    assert f"user\nWhich is red? img1: <|vision_start|>{pad}<|vision_end|>\nimg2: <|vision_start|>{pad}" in two
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    processor = AutoProcessor.from_pretrained(stocked.base)
    prompt = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    assert one == f"{prompt}A kettle.<|im_end|>"


def test_the_recipe_of_a_mixture_gives_every_dataset_a_share_and_prepares_what_is_ours() -> None:
    values = read_yaml(RECIPES / "stage2_mixed.yaml")
    datasets = values["dataset"].split(",")
    shares = [float(share) for share in values["interleave_probs"].split(",")]
    assert len(shares) == len(datasets)
    assert sum(shares) == pytest.approx(1)
    prepare = from_mapping(StcrSettings, values["stcr"], "stage2_mixed").prepare
    configs = [load_data_config(RECIPES.parent / config) for config in prepare.data or ()]
    built = {f"{config.name}_{key}" for config in configs for key in config.datasets}
    assert set(datasets) - built == {"general"}


@pytest.mark.slow
def test_a_mixture_trains_and_its_record_names_both_builds(stocked: Workshop) -> None:
    seen = watched(
        stocked,
        "mixed",
        f"general,{MIX.replace(',general', '')}",  # another's first: the callback's pairs are of the first of ours
        name="stage2_mixed",
        mix_strategy="interleave_under",
        interleave_probs="0.25,0.25,0.25,0.25",
        per_device_train_batch_size=2,
        max_steps=6,
        stcr={"name": "mixed", "mode": "direct", "evaluate": {"split": "dev", "pairs": 2, "before": False}},
    )
    run = stocked.root / "mixed"
    assert all(math.isfinite(loss) for loss in losses(run))
    assert len(losses(run)) == 6
    kinds = Counter(kind_of(row) for row in seen)
    assert kinds["other"] > 0
    assert kinds.total() > kinds["other"]
    record = stage_row(run)
    assert [data["build"] for data in record["data"]] == ["tiny", "tarred"]
    assert record["figures"][0]["n_pairs"] == 2


# ---- curricula ----


@pytest.mark.slow
def test_a_curriculum_comes_to_the_model_in_its_order(stocked: Workshop) -> None:
    seen = watched(stocked, "steps", "tarred_steps", disable_shuffling=True, max_steps=3)
    rows = list(dataset_rows(stocked.registry, "tarred_steps"))
    assert [row["images"] for row in seen[:12]] == [row["images"] for row in rows[:12]]
    distance = {pair.pair_id: pair.distance for pair in read_pairs(stocked.registry, "tarred", "train")}
    distances = [distance[row["pair_id"]] for row in rows]
    bound = sorted(distances)[len(distances) // 2]
    assert min(distances[: len(rows) // 3]) >= bound >= max(distances[-len(rows) // 3 :])


@pytest.mark.parametrize(
    ("changes", "mend"),
    [
        ({}, "set disable_shuffling: true"),
        ({"disable_shuffling": True, "val_size": 0.1}, "remove val_size"),
        ({"disable_shuffling": True, "packing": True, "neat_packing": True}, "set packing: false"),
        ({"disable_shuffling": True, "neat_packing": True}, "set neat_packing: false"),
        (
            {
                "disable_shuffling": True,
                "streaming": True,
                "dataloader_num_workers": 1,
                "accelerator_config": {"dispatch_batches": False},
            },
            "set streaming: false (streaming shuffles a buffer)",
        ),
    ],
    ids=["shuffling", "validation split", "packing", "neat packing", "streaming"],
)
def test_a_curriculum_that_would_be_mixed_is_refused(stocked: Workshop, changes: dict[str, Any], mend: str) -> None:
    args = recipe(stocked, "general,tarred_steps", "refused", **changes)
    with pytest.raises(ConfigError, match="tarred_steps is a curriculum") as caught:
        run_stage(args, None, never)
    assert mend in str(caught.value)
    assert not (stocked.root / "refused").exists()


def test_a_build_without_pictures_is_refused(tmp_path: Path) -> None:
    from stcr_plugin.registry.build import build

    workshop = Workshop(tmp_path)
    counted = {**copy.deepcopy(DATA), "name": "counted", "frames": {"format": "none"}}
    build(from_mapping(DataConfig, counted, "counted"), workshop.registry)
    with pytest.raises(ConfigError, match="counted_weak was built without pictures"):
        run_stage(recipe(workshop, "counted_weak", "refused"), None, never)
