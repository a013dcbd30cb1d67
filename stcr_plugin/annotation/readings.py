"""Responses of a teacher -> the texts of pictures, or why there is none."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stcr_plugin.samples.annotations import PASSED
from stcr_plugin.samples.questions import why_unusable
from stcr_plugin.scoring.factuality import own_halves
from stcr_plugin.scoring.parsing import why_lost
from stcr_plugin.scoring.reasoning import behind_reasoning, tagged
from stcr_plugin.types import Prompt, Response

# Reasons of the check `described`.
EMPTY, REFUSED, CUT, GARBLED = "empty", "refused", "cut", "garbled"
REASONING_ONLY, CHAT_MARKER, ONE_PICTURE = "reasoning only", "chat marker", "one picture"

_REFUSAL = re.compile(
    r"(?:i['’]?m|i am|we['’]?re) (?:very |so |really )?(?:sorry|afraid)\b|(?:sorry|my apologies|unfortunately)[,.!:]"
    r"|i apologi[sz]e|as an ai\b"
    r"|i(?: am|['’]m)? (?:can['’]?t|cannot|can not|won['’]?t|will not|(?:not able|unable) to|do not|don['’]t) "
    r"(?:see (?:the|any|an|a) (?:image|picture|photo)|(?:help|assist|describe|view|provide|identify|analy[sz]e|comply"
    r"|access|have)\b)"
    r"|(?:很|非常)?(?:抱歉|对不起|遗憾)|作为(?:一个|一名)?(?:ai|人工智能)"
    r"|我?(?:无法|不能|没法|没有办法)(?:直接)?(?:查看|看到(?:图|照)片|描述|提供|协助|帮|识别|分析|回答|访问)",
    re.I,
)
_FENCE = re.compile(r"^[ \t]*```.*$", re.M)
_LINE_START = re.compile(r"^[ \t]*(?:#{1,6}[ \t]+|>[ \t]?|[-*+•][ \t]+|\d{1,2}[.)、][ \t]*(?=\D))+")
_MARKUP = re.compile(r"\*\*|__|`|(?<![\w*])\*(?=\S)|(?<=\S)\*(?![\w*])")
_QUOTES = " \t\"'“”‘’「」『』"
_NOUN = r"(?:image|picture|photo|img|frame|scene)"
_LABEL = re.compile(
    rf"(?:(?:the[ ])?{_NOUN}[ ]?[12]?"
    rf"|(?:the[ ])?(?:{_NOUN}[ ])?descriptions?(?:[ ]of[ ](?:the|this)[ ]{_NOUN})?"
    r"|here(?:['’]s|[ ]is)[^:\n.]{0,60}|spatial[ ]details"
    r"|(?:这张|本)?(?:图片|图像|图)(?:描述)?[12]?|描述)[ ]?[:：][ ]*",
    re.I,
)
_SHOWS = re.compile(
    rf"(?:the|this)[ ]{_NOUN}[ ](?:shows?|depicts?|displays?|illustrates?|captures?|presents?)[ ](?:that[ ])?"
    rf"|in[ ](?:the|this)[ ]{_NOUN},[ ](?:we[ ](?:can[ ])?see[ ](?:that[ ])?|you[ ]can[ ]see[ ](?:that[ ])?)?"
    r"|(?:从|在)?(?:这张|该|此)?(?:图片|图像|画面|图)中?(?:可以看到|能看到|可以看出|显示的是|显示|展示了|展示|呈现)[，,:：]?",
    re.I,
)
_ENDS = ".!?。！？;；:：,，、\"'”’"


@dataclass(frozen=True)
class Reading:
    """What a response says of one picture.

    Attributes:
        text: "" where there is none to use.
        described: Verdict of the check `described`.
    """

    text: str
    described: str = PASSED


def read_text(response: Response) -> Reading:
    """The text of the one picture that was shown.

    Quotes, Markdown, a heading such as `img1:` and a beginning such as "The image shows" are removed; sentences stay
    as they are written.
    """
    held = _held(response)
    return held if isinstance(held, Reading) else _usable(held)


def read_halves(response: Response, prompt: Prompt) -> tuple[Reading, Reading]:
    """The texts of the first and of the second picture of `prompt`, without a judgment behind them."""
    held = _held(response)
    if isinstance(held, Reading):
        return held, held
    halves = own_halves(_plain(held), prompt.names)
    if halves is None:
        return Reading("", ONE_PICTURE), Reading("", ONE_PICTURE)
    return _usable(halves[0]), _usable(halves[1])


def _held(response: Response) -> str | Reading:
    """What a response says behind its reasoning; a Reading without text where it says nothing."""
    behind = behind_reasoning(response.text)
    if response.lost or why_lost(response):
        began = behind is None or (not behind.strip() and response.text.strip())
        return Reading("", REASONING_ONLY if began and response.lost != REFUSED else response.lost or CUT)
    if behind is None or not behind.strip():
        return Reading("", REASONING_ONLY if response.text.strip() else EMPTY)
    inner = tagged(behind)
    text = inner[0] if inner else behind
    if _REFUSAL.match(text.strip(_QUOTES + "\r\n*#")):
        return Reading("", REFUSED)
    return text


def _usable(text: str) -> Reading:
    plain = " ".join(_plain(text).split()).strip(_QUOTES)
    plain = _without_start(plain).strip(_QUOTES)
    if not re.search(r"\w", plain):
        return Reading("", EMPTY)
    if _REFUSAL.match(plain):
        return Reading("", REFUSED)
    if why_unusable(plain):
        return Reading("", CHAT_MARKER)
    return Reading(plain)


def _without_start(text: str) -> str:
    """`text` without the heading and the words that say that a picture is described."""
    if label := _LABEL.match(text):
        text = text[label.end() :].strip(_QUOTES)
    if shows := _SHOWS.match(text):
        text = text[shows.end() :].strip(_QUOTES)
        text = text[:1].upper() + text[1:]
    return text


def _plain(text: str) -> str:
    """`text` without Markdown: each line but the last ends as a sentence, a heading with a colon."""
    lines = []
    for line in _FENCE.sub("", text.replace("\r\n", "\n")).split("\n"):
        bare = _MARKUP.sub("", _LINE_START.sub("", line)).strip()
        if bare:
            lines.append((bare, ":" if line.lstrip().startswith("#") else _full_stop(bare)))
    ended = [bare if bare[-1] in _ENDS else bare + end for bare, end in lines[:-1]]
    return "\n".join([*ended, *(bare for bare, _ in lines[-1:])])


def _full_stop(text: str) -> str:
    return "。" if re.search(r"[\u4e00-\u9fff][^\w]*$", text) else "."
