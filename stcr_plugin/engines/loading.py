"""Model folder -> live transformers model and processor. Code in the folder is never run."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.engines.chat_templates import try_template
from stcr_plugin.errors import DataError, StcrError
from stcr_plugin.weight_files import refuse_broken_weights

OWN_CODE = "asks for code of its own (auto_map), which is never run"
OWN_CODE_FIX = "give a model whose classes transformers has: of InternVL the version whose name ends in -hf"


def load(model_dir: Path) -> tuple[Any, Any]:
    """The model and processor in the folder `model_dir`, for inference.

    On CUDA in the checkpoint's own precision, else on the CPU in float32. LoRA adapters are merged into their base.

    Raises:
        DataError: Where the folder holds no such model, or lacks weights (which transformers would fill with random
            numbers).
    """
    import torch

    if not Path(model_dir).is_dir():
        raise DataError(model_dir, "no such folder", "give a model folder, such as one that `hf download` has written")
    on = device()
    model = assembled(model_dir, torch.float32 if on == "cpu" else "auto")
    processor = load_processor(model_dir)
    try_template(processor, model_dir)
    model.to(on).eval()
    model.config.use_cache = True  # training saves false, and generation without a cache is quadratic
    processor.tokenizer.padding_side = "left"
    return model, processor


def device() -> str:
    """Where models run: "cuda" or "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_processor(model_dir: str | Path, local: bool = True) -> Any:
    """The processor in `model_dir`, or of a model of the Hub unless `local`. Raises DataError where there is none."""
    from transformers import AutoProcessor

    with _readable(model_dir):
        return AutoProcessor.from_pretrained(str(model_dir), local_files_only=local, trust_remote_code=False)


def load_tokenizer(model_dir: str | Path) -> Any:
    """The tokenizer in `model_dir`. Raises DataError where there is none."""
    from transformers import AutoTokenizer

    with _readable(model_dir):
        return AutoTokenizer.from_pretrained(str(model_dir), local_files_only=True, trust_remote_code=False)


def assembled(model_dir: str | Path, dtype: Any, **options: Any) -> Any:
    """The model in `model_dir` on the CPU, its adapter merged into its base, which may be an adapter too.

    Args:
        model_dir: Folder of the model or adapter.
        dtype: A torch dtype, or "auto" for the checkpoint's own.
        options: More for transformers' from_pretrained.

    Raises:
        DataError: As `load`.
    """
    from transformers import AutoModelForImageTextToText

    artefacts.refuse_ring(model_dir)
    if base := adapter_base(model_dir):
        merged = with_adapter(assembled(base, dtype, **options), model_dir).merge_and_unload()
        merged.__dict__.pop("peft_config", None)  # left behind, it reads as if an adapter were still there
        return merged
    refuse_broken_weights(model_dir)
    with _readable(model_dir):
        model, info = AutoModelForImageTextToText.from_pretrained(
            str(model_dir),
            dtype=dtype,
            output_loading_info=True,
            trust_remote_code=False,
            **{"local_files_only": True, **options},
        )
    _refuse_missing(model_dir, info["missing_keys"])
    return model


def with_adapter(model: Any, folder: str | Path, trainable: bool = False) -> Any:
    """`model` with the LoRA adapter in `folder` over it. Raises DataError where that cannot be loaded whole."""
    from peft import PeftModel

    refuse_broken_weights(folder)
    with _readable(folder):
        # Not through transformers: 5.5.4 stops with a KeyError when it loads a Qwen2.5-VL adapter itself.
        tuned = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
        again = tuned.load_adapter(str(folder), tuned.active_adapter, is_trainable=trainable)  # says what is missing
    _refuse_missing(folder, again.missing_keys)
    return tuned


def _refuse_missing(folder: str | Path, names: Collection[str]) -> None:
    if names:
        what = f"{len(names)} weights are missing (first: {min(names)})"
        raise DataError(folder, what, "copy the checkpoint again, or train it again")


@contextmanager
def _readable(folder: str | Path) -> Iterator[None]:
    """Turn every error of a library that reads a model's folder into a DataError; want of GPU memory passes."""
    import torch

    try:
        yield
    except (StcrError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the folder is somebody else's: a wrong value in it can raise anything
        raise _not_loadable(folder, error) from error


def _not_loadable(folder: str | Path, error: Exception) -> DataError:
    if asks := own_code(folder):
        return DataError(asks, OWN_CODE, OWN_CODE_FIX)
    lines = " ".join(str(error).split())
    what = f"not loadable as a vision-language model: {type(error).__name__}: {lines[:400]}"
    fix = "give the folder of a Qwen-VL or InternVL model"
    if isinstance(error, ImportError):
        fix = "install the package that it names, or give the model without quantisation"
    return DataError(folder, what, fix)


def own_code(folder: str | Path) -> Path | None:
    """The file in `folder` by which a model asks for Python code of its own, if any does."""
    for path in sorted(Path(folder).glob("*.json")) if Path(folder).is_dir() else ():
        with suppress(StcrError):
            row = artefacts.read_json(path)
            if isinstance(row, dict) and row.get("auto_map"):
                return path
    return None


def adapter_base(model_dir: str | Path) -> Path | None:
    """The folder of the base (model or adapter) of the adapter in `model_dir`; None without an adapter.

    A model of the Hub is searched in the cache of `hf download`.

    Raises:
        DataError: Where the base is not on this machine.
    """
    from huggingface_hub import snapshot_download

    path = Path(model_dir) / artefacts.ADAPTER_CONFIG
    if not path.exists():
        return None
    name = artefacts.adapter_base_name(model_dir)
    if name and Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(str(name), local_files_only=True))
    except (OSError, ValueError):  # huggingface_hub's own errors are ValueErrors or OSErrors
        raise DataError(
            path, f"its base model {name!r} is not on this machine", "set base_model_name_or_path to its folder"
        ) from None
