"""A build -> its source once more, and what that records of the frames: how far along they truly are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stcr_plugin.config import from_mapping
from stcr_plugin.errors import DataError
from stcr_plugin.types import Episode, EpisodeSource, Pair, State, under

if TYPE_CHECKING:
    from stcr_plugin.registry.data_config import DataConfig, FrameRules
    from stcr_plugin.registry.manifest import Manifest


def config_of(manifest: Manifest) -> DataConfig:
    """The data config that a manifest was built by. Raises ConfigError for one of another version."""
    from stcr_plugin.registry.data_config import DataConfig

    return from_mapping(DataConfig, manifest.config, f"the manifest of {manifest.name}")


def source_of(config: DataConfig, wanted: Collection[str]) -> tuple[EpisodeSource, dict[str, Episode]]:
    """The source of a build, and its episodes `wanted` by their ids.

    Raises ConfigError or DataError where the source is not there any more, DataError where an episode is not.
    """
    from stcr_plugin.episodes import open_source

    source, episodes = open_source(config.source, config.seed), dict[str, Episode]()
    for one in source.episodes():
        if isinstance(one, Episode) and one.episode_id in wanted:
            episodes[one.episode_id] = one
            if len(episodes) == len(wanted):
                break
    if lost := sorted(set(wanted) - episodes.keys()):
        raise DataError(f"the source of {config.name}", f"has no episode {lost[0]} any more", "build it again")
    return source, episodes


def check_pictures(source: EpisodeSource, episode: Episode, pair: Pair, rules: FrameRules, registry: Path) -> None:
    """Raises DataError where the source shows something else now, so that its states are not those of the build."""
    from stcr_plugin.registry.picture_store import encode, fingerprint, read

    frames = [pair.earlier, pair.later] if pair.later < episode.n_frames else []
    now = [fingerprint(encode(picture, rules)) for picture in source.frames(episode, frames)]
    if now != [fingerprint(read(registry, image)) for image in (pair.earlier_image, pair.later_image)]:
        raise DataError(
            f"pair {pair.pair_id}",
            "the source gives other pictures than those that were built, so its states are not theirs",
            "build again",
        )


def true_progress(
    registry: Path, dataset: str, wanted: Collection[tuple[str, str]]
) -> dict[tuple[str, str], list[float | None] | None]:
    """(episode_id, task) -> the true progress of each frame, as the build's source records it; None where it does not.

    An episode that serves several tasks has that of each, and none of a task that is not one of them.

    Raises what `source_of` raises, and DataError where other code may make other episodes of the same name now.
    """
    from stcr_plugin.registry.data_config import frames_folder
    from stcr_plugin.registry.manifest import read_manifest

    manifest = read_manifest(registry, dataset)
    config = config_of(manifest)
    if frames_folder(config) != manifest.frames.folder:
        raise DataError(
            Path(registry) / manifest.name,
            "the code that makes its pictures has changed since it was built",
            "build it again",
        )
    source, episodes = source_of(config, {episode_id for episode_id, _ in wanted})
    states = {episode_id: source.states(episode) or () for episode_id, episode in episodes.items()}
    return {(episode_id, task): _progress(states[episode_id], task) for episode_id, task in wanted}


def _progress(states: Sequence[State], task: str) -> list[float | None] | None:
    if not states or not all("progress" in state for state in states):
        return None
    if "tasks" in states[0] and task not in states[0]["tasks"]:
        return None
    return [under(state, task)["progress"] for state in states]
