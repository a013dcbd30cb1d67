"""A contact sheet of a build: some of its rows, drawn fairly, as one HTML file with its pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from stcr_plugin import artefacts
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry import manifest as manifests
from stcr_plugin.registry import parquet
from stcr_plugin.registry.data_config import SINGLE
from stcr_plugin.registry.group_rows import GroupCheck, group_of
from stcr_plugin.registry.manifest import Manifest, PairCounts, RowCounts
from stcr_plugin.registry.preference_rows import PreferenceCheck
from stcr_plugin.report import html
from stcr_plugin.report.check_words import direction_lines, text_origin
from stcr_plugin.report.document import Frame
from stcr_plugin.report.drawn_rows import Draw, Row, Stratum, draw
from stcr_plugin.samples.weak import answer_line
from stcr_plugin.types import ORDERS, Pair, Query

_EXCLUSIONS_LISTED = 50
# Which frame is closer, by the order shown and the answer.
_CLOSER = {
    ("forward", "img1"): "earlier",
    ("forward", "img2"): "later",
    ("backward", "img1"): "later",
    ("backward", "img2"): "earlier",
    ("forward", "neither"): "neither",
    ("backward", "neither"): "neither",
}
_LABELS = {
    "later": "later frame is closer",
    "earlier": "earlier frame is closer",
    "neither": "tie: neither frame is closer",
    "": "no label that can be read",
}


@dataclass(frozen=True)
class Sheet:
    """The written file, which shows `shown` of `rows` rows."""

    path: Path
    shown: int
    rows: int


class About(NamedTuple):
    """What a build knows of the frames of a row: tags, a number behind each picture's name, what it is, its task."""

    tags: Sequence[str] = ()
    numbers: Sequence[str] = ()
    where: str = ""
    task: str | None = None


@dataclass(frozen=True)
class Card:
    """One row on the page.

    Attributes:
        tags: Part, order, label, and what else is known.
        target: The description of each image, and last the judgment; as `question`, None where the row is a pair alone.
        rejected: Of a ranking row, the answer that is rejected, as `target`.
        faults: Where the row contradicts its pair.
    """

    where: str
    tags: Sequence[str]
    frames: Sequence[Frame] = ()
    task: str | None = None
    question: str | None = None
    target: Sequence[str] | None = None
    rejected: Sequence[str] | None = None
    faults: Sequence[str] = ()


def show(
    name: str, registry: str | Path, out: str | Path, *, split: str | None = None, rows: int = 48, seed: int = 0
) -> Sheet:
    """Draw rows of a build or a dataset and write them, with a summary of the build, as one HTML file.

    A row or a picture that cannot be read is shown with its error.

    Args:
        name: The build or the dataset. A build's rows are those of its datasets.
        registry: Folder of the registry.
        out: The HTML file. The same build and seed give the same bytes.
        split: Only the datasets drawn from this split. Where there are none: the split's pairs, in both orders.
        rows: How many rows to draw.
        seed: Seed of the draw.

    Raises:
        ConfigError: An unknown name or split, or fewer than one row.
        DataError: A manifest or a file of rows cannot be read, or the disk is full.
    """
    if rows < 1:
        raise ConfigError("rows", f"{rows} is less than 1", "set it to 1 or more")
    registry = Path(registry)
    manifest = manifests.read_manifest(registry, name)
    datasets = _datasets(manifest, name, split)
    splits = [split] if split else list(manifest.splits)
    phases = _phases(registry, manifest) if datasets else {}
    every = (
        _dataset_rows(registry, manifest, datasets, phases=phases)
        if datasets
        else _pair_rows(registry, manifest, splits)
    )
    drawn = draw(every, rows, seed)
    listed = [(stratum, row) for stratum in sorted(drawn.rows) for row in drawn.rows[stratum]]
    parts = datasets or splits
    listed.sort(key=lambda item: (parts.index(item[0].part), item[1].where, item[1].number, item[0].order))
    album = registry if manifest.stored.format != "none" else None
    if datasets:
        pairs = _pairs(registry, manifest, [row.values for _, row in listed if _is_row(row.values)])
        rules = {of: rule for of, rule in manifest.rules.items() if rule.kind == "group"}
        groups = {of: GroupCheck(rule, pairs) for of, rule in rules.items()}
        preferences = {of: PreferenceCheck(rule, pairs) for of, rule in manifest.rules.items() if rule.kind == "prefer"}
        cards = [
            _marked(
                _group_card(stratum, row, groups[stratum.part], registry=album)
                if stratum.part in groups
                else _dataset_card(stratum, row, pairs, registry=album, check=preferences.get(stratum.part)),
                stratum.part in manifest.texts,
            )
            for stratum, row in listed
        ]
    else:
        cards = [_pair_card(stratum, row, album) for stratum, row in listed]
    scope = f"{name}, split {split}" if split else name
    artefacts.write_text(out, _page(manifest, scope, seed=seed, draw=drawn, cards=cards))
    return Sheet(Path(out), len(cards), drawn.counts.total())


