"""What servers send in public reports, and what a hostile one may: read, or refused in one line and little memory."""

import gzip
import itertools
import json
import logging
import tracemalloc

import openai
import pytest
from misbehaving_server import Reply, answer, pouring, serving

from stcr_plugin.config import from_mapping
from stcr_plugin.engines.server import ServerEngine
from stcr_plugin.engines.server_connection import MOST_BYTES
from stcr_plugin.engines.server_replies import read_reply, retry_after, words
from stcr_plugin.engines.server_settings import ServerSettings
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, ServerError
from stcr_plugin.scoring.parsing import named_in, why_lost
from stcr_plugin.types import Prompt, Response

ASK = AskSettings(mode="cot", max_new_tokens=33)
KEY = "sk-test-0123456789"
NAMES = ("img1", "img2")


@pytest.fixture(autouse=True)
def keyless(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def engine(url, **more):
    settings = {"url": url, "model": "m", "back_off": 0.0, "timeout": 20, "tries": 1, **more}
    return ServerEngine(".", ASK, from_mapping(ServerSettings, settings, "test"))


def prompts(number):
    return [Prompt(f"p{n}", "e", "forward", (), (), f"question {n}", reasons=True) for n in range(number)]


def replied(reply, number=1, **more):
    """The responses where the server has one reply to everything."""
    with serving(lambda *_: reply) as desk:
        return [one for _, one in sorted(engine(desk.url, **more).respond(prompts(number)))]


def body(message, finish=None, **more):
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}], **more}).encode()


def known(data, key=""):
    """(name, why it is lost) of a reply."""
    response = read_reply(data, key).response
    named = named_in(response, NAMES)
    return named, why_lost(response) if named is None else ""


# ---- memory is bounded by what is asked ----

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
MB = b" " * 1_000_000
CHUNK = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
forever = itertools.repeat
BOMB = gzip.compress(b" " * 50_000_000)
POURED = {
    "a length of gigabytes": lambda: itertools.chain([OK + b"Content-Length: 6400000000\r\n\r\n"], forever(MB)),
    "chunks without end": lambda: itertools.chain([OK + CHUNKED], forever(CHUNK)),
    "no length, no end": lambda: itertools.chain([OK + b"Connection: close\r\n\r\n"], forever(MB)),
    "an error without end": lambda: itertools.chain([b"HTTP/1.1 400 Bad\r\n" + CHUNKED], forever(CHUNK)),
    "packed": lambda: [OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB), BOMB],
}
HEADERS = {
    "headers without end": lambda: itertools.chain([OK], forever(b"X-More: " + b"x" * 50_000 + b"\r\n")),
    "a header without end": lambda: itertools.chain([OK + b"X-More: "], forever(MB)),
    "packed in an unknown way": lambda: [OK + b"Content-Encoding: br\r\nContent-Length: 5\r\n\r\nhello"],
}


@pytest.mark.parametrize("parts", [*POURED.values(), *HEADERS.values()], ids=[*POURED, *HEADERS])
@pytest.mark.slow
def test_reply_of_any_length_takes_little_memory_and_ends_in_one_line(parts):
    with pouring(parts) as pipe:
        assert openai  # imported before, since its own memory does not count
        tracemalloc.start()
        with pytest.raises(ServerError, match="no answer from") as caught:
            list(engine(pipe.url).respond(prompts(1)))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 6 * MOST_BYTES
    assert pipe.sent < 30_000_000  # what the system's buffers held is not taken
    assert ("reply too long, over 4 MB" in str(caught.value)) == (parts in POURED.values())
    assert len(str(caught.value)) < 400


def test_packed_reply_that_was_not_asked_for_is_read(caplog):
    text = body({"content": "closer to completion: img2"})
    (found,) = replied(Reply(body=gzip.compress(text), headers={"Content-Encoding": "gzip"}))
    assert found.text == "closer to completion: img2"


# ---- words that are no answer ----


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "reasoning_details"])
def test_run_stops_early_where_all_words_are_reasoning(field):
    """Of vLLM, SGLang and others, with too few tokens for the thinking."""
    reply = answer(None, "length", {field: "The format is closer to completion: img2"})
    with serving(lambda *_: reply) as desk, pytest.raises(ServerError) as caught:
        list(engine(desk.url, concurrency=4).respond(prompts(60)))
    assert 20 <= len(desk.bodies) <= 24
    said = str(caught.value)
    assert (
        "20 of 20 replies hold no answer: 20 carried a reasoning, 20 were cut at 33 tokens; raise max_new_tokens"
        in said
    )
    assert "engine.extra_body={chat_template_kwargs: {enable_thinking: false}}" in said


def test_few_replies_without_content_are_counted_and_the_run_goes_on(caplog):
    def script(asked, tries):
        number = int(asked.split()[1])
        if number % 3:
            return answer("closer to completion: img2", "stop", {"reasoning_content": "img1?"})
        return answer("", "length", {"reasoning_content": "hm"})

    with serving(script) as desk, caplog.at_level(logging.WARNING):
        found = dict(engine(desk.url).respond(prompts(30)))
    assert [found[n].lost for n in range(3)] == ["cut", "", ""]
    assert "10 of 30 replies hold no answer: 10 carried a reasoning, 10 were cut" in caplog.text


