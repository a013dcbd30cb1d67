"""What a model says as its answer: behind its reasoning, and inside the tags that it puts an answer in."""

from __future__ import annotations

import re

_WORD = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis|scratchpad|思考(?:过程)?)"
# Also Magistral's, Kimi-VL's, the tokens of OpenThinker, Command A, Apertus and harmony, and Granite's sentences.
_OPEN = re.compile(
    rf"<[ ]?{_WORD}(?:[ ][^<>\n]{{0,80}})?>|\[THINK\]|◁think▷|<\|channel\|?>[ ]?(?:analysis|commentary|thought)"
    r"|<\|(?:begin_of_thought|START_THINKING|inner_prefix|think(?:ing)?)\|>|\Aanalysis(?=\w)"
    r"|(?:^|(?<=\n))here(?: is|['’]s) my thought process:",
    re.I,
)
_CLOSE = re.compile(
    rf"<[ ]?/[ ]?{_WORD}[ ]?>|\[/THINK\]|◁/think▷|<\|channel\|>[ ]?final[^<\n]{{0,40}}(?:<\|message\|>)?|<channel\|>"
    r"|<\|(?:end_of_thought|END_THINKING|inner_suffix|/think(?:ing)?)\|>|assistant ?final(?![a-z ])|assistantfinal"
    r"|(?:^|(?<=\n))here(?: is|['’]s) my response:",
    re.I,
)
_TAGS = (
    r"<[ ]?(?P<tag>answer|final[_ ]answer|conclusion|solution|答案)[ ]?>(?P<told>.*?)(?:<[ ]?/[ ]?(?P=tag)[ ]?>|\Z)",
    r"<\|begin_of_(?P<token>box|solution)\|>(?P<held>.*?)(?:<\|end_of_(?P=token)\|>|\Z)",
    r"\\boxed[ ]?\{(?P<boxed>[^{}]*(?:\{[^{}]*\}[^{}]*)*)\}",
)
_TAGGED = re.compile("|".join(_TAGS), re.I | re.S)
_STYLE = re.compile(r"\\(?:text|math)?(?:bf|rm|it|tt|sf)?(?:series|shape)?[ ]?(?=\{)|[{}]|\\(?=[ _])")


def behind_reasoning(text: str) -> str | None:
    """What follows the last mark that ends a reasoning, all where there is none; None where one was begun since.

    A mark that ends a reasoning counts without one that begins it, which the model's template may have written.
    """
    last = last_match(_CLOSE, text)
    end = last.end() if last else 0
    return None if _OPEN.search(text, end) else text[end:]


def ends_unbegun(text: str) -> bool:
    """Whether a reasoning ends in `text` whose beginning is not in it: the model's template writes it."""
    end = _CLOSE.search(text)
    return end is not None and _OPEN.search(text, 0, end.start()) is None


def marks_none(text: str) -> bool:
    """Whether no reasoning begins or ends in `text`."""
    return not (_OPEN.search(text) or _CLOSE.search(text))


def begun(text: str) -> str:
    """The mark at the end of `text` that begins a reasoning, "" where there is none."""
    last = last_match(_OPEN, text)
    return last[0] if last and not text[last.end() :].strip() else ""


def is_mark(token: str) -> bool:
    """Whether `token`, of a tokenizer, begins or ends a reasoning or an answer."""
    return any(pattern.search(token) for pattern in (_OPEN, _CLOSE, _TAGGED))


def tagged(text: str) -> tuple[str, int] | None:
    r"""(what the last of `<answer>...</answer>`, `\boxed{...}` and the like holds, where it ends); None without any."""
    last = last_match(_TAGGED, text)
    if last is None:
        return None
    if last["boxed"] is not None:
        return _STYLE.sub("", last["boxed"]).strip(), last.end()
    return (last["told"] if last["told"] is not None else last["held"]).strip(), last.end()


def last_match(pattern: re.Pattern[str], text: str, start: int = 0) -> re.Match[str] | None:
    """The last place of `text` from `start` on that fits `pattern`."""
    found = None
    for found in pattern.finditer(text, start):  # noqa: B007
        continue
    return found
