"""Any source of demonstrations -> Episode. A new source adds its config to `SourceConfig` and a row below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stcr_plugin.episodes.agibot import AgibotConfig, AgibotSource
from stcr_plugin.episodes.frames import FramesConfig, FramesSource
from stcr_plugin.episodes.lerobot import LeRobotConfig, LeRobotSource
from stcr_plugin.episodes.metaworld import MetaworldConfig, MetaworldSource
from stcr_plugin.episodes.spatiallogic import SpatialLogicConfig, SpatialLogicSource
from stcr_plugin.episodes.tabletop import TabletopConfig, TabletopSource

if TYPE_CHECKING:
    from stcr_plugin.types import EpisodeSource

SourceConfig = Annotated[
    TabletopConfig | LeRobotConfig | FramesConfig | AgibotConfig | SpatialLogicConfig | MetaworldConfig,
    Field(discriminator="kind"),
]


def open_source(config: SourceConfig, seed: int = 0) -> EpisodeSource:
    """The source that `config` describes; `seed` matters to simulated sources only."""
    if isinstance(config, TabletopConfig):
        return TabletopSource(config, seed)
    if isinstance(config, FramesConfig):
        return FramesSource(config)
    if isinstance(config, AgibotConfig):
        return AgibotSource(config)
    if isinstance(config, SpatialLogicConfig):
        return SpatialLogicSource(config)
    if isinstance(config, MetaworldConfig):
        return MetaworldSource(config, seed)
    return LeRobotSource(config)
