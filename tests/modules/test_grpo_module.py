from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from realgen.modules import GRPOModule, OnPolicyError
from realgen.modules.seeds import mix_seed
from realgen.objectives import GRPO, GRPOGuard
from realgen.policies.base import Policy
from realgen.rewards import WeightedSum
from realgen.types import PolicyScore, Rollout, Samples
from tests.helpers.toy_grpo import (
    PROMPTS,
    Color,
    GaussianPolicy,
    MeanBlue,
    Prompts,
    batch_of,
    module,
    naive_gradient,
    trainer,
)


def fit(folder: Path, iterations: int = 1, **settings: Any) -> GRPOModule:
    trained = module(**settings)
    trainer(folder, max_epochs=1, limit_train_batches=iterations, limit_val_batches=0).fit(trained, Prompts())
    return trained


def weights(trained: GRPOModule) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trained.policy.trainable_parameters().values()])


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0)


def double(**settings: Any) -> dict[str, Any]:
    """Settings under which one iteration moves the weights by minus the gradient, in float64."""
    return {"policy": GaussianPolicy(dtype=torch.float64), "optimizer": sgd, "max_grad_norm": torch.inf, **settings}


@pytest.mark.parametrize("microbatch_size", [1, 3, 8])
@pytest.mark.parametrize("skip", [False, True])
def test_one_update_follows_the_gradient_of_the_paper(tmp_path: Path, microbatch_size: int, skip: bool) -> None:
    start = GaussianPolicy(dtype=torch.float64)
    start.load()
    trained = fit(tmp_path, **double(microbatch_size=microbatch_size, skip_zero_advantages=skip))
    moved = torch.cat([start.weight.detach().flatten(), start.bias.detach()]) - weights(trained)
    # Rewards are float32 by contract (eps 6e-8), and are divided by a spread of 0.1.
    torch.testing.assert_close(moved, naive_gradient(), rtol=0, atol=1e-6)
    assert moved.abs().max() > 0.01


