"""The pipelines around the reward model: a batch dimension, and the device. The judge sizes pictures itself."""

from __future__ import annotations

from typing import Any

from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    policy_action_to_transition,
)
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME, POLICY_PREPROCESSOR_DEFAULT_NAME

from lerobot_reward_stcr.configuration_stcr import StcrConfig


def make_stcr_pre_post_processors(
    config: StcrConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """As LeRobot calls it by its name; pictures are not normalised, so `dataset_stats` is not used."""
    before = PolicyProcessorPipeline[dict[str, Any], dict[str, Any]](
        steps=[AddBatchDimensionProcessorStep(), DeviceProcessorStep(device=config.device or "cpu")],
        name=POLICY_PREPROCESSOR_DEFAULT_NAME,
    )
    after = PolicyProcessorPipeline(name=POLICY_POSTPROCESSOR_DEFAULT_NAME, to_transition=policy_action_to_transition)
    return before, after
