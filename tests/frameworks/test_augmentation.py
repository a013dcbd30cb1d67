"""Augmentation: pictures of a sample change alike, and only where a model is trained."""

from __future__ import annotations

import io
import logging
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_stage import Workshop, losses

from stcr_plugin.frameworks import augmentation
from stcr_plugin.frameworks.augmentation import Augmentation, AugmentingCollator
from stcr_plugin.frameworks.stcr_block import Augment

OFF = Augment()
ALL = Augment(shift_pixels=4, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)


def picture(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def augmented(pictures: list[Image.Image], augment: Augment, seed: int = 0) -> list[Image.Image]:
    """The pictures of one sample as the collator hands them on."""
    shown: list[Image.Image] = AugmentingCollator(list, augment, seed)([{"images": pictures}])[0]["images"]
    return shown


def pixels(image: Image.Image) -> Any:
    return np.asarray(image).astype(int)


def test_off_changes_no_pixel() -> None:
    before = [picture(0), picture(1)]
    after = augmented(before, OFF)
    assert all((pixels(a) == pixels(b)).all() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_pictures_of_one_sample_change_alike(seed: int) -> None:
    same = augmented([picture(), picture(), picture()], ALL, seed)
    assert (pixels(same[0]) == pixels(same[1])).all()
    assert (pixels(same[0]) == pixels(same[2])).all()
    assert (pixels(same[0]) != pixels(picture())).any()


def test_two_samples_change_differently() -> None:
    one, other = AugmentingCollator(list, ALL)([{"images": [picture()], "input_ids": [k]} for k in range(2)])
    assert (pixels(one["images"][0]) != pixels(other["images"][0])).any()


def test_sizes_stay_even_where_they_differ() -> None:
    sizes = [(40, 30), (28, 56), (7, 3)]
    assert [image.size for image in augmented([picture(size=size) for size in sizes], ALL)] == sizes


def test_shift_moves_the_picture_within_its_bound_and_repeats_the_edge() -> None:
    ramp = Image.fromarray(np.tile(np.arange(40, dtype=np.uint8)[None, :, None] * 6, (30, 1, 3)))
    moved = set()
    for seed in range(60):
        row = pixels(augmented([ramp], Augment(shift_pixels=3), seed)[0])[0, :, 0]
        shift = 20 - row[20] // 6  # positive: to the right
        moved.add(int(shift))
        assert (row == np.clip(np.arange(40) - shift, 0, 39) * 6).all()
    assert moved == {-3, -2, -1, 0, 1, 2, 3}


def test_brightness_stays_within_its_bound() -> None:
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    levels = [int(pixels(augmented([grey], Augment(brightness=0.2), k)[0])[0, 0, 0]) for k in range(60)]
    assert min(levels) >= 79
    assert max(levels) <= 121
    assert max(levels) - min(levels) > 25


def test_hue_turns_both_ways_keeps_luminance_and_leaves_grey_as_it_is() -> None:
    muted, grey = Image.new("RGB", (4, 4), (130, 100, 90)), Image.new("RGB", (4, 4), (90, 90, 90))
    turned = [augmented([muted, grey], Augment(hue=0.1), seed) for seed in range(60)]
    assert {tuple(pixels(one[1])[0, 0]) for one in turned} == {(90, 90, 90)}
    colours = np.array([pixels(one[0])[0, 0] for one in turned]) - np.array([130, 100, 90])
    luminances = colours @ np.array([0.213, 0.715, 0.072])
    assert np.abs(luminances).max() < 1  # what eight bits round away
    assert colours[:, 1].min() < -2  # a reddish grey turns towards blue, or towards yellow
    assert colours[:, 1].max() > 2


def test_changes_are_those_of_the_css_filters() -> None:
    """Worked by hand from the matrices of W3C's Filter Effects Module Level 1: hueRotate(180), saturate(0.5)."""
    red = Image.new("RGB", (2, 2), (200, 0, 0))
    turned = pixels(augmentation._coloured(red, 0, 0, 0, 0.5))[0, 0]
    assert turned.tolist() == [0, 85, 85]  # 2 * 0.213 - 1 below zero; 2 * 0.213
    paler = pixels(augmentation._coloured(red, 0, 0, -0.5, 0))[0, 0]
    assert paler.tolist() == [121, 21, 21]  # (0.213 + 0.787 / 2) * 200, 0.213 / 2 * 200


def test_hue_beyond_half_the_circle_is_refused() -> None:
    with pytest.raises(ValueError, match="half of the colour circle"):
        Augment(hue=0.6)


def states() -> tuple[Any, ...]:
    return random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()


def test_a_change_follows_from_seed_epoch_and_sample_and_touches_no_random_state() -> None:
    def collator(seed: int, epoch: int) -> AugmentingCollator:
        collate = AugmentingCollator(list, ALL, seed)
        collate.epoch.fill_(epoch)
        return collate

    def shown(collate: AugmentingCollator, samples: list[int]) -> dict[int, bytes]:
        features = [{"images": [picture()], "input_ids": [k]} for k in samples]
        return dict(zip(samples, (one["images"][0].tobytes() for one in collate(features)), strict=True))

    before = states()
    whole = shown(collator(0, 0), [0, 1, 2, 3])
    assert len(set(whole.values())) == 4
    resumed = collator(0, 0)  # another process or rank, which begins in the middle and makes other batches
    assert shown(resumed, [3]) | shown(resumed, [1, 2]) == {k: whole[k] for k in (1, 2, 3)}
    later, other = shown(collator(0, 1), [0, 1, 2, 3]), shown(collator(1, 0), [0, 1, 2, 3])
    assert len({*whole.values(), *later.values(), *other.values()}) == 12
    assert states() == before


@pytest.mark.parametrize("persistent", [False, True])
def test_a_worker_draws_what_the_process_itself_would_in_every_epoch(persistent: bool) -> None:
    from torch.utils.data import DataLoader

    rows: Any = [{"images": [picture(k)], "input_ids": [k]} for k in range(4)]

    def epochs(workers: int) -> list[list[bytes]]:
        loader: Any = DataLoader(
            rows, 2, num_workers=workers, collate_fn=list, persistent_workers=persistent and workers > 0
        )
        augmenting = Augmentation(ALL)
        augmenting.on_train_begin(SimpleNamespace(seed=3), None, None, train_dataloader=loader)
        seen = []
        for epoch in (0.0, 1.0, 1.5):  # the last as in a resumed run
            augmenting.on_epoch_begin(None, SimpleNamespace(epoch=epoch), None)
            seen.append([feature["images"][0].tobytes() for batch in loader for feature in batch])
        return seen

    alone, worker = epochs(0), epochs(1)
    assert alone == worker
    assert alone[0] != alone[1] == alone[2]


def test_every_form_of_a_picture_is_understood(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    picture().save(file)
    content = io.BytesIO()
    picture().save(content, "png")
    encoded = content.getvalue()
    forms = [str(file), encoded, {"path": str(file), "bytes": None}, {"path": None, "bytes": encoded}, picture()]
    seen = AugmentingCollator(list, OFF)([{"images": [form]} for form in forms])
    assert len(seen) == len(forms)
    for feature in seen:
        assert (pixels(feature["images"][0]) == pixels(picture())).all()


def test_a_picture_in_a_tar_is_read_below_media_dir(tmp_path: Path) -> None:
    from stcr_plugin.registry.picture_store import TarWriter

    content = io.BytesIO()
    picture().save(content, "png")
    tar = TarWriter(tmp_path, "frames/00000.tar")
    names = [tar.add(f"{k}.png", content.getvalue()) for k in range(2)]
    tar.close()
    (feature,) = AugmentingCollator(list, OFF, media_dir=tmp_path)([{"images": names}])
    assert len(feature["images"]) == 2
    assert all((pixels(shown) == pixels(picture())).all() for shown in feature["images"])


def test_features_without_pictures_pass_untouched_and_the_rest_is_kept() -> None:
    text_only = {"input_ids": [1, 2], "images": None}
    shown = {"input_ids": [3], "images": [picture()], "labels": [4]}
    passed, changed = AugmentingCollator(list, ALL)([text_only, shown])
    assert passed is text_only
    assert changed["input_ids"] == [3]
    assert changed["labels"] == [4]
    assert shown["images"][0].tobytes() == picture().tobytes()  # the dataset's own row is not written to


def test_only_the_train_loader_is_touched_and_the_collator_still_answers_for_the_original() -> None:
    from torch.utils.data import DataLoader

    class Collator:
        template, processor = "template", "processor"

        def __call__(self, features: Any) -> Any:
            return features

    collator = Collator()
    train, evaluation = (DataLoader([{"images": [picture()]}], collate_fn=collator) for _ in range(2))  # type: ignore[arg-type]
    wrapped = SimpleNamespace(base_dataloader=train)  # as accelerate does
    args = SimpleNamespace(seed=5)
    Augmentation(ALL).on_train_begin(args, None, None, train_dataloader=wrapped, eval_dataloader=evaluation)
    assert evaluation.collate_fn is collator
    assert isinstance(train.collate_fn, AugmentingCollator)
    assert train.collate_fn.seed == 5
    assert train.collate_fn.template == "template"
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        train.collate_fn.nothing_of_this_name  # noqa: B018


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.slow
def test_a_real_stage_trains_on_augmented_pictures(
    workshop: Workshop, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logging.getLogger("llamafactory").setLevel(logging.ERROR)
    common = ("max_steps=2", "stcr.evaluate=null", f"dataloader_num_workers={workers}")
    strong = "stcr.augment={shift_pixels: 20, brightness: 0.5, contrast: 0.5, saturation: 0.5}"
    off = losses(workshop.train("weak", f"plain{workers}", *common, "stcr.augment=null"))
    on = losses(workshop.train("weak", f"augmented{workers}", *common, strong))
    again = losses(workshop.train("weak", f"again{workers}", *common, strong))
    # The first loss is of the same untrained weights on the same samples: only their pictures can differ.
    assert off[0] != on[0]
    assert on == again
