"""Which judge is asked, about which camera, against which reference pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.configs.rewards import RewardModelConfig
from lerobot.utils.constants import OBS_IMAGES


@RewardModelConfig.register_subclass("stcr")
@dataclass
class StcrConfig(RewardModelConfig):
    """A frame is compared with each reference picture in both orders.

    Args:
        folder: What `stcr export` wrote: the model, or with `url` only how it is asked.
        url: Address of a server of the folder with log-probabilities, up to its /v1; empty to load the folder here.
        server_model: The model's name at the server.
        references: Pictures of one demonstration, evenly spaced from its start to its end. One, the goal, gives the
            probability that the frame is at least as far.
        image_key: The camera, as in the demonstration.
        task_key: Where a batch has the task's text.
        default_task: The task of a batch without one.
        batch_size: Comparisons at a time.
    """

    folder: str = ""
    url: str = ""
    server_model: str = ""
    references: list[str] = field(default_factory=list)
    image_key: str = OBS_IMAGES + ".top"
    task_key: str = "task"
    default_task: str | None = None
    batch_size: int = 16
    input_features: dict[str, PolicyFeature] = field(default_factory=dict)
    output_features: dict[str, PolicyFeature] = field(default_factory=dict)
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "REWARD": NormalizationMode.IDENTITY,
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.output_features.setdefault("reward", PolicyFeature(shape=(1,), type=FeatureType.REWARD))

    def validate_features(self) -> None:
        """Raises ValueError for what is missing, and names it."""
        if not (Path(self.folder) / "stcr_chain.json").is_file():
            raise ValueError(f"folder {self.folder!r}: give a folder that `stcr export` wrote")
        if not self.references:
            raise ValueError("references: name the pictures of a demonstration, or one of the finished task")
        if missing := [path for path in self.references if not Path(path).is_file()]:
            raise ValueError(f"references: no such file {missing[0]!r}")
        if bool(self.url) != bool(self.server_model):
            raise ValueError("url and server_model: give both, or neither")
