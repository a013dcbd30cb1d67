"""How a model is asked, and the protocol that every engine follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from stcr_plugin.config import from_mapping, option, settings
from stcr_plugin.errors import ConfigError
from stcr_plugin.records import StageRecord
from stcr_plugin.types import Prompt, Response

Mode = Literal["cot", "direct"]
MAX_PIXELS, MIN_PIXELS = 768 * 768, 32 * 32  # LLaMA-Factory 0.9.5's own defaults


@settings
class AskSettings:
    """How a model is asked. What is None is taken from the model's stage.json, see `completed`.

    In mode "cot" an answer is generated and parsed, in mode "direct" the possible answers are compared.
    """

    mode: Mode | None = option(default=None, help="cot: reason, then answer; direct: only answer (default: as trained)")
    batch_size: int = option(default=16, help="queries per batch; more is faster and takes more memory")
    max_new_tokens: int = option(default=256, help="where generation stops; an answer cut there is unparsed")
    generate: bool = option(default=False, help="in direct mode too, generate and parse the answer")
    image_max_pixels: int | None = option(default=None, help="shrink larger pictures (default: as trained or 768*768)")
    image_min_pixels: int | None = option(default=None, help="enlarge smaller pictures (default: as trained or 32*32)")
    other_image_size: bool = option(default=False, help="allow picture sizes other than those in training")
    language: str = option(default="en", help="language of the questions: en or zh")
    part: Literal["train", "heldout"] = option(default="train", help="heldout: question variants not seen in training")
    style: str = option(default="img", help="how pictures are named: img, letters, ordinals or frames")
    warn: bool = option(default=False, help="add to the question that pictures may be in either order")

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_new_tokens < 1:
            raise ValueError("batch_size and max_new_tokens must be at least 1")
        most, least = self.image_max_pixels, self.image_min_pixels
        given = [pixels for pixels in (least, most) if pixels is not None]
        if any(pixels < 1 for pixels in given) or given != sorted(given):
            raise ValueError(f"0 < image_min_pixels <= image_max_pixels must hold, got {least} and {most}")

    @property
    def pixels(self) -> tuple[int, int]:
        """Most and fewest pixels of a picture, LLaMA-Factory's defaults where none are set."""
        most, least = self.image_max_pixels, self.image_min_pixels
        return (MAX_PIXELS if most is None else most, MIN_PIXELS if least is None else least)

    @property
    def decides(self) -> dict[str, Any]:
        """All settings that may change an answer: a run may go on with a smaller batch_size."""
        no_answers = ("batch_size", "other_image_size")
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in no_answers}

    @property
    def changed(self) -> tuple[str, ...]:
        """What of `decides` is not the default, as parts of a folder's name: "style_letters", "warn"."""
        usual = AskSettings().decides
        changed = {key: value for key, value in self.decides.items() if value != usual[key]}
        return tuple(key if value is True else f"{key}_{value}" for key, value in changed.items())

    def folder(self, dataset: str, split: str, how: str = "") -> str:
        """Name of a folder of results; results with other settings get their own."""
        return "-".join(filter(None, (dataset, split, how, *self.changed)))


def completed(settings: AskSettings, stage: StageRecord) -> AskSettings:
    """`settings` with open values from the model's stage, then from the defaults.

    Pictures are sized as in the stage's training. A default `max_new_tokens` gives way to that of its callback.

    Raises:
        ConfigError: For another picture size than in training without `other_image_size`.
    """
    where, given = "the settings, completed by the model's stage.json", dataclasses.asdict(settings)
    for key in ("image_max_pixels", "image_min_pixels"):
        trained = getattr(stage, key)
        if given[key] is not None and trained not in (None, given[key]) and not settings.other_image_size:
            raise ConfigError(
                key,
                f"{given[key]}, but stage {stage.name!r} was trained with {trained}",
                f"leave {key} out, so that pictures have the same size, or set other_image_size=true (with --set)",
            )
    open_keys = [key for key in ("mode", "image_max_pixels", "image_min_pixels") if given[key] is None]
    taken = from_mapping(AskSettings, given | {key: getattr(stage, key) for key in open_keys}, where)
    most, least = taken.pixels
    rest: dict[str, Any] = {"mode": taken.mode or "direct", "image_max_pixels": most, "image_min_pixels": least}
    if given["max_new_tokens"] == AskSettings.max_new_tokens:
        rest["max_new_tokens"] = stage.max_new_tokens or AskSettings.max_new_tokens
    return from_mapping(AskSettings, dataclasses.asdict(taken) | rest, where)


class Engine(Protocol):
    """Takes prompts and gives responses. A new engine implements these two methods.

    The prompts of an evaluation are sealed (engines/sealed.py): their ids, order and paths are random texts, and
    `picture_loading.Pictures` opens their pictures.
    """

    def identity(self) -> Mapping[str, Any]:
        """What decides its responses besides the prompts: JSON-like, never a key.

        Responses of an earlier run are used again only where this is the same.
        """
        ...

    def respond(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        """(index in `prompts`, response) for every prompt once, in any order, each as soon as it is there.

        Raises:
            DataError: For a picture that cannot be read.
            ConfigError: For a prompt that this engine cannot take.
        """
        ...


@runtime_checkable
class Priced(Protocol):
    """An engine whose responses cost money."""

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """The cost of these tokens in the currency of its settings; None without prices."""
        ...
