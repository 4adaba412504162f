"""Detector-Scoring of greys, whose scores are their brightness."""

from __future__ import annotations

import gc
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from realgen.benchmark.detector_scoring import DetectorScoringRun, Scorers, ScoringSettings, stream_images
from realgen.benchmark.inputs.image_sets import BenchmarkPrompt, find_image_set
from realgen.benchmark.inputs.matching import FormatMatching
from realgen.benchmark.inputs.prompt_set import read_prompt_set
from realgen.benchmark.results import Results
from realgen.metrics import ColorDistance, Diversity
from realgen.types import Samples
from tests.helpers.toy_bench import PROMPTS, Brightness, Letters, write_bench, write_grey, write_set

SCORERS = Scorers({"bright": Brightness()}, {"letters": Letters()}, {"color": ColorDistance()})
SETTINGS = ScoringSettings(batch_size=3, resamples=50)


def score(folder: Path, *, scorers: Scorers = SCORERS, real: bool = True, workers: int = 0) -> Results:
    """Real images of levels 10 to 40; a dark model and a bright one."""
    prompts = read_prompt_set(write_bench(folder / "bench"))
    sets = [
        find_image_set("dark", str(write_set(folder / "dark", (0, 51, 0, 51)))),
        find_image_set("bright", str(write_set(folder / "bright", (255, 255, 204, 204)))),
    ]
    settings = ScoringSettings(batch_size=3, resamples=50, num_workers=workers)
    run = DetectorScoringRun(prompts, scorers, matching=None, settings=settings)
    return run.run(sets, real=real)


def test_scores_by_hand(tmp_path: Path) -> None:
    results = score(tmp_path)
    dark, bright = results.models
    assert (dark.name, bright.name, results.real.name) == ("dark", "bright", "real")
    assert dark.scores["bright"].value == pytest.approx(90.0, abs=1e-4)
    assert dark.scores["bright_judged_real"].value == 100.0
    assert bright.scores["bright"].value == pytest.approx(10.0, abs=1e-4)
    assert bright.scores["bright_judged_real"].value == 0.0
    assert results.real.scores["bright"].value == pytest.approx(100 * (1 - 25 / 255), abs=1e-3)
    assert dark.scores["bright"].low < 90.0 < dark.scores["bright"].high
    assert [dark.scores["bright"].count, dark.scores["letters"].count] == [4, 3]
    assert dark.scores["letters"].value == pytest.approx((5 + 7 + 7) / 3)


def test_scores_by_category(tmp_path: Path) -> None:
    categories = score(tmp_path).models[1].categories
    assert list(categories) == ["animals", "buildings"]
    assert categories["animals"]["bright"].value == pytest.approx(0.0, abs=1e-4)
    assert categories["buildings"]["bright"].value == pytest.approx(20.0, abs=1e-4)
    assert categories["animals"]["letters"].value == 5.0


def test_checks_say_whether_the_detector_can_tell(tmp_path: Path) -> None:
    dark, bright = score(tmp_path).models
    assert bright.checks["bright"]["auroc"].value == 1.0
    assert bright.checks["bright"]["accuracy"].value == 1.0
    assert dark.checks["bright"]["auroc"].value == pytest.approx(0.5)  # above none or all of the real images
    assert dark.checks["bright"]["fake_accuracy"].value == 0.0
    assert dark.checks["bright"]["calibration_error"].higher_is_better is False


def test_metrics_compare_with_the_real_images(tmp_path: Path) -> None:
    results = score(tmp_path)
    dark, bright = (model.scores["color"] for model in results.models)
    assert dark.value < bright.value
    assert bright.higher_is_better is False
    assert bright.low is None
    assert "color" not in results.real.scores
    alone = ColorDistance()
    greys = [torch.full((1, 3, 8, 8), level / 255) for level in (255, 255, 204, 204)]
    real = torch.cat([torch.full((1, 3, 8, 8), level / 255) for level in (10, 20, 30, 40)])
    alone.update(torch.cat(greys), prompts=PROMPTS, real=real)
    assert bright.value == pytest.approx(alone.compute().item())


def test_rows_hold_what_each_judge_said_of_each_image(tmp_path: Path) -> None:
    results = score(tmp_path)
    assert [row.model for row in results.rows] == ["real"] * 4 + ["dark"] * 4 + ["bright"] * 4
    row = results.rows[5]
    assert (row.name, row.category, row.prompt) == ("00001", "animals", "a dog")
    assert row.file == str((tmp_path / "dark" / "00001.png").resolve())
    assert row.values == {"bright": pytest.approx(0.8), "letters": None}
    assert results.detectors == ("bright",)


def test_without_real_images_there_are_no_checks(tmp_path: Path) -> None:
    scorers = Scorers({"bright": Brightness()})
    results = score(tmp_path, scorers=scorers, real=False)
    assert results.real is None
    assert results.models[0].checks == {}
    assert len(results.rows) == 8
    with pytest.raises(ValueError, match="ColorDistance has seen no real images"):
        score(tmp_path, real=False)


