"""RemoteReward: what cannot be had is NaN, counted and never 0, and too much of it stops the run."""

import asyncio
import json
import threading
import time

import pytest
import torch

from realgen.rewards import RemoteReward, WeightedSum
from realgen.serving import ConnectionSettings, Limits
from realgen.serving.wire import decode_request
from realgen.types import Samples
from tests.helpers.hostile_server import die, hang, hostile_server, say

QUICK = ConnectionSettings(backoff=0.001, timeout=5.0, retries=1, concurrency=2)
BRIGHTNESS = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
"""Of the six images of the fixture ``samples``."""


def honest(handler, _):
    """Answer as a reward would: the brightness of each image, with the prompt's length in front of the point."""
    request = decode_request(handler.body, handler.headers["Content-Type"], Limits())
    lengths = [float(len(prompt)) for prompt in request.prompts or [""] * len(request.images)]
    say(200, {"rewards": (request.pixels().mean((1, 2, 3)) + torch.tensor(lengths)).tolist()})(handler, 0)


def remote(*servers, **arguments):
    arguments = {"connection": QUICK, "send_prompts": False, "images_per_request": 2} | arguments
    return RemoteReward([server.url for server in servers], **arguments)


@pytest.fixture
def one_at_a_time():
    """For servers whose answer depends on the number of the request."""
    return ConnectionSettings(backoff=0.001, timeout=5.0, retries=0, concurrency=1, failures_to_rest=1000)


@pytest.mark.parametrize("encoding", ["safetensors", "png", "webp"])
def test_rows_keep_their_rewards(encoding, samples, one_at_a_time):
    with hostile_server(honest) as server:
        scores = remote(server, encoding=encoding, connection=one_at_a_time).score(samples)
    torch.testing.assert_close(
        scores, torch.tensor(BRIGHTNESS), atol=1e-6 if encoding == "safetensors" else 0.002, rtol=0
    )
    assert len(server.requests) == 3


def test_prompts_travel_with_their_rows(samples, one_at_a_time):
    with hostile_server(honest) as server:
        scores = remote(server, send_prompts=True, connection=one_at_a_time).score(samples)
    lengths = [len(prompt) for prompt in samples.row_prompts]
    torch.testing.assert_close(scores, torch.tensor(BRIGHTNESS) + torch.tensor(lengths))


def test_metadata_travel_with_their_rows_and_tell_cached_rewards_apart(samples, one_at_a_time):
    def counting(handler, _):
        request = decode_request(handler.body, handler.headers["Content-Type"], Limits())
        say(200, {"rewards": [float(fields["count"]) for fields in request.metadata]})(handler, 0)

    black = torch.zeros_like(samples.images)
    with hostile_server(counting) as server:
        reward = remote(server, send_metadata=True, connection=one_at_a_time)
        for counts in ((3, 5), (4, 5)):
            told = Samples(samples.prompts, 3, black, metadata=tuple({"count": n, "text": 'é"{'} for n in counts))
            assert reward.score(told).tolist() == [counts[0]] * 3 + [counts[1]] * 3
    assert len(server.requests) == 2  # equal images of one prompt are asked for once


@pytest.mark.parametrize(
    "wrong",
    [
        say(500, b""),
        say(429, b""),
        die,
        say(200, b"garbage"),
        say(200, {"rewards": [0.0]}),
        say(200, b'{"rewards":[NaN,0]}'),
    ],
)
def test_a_chunk_that_fails_is_nan_and_not_zero(wrong, samples, one_at_a_time, caplog):
    with hostile_server(lambda handler, number: (wrong if number == 1 else honest)(handler, number)) as server:
        reward = WeightedSum({"served": remote(server, connection=one_at_a_time)})
        output = reward(samples)
    assert output.total.isnan().tolist() == [[False, False, True], [True, False, False]]
    assert output.components["served"].isnan().sum() == 2
    assert "2 of 6 samples got no remote reward" in caplog.text
    assert server.url in caplog.text


@pytest.mark.parametrize("wrong", [say(500, {"detail": "out of memory"}), hang, die])
def test_too_many_failures_stop_the_run(wrong, samples):
    quick = ConnectionSettings(backoff=0.001, timeout=0.5, retries=0)
    with hostile_server(wrong) as server, pytest.raises(RuntimeError, match="6 of the last 6 samples") as error:
        remote(server, connection=quick).score(samples)
    assert "max_failed_share=0.5" in str(error.value)
    assert server.url in str(error.value)