def test_extra_body_is_sent_and_decides_whose_answers_are_used_again():
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "seed": 3}
    with serving(lambda *_: answer("img1")) as desk:
        one = engine(desk.url, extra_body=extra)
        list(one.respond(prompts(1)))
        plain = engine(desk.url)
    assert {key: desk.bodies[0][key] for key in extra} == extra
    assert one.identity()["request_digest"] != plain.identity()["request_digest"]
    with pytest.raises(ConfigError, match="extra_body: messages, stream cannot be set there"):
        engine(desk.url, extra_body={"stream": True, "messages": []})


@pytest.mark.parametrize(
    ("finish", "text", "expected"),
    [
        ("length", "The format is closer to completion: img2. Now", (None, "cut")),
        ("length", "更接近完成是哪一张？先看第二张图", (None, "cut")),
        ("max_tokens", "spatial details: img1: open", (None, "cut")),
        ("length", "closer to completion: img2\nBecause the", ("img2", "")),
        ("length", "img2", ("img2", "")),
        ("stop", "<think>closer to completion: img2", (None, "cut")),
        ("stop", "<think>img1</think>closer to completion: img2", ("img2", "")),
        ("stop", "I cannot tell", (None, "")),
        ("content_filter", "closer to completion: img2", (None, "refused")),
        ("stop", "closer to completion: img2 \ud83d", (None, "garbled")),
        ("stop", "closer to completion: img2\x00\x1b[2J\u2028", ("img2", "")),
    ],
)
def test_cut_refused_and_garbled_replies_name_nothing(finish, text, expected):
    assert known(body({"content": text}, finish)) == expected


THOUGHT = {"type": "text", "text": "closer to completion: img1"}
SAID = {"type": "text", "text": "closer to completion: img2"}


@pytest.mark.parametrize(
    ("message", "finish", "expected"),
    [
        ({"content": [{"type": "thinking", "thinking": [THOUGHT]}, SAID]}, "stop", ("img2", "")),  # Magistral
        ({"content": [{**THOUGHT, "type": "reasoning"}, SAID]}, "stop", ("img2", "")),
        ({"content": [{**THOUGHT, "type": "reasoning"}]}, "length", (None, "cut")),
        ({"content": [{**THOUGHT, "thought": True}, SAID]}, "stop", ("img2", "")),
        ({"content": SAID}, "stop", ("img2", "")),
        ({"content": "The closer one is img1"}, {"type": "length", "length": 33}, (None, "cut")),  # SGLang
        ({"content": "The closer one is img1"}, "abort", (None, "cut")),
        ({"role": "assistant"}, "length", (None, "cut")),  # Gemini, all of whose tokens were thoughts
        ({"role": "assistant"}, "content_filter: PROHIBITED_CONTENT", (None, "refused")),
        ({"content": SAID["text"], "tool_calls": [{"id": "1"}]}, "tool_calls", ("img2", "")),
    ],
)
def test_shapes_of_servers_give_the_answer_and_why_there_is_none(message, finish, expected):
    assert known(body(message, finish)) == expected


def test_reply_whose_finish_is_an_error_is_asked_again():
    failed = {"finish_reason": "error", "error": {"code": 502}, "message": {"content": "closer to completion: im"}}
    replies = {1: Reply(body=json.dumps({"choices": [failed]}).encode()), 2: answer("closer to completion: img2")}
    with serving(lambda _, tried: replies[tried]) as desk:
        ((_, found),) = engine(desk.url, tries=2).respond(prompts(1))
    assert named_in(found, NAMES) == "img2"


def test_address_that_leads_elsewhere_is_not_followed_and_says_so():
    with pytest.raises(ServerError, match=r"HTTP 307: .*set the url to the address that this one leads to"):
        replied(Reply(307, b"", {"Location": "http://127.0.0.1:9/v1/chat/completions"}))


def test_error_that_repeats_the_request_is_not_read_as_a_filter():
    detail = [{"type": "extra_forbidden", "msg": "Extra inputs are not permitted", "input": "grab the flagged box"}]
    with pytest.raises(ServerError, match=r"HTTP 422: .*Extra inputs"):
        replied(Reply(422, json.dumps({"detail": detail}).encode()))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (
            400,
            {"code": "content_filter", "message": "The response was filtered"},
        ),
        (400, {"message": "The response was filtered due to Azure OpenAI's content management policy."}),
        (400, {"code": "data_inspection_failed", "message": "Input data may contain inappropriate content."}),
        (
            400,
            {"code": "invalid_prompt", "message": "Your prompt was flagged as violating our usage policy"},
        ),
        (400, {"code": "1301", "message": "系统检测到输入或生成内容可能包含不安全或敏感内容"}),
        (403, {"code": 403, "message": "requires moderation on X. Your input was flagged", "metadata": {}}),
        (200, {"code": "content_filter", "message": "blocked"}),
    ],
)
def test_prompt_that_a_content_filter_refuses_is_counted_and_the_run_goes_on(status, error, caplog):
    def script(asked, tries):
        refuses = asked == "question 1"
        return Reply(status, json.dumps({"error": error}).encode()) if refuses else answer("closer to completion: img1")

    with serving(script) as desk, caplog.at_level(logging.WARNING):
        found = dict(engine(desk.url, tries=3).respond(prompts(3)))
    assert [found[n].lost for n in range(3)] == ["", "refused", ""]
    assert desk.tries["question 1"] == 1
    assert "p1, forward: refused" in caplog.text
    assert named_in(found[1], NAMES) is None


