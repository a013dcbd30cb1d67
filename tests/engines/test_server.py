import base64
import io
import json
import random
import re
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from misbehaving_server import Reply, answer, question, serving
from PIL import Image

from stcr_plugin.config import from_mapping
from stcr_plugin.engines.cache import collect_responses
from stcr_plugin.engines.server import ServerEngine, _Pace
from stcr_plugin.engines.server_connection import HEADERS
from stcr_plugin.engines.server_replies import read_reply, retry_after
from stcr_plugin.engines.server_settings import ServerSettings
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, DataError, ServerError
from stcr_plugin.types import Prompt, Response, Shown

ASK = AskSettings(mode="cot", max_new_tokens=33, image_max_pixels=28 * 28 * 4, image_min_pixels=28 * 28)
KEY = "sk-test-0123456789"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    for name, colour in (("a", (200, 0, 0)), ("b", (0, 0, 200))):
        Image.new("RGB", (112, 112), colour).save(folder / f"{name}.jpg")
    return folder


@pytest.fixture(autouse=True)
def keyless(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # loopback is never asked through a proxy


SUMS = {"a.jpg": "of a", "b.jpg": "of b"}


def prompts(number, **more):
    fields = {"shown": (Shown("a.jpg"), Shown("b.jpg")), "labels": ("img1", "img2"), "reasons": True, **more}
    return [Prompt(f"p{n}", f"e{n // 2}", "forward", question=f"question {n}", **fields) for n in range(number)]


def engine(registry, desk, ask=ASK, **more):
    settings = {"url": desk.url, "model": "m", "back_off": 0.01, "timeout": 5, "tries": 4, **more}
    return ServerEngine(registry, ask, from_mapping(ServerSettings, settings, "test"))


def said(registry, desk, number=6, **more):
    """index -> what was said, no index twice."""
    found = list(engine(registry, desk, **more).respond(prompts(number)))
    assert len(dict(found)) == len(found)
    return dict(found)


def collect(one, asked, out):
    return collect_responses(one, asked, out, asked={}, pictures=SUMS)


def keep(found, answers):
    """Not list.extend, which loses what came before an error."""
    for one in answers:
        found.append(one)


def echo(asked, tries):
    return answer(f"said to {asked}")


def right(found, number):
    return found == {n: Response(f"said to question {n}", {}, 100, 7) for n in range(number)}


# ---- what is sent ----


def test_request_is_what_every_server_of_this_kind_takes(registry):
    with serving(echo) as desk:
        assert right(said(registry, desk, 1), 1)
    (body,) = desk.bodies
    assert {key: body[key] for key in body if key != "messages"} == {"model": "m", "max_tokens": 33, "temperature": 0.0}
    (message,) = body["messages"]
    kinds = [(part["type"], part.get("text")) for part in message["content"]]
    assert message["role"] == "user"
    assert kinds == [
        ("text", "img1: "),
        ("image_url", None),
        ("text", "\nimg2: "),
        ("image_url", None),
        ("text", "\nquestion 0"),
    ]


def test_question_is_sent_before_the_pictures_where_it_comes_first(registry):
    with serving(echo) as desk:
        list(engine(registry, desk).respond(prompts(1, question_first=True)))
        list(engine(registry, desk).respond(prompts(1)))
    first, last = (body["messages"][0]["content"] for body in desk.bodies)
    assert [part["type"] for part in first] == ["text", "image_url", "text", "image_url"]
    assert [part["text"] for part in first if "text" in part] == ["question 0\nimg1: ", "\nimg2: "]
    assert [part for part in first if "image_url" in part] == [part for part in last if "image_url" in part]


def test_pictures_are_png_in_the_size_of_training(registry):
    with serving(echo) as desk:
        said(registry, desk, 1)
    urls = [part["image_url"]["url"] for part in desk.bodies[0]["messages"][0]["content"] if "image_url" in part]
    for url, colour in zip(urls, [(200, 0, 0), (0, 0, 200)], strict=True):
        head, data = url.split(",")
        assert head == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert (picture.format, picture.size) == ("PNG", (56, 56))
            assert all(abs(one - other) < 8 for one, other in zip(picture.getpixel((9, 9)), colour, strict=True))


def test_picture_of_many_prompts_is_read_once(registry, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes((registry / name).read_bytes())
    with serving(echo) as desk:
        one = engine(tmp_path, desk)
        first = list(one.respond(prompts(2)))
        (tmp_path / "a.jpg").unlink()
        assert len([*first, *one.respond(prompts(4))]) == 6
        mirrored = prompts(1, shown=(Shown("a.jpg", "mirror"), Shown("b.jpg")))
        with pytest.raises(DataError, match=r"a\.jpg"):
            list(one.respond(mirrored))
    sent = [[part.get("image_url") for part in body["messages"][0]["content"][:-1]] for body in desk.bodies]
    assert all(pictures == sent[0] for pictures in sent)


def test_names_and_temperature_are_what_the_settings_say(registry):
    with serving(echo) as desk:
        said(registry, desk, 1, limit_name="max_completion_tokens", temperature=None)
    assert desk.bodies[0].keys() == {"model", "messages", "max_completion_tokens"}


def test_text_alone_is_sent_as_text_alone(registry):
    with serving(echo) as desk:
        assert dict(engine(registry, desk).respond(prompts(1, shown=(), labels=())))[0].text == "said to question 0"
    assert desk.bodies[0]["messages"][0]["content"] == [{"type": "text", "text": "question 0"}]


# ---- what cannot be put ----


def test_what_a_server_cannot_do_is_refused_before_any_request(registry):
    with serving(echo) as desk:
        begun = prompts(3)[:2] + prompts(3, begin="spatial details: ")[2:]
        with pytest.raises(ConfigError, match=r"p2, forward: a server may not be able to continue .*--engine local"):
            list(engine(registry, desk).respond(begun))
        with pytest.raises(ConfigError, match=r"p0, forward: a server may not be able to compare .*--generate"):
            list(engine(registry, desk).respond(prompts(1, reasons=False)))
        writing = AskSettings(generate=True)
        assert len(list(engine(registry, desk, writing).respond(prompts(1, reasons=False)))) == 1
    assert len(desk.bodies) == 1


def test_unreadable_picture_stops_the_run_and_keeps_the_answers_of_others(registry):
    asked = prompts(4)[:3] + prompts(4, shown=(Shown("gone.jpg"),), labels=("img1",))[3:]
    found = []
    with serving(echo) as desk, pytest.raises(DataError, match=r"gone\.jpg: picture of pair p3 is not readable"):
        keep(found, engine(registry, desk, concurrency=1).respond(asked))
    assert right(dict(found), 3)


# ---- a server that misbehaves ----

TROUBLE = {
    "server error": Reply(500, b'{"error": {"message": "engine died"}}'),
    "bad gateway": Reply(502, b"<html>bad gateway</html>"),
    "overloaded": Reply(529, b""),
    "conflict": Reply(409, b"{}"),
    "request timeout": Reply(408, b""),
    "rate limit": Reply(429, b"slow down", {"Retry-After": "0.05"}),
    "cut connection": answer("half of this is lost", cut=True),
    "no reply at all": Reply(body=b"x", cut=True, status=200),
    "malformed JSON": Reply(body=b'{"choices": [{"message": {"content": "img'),
    "not UTF-8": Reply(body=b"\xff\xfe\xff"),
    "another JSON": Reply(body=b'["ok"]'),
    "deep JSON": Reply(body=b"[" * 100_000),
    "empty choices": Reply(body=b'{"choices": []}'),
    "null choices": Reply(body=b'{"choices": null}'),
    "no message": Reply(body=b'{"choices": [{"message": null}]}'),
    "no content": Reply(body=b'{"choices": [{"message": {}}]}'),
    "content that is not a text": answer(17),
    "error in a good reply": Reply(body=b'{"error": {"message": "upstream is busy"}}'),
    "unknown encoding": Reply(body=b"not gzip", headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE)
@pytest.mark.slow(seconds=0)
def test_passing_trouble_costs_no_answer_and_doubles_none(registry, trouble):
    with serving(lambda asked, tries: trouble if tries == 1 else echo(asked, tries)) as desk:
        assert right(said(registry, desk), 6)
    assert desk.tries == {f"question {n}": 2 for n in range(6)}


@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE)
@pytest.mark.slow(seconds=0)
def test_lasting_trouble_stops_the_run_naming_the_prompt(registry, trouble):
    def script(asked, tries):
        return trouble if asked == "question 2" else echo(asked, tries)

    found = []
    with serving(script) as desk, pytest.raises(ServerError) as caught:
        keep(found, engine(registry, desk, concurrency=2).respond(prompts(4)))
    assert desk.tries["question 2"] == 4
    assert str(caught.value).startswith(
        f"p2, forward: no answer from {desk.url} (model m) after 4 tries, the last one:"
    )
    assert str(caught.value).endswith(
        f"; run the same command again to continue ({len(found)} responses of this run are kept)"
    )
    assert all(one.text == f"said to question {number}" for number, one in found)


def test_late_answer_of_a_try_that_was_given_up_is_not_counted(registry, tmp_path):
    """The server answers every try, the first one when the run is over."""
    over = threading.Event()

    def script(asked, tries):
        return answer(f"said to {asked}, try {tries}", held=over if tries == 1 else None)

    with serving(script) as desk:
        found = collect(engine(registry, desk, timeout=1), prompts(3), tmp_path)
        over.set()
        until = time.monotonic() + 30
        while desk.busy and time.monotonic() < until:
            time.sleep(0.01)
    assert desk.answered == desk.tries
    assert all(desk.tries[f"question {n}"] > 1 for n in range(3))  # a busy machine may be late a second time
    assert all(re.fullmatch(rf"said to question {n}, try [2-9]", one.text) for n, one in enumerate(found))
    assert len((tmp_path / "said.jsonl").read_text().splitlines()) == 3


def test_trickling_server_is_timed_as_a_whole(registry, monkeypatch):
    """Bytes that keep coming do not keep the time-out away."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def trickle():
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(600):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return
                time.sleep(0.05)

    thread = threading.Thread(target=trickle)
    thread.start()
    settings = ServerSettings(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "m", timeout=0.3, tries=1)
    started = time.monotonic()
    with pytest.raises(ServerError, match=r"no reply within 0\.3 seconds"):
        list(ServerEngine(registry, ASK, settings).respond(prompts(1)))
    assert time.monotonic() - started < 15  # the server would go on for thirty
    thread.join()
    listener.close()


def test_server_that_is_not_there_is_named(registry):
    with serving(echo) as desk:
        pass
    with pytest.raises(ServerError, match=r"p0, forward: no answer from http://127.* after 2 tries, .*ConnectError"):
        list(engine(registry, desk, tries=2, concurrency=1).respond(prompts(2)))


@pytest.mark.parametrize(("status", "hint"), [(400, ""), (401, "OPENAI_API_KEY"), (404, "/v1"), (422, ""), (302, "")])
def test_refused_request_is_not_repeated_and_stops_with_the_servers_words(registry, status, hint):
    reply = Reply(status, json.dumps({"error": {"message": "I will not. " + "x" * 5000}}).encode(), {"Location": "/"})
    with serving(lambda asked, tries: reply) as desk, pytest.raises(ServerError) as caught:
        list(engine(registry, desk, concurrency=1).respond(prompts(5)))
    assert len(desk.bodies) == 1
    assert f"HTTP {status}: I will not. xxx" in str(caught.value)
    assert hint in str(caught.value)
    assert len(str(caught.value)) < 700


def test_nothing_new_is_asked_after_a_refusal_but_what_is_under_way_is_kept(registry):
    all_asked = threading.Event()

    def script(asked, tries):
        if desk.busy == 3:
            all_asked.set()
        return (
            Reply(400, b"no", held=all_asked)
            if asked == "question 0"
            else answer(f"said to {asked}", held=all_asked, after=0.5)
        )

    found = []
    with serving(script) as desk, pytest.raises(ServerError, match="2 responses of this run are kept"):
        keep(found, engine(registry, desk, concurrency=3).respond(prompts(9)))
    assert dict(found).keys() == {1, 2}
    assert len(desk.bodies) == 3


# ---- resuming ----


def test_run_that_a_server_stopped_goes_on_with_what_is_missing(registry, tmp_path):
    """A server that breaks for good after a while, and another start of the same command when it is well again."""
    well = False

    def script(asked, tries):
        return echo(asked, tries) if well or int(asked.split()[1]) % 3 else Reply(503, b"down")

    with serving(script) as desk:
        with pytest.raises(ServerError):
            collect_responses(
                engine(registry, desk, tries=2, concurrency=3), prompts(9), tmp_path, asked={}, pictures=SUMS
            )
        kept = [json.loads(line)["item"] for line in (tmp_path / "said.jsonl").read_text().splitlines()]
        assert len(kept) == len(set(kept))
        well = True
        before = len(desk.bodies)
        found = collect(engine(registry, desk), prompts(9), tmp_path)
        again = Counter(question(body) for body in desk.bodies[before:])
    assert [one.text for one in found] == [f"said to question {n}" for n in range(9)]
    assert again == {f"question {n}": 1 for n in range(9) if f"p{n}" not in kept}


def test_killed_run_goes_on_with_what_is_missing(registry, tmp_path):
    """The caller is killed after four of twelve, with requests under way."""
    with serving(lambda asked, tries: answer(f"said to {asked}", after=0.02)) as desk:
        one = engine(registry, desk, concurrency=3)

        class Killed:
            identity = staticmethod(one.identity)

            def respond(self, asked):
                for count, found in enumerate(one.respond(asked)):
                    if count == 4:
                        raise KeyboardInterrupt
                    yield found

        with pytest.raises(KeyboardInterrupt):
            collect(Killed(), prompts(12), tmp_path)
        assert len((tmp_path / "said.jsonl").read_text().splitlines()) == 4
        before = len(desk.bodies)
        found = collect(one, prompts(12), tmp_path)
    assert [one.text for one in found] == [f"said to question {n}" for n in range(12)]
    assert len(desk.bodies) - before == 8


# ---- speed ----


def test_as_many_requests_are_under_way_as_asked_for_and_no_more(registry):
    four = threading.Event()

    def script(asked, tries):
        if desk.busy == 4:
            four.set()
        return answer(f"said to {asked}", held=four, after=0.1)

    with serving(script) as desk:
        assert right(said(registry, desk, 12, concurrency=4), 12)
    assert desk.most == 4


def test_order_of_completion_does_not_matter(registry, tmp_path):
    waits = {f"question {n}": wait for n, wait in enumerate(random.Random(3).sample(range(12), 12))}
    with serving(lambda asked, tries: answer(f"said to {asked}", after=waits[asked] / 50)) as desk:
        found = collect_responses(
            engine(registry, desk, concurrency=12), prompts(12), tmp_path, asked={}, pictures=SUMS
        )
    came = [json.loads(line)["item"] for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert came != sorted(came, key=lambda item: int(item[1:]))
    assert [one.text for one in found] == [f"said to question {n}" for n in range(12)]


def test_rate_limit_holds_for_repeated_requests_too(registry):
    def script(asked, tries):
        return Reply(500) if tries == 1 and asked == "question 1" else echo(asked, tries)

    started = time.monotonic()
    with serving(script) as desk:
        assert right(said(registry, desk, 5, requests_per_minute=300), 5)
    assert len(desk.times) == 6
    # A busy machine makes a request come later than its turn, never earlier.
    assert all(came - started > turn * 0.2 - 0.001 for turn, came in enumerate(desk.times))


def test_server_that_asks_to_wait_is_left_alone_by_all(registry):
    def script(asked, tries):
        first = asked == "question 0" and tries == 1
        return Reply(429, b"", {"Retry-After": "0.6"}) if first else echo(asked, tries)

    with serving(script) as desk:
        assert right(said(registry, desk, 4, concurrency=1), 4)
    assert desk.times[1] - desk.times[0] >= 0.6


def test_server_that_asks_for_an_hour_stops_the_run(registry):
    reply = Reply(429, b'{"error": "quota"}', {"Retry-After": "3600"})
    with (
        serving(lambda *_: reply) as desk,
        pytest.raises(ServerError, match=r"break of 3600 seconds: HTTP 429: quota; wait as long, then run"),
    ):
        list(engine(registry, desk, concurrency=1).respond(prompts(2)))
    assert len(desk.bodies) == 1


def test_retry_after_is_read_as_number_and_as_date():
    later = datetime.now(UTC) + timedelta(seconds=30)
    assert retry_after("2.5") == 2.5
    assert 28 <= retry_after(format_datetime(later, usegmt=True)) <= 30
    assert 28 <= retry_after(later.strftime("%a, %d %b %Y %H:%M:%S -0000")) <= 30
    assert [retry_after(odd) for odd in ("", "soon", "-3", "nan", "Tue, 99 Foo")] == [0, 0, 0, 0, 0]
    assert retry_after(format_datetime(datetime(2001, 1, 1, tzinfo=UTC), usegmt=True)) == 0


def test_pace_gives_out_times_evenly_apart(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    pace = _Pace(60)
    waits = [pace.delay() for _ in range(3)]
    assert waits == [0, 1, 2]
    pace.hold(30)
    assert pace.delay() == 30
    free = _Pace(None)
    assert [free.delay() for _ in range(3)] == [0, 0, 0]


# ---- replies ----


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "img1"}, "img1"),
        ({"content": None}, ""),
        ({"content": None, "refusal": "I cannot"}, "I cannot"),
        ({"content": "img2", "refusal": None, "reasoning_content": "img1?"}, "img2"),
        ({"content": [{"type": "text", "text": "im"}, {"type": "text", "text": "g2"}]}, "img2"),
    ],
)
def test_every_known_form_of_a_reply_is_read(message, text):
    lost = "refused" if message.get("refusal") else ""
    data = json.dumps({"choices": [{"message": message}, {"message": {"content": "second"}}]}).encode()
    assert read_reply(data).response == Response(text, lost=lost)


def test_tokens_that_are_not_counted_are_none():
    for usage in (None, {}, {"prompt_tokens": "9", "completion_tokens": True}, 3):
        data = json.dumps({"choices": [{"message": {"content": "x"}}], "usage": usage}).encode()
        found = read_reply(data).response
        assert (found.prompt_tokens, found.completion_tokens) == (None, None)


# ---- keys ----


def test_key_goes_to_the_server_and_nowhere_else(registry, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    reply = Reply(401, json.dumps({"error": {"message": f"wrong key {KEY}"}}).encode())
    with (
        serving(lambda asked, tries: echo(asked, tries) if asked == "question 0" else reply) as desk,
        caplog.at_level(0),
    ):
        one = engine(registry, desk, key_env="MY_KEY", concurrency=1)
        with pytest.raises(ServerError) as caught:
            collect(one, prompts(2), tmp_path)
    assert desk.headers[0]["authorization"] == f"Bearer {KEY}"
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "wrong key ***; check the key in the variable 'MY_KEY'" in str(caught.value)
    assert KEY not in str(caught.value) + repr(caught.value.__cause__) + caplog.text + written + json.dumps(
        one.identity()
    )


def test_this_machine_needs_no_key_and_others_do(registry):
    with serving(echo) as desk:
        said(registry, desk, 1)
    assert "authorization" not in desk.headers[0]
    with pytest.raises(ConfigError, match=r"needs a key; put it into the environment variable OPENAI_API_KEY"):
        ServerEngine(registry, ASK, ServerSettings("https://example.org/v1", "m"))
    ServerEngine(registry, ASK, ServerSettings("https://example.org/v1", "m", key_env=""))


def test_nothing_else_of_the_environment_is_sent(registry, monkeypatch):
    """Which the openai client would add to every request, whatever the server."""
    monkeypatch.setenv("OPENAI_CUSTOMHEADERS", "X-Secret: secret\nAuthorization: Bearer secret")
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "secret")
    with serving(echo) as desk:
        said(registry, desk, 1)
    assert "secret" not in str(desk.headers)
    assert desk.headers[0].keys() <= HEADERS


def test_redirect_is_not_followed(registry, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(echo) as other:
        elsewhere = Reply(307, b"", {"Location": f"{other.url}/chat/completions"})
        with serving(lambda *_: elsewhere) as desk, pytest.raises(ServerError, match="HTTP 307"):
            list(engine(registry, desk).respond(prompts(1)))
    assert (len(desk.bodies), other.bodies) == (1, [])


def test_key_that_is_none_is_refused_without_showing_it(registry, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\nsecret")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY: does not hold a key") as caught:
        ServerEngine(registry, ASK, ServerSettings("https://example.org/v1", "m"))
    assert "secret" not in str(caught.value)


# ---- settings ----


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "localhost:8000/v1"}, "give an address such as http://127"),
        ({"url": "ftp://host/v1"}, "give an address"),
        ({"url": "http://127.0.0.1:80a0/v1"}, "url: host or port is malformed; give an address"),
        ({"url": "http://127.0.0.1:99999/v1"}, "host or port is malformed"),
        ({"url": "http://a b/v1"}, "host or port is malformed"),
        ({"url": "http://[::1/v1"}, "host or port is malformed"),
        ({"url": "http://sk-\x01/v1"}, "host or port is malformed"),
        ({"url": "http://me:sk-secret@host/v1"}, "holds more than an address"),
        ({"url": "http://host/v1?key=sk-secret"}, "holds more than an address"),
        ({"model": ""}, "model: is empty"),
        ({"tries": 0}, "at least 1"),
        ({"timeout": 0}, "above 0"),
        ({"requests_per_minute": 0}, "above 0"),
        ({"price_in": 1.0}, "given together"),
        ({"price_in": -1.0, "price_out": 1.0}, "neither below 0"),
        ({"concurency": 3}, "did you mean 'concurrency'?"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, says):
    with pytest.raises(ConfigError) as caught:
        from_mapping(ServerSettings, {"url": "http://127.0.0.1/v1", "model": "m", **settings}, "test")
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


def test_identity_tells_what_decides_answers_and_not_how_fast_they_come(registry):
    def identity(**more):
        return ServerEngine(
            registry, ASK, ServerSettings(**{"url": "http://127.0.0.1:1/v1", "model": "m", **more})
        ).identity()

    plain = identity()
    assert identity(concurrency=2, timeout=9.0, tries=1, requests_per_minute=5.0, price_in=1.0, price_out=2.0) == plain
    assert (
        len(
            {
                json.dumps(one)
                for one in (plain, identity(model="n"), identity(url="http://[::1]/v1"), identity(temperature=None))
            }
        )
        == 4
    )


def test_cost_is_that_of_the_price_list(registry):
    settings = ServerSettings("http://127.0.0.1:1/v1", "m", price_in=2.5, price_out=10.0)
    assert ServerEngine(registry, ASK, settings).cost(200_000, 30_000) == pytest.approx(0.5 + 0.3)
    assert ServerEngine(registry, ASK, ServerSettings("http://127.0.0.1:1/v1", "m")).cost(5, 5) is None
