"""The model card: what the model judges, how it is asked, and what was measured. No figure that was not measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import __version__
from stcr_plugin.errors import StcrError
from stcr_plugin.evaluation.controls import CONTROLS_JSON
from stcr_plugin.evaluation.evaluate import RESULTS
from stcr_plugin.evaluation.guard import GUARD
from stcr_plugin.evaluation.leakage import overlap_words
from stcr_plugin.registry.manifest import Manifest
from stcr_plugin.release import server_commands
from stcr_plugin.release.lineage import Link
from stcr_plugin.release.pixels import Limits
from stcr_plugin.report import tables

TAGS = ("stcr", "robotics", "multi-image", "order-bias", "task-progress", "llama-factory")
_METHOD = "[arXiv 2604.10506](https://arxiv.org/abs/2604.10506)"
# Keys of a recipe that tell how it was trained, none of which is a path.
_SETTINGS = (
    "finetuning_type",
    "freeze_vision_tower",
    "freeze_multi_modal_projector",
    "freeze_language_model",
    "lora_rank",
    "lora_alpha",
    "lora_target",
    "quantization_bit",
    "mix_strategy",
    "interleave_probs",
    "cutoff_len",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_ratio",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "adam_beta2",
    "num_train_epochs",
    "max_steps",
    "bf16",
    "fp16",
    "pure_bf16",
)
_GUARDED = ("accuracy", "f1", "yes_ratio")


@dataclass(frozen=True)
class Card:
    """What a card is written from; pixels: image_min_pixels and image_max_pixels of training. See export.export."""

    links: Sequence[Link]
    name: str
    folder: str
    how: str
    dtype: str
    limits: Limits | None
    pixels: tuple[int, int]
    registry: Path
    base_model: str | None
    license: str | None
    datasets: tuple[str, ...]

    @property
    def record(self) -> Mapping[str, Any]:
        return self.links[-1].record

    @property
    def mode(self) -> str:
        return str(self.record["mode"])


def card(of: Card) -> tuple[str, tuple[str, ...]]:
    """README.md as the Hub reads it (front matter in YAML, then Markdown), and what is missing in it, in words."""
    missing: list[str] = []
    parts = [
        f"# {of.name}",
        "Two pictures of one robot task: which is closer to the task's completion? This model was trained by "
        f"spatio-temporal order correction (STCR, {_METHOD}) with stcr_plugin {__version__} to judge by what the "
        "pictures show, not by the order in which they come.",
        "## How to ask it",
        *_asking(of),
        "## What was measured",
        *_figures(of, missing),
        "## Controls",
        *_controls(of, missing),
        "## General ability",
        *_guard(of, missing),
        "## Training data",
        *_data(of, missing),
        "## Training",
        *_training(of),
        "## Limits",
        *_limits(of),
        "## Serving",
        *_serving(of),
        "## Missing",
        _bullets(missing) if missing else "Nothing that this card has a place for.",
    ]
    return f"{_front(of)}\n" + "\n\n".join(parts) + "\n", tuple(missing)


def _front(of: Card) -> str:
    """Keys of https://huggingface.co/docs/hub/model-cards, each only where it is known."""
    import yaml

    known = {
        "license": of.license,
        "base_model": of.base_model,
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": list(TAGS),
        "datasets": list(of.datasets),
    }
    return f"---\n{yaml.safe_dump({k: v for k, v in known.items() if v}, sort_keys=False, allow_unicode=True)}---\n"


def _asking(of: Card) -> list[str]:
    prompt = server_commands.example(of.mode)
    how = (
        "It was trained to describe both pictures first; the last line is its judgment."
        if of.mode == "cot"
        else "It was trained to answer at once."
    )
    least, most = of.pixels
    return [
        "The pictures carry their names in the text, straight before each of them, and the question stands behind "
        f"both. {how} Ask in both orders and average: where the two disagree, the order decided and not the pictures.",
        f"```text\nimg1: <picture>\nimg2: <picture>\n{prompt.question}\n```",
        "The answer ends in `closer to completion: img1` or `closer to completion: img2`.",
        f"Pictures were shrunk in training to at most {most:,} pixels and grown to at least {least:,}.",
        f'```bash\nstcr judge {of.folder} A.png B.png --task "{server_commands.TASK}"\n```',
    ]


def _figures(of: Card, missing: list[str]) -> list[str]:
    rows = []
    for link in of.links:
        found = link.measured.get(RESULTS, ())
        rows += [{**row, "name": link.name, "asked": _asked(row)} for row in found]
        why = tables.cell("; ".join(link.left_out))
        if not found:
            missing.append(f"figures of {_code(link.name)}: {why or '`stcr eval` has not been run on it'}")
        elif why:
            missing.append(f"some figures of {_code(link.name)}: {why}")
    if not rows:
        return ["Nothing: no stage of this chain was evaluated."]
    table = tables.figures_table(rows, ["name", "dataset", "split", "asked"])
    last = [row for row in rows if row["name"] == of.links[-1].name]
    return [
        table,
        "Pair accuracy, the share of pairs that are right in BOTH orders, has its 95 % interval (bootstrap over "
        "episodes) where there are two episodes or more. A coin has 25 %, a judge that goes by place 0 %. "
        "A small gap alone says nothing: a coin has 0. These figures are of the stages as they were trained"
        + (f"; this folder holds the last one, {of.how}." if of.how != "copied" else ", and so of this folder."),
        *(
            f"{tables.cell(row['dataset'])}, {tables.cell(row['split'])}: {tables.cell(overlap_words(row['overlap']))}"
            for row in last
            if row.get("overlap")
        ),
    ]


