"""The benchmark from prompts to results: draws what is missing, judges everything, plans before it does."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from realgen.benchmark import Arena
from realgen.benchmark.detector_scoring import Scorers, ScoringSettings
from realgen.benchmark.inputs.matching import FormatMatching
from realgen.benchmark.inputs.prompt_set import read_prompt_set
from realgen.benchmark.realbench import PolicyUnderTest, RealBench
from realgen.judges import DetectorJudge, Verdict
from realgen.remote_calls import RefusedError
from tests.helpers.toy_bench import Brightness, GreyPolicy, write_bench, write_grey, write_set


def bench(folder: Path, **settings: Any) -> RealBench:
    given: dict[str, Any] = {
        "policies": {"grey": PolicyUnderTest(lambda: GreyPolicy(rewrites=True), {"size": 8})},
        "scorers": Scorers({"bright": Brightness()}),
        "scoring": ScoringSettings(resamples=20),
        "draw_batch_size": 3,
    }
    return RealBench(read_prompt_set(write_bench(folder / "bench")), **{**given, **settings})


def test_draws_judges_and_says_what_it_did(tmp_path: Path) -> None:
    GreyPolicy.drawn = 0
    images = {"black": str(write_set(tmp_path / "black", (0, 0, 0, 0)))}
    results = bench(tmp_path, images=images, matching=FormatMatching(size=8)).run(tmp_path / "run")
    assert [model.name for model in results.models] == ["grey", "black"]
    assert results.models[1].scores["bright"].value == 100.0
    assert GreyPolicy.drawn == 4
    grey = [row for row in results.rows if row.model == "grey"]
    assert [row.file for row in grey] == [f"images/grey/0000{i}.png" for i in range(4)]
    assert grey[0].rewritten == "a cat, film grain"
    assert results.models[0].images == "images/grey"
    assert Path(results.rows[0].file).is_absolute()
    assert results.settings["prompts"] == 4
    assert results.settings["matching"] == "centred squares of 8 pixels, JPEG quality 75, for all images"
    assert set(results.settings["files"]) == {"grey", "black", "real"}


def test_a_second_run_in_the_folder_draws_nothing_and_finds_the_same(tmp_path: Path) -> None:
    first = bench(tmp_path).run(tmp_path / "run")
    GreyPolicy.drawn = 0
    second = bench(tmp_path).run(tmp_path / "run")
    assert GreyPolicy.drawn == 0
    assert (second.models, second.rows) == (first.models, first.rows)
    changed = {"grey": PolicyUnderTest(GreyPolicy, {"size": 9})}
    with pytest.raises(ValueError, match=r"other settings: policy\.size"):
        bench(tmp_path, policies=changed).run(tmp_path / "run")
    with pytest.raises(ValueError, match="other settings: seed"):
        bench(tmp_path, seed=1).run(tmp_path / "run")


def test_what_a_folder_lacks_is_left_out_for_all(tmp_path: Path) -> None:
    images = {"black": str(write_set(tmp_path / "black", (0, 0, 0)))}
    with pytest.raises(ValueError, match="has no image of 00003"):
        bench(tmp_path, images=images).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    results = bench(tmp_path, images=images, allow_missing=True).run(tmp_path / "run")
    assert len(list((tmp_path / "run/images/grey").glob("*.png"))) == 3
    assert (results.settings["prompts"], results.settings["left out"]) == (3, 1)
    assert "1 prompts are left out for all: a folder has no image of them" in results.settings["warnings"]
    assert "black: 1 prompts have no image: 00003" in results.settings["warnings"]
    assert results.settings["prompts without an image"] == {"black": 1}


def test_the_same_image_under_both_labels_is_refused(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "black", (0, 1, 2, 3))
    whole = bench(tmp_path, policies={}, images={"black": str(folder)})
    shutil.copy(tmp_path / "bench/real-img-benchmark/00003.png", folder / "00000.png")
    for refuse in (whole.run, whole.plan):
        with pytest.raises(ValueError, match=r"real and images\.black must not share images: .*black/00000\.png has"):
            refuse(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_without_a_prompt_are_counted(tmp_path: Path) -> None:
    images = {name: str(write_set(tmp_path / name, (0,) * number)) for name, number in (("black", 4), ("more", 6))}
    whole = bench(tmp_path, policies={}, images=images)
    write_grey(tmp_path / "bench/real-img-benchmark/holiday.png", 9)
    said = "more: 2 images belong to no prompt, they are not scored: 00004, 00005"
    assert said in whole.plan(tmp_path / "run")
    results = whole.run(tmp_path / "run")
    assert results.settings["images without a prompt"] == {"more": 2, "real": 1}
    assert results.settings["prompts without an image"] == {}
    assert {said, "real: 1 images belong to no prompt, they are not scored: holiday"} <= {*results.settings["warnings"]}
    # A part of the prompts: the images of the others have prompts.
    (tmp_path / "bench/real-img-benchmark/holiday.png").unlink()
    half = replace(whole, prompts=whole.prompts[:2], other_names=[prompt.name for prompt in whole.prompts])
    assert half.run(tmp_path / "half").settings["images without a prompt"] == {"more": 2}


def test_results_tell_of_which_files_they_are(tmp_path: Path) -> None:
    images = {"black": str(write_set(tmp_path / "black", (0, 0, 0, 0)))}
    first = bench(tmp_path, policies={}, images=images).run(tmp_path / "first")
    again = bench(tmp_path, policies={}, images=images).run(tmp_path / "again")
    write_grey(tmp_path / "black" / "00003.png", 1)
    other = bench(tmp_path, policies={}, images=images).run(tmp_path / "other")
    digests = [results.models[0].digest for results in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]
    assert first.real.digest == other.real.digest


class Silent(DetectorJudge):
    """Replies nothing that can be read."""

    async def compare(self, first: Tensor, second: Tensor, prompt: str) -> Verdict:
        return Verdict(None, reply="I'm sorry.")

    async def judge_single(self, image: Tensor, prompt: str) -> Verdict:
        return Verdict(None, reply="I'm sorry.")


def test_a_judge_that_judges_nothing_is_an_error_and_no_empty_table(tmp_path: Path) -> None:
    images = {"black": str(write_set(tmp_path / "black", (0, 1, 2, 3)))}
    scored = bench(tmp_path, policies={}, images=images, arena=Arena(Silent(Brightness())))
    with pytest.raises(RuntimeError, match=r"judged none of the images: of 16 questions 0 got no answer, 16 none that"):
        scored.run(tmp_path / "run")


def test_arena_is_scored_beside_the_detectors(tmp_path: Path) -> None:
    arena = Arena(DetectorJudge(Brightness()))
    images = {"black": str(write_set(tmp_path / "black", (0, 1, 2, 3)))}
    scored = bench(tmp_path, policies={}, images=images, arena=arena)
    assert scored.plan(tmp_path / "run") == [
        "8 images to score, by bright",
        "arena: 16 calls of the judge (16 questions, 0 answered already)",  # 4 pairs x 2 orders, 8 images alone
    ]
    results = scored.run(tmp_path / "run")
    (black,) = results.models
    assert black.scores["arena_win_rate"].value == 100.0  # darker than every real image
    assert black.scores["arena_called_real"].value == 100.0
    assert black.scores["arena_elo"].value > results.real.scores["arena_elo"].value
    assert black.categories["animals"]["arena_win_rate"].count == 2
    assert len(results.arena.pairs) == 4
    assert (tmp_path / "run" / "arena.jsonl").is_file()


def test_the_judge_computes_where_the_benchmark_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = DetectorJudge(Brightness())
    moved: list[object] = []
    monkeypatch.setattr(judge, "to", moved.append)
    images = {"black": str(write_set(tmp_path / "black", (0, 1, 2, 3)))}
    bench(tmp_path, policies={}, images=images, arena=Arena(judge), device="cpu").run(tmp_path / "run")
    assert moved == ["cpu"]


class Closed(DetectorJudge):
    """Gives no answer to anything."""

    async def compare(self, first: Any, second: Any, prompt: str) -> Verdict:
        raise RefusedError("no credit")


class Counting(Brightness):
    """Counts what it is shown."""

    shown = 0

    def p_fake(self, network: Any, images: Any) -> Any:
        Counting.shown += len(images)
        return super().p_fake(network, images)


def test_a_judge_that_gives_up_has_wasted_no_scores(tmp_path: Path) -> None:
    images = {"black": str(write_set(tmp_path / "black", (0, 1, 2, 3)))}
    arena = Arena(Closed(Brightness()), single=False)
    with pytest.raises(RefusedError, match="no credit"):
        bench(tmp_path, policies={}, images=images, arena=arena, scorers=Scorers({"bright": Counting()})).run(
            tmp_path / "run"
        )
    assert Counting.shown == 0


def test_a_plan_refuses_what_the_run_would(tmp_path: Path) -> None:
    bench(tmp_path).run(tmp_path / "run")
    changed = {"grey": PolicyUnderTest(GreyPolicy, {"size": 9})}
    with pytest.raises(ValueError, match=r"other settings: policy\.size"):
        bench(tmp_path, policies=changed).plan(tmp_path / "run")


def test_a_plan_before_anything_is_drawn(tmp_path: Path) -> None:
    arena = Arena(DetectorJudge(Brightness()))
    lines = bench(tmp_path, arena=arena).plan(tmp_path / "run")
    assert lines[0] == "grey: 4 images to draw, 0 there already"
    assert lines[1] == "8 images to score, by bright"
    assert lines[2].startswith("arena: about 16 calls")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scorers": Scorers()}, "there is nothing to score with"),
        ({"policies": {}}, "there is nothing to score"),
        ({"images": {"grey": "x"}}, "both have grey"),
        ({"policies": {}, "images": {"real": "x"}}, "usable as a folder's, and not 'real'; got 'real'"),
        ({"policies": {"a/b": PolicyUnderTest(GreyPolicy, {})}}, "got 'a/b'"),
        ({"draw_batch_size": 0}, "draw_batch_size must be at least 1"),
        ({"seed": -1}, r"seed must be 0 to 2\^32 - 1"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(settings: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        bench(tmp_path, **settings)


def test_only_prompts_that_all_models_have_are_scored(tmp_path: Path) -> None:
    made = bench(tmp_path, images={"black": str(write_set(tmp_path / "black", (0, 0, 0, 0)))})
    assert made.find_images()[0] == list(made.prompts)