def test_microbatches_do_not_change_the_gradient(tmp_path: Path) -> None:
    uneven = [weights(fit(tmp_path, **double(microbatch_size=size, updates_per_epoch=2))) for size in (1, 3, 4)]
    for other in uneven[1:]:
        torch.testing.assert_close(other, uneven[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize(("inner_epochs", "updates"), [(1, 2), (3, 1), (2, 4)])
def test_each_update_follows_its_own_gradient_alone(tmp_path: Path, inner_epochs: int, updates: int) -> None:
    """Steps so small that none feels the others: together they are the gradient of the whole, once per inner epoch."""
    start = GaussianPolicy(dtype=torch.float64)
    start.load()
    lr = 1e-7
    settings = double(inner_epochs=inner_epochs, updates_per_epoch=updates)
    trained = fit(tmp_path, **{**settings, "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=lr)})
    moved = torch.cat([start.weight.detach().flatten(), start.bias.detach()]) - weights(trained)
    torch.testing.assert_close(moved / (lr * inner_epochs * updates), naive_gradient(), rtol=0, atol=1e-5)


def test_shares_of_microbatches_are_not_rounded(tmp_path: Path) -> None:
    """Six rows in microbatches of 1, 4 + 2 and 6: sixths and thirds, which float32 rounds by 1e-8."""
    runs = [weights(fit(tmp_path, **double(microbatch_size=size, group_size=3))) for size in (1, 4, 6)]
    for other in runs[:2]:
        torch.testing.assert_close(other, runs[2], rtol=0, atol=1e-14)


def test_failed_samples_are_masked(tmp_path: Path) -> None:
    failing = (1, 6, 7)
    reward = WeightedSum({"red": Color(0, failing), "green": Color(1)}, {"green": 0.5})
    start = GaussianPolicy(dtype=torch.float64)
    start.load()
    trained = fit(tmp_path, **double(reward=reward))
    moved = torch.cat([start.weight.detach().flatten(), start.bias.detach()]) - weights(trained)
    torch.testing.assert_close(moved, naive_gradient(failing), rtol=0, atol=1e-6)
    metrics = trained.trainer.callback_metrics
    assert (float(metrics["failed/red"]), float(metrics["failed/green"])) == (3, 0)
    assert trained.policy.scored_rows == 5  # the three rows without an advantage are skipped


@pytest.mark.parametrize("constant", [False, True], ids=["some", "all"])
def test_skipping_zero_advantages_is_exact(tmp_path: Path, constant: bool) -> None:
    """With momentum and weight decay; when all rewards are equal, the update must still happen."""
    reward = Color(0, constant=True) if constant else Color(0, failing=[0, 1, 5])
    settings = {"reward": reward, "inner_epochs": 2, "updates_per_epoch": 2}
    runs = []
    for skip in (False, True):
        policy = GaussianPolicy(dtype=torch.float64)
        fit(tmp_path, 2, policy=policy, skip_zero_advantages=skip, **settings)
        runs.append((torch.cat([policy.weight.flatten(), policy.bias]), policy.scored_rows))
    (without, all_rows), (with_skip, fewer_rows) = runs
    torch.testing.assert_close(with_skip, without, rtol=0, atol=1e-13)
    assert all_rows == 2 * 2 * 8
    assert fewer_rows < all_rows


def test_rows_with_zero_advantage_are_scored_when_there_is_a_kl_penalty(tmp_path: Path) -> None:
    objective = GRPO(clip_low=0.2, clip_high=0.2, kl="k3", kl_coef=0.1)
    trained = fit(tmp_path, reward=Color(0, constant=True), objective=objective)
    assert trained.policy.scored_rows == 8 + 8
    assert trained.policy.references == 1


def test_the_reference_is_scored_once_per_rollout_and_only_when_needed(tmp_path: Path) -> None:
    penalty = GRPO(clip_low=0.2, clip_high=0.2, kl="k3", kl_coef=0.1)
    assert fit(tmp_path, 2, objective=penalty, inner_epochs=3).policy.references == 2
    assert fit(tmp_path, 2, inner_epochs=3).policy.references == 0


def test_the_kl_penalty_pulls_towards_the_reference(tmp_path: Path) -> None:
    start = GaussianPolicy()
    start.load()
    origin = torch.cat([start.weight.flatten(), start.bias])
    far, near = (
        weights(fit(tmp_path, 8, objective=GRPO(0.2, 0.2, kl="k3", kl_coef=coef))) - origin for coef in (0.0, 30.0)
    )
    assert near.norm() < 0.5 * far.norm()


def test_it_learns(tmp_path: Path) -> None:
    trained = module()
    lightning = trainer(tmp_path, max_epochs=5, limit_train_batches=8)
    before = lightning.validate(trained, Prompts(), verbose=False)[0]["val/reward"]
    lightning.fit(trained, Prompts())
    assert float(lightning.callback_metrics["val/reward"]) > before + 0.3


def test_every_seed_and_iteration_has_its_own_generator(tmp_path: Path) -> None:
    class Listening(GaussianPolicy):
        def roll(self, prompts: Any, group_size: int, generator: torch.Generator) -> Any:
            heard.append(generator.initial_seed())
            return super().roll(prompts, group_size, generator)

    heard: list[int] = []
    fit(tmp_path, 3, policy=Listening(), seed=5)
    assert heard == [mix_seed(5, 0, iteration) for iteration in range(3)]
    assert len(set(heard)) == 3


def test_every_inner_epoch_deals_the_rows_out_anew(tmp_path: Path) -> None:
    class Listening(GaussianPolicy):
        def score(self, rollout: Any, rows: Tensor) -> Any:
            heard.append(rows.tolist())
            return super().score(rollout, rows)

    heard: list[list[int]] = []
    settings = {"inner_epochs": 2, "updates_per_epoch": 2, "microbatch_size": 8, "skip_zero_advantages": False}
    fit(tmp_path, policy=Listening(), **settings)
    first, other, second, last = heard
    assert sorted(first + other) == sorted(second + last) == list(range(8))
    assert first != second
    assert sorted(first) not in ([0, 1, 2, 3], [4, 5, 6, 7])  # not a prompt's group to each update


def test_the_log_says_what_happened(tmp_path: Path) -> None:
    trained = module(inner_epochs=2, updates_per_epoch=2, policy=GaussianPolicy(dtype=torch.float64))
    lightning = trainer(tmp_path, max_epochs=1, limit_train_batches=3, limit_val_batches=0)
    lightning.fit(trained, Prompts())
    metrics = {name: float(value) for name, value in lightning.callback_metrics.items()}
    names = {
        "reward", "reward/red", "reward/green", "failed/red", "failed/green", "reward_std", "advantage/mean",
        "advantage/std", "advantage/absmax", "zero_variance_groups", "objective/clip_fraction",
        "objective/ratio_mean", "objective/approx_kl", "ratio/on_policy_deviation", "grad_norm", "lr",
        "seconds/rollout", "seconds/reward", "seconds/update", "iteration",
    }  # fmt: skip
    assert names <= metrics.keys()
    assert metrics["iteration"] == 3
    assert metrics["reward"] == pytest.approx(metrics["reward/red"] + 0.5 * metrics["reward/green"], abs=1e-6)
    assert metrics["advantage/mean"] == pytest.approx(0, abs=1e-6)
    assert metrics["ratio/on_policy_deviation"] < 1e-12
    assert metrics["objective/approx_kl"] > 0  # later updates are off-policy
    assert metrics["lr"] == pytest.approx(0.05)
    assert trained.policy.iterations == [0, 1, 2]


def test_images_evaluations_and_the_policys_own_statistics_are_logged(tmp_path: Path) -> None:
    class Counting(GaussianPolicy):
        evals = 1000

        @property
        def transformer_evals(self) -> int:
            return self.evals

        def score(self, *args: Any) -> Any:
            self.evals += 7
            return super().score(*args)

        def statistics(self, rollout: Rollout) -> dict[str, float]:
            return {"rows": float(len(rollout.mask))}

    trained = fit(tmp_path, 2, policy=Counting(), skip_zero_advantages=False, microbatch_size=16)
    metrics = {name: float(value) for name, value in trained.trainer.callback_metrics.items()}
    assert metrics["transformer_evals"] == 7  # one microbatch in the last iteration
    assert metrics["rows"] == 8
    seconds = sum(value for name, value in metrics.items() if name.startswith("seconds/"))
    assert metrics["images_per_second"] == pytest.approx(8 / seconds, rel=1e-3)


def test_the_norm_of_gradients_is_logged_and_clipped(tmp_path: Path) -> None:
    start = GaussianPolicy(dtype=torch.float64)
    start.load()
    origin = torch.cat([start.weight.detach().flatten(), start.bias.detach()])
    trained = fit(tmp_path, **double(max_grad_norm=0.01))
    assert float((weights(trained) - origin).norm()) == pytest.approx(0.01, rel=1e-3)
    norm = float(trained.trainer.callback_metrics["grad_norm"])
    assert norm == pytest.approx(float(naive_gradient().norm()), rel=1e-4)


def test_the_scheduler_steps_once_per_iteration(tmp_path: Path) -> None:
    trained = fit(
        tmp_path,
        3,
        updates_per_epoch=2,
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step),
    )
    assert float(trained.trainer.callback_metrics["lr"]) == pytest.approx(0.05 * 0.25)
    assert trained.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05 * 0.125)


def test_a_scheduler_that_needs_a_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lr_scheduler must not wait for a metric, got ReduceLROnPlateau"):
        fit(tmp_path, lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)


def test_the_guard_stops_the_fit_before_the_first_update(tmp_path: Path) -> None:
    trained = module(policy=GaussianPolicy(fault="conditioning"))
    with pytest.raises(OnPolicyError, match="another conditioning"):
        trainer(tmp_path, limit_val_batches=0).fit(trained, Prompts())
    start = GaussianPolicy()
    start.load()
    assert torch.equal(trained.policy.weight, start.weight)
    assert trained.iteration == 0


def test_an_iteration_without_any_reward_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not one of the 8 samples of iteration 0 could be scored"):
        fit(tmp_path, reward=Color(0, failing=range(8)))


def test_a_gradient_that_is_not_finite_leaves_the_weights(tmp_path: Path) -> None:
    trained = module(policy=GaussianPolicy(fault="nan"), on_policy_tolerance=torch.inf)
    with pytest.raises(ValueError, match="NaN or infinity"):
        trainer(tmp_path, limit_val_batches=0).fit(trained, Prompts())
    trained = module()
    trained.configure_model()
    trained.policy.weight.register_hook(lambda grad: grad * torch.inf)
    with pytest.raises(RuntimeError, match=r"the gradient's norm is (nan|inf) in iteration 0"):
        trainer(tmp_path, limit_val_batches=0).fit(trained, Prompts())
    assert trained.policy.weight.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_size": 1}, "group_size must be at least 2"),
        ({"inner_epochs": 0}, "inner_epochs must be at least 1, got 0"),
        ({"updates_per_epoch": 0}, "updates_per_epoch must be at least 1, got 0"),
        ({"microbatch_size": 0}, "microbatch_size must be at least 1, got 0"),
        ({"validation_samples_per_prompt": 0}, "validation_samples_per_prompt must be at least 1, got 0"),
        ({"max_grad_norm": 0.0}, r"max_grad_norm must be above 0 \(.inf for no limit\), got 0.0"),
        ({"on_policy_tolerance": -1.0}, "on_policy_tolerance must be at least 0, got -1.0"),
        ({"old_log_probs": "update", "inner_epochs": 2}, "old_log_probs=update is for one update of a rollout"),
    ],
)
def test_impossible_numbers_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(**settings)


