"""The real client of the package openai against a real server on loopback, polite and hostile."""

import asyncio
import base64
import contextlib
import gzip
import json
import logging
import os
import socket
import struct
import sys
import threading
import time
import traceback

import pytest
import torch

from realgen.judges import IdentityChangedError, OpenAIJudge
from realgen.remote_calls import RefusedError, RetrySettings, UnavailableError
from tests.helpers.arena_server import arena_server, completion, fail, prefers_bright, read_question, reply, says
from tests.helpers.hostile_server import die, drip, hang, say

KEY = "sk-very-secret-0123456789"
QUICK = {"timeout": 10.0, "retries": 2, "backoff": 0.001, "max_backoff": 0.01}
DARK, BRIGHT = torch.full((3, 24, 32), 0.2), torch.full((3, 40, 40), 0.8)
GOOD = says("Image 2", "Light.")


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def make(server=None, retry=None, **settings):
    base = {} if server is None else {"base_url": f"{server.url}/v1"}
    return OpenAIJudge("judge", **{**base, **settings}, retry=RetrySettings(**{**QUICK, **(retry or {})}))


def reset(handler, _):
    """Break off in the middle, and reset the connection."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"mess')
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def compare(judge, first=DARK, second=BRIGHT, prompt="a cat"):
    return asyncio.run(inside(judge, judge.compare(first, second, prompt)))


async def inside(judge, question):
    async with judge.session():
        return await question


def test_a_pair_is_judged():
    with arena_server() as server:
        verdict = compare(make(server))
        other = compare(make(server), BRIGHT, DARK)
    assert (verdict.choice, other.choice) == ("second", "first")
    assert verdict.reason.endswith("bright.")
    assert json.loads(verdict.reply)["more_realistic_image"] == "Image 2"
    assert (verdict.tokens_in, verdict.tokens_out, verdict.requests) == (100, 10, 1)


def test_what_is_sent():
    with arena_server() as server:
        compare(make(server, max_side=20, temperature=0.5, max_tokens=64, extra_body={"reasoning_effort": "low"}))
    question = read_question(server.requests[0])
    assert question.body["model"] == "judge"
    assert (question.body["temperature"], question.body["max_completion_tokens"]) == (0.5, 64)
    assert question.body["reasoning_effort"] == "low"
    assert question.headers["authorization"] == f"Bearer {KEY}"
    assert [image.size for image in question.images] == [(20, 15), (20, 20)]
    assert question.texts[1:] == ["Image 1:", "Image 2:"]
    assert question.texts[0].endswith(
        '"more_realistic_image" is "Image 1" or "Image 2", "reason" is one or two sentences.'
    )
    assert question.body["response_format"]["json_schema"]["schema"]["required"] == ["more_realistic_image", "reason"]
    assert "a cat" not in question.texts[0]


def test_by_default_sampling_is_the_endpoints_and_the_prompt_is_shown_only_on_request():
    with arena_server() as server:
        compare(make(server, show_prompt=True, max_tokens=9, max_tokens_name="max_tokens"), prompt="a\n cat")
    question = read_question(server.requests[0])
    assert set(question.body) == {"model", "messages", "response_format", "max_tokens"}
    assert question.texts[0].endswith('"a cat"')


def test_a_single_image_is_judged():
    with arena_server() as server:
        judge = make(server)
        real = asyncio.run(inside(judge, judge.judge_single(BRIGHT, "")))
        fake = asyncio.run(inside(judge, judge.judge_single(DARK, "")))
    assert (real.choice, fake.choice) == ("real", "fake")
    question = read_question(server.requests[0])
    assert len(question.images) == len(question.texts) == 1
    assert '"real_or_fake" is "Real" or "Fake"' in question.texts[0]


def test_the_published_two_lines_on_request():
    with arena_server(reply("**More Realistic Image:** Image 1\n**Reason:** Light.")) as server:
        verdict = compare(make(server, answer_format="lines"))
    assert (verdict.choice, verdict.reason) == ("first", "Light.")
    question = read_question(server.requests[0])
    assert "response_format" not in question.body
    assert question.texts[0].endswith("More Realistic Image: [Image 1 or Image 2]\nReason: one or two sentences")


@pytest.mark.parametrize(
    "refusal",
    [
        fail(400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."),
        fail(422, "body.response_format.type: Input should be 'text'"),
        fail(500, "JSON schema conversion failed: json_schema"),
    ],
)
def test_an_endpoint_that_refuses_a_schema_is_asked_for_two_lines_from_then_on(refusal, caplog):
    """Under another identity, so whoever keeps answers learns it before an answer to the other question comes."""

    def answer(handler, number):
        in_json = "response_format" in json.loads(handler.body)
        (refusal if in_json else reply("More Realistic Image: Image 2\nReason: Light."))(handler, number)

    async def ask():
        async with judge.session():
            with pytest.raises(IdentityChangedError, match="judge: the endpoint answered"):
                await judge.compare(DARK, BRIGHT, "")
            return [await judge.compare(DARK, BRIGHT, "") for _ in range(2)]

    with arena_server(answer) as server:
        judge = make(server)
        before = judge.identity("compare")
        verdicts = asyncio.run(ask())
    assert [(verdict.choice, verdict.requests) for verdict in verdicts] == [("second", 1), ("second", 1)]
    assert len(server.requests) == 3
    assert judge.identity("compare") == make(answer_format="lines").identity("compare") != before
    assert caplog.text.count("asked to answer in two lines from now on") == 1


def test_lines_from_an_endpoint_that_takes_a_schema_are_no_verdict():
    with arena_server(reply("More Realistic Image: Image 2\nReason: Light.")) as server:
        assert compare(make(server)).choice is None


def test_the_address_may_come_from_the_environment(monkeypatch):
    with arena_server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        assert compare(make()).choice == "second"


def test_an_endpoint_without_keys_gets_none(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with arena_server() as server:
        assert compare(make(server, api_key_variable=None)).choice == "second"
    assert server.requests[0][0]["authorization"] == "Bearer none"


@pytest.mark.attack("answers of judges", "no JSON, deep JSON, no choices, a connection that breaks off")
@pytest.mark.parametrize(
    "failure",
    [
        fail(500),
        fail(503, Retry_After="0"),
        fail(429, Retry_After="0.01"),
        fail(429),
        fail(408),
        say(502, b"<html>bad gateway</html>"),
        say(200, b"{", Content_Type="application/json"),
        say(200, b"", Content_Type="application/json"),
        say(200, b"\xff\xfe", Content_Type="application/json"),
        say(200, b"[" * 100_000, Content_Type="application/json"),
        say(200, {"choices": []}, Content_Type="application/json"),
        say(200, {"error": {"message": "overloaded"}}, Content_Type="application/json"),
        die,
        reset,
    ],
)
def test_what_passes_is_tried_again(failure):
    with arena_server([failure, failure, GOOD]) as server:
        verdict = compare(make(server))
    assert (verdict.choice, verdict.requests) == ("second", 3)
    assert len(server.requests) == 3
    assert server.requests[0][1] == server.requests[2][1]


@pytest.mark.attack("answers of judges", "none, or one that trickles")
@pytest.mark.parametrize("failure", [hang, drip])
def test_an_endpoint_that_is_late_is_left_in_time(failure):
    with arena_server([failure, GOOD]) as server:
        verdict = compare(make(server, retry={"timeout": 0.8, "retries": 5}))
    assert verdict.choice == "second"
    assert verdict.requests >= 2
    with (
        arena_server(failure) as server,
        pytest.raises(UnavailableError, match=r"no answer within 0.2 s \(2 attempts\)"),
    ):
        compare(make(server, retry={"timeout": 0.2, "retries": 1}))


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (fail(500, "out of order"), "the endpoint answered 500.*out of order.*3 attempts"),
        (say(200, {"choices": []}, Content_Type="application/json"), "no choices.*3 attempts"),
        (say(200, b"hello", Content_Type="text/plain"), "no JSON.*3 attempts"),
    ],
)
def test_after_the_last_attempt_the_cause_is_named(failure, said):
    with arena_server(failure) as server, pytest.raises(UnavailableError, match=said):
        compare(make(server))
    assert len(server.requests) == 3


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UnavailableError, match="no connection"):
        compare(make(base_url=url))


@pytest.mark.parametrize("code", [400, 403])
def test_a_question_that_is_refused_is_asked_once(code):
    refusal = fail(code, "this image is not allowed")
    with arena_server(refusal) as server, pytest.raises(UnavailableError, match=rf"{code}.*this image is not allowed"):
        compare(make(server))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "failure", [fail(401), fail(402), fail(404), fail(429, "pay first", code="insufficient_quota")]
)
def test_a_wrong_key_or_model_or_an_empty_account_stops_everything(failure):
    with arena_server(failure) as server, pytest.raises(RefusedError, match="judge: the endpoint answered 4"):
        compare(make(server))
    assert len(server.requests) == 1


@pytest.mark.attack("answers of judges", "the key sent back")
def test_the_key_is_in_no_message_and_no_log(caplog):
    caplog.set_level(logging.DEBUG)
    refusal = fail(401, f"Incorrect API key provided: {KEY}")
    with arena_server(refusal) as server, pytest.raises(RefusedError, match=r"provided: \*\*\*") as refused:
        compare(make(server))
    assert KEY not in "".join(traceback.format_exception(refused.value))
    malformed = say(200, {"error": f"no credit for {KEY}"}, Content_Type="application/json")
    with arena_server(malformed) as server, pytest.raises(UnavailableError, match=r"credit for \*\*\*") as refused:
        compare(make(server))
    assert KEY not in "".join(traceback.format_exception(refused.value))
    asks_for_long = fail(429, f"Slow down, {KEY}", Retry_After="7200")
    with arena_server(asks_for_long) as server, pytest.raises(RefusedError) as refused:
        compare(make(server))
    assert KEY not in "".join(traceback.format_exception(refused.value))
    with arena_server(says("Image 1", KEY)) as server:
        judge = make(server)
        assert compare(judge).reason == "***"
        assert KEY not in repr(compare(judge))
        assert KEY not in json.dumps([judge.identity("compare"), judge.identity("single"), judge.name])
    for half in (fail(401, "x" * 290 + KEY), say(200, {"error": "x" * 290 + KEY}, Content_Type="application/json")):
        with arena_server(half) as server, pytest.raises((RefusedError, UnavailableError)) as refused:
            compare(make(server))
        assert KEY[:10] not in "".join(traceback.format_exception(refused.value))
    with arena_server(fail(401, "no\n\x1b[31m\u202e")) as server, pytest.raises(RefusedError) as refused:
        compare(make(server))
    assert str(refused.value).isprintable()
    assert KEY not in caplog.text


@pytest.mark.attack("answers of judges", "a redirect, of each kind, here and elsewhere")
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_no_redirect_is_followed(status):
    """Images and key go to the configured address only, and what another one says is not believed."""
    with arena_server(GOOD) as elsewhere:
        for target in (f"{elsewhere.url}/v1/chat/completions", "/v1/other", "file:///etc/passwd"):
            with arena_server(say(status, b"", Location=target)) as server:
                with pytest.raises(RefusedError, match=f"{status}, a redirect, and none is followed"):
                    compare(make(server))
                assert len(server.requests) == 1
    assert elsewhere.requests == []


def endless(status, **headers):
    """An answer that goes on for as long as somebody reads it."""

    def answer(handler, _):
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not handler.server.released.is_set():
                handler.wfile.write(b" " * 65536)
        handler.close_connection = True

    return answer


@pytest.mark.attack("answers of judges", "one without end")
@pytest.mark.parametrize("status", [200, 401, 429, 500])
def test_an_answer_without_end_is_left(status, monkeypatch):
    monkeypatch.setattr("realgen.judges.chat_api.MAX_ANSWER_BYTES", 300_000)
    with (
        arena_server(endless(status)) as server,
        pytest.raises(UnavailableError, match=r"at most 300000 bytes, got more \(1 attempts\)"),
    ):
        compare(make(server, retry={"retries": 0}))


@pytest.mark.attack("answers of judges", "one that is packed, and unpacks into a thousand times as much")
@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("packing", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_a_packed_answer_is_not_unpacked(packing, status):
    bomb = gzip.compress(json.dumps(completion("x" * 10_000_000)).encode())
    packed = say(status, bomb, Content_Type="application/json", Content_Encoding=packing)
    with arena_server(packed) as server, pytest.raises(UnavailableError, match="must not be packed"):
        compare(make(server, retry={"retries": 0}))
    assert server.requests[0][0]["accept-encoding"] == "identity"


@pytest.mark.attack("answers of judges", "half a surrogate pair")
def test_a_reply_fits_into_any_file():
    text = b'{"more_realistic_image": "Image 1", "reason": "a\\\\ud800b \\ud800"}'
    content = json.dumps(completion("TEXT")).encode().replace(b"TEXT", text.replace(b'"', b'\\"'))
    with arena_server(say(200, content, Content_Type="application/json")) as server:
        verdict = compare(make(server))
    assert (verdict.reason + verdict.reply).encode()


def test_retry_after_is_waited_for_by_all_questions():
    begin, times = time.monotonic(), []

    def answer(handler, number):
        times.append(time.monotonic() - begin)
        (fail(429, Retry_After="0.6") if number == 0 else GOOD)(handler, number)

    async def ask():
        judge = make(server)
        async with judge.session():
            first = asyncio.ensure_future(judge.compare(DARK, BRIGHT, ""))
            while not judge._retrier._paused_until:
                await asyncio.sleep(0.01)
            return await asyncio.gather(first, *(judge.compare(DARK, BRIGHT, "") for _ in range(3)))

    with arena_server(answer) as server:
        verdicts = asyncio.run(ask())
    assert [verdict.requests for verdict in verdicts] == [2, 1, 1, 1]
    assert min(times[1:]) - times[0] >= 0.6


def test_an_answer_that_asks_to_wait_counts_and_holds_back_the_next_question():
    times = []

    def answer(handler, number):
        times.append(time.monotonic())
        says("Image 1", **({"Retry_After": "0.5"} if number == 0 else {}))(handler, number)

    async def ask():
        judge = make(server)
        async with judge.session():
            return [(await judge.compare(DARK, BRIGHT, "")).requests for _ in range(2)]

    with arena_server(answer) as server:
        assert asyncio.run(ask()) == [1, 1]
    assert times[1] - times[0] >= 0.5


def test_a_wait_beyond_max_wait_stops_the_run():
    with (
        arena_server(fail(429, Retry_After="7200")) as server,
        pytest.raises(RefusedError, match="wait 7200 s, longer"),
    ):
        compare(make(server))


@pytest.mark.attack("answers of judges", "a refusal, or nothing")
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("I'm sorry, I can't help with that.", {}),
        (None, {"refusal": "I can't."}),
        (None, {}),
        ("", {}),
    ],
)
def test_what_cannot_be_read_is_no_verdict(said, message):
    with arena_server(say(200, completion(said, **message), Content_Type="application/json")) as server:
        verdict = compare(make(server))
    assert verdict.choice is None
    assert verdict.reply == (said or message.get("refusal", ""))
    assert (verdict.tokens_in, verdict.requests) == (100, 1)


def test_questions_go_out_together():
    """Each answer waits until four questions have come: one at a time would never get one."""
    together = threading.Barrier(4, timeout=30)

    def answer(handler, number):
        together.wait()
        prefers_bright(handler, number)

    async def ask():
        judge = make(server)
        async with judge.session():
            return await asyncio.gather(*(judge.compare(DARK, BRIGHT, "") for _ in range(4)))

    with arena_server(answer) as server:
        assert {verdict.choice for verdict in asyncio.run(ask())} == {"second"}


def test_identity_is_what_the_answers_depend_on():
    base = make()
    same = make(base_url="http://elsewhere/v1", concurrency=3)
    assert base.identity("compare") == same.identity("compare")
    others = [
        OpenAIJudge("other"),
        make(quality=50),
        make(max_side=None),
        make(temperature=0.0),
        make(extra_body={"seed": 1}),
        make(answer_format="lines"),
        make(compare_question="Which?"),
    ]
    assert all(other.identity("compare") != base.identity("compare") for other in others)
    assert others[-1].identity("single") == base.identity("single")
    assert base.identity("single") != base.identity("compare")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quality": 0}, "quality must be 1 to 100, got 0"),
        ({"max_side": 0}, "max_side must be at least 1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"base_url": "127.0.0.1:8000/v1"}, "base_url must begin with http:// or https://"),
        ({"base_url": "http://127.0.0.1:99999/v1"}, "base_url must begin with http:// or https://"),
        (
            {"base_url": "http://127.0.0.1/v1?key=hunter2"},
            r"base_url must begin with .*, got 'http://127.0.0.1/v1\?\.\.\.'",
        ),
        ({"compare_question": " "}, "compare_question must be a text"),
    ],
)
def test_mistakes(settings, said):
    with pytest.raises(ValueError, match=said):
        make(**settings)


def test_without_a_key_nothing_is_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    said = "names the environment variable 'OPENAI_API_KEY', which is not set"
    with arena_server() as server:
        judge = make(server)
        assert judge.identity("compare")
        with pytest.raises(ValueError, match=said):
            judge.check()
        with pytest.raises(ValueError, match=said):
            asyncio.run(judge.session().__aenter__())
    assert not server.requests


def test_secrets_do_not_belong_into_the_config():
    """Neither setting nor message may hold what would then be written to files."""
    with pytest.raises(ValueError, match="set the environment variable OPENAI_BASE_URL instead") as refused:
        make(base_url="https://me:hunter2@127.0.0.1/v1")
    assert "hunter2" not in str(refused.value)
    with pytest.raises(ValueError, match="name of an environment variable, such as OPENAI_API_KEY") as refused:
        make(api_key_variable=KEY)
    assert KEY not in str(refused.value)


def test_a_user_and_a_password_come_from_the_environment(monkeypatch):
    with arena_server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url.replace('//', '//me:hunter2@')}/v1")
        assert compare(make(api_key_variable=None)).choice == "second"
    sent = server.requests[0][0]["authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")) == b"me:hunter2"


@pytest.mark.parametrize("key", ["sk-se\ncret", "sk-s\u00e9cret", "sk-se cret", "sk-se\x00cret"])
def test_a_key_that_fits_no_header_is_refused_and_not_shown(key, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ | {"OPENAI_API_KEY": key})
    with pytest.raises(ValueError, match="must hold visible ASCII characters only") as refused:
        make().check()
    assert "cret" not in str(refused.value)


def test_spaces_around_a_key_are_not_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    with arena_server() as server:
        compare(make(server))
    assert server.requests[0][0]["authorization"] == f"Bearer {KEY}"


def test_a_reply_that_was_cut_off_is_read_with_care_and_said_once(caplog):
    cut = completion("More Realistic Image: Image 1")
    cut["choices"][0]["finish_reason"] = "length"
    with arena_server(say(200, cut, Content_Type="application/json")) as server:
        judge = make(server, answer_format="lines")
        assert compare(judge).choice is None
        cut["choices"][0]["message"]["content"] += "\nReason: the li"
        server.answer = say(200, cut, Content_Type="application/json")
        assert compare(judge).choice == "first"
    assert caplog.text.count("a reply was cut off after 10 tokens") == 1


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ModuleNotFoundError, match=r"realgen\[arena\]"):
        make()
