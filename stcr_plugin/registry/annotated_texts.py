"""Annotated texts in a build: which row of the file describes a pair, and does it describe the pictures of the build?

The file is read once, before a pair is drawn. What datasets can use of it goes into the staging folder, so that
workers need neither the file nor the time to read it, and a review that is saved meanwhile changes nothing:

    texts/<dataset>.parquet            the accepted texts of the dataset's split and languages
    described/<dataset>/00003.parquet  those of the shard's pairs whose pictures are the ones that were described
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stcr_plugin.config import nearest
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.figures import TextCounts
from stcr_plugin.registry import parquet
from stcr_plugin.registry.data_config import DataConfig, DatasetRule
from stcr_plugin.registry.receipts import Accepted, Context, Shard, Text
from stcr_plugin.samples.annotations import COLUMNS, PASSED, Annotation, read_annotations
from stcr_plugin.samples.cot import half
from stcr_plugin.samples.questions import why_unusable
from stcr_plugin.types import Exclusion, Pair

# Bits of 256 in which fingerprints of one frame may differ. Measured on videos of two real robots, PNG and JPEG, native
# size down to 56 x 56: at most 30 for the same frame; 19 (median) for frames 0.3 s apart, 55 for 2 s, 98 for two
# episodes, 85 for a cropped frame. So in other sizes a near frame passes. Stored in the same way, as the name of the
# folder says, a frame is the same to the bit, but for what another version of a decoder changes.
SAME_FRAME = 32
SAME_STORE = 2
_COLUMNS = dict.fromkeys(Text.__dataclass_fields__, "string") | {"passed": "list", "refuted": "list"}
# Words of the format of a target text: a text that names img1 is false in the other order of the pair.
_FORMAT = re.compile(r"\bimg\s?[12]\b|closer[ _]to[ _]completion|spatial[ _]details", re.IGNORECASE)


# ---- from the file into the staging folder ----


def stage_texts(config: DataConfig, staging: Path) -> list[Exclusion]:
    """Write what the datasets can use of their files of annotated texts; the texts that cannot be used.

    Raises:
        ConfigError: For a file that is missing, or has nothing for the split or the languages of a dataset.
        DataError: For a file that cannot be read, with the row.
    """
    files: dict[str, dict[str, DatasetRule]] = {}
    for key, rule in config.datasets.items():
        if rule.texts is not None:
            files.setdefault(rule.texts, {})[key] = rule
    excluded: list[Exclusion] = []
    for file, rules in files.items():
        if not Path(file).is_file():
            fix = "run `stcr annotate`, or give the path from the folder in which the build is started"
            raise ConfigError(f"datasets.{next(iter(rules))}.texts", f"{file}: no such file", fix)
        found = _read(file, rules)
        excluded += found.excluded
        for key in rules:
            texts = [text for _, text in found.best[key].values()]
            parquet.write(staging / "texts" / f"{key}.parquet", [vars(text) for text in texts], _COLUMNS)
    return excluded


def staged_texts(config: DataConfig, staging: Path) -> dict[str, Accepted]:
    """Dataset -> pair id -> its accepted texts, as `stage_texts` wrote them."""
    found: dict[str, Accepted] = {}
    for key, rule in config.datasets.items():
        if rule.texts is not None:
            found[key] = _by_pair(_texts(staging / "texts" / f"{key}.parquet"))
    return found


_Shown = tuple[str, str, str, str]
_Best = dict[tuple[str, str], tuple[tuple[bool, int], Text]]


@dataclass(frozen=True)
class _Read:
    """Dataset -> (pair id, language) -> the best candidate and its place among the pair's candidates."""

    best: dict[str, _Best]
    excluded: list[Exclusion] = field(default_factory=list)


def _read(file: str, rules: Mapping[str, DatasetRule]) -> _Read:
    found = _Read({key: {} for key in rules})
    used: Counter[tuple[str, str]] = Counter()
    refuted: dict[_Shown, tuple[str, str]] = {}
    for number, row in enumerate(read_annotations(file), 1):
        if row.refuted and _why_unusable(row) is None:
            refuted.setdefault(_shown(row), (half(row.earlier_text), half(row.later_text)))
        if not row.used:
            continue
        used[row.split, row.language] += 1
        wanted = [key for key, rule in rules.items() if rule.split == row.split and row.language in rule.languages]
        reason = _why_unusable(row) if wanted else None
        if reason:
            found.excluded.append(Exclusion("text", f"{file}, text {number}", reason))
            continue
        place = (row.review != "accept", row.sample)
        for key in wanted:
            known = found.best[key].get((row.pair_id, row.language))
            if known is None or place < known[0]:
                found.best[key][row.pair_id, row.language] = (place, _text(row))
    for key, rule in rules.items():
        _refuse_other_texts(key, rule, used)
        if rule.against == "sampled":
            found.best[key] = _beside_refuted(key, file, found.best[key], refuted=refuted)
    return found


