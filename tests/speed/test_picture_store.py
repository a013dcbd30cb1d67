"""Many small pictures: a file each in a folder, against tar files that hold a shard's pictures."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from stcr_plugin import artefacts
from stcr_plugin.registry import picture_store

PICTURES = int(os.environ.get("STCR_BENCH_PICTURES", "20000"))
A_SHARD = 2000
SMALL = 50
BYTES = 10_000  # about a PNG of 84x84
ROUNDS = 3


@pytest.mark.bench
def test_store_tar_vs_folder(report: Callable[..., None], full: bool, tmp_path: Path) -> None:
    """value: pictures/s in tar files; baseline: in a folder. store_tar_vs_folder_write: written as a build does, the
    disk's cache flushed at the end of each turn. store_tar_vs_folder_read: each one once, in random order, from the
    disk's cache, so that what is compared is finding and opening.
    """
    pictures, rounds = (PICTURES, ROUNDS) if full else (SMALL, 1)
    rng = np.random.default_rng(0)
    data = [rng.bytes(BYTES) for _ in range(100)]
    order = rng.permutation(pictures).tolist()
    stores: dict[str, Callable[[Path, Sequence[bytes], int], list[str]]] = {"tar": _in_tars, "folder": _in_folders}
    written: dict[str, list[float]] = {name: [] for name in stores}
    read: dict[str, list[float]] = {name: [] for name in stores}
    sync = os.sync if full else lambda: None
    sync()
    for _ in range(rounds):
        for name, store in stores.items():
            registry = tmp_path / name
            began = time.perf_counter()
            names = store(registry, data, pictures)
            sync()
            written[name].append(pictures / (time.perf_counter() - began))
            began = time.perf_counter()
            right = sum(picture_store.read(registry, names[k]) == data[k % len(data)] for k in order)
            read[name].append(pictures / (time.perf_counter() - began))
            assert right == pictures
            shutil.rmtree(registry)
    for what, speeds in (("write", written), ("read", read)):
        tar, folder = (statistics.median(speeds[name]) for name in ("tar", "folder"))
        report(f"store_tar_vs_folder_{what}", tar, "pictures/s", folder)
        assert not full or tar > 0.5 * folder


def _in_tars(registry: Path, data: Sequence[bytes], pictures: int) -> list[str]:
    names: list[str] = []
    for start in range(0, pictures, A_SHARD):
        tar = picture_store.TarWriter(registry, f"frames/{start // A_SHARD:05d}.tar")
        names += [tar.add(_member(k), data[k % len(data)]) for k in range(start, min(start + A_SHARD, pictures))]
        tar.close()
    return names


def _in_folders(registry: Path, data: Sequence[bytes], pictures: int) -> list[str]:
    names = [f"frames/{_member(k)}" for k in range(pictures)]
    for k, name in enumerate(names):
        artefacts.write_bytes(registry / name, data[k % len(data)], durable=False)
    return names


def _member(k: int) -> str:
    """A folder an episode of 40 pictures."""
    return f"{k // 40:06d}/{k % 40:06d}.png"
