"""Files of weights, judged by their headers: are they whole, before a library reads gigabytes of them?"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError

_AGAIN = "copy it again, or train that model again"


def refuse_broken_weights(folder: str | Path) -> None:
    """Look at every file of weights in a folder, and that no file of its model is a Git LFS pointer.

    Nothing is said of a folder without any.

    Raises:
        DataError: naming the file that is cut, missing, or only a Git LFS pointer.
    """
    folder = Path(folder)
    for path in sorted(path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern)):
        if not path.is_file():
            raise DataError(path, "leads to no file", _AGAIN)
        with open(path, "rb") as file:
            artefacts.refuse_lfs_pointer(path, file.read(100))
        if path.name != "training_args.bin" and is_cut(path):
            raise DataError(path, f"is cut or damaged ({path.stat().st_size} bytes)", _AGAIN)
    for pattern in ("*.json", *artefacts.PROCESSOR_FILES):
        for path in sorted(folder.glob(pattern)):
            if path.is_file():
                with open(path, "rb") as file:
                    artefacts.refuse_lfs_pointer(path, file.read(artefacts.LFS_START))
    for name in missing_shards(folder):
        raise DataError(folder / name, "is missing, and the index of weights names it", _AGAIN)
    if (folder / artefacts.ADAPTER_CONFIG).is_file() and not any(folder.glob("adapter_model*")):
        raise DataError(folder / "adapter_model.safetensors", "no such file: the adapter has no weights", _AGAIN)


def is_cut(path: Path) -> bool:
    """Whether a file of weights is not as long as it says itself.

    safetensors: the sizes in its header (format: huggingface/safetensors, README, "Format"). torch.save: the directory
    at the end of its zip file.
    """
    return not (_is_whole_safetensors(path) if path.suffix == ".safetensors" else zipfile.is_zipfile(path))


def missing_shards(folder: Path) -> Iterator[str]:
    """Names of files that an index of weights lists and the folder lacks. Raises DataError for a damaged index."""
    for index in sorted(folder.glob("*.index.json")):
        row = artefacts.read_json(index)
        places = row.get("weight_map") if isinstance(row, dict) else None
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise DataError(index, "has no weight_map from weights to files", _AGAIN)
        yield from sorted(name for name in set(places.values()) if not (folder / name).is_file())


def _is_whole_safetensors(path: Path) -> bool:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        if not 2 <= length <= size - 8:
            return False
        try:
            header = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            return bool(size == 8 + length + max(ends, default=0))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return False