def _shown(row: Annotation | Text) -> _Shown:
    """What a candidate is about: the pair, the language, and the two pictures."""
    return row.pair_id, row.language, row.earlier_fingerprint, row.later_fingerprint


def _beside_refuted(key: str, file: str, best: _Best, *, refuted: Mapping[_Shown, tuple[str, str]]) -> _Best:
    """The accepted texts that have a refuted candidate beside them, with it. Raises DataError where none has."""
    kept = {
        of: (place, replace(text, refuted=refuted[_shown(text)]))
        for of, (place, text) in best.items()
        if _shown(text) in refuted
    }
    if not kept:
        raise DataError(
            f"datasets.{key}.texts",
            f"not one accepted text of {file} has a refuted candidate for the same pictures beside it",
            "annotate with --samples 4 or more, and with a check that refutes (claims, confirmed, or a review)",
        )
    return kept


def _refuse_other_texts(key: str, rule: DatasetRule, used: Counter[tuple[str, str]]) -> None:
    """Raises ConfigError or DataError where no text of the file is of the dataset's split and languages."""
    if not used:
        fix = "accept some in its review, or annotate again with fewer checks"
        raise DataError(rule.texts or "", "not one of its texts is accepted", fix)
    splits = {split for split, _ in used}
    if rule.split not in splits:
        problem = f"{rule.texts} has texts of split {_listed(splits)}, the dataset is of split {rule.split!r}"
        fix = f"annotate that split: {nearest(rule.split, sorted(splits))}"
        raise ConfigError(f"datasets.{key}.texts", problem, fix)
    languages = {language for split, language in used if split == rule.split}
    if not languages & set(rule.languages):
        problem = f"{rule.texts} has texts in {_listed(languages)} and none in {_listed(rule.languages)}"
        raise ConfigError(f"datasets.{key}.languages", problem, f"set languages: [{', '.join(sorted(languages))}]")


def _listed(words: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(words)))


def _text(row: Annotation) -> Text:
    passed = [name for name, columns in COLUMNS.items() if all(getattr(row, one) == PASSED for one in columns)]
    return Text(
        pair_id=row.pair_id,
        task=row.task,
        closer=row.closer,
        language=row.language,
        earlier=half(row.earlier_text),
        later=half(row.later_text),
        pictures="/".join(row.earlier_image.split("/")[:2]),
        earlier_fingerprint=row.earlier_fingerprint,
        later_fingerprint=row.later_fingerprint,
        accepted_by="person" if row.review == "accept" else "checks",
        describer=row.describer,
        verifier=row.verifier,
        passed=tuple(passed),
    )


def _why_unusable(row: Annotation) -> str | None:
    """Why the texts must not be in a target text, or None."""
    for text in (half(row.earlier_text), half(row.later_text)):
        if reason := why_unusable(text, "the annotated text"):
            return reason
        if _FORMAT.search(text):
            return "the annotated text names img1 or img2, or holds a judgment"
    return None


# ---- which texts describe which pairs ----


def text_of(texts: Sequence[Text], pair: Pair) -> tuple[list[Text], str]:
    """The texts that are about this pair, and why none of them is."""
    about = [text for text in texts if text.task == pair.task]
    same = [text for text in about if text.closer == pair.closer]
    reason = "has no accepted text" if not texts else "has another task" if not about else "has another label"
    return same, "" if same else reason


def count_described(context: Context, split: str, pairs: Sequence[Pair]) -> tuple[dict[str, int], Counter[str]]:
    """Dataset -> how many of the drawn pairs have a text, and reason -> how many have none."""
    described: dict[str, int] = {}
    wordless: Counter[str] = Counter()
    for key, accepted in context.texts.items():
        rule = context.config.datasets[key]
        if rule.split == split:
            reasons = [text_of(accepted.get(pair.pair_id, ()), pair)[1] for pair in pairs]
            described[key] = reasons.count("")
            wordless.update(f"dataset {key}: {reason} in {rule.texts}" for reason in reasons if reason)
    return described, wordless


