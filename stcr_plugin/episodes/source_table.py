"""The kinds of source a data configuration may name: the built-in ones, and those of installed packages.

A package adds a kind through the entry-point group `stcr_plugin.sources`: the entry's name is the kind, its value a
`SourceKind`. See examples/custom_source.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import PlainValidator

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping, nearest
from stcr_plugin.episodes.agibot import AgibotConfig, AgibotSource
from stcr_plugin.episodes.before_after import BeforeAfterConfig, BeforeAfterSource
from stcr_plugin.episodes.frames import FramesConfig, FramesSource
from stcr_plugin.episodes.inverse_tasks import InverseTasks
from stcr_plugin.episodes.lerobot import LeRobotConfig, LeRobotSource
from stcr_plugin.episodes.metaworld import METAWORLD_INVERSES, RANK, MetaworldConfig, MetaworldSource
from stcr_plugin.episodes.prm_manifest import PrmManifestConfig, PrmManifestSource
from stcr_plugin.episodes.progress_bench import ProgressBenchConfig, ProgressBenchSource
from stcr_plugin.episodes.rated_clips import RatedClipsConfig, RatedClipsSource
from stcr_plugin.episodes.robo_dopamine import RoboDopamineConfig, RoboDopamineSource
from stcr_plugin.episodes.spatiallogic import SpatialLogicConfig, SpatialLogicSource
from stcr_plugin.episodes.tabletop import PHASES, TABLETOP_INVERSES, TabletopConfig, TabletopSource
from stcr_plugin.errors import ConfigError
from stcr_plugin.types import EpisodeSource

GROUP = "stcr_plugin.sources"
_OF_FRAMES = Path(__file__).parents[1] / "samples" / "prompts" / "claims_frames.yaml"  # stages, as of `frames`
Trend = Literal["rises", "falls", "changes"] | tuple[str, ...]
"""How a claim changes as a task comes closer to completion: its number rises or falls, its words come in this order, or
it changes in a way that depends on the task."""


@dataclasses.dataclass(frozen=True)
class SourceKind:
    """A kind of source.

    Attributes:
        config: Its settings class (`stcr_plugin.config.settings`), with a field `kind` whose default is its name.
        source: The EpisodeSource class, called with the settings.
        seeded: Whether `source` takes the build's seed as a second argument; simulators do.
        keeps: Whether it takes, as `keep`, a folder for what it has simulated, to read it from there the next time.
        claims: How the claims of its frames are written, for Chain-of-Thought text: language -> fields of
            `samples.cot.Phrases`, or a YAML file of that form. None: its pairs can only become weak samples.
        inverse: Which of its tasks undo each other, for the control `inverse_task`.
        progress: Family of claims -> how it changes with progress. Of these the reasons of kind: reflect are made; a
            family that is not here carries none.
    """

    config: type[Any]
    source: Callable[..., EpisodeSource]
    seeded: bool = False
    keeps: bool = False
    claims: Path | Mapping[str, Any] | None = None
    inverse: InverseTasks = dataclasses.field(default_factory=InverseTasks)
    progress: Mapping[str, Trend] = dataclasses.field(default_factory=dict)

    @property
    def gives_pairs(self) -> bool:
        """Whether the source brings its own pairs (`PairSource`)."""
        return hasattr(self.source, "given_pairs")


_TABLETOP: Mapping[str, Trend] = {
    "phase": PHASES,
    "reach": "falls",
    "goal": "falls",
}
_METAWORLD: Mapping[str, Trend] = {
    "phase": tuple(sorted(RANK, key=RANK.__getitem__)),
    "reach": "falls",
    "tool": "falls",
    "goal": "falls",
}
_STAGES: Mapping[str, Trend] = {"stage": "changes", "stage_of": "rises"}
BUILT_IN: Mapping[str, SourceKind] = {
    "tabletop": SourceKind(TabletopConfig, TabletopSource, seeded=True, inverse=TABLETOP_INVERSES, progress=_TABLETOP),
    "metaworld": SourceKind(
        MetaworldConfig,
        MetaworldSource,
        seeded=True,
        keeps=True,
        inverse=METAWORLD_INVERSES,
        progress=_METAWORLD,
    ),
    "lerobot": SourceKind(LeRobotConfig, LeRobotSource, progress={**_STAGES, "motion_done": "rises"}),
    "frames": SourceKind(FramesConfig, FramesSource, progress=_STAGES),
    "agibot": SourceKind(AgibotConfig, AgibotSource, progress=_STAGES),
    "spatiallogic": SourceKind(SpatialLogicConfig, SpatialLogicSource),
    "progress_bench": SourceKind(ProgressBenchConfig, ProgressBenchSource),
    "before_after": SourceKind(BeforeAfterConfig, BeforeAfterSource),
    "rated_clips": SourceKind(RatedClipsConfig, RatedClipsSource),
    "robo_dopamine": SourceKind(RoboDopamineConfig, RoboDopamineSource, claims=_OF_FRAMES, progress=_STAGES),
    "prm_manifest": SourceKind(PrmManifestConfig, PrmManifestSource),
}


class SourceSettings(Protocol):
    """What all settings of sources have in common."""

    @property
    def kind(self) -> str: ...


def find_kind(kind: str) -> SourceKind:
    """The built-in or installed kind of that name.

    Raises:
        ConfigError: For an unknown kind (with the nearest match), a name that two packages use or that shadows a
            built-in one, and an entry point that cannot be used; it names the distribution.
    """
    installed = _installed()
    entries = installed.get(kind, ())
    if kind in BUILT_IN and not entries:
        return BUILT_IN[kind]
    if not entries:
        known = nearest(kind, [*BUILT_IN, *installed])
        raise ConfigError("source.kind", f"{kind!r} is not a built-in or installed source, {known}")
    if kind in BUILT_IN or len(entries) > 1:
        owners = [*(["stcr-plugin"] if kind in BUILT_IN else []), *map(_owner, entries)]
        problem = f"the source {kind!r} is defined by {' and by '.join(owners)}"
        raise ConfigError("source.kind", problem, f"rename the entry point of {owners[-1]}, or uninstall it")
    return _loaded(entries[0])


def source_settings(values: Any) -> SourceSettings:
    """The typed settings of a `source:` mapping, by its `kind`; settings that are typed already pass.

    Raises:
        ConfigError: For an unknown kind, and for values that the kind's settings class refuses.
    """
    if dataclasses.is_dataclass(values) and not isinstance(values, type):
        return values  # type: ignore[return-value]
    if not isinstance(values, Mapping) or not isinstance(values.get("kind"), str):
        known = ", ".join([*BUILT_IN, *_installed()])
        raise ConfigError("source", "`kind` is missing", f"write `source: {{kind: ...}}` with one of {known}")
    settings: SourceSettings = from_mapping(find_kind(values["kind"]).config, values, "source")
    return settings


SourceConfig = Annotated[SourceSettings, PlainValidator(source_settings)]


def open_source(config: SourceSettings, seed: int = 0, keep: Path | None = None) -> EpisodeSource:
    """The source that `config` describes; only simulated sources use `seed` and `keep` (see SourceKind)."""
    found = find_kind(config.kind)
    return found.source(config, *([seed] if found.seeded else ()), **({"keep": keep} if found.keeps else {}))


@cache
def installed_code(kind: str) -> str:
    """SHA-256 over the Python files of the package that adds `kind`, "" for a built-in kind.

    A build is made again when it changes, as it is when our own code changes.
    """
    if kind in BUILT_IN:
        return ""
    module = sys.modules[find_kind(kind).source.__module__]
    top = sys.modules[module.__name__.partition(".")[0]]
    file = Path(str(top.__file__ or module.__file__))
    root = file.parent
    files = sorted(root.rglob("*.py")) if hasattr(top, "__path__") and top.__file__ else [file]
    return artefacts.digest([[str(path.relative_to(root)), artefacts.sha256(path)] for path in files])


@cache
def _installed() -> dict[str, tuple[metadata.EntryPoint, ...]]:
    found: dict[str, tuple[metadata.EntryPoint, ...]] = {}
    for entry in metadata.entry_points(group=GROUP):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def _loaded(entry: metadata.EntryPoint) -> SourceKind:
    where, fix = f"source.kind {entry.name!r}", f"update or uninstall {_owner(entry)}"
    try:
        kind = entry.load()
    except Exception as error:  # any error of code that is not ours
        problem = f"{_owner(entry)} cannot be loaded from {entry.value} ({type(error).__name__}: {error})"
        raise ConfigError(where, problem, fix) from error
    if not isinstance(kind, SourceKind):
        raise ConfigError(where, f"{entry.value} of {_owner(entry)} is not a SourceKind", fix)
    fields = {field.name: field for field in dataclasses.fields(kind.config)} if _is_settings(kind.config) else {}
    if "kind" not in fields or fields["kind"].default != entry.name:
        problem = f"the settings class of {_owner(entry)} has no field `kind` with the default {entry.name!r}"
        raise ConfigError(where, problem, fix)
    return kind


def _is_settings(config: Any) -> bool:
    return isinstance(config, type) and dataclasses.is_dataclass(config)


def _owner(entry: metadata.EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