def test_the_share_is_taken_over_the_recent_samples(make_samples, one_at_a_time):
    with hostile_server(lambda handler, number: (say(500, b"") if number >= 4 else honest)(handler, number)) as server:
        reward = remote(server, connection=one_at_a_time, max_failed_share=0.4, failure_window=4, images_per_request=1)
        for sample in range(5):
            reward.score(make_samples(torch.full((1, 3, 4, 4), sample / 10), ["a"], 1))
        with pytest.raises(RuntimeError, match="2 of the last 4 samples"):
            reward.score(make_samples(torch.full((1, 3, 4, 4), 0.9), ["a"], 1))


def test_a_share_of_one_never_stops(samples):
    with hostile_server(say(503, b"")) as server:
        assert bool(remote(server, max_failed_share=1.0).score(samples).isnan().all())


def test_a_refusal_stops_the_run_whatever_the_share(samples):
    refuse = say(401, {"detail": "a valid token is needed"})
    with hostile_server(refuse) as server, pytest.raises(RuntimeError, match="401: a valid token is needed"):
        remote(server, max_failed_share=1.0).score(samples)


def test_an_image_with_nan_is_nan_and_not_sent(samples, one_at_a_time):
    samples.images.data = samples.images.clone()
    samples.images[2, 0, 0, 0] = torch.nan
    with hostile_server(honest) as server:
        scores = remote(server, connection=one_at_a_time, encoding="png").score(samples)
    assert scores.isnan().nonzero().flatten().tolist() == [2]
    sent = [len(json.loads(body)["images"]) for _, body in server.requests]
    assert sent == [2, 2, 1]


def test_an_answer_of_null_counts_as_failed(make_samples):
    two = make_samples(torch.rand(2, 3, 4, 4), ["a"], 2)
    with hostile_server(say(200, {"rewards": [None, 0.5]})) as server:
        assert remote(server, max_failed_share=0.5).score(two).isnan().tolist() == [True, False]
        with pytest.raises(RuntimeError, match=r"1 of the last 2 samples.*0\.4.*null") as error:
            remote(server, max_failed_share=0.4).score(two)
        assert server.url in str(error.value)


def test_a_server_that_drops_all_requests_for_an_instant_costs_nothing(make_samples):
    down = time.monotonic() + 0.5

    def drops(handler, number):
        (die if time.monotonic() < down else honest)(handler, number)

    connection = ConnectionSettings(backoff=0.01, timeout=5.0, concurrency=8, failures_to_rest=5, rest_seconds=0.7)
    with hostile_server(drops) as server:
        reward = remote(server, connection=connection, images_per_request=1)
        scores = reward.score(make_samples(torch.rand(12, 3, 4, 4), ["a"], 12))
    assert not scores.isnan().any()


def test_an_outage_beyond_the_patience_stops_the_run_with_server_and_failure(samples):
    connection = ConnectionSettings(backoff=0.01, timeout=5.0, patience=0.3, rest_seconds=0.05)
    with hostile_server(die) as server:
        reward = remote(server, connection=connection, max_failed_share=0.9, failure_window=10_000)
        reward._failed.extend([False] * 1000)  # long before: the share alone would not stop it
        begin = time.monotonic()
        with pytest.raises(RuntimeError, match="6 of the last 1006 samples") as error:
            reward.score(samples)
        assert 0.3 <= time.monotonic() - begin < 10
    assert server.url in str(error.value)
    assert len(server.requests) > 6  # each chunk was tried again


def test_images_out_of_range_are_the_callers_mistake(make_samples):
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        RemoteReward(["http://127.0.0.1:1"]).score(make_samples(torch.full((1, 3, 4, 4), 2.0), ["a"], 1))


def test_the_same_image_is_sent_once(samples, make_samples, one_at_a_time):
    with hostile_server(honest) as server:
        reward = remote(server, connection=one_at_a_time)
        first = reward.score(samples)
        assert len(server.requests) == 3
        assert torch.equal(reward.score(samples), first)
        assert len(server.requests) == 3
        doubled = make_samples(torch.full((4, 3, 4, 4), 0.7), ["a"], 4)
        torch.testing.assert_close(reward.score(doubled), torch.full((4,), 0.7))
        assert len(server.requests) == 4
        flipped = make_samples(torch.full((1, 3, 8, 2), 0.7), ["a"], 1)  # the same bytes in another shape
        reward.score(flipped)
        assert len(server.requests) == 5


