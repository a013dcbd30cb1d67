"""The `stcr:` block of a recipe, typed."""

from __future__ import annotations

from typing import Literal

from stcr_plugin.config import settings


@settings
class Prepare:
    """What to make before training where it is missing.

    A recipe that is run with another dataset or model makes neither.

    Attributes:
        data: Configuration of a data build, or several; made if `dataset` names one of its training sets.
        base: Configuration of an embedded base; made if `model_name_or_path` is its output.
    """

    data: str | tuple[str, ...] | None = None
    base: str | None = None


@settings
class Evaluate:
    """When the callback measures the gap and on what.

    Attributes:
        dataset: A build's name (default: that of the first training set that has one).
        pairs: How many pairs of `split`, spread evenly over the episodes.
        every_steps: Steps between two measurements; 0 measures before and after only.
        generate: In direct mode too, generate and parse the answer.
    """

    dataset: str | None = None
    split: str = "heldout"
    pairs: int = 100
    every_steps: int = 0
    before: bool = True
    after: bool = True
    batch_size: int = 32
    max_new_tokens: int = 256
    generate: bool = False
    language: Literal["en", "zh"] = "en"

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.batch_size < 1 or self.max_new_tokens < 1 or self.every_steps < 0:
            raise ValueError("pairs, batch_size and max_new_tokens are at least 1, every_steps at least 0")


@settings
class Augment:
    """Changes that all pictures of a sample share, drawn again in each epoch.

    Attributes:
        shift_pixels: The picture moves by up to this many pixels each way, its edge repeated.
        brightness, contrast, saturation: A factor drawn from 1 - x to 1 + x.
        hue: Every colour turns by a share of the colour circle drawn from -x to x; keep it small where a task names
            colours.
    """

    shift_pixels: int = 0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        if self.shift_pixels < 0 or not all(0 <= x < 1 for x in (self.brightness, self.contrast, self.saturation)):
            raise ValueError("shift_pixels is at least 0, brightness, contrast and saturation from 0 to below 1")
        if not 0 <= self.hue <= 0.5:
            raise ValueError("hue is from 0 to 0.5, half of the colour circle")


@settings
class StcrSettings:
    """One stage.

    Attributes:
        name: Its name in records, logs and reports.
        mode: How the model is evaluated: `cot` lets it reason first, `direct` does not.
        starts_from: `stage` requires a model that is the output of a finished stage with the same template.
        adapter: How a stage continues from a LoRA adapter: `continue` trains it further, `merge` merges it into its
            base and trains a new one on the whole model, `stack` trains a new one over it; see adapters.py.
        mask: `answer` trains on the answer and its end of turn. `authors` repeats the mistake of the STCR authors'
            released code, to measure its cost; see mask.authors_labels.
        bad_pictures: A picture that cannot be read is an `error`, or its sample is `replace`d by another.
        bad_pictures_at_most: The share of the run's samples that may be replaced.
    """

    name: str
    mode: Literal["cot", "direct"]
    starts_from: Literal["model", "stage"] = "model"
    adapter: Literal["continue", "merge", "stack"] | None = None
    prepare: Prepare = Prepare()
    evaluate: Evaluate | None = Evaluate()
    augment: Augment | None = None
    mask: Literal["answer", "authors"] = "answer"
    bad_pictures: Literal["error", "replace"] = "error"
    bad_pictures_at_most: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.bad_pictures_at_most <= 1:
            raise ValueError("bad_pictures_at_most is a share, from 0 to 1")
