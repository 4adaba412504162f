"""Training on draws: microbatches, the free old score, lagged weights in a resumed run and on two ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from realgen.modules import GRPOModule
from realgen.modules.policy_update import PolicyUpdate, reference_score
from realgen.objectives import CRD, DGPO, PEPG, RAM, DiffusionNFT, ForwardProcess
from realgen.policies import DiffusionPolicy, ForwardDraws, Lag
from realgen.policies.whole_weights import gathered_weights
from realgen.strategies import FSDP2
from realgen.strategies.checkpoint import gathered
from tests.modules.test_resume import assert_same
from tests.strategies.ranks import fit, make_policy, on_ranks

LAST = Path("checkpoints", "last.ckpt")
OLD = {"old": Lag(rate=1.0, most=0.25)}
OBJECTIVES = {
    "AWM": (lambda: ForwardProcess(1.0, 1.0, advantage_scale=0.2, average_coef=1.0), {"lagged": {"ema": Lag()}}),
    "PEPG": (lambda: PEPG(kl_coef=0.1), {}),
    "NFT": (lambda: DiffusionNFT(kl_coef=0.1), {"lagged": OLD, "sampler": "old"}),
    "DGPO": (lambda: DGPO(beta=2.0), {"shared": True}),
    "RAM": (RAM, {}),
    "CRD": (lambda: CRD(kl_coef=0.1), {"lagged": OLD, "shared": True}),
}


def draws_policy(directory: str, **draws: Any) -> DiffusionPolicy:
    how = {"transition": None, "step_window": None, "num_steps": 3}
    return make_policy(directory, draws=ForwardDraws(**{"count": 2, **draws}), **how)


def shift(policy: DiffusionPolicy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.trainable_parameters().values():
            weight += 0.05 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)


def gradient(policy: DiffusionPolicy, objective: Any, microbatch_size: int, **settings: Any) -> Tensor:
    """Of an update in its second iteration: lagged weights and trained ones differ."""
    rollout = policy.rollout(["a cat", "a red fox"], 4, generator=torch.Generator().manual_seed(3))
    how = {"tolerance": None, "skip_zero_advantages": True, "several_updates": False, **settings}
    reference = reference_score(policy, objective, rollout, 3)
    advantages = torch.tensor([1.5, -0.5, -1, 0, 2, -2, 0.5, -0.5], dtype=torch.float64)
    made = PolicyUpdate(policy, objective, rollout, advantages, reference, microbatch_size=microbatch_size, **how)
    policy.zero_grad()
    made.gradients(torch.arange(8), policy, Tensor.backward, first_update=True)[0].backward()
    return torch.cat([p.grad.flatten() for p in policy.trainable_parameters().values()])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_microbatches_and_a_scored_old_give_one_gradient(sd3: str, name: str) -> None:
    make, draws = OBJECTIVES[name]
    policy = draws_policy(sd3, **draws)
    policy.load()
    policy.double()
    for module in policy.backbone.frozen():
        module.double()
    for lagged in policy.lagged.values():
        lagged.start(policy)
    shift(policy, 0)
    policy.end_iteration(1)
    whole = gradient(policy, make(), 8)
    assert float(whole.norm()) > 1e-6
    for size in (1, 3):
        torch.testing.assert_close(gradient(policy, make(), size), whole, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient(policy, make(), 3, several_updates=True), whole, rtol=1e-9, atol=1e-12)


def nft(folder: Path, directory: str, iterations: int, **settings: Any) -> tuple[Any, Trainer, GRPOModule]:
    policy = draws_policy(directory, lagged=OLD, sampler="old")
    objective = DiffusionNFT(kl_coef=0.1)
    return fit(folder, policy, iterations=iterations, objective=objective, exports=False, **settings)


def test_a_resumed_run_is_an_uninterrupted_one_to_the_bit(sd3: str, tmp_path: Path) -> None:
    for name, parts in {"whole": (3,), "halves": (1, 3)}.items():
        for number, iterations in enumerate(parts):
            folder = tmp_path / f"{name}{number}"
            nft(folder, sd3, iterations, ckpt=tmp_path / f"{name}{number - 1}" / LAST if number else None)
    whole, halves = (torch.load(tmp_path / name / LAST, weights_only=True) for name in ("whole0", "halves1"))
    assert list(whole["lagged"]) == ["/old"]
    for part in ("state_dict", "optimizer_states", "lagged", "iteration"):
        assert_same(whole[part], halves[part])
    (old,) = whole["lagged"].values()
    live = {name.removeprefix("policy."): weight for name, weight in whole["state_dict"].items()}
    assert old["weights"].keys() == live.keys()
    assert any(not torch.equal(old["weights"][name], live[name]) for name in live)


def test_a_checkpoint_without_the_lagged_weights_is_refused(sd3: str, tmp_path: Path) -> None:
    fit(tmp_path, draws_policy(sd3), iterations=1, objective=PEPG(), exports=False)
    with pytest.raises(ValueError, match=r"the checkpoint must hold the lagged weights \['/old'\]"):
        nft(tmp_path / "other", sd3, 2, ckpt=tmp_path / LAST)


def test_lagged_weights_that_nothing_uses_are_refused(sd3: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"draws.lagged must name .* use, \[\], got \['old'\]"):
        fit(tmp_path, draws_policy(sd3, lagged=OLD), objective=PEPG())
    with pytest.raises(ValueError, match=r"draws.lagged must name .* use, \['old'\], got \[\]"):
        fit(tmp_path, draws_policy(sd3), objective=CRD())


class Look(Callback):
    """Writes down, on the first rank, the weights and those that lag, at the start and after each iteration."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, []

    def on_train_batch_start(self, lightning: Trainer, module: GRPOModule, *args: Any) -> None:
        if not self.seen:
            self.look(module)

    def on_train_batch_end(self, lightning: Trainer, module: GRPOModule, *args: Any) -> None:
        self.look(module)
        if lightning.is_global_zero:
            torch.save(self.seen, self.folder / "seen.pt")

    def look(self, module: GRPOModule) -> None:
        lagged = gathered(dict(module.policy.lagged["old"].weights), keep=True)
        self.seen.append(
            {
                "live": gathered_weights(module.policy, trained_only=True),
                "old": {name: weight.clone() for name, weight in lagged.items()},
            }
        )