def match_pictures(
    context: Context, shard: Shard, pairs: Sequence[Pair], *, prints: Mapping[str, str]
) -> tuple[dict[str, dict[str, int]], list[Exclusion]]:
    """Stage the texts of the pairs whose pictures are the ones that were described.

    Args:
        context: Of the build.
        shard: Of which the pairs are.
        pairs: With the names of their pictures.
        prints: Name of a picture -> its fingerprint, "" where no picture is stored.

    Returns:
        Dataset -> native frames between the two -> pairs, and the pairs that show something else.
    """
    described: dict[str, dict[str, int]] = {}
    excluded: list[Exclusion] = []
    for key, accepted in context.texts.items():
        rule = context.config.datasets[key]
        if rule.split != shard.split:
            continue
        distances: Counter[int] = Counter()
        kept: list[Text] = []
        for pair in pairs:
            texts, _ = text_of(accepted.get(pair.pair_id, ()), pair)
            shown = (prints[pair.earlier_image], prints[pair.later_image])
            same = [text for text in texts if _is_of(text, shown, context.place.pictures)]
            if same:
                kept += same
                distances[pair.distance] += 1
            elif texts:
                where = f"episode {pair.episode_id}, frames {pair.earlier}-{pair.later}"
                excluded.append(Exclusion("text", where, f"its pictures are not those described in {rule.texts}"))
        parquet.write(_described(context, key) / shard.file, [vars(text) for text in kept], _COLUMNS)
        described[key] = {str(frames): distances[frames] for frames in sorted(distances)}
    return described, excluded


def described(context: Context, key: str, shard: Shard) -> Accepted:
    """Pair id -> the texts of the pairs that the dataset can use, of a shard or (number -1) of the whole split."""
    folder = _described(context, key)
    files = [folder / shard.file] if shard.number >= 0 else sorted(folder.glob("*.parquet"))
    return _by_pair(text for file in files for text in _texts(file))


def _is_of(text: Text, shown: tuple[str, str], pictures: str) -> bool:
    stored = (text.earlier_fingerprint, text.later_fingerprint)
    return same_pictures(stored, shown, same_store=text.pictures == pictures)


def same_pictures(stored: tuple[str, str], shown: tuple[str, str], *, same_store: bool) -> bool:
    """Whether two fingerprints are of the pictures with the others, each of its own rather than of the other one.

    Args:
        stored: Of the earlier and the later picture that a row is about.
        shown: Of those of a build, "" where no picture is stored; nothing is then compared.
        same_store: Both are in a folder of one name, which holds the digest of all that decides its pictures.
    """
    if not all(shown):
        return True
    right = [bits(one, other) for one, other in zip(stored, shown, strict=True)]
    crossed = [bits(one, other) for one, other in zip(stored, shown[::-1], strict=True)]
    return max(right) <= (SAME_STORE if same_store else SAME_FRAME) and sum(right) <= sum(crossed)


def bits(one: str, other: str) -> int:
    """In how many bits two fingerprints differ; more than there are where one is not a fingerprint."""
    if len(one) != len(other) or not re.fullmatch(r"[0-9a-f]+", one):
        return 4 * max(len(one), len(other)) + 1
    return (int(one, 16) ^ int(other, 16)).bit_count()


def _described(context: Context, key: str) -> Path:
    return context.place.staging / "described" / key


def _texts(path: Path) -> Iterable[Text]:
    return (
        Text(**{**row, "passed": tuple(row["passed"]), "refuted": tuple(row["refuted"])}) for row in parquet.read(path)
    )


def _by_pair(texts: Iterable[Text]) -> Accepted:
    found: dict[str, tuple[Text, ...]] = {}
    for text in texts:
        found[text.pair_id] = (*found.get(text.pair_id, ()), text)
    return found


# ---- what is known of them ----


def count_texts(annotated: Accepted, used: Mapping[str, str]) -> TextCounts:
    """The figures of the texts that are used: pair id -> the language in which it is used."""
    texts = [text for name, language in used.items() for text in annotated[name] if text.language == language]

    def counted(values: Iterable[str]) -> dict[str, int]:
        return dict(sorted(Counter(value for value in values if value).items()))

    by_person = sum(text.accepted_by == "person" for text in texts)
    return TextCounts(
        pairs=len(texts),
        by_checks=len(texts) - by_person,
        by_person=by_person,
        passed=counted(name for text in texts for name in text.passed),
        describers=counted(text.describer for text in texts),
        verifiers=counted(text.verifier for text in texts),
    )
