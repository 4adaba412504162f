"""Arenas over grey images against a real server on loopback whose judgement is known: the brighter image wins."""

import asyncio
import json
import math
import resource
import sys
import threading
from contextlib import nullcontext
from dataclasses import asdict

import pytest
from PIL import Image
from scipy import stats

from realgen.benchmark.arena.arena import Arena
from realgen.benchmark.arena.scoring import Resampling
from realgen.benchmark.inputs.matching import FormatMatching
from realgen.judges import OpenAIJudge
from realgen.remote_calls import RefusedError, RetrySettings
from tests.helpers.arena_images import arena_images
from tests.helpers.arena_server import arena_server, fail, prefers_bright, read_question, refuses_schemas, reply, says

QUICK = RetrySettings(timeout=20.0, retries=1, backoff=0.001, max_backoff=0.01)
LEVELS = {"bright": 200, "dark": 40}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def make(server, *, judge=None, **settings):
    asked = {"model": "judge", "api_key_variable": None, "concurrency": 4, "retry": QUICK, **(judge or {})}
    return Arena(
        OpenAIJudge(base_url=f"{server.url}/v1", **asked), **{"resampling": Resampling(resamples=200), **settings}
    )


def run(server, images, log, *, matching=None, judge=None, **settings):
    return make(server, judge=judge, **settings).run(*images, log, matching=matching)


def test_who_is_brighter_wins(tmp_path):
    images = arena_images(tmp_path, LEVELS)
    with arena_server() as server:
        result = run(server, images, tmp_path / "arena.jsonl")
    bright, dark = result.matchups
    assert (bright.first, bright.second, bright.wins, bright.ties, bright.losses) == ("bright", "real", 6, 0, 0)
    assert (dark.first, dark.second, dark.wins, dark.ties, dark.losses) == ("dark", "real", 0, 0, 6)
    wilson = stats.binomtest(6, 6).proportion_ci(method="wilson")
    assert (bright.win_rate.low, bright.win_rate.high) == pytest.approx((wilson.low, 1.0))
    assert bright.win_rate.value == 1.0
    assert dark.win_rate.value == 0.0
    assert {name: rate.value for name, rate in bright.categories.items()} == {"even": 1.0, "odd": 1.0}
    assert bright.categories["odd"].count == 3
    assert (result.first_share, result.disagreement_share) == (0.5, 0.0)
    assert list(result.ranking) == ["bright", "real", "dark"]
    top, middle, bottom = (elo.value for elo in result.ranking.values())
    assert top - middle == pytest.approx(400 * math.log10(6.5 / 0.5), abs=1e-4)  # 6 wins and one virtual tie
    assert middle - bottom == pytest.approx(400 * math.log10(6.5 / 0.5), abs=1e-4)
    assert middle == pytest.approx(1000)
    # Nobody both won and lost: how far apart they are is the virtual tie's word alone.
    assert {limit for elo in result.ranking.values() for limit in (elo.low, elo.high)} == {None}
    shares = {score.model: score.real_share.value for score in result.singles}
    assert shares == {"bright": 1.0, "dark": 0.0, "real": 0.0}
    assert list(shares)[-1] == "real"
    questions = 2 * 2 * 6 + 3 * 6
    assert (result.questions, result.asked, result.failed, result.unreadable) == (questions, questions, 0, 0)
    assert (result.tokens_in, result.tokens_out, result.requests) == (100 * questions, 10 * questions, questions)
    assert len(server.requests) == questions


def test_rows_hold_both_choices_with_their_reasons_and_files(tmp_path):
    images = arena_images(tmp_path, {"bright": 200}, number=2)
    with arena_server() as server:
        result = run(server, images, tmp_path / "arena.jsonl")
    row = result.pairs[1]
    assert (row.name, row.category, row.outcome) == ("00001", "odd", 1.0)
    assert (row.forward, row.backward) == ("first", "second")
    assert row.forward_reason == "[201.0, 121.0] bright."
    assert row.backward_reason == "[121.0, 201.0] bright."
    assert (row.first_file, row.second_file) == (
        str(tmp_path / "bright" / "00001.png"),
        str(tmp_path / "real" / "00001.png"),
    )