def test_other_refused_request_says_what_to_change():
    error = {"error": {"message": "At most 1 image(s) may be provided in one request."}}
    with pytest.raises(ServerError, match=r"p0, forward: .* HTTP 400: At most 1 image.*; change what the server names"):
        replied(Reply(400, json.dumps(error).encode()))


@pytest.mark.parametrize(
    "answer_text", ["This content was flagged. closer to completion: img2", "img2, a sensitive image"]
)
def test_answer_that_speaks_like_a_filter_is_an_answer(answer_text):
    assert known(body({"content": answer_text}, "stop", error=None)) == ("img2", "")


# ---- odd values ----


@pytest.mark.parametrize("odd", [-1, 10**30, "9", 1.5, float("nan"), float("inf"), None, [], True, {}])
def test_odd_token_counts_count_nothing(odd):
    data = body({"content": "x"}, usage={"prompt_tokens": odd, "completion_tokens": odd})
    found = read_reply(data).response
    assert (found.prompt_tokens, found.completion_tokens) == (None, None)


def test_token_counts_may_be_written_as_floats_and_a_number_of_many_digits_is_skipped():
    data = body({"content": "x"}, usage={"prompt_tokens": 12.0, "completion_tokens": 0})
    assert read_reply(data).response == Response("x", {}, 12, 0)
    data = b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": ' + b"9" * 9000 + b"}}"
    assert read_reply(data).response == Response("x")


@pytest.mark.parametrize(
    "odd",
    [
        "-5",
        "nan",
        "inf",
        "1e308",
        "1_0",
        "٣",
        "Fri, 31 Dec 9999 23:59:59 -9999",
        "Fri, 31 Dec 99999 23:59:59 GMT",
        "é, \xff",
        ",",
    ],
)
def test_odd_retry_after_is_no_break(odd):
    assert retry_after(odd) == 0


@pytest.mark.parametrize("long", ["9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_long_retry_after_stops_the_run_in_one_line(long):
    with pytest.raises(ServerError, match=r"asks for a break of [0-9]{8,12} seconds") as caught:
        replied(Reply(429, b"{}", {"Retry-After": long}), tries=3)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["timeout", "back_off", "requests_per_minute", "temperature", "price_in"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400"])
def test_number_that_is_not_finite_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name}.*finite"):
        engine("http://127.0.0.1:1/v1", **{name: float(value)})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SSL_CERT_FILE", "/nowhere/ca.pem"),
        ("HTTPS_PROXY", "http://me:sk-secret@[::1"),
        ("ALL_PROXY", "ftp://me:sk-secret@host:1"),
        ("HTTP_PROXY", "http://host:port"),
    ],
)
def test_environment_that_allows_no_connection_is_named(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        list(engine("https://example.invalid/v1", key_env="").respond(prompts(1)))
    assert f"check the environment variables {variable}" in str(caught.value)
    assert "secret" not in str(caught.value)


# ---- keys, and text that breaks files ----


def test_key_that_a_server_repeats_is_masked_in_answers_and_errors(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (found,) = replied(answer(f"you sent Bearer {KEY}. closer to completion: img2"))
    assert found.text == "you sent Bearer ***. closer to completion: img2"
    for reply in (
        Reply(500, f"wrong {KEY}".encode()),
        Reply(401, json.dumps({"detail": f"wrong {KEY}"}).encode()),
        Reply(400, json.dumps([{"error": {"message": f"wrong {KEY}"}}]).encode()),
        Reply(200, json.dumps({"oh": KEY}).encode()),
    ):
        with pytest.raises(ServerError, match=r"\*\*\*") as caught:
            replied(reply)
        assert KEY not in str(caught.value)
    (found,) = replied(Reply(400, json.dumps({"error": {"code": "content_filter", "message": KEY}}).encode()))
    assert KEY not in found.text


def test_short_word_that_stands_for_a_key_masks_nothing():
    assert read_reply(body({"content": "EMPTY img1"}), "EMPTY").response.text == "EMPTY img1"


def test_words_of_a_server_are_one_printable_line():
    assert words(b"a\x00\x1b[2J\n\nb\xff") == "a??[2J b\N{REPLACEMENT CHARACTER}"
    assert words(b'{"error": {"message": "\\ud83d cut"}}') == "? cut"
