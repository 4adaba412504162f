"""What every objective keeps; a new one joins by existing."""

import copy
import importlib
import inspect
import pkgutil
from dataclasses import fields, replace

import pytest
import torch

import realgen.objectives
from realgen.objectives import Objective
from realgen.types import Minibatch, PolicyScore, RewardOutput
from tests.helpers.toy_grpo import GaussianPolicy


def objective_classes() -> list[type[Objective]]:
    """All concrete objectives of the package, wherever they are."""
    modules = [
        importlib.import_module(info.name)
        for info in pkgutil.walk_packages(realgen.objectives.__path__, "realgen.objectives.")
    ]
    classes = {member for module in modules for _, member in inspect.getmembers(module, inspect.isclass)}
    return sorted(
        (c for c in classes if issubclass(c, Objective) and not inspect.isabstract(c)), key=lambda c: c.__name__
    )


CLASSES = objective_classes()
pytestmark = pytest.mark.parametrize("objective", [c() for c in CLASSES], ids=[c.__name__ for c in CLASSES])


def rewards(total: list[list[float]]) -> RewardOutput:
    values = torch.tensor(total)
    return RewardOutput(total=values, components={"realism": values}, weights={"realism": 1.0})


def prepared(objective: Objective, batch: Minibatch) -> Minibatch:
    """The batch, of one group, with what the objective makes of whole groups."""
    return replace(batch, group_terms=objective.group_terms(batch, 4)) if objective.uses_groups else batch


def test_walk_found_the_known_ones(objective):
    assert {"GRPO", "GRPOGuard"} <= {c.__name__ for c in CLASSES}
    assert type(objective).__name__ in realgen.objectives.__all__


def test_requires_names_optional_parts_of_the_score(objective):
    assert objective.requires <= {f.name for f in fields(PolicyScore) if f.default is None}


def test_a_policy_without_the_required_fields_is_refused(objective):
    policy = type("Lagging", (GaussianPolicy,), {"lagged": dict.fromkeys(objective.lagged)})()
    policy.score_fields = objective.requires
    objective.check_policy(policy)
    for name in objective.requires:
        policy.score_fields = objective.requires - {name}
        with pytest.raises(ValueError, match=f"{type(objective).__name__} needs {name} .* gives only log_probs"):
            objective.check_policy(policy)


def test_better_samples_get_larger_advantages(objective):
    advantages = objective.advantages(rewards([[0.1, 0.9, 0.5]]))
    assert advantages[0, 1] > advantages[0, 2] > advantages[0, 0]
    assert advantages.sum().abs() < 1e-5


def test_groups_that_teach_nothing_get_zeros(objective):
    advantages = objective.advantages(rewards([[0.1, 0.1, 0.1], [0.7, torch.nan, torch.nan]]))
    assert torch.equal(advantages, torch.zeros(2, 3))


def test_samples_not_scored_get_zero_and_do_not_count(objective):
    with_nan = objective.advantages(rewards([[0.1, torch.nan, 0.9]]))
    without = objective.advantages(rewards([[0.1, 0.9]]))
    assert with_nan[0, 1] == 0
    torch.testing.assert_close(with_nan[:, [0, 2]], without)


def test_zero_advantages_give_no_gradient_where_their_rows_are_skipped(objective, toy, gradient):
    mean = toy.moved(0.01)
    loss, _ = objective.loss(toy.score(mean), prepared(objective, toy.batch([0.0] * 4)))
    still = torch.equal(gradient(loss, mean), torch.zeros_like(mean))
    assert still or objective.pulls_back or objective.needs_reference
    assert not (still and objective.pulls_back)


def test_on_policy_nothing_is_clipped_and_good_samples_are_pulled_nearer(objective, toy, gradient):
    mean = toy.moved()
    batch = replace(toy.batch([1.0, -1.0, 2.0, -2.0]), reference=toy.score(toy.old_mean))  # some objectives start there
    loss, stats = objective.loss(toy.score(mean), prepared(objective, batch))
    assert stats["ratio_mean"] == 1
    assert stats["ratio_max_deviation"] == stats["clip_fraction"] == stats["approx_kl"] == 0
    along = (-gradient(loss, mean) * (toy.sample - toy.old_mean)).flatten(2).sum(-1)  # descent towards the sample
    assert (along[[0, 2]] > 0).all()
    assert (along[[1, 3]] < 0).all()


def test_decisions_that_do_not_count_leave_no_trace(objective, toy, gradient):
    mask = torch.ones(4, 3, dtype=torch.bool)
    mask[1, 2] = mask[3] = False
    batch = prepared(objective, toy.batch([1.0, -1.0, 2.0, 0.5], mask))
    mean = toy.moved(1e-3)
    loss, stats = objective.loss(toy.score(mean), batch)
    changed = (mean + 0.3 * ~mask[..., None, None, None]).detach().requires_grad_()
    other_loss, other_stats = objective.loss(toy.score(changed), batch)
    assert torch.equal(loss, other_loss)
    assert stats == other_stats
    assert torch.equal(gradient(loss, mean)[~mask], torch.zeros_like(mean[~mask]))


def test_statistics_are_detached_scalars(objective, toy):
    batch = prepared(objective, toy.batch([1.0, -1.0, 2.0, 0.5]))
    loss, stats = objective.loss(toy.score(toy.moved(0.01)), batch)
    assert loss.shape == ()
    assert loss.requires_grad
    assert {"policy_loss", "ratio_mean", "ratio_max_deviation", "clip_fraction", "approx_kl"} <= stats.keys()
    assert ("kl" in stats) == objective.needs_reference
    for value in stats.values():
        assert value.shape == ()
        assert not value.requires_grad
        assert value.isfinite()


def test_loss_of_a_batch_is_the_mean_over_its_rows(objective, toy):
    batch = prepared(objective, toy.batch([1.0, -1.0, 2.0, 0.5]))

    def rows(which: slice) -> torch.Tensor:
        picked = torch.arange(4)[which]
        part = replace(
            batch,
            advantages=batch.advantages[which],
            sampled=batch.sampled.select(picked),
            mask=batch.mask[which],
            reference=batch.reference.select(picked),
            lagged={name: score.select(picked) for name, score in batch.lagged.items()},
            group_terms=None if batch.group_terms is None else batch.group_terms[which],
        )
        return objective.loss(toy.score(toy.moved(1e-3)).select(picked), part)[0]

    halves = torch.stack([rows(slice(0, 2)), rows(slice(2, 4))])
    torch.testing.assert_close(rows(slice(0, 4)), halves.mean())


def test_objectives_can_be_copied(objective):
    assert vars(copy.deepcopy(objective)) == vars(objective)