def test_the_prompt_is_part_of_the_sample(make_samples, one_at_a_time):
    image = torch.full((1, 3, 4, 4), 0.5)
    with hostile_server(honest) as server:
        reward = remote(server, connection=one_at_a_time, send_prompts=True)
        assert reward.score(make_samples(image, ["a"], 1)).item() == 1.5
        assert reward.score(make_samples(image, ["abc"], 1)).item() == 3.5


def test_the_cache_is_bounded_and_forgets_the_oldest(make_samples, one_at_a_time):
    def one(level):
        return make_samples(torch.full((1, 3, 4, 4), level), ["a"], 1)

    with hostile_server(honest) as server:
        reward = remote(server, connection=one_at_a_time, cache_size=2)
        for level in (0.1, 0.2, 0.1, 0.3, 0.1):  # 0.2 is the oldest when 0.3 comes
            reward.score(one(level))
        assert len(server.requests) == 3
        reward.score(one(0.2))
        assert len(server.requests) == 4
        without = remote(server, connection=one_at_a_time, cache_size=0)
        without.score(one(0.1))
        without.score(one(0.1))
        assert len(server.requests) == 6


def test_failures_are_not_kept(samples, one_at_a_time):
    with hostile_server(lambda handler, number: (die if number < 3 else honest)(handler, number)) as server:
        reward = remote(server, connection=one_at_a_time, max_failed_share=1.0)
        assert bool(reward.score(samples).isnan().all())
        assert bool(reward.score(samples).isfinite().all())


def test_replicas_share_the_work_at_the_same_time(samples):
    both = threading.Barrier(2, timeout=10.0)

    def meet(handler, _):
        if len(handler.server.requests) == 1:
            both.wait()  # passes only when the other replica is asked before this one has answered
        say(200, {"rewards": [0.5, 0.5, 0.5]})(handler, 0)

    with hostile_server(meet) as first, hostile_server(meet) as second:
        scores = remote(first, second, images_per_request=3).score(samples)
    assert scores.tolist() == [0.5] * 6
    assert len(first.requests) == len(second.requests) == 1


def test_inside_an_event_loop_too(samples, one_at_a_time):
    async def in_a_notebook():
        return remote(server, connection=one_at_a_time).score(samples)

    with hostile_server(honest) as server:
        torch.testing.assert_close(asyncio.run(in_a_notebook()), torch.tensor(BRIGHTNESS))


def test_a_token_comes_from_the_environment(samples, monkeypatch, one_at_a_time):
    with pytest.raises(ValueError, match="'JUDGE_TOKEN', which is not set"):
        RemoteReward(["http://127.0.0.1:1"], token_variable="JUDGE_TOKEN")
    monkeypatch.setenv("JUDGE_TOKEN", "secret")
    with hostile_server(honest) as server:
        remote(server, connection=one_at_a_time, token_variable="JUDGE_TOKEN").score(samples)
    assert {headers["authorization"] for headers, _ in server.requests} == {"Bearer secret"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images_per_request", 0),
        ("failure_window", 0),
        ("cache_size", -1),
        ("low", 1.0),
        ("max_failed_share", 1.1),
        ("max_failed_share", float("nan")),
        ("urls", []),
        ("urls", ["localhost:8000"]),
    ],
)
def test_the_message_names_the_argument(name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        RemoteReward(**{"urls": ["http://127.0.0.1:1"], "high": 1.0} | {name: value})


@pytest.mark.parametrize("token", ["tk-se\ncret", "tk-sécret", "tk-se cret"])
def test_a_token_that_fits_no_header_is_refused_and_not_shown(token, monkeypatch):
    monkeypatch.setenv("REALGEN_TEST_TOKEN", token)
    with pytest.raises(ValueError, match="token_variable names 'REALGEN_TEST_TOKEN', which must hold visible") as error:
        RemoteReward(["http://127.0.0.1:1"], token_variable="REALGEN_TEST_TOKEN")
    assert "cret" not in str(error.value)
    with pytest.raises(ValueError, match="token_variable must be the name of an environment variable") as error:
        RemoteReward(["http://127.0.0.1:1"], token_variable=token)
    assert "cret" not in str(error.value)
