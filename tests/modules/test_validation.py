from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from realgen.metrics import RealComparison
from realgen.modules.seeds import mix_seed
from realgen.modules.validation import Validation, sample_seeds
from realgen.rewards import WeightedSum
from tests.helpers.toy_grpo import Color, GaussianPolicy, MeanBlue, Prompts, batch_of, module, trainer


class Spy(MeanBlue):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []

    def update(self, images: Tensor, **given: Any) -> None:
        self.calls.append({"images": images, **given})
        super().update(images, **given)


def loaded() -> GaussianPolicy:
    policy = GaussianPolicy()
    policy.load()
    return policy


REWARD = WeightedSum({"red": Color(0), "green": Color(1)}, {"green": 0.5})


def test_rewards_are_means_over_prompts_that_count() -> None:
    policy, validation = loaded(), Validation({}, samples_per_prompt=1)
    validation.start(torch.device("cpu"))
    validation.step(policy, REWARD, batch_of([0, 1]))
    validation.step(policy, REWARD, batch_of([2, 2], mask=[True, False]))
    images = policy.sample(["a", "a cat", "a red fox"], [100, 101, 102])
    results = validation.results()
    assert float(results["reward/red"]) == pytest.approx(float(images[:, 0].mean()))
    assert float(results["reward"]) == pytest.approx(float(images[:, 0].mean() + 0.5 * images[:, 1].mean()))


def test_samples_that_failed_count_in_no_mean() -> None:
    policy, validation = loaded(), Validation({}, samples_per_prompt=1)
    validation.start(torch.device("cpu"))
    step = validation.step(policy, Color(0, failing=[0]), batch_of([0, 1]))
    assert float(validation.results()["reward"]) == pytest.approx(float(step["samples"].images[1, 0].mean()))
    validation.start(torch.device("cpu"))
    validation.step(policy, Color(0, failing=[0, 1]), batch_of([0, 1]))
    assert validation.results()["reward"].isnan()


def test_several_samples_of_a_prompt_come_from_derived_seeds_and_bring_the_photograph_once() -> None:
    policy, spy = loaded(), Spy()
    validation = Validation({"blue": spy}, samples_per_prompt=2)
    validation.start(torch.device("cpu"))
    photographs = torch.rand(2, 3, 8, 8)
    mask = torch.tensor([True, False])
    step = validation.step(policy, REWARD, batch_of([0, 1])._replace(images=photographs, mask=mask))
    assert step["seeds"] == [100, mix_seed(100, 1), 101, mix_seed(101, 1)]
    assert step["samples"].group_size == 2
    assert step["samples"].row_prompts == ["a", "a", "a cat", "a cat"]
    assert torch.equal(step["samples"].images, policy.sample(["a", "a", "a cat", "a cat"], step["seeds"]))
    first, second = spy.calls
    assert torch.equal(first["images"], step["samples"].images[[0, 2]])
    assert torch.equal(second["images"], step["samples"].images[[1, 3]])
    assert first["real"] is photographs
    assert second["real"] is None
    assert first["prompts"] == ["a", "a cat"]
    assert torch.equal(first["valid"], mask)


def test_a_new_pass_forgets_the_last_one() -> None:
    policy, validation = loaded(), Validation({"blue": MeanBlue()}, samples_per_prompt=1)
    for numbers in ([0, 1], [3, 4]):
        validation.start(torch.device("cpu"))
        validation.step(policy, Color(0), batch_of(numbers))
    expected = policy.sample(batch_of([3, 4]).prompts, [103, 104])[:, 0].mean()
    assert float(validation.results()["reward"]) == pytest.approx(float(expected))


def test_validate_before_a_fit_and_during_it_log_the_same_names(tmp_path: Path) -> None:
    trained = module(metrics={"blue": MeanBlue()}, validation_samples_per_prompt=2)
    lightning = trainer(tmp_path, max_epochs=1)
    (before,) = lightning.validate(trained, Prompts(), verbose=False)
    assert set(before) == {"step", "iteration", "val/reward", "val/reward/red", "val/reward/green", "val/blue"}
    assert before.pop("step") == before.pop("iteration") == 0
    assert before["val/blue"] == 0.5
    lightning.fit(trained, Prompts())
    assert lightning.callback_metrics["step"] == trained.iteration > 0
    after = {name: float(value) for name, value in lightning.callback_metrics.items() if name.startswith("val/")}
    assert set(after) == set(before)
    assert after["val/reward"] > before["val/reward"]


def test_the_first_sample_of_a_prompt_keeps_its_seed() -> None:
    seeds = sample_seeds((7, 9), 3)
    assert [seeds[0], seeds[3]] == [7, 9]
    assert len(set(seeds)) == 6
    torch.Generator().manual_seed(max(seeds))  # must fit


class Failing(MeanBlue):
    """A metric of a user that raises, or returns what it should not."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.updates = where, 0

    def update(self, *args: Any, **given: Any) -> None:
        self.updates += 1
        if self.where == f"update {self.updates}":
            raise RuntimeError("my server is away")
        super().update(*args, **given)

    def compute(self) -> Any:
        if self.where == "compute":
            raise KeyError("mine")
        return {"dict": {"a": 1.0}, "rows": self.seen("generated")}.get(self.where, 0.25)

    def reset(self) -> None:
        super().reset()
        if self.where == "reset":
            raise OSError("no disk")


@pytest.mark.parametrize("where", ["update 1", "update 2", "compute", "dict", "rows", "reset"])
def test_a_metric_that_fails_is_named_and_left_empty_and_the_others_stand(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing("")
    validation = Validation({"first": failing, "blue": MeanBlue()}, samples_per_prompt=1)
    failing.where = where
    validation.start(torch.device("cpu"))
    for numbers in ([0, 1], [2, 3]):
        step = validation.step(loaded(), REWARD, batch_of(numbers))
    results = validation.results()
    assert results["first"].isnan()
    assert float(results["blue"]) == 0.5
    assert results["reward"].isfinite()
    assert [message.split(" failed")[0] for message in caplog.messages] == ["model.metrics.first"]
    assert step["failed"] == (set() if where in ("compute", "dict", "rows") else {"first"})
    failing.where = ""
    validation.start(torch.device("cpu"))
    validation.step(loaded(), REWARD, batch_of([0]))
    assert float(validation.results()["first"]) == 0.25  # the next validation counts again


def test_an_interval_that_fails_costs_no_value(caplog: pytest.LogCaptureFixture) -> None:
    class NoInterval(MeanBlue):
        def without_each(self) -> Tensor:
            raise RuntimeError("mine")

    validation = Validation({"blue": NoInterval()}, samples_per_prompt=1)
    validation.start(torch.device("cpu"))
    validation.step(loaded(), REWARD, batch_of([0, 1]))
    assert float(validation.results()["blue"]) == 0.5
    assert validation.without_each == {}
    assert caplog.messages[0].startswith("model.metrics.blue failed, and has no interval in this validation: ")


def test_metrics_that_need_real_images_can_be_left_out() -> None:
    class Compared(RealComparison):
        def describe(self, images: Tensor) -> Tensor:
            return images[:, 2].mean((1, 2))

        def compare(self, generated: Tensor, real: Tensor) -> Tensor:
            return generated.mean() - real.mean()

    trained = module(metrics={"compared": Compared(), "blue": MeanBlue()})
    assert trained.without_real_images() == ["compared"]
    assert set(trained.metrics) == set(trained.validation.metrics) == {"blue"}