# ---- the rows of a build ----


def _datasets(manifest: Manifest, name: str, split: str | None) -> list[str]:
    """The datasets whose rows are meant, or none where the pairs are."""
    if split is not None and split not in manifest.splits:
        raise manifests.unknown_split(manifest, split)
    split_of = {dataset: rule.split for dataset, rule in manifest.rules.items()}
    if name == manifest.name:
        return [dataset for dataset in manifest.datasets if split in (None, split_of[dataset])]
    if split not in (None, split_of.get(name)):
        raise ConfigError(name, f"is drawn from split {split_of.get(name)!r}", "omit --split, or name the build")
    return [name]


def _dataset_rows(
    registry: Path, manifest: Manifest, datasets: Sequence[str], *, phases: Mapping[str, str]
) -> Iterator[tuple[Stratum, Row]]:
    from stcr_plugin.progress_bar import progress

    for dataset in datasets:
        counts = manifest.counts.datasets.get(dataset)
        total = counts.samples if counts else None
        rows = progress(manifests.dataset_rows(registry, dataset), f"{dataset}: drawing", "rows", total=total)
        for number, values in enumerate(rows, 1):
            order, answer, pair_id = (
                (str(values.get(key)) for key in ("order", "answer", "pair_id")) if _is_row(values) else ("", "", "")
            )
            group = f"{answer} is closest" if manifest.rules[dataset].kind == "group" and answer else ""
            stratum = Stratum(dataset, order, group or _CLOSER.get((order, answer), ""), phases.get(pair_id, ""))
            yield stratum, Row(dataset, number, values)


def _pair_rows(registry: Path, manifest: Manifest, splits: Sequence[str]) -> Iterator[tuple[Stratum, Row]]:
    from stcr_plugin.progress_bar import progress

    for split in splits:
        counts = manifest.counts.splits.get(split)
        with progress(counts.pairs if counts else None, f"{manifest.name}, {split}: drawing", "pairs") as bar:
            for file in manifests.pair_files(manifest, split):
                for number, values in enumerate(parquet.read(registry / file), 1):
                    for order in ORDERS:
                        stratum = Stratum(split, order, str(values["closer"]), str(values["phase"]))
                        yield stratum, Row(file, number, values)
                    bar.update()


def _phases(registry: Path, manifest: Manifest) -> dict[str, str]:
    """Pair id -> phase; few have one, since large recordings name no phase."""
    return {
        row["pair_id"]: row["phase"]
        for file in manifests.pair_files(manifest)
        for row in parquet.read(registry / file)
        if row["phase"]
    }


def _pairs(registry: Path, manifest: Manifest, rows: Sequence[Mapping[str, Any]]) -> dict[str, Pair]:
    """The pairs of some rows, and all of the episodes of groups and preferences."""
    ids = {str(row.get("pair_id")) for row in rows}
    episodes = {str(row.get("episode_id")) for row in rows if row.get("kind") in ("group", "prefer")}
    return {
        row["pair_id"]: manifests.pair_of(row)
        for file in manifests.pair_files(manifest)
        for row in parquet.read(registry / file)
        if row["pair_id"] in ids or row["episode_id"] in episodes
    }


def _is_row(values: Any) -> bool:
    return isinstance(values, dict)


# ---- from rows to cards ----


