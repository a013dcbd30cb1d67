"""The check for words of time, order and progress, on lists of sentences and on the package's own claim texts."""

import itertools
from pathlib import Path

import pytest

from stcr_plugin.annotation.leak_check import leak
from stcr_plugin.config import read_yaml
from stcr_plugin.samples.annotations import PASSED
from stcr_plugin.samples.cot import load_phrases

SENTENCES = read_yaml(Path(__file__).parent / "leak_sentences.yaml")
LANGUAGES = ("en", "zh")
NUMBERS = ("0", "5", "45", "100")
PROGRESS_BY_DESIGN = {"motion_done": NUMBERS, "phase": ("done",)}  # values that say how much is done


def lines(language, part):
    found = SENTENCES[language][part].splitlines()
    assert len(set(found)) == len(found)
    return found


def found_among(sentences):
    return [one for one in sentences if leak(one) != PASSED]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_listed_leak_is_found_and_no_innocent_sentence_is(language):
    leaking, innocent = lines(language, "leaking"), lines(language, "innocent")
    assert min(len(leaking), len(innocent)) >= 60
    assert [one for one in leaking if leak(one) == PASSED] == []
    assert [(one, leak(one)) for one in innocent if leak(one) != PASSED] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_most_leaks_of_a_heldout_list_are_found_with_few_false_alarms(language):
    leaking, innocent = lines(language, "heldout_leaking"), lines(language, "heldout_innocent")
    assert len(found_among(leaking)) / len(leaking) >= 0.76
    assert len(found_among(innocent)) / len(innocent) <= 0.04


def claim_texts(kind, language):
    """Every text that the claim phrases of a kind of source can write, with its family and the value's own word."""
    texts_of = load_phrases(kind)
    phrases, translated = texts_of[language], texts_of["zh"].words
    for family, phrase in phrases.claims.items():
        values = NUMBERS if "%" in phrase or "cm" in phrase or "厘米" in phrase else tuple(translated)
        for value, part in itertools.product(values, ("left", "right") if "{part}" in phrase else ("",)):
            said = {name: phrases.words.get(word, word) for name, word in (("value", value), ("part", part))}
            yield family, value, phrase.format(**said)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", ["tabletop", "metaworld", "lerobot"])
def test_of_the_claim_texts_only_those_that_speak_of_progress_fail(kind, language):
    texts = [one for one in claim_texts(kind, language) if one[0] == "phase" or one[1] != "done"]
    assert len(texts) > 20
    for family, value, text in texts:
        by_design = value in PROGRESS_BY_DESIGN.get(family, ())
        assert (leak(text) != PASSED) == by_design, (text, leak(text))
        assert not by_design or leak(text).startswith("word of progress: ")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("The cup is on the plate. The lid is already off.", "word of time: already"),
        ("It's higher than in img1.", "word of order: img1"),
        ("The task is almost DONE", "word of progress: done"),
        ("夹爪 already 张开。", "word of time: already"),
        ("杯子在ｉｍｇ２中更高。", "word of order: img2"),
        ("The well-done steak is next to the finished wood board.", PASSED),
    ],
)
def test_the_verdict_names_reason_and_word_whatever_the_language(text, verdict):
    assert leak(text) == verdict
