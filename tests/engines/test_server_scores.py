import json
import math

import pytest
from misbehaving_server import Reply, answer, serving
from PIL import Image

from stcr_plugin.config import from_mapping
from stcr_plugin.engines.open import engine_for
from stcr_plugin.engines.server import ServerEngine
from stcr_plugin.engines.server_replies import read_reply
from stcr_plugin.engines.server_settings import ServerSettings
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, ServerError
from stcr_plugin.types import Prompt, Shown

DIRECT = AskSettings(mode="direct", image_max_pixels=28 * 28 * 4, image_min_pixels=28 * 28)
IMG1, IMG2, NEITHER = math.log(0.2), math.log(0.5), math.log(0.3)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    for name in "abc":
        Image.new("RGB", (56, 56), (ord(name), 0, 0)).save(folder / f"{name}.png")
    return folder


def prompt(number=0, shown="ab", **more):
    pictures = tuple(Shown(f"{one}.png") for one in shown)
    return Prompt(f"p{number}", "e", "forward", pictures, ("img1", "img2"), question=f"question {number}", **more)


def engine(registry, desk, ask=DIRECT, **more):
    settings = {"url": desk.url, "model": "m", "key_env": "", "back_off": 0.01, "timeout": 5, "tries": 2, **more}
    return ServerEngine(registry, ask, from_mapping(ServerSettings, settings, "test"))


def tokens(**likely):
    """A reply of one token with the likeliest ones; `_` in a name is a blank."""
    rows = [{"token": name.replace("_", " "), "logprob": value} for name, value in likely.items()]
    choice = {"message": {"content": rows[0]["token"] if rows else ""}, "finish_reason": "length"}
    choice |= {"logprobs": {"content": [{**rows[0], "top_logprobs": rows}]}} if rows else {}
    usage = {"prompt_tokens": 50, "completion_tokens": 1}
    return Reply(body=json.dumps({"choices": [choice], "usage": usage}).encode())


def begun(body):
    return body["messages"][-1]["content"]


def test_answers_are_compared_by_one_request_that_continues_the_answer(registry):
    with serving(lambda asked, n: tokens(**{"1": IMG1, "2": IMG2, "3": -9.0})) as desk:
        ((_, response),) = engine(registry, desk, logprobs=True).respond([prompt()])
    assert response.text == "closer to completion: img2"
    assert response.logprobs == {"img1": IMG1, "img2": IMG2}
    assert (response.prompt_tokens, response.completion_tokens, response.lost) == (50, 1, "")
    (body,) = desk.bodies
    assert body["messages"][-1] == {"role": "assistant", "content": "closer to completion: img"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)


def test_answers_that_share_a_token_are_compared_behind_it(registry):
    def script(asked, n):
        if begun(desk.bodies[-1]) == "closer to completion:":
            return tokens(_img=math.log(0.7), _neither=NEITHER)
        return tokens(**{"1": math.log(2 / 7), "2": math.log(5 / 7)})

    with serving(script) as desk:
        ((_, response),) = engine(registry, desk, logprobs=True).respond([prompt(names=("img1", "img2", "neither"))])
    assert response.logprobs == pytest.approx({"img1": IMG1, "img2": IMG2, "neither": NEITHER})
    assert [begun(body) for body in desk.bodies] == ["closer to completion:", "closer to completion: img"]
    assert (response.prompt_tokens, response.completion_tokens) == (100, 2)


def test_an_answer_outside_the_likeliest_tokens_has_the_score_of_the_last_one(registry):
    with serving(lambda asked, n: tokens(**{"2": -0.1, "7": -3.0, "8": -5.0})) as desk:
        ((_, response),) = engine(registry, desk, logprobs=True).respond([prompt()])
    assert response.logprobs == {"img1": -5.0, "img2": -0.1}


def test_a_begun_turn_is_continued(registry):
    reasons = "spatial details: img1: open. img2: closed.\n"
    with serving(lambda asked, n: tokens(**{"1": IMG1, "2": IMG2})) as desk:
        list(engine(registry, desk, logprobs=True).respond([prompt(begin=reasons)]))
    assert begun(desk.bodies[0]) == f"{reasons}closer to completion: img"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (tokens(), "gives no log-probabilities"),
        (answer("closer to completion: img2"), "gives no log-probabilities"),
        (tokens(The=-0.1, closer=-2.0), "does not continue the answer that is begun for it"),
        (Reply(400, b'{"detail": "Only supports u/a/u/a/u..."}'), "Only supports u/a"),  # `llamafactory-cli api`
    ],
    ids=["no_tokens", "a_whole_answer", "another_answer", "a_refused_turn"],
)
def test_a_server_without_what_it_takes_is_named_with_the_way_out(registry, reply, words):
    with serving(lambda asked, n: reply) as desk, pytest.raises(ServerError, match=words) as caught:
        list(engine(registry, desk, logprobs=True).respond([prompt()]))
    assert "engine.logprobs" in caught.value.fix


def test_a_refusal_is_a_refusal(registry):
    with serving(lambda asked, n: answer(None, "content_filter")) as desk:
        ((_, response),) = engine(registry, desk, logprobs=True).respond([prompt()])
    assert (response.lost, dict(response.logprobs)) == ("refused", {})


def test_without_the_setting_a_server_generates(registry):
    with serving(lambda asked, n: answer("closer to completion: img1")) as desk:
        one = engine(registry, desk)
        with pytest.raises(ConfigError, match="may not be able to compare answers"):
            list(one.respond([prompt()]))
        with pytest.raises(ConfigError, match="may not be able to continue"):
            list(one.respond([prompt(begin="spatial details: ")]))
    for logprobs in (True, False):
        options = {"url": "http://127.0.0.1:1/v1", "model": "m", "logprobs": logprobs}
        _, ask = engine_for("server", None, registry, ask=DIRECT, options=options)
        assert ask.generate is not logprobs


def test_prompts_with_the_same_first_picture_follow_each_other(registry):
    shown = ["ab", "ba", "ca", "ac", "bc", "cb"]
    with serving(lambda asked, n: tokens(**{"1": IMG1, "2": IMG2})) as desk:
        prompts = [prompt(number, one) for number, one in enumerate(shown)]
        found = dict(engine(registry, desk, logprobs=True, concurrency=1).respond(prompts))
    assert sorted(found) == list(range(6))
    order = [int(body["messages"][0]["content"][-1]["text"].split()[-1]) for body in desk.bodies]
    assert order == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(
    "logprobs",
    [None, {}, {"content": []}, {"content": [{"top_logprobs": [{"token": 3, "logprob": -1}]}]}, {"content": 5}]
    + [{"content": [{"top_logprobs": [{"token": "1", "logprob": value}]}]} for value in ("x", None, math.nan)],
)
def test_malformed_log_probabilities_are_none(logprobs):
    choice = {"message": {"content": "1"}, "logprobs": logprobs}
    reply = read_reply(json.dumps({"choices": [choice]}).encode())
    assert (reply.response.text, dict(reply.tokens)) == ("1", {})
