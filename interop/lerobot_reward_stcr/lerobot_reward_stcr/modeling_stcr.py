"""Frames of a batch -> their progress on the scale of the reference pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lerobot.configs.rewards import RewardModelConfig
from lerobot.rewards.pretrained import PreTrainedRewardModel
from PIL import Image
from torch import Tensor

from lerobot_reward_stcr.configuration_stcr import StcrConfig
from lerobot_reward_stcr.judge import FolderJudge, ServerJudge


class StcrRewardModel(PreTrainedRewardModel):
    """The share of reference pictures that a frame has passed, 0..1; not trainable here."""

    name = "stcr"
    config_class = StcrConfig

    def __init__(self, config: StcrConfig, **_: Any) -> None:
        super().__init__(config)
        self.config = config
        config.validate_features()
        folder = Path(config.folder)
        self.judge = (
            ServerJudge(folder, config.url, config.server_model)
            if config.url
            else FolderJudge(folder, config.device or "cpu")
        )
        self.references = [_opened(path) for path in config.references]

    def compute_reward(self, batch: dict[str, Any]) -> Tensor:
        """The progress of each frame.

        Args:
            batch: `image_key`: floats 0..1 or bytes [batch, channels, height, width], with a dimension of time after
                the first one the last frame counts; `task_key`: a text, or one of each frame.

        Returns:
            [batch], the mean over the references of the probability that the frame is further, the log-odds of both
            orders averaged first, so that a preference for a position cancels.
        """
        frames = batch[self.config.image_key]
        frames = frames[:, -1] if frames.ndim == 5 else frames
        tasks = batch.get(self.config.task_key) or self.config.default_task
        if not tasks:
            raise KeyError(f"the batch has no {self.config.task_key!r}; set default_task")
        tasks = [tasks] * len(frames) if isinstance(tasks, str) else list(tasks)
        pictures = [_picture(frame) for frame in frames]
        asked = [
            (*order, task)
            for picture, task in zip(pictures, tasks, strict=True)
            for reference in self.references
            for order in ((reference, picture), (picture, reference))
        ]
        size = max(2, self.config.batch_size)
        odds = [one for start in range(0, len(asked), size) for one in self.judge.log_odds(asked[start : start + size])]
        further = [(forward - backward) / 2 for forward, backward in zip(odds[::2], odds[1::2], strict=True)]
        passed = torch.tensor([1 / (1 + math.exp(-max(min(one, 50), -50))) for one in further])
        return passed.view(len(pictures), len(self.references)).mean(1).to(self.config.device or "cpu")

    def _save_pretrained(self, save_directory: Path) -> None:
        """The configuration alone: the model is in the exported folder."""
        self.config._save_pretrained(save_directory)

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: RewardModelConfig | None = None, **_: Any
    ) -> StcrRewardModel:
        """From a folder with the configuration that `save_pretrained` wrote."""
        found = config or RewardModelConfig.from_pretrained(pretrained_name_or_path)
        if not isinstance(found, StcrConfig):
            raise TypeError(f"{pretrained_name_or_path}: is a configuration of {type(found).__name__}, not StcrConfig")
        return cls(found).eval()


def _opened(path: str) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _picture(frame: Tensor) -> Image.Image:
    """A frame [channels, height, width] as a picture."""
    values = frame.detach().cpu()
    values = (values * 255).round().clamp(0, 255) if values.is_floating_point() else values
    return Image.fromarray(values.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
