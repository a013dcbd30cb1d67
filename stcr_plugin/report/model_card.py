"""The model card: how to use the model, and what was measured. It has no figure that was not measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import __version__
from stcr_plugin.errors import StcrError
from stcr_plugin.records import StageRecord
from stcr_plugin.registry.manifest import Manifest
from stcr_plugin.report import tables
from stcr_plugin.report.controls_table import control_table
from stcr_plugin.report.document import (
    LINK,
    Block,
    Bullets,
    Cell,
    Code,
    Document,
    Heading,
    Marked,
    Section,
    Table,
    Words,
    code,
    figures,
    markdown,
)
from stcr_plugin.report.factuality_words import claims_of, share
from stcr_plugin.report.guard_table import COLUMNS, guard_figure
from stcr_plugin.report.overlap_words import overlap_words
from stcr_plugin.report.serving_words import Limits, Serving, serving_words
from stcr_plugin.results import Controls, Evaluation, Guard

TAGS = ("stcr", "robotics", "multi-image", "order-bias", "task-progress", "llama-factory")
# Keys of a recipe that describe the training, none of which is a path.
_SETTINGS = (
    "finetuning_type", "freeze_vision_tower", "freeze_multi_modal_projector", "freeze_language_model", "lora_rank",
    "lora_alpha", "lora_target", "quantization_bit", "mix_strategy", "interleave_probs", "cutoff_len",
    "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_ratio",
    "warmup_steps", "weight_decay", "max_grad_norm", "adam_beta2", "num_train_epochs", "max_steps", "bf16", "fp16",
    "pure_bf16",
)  # fmt: skip
_STCR_SETTINGS = ("augment", "mask", "adapter")
_GUARDED = ("accuracy", "f1", "yes_ratio")
_CHECKSUMS = 12  # files of a build whose checksums are listed
_USUAL = {"generate": False, "language": "en", "part": "train", "style": "img", "warn": False}


@dataclass(frozen=True)
class CardStage:
    """One model of a chain.

    Attributes:
        folder: Its folder, or its name on the Hub.
        record: Its stage record; None for a model that no stage made.
        digest: Of its files now; None where they are missing.
        evaluations: The results that were measured on these very files; `controls` and `guards` likewise.
        left_out: Why other results are not in it.
    """

    name: str
    folder: Path
    record: StageRecord | None = None
    digest: str | None = None
    evaluations: tuple[Evaluation, ...] = ()
    controls: tuple[Controls, ...] = ()
    guards: tuple[Guard, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class HubMetadata:
    """Identifiers of the Hub, as https://huggingface.co/docs/hub/model-cards names them."""

    base_model: str | None = None
    license: str | None = None
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Card:
    """The contents of a card.

    Attributes:
        stages: The chain, the base first.
        name: Of the model.
        folder: Name of the exported folder.
        how: How its weights were made: "copied", "merged" or "cast".
        pixels: image_min_pixels and image_max_pixels of training.
        registry: Where the builds are that are not where the stage's record says.
    """

    stages: Sequence[CardStage]
    name: str
    folder: str
    how: str
    limits: Limits | None
    pixels: tuple[int, int]
    registry: Path
    hub: HubMetadata
    serving: Serving

    @property
    def last(self) -> CardStage:
        return self.stages[-1]


