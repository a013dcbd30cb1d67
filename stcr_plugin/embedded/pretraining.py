"""Teaches random weights to read a picture, which a stock VLM already can.

The embedded checkpoint is trained to describe one picture in the simulator's claims. A regression head on the image
tokens (positions of hand, object and goal) makes the vision tower learn in one minute instead of ten. There are no
pairs of pictures, orders or judgments here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stcr_plugin import artefacts
from stcr_plugin.config import settings
from stcr_plugin.episodes.tabletop import SEEN_COLOURS, TabletopConfig, TabletopSource
from stcr_plugin.logits import IGNORE, cut_to_tail
from stcr_plugin.progress_bar import progress
from stcr_plugin.types import Episode, State, under

_PROMPT = (
    "<|im_start|>user\nimg1: <|vision_start|>{image}<|vision_end|>\nDescribe img1: {task}.<|im_end|>\n"
    "<|im_start|>assistant\n"
)


@settings
class Pretraining:
    """Settings of pretraining.

    Attributes:
        episodes: Simulated demonstrations.
        shared: Episodes of each of the groups `tasks` and `naming`, a picture of which is described for one of its
            tasks. With some, the head also learns where the object and the pad of each colour are.
        frames: Pictures of each.
        steps: Training steps, of `batch_size` pictures each.
    """

    episodes: int = 600
    shared: int = 0
    frames: int = 16
    steps: int = 1400
    batch_size: int = 32
    learning_rate: float = 2.0e-3
    regression_weight: float = 1.0


def teach_to_describe(checkpoint: Path, rules: Pretraining, seed: int) -> float:
    """Train the checkpoint folder in place.

    Returns:
        The mean loss of the last 50 steps.

    Raises:
        DataError: where the folder's disk is full.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, trust_remote_code=False)
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=False)
    pictures, tasks, captions, positions = _described_pictures(rules, seed)
    grid = processor.image_processor(images=pictures[:1], return_tensors="pt")["image_grid_thw"]
    tokens = int(grid[0].prod()) // processor.image_processor.merge_size**2
    encoded = [
        _encoded(processor.tokenizer, task, caption, image_tokens=tokens)
        for task, caption in zip(tasks, captions, strict=True)
    ]
    seen: list[Any] = []
    hook = model.model.visual.register_forward_hook(lambda _module, _inputs, output: seen.append(output.pooler_output))
    torch.manual_seed(seed)
    head = torch.nn.Linear(tokens * model.config.text_config.hidden_size, positions.shape[1])
    weights = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=rules.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    targets = torch.from_numpy(positions)
    image_token = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    losses: list[float] = []
    model.train()
    with progress(rules.steps, "base: reading pictures", "steps") as bar:
        for step in range(rules.steps):
            for group in optimizer.param_groups:
                group["lr"] = rules.learning_rate * _schedule(step, rules.steps)
            chosen = torch.randint(len(pictures), (rules.batch_size,), generator=generator)
            ids, labels, mask = _padded([encoded[i] for i in chosen.tolist()], processor.tokenizer.pad_token_id)
            seen.clear()
            # Not all at once before: the patches of 9,600 pictures take 1.6 GB, and as much again while they are made.
            read = processor.image_processor(images=[pictures[i] for i in chosen.tolist()], return_tensors="pt")
            batch = {
                "input_ids": ids,
                "attention_mask": mask,
                "mm_token_type_ids": (ids == image_token).int(),
                **read,
                "labels": labels,
            }
            output = model(**cut_to_tail(batch))
            placed = _distance(head(seen[0].reshape(rules.batch_size, -1)), targets[chosen])
            (output.loss + rules.regression_weight * placed).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses = [*losses[-49:], float(output.loss.detach())]
            bar.update(note=f"loss {np.mean(losses):.3f}, placed {float(placed.detach()):.3f}")
    hook.remove()
    with artefacts.room_for(checkpoint, lambda: sum(weight.nbytes for weight in model.parameters())):
        model.save_pretrained(checkpoint)
    return float(np.mean(losses))


