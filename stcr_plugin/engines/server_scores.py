"""Answers that a server compares: the log-probabilities of the next token after a begun answer -> a score of each.

Requests end in a message of the assistant that is continued (`continue_final_message`, of vLLM and SGLang), and ask
for the likeliest next tokens (`top_logprobs`, OpenAI's API reference). One request is enough where the answers differ
in their next token, as img1 and img2 do; a further one is sent for answers that share it. What follows the token in
which an answer differs from all others is not scored, where the local engine scores the whole answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from itertools import takewhile
from typing import Any

from stcr_plugin.engines.prompts import likeliest
from stcr_plugin.engines.server_replies import ServerReply
from stcr_plugin.errors import ServerError
from stcr_plugin.types import Prompt

MOST_TOKENS = 20
"""Of one position; vLLM and OpenAI give no more by default."""
NEXT_TOKEN: Mapping[str, Any] = {"logprobs": True, "top_logprobs": MOST_TOKENS}
CONTINUED: Mapping[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}


def shared_start(prompt: Prompt) -> str:
    """What all answers start with, without a blank at its end: a token often begins with one."""
    shared = takewhile(lambda letters: len(set(letters)) == 1, zip(*_answers(prompt).values(), strict=False))
    return "".join(letters[0] for letters in shared).rstrip()


async def compared(prompt: Prompt, next_token: Callable[[str], Awaitable[ServerReply]], where: str) -> ServerReply:
    """The likeliest answer and the score of each, or the reply that refused.

    An answer that is not among the likeliest tokens gets the score of the last of them, which is at least its own.

    Args:
        prompt: Its answers are compared.
        next_token: Start of an answer -> a reply whose `tokens` may follow it.
        where: What the prompt is called in errors.

    Raises:
        ServerError: Without log-probabilities, or where none of the tokens continues an answer.
    """
    answers, scores, asked, wrote = _answers(prompt), dict[str, float](), 0, 0
    open_ = [(shared_start(prompt), 0.0, list(answers))]
    while open_:
        start, sure, names = open_.pop()
        reply = await next_token(start)
        if reply.response.lost == "refused":
            return reply
        asked += reply.response.prompt_tokens or 0
        wrote += reply.response.completion_tokens or 0
        rests = {name: answers[name][len(start) :] for name in names}
        for token, of_token in _by_token(rests, reply.tokens, where).items():
            score = sure + (reply.tokens[token] if token else min(reply.tokens.values()))
            if token and len(of_token) > 1:
                open_.append((start + token, score, of_token))
            else:
                scores |= dict.fromkeys(of_token, score)
    found = likeliest(prompt, {name: scores[name] for name in answers})
    return ServerReply(replace(found, prompt_tokens=asked or None, completion_tokens=wrote or None))


def _answers(prompt: Prompt) -> dict[str, str]:
    return {name: prompt.answer.format(name=name) for name in prompt.names}


def _by_token(rests: Mapping[str, str], tokens: Mapping[str, float], where: str) -> dict[str, list[str]]:
    """The likeliest token that begins a name's rest, "" for none -> the names that it begins."""
    if not tokens:
        raise ServerError(
            where,
            "the server gives no log-probabilities",
            "leave out `engine.logprobs`, so that answers are generated",
        )
    found = defaultdict(list)
    for name, rest in rests.items():
        of_name = [token for token in tokens if token and rest.startswith(token)]
        found[max(of_name, key=lambda token: tokens[token], default="")].append(name)
    if set(found) == {""}:
        shown = ", ".join(repr(token) for token in list(tokens)[-3:])
        raise ServerError(
            where,
            f"the server does not continue the answer that is begun for it: its likeliest tokens are {shown}",
            "leave out `engine.logprobs`, so that answers are generated",
        )
    return found