def model_card(of: Card) -> tuple[str, tuple[str, ...]]:
    """Write a model card.

    Returns:
        README.md as the Hub reads it (metadata in YAML, then Markdown), and what is missing in it.
    """
    from huggingface_hub import ModelCardData

    missing: list[str] = []
    intro = Words(
        "Which of two pictures of one robot task is closer to the task's completion? This model was trained by "
        f"spatio-temporal order correction (STCR, {LINK}) with stcr_plugin {__version__} to judge by what the "
        "pictures show, not by the order in which they come."
    )
    sections = [
        Section("Usage", _usage(of)),
        Section("Results", _results(of, missing)),
        Section("What it writes", _claims(of, missing)),
        Section("Controls", _controls(of, missing)),
        Section("General ability", _guard(of, missing)),
        Section("Training data", _data(of, missing)),
        Section("Training", [block for stage in of.stages for block in _training(stage)]),
        Section("Limits", [Bullets(tuple(_limits(of.last)))]),
        Section("Serving", serving_words(of.serving, of.limits)),
    ]
    sections = [section for section in sections if section.blocks]
    sections.append(Section("Missing", [Bullets(tuple(missing)) if missing else Words("Nothing.")]))
    metadata = ModelCardData(
        license=of.hub.license,
        base_model=of.hub.base_model,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=list(TAGS),
        datasets=list(of.hub.datasets) or None,
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{markdown(Document(of.name, sections, [intro]))}", tuple(missing)


def _usage(of: Card) -> list[Block]:
    reasons = of.last.record is not None and of.last.record.mode == "cot"
    how = "describe both pictures first; the last line is its judgment" if reasons else "answer directly"
    least, most = of.pixels
    return [
        Words(
            "The names of the pictures are in the text, directly before each picture, and the question comes after "
            f"both. The model was trained to {how}. Ask in both orders and average: where the two disagree, the order "
            "decided and not the pictures."
        ),
        Code(f"img1: <picture>\nimg2: <picture>\n{of.serving.question}", "text"),
        Words("The answer ends in `closer to completion: img1` or `closer to completion: img2`."),
        Words(f"In training, pictures were resized to at least {least:,} and at most {most:,} pixels."),
        Code(f'stcr judge {of.folder} A.png B.png --task "{of.serving.task}"', "bash"),
    ]


def _results(of: Card, missing: list[str]) -> list[Block]:
    rows = []
    for stage in of.stages:
        rows += [([stage.name, one.dataset, one.split, _settings(one)], one) for one in stage.evaluations]
        why = "; ".join(stage.left_out)
        if not stage.evaluations:
            missing.append(f"figures of {code(stage.name)}: {why or '`stcr eval` has not been run on it'}")
        elif why:
            missing.append(f"some figures of {code(stage.name)}: {why}")
    if not rows:
        return [Words("None: no stage of this chain was evaluated.")]
    whose = f"; this folder holds the last one, {of.how}." if of.how != "copied" else ", and so of this folder."
    words = Words(
        "Pair accuracy, the share of pairs that are right in BOTH orders, has its 95 % interval (bootstrap over "
        "episodes) where there are two episodes or more. A coin has 25 %, a judge by position 0 %. A small gap alone "
        f"shows nothing: a coin has 0. These figures are of the stages as they were trained{whose}"
    )
    overlap = [
        Words(f"{one.dataset}, {one.split}: {overlap_words(one.overlap)}") for one in of.last.evaluations if one.overlap
    ]
    return [figures(["name", "dataset", "split", "settings"], rows, "Results"), words, *overlap]


def _settings(found: Evaluation) -> str:
    """The mode, the most pixels of a picture, and what else is not the default."""
    given = found.settings
    other = [f"{key} {given[key]}" for key, value in _USUAL.items() if given.get(key, value) != value]
    return ", ".join([found.mode, f"{given.get('image_max_pixels')} pixels", *other])


def _claims(of: Card, missing: list[str]) -> list[Block]:
    """What stages that give reasons say of the pictures; nothing where none was evaluated so."""
    named = [(stage.name, one) for stage in of.stages for one in stage.evaluations if one.mode == "cot"]
    for name, one in named:
        if not (one.claims and one.claims.found):
            why = one.claims.unknown if one.claims else "its `stcr eval` did not check them; run it again"
            missing.append(f"claims of {code(name)} on {one.dataset}, {one.split}: {why}")
    return claims_of(named)


def _controls(of: Card, missing: list[str]) -> list[Block]:
    blocks: list[Block] = []
    for found in of.last.controls:
        plain = found.of
        where = f"{plain.dataset}, {plain.split}: {plain.n_pairs} pairs of {plain.n_episodes} episodes"
        columns = ("control", "what is asked", "figures", "verdict")
        blocks += [Words(where), control_table(found.rows, columns)]
    if not blocks:
        missing.append("controls: `stcr controls` has not been run on these files")
        words = "Not run, so it is not known whether other names, prompt variants or mirrored pictures mislead it."
        return [Words(words)]
    return blocks


def _guard(of: Card, missing: list[str]) -> list[Block]:
    lines: list[list[Cell]] = [
        [
            Marked(code(stage.name)),
            found.questions if isinstance(found.questions, str) else ", ".join(found.questions),
            kind,
            *(guard_figure(part, key) for key in _GUARDED),
            str(part.n),
        ]
        for stage in of.stages
        for found in stage.guards
        for kind, part in found.kinds.items()
    ]
    if not of.last.guards:
        missing.append("general ability after training: `stcr guard` has not been run on these files")
    if len({stage.name for stage in of.stages if stage.guards}) < 2:
        missing.append("general ability before and after: `stcr guard` has not been run on two models of the chain")
    if not lines:
        return [Words("Not measured, so it is not known what training cost in other abilities.")]
    heads = ["name", "questions", "negatives", *(COLUMNS[key][0] for key in _GUARDED), "number of questions"]
    return [
        Words(
            "Yes/no questions about single pictures, as in POPE (arXiv 2305.10355). A coin, always yes and always no "
            "have 50 % accuracy."
        ),
        Table(heads, lines, "General ability"),
    ]


def _data(of: Card, missing: list[str]) -> list[Block]:
    from stcr_plugin.report.check_words import build_text

    own = {dataset for stage in of.stages if stage.record for dataset in stage.record.datasets}
    blocks: list[Block] = [Words(f"Training sets of the chain: {', '.join(map(code, sorted(own))) or 'none'}.")]
    for build, digest, folders in _builds(of):
        manifest = _manifest(build, digest, folders)
        blocks.append(Heading(build))
        if manifest is None:
            missing.append(f"training data {code(build)}: deleted, or built again since")
            blocks.append(Words(f"Its manifest is missing; its configuration has the digest `{digest}`."))
            continue
        config = manifest.config
        source = {key: one for key, one in config["source"].items() if key != "root" and "/" not in str(one)}
        frames = {key: value for key, value in config["frames"].items() if value is not None}
        checksums = list(manifest.checksums.files.items())
        more = len(checksums) - _CHECKSUMS
        facts = [
            f"source: {_json(source)}",
            f"pictures: {_json(frames)}",
            *build_text(manifest).splitlines(),
            f"digest of the configuration: `{manifest.config_digest}`",
            *(f"checksum of {code(file)}: `{value}`" for file, value in checksums[:_CHECKSUMS]),
            *([f"checksums of {more} more files: see the build's manifest.json"] if more > 0 else []),
        ]
        blocks.append(Bullets(tuple(facts)))
    return blocks


def _builds(of: Card) -> list[tuple[str, str, tuple[Path, ...]]]:
    """(build, digest of its configuration, folders where it may be) of the chain's data, each once."""
    found: dict[tuple[str, str], tuple[Path, ...]] = {}
    for record in (stage.record for stage in of.stages if stage.record):
        for build in record.data:
            found.setdefault((build.build, build.config_digest), (record.registry, of.registry))
    return [(*key, folders) for key, folders in found.items()]


def _manifest(build: str, digest: str, folders: Sequence[Path]) -> Manifest | None:
    from stcr_plugin.registry.manifest import read_manifest

    for folder in folders:
        try:
            found = read_manifest(folder, build)
        except StcrError:
            continue
        if found.config_digest == digest:
            return found
    return None


def _training(stage: CardStage) -> list[Block]:
    record = stage.record
    if record is None:
        why = "; ".join(stage.left_out) if stage.digest is None else "no stage of ours made it"
        return [Heading(stage.name), Words(f"Here the chain begins: {why}.")]
    recipe, block = record.recipe, record.recipe.get("stcr") or {}
    settings = {key: recipe[key] for key in _SETTINGS if recipe.get(key) is not None}
    settings |= {f"stcr.{key}": block[key] for key in _STCR_SETTINGS if block.get(key) is not None}
    versions = record.provenance.get("versions") or {}
    seconds = f"{record.seconds:.0f}" if record.seconds else "not recorded"
    steps = "not recorded" if record.steps is None else record.steps
    facts = (
        f"starts from: {code(record.parent_stage or Path(str(record.parent)).name)}",
        f"mode: {code(record.mode)}, template: {code(record.template)}, seed: {record.seed}",
        f"training sets: {', '.join(map(code, record.datasets)) or 'not recorded'}",
        f"steps: {steps}; seconds, evaluations included: {seconds}",
        f"settings: {_json(settings)}",
        f"versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
    )
    return [Heading(stage.name), Bullets(facts)]


def _limits(last: CardStage) -> list[str]:
    rows = [row for found in last.controls for row in found.rows if row.at_fault]
    limits = [f"{code(row.name)} ({row.verdict}): {row.why}" for row in rows]
    for found in last.evaluations:
        where, episodes = f"{found.dataset}, {found.split}", found.per_episode
        if len(episodes) > 1:
            worst = min(one.figures.pair_accuracy for one in episodes)
            limits.append(f"{where}: the worst of {len(episodes)} episodes has {worst:.1f} % pair accuracy")
        if within := (found.parts.by_phase or {}).get("within"):
            limits.append(
                f"{where}: pairs within one phase of the movement have {tables.figure(within, 'pair_accuracy')} % pair "
                f"accuracy ({within.figures.n_pairs} pairs)"
            )
        if (claims := found.claims and found.claims.found) and claims.claims_false.value:
            limits.append(f"{where}: {share(claims.claims_false)} % of what it writes of the pictures is false")
    return [
        *limits,
        "It compares pictures of one task with each other; it does not say whether a task is done, nor how far along.",
        "The results hold for the tasks, cameras and distances in time of the splits above, and for no others.",
        "It must not be used as a safety device.",
    ]


def _json(value: Any) -> str:
    return code(json.dumps(value, ensure_ascii=False))