def test_nothing_piles_up_over_the_batches(tmp_path: Path) -> None:
    """What outlives its batch, however small, keeps the large buffers of the next one from fitting in between."""
    write_set(tmp_path, [0] * 64)
    prompts = [BenchmarkPrompt(i, f"{i:05d}", "p", real_image=tmp_path / f"{i:05d}.png") for i in range(64)]
    batches, alive = itertools.count(1), {}

    def count(_: int) -> None:
        batch = next(batches)
        if batch in (15, 63, 64 + 15, 64 + 63):
            alive[batch] = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    settings = ScoringSettings(batch_size=1, resamples=2)
    run = DetectorScoringRun(prompts, SCORERS, matching=None, settings=settings, advance=count)
    real, _ = run.real_images()
    assert real.scores["letters"].count == 64
    run.model(find_image_set("again", str(tmp_path)))
    # Eight lists of states: after 15 batches each holds 4 tensors, after 63 it holds 6.
    assert alive[63] - alive[15] <= 16
    assert alive[64 + 63] - alive[64 + 15] <= 16


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_reading_in_other_processes_changes_nothing(tmp_path: Path) -> None:
    assert score(tmp_path, workers=2) == score(tmp_path)


def test_images_of_all_sizes_are_scored_one_by_one(tmp_path: Path) -> None:
    files = [write_grey(tmp_path / f"{i}.png", 51 * i, size=(8 + 2 * (i == 1), 8)) for i in range(4)]
    batches = list(stream_images(files, None, batch_size=4))
    assert [rows for rows, _ in batches] == [[0], [1], [2, 3]]
    assert [list(images.shape) for _, images in batches] == [[1, 3, 8, 8], [1, 3, 8, 10], [2, 3, 8, 8]]
    (_, matched), _ = stream_images(files, FormatMatching(size=4, quality=None), batch_size=3)
    torch.testing.assert_close(matched.mean((1, 2, 3)), torch.tensor([0.0, 0.2, 0.4]))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"x\.png: the image cannot be decoded"):
        list(stream_images([tmp_path / "x.png"], None, batch_size=1))


class BreaksAtWhite(Brightness):
    """Cannot see a white image, alone or among others."""

    def p_fake(self, network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        if bool((images == 1).all((1, 2, 3)).any()):
            raise RuntimeError("too bright")
        return super().p_fake(network, images)


class NeedsAFew(Letters):
    """Scores no two images of one batch; ``away``: as a server that is away, which is asked no more."""

    def __init__(self, away: bool) -> None:
        super().__init__()
        self.fails_by_sample, self.calls = not away, 0

    def score(self, samples: Samples) -> torch.Tensor:
        self.calls += 1
        if len(samples.images) > 1 or not self.fails_by_sample:
            raise RuntimeError("no batches")
        return super().score(samples)


class NoColors(ColorDistance):
    def update(self, images: torch.Tensor, **how: Any) -> None:
        raise TypeError("expected colors")


@pytest.mark.parametrize(
    ("scorers", "message"),
    [
        (Scorers({"glare": BreaksAtWhite()}), r"glare failed at .*/bright/00000\.png: RuntimeError: too bright$"),
        (Scorers({}, {"few": NeedsAFew(False)}), r"few failed at 3 images together, the first .*/00000\.png: Runtime"),
        (Scorers({}, {}, {"color": NoColors()}), r"color failed at .*/dark/00000\.png: TypeError: expected colors$"),
    ],
)
def test_an_error_names_the_scorer_and_the_image(scorers: Scorers, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        score(tmp_path, scorers=scorers)


def test_a_server_that_is_away_is_not_asked_for_each_image(tmp_path: Path) -> None:
    reward = NeedsAFew(True)
    with pytest.raises(ValueError, match=r"few failed at 3 images together, the first .*: RuntimeError: no batches"):
        score(tmp_path, scorers=Scorers({}, {"few": reward}))
    assert reward.calls == 1


def test_wrong_judges_and_settings() -> None:
    with pytest.raises(ValueError, match="names of their own, got a_judged_real twice"):
        Scorers({"a": Brightness()}, {"a_judged_real": Letters()})
    with pytest.raises(ValueError, match=r"metrics\.d: Diversity needs several images"):
        Scorers(metrics={"d": Diversity.__new__(Diversity)})
    for settings in ({"batch_size": 0}, {"num_workers": -1}, {"resamples": 0}, {"confidence": 1.0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            ScoringSettings(**settings)
    run = DetectorScoringRun([BenchmarkPrompt(0, "0", "p")], SCORERS, matching=None, settings=SETTINGS)
    with pytest.raises(ValueError, match="real images of 0 of the 1 prompts"):
        run.real_images()
