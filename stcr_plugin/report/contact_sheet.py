"""A contact sheet of a build: some of its rows, drawn fairly, as one HTML file to leaf through.

The file holds its pictures and asks nothing of the network; there is no script in it. Whatever comes from data is
escaped, and the page's own content policy forbids scripts and requests besides.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stcr_plugin import artefacts
from stcr_plugin.config import nearest
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry import manifest as manifests
from stcr_plugin.registry import parquet
from stcr_plugin.report import html
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
    """What was written: `shown` of `rows` rows."""

    path: Path
    shown: int
    rows: int


class Stratum(NamedTuple):
    """Rows that are alike: of one dataset (or split), shown order, label ("" where unreadable) and phase."""

    part: str
    order: str
    closer: str
    phase: str


class Row(NamedTuple):
    """One row as it is stored, and where: a dataset, or a file of pairs, and the row from 1."""

    where: str
    number: int
    values: Any


@dataclass(frozen=True)
class Card:
    """What is shown of one row; the question and the target are None where a pair stands for itself."""

    where: str
    stratum: Stratum
    images: tuple[str, ...]
    pair: Pair | None
    question: str | None
    target: str | None
    faults: tuple[str, ...]


def show(
    name: str, registry: str | Path, out: str | Path, split: str | None = None, rows: int = 48, seed: int = 0
) -> Sheet:
    """Draw `rows` rows of the build or dataset `name` and write them, with the build's account, as the HTML file `out`.

    A build's rows are those of its datasets; with `split`, of the datasets drawn from that split. Where there are
    none, they are the split's pairs, in both orders. The same build and seed give the same bytes. A row or a picture
    that cannot be read is shown with its error. Raises ConfigError for an unknown name or split and for fewer than
    one row, DataError for a manifest or a file of rows that cannot be read, and for a full disk.
    """
    if rows < 1:
        raise ConfigError(f"rows {rows}: must be at least 1")
    registry = Path(registry)
    manifest = manifests.read_manifest(registry, name)
    datasets = _datasets(manifest, name, split)
    splits = [split] if split else list(manifest["splits"])
    phases = _phases(registry, manifest) if datasets else {}
    every = _dataset_rows(registry, manifest, datasets, phases) if datasets else _pair_rows(registry, manifest, splits)
    drawn, counts = draw(every, rows, seed)
    listed = [(stratum, row) for stratum in sorted(drawn) for row in drawn[stratum]]
    parts = datasets or splits
    listed.sort(key=lambda item: (parts.index(item[0].part), item[1].where, item[1].number, item[0].order))
    if datasets:
        pairs = _pairs(registry, manifest, {str(row.values.get("pair_id")) for _, row in listed if _is_row(row.values)})
        cards = [_dataset_card(stratum, row, pairs) for stratum, row in listed]
    else:
        cards = [_pair_card(stratum, row) for stratum, row in listed]
    taken = {stratum: len(drawn[stratum]) for stratum in drawn}
    scope = f"{name}, split {split}" if split else name
    artefacts.write_text(out, _page(registry, manifest, scope, seed, counts, taken, cards))
    return Sheet(Path(out), len(cards), sum(counts.values()))


def draw(
    rows: Iterable[tuple[Stratum, Row]], wanted: int, seed: int
) -> tuple[dict[Stratum, list[Row]], Counter[Stratum]]:
    """`wanted` rows (all where too few), spread over the strata; and how many rows each stratum has.

    Inside a stratum every row is as likely as any other: reservoir sampling in one pass (J. Vitter, "Random Sampling
    with a Reservoir", ACM TOMS 11(1), 1985, algorithm R), which holds `wanted` rows a stratum. Between strata, see
    `_spread`.
    """
    rng = random.Random(seed)
    counts: Counter[Stratum] = Counter()
    kept: dict[Stratum, list[Row]] = {}
    for stratum, row in rows:
        reservoir = kept.setdefault(stratum, [])
        counts[stratum] += 1
        if len(reservoir) < wanted:
            reservoir.append(row)
        elif (place := rng.randrange(counts[stratum])) < wanted:
            reservoir[place] = row
    takes = _spread({stratum: len(kept[stratum]) for stratum in sorted(kept)}, wanted)
    return {stratum: rng.sample(kept[stratum], take) for stratum, take in takes.items()}, counts


def _spread(have: Mapping[Stratum, int], wanted: int) -> dict[Stratum, int]:
    """How many rows to take of each stratum: first whatever shows a value not yet shown, then evenly.

    So every dataset, order, label and phase is on the sheet once there are as many rows as such values, even where
    there are more strata than rows.
    """
    takes = dict.fromkeys(have, 0)
    seen: Counter[tuple[int, str]] = Counter()
    for _ in range(min(wanted, sum(have.values()))):
        best = min(
            (stratum for stratum in have if takes[stratum] < have[stratum]),
            key=lambda stratum: (
                -sum(seen[value] == 0 for value in enumerate(stratum)),
                takes[stratum],
                sum(seen[value] for value in enumerate(stratum)),
            ),
        )
        takes[best] += 1
        seen.update(enumerate(best))
    return takes


# ---- the rows of a build ----


def _datasets(manifest: Mapping[str, Any], name: str, split: str | None) -> list[str]:
    """The datasets whose rows are meant; none where the pairs themselves are."""
    if split is not None and split not in manifest["splits"]:
        raise ConfigError(f"{manifest['name']} has no split {split!r}, {nearest(split, list(manifest['splits']))}")
    split_of = {
        manifests.dataset_name(manifest["name"], key): rule["split"]
        for key, rule in manifest["config"]["datasets"].items()
    }
    if name == manifest["name"]:
        return [dataset for dataset in manifest["datasets"] if split in (None, split_of[dataset])]
    if split not in (None, split_of.get(name)):
        raise ConfigError(f"{name} is drawn from split {split_of.get(name)!r}; leave --split out, or name the build")
    return [name]


def _dataset_rows(
    registry: Path, manifest: Mapping[str, Any], datasets: Sequence[str], phases: Mapping[str, str]
) -> Iterator[tuple[Stratum, Row]]:
    from stcr_plugin.progress_bar import progress

    for dataset in datasets:
        total = manifest["counts"]["datasets"].get(dataset, {}).get("samples")
        rows = progress(manifests.dataset_rows(registry, dataset), f"{dataset}: drawing", "rows", total=total)
        for number, values in enumerate(rows, 1):
            order, answer, pair_id = (
                (str(values.get(key)) for key in ("order", "answer", "pair_id")) if _is_row(values) else ("", "", "")
            )
            stratum = Stratum(dataset, order, _CLOSER.get((order, answer), ""), phases.get(pair_id, ""))
            yield stratum, Row(dataset, number, values)


def _pair_rows(registry: Path, manifest: Mapping[str, Any], splits: Sequence[str]) -> Iterator[tuple[Stratum, Row]]:
    from stcr_plugin.progress_bar import progress

    for split in splits:
        total = manifest["counts"]["splits"].get(split, {}).get("pairs")
        with progress(total, f"{manifest['name']}, {split}: drawing", "pairs") as bar:
            for file in manifests.pair_files(manifest, split):
                for number, values in enumerate(parquet.read(registry / file), 1):
                    for order in ORDERS:
                        stratum = Stratum(split, order, str(values["closer"]), str(values["phase"]))
                        yield stratum, Row(file, number, values)
                    bar.update()


def _phases(registry: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Pair id -> phase, of pairs that have one; those are few, since recordings by the million tell no phase."""
    return {
        row["pair_id"]: row["phase"]
        for file in manifests.pair_files(manifest)
        for row in parquet.read(registry / file)
        if row["phase"]
    }


def _pairs(registry: Path, manifest: Mapping[str, Any], wanted: set[str]) -> dict[str, Pair]:
    return {
        row["pair_id"]: manifests.pair_of(row)
        for file in manifests.pair_files(manifest)
        for row in parquet.read(registry / file)
        if row["pair_id"] in wanted
    }


def _is_row(values: Any) -> bool:
    return isinstance(values, dict)


# ---- from rows to cards ----


def _dataset_card(stratum: Stratum, row: Row, pairs: Mapping[str, Pair]) -> Card:
    where = f"{row.where}, row {row.number}"
    try:
        user, assistant = row.values["messages"]
        prompt, target = str(user["content"]), str(assistant["content"])
        images = tuple(str(image) for image in row.values["images"])
        pair = pairs.get(row.values["pair_id"])
    except (KeyError, TypeError, ValueError):
        stored = json.dumps(row.values, ensure_ascii=False, default=str)
        return Card(where, stratum, (), None, None, stored, ("this is not made as a row is; build again",))
    single = row.values.get("kind") == "general"
    faults = () if single and pair else tuple(_faults(stratum, images, target, pair, row.values["pair_id"]))
    return Card(where, stratum, images, pair, prompt.removeprefix("<image>" * len(images)), target, faults)


def _faults(
    stratum: Stratum, images: tuple[str, ...], target: str, pair: Pair | None, pair_id: object
) -> Iterator[str]:
    """Where a row says something else than its pair; `stcr data check` finds all such rows."""
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


def _pair_card(stratum: Stratum, row: Row) -> Card:
    pair = manifests.pair_of(row.values)
    query = Query(pair, "forward" if stratum.order == "forward" else "backward")
    return Card(f"{row.where}, row {row.number}", stratum, query.images, pair, None, None, ())


# ---- from cards to the page ----


def _page(
    registry: Path,
    manifest: Mapping[str, Any],
    scope: str,
    seed: int,
    counts: Mapping[Stratum, int],
    taken: Mapping[Stratum, int],
    cards: Sequence[Card],
) -> str:
    unbuilt = manifest["config"]["frames"]["format"] == "none"
    shown = "\n".join(_card_html(number, card, registry, unbuilt) for number, card in enumerate(cards, 1))
    body = f"""<header>
<h1>{html.text(scope)}</h1>
<p class="lead">{len(cards)} of {sum(counts.values()):,} rows, drawn with seed {seed}.</p>
{_account_html(manifest)}
{_draw_html(counts, taken)}
</header>
<main class="cards">
{shown or '<p class="lead">There are no rows to show.</p>'}
</main>"""
    return html.page(f"{scope}: contact sheet", _STYLE, body)


def _account_html(manifest: Mapping[str, Any]) -> str:
    """What the manifest says of the whole build."""
    counts, config = manifest["counts"], manifest["config"]
    rules = config["pairs"]
    frames = manifest["frames"]
    facts = [
        ("build", manifest["name"]),
        ("label", _label_rule(rules)),
        ("pair rules", _settings(rules)),
        ("source", _settings(config["source"])),
        ("pictures", f"{frames['count']:,} as {frames.get('format', '?')} in {frames['folder']}"),
        ("build's seed", manifest["seed"]),
        ("config digest", manifest["config_digest"]),
    ]
    if "claims_checked" in manifest:
        facts.append(("claims checked", f"{manifest['claims_checked']:,}"))
    listed = "".join(f"<dt>{html.text(key)}</dt><dd>{html.text(value)}</dd>" for key, value in facts)
    whole = json.dumps(config, indent=2, ensure_ascii=False)
    parts = [
        f"<dl>{listed}</dl>",
        _table("Splits", "split", counts["splits"], ("distances",)),
        _table("Datasets", "dataset", counts["datasets"]),
        _set_aside_html(manifest),
        f"<details><summary>The whole configuration</summary><pre>{html.text(whole)}</pre></details>",
    ]
    return "\n".join(part for part in parts if part)


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
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _table(title: str, first: str, rows: Mapping[str, Mapping[str, Any]], without: Sequence[str] = ()) -> str:
    """Name -> figures, a row a name and a column a figure."""
    columns = [key for key in dict.fromkeys(key for of in rows.values() for key in of) if key not in without]
    if not columns:
        return ""
    body = [[name, *(_plain(of.get(column, "")) for column in columns)] for name, of in rows.items()]
    return f"<h2>{title}</h2>{html.table([first, *(column.replace('_', ' ') for column in columns)], body)}"


def _set_aside_html(manifest: Mapping[str, Any]) -> str:
    reasons = manifest["counts"]["excluded"]
    if not reasons:
        return "<h2>Set aside</h2><p>Nothing.</p>"
    times = html.table(["times", "why"], [[_plain(number), reason] for reason, number in reasons.items()])
    items = manifest["excluded"]
    more = f"<li>and {len(items) - _EXCLUSIONS_LISTED:,} more</li>" if len(items) > _EXCLUSIONS_LISTED else ""
    each = "".join(
        f"<li>{html.text(item['what'])} {html.text(item['where'])}: {html.text(item['reason'])}</li>"
        for item in items[:_EXCLUSIONS_LISTED]
    )
    return f"<h2>Set aside</h2>{times}<details><summary>Which</summary><ul>{each}{more}</ul></details>"


def _draw_html(counts: Mapping[Stratum, int], taken: Mapping[Stratum, int]) -> str:
    values = [sorted({stratum[column] for stratum in counts}) for column in range(len(Stratum._fields))]
    hidden = [
        f"{field} {value or 'unknown'}"
        for column, field in enumerate(Stratum._fields)
        for value in values[column]
        if not any(take and stratum[column] == value for stratum, take in taken.items())
    ]
    missing = f" Too few rows to show: {html.text(', '.join(hidden))}." if hidden else ""
    table = html.table(
        ["dataset or split", "order", "closer", "phase", "rows", "shown"],
        [[*(value or "–" for value in of), _plain(counts[of]), _plain(taken.get(of, 0))] for of in sorted(counts)],
    )
    return (
        "<h2>How these rows were drawn</h2><p>The rows fall into strata by dataset (or split), shown order, closer "
        "frame and phase. Strata with a value not yet shown come first, the rest is spread evenly; so rare kinds are "
        "shown more often here than they stand in the data. Inside a stratum each row is equally likely."
        f"{missing}</p><details><summary>{len(counts)} strata</summary>{table}</details>"
    )


def _card_html(number: int, card: Card, registry: Path, unbuilt: bool) -> str:
    pair, stratum = card.pair, card.stratum
    tags = [(stratum.part, "part"), (stratum.order or "no order", "tag"), (_LABELS.get(stratum.closer, "?"), "label")]
    if stratum.phase:
        tags.append((stratum.phase, "tag"))
    if pair is not None:
        tags.append((f"{pair.distance} frames, {pair.seconds:.2f} s apart", "tag"))
    frames: tuple[int | None, ...] = (None, None)
    if pair is not None:
        frames = (pair.earlier, pair.later) if stratum.order == "forward" else (pair.later, pair.earlier)
    figures = "".join(
        _figure_html(registry, image, f"img{place}", frame, unbuilt)
        for place, (image, frame) in enumerate(zip(card.images, (*frames, *[None] * len(card.images)), strict=False), 1)
    )
    known = f"episode {pair.episode_id} · pair {pair.pair_id} · " if pair is not None else ""
    parts = [
        "<p class='tags'>" + "".join(f"<span class='{kind}'>{html.text(text)}</span>" for text, kind in tags) + "</p>",
        "".join(f"<p class='fault'>{html.text(fault)}</p>" for fault in card.faults),
        f"<div class='pictures'>{figures}</div>" if figures else "",
        f"<h3 dir='auto'>{html.text(pair.task)}</h3>" if pair is not None else "",
        _words("Question", card.question),
        _target_html(card.target),
        f"<footer>{html.text(known + card.where)}</footer>",
    ]
    inner = "\n".join(part for part in parts if part)
    return f"<article id='card-{number}'>\n{inner}\n</article>"


def _words(title: str, text: str | None) -> str:
    return f"<h4>{title}</h4><p class='words' dir='auto'>{html.text(text)}</p>" if text is not None else ""


def _target_html(target: str | None) -> str:
    """The target to the letter: a block for each image's description, the judgment marked."""
    if target is None:
        return ""
    details, newline, judgment = target.rpartition("\n")
    blocks = [f"<span>{html.text(block)}</span>" for block in re.split(r"(?=\bimg[12]:)", details + newline) if block]
    return f"<h4>Target</h4><p class='words target' dir='auto'>{''.join(blocks)}<b>{html.text(judgment)}</b></p>"


def _figure_html(registry: Path, name: str, image_id: str, frame: int | None, unbuilt: bool) -> str:
    caption = f"<b>{image_id}</b>" + (f" frame {frame:,}" if frame is not None else "")
    try:
        if unbuilt:
            raise DataError("no picture was built (frames.format: none)")
        address, size, small = html.embedded(registry, name)
    except DataError as error:
        return f"<figure><div class='missing'>{html.text(error)}</div><figcaption>{caption}</figcaption></figure>"
    drawn = f"<img class='{'small' if small else 'large'}' src='{address}' alt='{image_id}' title='{html.text(name)}'>"
    return f"<figure>{drawn}<figcaption>{caption} <span>{html.text(size)}</span></figcaption></figure>"


_STYLE = """
main { margin-top: 2rem }
.tags .part { border-color: transparent; padding-left: 0; font-weight: 600 }
.target > span { display: block } .target > b { display: block; color: var(--mark) }
@media print { details { display: none } }
"""
