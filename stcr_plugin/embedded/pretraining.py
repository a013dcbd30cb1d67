"""Teaches random weights to read a picture, which a stock VLM already can.

The embedded checkpoint is trained to describe one picture in the simulator's claims, and with `Pretraining.paired` two
pictures by their names. A regression head on the image tokens (positions of hand, object and goal, or what each cell
shows) makes the vision tower learn in one minute instead of ten. There are no orders or judgments here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stcr_plugin import artefacts
from stcr_plugin.config import settings
from stcr_plugin.embedded import picture_cells
from stcr_plugin.episodes.tabletop import TabletopConfig, TabletopSource
from stcr_plugin.logits import IGNORE, cut_to_tail
from stcr_plugin.progress_bar import progress
from stcr_plugin.types import Episode, State, under

_SHOWN = "img{number}: <|vision_start|>{image}<|vision_end|>\n"
_PROMPT = "<|im_start|>user\n{shown}Describe {names}: {task}.<|im_end|>\n<|im_start|>assistant\n"
_BRIEF = 2  # claims in a description of two pictures
_TRIES = 6  # pictures of an episode that are drawn until one differs


@settings
class Pretraining:
    """Settings of pretraining.

    Attributes:
        episodes: Simulated demonstrations.
        shared: Episodes of each of the groups `tasks` and `naming`, a picture of which is described for one of its
            tasks. With some, the head learns what each cell of a picture shows (picture_cells.py).
        paired: Share of the steps that show two pictures of an episode, and describe both by their first two claims.
            They differ in these, so that the model learns which picture is img1 and which is img2.
        frames: Pictures of each.
        seeing: Steps of the vision tower alone before, with twice `batch_size` pictures each; needs `shared`.
        steps: Training steps, of `batch_size` pictures each.
    """

    episodes: int = 600
    shared: int = 0
    paired: float = 0.0
    frames: int = 16
    seeing: int = 0
    steps: int = 1400
    batch_size: int = 32
    learning_rate: float = 2.0e-3
    regression_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.paired <= 1:
            raise ValueError(f"paired is a share from 0 to 1, got {self.paired}")
        if self.paired and self.frames < 2:
            raise ValueError(f"paired shows two pictures of an episode: set frames to at least 2, got {self.frames}")
        if self.seeing and not self.shared:
            raise ValueError("seeing needs pictures of several tasks: set shared")


@dataclass(frozen=True)
class Pictured:
    """A picture of an episode, by its number, and what is true of it.

    Attributes:
        texts: Task -> its claims.
        places: What the regression head learns: [8] positions in the picture (-2..2), grip, holding (-1, 1); with
            `Pretraining.shared` [cells, picture_cells.COUNT].
    """

    picture: npt.NDArray[np.uint8]
    episode: int
    texts: Mapping[str, tuple[str, ...]]
    places: npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Row:
    """The numbers of the pictures that a row shows, its tokens, and which of them are supervised."""

    shown: tuple[int, ...]
    ids: list[int]
    labels: list[int]


def teach_to_describe(checkpoint: Path, rules: Pretraining, seed: int) -> float:
    """Train the checkpoint folder in place.

    Returns:
        The mean loss of the last 50 steps.

    Raises:
        DataError: where the folder's disk is full.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(checkpoint, trust_remote_code=False)
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=False)
    side = _cells_of_side(processor)
    pictured = described_pictures(rules, seed, side)
    generator = torch.Generator().manual_seed(seed)
    lessons = _Lessons(pictured, processor.tokenizer, side**2, generator=generator)
    targets = torch.from_numpy(np.stack([one.places for one in pictured]))
    torch.manual_seed(seed)
    head = _regression_head(targets, model.config.text_config.hidden_size, side**2)
    seen: list[Any] = []
    hook = model.model.visual.register_forward_hook(lambda _module, _inputs, output: seen.append(output.pooler_output))
    image_token = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")

    def read(shown: Sequence[int]) -> Any:
        # Not all at once before: the patches of 9,600 pictures take 1.6 GB, and as much again while they are made.
        return processor.image_processor(images=[pictured[i].picture for i in shown], return_tensors="pt")

    def seeing() -> tuple[Any, Any]:
        shown = torch.randint(len(pictured), (2 * rules.batch_size,), generator=generator).tolist()
        patches = read(shown)
        seen.clear()
        model.model.visual(patches["pixel_values"], grid_thw=patches["image_grid_thw"])
        return torch.zeros(()), _distance(head, seen[0], targets[shown])

    def describing() -> tuple[Any, Any]:
        rows = lessons.draw(rules)
        shown = [number for row in rows for number in row.shown]
        ids, labels, mask = _padded(rows, processor.tokenizer.pad_token_id)
        seen.clear()
        batch = {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == image_token).int(),
            **read(shown),
            "labels": labels,
        }
        return model(**cut_to_tail(batch)).loss, _distance(head, seen[0], targets[shown])

    model.train()
    if rules.seeing:
        tower = [*model.model.visual.parameters(), *head.parameters()]
        _trained(rules, rules.seeing, tower, step=seeing, label="base: seeing things")
    weights = [*model.parameters(), *head.parameters()]
    loss = _trained(rules, rules.steps, weights, step=describing, label="base: reading pictures")
    hook.remove()
    with artefacts.room_for(checkpoint, lambda: sum(weight.nbytes for weight in model.parameters())):
        model.save_pretrained(checkpoint)
    return loss