def test_a_result_is_json(tmp_path):
    images = arena_images(tmp_path, LEVELS, number=1)
    with arena_server(reply("no idea")) as server:
        result = run(server, images, tmp_path / "arena.jsonl", replies=1)
    found = json.loads(json.dumps(asdict(result), allow_nan=False))
    assert found["matchups"][0]["win_rate"] is None
    assert (found["matchups"][0]["unjudged"], found["ranking"], found["first_share"]) == (1, {}, None)


def test_a_judge_that_always_takes_the_first_makes_ties_and_is_seen_through(tmp_path):
    images = arena_images(tmp_path, LEVELS)
    with arena_server(says("Image 1")) as server:
        result = run(server, images, tmp_path / "arena.jsonl", single=False)
        published = run(server, images, tmp_path / "published.jsonl", single=False, protocol="published")
    matchup = result.matchups[0]
    assert (matchup.wins, matchup.ties, matchup.losses, matchup.disagreements) == (0, 6, 0, 6)
    assert (matchup.win_rate.value, matchup.first_share) == (0.5, 1.0)
    assert (result.first_share, result.disagreement_share) == (1.0, 1.0)
    assert [matchup.win_rate.value for matchup in published.matchups] == [1.0, 1.0]  # what the published protocol says
    assert (published.first_share, published.disagreement_share) == (1.0, None)


def test_the_published_protocol_shows_the_generated_image_first_and_once(tmp_path):
    images = arena_images(tmp_path, {"bright": 200})
    with arena_server() as server:
        result = run(server, images, tmp_path / "arena.jsonl", single=False, protocol="published")
    assert len(server.requests) == 6
    for request in server.requests:
        first, second = (image.getpixel((0, 0))[0] for image in read_question(request).images)
        assert first > 190
        assert second < 140
    assert all(row.backward is None for row in result.pairs)
    assert result.matchups[0].win_rate.value == 1.0


def test_model_against_model(tmp_path):
    images = arena_images(tmp_path, {**LEVELS, "middle": 80}, real=None)
    with arena_server() as server:
        result = run(server, images, tmp_path / "arena.jsonl", against="models", single=False)
    met = {(matchup.first, matchup.second): matchup.win_rate.value for matchup in result.matchups}
    assert met == {("bright", "dark"): 1.0, ("bright", "middle"): 1.0, ("dark", "middle"): 0.0}
    assert list(result.ranking) == ["bright", "middle", "dark"]


def test_single_questions_alone(tmp_path):
    images = arena_images(tmp_path, LEVELS, real=None)
    with arena_server() as server:
        result = run(server, images, tmp_path / "arena.jsonl", against="none")
    assert len(server.requests) == 12
    assert (result.matchups, result.ranking, result.first_share) == ((), {}, None)
    assert [score.model for score in result.singles] == ["bright", "dark"]


def test_a_second_run_asks_nobody_and_finds_the_same(tmp_path):
    images, log = arena_images(tmp_path, LEVELS), tmp_path / "arena.jsonl"
    with arena_server() as server:
        first = run(server, images, log)
        asked = len(server.requests)
        plan = make(server).plan(*images, log)
        second = run(server, images, log)
        assert len(server.requests) == asked == first.asked
    assert (plan.calls, plan.kept, plan.questions) == (0, asked, asked)
    assert second.asked == 0
    assert second.pairs == first.pairs
    assert second.matchups == first.matchups
    assert second.tokens_in == first.tokens_in


def test_more_prompts_and_models_ask_only_what_is_new(tmp_path):
    images, log = arena_images(tmp_path, LEVELS), tmp_path / "arena.jsonl"
    with arena_server() as server:
        run(server, (images[0][:4], images[1][:1]), log)
        assert len(server.requests) == 4 * (2 + 2)
        assert make(server).plan(*images, log).kept == 16
        run(server, images, log)
        assert len(server.requests) == 6 * (4 + 3)


@pytest.mark.parametrize(
    "change",
    [
        {"judge": {"model": "other"}},
        {"judge": {"compare_question": "Which?", "single_question": "Is it?"}},
        {"judge": {"quality": 50}},
        {"judge": {"answer_format": "lines"}},
        {"judge": {"show_prompt": True}},
        {"matching": FormatMatching(size=8, quality=75)},
    ],
    ids=["model", "question", "quality", "format", "prompt", "matching"],
)
def test_another_judge_question_or_preparation_is_asked_anew(tmp_path, change):
    images, log = arena_images(tmp_path, {"bright": 200}, number=2), tmp_path / "arena.jsonl"
    with arena_server() as server:
        run(server, images, log)
        result = run(server, images, log, **change)
    assert result.asked == result.questions == 8
    assert len(server.requests) == 16


