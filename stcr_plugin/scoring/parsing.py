"""Response of a model -> the picture that it names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stcr_plugin.scoring.mentions import MARK, OTHER, are_pictures, index, mark, marked, marks, normal
from stcr_plugin.scoring.reasoning import behind_reasoning, last_match, tagged
from stcr_plugin.types import Answer, Choice, Lost, Prompt, Query, Response

NEITHER = "neither"
"""The answer of a pair whose two pictures are equally close, where it is offered."""

# Patterns of normal and marked text: every picture that is named is one MARK in it (see mentions).
_KEY = re.compile(
    r"(?:close(?:r|st)[\s_-]+to[\s_-]+(?:the[\s_-]+)?completion|[更最]接近(?:任务)?完成(?:的(?:图片|图)?)?是?)"
    r"[\s\"'`*_]*[:=]",
    re.I,
)
# What another answer line begins with: it counts where it is the last one, or the only one.
_ANSWER = re.compile(
    r"(?:(?:^|\n)[\s>*#_-]{0,8}|[.!?。]\s{0,3})(?:(?:so|thus|therefore|hence)[, ]{1,2})?"
    r"(?:(?:(?:my|the|your|final|correct)[ ]){0,3}answer(?:[\s*_\"'`]{0,6}[:=]|[ ]is\b[ :]{0,2})"
    r"|(?:所以|因此)?[,，]?(?:我的|最终|正确)?的?(?:答案|回答)[*_]{0,2}[是为:][:]?)"
    r"|[{,]\s{0,8}\"(?:final[ _])?answer\"\s{0,3}:",
    re.I,
)
_MARKUP = " \t\"'`*_>#-"
_NAMED = rf"(?:the[ \t])?[\"'`*_(]{{0,4}}{MARK}[\"'`*_)]{{0,4}}"
# Says what a picture shows, not that it is the answer: reasoning that was cut before its verdict.
_HEADING = re.compile(
    r"spatial[\s_-]{1,3}details"
    rf"|{MARK}[\"'`*_)\]]{{0,4}}[ \t]{{0,3}}(?::|[-–—][ \t]|shows?\b|depicts?\b|显示|展示|中)"
    rf"|^[ \t>*#(\"'`-]{{0,8}}{MARK}[*_\"'`]{{0,4}}[.)]{{1,2}}[*_\"'`]{{0,4}}[ \t]+\S"
    rf"|(?:^|[.!?。]\s?)(?:in|在)[ \t]?{_NAMED}",
    re.I | re.M,
)
_NOT = r"(?:(?<![a-z])(?:not|cannot)(?![a-z])|n['’]t|不|没|未|并非)"
_NOT_IT = re.compile(rf"{_NOT}是?[ \t]{{0,3}}{_NAMED}", re.I)
_NOT_AT_ALL = re.compile(rf"{_NOT}|(?<![a-z])(?:less(?![a-z])|f[au]rther from(?![a-z]))|离完成更远", re.I)
# All pictures, none of which is chosen.
_NONE_OF = re.compile(
    rf"(?<![a-z0-9])neither[ \t]+(?:of[ \t]+)?{_NAMED}(?:[ \t]*(?:,|nor|or|and)[ \t]*{_NAMED}){{1,7}}"
    rf"|{_NAMED}(?:[ \t]*(?:和|与|跟|及|、|,|and)[ \t]*{_NAMED}){{1,7}}"
    r"[ \t]*(?:两者|两张图片?|二者)?(?:都|均)(?:不|没)",
    re.I,
)
# Not the "neither" of "neither the cube nor the gripper has moved", which speaks of things.
_NEITHER = re.compile(r"(?<![a-z0-9])neither(?![a-z0-9])(?![^.\n]{0,100}(?<![a-z0-9])nor(?![a-z0-9]))|都不", re.I)

_THEN = r"(?:[\s,;>、→*_\"'`()\[\]-]|(?<![a-z])(?:and|then)(?![a-z])|和|然后){1,12}"
_LIST = re.compile(
    rf"(?:^|[:=是]|(?<![a-z])is)[\s>*#\"'`_(\[-]*(?:the\s)?({MARK}(?:{_THEN}{MARK}){{0,7}})[\s.,;。()\]}}*\"'`_-]*$",
    re.I,
)
# The key of a verdict, not of a format that is quoted in the middle of a line: `"closer to completion": "img1"`.
_STARTS = re.compile(r"(?:^|\n)[\s>*#_-]{0,8}$|[{,]\s{0,8}[\"']$")
# Nothing, or the other part of the format that was asked for: a text that answers from its start on.
_ANSWERS_FROM_START = re.compile(r"[\s>*#\"'`_{-]*(?:json\s*)?[\s>*#\"'`_{-]*(?:spatial[\s_-]{1,3}details\b|\Z)", re.I)
_GOES_ON = re.compile(r"(?:[,/|&、和与或跟及]|(?<![a-z])(?:and|or|nor|not))[\s\"'`*_]*$", re.I)
_ALONE = re.compile(rf"[\W_]*(?:the[ \t])?{MARK}[\W_]*", re.I)
_VALUE = re.compile(r"\s*\"([^\"\n]*)\"\s*(?:[,}\]]|$)")  # of a key in JSON
_LINE_OF_A_LIST = re.compile(rf"[\s>*#0-9.、()\"'`_-]*{MARK}[\s.,;。()*\"'`_-]*")


def answered(query: Query, prompt: Prompt, response: Response) -> Answer:
    """The answer to `query`: the likeliest name where names were compared, else the one that the text names."""
    named = named_in(response, prompt.names)
    return Answer(
        query.pair.pair_id,
        query.pair.episode_id,
        query.order,
        query.answer,
        choice(named, prompt.names),
        response.text,
        **{f"logprob_{choice(name, prompt.names)}": score for name, score in response.logprobs.items()},
        prompt_tokens=response.prompt_tokens,
        completion_tokens=response.completion_tokens,
        lost=why_lost(response) if named is None else "",
    )


def why_lost(response: Response) -> Lost:
    """Why a response that names nothing does so: also "cut" where a reasoning was begun and not ended."""
    if not response.lost and not response.logprobs and behind_reasoning(normal(response.text)) is None:
        return "cut"
    return response.lost


def choice(name: str | None, names: Sequence[str]) -> Choice | None:
    """The canonical name (img1, img2, neither) of one of a pair's `names`."""
    if name is None:
        return None
    found: dict[str, Choice] = {names[0]: "img1", names[1]: "img2", NEITHER: "neither"}
    return found[name]