def _cells_of_side(processor: Any) -> int:
    """How many image tokens cover a side of the simulator's square pictures."""
    size = TabletopConfig().size
    blank = np.zeros((size, size, 3), dtype=np.uint8)
    grid = processor.image_processor(images=[blank], return_tensors="pt")["image_grid_thw"][0]
    return int(grid[1]) // int(processor.image_processor.merge_size)


def _regression_head(targets: Any, hidden: int, tokens: int) -> Any:
    """On each of a picture's image tokens where `targets` are of cells [pictures, cells, n], else on all together."""
    import torch

    return torch.nn.Linear(hidden if targets.dim() == 3 else tokens * hidden, targets.shape[-1])


def _distance(head: Any, seen: Any, targets: Any) -> Any:
    """The regression loss on `seen` [image tokens of all pictures, hidden]."""
    import torch

    if targets.dim() == 3:
        return picture_cells.loss(head(seen.reshape(*targets.shape[:2], -1)), targets)
    return torch.nn.functional.mse_loss(head(seen.reshape(len(targets), -1)), targets)


def _trained(
    rules: Pretraining, steps: int, weights: list[Any], *, step: Callable[[], tuple[Any, Any]], label: str
) -> float:
    """Train `weights` by the two losses of `step`; the mean of the first one over the last 50 steps."""
    import torch

    optimizer = torch.optim.AdamW(weights, lr=rules.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    losses: list[float] = []
    with progress(steps, label, "steps") as bar:
        for number in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rules.learning_rate * _schedule(number, steps)
            said, placed = step()
            (said + rules.regression_weight * placed).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses = [*losses[-49:], said.item()]
            bar.update(note=f"loss {np.mean(losses):.3f}, placed {placed.item():.3f}")
    return float(np.mean(losses))


def described_pictures(rules: Pretraining, seed: int, side: int) -> list[Pictured]:
    """`rules.frames` pictures of each episode, in order; `side` cells cover a side of each."""
    from stcr_plugin.samples.cot import load_phrases

    # Another seed than that of the demonstrations that stages train on.
    counts = TabletopConfig(seen=rules.episodes, heldout=0, tasks=rules.shared, naming=rules.shared)
    source = TabletopSource(counts, seed=seed + 1_000_003)
    rng = np.random.default_rng(seed)  # not artefacts.rng: the same seed keeps giving the same base
    phrases = load_phrases(source.kind)["en"]
    pictured = []
    for number, episode in enumerate(source.episodes()):
        assert isinstance(episode, Episode)
        states = source.states(episode)
        chosen = sorted(rng.choice(episode.n_frames, min(rules.frames, episode.n_frames), replace=False).tolist())
        places = (
            [picture_cells.targets(shown, side) for shown in source.spots(episode, chosen)]
            if rules.shared
            else [_positions(states[index]) for index in chosen]
        )
        for index, picture, placed in zip(chosen, source.frames(episode, chosen), places, strict=True):
            own = {segment.task: under(states[index], segment.task) for segment in episode.segments}
            texts = {task: tuple(phrases.say([claim]) for claim in source.claims(one)) for task, one in own.items()}
            pictured.append(Pictured(picture.copy(), number, texts, placed))
    return pictured


def _positions(state: State) -> npt.NDArray[np.float32]:
    spots = [4 * share - 2 for name in ("hand", "object", "goal") for share in state[f"{name}_at"]]
    holding = state["phase"] in ("lift", "move")
    return np.array([*spots, 2 * state["gripper"] - 1, 2.0 * holding - 1], dtype=np.float32)


class _Lessons:
    """Draws rows: one picture with its whole description, or two of an episode with brief ones."""

    def __init__(self, pictured: Sequence[Pictured], tokenizer: Any, tokens: int, *, generator: Any) -> None:
        self.pictured, self.tokenizer, self.generator = pictured, tokenizer, generator
        self.image = "<|image_pad|>" * tokens
        self._row = cache(self._tokenized)  # each row is drawn several times
        self.of_episode: dict[int, list[int]] = {}
        for number, one in enumerate(pictured):
            self.of_episode.setdefault(one.episode, []).append(number)

    def draw(self, rules: Pretraining) -> list[_Row]:
        """The rows of a step, with `rules.batch_size` pictures."""
        import torch

        if rules.paired and float(torch.rand(1, generator=self.generator)) < rules.paired:
            return [self._two() for _ in range(rules.batch_size // 2)]
        chosen = torch.randint(len(self.pictured), (rules.batch_size,), generator=self.generator)
        return [self._one(number) for number in chosen.tolist()]

    def _one(self, number: int) -> _Row:
        task = self._task(number)
        return self._row((number,), task, f"{', '.join(self.pictured[number].texts[task])}.")

    def _two(self) -> _Row:
        while True:
            first = self._below(len(self.pictured))
            task, others = self._task(first), self.of_episode[self.pictured[first].episode]
            for _ in range(_TRIES):
                second = others[self._below(len(others))]
                one, two = (self.pictured[number].texts[task][:_BRIEF] for number in (first, second))
                if one != two:
                    return self._row((first, second), task, f"img1: {', '.join(one)}. img2: {', '.join(two)}.")

    def _task(self, number: int) -> str:
        texts = list(self.pictured[number].texts)
        return texts[self._below(len(texts))] if len(texts) > 1 else texts[0]

    def _below(self, end: int) -> int:
        import torch

        return int(torch.randint(end, (1,), generator=self.generator))

    def _tokenized(self, shown: tuple[int, ...], task: str, answer: str) -> _Row:
        numbers = range(1, len(shown) + 1)
        prompt = self.tokenizer.encode(
            _PROMPT.format(
                shown="".join(_SHOWN.format(number=number, image=self.image) for number in numbers),
                names=" and ".join(f"img{number}" for number in numbers),
                task=task,
            ),
            add_special_tokens=False,
        )
        target = self.tokenizer.encode(f"{answer}<|im_end|>", add_special_tokens=False)
        return _Row(shown, prompt + target, [IGNORE] * len(prompt) + target)


def _padded(rows: Sequence[_Row], pad: int) -> tuple[Any, Any, Any]:
    import torch

    length = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [pad] * (length - len(row.ids)) for row in rows])
    labels = torch.tensor([row.labels + [IGNORE] * (length - len(row.labels)) for row in rows])
    mask = torch.tensor([[1] * len(row.ids) + [0] * (length - len(row.ids)) for row in rows])
    return ids, labels, mask


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: 5 % linear warm-up, then cosine to zero."""
    warm = (step + 1) / (0.05 * steps)
    return min(1.0, warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
