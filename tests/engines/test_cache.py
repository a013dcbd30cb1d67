"""What was said once is not asked again: prompt by prompt, whatever else is asked, killed or not."""

import dataclasses
import json
from pathlib import Path

import pytest

from stcr_plugin import artefacts
from stcr_plugin.engines import cache
from stcr_plugin.engines.cache import collect_responses
from stcr_plugin.engines.sealed import unsealed
from stcr_plugin.errors import DataError
from stcr_plugin.types import ORDERS, Prompt, Response, Shown

SUMS = {f"{number}.png": f"sum of {number}" for number in range(40)}


class Parrot:
    """Counts what reaches it; `dies` after so many answers."""

    def __init__(self, name="parrot", dies=None):
        self.name, self.asked, self.dies = name, [], dies

    def identity(self):
        return {"engine": self.name}

    def respond(self, prompts):
        for number, prompt in enumerate(map(unsealed, prompts)):
            if self.dies is not None and len(self.asked) == self.dies:
                raise KeyboardInterrupt
            self.asked.append((prompt.item, prompt.order))
            yield number, Response(f"{self.name} on {prompt.question}", {"img1": -0.1 - number, "img2": float("-inf")})


def prompts(numbers, words="which?"):
    return [
        Prompt(f"p{number}", "e", order, (Shown(f"{number}.png"),), ("img1",), f"{number} {words}")
        for number in numbers
        for order in ORDERS
    ]


def asked(numbers, **settings):
    """As evaluations ask: a digest of all the data, which differs with how much of it is asked about."""
    return {"data_digest": artefacts.digest(list(numbers)), "settings": settings, "seed": 0}