def named_in(response: Response, names: Sequence[str]) -> str | None:
    """The likeliest of `names` where they were compared, else the one that the text names; None for none or several."""
    if response.logprobs:  # without a text two names were equally likely
        return max(response.logprobs, key=response.logprobs.__getitem__) if response.text else None
    if response.lost in ("refused", "garbled"):
        return None
    return parse(response.text, names, cut=response.lost == "cut")


def order_in(response: Response, names: Sequence[str]) -> tuple[str, ...] | None:
    """The pictures as the text of `response` lists them, see `parse_order`."""
    if response.lost in ("refused", "garbled"):
        return None
    return parse_order(response.text, names, cut=response.lost == "cut")


def parse(text: str, names: Sequence[str] = ("img1", "img2"), *, cut: bool = False) -> str | None:
    """The one of `names` that `text` says is closer to completion; None (unparsed) where it names none or several.

    The last `closer to completion:` line decides (also `closer_to_completion`, `closest`, 更接近完成, in JSON,
    Markdown, full-width signs and any case), or an `Answer:` (答案：) behind it; where nothing follows the colon, the
    next line that has words. A text without that key counts only if it names exactly one picture, not as a heading
    (`img1: ...`, "img1 shows ...") and without a "not": a description that was cut chooses nothing.

    A picture is named by its name or position: `img1`, `img 1`, `image 1`, `frame 1`, "the first picture", 第一张图,
    图1; on the deciding line also "the first one", and "first" alone. A position without a name (`img3` of two) makes
    the answer unparsed. Letters (`A`, "picture A", "(A)") count where the names are letters: in lower case after such a
    word or alone on the deciding line, since elsewhere "a" is an article; so is the `A` of "A cup". Names that are not
    pictures' ("yes", "left") are searched as they are.

    Reasoning does not count: only what follows its last `</think>` (see `behind_reasoning`) is read, and nothing where
    one was begun and not ended. The last `<answer>...</answer>` or `\\boxed{...}` is read like the deciding line.
    Of a text that was `cut`, a name counts alone, or on a `closer to completion:` line of its own: the last line, or
    one that the text begins with, but for the spatial details.

    With "neither" among the names, it is an answer too, in the same positions: `neither`, `neither img1 nor img2`,
    都不, `img1和img2都不`. A picture beside it (`img1 or neither`) makes the answer unparsed.
    """
    pictures = _pictures(names)
    plain = behind_reasoning(normal(text))
    if plain is None:
        return None
    held = tagged(plain)
    if held and not _KEY.search(plain, held[1]):
        cut = cut and plain[held[1] - 1] not in ">}"
        plain = held[0]
    key = _last_key(plain)
    if key:
        after = plain[key.end() :]
        value = _VALUE.match(after) if key[0].rstrip(" :=").endswith('"') else None
        lines = [line for line in after.split("\n") if line.strip(_MARKUP)]
        line = marked(value[1] if value else "".join(lines[:1]), pictures, deciding=True)
        more = bool(re.search(r"\w", after[value.end() :])) if value else len(lines) > 1
        if cut and (_GOES_ON.search(after) or not _is_verdict(key, line, more=more)):
            return None
    else:
        line = marked(plain, pictures, deciding=bool(held) and "\n" not in plain)
        if cut and not (_ALONE.fullmatch(line) or (NEITHER in names and line.strip(_MARKUP + ".").lower() == NEITHER)):
            return None
    doubts = ((_NOT_IT,) if key and key.re is _KEY else (_HEADING, _NOT_AT_ALL)) if are_pictures(pictures) else ()
    if NEITHER in names:
        line = _NONE_OF.sub(lambda found: f" {NEITHER} " if _all_of(marks(found[0]), pictures) else found[0], line)
        if _NEITHER.search(line):
            return None if marks(line) or (not key and _HEADING.search(line)) else NEITHER
    named = set(marks(line))
    if len(named) != 1 or OTHER in named or any(doubt.search(line.strip()) for doubt in doubts):
        return None
    return pictures[index(named.pop())]