def _dataset_card(
    stratum: Stratum,
    row: Row,
    pairs: Mapping[str, Pair],
    *,
    registry: Path | None,
    check: PreferenceCheck | None = None,
) -> Card:
    try:
        prompt, target, images = _texts(row)
        pair = pairs.get(row.values["pair_id"])
        rejected = _target(str(row.values["rejected"]["content"])) if check else None
        faults = list(check.row(row.values)) if check else []
    except (KeyError, TypeError, ValueError):
        return _broken(stratum, row, registry)
    about, kind = _of_pair(stratum, pair), row.values.get("kind")
    if pair and (kind in SINGLE or check):
        frames = {pair.earlier_image: pair.earlier, pair.later_image: pair.later}
        frames |= {image: check.frames[pair.episode_id, image] for image in images} if check and not faults else {}
        about = about._replace(numbers=[f" frame {frames[image]:,}" for image in images if image in frames])
    card = _card(stratum, row, about, images=images, registry=registry)
    card = replace(card, question=prompt, target=_target(target))
    if check:
        return replace(card, rejected=rejected, faults=tuple(faults))
    if pair and kind in SINGLE:
        return replace(card, tags=[stratum.part, "one picture", str(kind), *filter(None, [stratum.phase])])
    return replace(card, faults=tuple(_faults(stratum, images, target, pair=pair, pair_id=row.values["pair_id"])))


def _group_card(stratum: Stratum, row: Row, check: GroupCheck, *, registry: Path | None) -> Card:
    try:
        prompt, target, images = _texts(row)
        faults = tuple(check.row(row.values))
        group = group_of(row.values, check.shots)
        shown = {image: f" frame {frame:,}" for image, frame in zip(group.images, group.frames, strict=True)}
        about = About((), [shown.get(image, "") for image in images], f"group {group.group_id}", group.task)
    except DataError as error:
        faults, about = (str(error),), About()
    except (KeyError, TypeError, ValueError):
        return _broken(stratum, row, registry)
    card = _card(stratum, row, about, images=images, registry=registry)
    return replace(card, question=prompt, target=_target(target), faults=faults)


def _texts(row: Row) -> tuple[str, str, tuple[str, ...]]:
    """The question, the target and the pictures of a row. Raises KeyError and the like for one without its form."""
    user, assistant = manifests.turns_of(row.values)
    images = tuple(str(image) for image in row.values["images"])
    return str(user["content"]).removeprefix("<image>" * len(images)), str(assistant["content"]), images


def _broken(stratum: Stratum, row: Row, registry: Path | None) -> Card:
    stored = json.dumps(row.values, ensure_ascii=False, default=str)
    card = _card(stratum, row, About(), images=(), registry=registry)
    return replace(card, target=_target(stored), faults=("not a row of a dataset; build it again",))


def _marked(card: Card, annotated: bool) -> Card:
    return replace(card, tags=[*card.tags, "annotated text"]) if annotated else card


def _pair_card(stratum: Stratum, row: Row, registry: Path | None) -> Card:
    pair = manifests.pair_of(row.values)
    query = Query(pair, "forward" if stratum.order == "forward" else "backward")
    return _card(stratum, row, _of_pair(stratum, pair), images=query.images, registry=registry)


def _of_pair(stratum: Stratum, pair: Pair | None) -> About:
    if pair is None:
        return About()
    shown = (pair.earlier, pair.later) if stratum.order == "forward" else (pair.later, pair.earlier)
    return About(
        (f"{pair.distance} frames, {pair.seconds:.2f} s apart",),
        [f" frame {number:,}" for number in shown],
        f"episode {pair.episode_id} · pair {pair.pair_id}",
        pair.task,
    )


def _card(stratum: Stratum, row: Row, about: About, *, images: Sequence[str], registry: Path | None) -> Card:
    """What is known of a row; `registry` is None where no pictures were built."""
    tags = [stratum.part, stratum.order or "no order", _LABELS.get(stratum.closer, stratum.closer)]
    tags += [stratum.phase] if stratum.phase else []
    tags += about.tags
    captions = [f"img{place}{number}" for place, number in enumerate((*about.numbers, *[""] * len(images)), 1)]
    frames = [
        html.frame(registry, image, caption)
        if registry
        else Frame(caption, missing="no picture was built (frames.format: none)")
        for image, caption in zip(images, captions, strict=False)
    ]
    where = " · ".join(filter(None, (about.where, f"{row.where}, row {row.number}")))
    return Card(where, tags, frames, task=about.task)


def _target(target: str) -> list[str]:
    """The target word for word: the description of each image, and last the judgment."""
    details, newline, judgment = target.rpartition("\n")
    return [*(block for block in re.split(r"(?=\bimg[1-8]:)", details + newline) if block), judgment]


