"""What a stage starts from, and what ends it: checked before training, and told by its cause on a full disk."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_stage import Workshop

from stcr_plugin import artefacts
from stcr_plugin.errors import ChainError, DataError
from stcr_plugin.frameworks.parents import parent_of, refuse_changed_parent, refuse_own_parent
from stcr_plugin.frameworks.recipe import Recipe
from stcr_plugin.frameworks.stage_run import run_stage
from stcr_plugin.registry.manifest import dataset_rows


def safetensors(text: str) -> bytes:
    """A whole file of no tensors, which differs by its text."""
    header = json.dumps({"__metadata__": {"text": text}}).encode()
    return len(header).to_bytes(8, "little") + header


def model(folder: Path, weights: str = "weights") -> Path:
    folder.mkdir(parents=True)
    artefacts.write_json(folder / "config.json", {"model_type": "qwen2_5_vl"})
    (folder / "model.safetensors").write_bytes(safetensors(weights))
    return folder


def stage(folder: Path, parent: Path, weights: str = "weights", **changes: Any) -> Path:
    """A model with the record of a finished stage."""
    return recorded(model(folder, weights), parent, **changes)


def recorded(folder: Path, parent: Path, **changes: Any) -> Path:
    row = {"name": folder.name, "template": "stcr_qwen2_vl", "finished": True, "parent": str(parent)}
    row |= {"parent_digest": artefacts.model_digest(parent), "model_digest": artefacts.model_digest(folder)}
    artefacts.write_json(folder / "stage.json", row | changes)
    return folder


def recipe(parent: Path, out: Path, **keys: Any) -> Recipe:
    block = {"name": "stage2", "mode": "direct", "starts_from": "stage", "evaluate": None}
    keys = {"stage": "sft", "do_train": True, "template": "stcr_qwen2_vl", "dataset": "theirs", **keys}
    where = {"model_name_or_path": str(parent), "output_dir": str(out), "dataset_dir": str(out.parent)}
    return Recipe.of({**where, **keys, "stcr": block | keys.pop("stcr", {})})


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """base <- stage1, the base made by `stcr base build`."""
    base = stage(tmp_path / "base", model(tmp_path / "base_random", "random"), "base", name="prior")
    artefacts.write_json(base / "base.json", {"seed": 0})
    return stage(tmp_path / "stage1", base)


def trained(made: Recipe) -> list[dict[str, Any]]:
    """The keys that the framework was called with, by the whole of run_stage."""
    calls: list[dict[str, Any]] = []

    def train(keys: dict[str, Any], callbacks: list[Any]) -> None:
        calls.append(keys)
        out = model(Path(keys["output_dir"]) / "saved", "second")
        for path in out.iterdir():
            shutil.copy(path, out.parent)
        artefacts.write_json(out.parent / "trainer_state.json", {"global_step": 4})

    run_stage(made, None, train)
    return calls


def test_a_stage_with_the_files_that_it_left_is_trained_from(first: Path, tmp_path: Path) -> None:
    (calls,) = (trained(recipe(first, tmp_path / "stage2")),)
    assert [call["model_name_or_path"] for call in calls] == [str(first)]
    written = json.loads((tmp_path / "stage2" / "stage.json").read_text())
    assert (written["parent_stage"], written["parent_digest"]) == ("stage1", artefacts.model_digest(first))


def changed(first: Path) -> Path:
    (first / "model.safetensors").write_bytes(safetensors("other weights"))
    return first


def beside_other_weights(first: Path) -> Path:
    other = model(first.parent / "other", "of another training")
    shutil.copy(first / "stage.json", other)
    return other


def second(first: Path) -> Path:
    return stage(first.parent / "stage2_before", first, "second", name="stage2")


def beyond_second(first: Path) -> Path:
    return stage(first.parent / "stage3", second(first), "third")


def beyond_lost(first: Path) -> Path:
    third = stage(first.parent / "stage3", second(first), "third", parent_stage="stage2")
    shutil.rmtree(first.parent / "stage2_before")
    return third


def linked_base(first: Path) -> Path:
    (first.parent / "link").symlink_to(first.parent / "base")
    return first.parent / "link"


@pytest.mark.parametrize(
    ("parent", "says", "fix"),
    [
        (changed, "its files have changed since: model_digest is", "train that stage again"),
        (beside_other_weights, "its files have changed since: model_digest is", "set stcr.starts_from: model"),
        (lambda first: first.parent / "base", r"that is the base \(it holds base.json\)", "starts_from: model"),
        (linked_base, r"that is the base \(it holds base.json\)", "starts_from: model"),
        (second, "its chain has a stage 'stage2' already, in .*stage2_before", "stcr.name to a name"),
        (beyond_second, "its chain has a stage 'stage2' already, in .*stage2_before", "stcr.name to a name"),
        (beyond_lost, "its chain has a stage 'stage2' already, in .*stage2_before", "stcr.name to a name"),
    ],
    ids=["changed weights", "beside other weights", "base", "link to the base", "itself", "grandchild", "lost child"],
)
def test_what_is_no_parent_is_refused_before_training(
    first: Path, tmp_path: Path, parent: Callable[[Path], Path], says: str, fix: str
) -> None:
    with pytest.raises(ChainError, match=says) as caught:
        trained(recipe(parent(first), tmp_path / "out"))
    assert fix in caught.value.fix
    assert not (tmp_path / "out").exists()


def test_both_digests_and_their_file_are_named(first: Path, tmp_path: Path) -> None:
    before = artefacts.model_digest(first)
    with pytest.raises(ChainError) as caught:
        parent_of(recipe(changed(first), tmp_path / "out"))
    for part in (before[:12], artefacts.model_digest(first)[:12], str(first / "stage.json")):
        assert part in caught.value.problem


def test_an_older_record_without_a_digest_is_taken_and_logged(
    first: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = json.loads((first / "stage.json").read_text())
    artefacts.write_json(first / "stage.json", {key: row[key] for key in row if key != "model_digest"})
    parent = parent_of(recipe(changed(first), tmp_path / "out"))
    assert parent is not None
    assert parent.digest == artefacts.model_digest(first)
    assert "older record without model_digest" in caplog.text


# ---- adapters ----


@pytest.fixture
def adapter(first: Path) -> Path:
    """An adapter over stage1, and its record."""
    folder = first.parent / "lora"
    artefacts.write_json(folder / "adapter_config.json", {"base_model_name_or_path": str(first), "r": 8})
    (folder / "adapter_model.safetensors").write_bytes(safetensors("adapter"))
    return recorded(folder, first)


@pytest.mark.parametrize("file", ["stage1/model.safetensors", "lora/adapter_model.safetensors"])
def test_an_adapter_is_as_it_was_left_when_its_base_is_too(adapter: Path, tmp_path: Path, file: str) -> None:
    made = recipe(adapter, tmp_path / "out", stcr={"adapter": "continue"})
    assert parent_of(made) is not None
    (tmp_path / file).write_bytes(safetensors("other"))
    with pytest.raises(ChainError, match="its files have changed since"):
        parent_of(made)


def test_a_base_that_moved_is_known_by_its_content(adapter: Path, first: Path, tmp_path: Path) -> None:
    moved = first.rename(tmp_path / "moved")
    keys = {"adapter_name_or_path": str(adapter), "stcr": {"adapter": "continue"}}
    parent = parent_of(recipe(moved, tmp_path / "out", **keys))
    assert parent is not None
    assert parent.digest == parent.record.model_digest
    (moved / "model.safetensors").write_bytes(safetensors("other"))
    with pytest.raises(ChainError, match="its files have changed since"):
        parent_of(recipe(moved, tmp_path / "out", **keys))


@pytest.mark.parametrize("base", ["lora", "lora/.", "higher"])
def test_adapters_in_a_ring_are_one_error(adapter: Path, tmp_path: Path, base: str) -> None:
    if base == "higher":
        higher = {"base_model_name_or_path": str(adapter)}
        artefacts.write_json(tmp_path / "higher" / "adapter_config.json", higher)
    artefacts.write_json(adapter / "adapter_config.json", {"base_model_name_or_path": f"{tmp_path}/{base}"})
    with pytest.raises(DataError, match=r"adapter_config\.json: the adapter is its own base"):
        artefacts.model_digest(adapter)


# ---- the output is not a part of the chain ----


@pytest.mark.parametrize("out", ["stage1", "base", "./base/../stage1", "lora"])
@pytest.mark.parametrize("starts_from", ["stage", "model"])
def test_no_stage_is_written_over_what_it_starts_from(
    adapter: Path, tmp_path: Path, out: str, starts_from: str
) -> None:
    made = recipe(adapter, tmp_path / out, overwrite_output_dir=True, stcr={"starts_from": starts_from})
    with pytest.raises(ChainError, match="is where 'stage2' would be written, and it starts from the model there"):
        refuse_own_parent(made)
    refuse_own_parent(recipe(adapter, tmp_path / "stage2"))


def test_checkpoints_of_other_weights_are_not_continued(first: Path, tmp_path: Path) -> None:
    out = stage(tmp_path / "stage2", first, finished=False)
    made = recipe(first, out, resume_from_checkpoint=str(out / "checkpoint-2"))
    refuse_changed_parent(made, artefacts.model_digest(first))
    with pytest.raises(ChainError, match=r"were trained from other weights .* overwrite_output_dir: true"):
        refuse_changed_parent(made, artefacts.model_digest(changed(first)))
    refuse_changed_parent(recipe(first, out), "trained from the start")


@pytest.mark.parametrize(
    ("file", "data", "says"),
    [
        ("stage1/model.safetensors", safetensors("cut")[:-3], r"stage1/model\.safetensors: is cut or damaged"),
        ("stage1/model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("lora/adapter_model.safetensors", b"", r"adapter_model\.safetensors: is cut or damaged"),
    ],
)
def test_broken_weights_are_named_before_training(
    adapter: Path, tmp_path: Path, file: str, data: bytes, says: str
) -> None:
    (tmp_path / file).write_bytes(data)
    made = recipe(adapter, tmp_path / "out", stcr={"adapter": "continue", "starts_from": "model"})
    with pytest.raises(DataError, match=says):
        trained(made)
    assert not (tmp_path / "out").exists()


# ---- what ends a training on a full disk ----


@pytest.mark.parametrize("filename", [None, "cache"])
def test_a_full_disk_is_told_of_what_did_not_fit_not_of_the_record(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filename: str | None
) -> None:
    out = tmp_path / "stage2"
    error = OSError(errno.ENOSPC, "No space left on device", filename and str(tmp_path / filename))

    def train(keys: dict[str, Any], callbacks: list[Any]) -> None:
        def full(path: Path, *_: Any, **__: Any) -> None:
            raise DataError(path, "could not write 12 bytes: No space left on device")

        monkeypatch.setattr(artefacts, "write_json", full)
        raise error

    with pytest.raises(DataError, match=r"no space is left for it: .* MB are free") as caught:
        run_stage(recipe(first, out), None, train)
    assert caught.value.where == str(tmp_path / filename if filename else out)


# ---- pictures that lie elsewhere ----


def test_pictures_behind_a_link_get_the_same_answer_from_both_backends(
    shared_workshop: Workshop, tmp_path: Path
) -> None:
    from stcr_plugin.frameworks.stage_run import manifests_of
    from stcr_plugin.frameworks.trl.dataset_rows import dataset

    registry = Path(shutil.copytree(shared_workshop.registry, tmp_path / "registry"))
    made = recipe(tmp_path / "base", tmp_path / "out", dataset="tiny_weak", dataset_dir=str(registry))
    assert list(manifests_of(made)) == ["tiny"]
    frames = registry / next(iter(dataset_rows(registry, "tiny_weak")))["images"][0]
    frames = frames.parent.parent  # of all episodes
    frames.rename(tmp_path / "elsewhere")
    frames.symlink_to(tmp_path / "elsewhere")
    says = "tiny_weak, row .*: leaves its folder"
    with pytest.raises(DataError, match=says):
        manifests_of(made)
    with pytest.raises(Exception, match="leaves its folder"):
        dataset(registry, "tiny_weak")
