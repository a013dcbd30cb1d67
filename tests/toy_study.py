"""A study of one chain and its baseline, and a registry that its tokens can be counted in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from tiny_stage import DATA, RECIPES, TINY, Workshop

from stcr_plugin.config import from_mapping
from stcr_plugin.study.study_config import SeedRun, StudyConfig

MINIMAL: dict[str, Any] = {
    "name": "toy",
    "asks": "Does it work?",
    "data": "data.yaml",
    "base": "base.yaml",
    "seeds": [1, 2],
    "reference": "stage2",
    "stages": {
        "stage1": {"recipe": str(RECIPES / "stage1_cot.yaml"), "datasets": ["cot"], "row": False},
        "stage2": {"recipe": str(RECIPES / "stage2_weak.yaml"), "datasets": ["weak"], "starts_from": "stage1"},
        "weak_only": {"recipe": str(RECIPES / "weak_only.yaml"), "datasets": ["weak"]},
    },
}


def study(**changes: Any) -> StudyConfig:
    return from_mapping(StudyConfig, {**MINIMAL, **changes}, "test")


def seed_run(config: StudyConfig, out: Path, seed: int = 1, build: str = "toy") -> SeedRun:
    return SeedRun(config=config, seed=seed, out=out, build=build)


def stages(**changes: Any) -> dict[str, Any]:
    return {name: {**stage, **changes.get(name, {})} for name, stage in MINIMAL["stages"].items()}


def tiny_study(root: Path, **changes: Any) -> StudyConfig:
    """A study whose every command takes seconds, its files in `root`."""
    workshop = Workshop(root)
    workshop.write_yaml(workshop.data, DATA)
    prior = OmegaConf.merge(OmegaConf.load(RECIPES / "stage0_prior.yaml"), OmegaConf.from_dotlist(list(TINY)))
    OmegaConf.save(prior, root / "prior.yaml")
    reading = {"episodes": 2, "frames": 2, "steps": 2, "batch_size": 2}
    base = {"out": "unused", "prior": str(root / "prior.yaml"), "split": "dev", "gap_over": -101}
    workshop.write_yaml(root / "base.yaml", {**base, "pretraining": reading})
    small = [*TINY, "stcr.evaluate.split=dev", "max_steps=2"]
    longer = stages(stage1={"overrides": small}, stage2={"overrides": small})
    longer["weak_only"]["overrides"] = [*small, "max_steps=4"]
    controls = {"rows": ["stage2"], "split": "dev", "pairs": 2}
    files = {"data": str(workshop.data), "base": str(root / "base.yaml")}
    guard = {"rows": ["base", "stage2"], "episodes": 3}
    options = {"splits": ["dev", "heldout"], "pairs": 4, "equal": "steps", "controls": controls, "guard": guard}
    return study(**files, **options, stages=longer, **changes)


def two_datasets(folder: Path) -> tuple[Path, list[float], list[int]]:
    """A registry of CoT samples and fewer weak ones, in the folder of their base; mean tokens and rows of each."""
    from toy_build import build_toy

    from stcr_plugin.embedded.architecture import write_checkpoint
    from stcr_plugin.registry.manifest import dataset_rows
    from stcr_plugin.study.grid import supervised_tokens

    write_checkpoint(folder / "base")
    datasets = {"cot": {"split": "train", "kind": "cot"}, "weak": {"split": "train", "kind": "weak", "pairs": 3}}
    registry = build_toy(folder / "data_registry", datasets=datasets)
    names = ["toy_cot", "toy_weak"]
    tokens = [supervised_tokens(registry, name, folder / "base") for name in names]
    return registry, tokens, [len(list(dataset_rows(registry, name))) for name in names]
