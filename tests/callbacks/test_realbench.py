"""Detector-Scoring while a policy is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from realgen.benchmark.inputs.drawing import image_seed
from realgen.benchmark.inputs.matching import FormatMatching
from realgen.callbacks import RealBenchScoring
from tests.helpers.toy_bench import PROMPTS, Brightness, GreyPolicy, write_bench
from tests.helpers.toy_grpo import Prompts, module, trainer


def scoring(folder: Path, **settings) -> RealBenchScoring:
    return RealBenchScoring(str(write_bench(folder / "bench")), {"bright": Brightness()}, **settings)


def test_scores_are_those_of_the_policys_own_images(tmp_path: Path) -> None:
    callback = scoring(tmp_path, batch_size=3)
    found = callback.scores(GreyPolicy())
    levels = torch.tensor([(image_seed(0, prompt) % 256) / 255 for prompt in callback.prompts])
    assert found["bright"] == pytest.approx(100 * (1 - levels.mean().item()), abs=1e-3)
    assert found["bright_judged_real"] == pytest.approx(100 * (levels < 0.5).float().mean().item())
    assert found["bright/animals"] == pytest.approx(100 * (1 - levels[:2].mean().item()), abs=1e-3)
    assert set(found) == {"bright", "bright_judged_real", "failed/bright", "bright/animals", "bright/buildings"}


def test_images_are_matched_as_the_benchmark_does(tmp_path: Path) -> None:
    plain = scoring(tmp_path).scores(GreyPolicy())
    matched = scoring(tmp_path, matching=FormatMatching(size=8, quality=1)).scores(GreyPolicy())
    assert matched["bright"] == pytest.approx(plain["bright"], abs=13)  # greys in steps of 32 levels
    assert matched["bright"] != plain["bright"]


class SometimesBlind(GreyPolicy):
    """One value of the image of the first prompt is NaN."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Any = None) -> torch.Tensor:
        images = super().sample(prompts, seeds)
        images[[prompt == PROMPTS[0] for prompt in prompts], 0, 0, 0] = torch.nan
        return images


@pytest.mark.parametrize("matching", [None, FormatMatching(size=8, quality=100)])
def test_an_image_with_nan_is_left_out_and_counted(matching: FormatMatching | None, tmp_path: Path) -> None:
    callback = scoring(tmp_path, batch_size=3, matching=matching)
    found = callback.scores(SometimesBlind())
    levels = torch.tensor([(image_seed(0, prompt) % 256) / 255 for prompt in callback.prompts])
    assert found["failed/bright"] == 1
    assert found["bright"] == pytest.approx(100 * (1 - levels[1:].mean().item()), abs=0.5)
    assert found["bright/animals"] == pytest.approx(100 * (1 - levels[1].item()), abs=0.5)
    assert callback.scores(GreyPolicy())["failed/bright"] == 0
    nothing = callback.scores(GreyPolicy(fault="nan"))
    assert nothing["failed/bright"] == 4
    assert math.isnan(nothing["bright"])


def test_images_are_never_enlarged(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would enlarge the policy's images, whose shorter side is 8"):
        scoring(tmp_path, matching=FormatMatching(size=9)).scores(GreyPolicy())
    with pytest.raises(ValueError, match="images must have pixels"):
        scoring(tmp_path, matching=FormatMatching(size=9)).scores(GreyPolicy(fault="cannot draw"))
    callback = scoring(tmp_path, matching=FormatMatching(size=512), every_n_iterations=1000)
    lightning = trainer(tmp_path, callbacks=[callback], max_epochs=1, limit_val_batches=0)
    with pytest.raises(ValueError, match=r"matching\.size=512 would enlarge the policy's images"):
        lightning.fit(module(), Prompts())
    assert lightning.lightning_module.iteration == 1


def test_what_cannot_draw_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="LightningModule cannot draw"):
        scoring(tmp_path).on_fit_start(Trainer(logger=False), LightningModule())


def test_it_is_logged_every_so_many_iterations(tmp_path: Path) -> None:
    callback = scoring(tmp_path, every_n_iterations=2, num_prompts=2)
    seen = []
    scores = callback.scores
    callback.scores = lambda policy, **how: seen.append(policy) or scores(policy, **how)
    lightning = trainer(tmp_path, callbacks=[callback], max_epochs=2, limit_val_batches=0)
    lightning.fit(module(), Prompts())
    assert len(seen) == lightning.lightning_module.iteration // 2 > 0
    assert 0 < lightning.callback_metrics["realbench/bright"] < 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_iterations": 0}, "every_n_iterations must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_prompts": 5}, "num_prompts must be 1 to 4"),
        ({"detectors": {}}, "detectors must name at least one"),
    ],
)
def test_wrong_settings(settings, message: str, tmp_path: Path) -> None:
    given = {"prompts": str(write_bench(tmp_path / "bench")), "detectors": {"bright": Brightness()}, **settings}
    with pytest.raises(ValueError, match=message):
        RealBenchScoring(**given)