def _faults(
    stratum: Stratum, images: tuple[str, ...], target: str, *, pair: Pair | None, pair_id: object
) -> Iterator[str]:
    """Where a row contradicts its pair; `stcr data check` finds all such rows."""
    if pair is None:
        yield f"pair {pair_id} is not among the build's pairs"
    elif stratum.order not in ORDERS:
        yield f"the order is {stratum.order!r}"
    else:
        query = Query(pair, "forward" if stratum.order == "forward" else "backward")
        if stratum.closer != pair.closer:
            yield f"the pair says: {_LABELS[pair.closer]}"
        if images != query.images:
            yield "the pictures are not those of the pair in this order"
        if target.rpartition("\n")[2] != answer_line(query):
            yield f"the target does not end with {answer_line(query)!r}, which the pair calls for"


# ---- from cards to the page ----


def _page(manifest: Manifest, scope: str, *, seed: int, draw: Draw, cards: Sequence[Card]) -> str:
    config, counts = manifest.config, manifest.counts
    skipped = [f"{item.what} {item.where}: {item.reason}" for item in manifest.excluded]
    more = len(skipped) - _EXCLUSIONS_LISTED
    return html.render(
        "contact_sheet.html.j2",
        title=f"{scope}: contact sheet",
        scope=scope,
        seed=seed,
        total=draw.counts.total(),
        facts=_facts(manifest),
        tables=[
            ("Splits", *_table("split", counts.splits, without=("distances",))),
            ("Datasets", *_table("dataset", counts.datasets)),
        ],
        reasons=[[_plain(number), reason] for reason, number in counts.excluded.items()],
        skipped=skipped[:_EXCLUSIONS_LISTED] + ([f"and {more:,} more"] if more > 0 else []),
        config=json.dumps(config, indent=2, ensure_ascii=False),
        hidden=_hidden(draw),
        strata=[
            [*(value or "–" for value in of), _plain(draw.counts[of]), _plain(len(draw.rows.get(of, ())))]
            for of in sorted(draw.counts)
        ],
        cards=cards,
    )


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    """What the manifest says about the whole build."""
    config, frames = manifest.config, manifest.frames
    facts = [
        ("build", manifest.name),
        ("label", _label_rule(config["pairs"])),
        ("pair rules", _settings(config["pairs"])),
        ("source", _settings(config["source"])),
        ("pictures", f"{frames.count:,} as {frames.format} in {frames.folder}"),
        ("build's seed", str(manifest.seed)),
        ("config digest", manifest.config_digest),
    ]
    if manifest.claims_checked is not None:
        facts.append(("claims checked", f"{manifest.claims_checked:,}"))
    origins = {dataset: text_origin(manifest, dataset) for dataset in manifest.datasets}
    facts += [("direction", line) for line in direction_lines(manifest.counts.splits)]
    facts += [(f"texts of {dataset}", origin) for dataset, origin in origins.items() if origin]
    return facts


def _label_rule(rules: Mapping[str, Any]) -> str:
    if rules.get("label") != "progress":
        return "the later frame is closer to completion, by order alone"
    ties = {"drop": "dropped", "teach": 'taught as "neither"'}.get(rules.get("ties", ""), str(rules.get("ties")))
    return f"the frame of greater progress is closer; ties (progress within {rules.get('tie_within')}) are {ties}"


def _settings(values: Mapping[str, Any]) -> str:
    """`key value, ...` of what is set."""
    return ", ".join(f"{key} {_plain(value)}" for key, value in values.items() if value not in (None, [], {}, ""))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return f"of {len(value):,} rows"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _table(
    first: str, rows: Mapping[str, PairCounts | RowCounts], without: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Heads and lines: one line per name, one column per figure; no lines where there are no figures."""
    figures = {name: {key: value for key, value in vars(of).items() if value is not None} for name, of in rows.items()}
    columns = [key for key in dict.fromkeys(key for of in figures.values() for key in of) if key not in without]
    lines = [[name, *(_plain(of.get(column, "")) for column in columns)] for name, of in figures.items()]
    return [first, *(column.replace("_", " ") for column in columns)], lines


def _hidden(draw: Draw) -> list[str]:
    """The values of the strata that no shown row has."""
    shown = [stratum for stratum, rows in draw.rows.items() if rows]
    return [
        f"{field} {value or 'unknown'}"
        for column, field in enumerate(Stratum._fields)
        for value in sorted({stratum[column] for stratum in draw.counts} - {stratum[column] for stratum in shown})
    ]