def test_an_endpoint_without_schemas_is_asked_in_two_lines_and_its_answers_are_kept_apart(tmp_path):
    images, log = arena_images(tmp_path, LEVELS), tmp_path / "arena.jsonl"
    with arena_server() as server:
        run(server, (images[0][:4], images[1]), log)
        in_json = len(server.requests)
    with arena_server(refuses_schemas) as server:
        result = run(server, images, log, judge={"concurrency": 4})
        lines = [request for request in server.requests if "response_format" not in read_question(request).body]
        assert len(lines) == result.asked == result.questions == 42  # none of those kept before
        assert len(server.requests) <= 42 + 4  # what was on its way to the four workers
        assert [matchup.wins for matchup in result.matchups] == [6, 0]
        again = run(server, images, log)
        assert (again.asked, again.pairs) == (0, result.pairs)
        assert make(server, judge={"answer_format": "lines"}).plan(*images, log).calls == 0
    assert len(log.read_text().splitlines()) == in_json + 42


def test_another_image_under_the_same_name_is_asked_anew(tmp_path):
    images, log = arena_images(tmp_path, {"bright": 200}), tmp_path / "arena.jsonl"
    with arena_server() as server:
        run(server, images, log)
        asked = len(server.requests)
        Image.new("RGB", (16, 16), (10, 10, 10)).save(images[1][0].files["00003"])
        result = run(server, images, log)
    assert len(server.requests) - asked == result.asked == 3  # both orders, and alone
    assert [row.outcome for row in result.pairs] == [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]


def test_equal_images_are_asked_once(tmp_path):
    images = arena_images(tmp_path, {"one": 200, "two": 200}, number=3)
    with arena_server() as server:
        result = run(server, images, tmp_path / "arena.jsonl")
    assert len(server.requests) == result.questions == 3 * (2 + 2)
    assert [matchup.wins for matchup in result.matchups] == [3, 3]


def test_a_plan_counts_calls(tmp_path):
    images = arena_images(tmp_path, LEVELS)
    with arena_server() as server:
        plan = make(server, replies=3).plan(*images, tmp_path / "arena.jsonl")
    assert (plan.questions, plan.calls, plan.kept, plan.most_calls) == (42, 42, 0, 126)
    assert str(plan) == "42 calls of the judge, at most 126 with repetitions (42 questions, 0 answered already)"
    assert not server.requests
    assert not (tmp_path / "arena.jsonl").exists()


def test_replies_that_cannot_be_read_are_asked_for_again_then_counted(tmp_path):
    images, log = arena_images(tmp_path, {"bright": 200}, number=1), tmp_path / "arena.jsonl"
    with arena_server(reply("I'm sorry, I can't help with that.")) as server:
        result = run(server, images, log, single=False, replies=3)
        assert not result.judged
        assert len(server.requests) == 6
        assert (result.unreadable, result.failed, result.asked) == (2, 0, 2)
        assert (result.matchups[0].unjudged, result.matchups[0].win_rate) == (1, None)
        assert (result.tokens_in, result.requests) == (600, 6)
        run(server, images, log, single=False, replies=3)
        assert len(server.requests) == 6
    with arena_server() as server:
        mended = run(server, images, log, single=False, ask_again=True)
        assert len(server.requests) == 2
    assert (mended.unreadable, mended.matchups[0].wins, mended.tokens_in) == (0, 1, 800)


def test_a_reply_that_is_readable_at_last_counts(tmp_path):
    images = arena_images(tmp_path, {"bright": 200}, number=1)
    with arena_server([reply("Hm."), prefers_bright]) as server:
        result = run(
            server, images, tmp_path / "arena.jsonl", single=False, protocol="published", judge={"concurrency": 1}
        )
    assert (result.matchups[0].wins, result.unreadable, result.tokens_in) == (1, 0, 200)
    first, last = map(json.loads, (tmp_path / "arena.jsonl").read_text().splitlines())
    assert (first["replies"], first["requests"], first["choice"], first["reply"]) == (1, 1, None, "Hm.")
    assert (last["replies"], last["requests"], last["choice"]) == (2, 2, "first")