def _described_pictures(
    rules: Pretraining, seed: int
) -> tuple[list[npt.NDArray[np.uint8]], list[str], list[str], npt.NDArray[np.float32]]:
    """Pictures, task texts, captions, and targets [n, 8]: positions in the picture (-2..2), grip, holding (-1, 1).

    With `rules.shared`, [n, 8 + 4 per colour], NaN where a picture or its vision alone says nothing: which of two
    objects is meant, and where things of other colours are.
    """
    from stcr_plugin.samples.cot import load_phrases

    # Another seed than that of the demonstrations that stages train on.
    counts = TabletopConfig(seen=rules.episodes, heldout=0, tasks=rules.shared, naming=rules.shared)
    source = TabletopSource(counts, seed=seed + 1_000_003)
    rng = np.random.default_rng(seed)  # not artefacts.rng: the same seed keeps giving the same base
    phrases = load_phrases(source.kind)["en"]
    pictures, tasks, captions, positions = [], [], [], []
    for episode in source.episodes():
        assert isinstance(episode, Episode)
        states = source.states(episode)
        chosen = sorted(rng.choice(episode.n_frames, min(rules.frames, episode.n_frames), replace=False).tolist())
        for index, picture in zip(chosen, source.frames(episode, chosen), strict=True):
            task = episode.task
            if len(episode.segments) > 1:
                task = episode.segments[int(rng.integers(len(episode.segments)))].task
            state = under(states[index], task)
            pictures.append(picture.copy())
            tasks.append(task)
            captions.append(phrases.say(source.claims(state)) + ".")
            spots = [4 * share - 2 for name in ("hand", "object", "goal") for share in state[f"{name}_at"]]
            if episode.group == "naming":
                spots[2:] = [math.nan] * 4
            holding = state["phase"] in ("lift", "move")
            more = _by_colour({task: state} | dict(state.get("tasks", {}))) if rules.shared else []
            positions.append([*spots, 2 * state["gripper"] - 1, 2.0 * holding - 1, *more])
    return pictures, tasks, captions, np.array(positions, dtype=np.float32)


def _by_colour(states: Mapping[str, State]) -> list[float]:
    """Where object and pad of each colour are, of those that the tasks in `states` (text -> state) name; else NaN."""
    found = {(colour, role): (math.nan, math.nan) for colour in SEEN_COLOURS for role in ("object", "goal")}
    for task, state in states.items():
        words = task.split()  # put the red can on the blue pad
        for role, colour in (("object", words[2]), ("goal", words[-2])):
            right, down = state[f"{role}_at"]
            found[colour, role] = (4 * right - 2, 4 * down - 2)
    return [value for spot in found.values() for value in spot]


def _distance(placed: Any, targets: Any) -> Any:
    """The mean squared error over what is known: `targets` are NaN elsewhere."""
    import torch

    known = ~targets.isnan()
    if not known.all():
        placed, targets = placed[known], targets[known]
    return torch.nn.functional.mse_loss(placed, targets)


def _encoded(tokenizer: Any, task: str, caption: str, *, image_tokens: int) -> tuple[list[int], list[int]]:
    prompt = tokenizer.encode(_PROMPT.format(image="<|image_pad|>" * image_tokens, task=task), add_special_tokens=False)
    answer = tokenizer.encode(f"{caption}<|im_end|>", add_special_tokens=False)
    return prompt + answer, [IGNORE] * len(prompt) + answer


def _padded(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[Any, Any, Any]:
    import torch

    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [pad] * (length - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [IGNORE] * (length - len(row)) for _, row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row, _ in rows])
    return ids, labels, mask


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: 5 % linear warm-up, then cosine to zero."""
    warm = (step + 1) / (0.05 * steps)
    return min(1.0, warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
