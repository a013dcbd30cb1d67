"""A staged build and its place in the registry: is it finished, move it into place, delete what former builds left."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry import parquet, picture_store
from stcr_plugin.registry.data_config import DataConfig, config_digest
from stcr_plugin.registry.manifest import (
    DATASET_INFO,
    MANIFEST,
    Manifest,
    dataset_name,
    file_name,
    listed,
    read_manifest,
)
from stcr_plugin.registry.receipts import Place

# The folders of pictures and of staged work, in which every file is a build's.
_WHOLE = re.compile(r"frames-[0-9a-f]{8}|\.build-[0-9a-f]{8}")
_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


# ---- into place ----


def dataset_info(config: DataConfig, registry: Path, datasets: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The contents of dataset_info.json with this build's `datasets`; entries of others stay as they are.

    Raises:
        ConfigError: where another dataset has one of our names.
    """
    path = registry / DATASET_INFO
    others = {name: entry for name, entry in listed(registry).items() if not _ours(entry, config)}
    for name in {dataset_name(config.name, key) for key in config.datasets} & others.keys():
        raise ConfigError(path, f"already has another dataset {name!r}", "choose another `name`")
    columns = {"messages": "messages", "images": "images"}
    shape = {"formatting": "sharegpt", "columns": columns, "tags": _TAGS}
    ranking = {"ranking": True, **shape, "columns": {**columns, "chosen": "chosen", "rejected": "rejected"}}
    ranked = {dataset_name(config.name, key) for key, rule in config.datasets.items() if rule.kind == "prefer"}
    return others | {
        name: {"file_name": file_name(files), **(ranking if name in ranked else shape)}
        for name, files in datasets.items()
    }


def _ours(entry: Any, config: DataConfig) -> bool:
    return isinstance(entry, dict) and str(entry.get("file_name", "")).startswith(f"{config.name}/")


def publish(config: DataConfig, place: Place, manifest: Manifest) -> None:
    """Move what was staged into place, file by file, so that a killed publication goes on."""
    (place.registry / config.name / MANIFEST).unlink(missing_ok=True)
    for file in manifest.checksums.files:
        staged, target = place.staging / file.partition("/")[2], place.registry / file
        if staged.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                shutil.rmtree(target)
            staged.replace(target)
    with artefacts.locked(place.registry / f".{DATASET_INFO}.lock"):
        info = dataset_info(config, place.registry, manifest.datasets)
        artefacts.write_json(place.registry / DATASET_INFO, info)
    manifest.write(place.registry / config.name / MANIFEST)


def current(place: Place, file: str) -> Path:
    """Where a file named as in the registry is now: staged, or in place, as tar files of pictures always are."""
    staged = place.staging / file.partition("/")[2]
    return staged if staged.is_file() else place.registry / file


# ---- is it finished ----


def refuse_other_files(config: DataConfig, registry: Path) -> None:
    """Raises ConfigError where the build's folder, in which a build deletes old files, holds files of the user's.

    Hidden files, such as a file browser's, may be there; nothing touches them.
    """
    folder = registry / config.name
    fix = "move it elsewhere, or choose another `name` or --registry"
    for key in ("root", "file"):
        path = getattr(config.source, key, None)
        if path is not None and Path(path).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"source.{key}", f"{path} is inside {folder}, the folder of the build", fix)
    for path in _files(folder):
        if not path.relative_to(folder).parts[0].startswith(".") and not _is_made(path, folder):
            raise ConfigError(f"name {config.name}", f"{path} was not made by a build", fix)


def _files(folder: Path) -> Iterator[Path]:
    """The files in a build's folder without pictures, of which the list alone could fill the memory."""
    for top in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not _WHOLE.fullmatch(top.name):
            yield from (path for path in chain((top,), top.rglob("*")) if not path.is_dir())


def _is_made(path: Path, folder: Path) -> bool:
    """Whether a build in this folder makes a file of that name."""
    made = (
        r"manifest\.json|\.manifest\.json\.\d+\.part",
        r"(pairs|frames)/\d{5,}\.parquet",
        rf"{folder.name}_[a-z0-9_]+(\.json|\.parquet|/\d{{2,}}-\d{{5,}}\.parquet)",
    )
    return any(re.fullmatch(pattern, path.relative_to(folder).as_posix()) for pattern in made)


def is_whole(place: Place, manifest: Manifest) -> bool:
    """Whether all files of a staged manifest are on disk, staged or in place, and every picture in its full length."""
    return all(current(place, file).is_file() for file in manifest.checksums.files) and (
        not manifest.stored.loose
        or all(
            (place.registry / row["image"]).is_file() and (place.registry / row["image"]).stat().st_size == row["bytes"]
            for shard in manifest.shards
            for row in parquet.read(current(place, f"{manifest.name}/{shard.frames}"), ("image", "bytes"))
        )
    )


def finished(config: DataConfig, registry: Path) -> Manifest | None:
    """The manifest, where it is of this very configuration, all its files exist, and there is no other picture."""
    path = registry / config.name / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = read_manifest(registry, config.name)
        if manifest.config_digest != config_digest(config):
            return None
        info = listed(registry)
    except DataError:
        return None
    suffix = picture_store.SUFFIX[config.frames.format]
    loose = (registry / manifest.frames.folder).glob(f"*/[!.]*{suffix}") if manifest.stored.loose else None
    count = None if loose is None else sum(1 for _ in loose)
    whole = (
        count in (None, manifest.frames.count)
        and all((registry / file).is_file() for file in manifest.checksums.files)
        and all(_ours(info.get(name), config) for name in manifest.datasets)
    )
    return manifest if whole else None


# ---- what is left over ----


def left_over(registry: Path, manifest: Manifest) -> list[Path]:
    """Folders of pictures that are not this build's, then those of staged work."""
    frames = registry / manifest.frames.folder
    tops = (registry / manifest.name).iterdir()
    return sorted((path for path in tops if path != frames and _WHOLE.fullmatch(path.name)), reverse=True)


def prune(registry: Path, manifest: Manifest) -> None:
    """Delete what former and killed builds made; staged work last, since it shows the next run that this was begun."""
    folder = registry / manifest.name
    frames = registry / manifest.frames.folder
    keep = {folder / MANIFEST, *(registry / file for file in manifest.checksums.files)}
    for path in [path for path in _files(folder) if path not in keep and _is_made(path, folder)]:
        path.unlink()
        if path.parent != folder and not any(path.parent.iterdir()):
            path.parent.rmdir()
    for path in frames.iterdir() if frames.is_dir() else ():
        if path.is_file() and path not in keep:
            path.unlink()
    _prune_pictures(registry, manifest, frames)
    for other in left_over(registry, manifest):
        shutil.rmtree(other)


def _prune_pictures(registry: Path, manifest: Manifest, frames: Path) -> None:
    """Delete loose pictures that no pair uses, one episode at a time, so that memory does not grow with them."""
    folders = {path.name: path for path in frames.iterdir() if path.is_dir()} if frames.is_dir() else {}
    for shard in manifest.shards if folders else ():
        used: dict[str, set[str]] = {}
        for row in parquet.read(registry / manifest.name / shard.frames, ("episode_id", "image")):
            used.setdefault(row["episode_id"], set()).add(row["image"].rpartition("/")[2])
        for episode_id, names in used.items():
            folder = folders.pop(episode_id, None)
            for path in folder.iterdir() if folder else ():
                if path.name not in names:
                    path.unlink()
    for folder in folders.values():
        shutil.rmtree(folder)