def ask(engine, out, numbers, words="which?", sums=SUMS, **settings):
    return [
        one.text
        for one in collect_responses(
            engine, prompts(numbers, words), out, asked=asked(numbers, **settings), pictures=sums
        )
    ]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def of_an_earlier_version(out, engine, numbers):
    """said.jsonl and asked.json as they were written before lines had a digest."""
    collect_responses(engine, prompts(numbers), out, asked=asked(numbers), pictures=SUMS)
    rows = [{key: value for key, value in row.items() if key != "prompt"} for row in lines(out / "said.jsonl")]
    (out / "said.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_more_prompts_ask_only_those_that_are_new(tmp_path):
    engine = Parrot()
    ask(engine, tmp_path, range(20))
    found = ask(engine, tmp_path, range(30))
    assert len(engine.asked) == len(set(engine.asked)) == 60
    assert found == ask(Parrot(), tmp_path / "unbroken", range(30))
    assert ask(engine, tmp_path, range(5)) == found[:10]
    assert ask(engine, tmp_path, range(30)) == found
    assert len(engine.asked) == 60


def test_other_settings_keep_the_answers_and_bring_them_back(tmp_path, caplog):
    engine = Parrot()
    ask(engine, tmp_path, range(4))
    kept = (tmp_path / "said.jsonl").read_bytes()
    ask(engine, tmp_path, range(4), "which, mind the order?", warn=True)
    aside = next(tmp_path.glob("said-*.jsonl"))
    assert aside.read_bytes() == kept
    assert f"are kept as {aside.name}, asking again" in caplog.text
    assert len(engine.asked) == 16
    ask(engine, tmp_path, range(6))
    ask(engine, tmp_path, range(3), "which, mind the order?", warn=True)
    assert len(engine.asked) == 20  # two pairs more of the first settings
    ask(Parrot("other"), tmp_path, range(4))
    assert len(list(tmp_path.glob("said-*.jsonl"))) == len(list(tmp_path.glob("asked-*.json"))) == 2


@pytest.mark.parametrize("change", ["words", "picture"])
def test_prompt_of_other_words_or_pictures_alone_is_asked_again(tmp_path, caplog, change):
    engine = Parrot()
    ask(engine, tmp_path, range(4))
    if change == "words":
        again = prompts(range(4))
        again[2:4] = prompts([1], "what?")
        found = [one.text for one in collect_responses(engine, again, tmp_path, asked=asked(range(4)), pictures=SUMS)]
        assert found[1:4] == ["parrot on 0 which?", "parrot on 1 what?", "parrot on 1 what?"]
    else:
        ask(engine, tmp_path, range(4), sums=SUMS | {"1.png": "another"})
    assert sorted(engine.asked[8:]) == [("p1", "backward"), ("p1", "forward")]
    assert "2 responses are to other questions or pictures, asking again" in caplog.text


@pytest.mark.parametrize("numbers", [range(8), range(3, 10)])
def test_run_that_is_killed_again_and_again_asks_each_prompt_once(tmp_path, numbers):
    reached = []
    ask(Parrot(), tmp_path, range(4))
    for dies in (3, 2, 1, None):
        engine = Parrot(dies=dies)
        try:
            found = ask(engine, tmp_path, numbers)
        except KeyboardInterrupt:
            (tmp_path / "said.jsonl").write_bytes((tmp_path / "said.jsonl").read_bytes() + b'{"item": "p')
        reached += engine.asked
    new = [one for one in prompts(numbers) if one not in prompts(range(4))]
    assert sorted(reached) == sorted((one.item, one.order) for one in new)
    assert found == ask(Parrot(), tmp_path / "unbroken", numbers)
    kept = [(row["item"], row["order"]) for row in lines(tmp_path / "said.jsonl")]
    assert len(kept) == len(set(kept))


@pytest.mark.parametrize("step", range(16))
def test_run_that_is_killed_while_it_changes_the_settings_loses_nothing(tmp_path, monkeypatch, step):
    """`step` of the writes and renames between the answers under two settings is where the process ends."""
    ask(Parrot(), tmp_path, range(3))
    ask(Parrot(), tmp_path, range(3), warn=True)
    left = iter(range(step))

    def dying(real):
        def call(*arguments, **more):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(*arguments, **more)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(artefacts, "write_bytes", dying(artefacts.write_bytes))
        patched.setattr(type(tmp_path), "replace", dying(type(tmp_path).replace))
        patched.setattr(type(tmp_path), "unlink", dying(type(tmp_path).unlink))
        try:
            ask(Parrot(), tmp_path, range(3))
        except KeyboardInterrupt:
            assert step < 15
    for settings in ({"warn": True}, {}, {"warn": True}):
        engine = Parrot()
        ask(engine, tmp_path, range(3), **settings)
        assert engine.asked == []


def test_answers_of_earlier_versions_serve_the_same_run_and_are_kept_from_another(tmp_path, caplog):
    of_an_earlier_version(tmp_path / "same", Parrot(), range(3))
    engine = Parrot()
    ask(engine, tmp_path / "same", range(3))
    assert engine.asked == []
    ask(engine, tmp_path / "same", range(4))  # the lines were given their digests
    assert len(engine.asked) == 2

    of_an_earlier_version(tmp_path / "more", Parrot(), range(3))
    old = (tmp_path / "more" / "said.jsonl").read_bytes()
    ask(engine, tmp_path / "more", range(4))
    assert len(engine.asked) == 2 + 8  # of which words and pictures they are is not known
    assert [path.read_bytes() for path in (tmp_path / "more").glob("said-*.jsonl")] == [old]
    assert "asking again" in caplog.text


def test_answers_of_the_version_before_pictures_were_compared_are_used_again(tmp_path):
    """Their digests are of prompts whose pictures had a path and a change, and nothing else."""
    rows = []
    for prompt in prompts(range(2)):
        row = dataclasses.asdict(prompt)
        row["shown"] = [{"image": one.image, "change": one.change} for one in prompt.shown]
        del row["question_first"]
        digest = artefacts.digest([row, [SUMS[one.image] for one in prompt.shown]])
        rows.append({"item": prompt.item, "order": prompt.order, "prompt": digest, "text": f"kept {prompt.question}"})
    (tmp_path / "said.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    artefacts.write_json(tmp_path / "asked.json", asked(range(2)) | {"engine": Parrot().identity()})
    engine = Parrot()
    assert ask(engine, tmp_path, range(2))[::2] == ["kept 0 which?", "kept 1 which?"]
    assert engine.asked == []


def test_prompt_that_is_asked_twice_and_a_spoilt_file_are_refused(tmp_path):
    twice = prompts([1]) + [dataclasses.replace(one, question="again?") for one in prompts([1])]
    with pytest.raises(DataError, match="p1 is asked twice in forward order"):
        collect_responses(Parrot(), twice, tmp_path, asked={}, pictures=SUMS)
    ask(Parrot(), tmp_path, range(2))
    (tmp_path / "said.jsonl").write_text('{"item": 1}\n')
    with pytest.raises(DataError, match=r"said\.jsonl: not responses of an engine .*; delete the file"):
        ask(Parrot(), tmp_path, range(2))


class Odd(Parrot):
    """Says one of `texts` to each prompt."""

    def __init__(self, *texts, lost=""):
        super().__init__()
        self.texts, self.lost = texts, lost

    def respond(self, prompts):
        for number, text in enumerate(self.texts):
            self.asked.append(number)
            yield number, Response(text, lost=self.lost)


def test_any_text_is_kept_and_read_back_as_it_was_first_read(tmp_path):
    texts = ("cut emoji \ud83d", "\udc80\x00\x1b[2J\u2028\u0085\r\n", "whole \ud83d\ude00", "")
    engine = Odd(*texts)
    first = collect_responses(engine, prompts([0, 1]), tmp_path, asked={}, pictures=SUMS)
    again = collect_responses(engine, prompts([0, 1]), tmp_path, asked={}, pictures=SUMS)
    assert again == first
    assert {one.text[:9]: one.lost for one in first} == {
        "cut emoji": "garbled",
        "\N{REPLACEMENT CHARACTER}\x00\x1b[2J\u2028\x85\r": "garbled",
        "whole \N{GRINNING FACE}": "",
        "": "",
    }
    assert len(engine.asked) == 4
    assert ["lost" in row for row in artefacts.read_jsonl(tmp_path / "said.jsonl")] == [True, True, False, False]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_full_disk_is_one_line_and_what_was_said_before_it_is_used_again(tmp_path, monkeypatch):
    engine = Parrot()
    real, left = cache._append, iter(range(2))

    def filling(file, line, path):
        if next(left, None) is None:
            with open("/dev/full", "wb", buffering=0) as full:
                file.write(line.encode()[:9])  # the part that still had room
                return real(full, line, path)
        return real(file, line, path)

    monkeypatch.setattr(cache, "_append", filling)
    with pytest.raises(DataError, match=r"said\.jsonl: could not write a response \(No space left .*; free space"):
        ask(engine, tmp_path, [0, 1, 2])
    monkeypatch.setattr(cache, "_append", real)
    whole = ask(engine, tmp_path, [0, 1, 2])
    assert len(engine.asked) == 3 + 4
    assert whole == ask(Parrot(), tmp_path / "other", [0, 1, 2])