def _last_key(text: str) -> re.Match[str] | None:
    """The key of the line that decides."""
    key = last_match(_KEY, text)
    return last_match(_ANSWER, text, key.end() if key else 0) or key


def _is_verdict(key: re.Match[str], line: str, *, more: bool) -> bool:
    """Whether the `line` behind `key`, of a cut text, is its answer, and not a quotation of the format.

    Where more is written behind the name, a text that reasons before it may go on to any answer.
    """
    before = key.string[: key.end() - len(key[0].lstrip(_MARKUP + "\n.!?。{,"))]
    last = not more and (_ALONE.fullmatch(line) or _NEITHER.search(line))
    from_start = key.re is _KEY and _ANSWERS_FROM_START.match(before)
    return bool(_STARTS.search(before)) and bool(last or from_start)


def parse_order(text: str, names: Sequence[str], *, cut: bool = False) -> tuple[str, ...] | None:
    """The pictures as `text` lists them, closest to completion first; None where it does not list each exactly once.

    The last line that names a picture decides. It is a list, or has one after its colon: `img3, img1, img2`,
    `img3 > img1 > img2`, 第三张图、第一张图、第二张图, a JSON list; or the text ends in lines of one picture each.
    Names, reasoning and tags as in `parse`; "neither" has no position in an order. Of a text that was `cut`, the list
    must be its last line.
    """
    pictures = _pictures(names)
    plain = behind_reasoning(normal(text))
    if plain is None:
        return None
    if held := tagged(plain):
        plain = held[0]
    written = [marked(line, pictures) for line in plain.split("\n") if line.strip()]
    lines = [line for line in written if marks(line)]
    if not lines or (cut and not marks(written[-1])):
        return None
    single = [bool(_LINE_OF_A_LIST.fullmatch(line)) for line in lines]
    size = len(pictures)
    if size > 1 and all(single[-size:]) and not any(single[:-size]):
        listed = "".join(lines[-size:])
    else:
        found = _LIST.search(lines[-1])
        listed = found[1] if found and marks(found[1]) == marks(lines[-1]) else ""
    order = marks(listed)
    if len(order) != size or not _all_of(order, pictures):
        return None
    return tuple(pictures[index(one)] for one in order)


def _pictures(names: Sequence[str]) -> list[str]:
    return [name for name in names if name != NEITHER]


def _all_of(found: Sequence[str], pictures: Sequence[str]) -> bool:
    return set(found) == {mark(number) for number in range(len(pictures))}
