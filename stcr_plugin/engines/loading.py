"""Model folder -> live transformers model and processor. Code in the folder is never run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError


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
    model.to(on).eval()
    model.config.use_cache = True  # training saves false, and generation without a cache is quadratic
    processor.tokenizer.padding_side = "left"
    return model, processor


def device() -> str:
    """Where models run: "cuda" or "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_processor(model_dir: Path) -> Any:
    """The processor in `model_dir`. Raises DataError where there is none."""
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(str(model_dir), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _not_loadable(model_dir, error) from error


def assembled(model_dir: Path, dtype: Any) -> Any:
    """The model in `model_dir` on the CPU, its adapter merged into its base, which may be an adapter too.

    Args:
        model_dir: Folder of the model or adapter.
        dtype: A torch dtype, or "auto" for the checkpoint's own.

    Raises:
        DataError: As `load`.
    """
    from transformers import AutoModelForImageTextToText

    if base := adapter_base(model_dir):
        from peft import PeftModel

        # Not through transformers: 5.5.4 stops with a KeyError when it loads a Qwen2.5-VL adapter itself.
        merged = PeftModel.from_pretrained(assembled(base, dtype), str(model_dir)).merge_and_unload()
        merged.__dict__.pop("peft_config", None)  # left behind, it reads as if an adapter were still there
        return merged
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            str(model_dir), dtype=dtype, output_loading_info=True, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise _not_loadable(model_dir, error) from error
    if missing := sorted(info["missing_keys"]):
        raise DataError(
            model_dir,
            f"{len(missing)} weights are missing (first: {missing[0]})",
            "copy the checkpoint again, or train it again",
        )
    return model


def _not_loadable(model_dir: Path, error: Exception) -> DataError:
    return DataError(
        model_dir, f"not loadable as a vision-language model: {error}", "give the folder of a Qwen-VL or InternVL model"
    )


def adapter_base(model_dir: Path) -> Path | None:
    """The folder of the base (model or adapter) of the adapter in `model_dir`; None without an adapter.

    A model of the Hub is searched in the cache of `hf download`.

    Raises:
        DataError: Where the base is not on this machine.
    """
    from huggingface_hub import snapshot_download

    path = Path(model_dir) / "adapter_config.json"
    if not path.exists():
        return None
    name = artefacts.read_json(path).get("base_model_name_or_path")
    if name and Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(str(name), local_files_only=True))
    except (OSError, ValueError):
        raise DataError(
            path, f"its base model {name!r} is not on this machine", "set base_model_name_or_path to its folder"
        ) from None
