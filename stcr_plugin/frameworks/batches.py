"""The samples of a training batch: errors name the pictures that cannot be read, or that gave a loss that is NaN.

The names of its pictures travel with a batch from the process that collated it, which may be a dataloader worker.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback

from stcr_plugin.errors import DataError, StcrError
from stcr_plugin.frameworks.images import decoded, picture_name
from stcr_plugin.frameworks.ranks import of_every_rank, totals
from stcr_plugin.frameworks.sample_changes import Collator, CollatorInFront, put_in_front, sample_key
from stcr_plugin.frameworks.stage_record import Record
from stcr_plugin.records import BadPicture

NOTE = "stcr_batch"  # key of a batch: {"pictures": names of each sample, "bad": why samples were replaced}
_TRIES = 20
_TEXT = 160  # characters of a sample that are shown


class BatchWatch(TrainerCallback):  # type: ignore[misc]
    """Stops a training at a loss that is not a number, or at too many samples with unreadable pictures.

    Args:
        bad: What to do with a sample that has an unreadable picture: raise an "error", or "replace" it by another one,
            drawn by the seed.
        at_most: The share of all samples of the run that may be replaced.
        media_dir: What names of pictures in tar files are relative to.
        record: Receives the unreadable pictures.

    Attributes:
        trainer: Must be set before training starts.
    """

    def __init__(
        self, bad: Literal["error", "replace"], at_most: float, media_dir: str | Path, *, record: Record
    ) -> None:
        self.bad = bad
        self.at_most = at_most
        self.media_dir = media_dir
        self.record = record
        self.trainer: Any = None
        self._wrong: str | None = None
        self._rows: list[BadPicture] = []  # of this rank, not yet in the record
        self._new = self._count = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        rows = getattr(train_dataloader, "dataset", None) if self.bad == "replace" else None
        put_in_front(
            train_dataloader,
            lambda collate: NamingCollator(collate, self.media_dir, self.bad, rows=rows, seed=args.seed),
        )
        self._count = len(self.record.now.bad_pictures)
        step = self.trainer.training_step

        def watched(model: Any, inputs: Any, *more: Any, **options: Any) -> Any:
            note = inputs.pop(NOTE, None) or {"pictures": [], "bad": []}
            self._note_bad(note["bad"], state.global_step + 1)
            loss = step(model, inputs, *more, **options)
            if self._wrong is None and not bool(loss.isfinite().all()):
                self._wrong = f"{loss.tolist()}. In its batch: {self._samples(inputs, note['pictures'])}"
            return loss

        self.trainer.training_step = watched

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wrong, new = totals(int(self._wrong is not None), self._new, device=args.device)
        self._new, self._count = 0, self._count + new
        if wrong:
            losses = "; ".join(f"on rank {k}: {words}" for k, words in enumerate(of_every_rank(self._wrong)) if words)
            raise StcrError(
                f"step {state.global_step + 1}",
                f"the loss is not a finite number, {losses}. Nothing of this step was saved",
                "check these samples; else lower learning_rate, set max_grad_norm, or train in bf16 instead of fp16",
            )
        seen = args.train_batch_size * args.gradient_accumulation_steps * args.world_size * state.max_steps
        if self._count > self.at_most * seen:
            self._hand_over()
            raise DataError(
                f"step {state.global_step + 1}",
                f"{self._count} of the run's {seen} samples had pictures that cannot be read, more than "
                f"stcr.bad_pictures_at_most: {self.at_most} allows; the last is "
                f"{self.record.now.bad_pictures[-1].picture}",
                "build the data again (`stcr data check NAME` finds the others), or raise that share",
            )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._hand_over()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._hand_over()
        if self._count and state.is_world_process_zero:
            logging.getLogger(__name__).warning(
                "%d samples with pictures that cannot be read were replaced by others; bad_pictures in %s names them",
                self._count,
                self.record.path,
            )

    def _note_bad(self, bad: Sequence[str], step: int) -> None:
        for picture in bad:
            logging.getLogger(__name__).warning("step %d: %s; another sample replaces it", step, picture)
        self._rows += [BadPicture(step, picture) for picture in bad]
        self._new += len(bad)

    def _hand_over(self) -> None:
        """Rows of all ranks into the record; every rank must call it."""
        if self.bad == "replace":
            self.record.add_bad_pictures([row for rows in of_every_rank(self._rows) for row in rows])
            self._rows = []

    def _samples(self, inputs: Any, names: Sequence[Sequence[str]]) -> str:
        from stcr_plugin.frameworks.callback import processor_of

        processor = processor_of(self.trainer)
        tokenizer = getattr(processor, "tokenizer", processor)
        if "input_ids" not in inputs:  # of sampled answers, which are made later
            return "; ".join(f"({k}) {', '.join(pictures)}" for k, pictures in enumerate(names, 1))
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in inputs["input_ids"].tolist()]
        # Of ranking rows all preferred answers come first, then the rejected ones; packed, a row has several samples.
        known = [*names, *names] if len(texts) == 2 * len(names) else list(names)
        shown = known if len(known) == len(texts) else [()] * len(texts)
        return "; ".join(
            f"({k}) {', '.join(pictures) or 'no pictures'}: {text[-_TEXT:]!r}"
            for k, (pictures, text) in enumerate(zip(shown, texts, strict=True), 1)
        )


class NamingCollator(CollatorInFront):
    """A collator that decodes the pictures of each sample, then calls `collate` and adds NOTE to its batch.

    Where bad is `replace`, a sample with a picture that cannot be decoded is replaced by another of `rows`, drawn by
    the seed and the sample itself: the same in any process, and after a resume. A stream has no rows to draw from, so
    the next sample of the batch is used twice. Else raises DataError naming the picture.
    """

    def __init__(
        self, collate: Collator, media_dir: str | Path = "", bad: str = "error", *, rows: Any = None, seed: int = 0
    ) -> None:
        super().__init__(collate)
        self.media_dir = media_dir
        self.bad = bad
        self.rows = rows if hasattr(rows, "__getitem__") and hasattr(rows, "__len__") else None
        self.seed = seed

    def __call__(self, features: Sequence[dict[str, Any]]) -> Any:
        bad: list[str] = []
        shown = [self._readable(features, place, bad) for place in range(len(features))]
        names = [[picture_name(image) for image in feature.get("images") or ()] for feature in shown]
        batch = self.collate(shown)
        batch[NOTE] = {"pictures": names, "bad": bad}
        return batch

    def _readable(self, features: Sequence[dict[str, Any]], place: int, bad: list[str]) -> dict[str, Any]:
        feature = features[place]
        for attempt in range(_TRIES):
            try:
                return self._opened(feature)
            except DataError as error:
                if self.bad == "error":
                    sample = f"it is in the sample of {', '.join(map(picture_name, feature['images']))}"
                    fix = "build the data again (`stcr data check NAME` finds others like it)"
                    raise DataError(
                        error.where,
                        "; ".join(filter(None, (error.problem, sample))),
                        "; ".join(filter(None, (error.fix, f"{fix}, or set stcr.bad_pictures: replace"))),
                    ) from None
                if attempt == 0:
                    bad.append(str(error))
                feature = self._another(features, place, attempt)
        raise DataError(
            bad[-1], f"nor can the {_TRIES - 1} samples be read that could replace it", "build the data again"
        )

    def _opened(self, feature: dict[str, Any]) -> dict[str, Any]:
        if not feature.get("images"):
            return dict(feature)
        return {**feature, "images": [decoded(image, self.media_dir) for image in feature["images"]]}

    def _another(self, features: Sequence[dict[str, Any]], place: int, attempt: int) -> dict[str, Any]:
        import numpy as np

        if self.rows is None:
            return features[(place + 1 + attempt) % len(features)]
        key = sample_key(features[place], map(picture_name, features[place]["images"]))
        draw = np.random.default_rng([self.seed, key, attempt])
        return dict(self.rows[int(draw.integers(len(self.rows)))])
