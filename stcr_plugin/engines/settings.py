"""How queries are put to a model, and what every engine that puts them has in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from stcr_plugin.config import settings
from stcr_plugin.types import Prompt, Response

Mode = Literal["cot", "direct"]
MAX_PIXELS, MIN_PIXELS = 768 * 768, 32 * 32  # LLaMA-Factory 0.9.5's own defaults


@settings
class AskSettings:
    """How queries are put to a model.

    mode: "cot" asks for a reasoned answer, generates it greedily and parses it; "direct" compares the possible
        answers (see `local.LocalEngine`). None: what the model's stage.json names, else "direct".
    batch_size: queries at once; more is faster and takes more memory. It changes no answer beyond rounding.
    max_new_tokens: where generation stops; a reasoned answer that is cut there is unparsed.
    generate: in "direct" mode too, generate and parse instead of comparing.
    image_max_pixels, image_min_pixels: pictures outside are resized, as in LLaMA-Factory's settings of these names.
        None: those the model was trained with by its stage.json, else LLaMA-Factory's defaults.
    other_image_size: the two may be others than those that the model was trained with.
    language, part: which questions; part "heldout" takes the wordings that training never saw.
    style: how pictures are named in the question and in the answer, a key of wordings/styles.yaml.
    warn: the question says that the pictures may stand in either order.
    """

    mode: Mode | None = None
    batch_size: int = 16
    max_new_tokens: int = 256
    generate: bool = False
    image_max_pixels: int | None = None
    image_min_pixels: int | None = None
    other_image_size: bool = False
    language: str = "en"
    part: Literal["train", "heldout"] = "train"
    style: str = "img"
    warn: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_new_tokens < 1:
            raise ValueError("batch_size and max_new_tokens are at least 1")
        most, least = self.image_max_pixels, self.image_min_pixels
        given = [pixels for pixels in (least, most) if pixels is not None]
        if any(pixels < 1 for pixels in given) or given != sorted(given):
            raise ValueError(f"0 < image_min_pixels <= image_max_pixels must hold, got {least} and {most}")

    @property
    def pixels(self) -> tuple[int, int]:
        """Most and fewest pixels of a picture, with LLaMA-Factory's defaults where none are set."""
        most, least = self.image_max_pixels, self.image_min_pixels
        return (MAX_PIXELS if most is None else most, MIN_PIXELS if least is None else least)

    @property
    def decides(self) -> dict[str, Any]:
        """All that may change an answer: lowering batch_size is how one goes on after running out of memory."""
        no_answers = ("batch_size", "other_image_size")
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in no_answers}

    @property
    def otherwise(self) -> tuple[str, ...]:
        """What of `decides` is not the default, as a folder of results is named: "style_letters", "warn"."""
        usual = AskSettings().decides
        changed = {key: value for key, value in self.decides.items() if value != usual[key]}
        return tuple(key if value is True else f"{key}_{value}" for key, value in changed.items())

    def folder(self, dataset: str, split: str, how: str = "") -> str:
        """What a folder of results is called: what is asked otherwise than by the defaults has one of its own."""
        return "-".join(filter(None, (dataset, split, how, *self.otherwise)))


class Engine(Protocol):
    """Whatever can be asked. A new engine implements these two and nothing else."""

    def identity(self) -> Mapping[str, Any]:
        """What decides its answers besides the prompts: JSON-like, the same for the same model; never a key.

        Answers of an earlier run are used again only where this is the same.
        """
        ...

    def say(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        """(index in `prompts`, what was said) of every prompt once, in any order, each as soon as it is there.

        Raises DataError for a picture that cannot be read, and ConfigError for a prompt that it cannot put.
        """
        ...


@runtime_checkable
class Priced(Protocol):
    """An engine whose answers cost money."""

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What so many tokens cost, in the currency of its settings; None where they name no prices."""
        ...