def train(rank: int, directory: str, folder: Path, strategy: Any, iterations: int, ckpt: Path | None) -> None:
    nft(folder, directory, iterations, strategy=strategy, ckpt=ckpt, callbacks=[Look(folder)])


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", FSDP2(), FSDP2(sharded_checkpoints=False)], ids=["ddp", "fsdp2", "file"])
def test_two_ranks_keep_one_set_of_lagged_weights_and_one_rank_resumes_them(
    sd3: str, tmp_path: Path, strategy: Any
) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    for folder in (two, one):
        folder.mkdir()
    assert on_ranks(train, sd3, two, strategy, 2, None) == [0, 0]
    start, first, second = torch.load(two / "seen.pt", weights_only=True)
    assert_same(start["old"], start["live"])
    for before, after in ((start, first), (first, second)):
        for name, weight in after["old"].items():
            expected = 0.25 * before["old"][name] + 0.75 * after["live"][name]
            torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-8)
    resumed_with = "auto" if strategy == "ddp" or not strategy.sharded_checkpoints else FSDP2()
    ranks = {} if resumed_with == "auto" else {"ranks": 1}
    if ranks:
        assert on_ranks(train, sd3, one, resumed_with, 3, two / LAST, **ranks) == [0]
    else:
        train(0, sd3, one, resumed_with, 3, two / LAST)
    assert_same(torch.load(one / "seen.pt", weights_only=True)[0], second)