@pytest.mark.parametrize(("failure", "error"), [(fail(400), None), (fail(401), RefusedError)])
def test_replies_before_a_failure_are_kept_and_count(tmp_path, failure, error):
    images, log = arena_images(tmp_path, {"bright": 200}, number=1), tmp_path / "arena.jsonl"
    settings = {"single": False, "protocol": "published", "replies": 3}
    with arena_server([reply("Hm."), reply("Well."), failure]) as server:
        with nullcontext() if error is None else pytest.raises(error):
            result = run(server, images, log, **settings)
            assert (result.failed, result.unreadable, result.asked) == (1, 0, 0)
            assert (result.tokens_in, result.tokens_out, result.requests) == (200, 20, 2)
        assert [json.loads(line)["reply"] for line in log.read_text().splitlines()] == ["Hm.", "Well."]
        plan = make(server, **settings).plan(*images, log)
        assert (plan.calls, plan.most_calls, plan.kept) == (1, 1, 0)
    with arena_server(reply("Hm.")) as server:
        result = run(server, images, log, **settings)
        assert len(server.requests) == 1  # three in all
    assert (result.failed, result.unreadable, result.tokens_in, result.requests) == (0, 1, 300, 3)


def test_a_full_disk_stops_the_run_and_nothing_is_asked_twice(tmp_path):
    images, log = arena_images(tmp_path, LEVELS), tmp_path / "arena.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with arena_server() as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
        try:
            with pytest.raises(OSError, match=r"an answer could not be written \(File too large\)"):
                run(server, images, log)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        asked = len(server.requests)
    kept = len(log.read_text().splitlines())
    assert 0 < kept < asked <= kept + 4  # what was on its way to the four workers
    with arena_server() as server:
        result = run(server, images, log)
        assert len(server.requests) == result.asked == result.questions - kept
    assert [matchup.wins for matchup in result.matchups] == [6, 0]


def test_calls_are_counted_without_a_key_and_asked_only_with_one(tmp_path, monkeypatch):
    images = arena_images(tmp_path, LEVELS)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with arena_server() as server:
        arena = make(server, judge={"api_key_variable": "OPENAI_API_KEY"})
        assert arena.plan(*images, tmp_path / "arena.jsonl").calls == 42
        with pytest.raises(ValueError, match="'OPENAI_API_KEY', which is not set"):
            arena.run(*images, tmp_path / "arena.jsonl")
        assert not server.requests
    assert not (tmp_path / "arena.jsonl").exists()


def test_an_answer_is_kept_whose_headers_ask_for_a_long_wait(tmp_path):
    images, log = arena_images(tmp_path, LEVELS), tmp_path / "arena.jsonl"
    with (
        arena_server(says("Image 1", Retry_After="86400")) as server,
        pytest.raises(RefusedError, match="wait 86400 s, longer than max_wait=900"),
    ):
        run(server, images, log, judge={"concurrency": 1})
    assert len(server.requests) == len(log.read_text().splitlines()) == 1


@pytest.mark.parametrize("code", [500, 403])
def test_what_got_no_answer_is_counted_and_asked_by_the_next_run(tmp_path, code):
    images, log = arena_images(tmp_path, {"bright": 200}), tmp_path / "arena.jsonl"

    def answer(handler, number):
        level = read_question(({}, handler.body)).images[0].getpixel((0, 0))[0]
        (fail(code) if level == 203 else prefers_bright)(handler, number)  # the model's fourth image shown first

    with arena_server(answer) as server:
        result = run(server, images, log, single=False)
    assert (result.failed, result.asked, result.questions) == (1, 11, 12)
    assert (result.matchups[0].unjudged, result.matchups[0].wins) == (1, 5)
    assert result.pairs[3].outcome is None
    assert result.pairs[3].backward == "second"
    with arena_server() as server:
        mended = run(server, images, log, single=False)
        assert len(server.requests) == 1
    assert (mended.failed, mended.matchups[0].wins) == (0, 6)


def test_too_many_failures_in_a_row_stop_the_run_and_lose_nothing(tmp_path):
    images, log = arena_images(tmp_path, LEVELS), tmp_path / "arena.jsonl"

    def answer(handler, number):
        (prefers_bright if number < 5 else fail(503))(handler, number)

    with (
        arena_server(answer) as server,
        pytest.raises(RuntimeError, match=r"3 questions in a row .* run again to go on"),
    ):
        run(server, images, log, max_failures=3, judge={"concurrency": 1})
    assert len(log.read_text().splitlines()) == 5
    with arena_server() as server:
        result = run(server, images, log)
        assert len(server.requests) == result.questions - 5