def _asked(row: Mapping[str, Any]) -> str:
    """The mode, the most pixels of a picture, and what else was not as usual."""
    settings = row.get("settings") or {}
    usual = {"generate": False, "language": "en", "part": "train", "style": "img", "warn": False}
    other = [f"{key} {settings[key]}" for key, value in usual.items() if settings.get(key, value) != value]
    return ", ".join([str(row["mode"]), f"{settings.get('image_max_pixels')} pixels", *other])


def _controls(of: Card, missing: list[str]) -> list[str]:
    parts = []
    for left in of.links[-1].measured.get(CONTROLS_JSON, ()):
        asked = left["of"]
        lines = [
            [
                _code(row["name"]),
                tables.cell(row["asks"]),
                tables.cell(row["why"]),
                row["verdict"] + (" (informative)" if row["informative"] else ""),
            ]
            for row in left["rows"]
        ]
        where = f"{asked['dataset']}, {asked['split']}: {asked['n_pairs']} pairs of {asked['n_episodes']} episodes"
        parts += [tables.cell(where), tables.markdown(["control", "what is asked", "figures", "verdict"], lines)]
    if not parts:
        missing.append("controls: `stcr controls` has not been run on these files")
        return ["Not run, so it is not known whether other names, wordings or mirrored pictures mislead it."]
    return parts


def _guard(of: Card, missing: list[str]) -> list[str]:
    lines = [
        [
            _code(link.name),
            tables.cell(row["questions"]),
            kind,
            *(tables.with_interval(found, key).replace("episodes", "pictures") for key in _GUARDED),
            str(found["n"]),
        ]
        for link in of.links
        for row in link.measured.get(GUARD, ())
        for kind, found in row["kinds"].items()
    ]
    if not any(link.measured.get(GUARD) for link in of.links[-1:]):
        missing.append("general ability after training: `stcr guard` has not been run on these files")
    if len({line[0] for line in lines}) < 2:
        missing.append("general ability before and after: `stcr guard` has not been run on two models of the chain")
    if not lines:
        return ["Not measured, so it is not known what training cost of other abilities."]
    heads = ["name", "questions", "negatives", "accuracy %", "F1 %", "yes %", "asked"]
    return [
        "Yes/no questions about single pictures in the manner of POPE (arXiv 2305.10355). A coin, always yes and "
        "always no have 50 % accuracy.",
        tables.markdown(heads, lines),
    ]


def _data(of: Card, missing: list[str]) -> list[str]:
    from stcr_plugin.report.check_words import build_text

    parts = []
    for build, digest, places in _builds(of):
        manifest = _manifest(build, digest, places)
        if manifest is None:
            missing.append(f"training data {_code(build)}: not here any more, or built anew since")
            parts.append(f"### {build}\n\nIts manifest is not here; its configuration has the digest `{digest}`.")
            continue
        config = manifest.config
        paths = [key for key, value in config["source"].items() if isinstance(value, str) and "/" in value]
        source = {key: value for key, value in config["source"].items() if key not in ("root", *paths)}
        frames = {key: value for key, value in config["frames"].items() if value is not None}
        facts = [
            f"source: {_code(json.dumps(source, ensure_ascii=False))}",
            f"pictures: {_code(json.dumps(frames, ensure_ascii=False))}",
            *(tables.cell(line) for line in build_text(manifest).splitlines()),
            f"digest of the configuration: `{manifest.config_digest}`",
            *(f"checksum of `{tables.cell(file)}`: `{value}`" for file, value in _checksums(manifest)),
        ]
        parts += [f"### {build}", _bullets(facts)]
    own = {dataset for link in of.links for dataset in link.record.get("datasets") or ()}
    return [f"Training sets of the chain: {', '.join(map(_code, sorted(own))) or 'none'}.", *parts]


def _builds(of: Card) -> list[tuple[str, str, tuple[Path, ...]]]:
    """(build, digest of its configuration, where it may lie) of the chain's data, each once."""
    found: dict[tuple[str, str], tuple[Path, ...]] = {}
    for link in of.links:
        data = link.record.get("data") or ()
        own = Path(str((link.record.get("recipe") or {}).get("dataset_dir") or of.registry))
        for entry in [data] if isinstance(data, Mapping) else data:
            found.setdefault((entry["build"], entry["config_digest"]), (own, of.registry))
    return [(*key, places) for key, places in found.items()]