def test_updates_must_divide_the_rows(tmp_path: Path) -> None:
    message = (
        "model.updates_per_epoch: expected a divisor of the 8 rows of an iteration (data.prompts_per_iteration=2 x "
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(tmp_path, updates_per_epoch=3)


def test_an_objective_that_the_policy_cannot_serve_is_refused() -> None:
    class NoGaussian(GaussianPolicy):
        score_fields = frozenset()

    with pytest.raises(ValueError, match="objective GRPOGuard needs gaussian"):
        module(policy=NoGaussian(), objective=GRPOGuard())


def test_a_policy_declares_no_field_by_default() -> None:
    class Plain(GaussianPolicy):
        score_fields = Policy.score_fields

    with pytest.raises(ValueError, match=r"needs gaussian .*\(Policy.score_fields\); Plain gives only log_probs"):
        module(policy=Plain(), objective=GRPOGuard())


def test_a_policy_that_declares_a_field_and_has_none_is_named_before_the_update(tmp_path: Path) -> None:
    class Boasting(GaussianPolicy):
        def describe(self, *args: Any) -> PolicyScore:
            return replace(super().describe(*args), gaussian=None)

    with pytest.raises(ValueError, match=r"policy Boasting has no \['gaussian'\] in its rollout; see score_fields"):
        fit(tmp_path, policy=Boasting(), objective=GRPOGuard())


def test_a_policy_without_decisions_or_weights_is_refused(tmp_path: Path) -> None:
    class Silent(GaussianPolicy):
        def roll(self, *args: Any) -> Any:
            rollout = super().roll(*args)
            rollout.mask[:] = False
            return rollout

    with pytest.raises(ValueError, match="policy Silent took no decision that counts; is noise_level 0"):
        fit(tmp_path, policy=Silent())
    frozen = GaussianPolicy()
    frozen.load()
    frozen.requires_grad_(False)
    with pytest.raises(ValueError, match="policy GaussianPolicy has no trainable parameter"):
        fit(tmp_path, policy=frozen)


def test_a_dropped_metric_is_not_there() -> None:
    assert set(module(metrics={"blue": MeanBlue(), "gone": None}).metrics) == {"blue"}


def test_an_own_statistic_is_a_mean_unless_the_objective_calls_it_a_maximum(tmp_path: Path) -> None:
    """Two microbatches of four rows each; the name alone decides nothing."""

    class Own(GRPO):
        maxima = frozenset({"entropy"})

        def loss(self, score: Any, batch: Any) -> Any:
            calls.append(len(batch.advantages))
            value = torch.tensor(float(2 * len(calls) - 1))  # 1, then 3
            return super().loss(score, batch)[0], {"softmax_entropy": value, "entropy": value}

    calls: list[int] = []
    trained = fit(tmp_path, objective=Own(0.2, 0.2), microbatch_size=4, skip_zero_advantages=False)
    assert calls == [4, 4]
    metrics = trained.trainer.callback_metrics
    assert float(metrics["objective/softmax_entropy"]) == 2
    assert float(metrics["objective/entropy"]) == 3


def test_the_rewards_see_the_metadata_of_their_prompts(tmp_path: Path) -> None:
    class Listening(Color):
        def score(self, samples: Samples) -> Tensor:
            heard.append((samples.prompts, samples.metadata))
            return super().score(samples)

    class Tagged(Prompts):
        def train_dataloader(self) -> Any:
            batch = batch_of([0, 1])._replace(metadata=({"tag": "first"}, {}))
            return torch.utils.data.DataLoader([batch], batch_size=None, collate_fn=lambda only: only)

    heard: list[Any] = []
    for overlap in (True, False):
        trained = module(reward=Listening(0), overlap_rewards=overlap)
        trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=1).fit(trained, Tagged())
    training, validation = (PROMPTS[:2], ({"tag": "first"}, {})), (PROMPTS[:2], ({}, {}))
    assert heard == [training, validation] * 2


def test_the_rollout_reports_to_the_module_s_progress(tmp_path: Path) -> None:
    class Reporting(GaussianPolicy):
        def rollout_chunks(self, *args: Any, progress: Any = None, **how: Any) -> Any:
            progress("rollout", 1, 1)
            return super().rollout_chunks(*args, **how)

    reports: list[tuple[str, int, int]] = []
    trained = module(policy=Reporting())
    trained.progress = lambda *report: reports.append(report)
    trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(trained, Prompts())
    assert reports[0] == ("rollout", 1, 1)
    assert {phase for phase, _, _ in reports} == {"rollout", "update"}