def test_a_refusal_of_all_stops_at_once_and_keeps_what_is_on_its_way(tmp_path):
    images, log = arena_images(tmp_path, LEVELS), tmp_path / "arena.jsonl"
    refused = threading.Event()

    def answer(handler, number):
        if number == 3:
            fail(401)(handler, number)
            refused.set()
        else:
            assert refused.wait(30)
            prefers_bright(handler, number)

    with arena_server(answer) as server, pytest.raises(RefusedError, match="401"):
        run(server, images, log)
    assert len(log.read_text().splitlines()) == len(server.requests) - 1 < 41


def test_as_many_questions_at_a_time_as_the_judge_takes(tmp_path):
    images = arena_images(tmp_path, LEVELS)
    together, lock, most = threading.Barrier(3, timeout=60), threading.Lock(), [0, 0]

    def answer(handler, number):
        with lock:
            most[0] += 1
            most[1] = max(most)
        together.wait()
        with lock:
            most[0] -= 1
        prefers_bright(handler, number)

    with arena_server(answer) as server:
        result = run(server, images, tmp_path / "arena.jsonl", judge={"concurrency": 3})
    assert result.asked == 42
    assert most == [0, 3]


def test_inside_a_running_event_loop(tmp_path):
    images = arena_images(tmp_path, {"bright": 200}, number=1)

    async def notebook():
        return run(server, images, tmp_path / "arena.jsonl")

    with arena_server() as server:
        assert asyncio.run(notebook()).matchups[0].wins == 1


def test_a_bar_is_drawn_on_terminals(tmp_path, capfd, monkeypatch):
    images = arena_images(tmp_path, {"bright": 200}, number=2)
    with arena_server() as server:
        make(server).run(*images, tmp_path / "quiet.jsonl")
        assert capfd.readouterr() == ("", "")
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        make(server).run(*images, tmp_path / "shown.jsonl")
    out, err = capfd.readouterr()
    assert "8/8" in err
    assert not out


def test_matching_is_what_the_judge_sees(tmp_path):
    images = arena_images(tmp_path, {"bright": 200}, number=1)
    with arena_server() as server:
        run(server, images, tmp_path / "arena.jsonl", matching=FormatMatching(size=8, quality=None))
    assert {image.size for request in server.requests for image in read_question(request).images} == {(8, 8)}


def test_a_judge_that_fails_is_named_with_the_images(tmp_path, monkeypatch):
    images = arena_images(tmp_path, {"bright": 200}, number=1)
    with arena_server() as server:
        arena = make(server)

        async def fail(*args):
            raise KeyError("choices")

        monkeypatch.setattr(type(arena.judge), "compare", fail)
        with pytest.raises(
            ValueError, match=r"judge .* failed at \S+00000\.png and \S+00000\.png: KeyError: 'choices'"
        ):
            arena.run(*images, tmp_path / "arena.jsonl")


def test_a_broken_image_stops_the_run_and_is_named(tmp_path):
    images = arena_images(tmp_path, {"bright": 200}, number=1)
    images[1][0].files["00000"].write_bytes(b"no image")
    with arena_server() as server, pytest.raises(ValueError, match=r"bright/00000\.png: the image cannot be decoded"):
        run(server, images, tmp_path / "arena.jsonl")
    images[1][0].files["00000"].unlink()
    with arena_server() as server, pytest.raises(ValueError, match=r"bright/00000\.png cannot be read"):
        run(server, images, tmp_path / "arena.jsonl")


def test_mistakes(tmp_path):
    without, (one,) = arena_images(tmp_path, {"bright": 200}, real=None)
    with arena_server() as server:
        with pytest.raises(ValueError, match="against=models compares models with each other, and needs at least two"):
            make(server, against="models").plan(without, [one], tmp_path / "log")
        with pytest.raises(ValueError, match="against=real needs the real images; 6 prompts have none"):
            make(server).plan(without, [one], tmp_path / "log")
        with pytest.raises(ValueError, match="leave nothing to ask"):
            make(server, against="none", single=False)
        with pytest.raises(ValueError, match="replies must be at least 1, got 0"):
            make(server, replies=0)
        with pytest.raises(ValueError, match="max_failures must be at least 1"):
            make(server, max_failures=0)
    for settings in ({"resamples": 0}, {"confidence": 1.0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            Resampling(**settings)