def _manifest(build: str, digest: str, places: Sequence[Path]) -> Manifest | None:
    from stcr_plugin.registry.manifest import read_manifest

    for place in places:
        try:
            found = read_manifest(place, build)
        except StcrError:
            continue
        if found.config_digest == digest:
            return found
    return None


def _checksums(manifest: Manifest, most: int = 12) -> list[tuple[str, str]]:
    found = list(manifest.checksums.files.items())
    rest = [(f"and {len(found) - most} more files", "see the build's manifest.json")] if len(found) > most else []
    return found[:most] + rest


def _training(of: Card) -> list[str]:
    parts = []
    for link in of.links:
        record = link.record
        if not record:
            why = "; ".join(map(tables.cell, link.left_out)) if link.digest is None else "no stage of ours made it"
            parts.append(f"### {link.name}\n\nHere the chain begins: {why}.")
            continue
        recipe = record.get("recipe") or {}
        settings = {key: recipe[key] for key in _SETTINGS if recipe.get(key) is not None}
        block = recipe.get("stcr") or {}
        settings |= {f"stcr.{key}": block[key] for key in ("augment", "mask", "adapter") if block.get(key) is not None}
        versions = (record.get("provenance") or {}).get("versions") or {}
        facts = [
            f"starts from: {_code(record.get('parent_stage') or Path(str(record.get('parent'))).name)}",
            f"mode: {_code(record.get('mode'))}, template: {_code(record.get('template'))}, seed: {record.get('seed')}",
            f"training sets: {', '.join(map(_code, record.get('datasets') or ())) or 'not recorded'}",
            f"steps: {record.get('steps', 'not recorded')}; seconds, evaluations included: "
            + (f"{record['seconds']:.0f}" if record.get("seconds") else "not recorded"),
            f"settings: {_code(json.dumps(settings, ensure_ascii=False))}",
            f"versions: {tables.cell(', '.join(f'{name} {version}' for name, version in versions.items()))}",
        ]
        parts += [f"### {link.name}", _bullets(facts)]
    return parts


def _limits(of: Card) -> list[str]:
    last = of.links[-1]
    fails = [
        f"{_code(row['name'])} ({row['verdict']}): {tables.cell(row['why'])}"
        for left in last.measured.get(CONTROLS_JSON, ())
        for row in left["rows"]
        if row["verdict"] in ("fails", "not shown") and not row["informative"]
    ]
    worst = []
    for row in last.measured.get(RESULTS, ()):
        where = f"{tables.cell(row['dataset'])}, {tables.cell(row['split'])}"
        episodes = row.get("per_episode") or []
        if len(episodes) > 1:
            found = min(episodes, key=lambda one: one["pair_accuracy"])
            worst.append(
                f"{where}: the worst of {len(episodes)} episodes has {found['pair_accuracy']:.1f} % pair accuracy"
            )
        within = (row.get("by_phase") or {}).get("within") or {}
        if within.get("n_pairs"):
            worst.append(
                f"{where}: pairs within one phase of the movement have {tables.figure(within, 'pair_accuracy')} % pair "
                f"accuracy ({within['n_pairs']} pairs)"
            )
    general = [
        "It compares pictures of one task with each other; it does not say whether a task is done, nor how far along.",
        "What was measured holds for the tasks, cameras and distances in time of the splits above, and for no others.",
        "It is no safety device.",
    ]
    return [_bullets([*fails, *worst, *general])]


def _serving(of: Card) -> list[str]:
    folder, dtype = of.folder, of.dtype
    return [
        "vLLM (options as its documentation of 0.9 and later has them) and SGLang (0.5); neither was run by us:",
        f"```bash\n{server_commands.vllm_line(folder, of.name, dtype, of.limits)}\n```",
        f"```bash\n{server_commands.sglang_line(folder, of.name, dtype, of.limits)}\n```",
        _sizes(of.limits),
        "A client in Python, which sizes pictures as training did and asks in both orders, lies beside this file:",
        f'```bash\npython client.py A.png B.png "{server_commands.TASK}"\n```',
        f"```bash\n{server_commands.curl_line(of.name, of.mode)}\n```",
        "To measure it behind the server as it was measured here:",
        f"```bash\n{server_commands.evaluation_line(folder, of.name)}\n```",
    ]


def _sizes(limits: Limits | None) -> str:
    if limits is None:
        return "Its image processor has no limits on pixels, so none were written: size pictures before sending them."
    seen = [
        f"{_size(size)} is seen as {_size(served)}" + ("" if served == trained else f", trained as {_size(trained)}")
        for size, trained, served in limits.sizes
    ]
    of = "Of the training pictures" if limits.known else "Of common sizes (no training picture was here to be measured)"
    return (
        f"`preprocessor_config.json` limits pictures to {limits.least:,} to {limits.most:,} pixels. A picture that was "
        f"sized first, as client.py does, is seen as in training. {of}, sent as they come: {'; '.join(seen)}."
    )


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _code(value: object) -> str:
    return f"`{tables.cell(value)}`"
