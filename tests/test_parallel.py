"""Ranks and shards: what one process sees, and two gloo processes on the CPU."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from realgen.callbacks import EMA
from realgen.modules import GRPOModule, OnPolicyError
from realgen.modules.policy_update import PolicyUpdate
from realgen.modules.statistics import combine_ranks, gather_rewards
from realgen.objectives import GRPO
from realgen.parallel import (
    any_rank,
    gather_first_axis,
    gradient_sync,
    is_sharded,
    local_part,
    max_over_ranks,
    reshard,
    whole,
    world_size,
)
from realgen.policies.base import Policy
from realgen.policies.whole_weights import placed_like
from realgen.rewards import WeightedSum
from realgen.types import PolicyScore, RewardOutput, Rollout
from tests.helpers.toy_grpo import Color, GaussianPolicy, Prompts, first_update, module, naive_gradient, trainer

CPU = torch.device("cpu")


def test_one_process_is_alone() -> None:
    tensor = torch.arange(3.0)
    assert world_size() == 1
    assert gather_first_axis(tensor) is tensor
    assert float(max_over_ranks(torch.tensor(2.0))) == 2
    assert (any_rank(True, CPU), any_rank(False, CPU)) == (True, False)
    assert not is_sharded(nn.Linear(2, 2))
    assert whole(tensor) is local_part(tensor) is tensor
    copied = placed_like(tensor, torch.zeros(1, dtype=torch.float64))
    assert torch.equal(copied, tensor)
    assert copied.data_ptr() != tensor.data_ptr()


def test_without_wrapping_gradients_just_add_up() -> None:
    model = nn.Linear(2, 1, bias=False)
    for enabled in (False, True):
        with gradient_sync(model, enabled=enabled):
            model(torch.ones(1, 2)).sum().backward()
    assert model.weight.grad.tolist() == [[2, 2]]


def check_gathers(rank: int) -> None:
    assert world_size() == 2
    assert gather_first_axis(torch.tensor([[rank, 1]])).tolist() == [[0, 1], [1, 1]]
    assert float(max_over_ranks(torch.tensor(float(rank)))) == 1
    assert max_over_ranks(torch.tensor(torch.nan if rank else 0.0)).isnan()
    assert any_rank(rank == 1, CPU)
    assert not any_rank(False, CPU)
    means = combine_ranks({"kl": torch.tensor(rank * 2.0), "top": torch.tensor(rank * 3.0)}, maxima={"top"})
    assert {name: float(value) for name, value in means.items()} == {"kl": 1.0, "top": 3.0}
    part = torch.full((1, 2), float(rank))
    everywhere = gather_rewards(RewardOutput(2 * part, {"red": part}, {"red": 2.0}))
    assert everywhere.total.tolist() == [[0, 0], [2, 2]]
    assert everywhere.components["red"].tolist() == [[0, 0], [1, 1]]


def check_ddp(rank: int) -> None:
    model = nn.Linear(1, 1, bias=False)
    wrapped = DistributedDataParallel(model)
    with gradient_sync(wrapped, enabled=False):
        wrapped(torch.full((1, 1), 1.0 + rank)).sum().backward()
    assert float(model.weight.grad) == 1 + rank  # own gradient only
    with gradient_sync(wrapped, enabled=True):
        wrapped(torch.full((1, 1), 10.0 * rank)).sum().backward()
    assert float(model.weight.grad) == (1 + 2 + 0 + 10) / 2


def check_shards(rank: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    start = [p.detach().clone() for p in model.parameters()]
    mesh = init_device_mesh("cpu", (2,))
    for part in (*model, model):
        fully_shard(part, mesh=mesh)
    assert is_sharded(model)
    weight = next(model.parameters())
    assert isinstance(weight, DTensor)
    assert torch.equal(local_part(weight), start[0][rank : rank + 1])
    assert torch.equal(whole(weight), start[0])
    assert torch.equal(whole(placed_like(start[1], weight)), start[1])
    for enabled in (False, True):
        with gradient_sync(model, enabled=enabled):
            model(torch.full((1, 2), 1.0 + rank)).sum().backward()
        assert (weight.grad is not None) == enabled  # nothing is reduced before the last pass
    reference = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    for p, value in zip(reference.parameters(), start, strict=True):
        p.data = value
    (2 * reference(torch.ones(1, 2)).sum() / 2 + 2 * reference(torch.full((1, 2), 2.0)).sum() / 2).backward()
    for p, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(whole(p.grad), expected.grad)


class ShardedPolicy(GaussianPolicy):
    """Its weight lives in a sharded layer."""

    def load(self) -> None:
        self.layer = fully_shard(nn.Linear(2, 2, bias=False), mesh=init_device_mesh("cpu", (2,)))


def check_sharded_average(rank: int) -> None:
    torch.manual_seed(0)
    policy = ShardedPolicy()
    policy.load()
    (parameter,) = policy.trainable_parameters().values()
    start = whole(parameter.detach()).clone()
    average = EMA(decay=0.75, warmup=1)
    average.load_state_dict({"updates": 0, "weights": {"layer.weight": start.clone()}})
    with average.applied(policy):
        assert torch.equal(whole(parameter), start)
    with torch.no_grad():
        policy.layer(torch.ones(1, 2))  # leaves the gathered weights behind
        reshard(policy)
        (parameter,) = policy.trainable_parameters().values()
        parameter += 4.0
    average.update(policy)
    torch.testing.assert_close(whole(average.state_dict()["weights"]["layer.weight"]), start + 1.0)
    with torch.no_grad():
        live = policy.layer(torch.ones(1, 2))
        with average.applied(policy):
            averaged = policy.layer(torch.ones(1, 2))
        torch.testing.assert_close(live - averaged, torch.full((1, 2), 6.0))
        torch.testing.assert_close(policy.layer(torch.ones(1, 2)), live)


def update_once(failing: Sequence[int], objective: GRPO) -> GRPOModule:
    """One step of size 1 along the mean gradient of two ranks."""
    trained = module(
        policy=GaussianPolicy(dtype=torch.float64),
        reward=WeightedSum({"red": Color(0, failing), "green": Color(1)}, {"green": 0.5}),
        objective=objective,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        max_grad_norm=torch.inf,
    )
    folder = Path(os.environ["FIT_FOLDER"])
    lightning = trainer(folder, devices=2, strategy="ddp", max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    lightning.fit(trained, Prompts())
    return trained


def check_gradients(rank: int) -> None:
    """Each rank has its own noise and its own failures; the update follows the mean of their gradients."""
    start = GaussianPolicy(dtype=torch.float64)
    start.load()
    policy = update_once([] if rank else [1, 6, 7], GRPO(0.2, 0.2)).policy
    moved = torch.cat([(start.weight - policy.weight).detach().flatten(), (start.bias - policy.bias).detach()])
    expected = (naive_gradient([1, 6, 7], rank=0) + naive_gradient([], rank=1)) / 2
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6)
    assert moved.abs().max() > 0.01


def check_a_rank_without_rewards(rank: int) -> None:
    """The second rank scores nothing: it skips all its rows but one, and still takes part in the update."""

    class Spy(GRPO):
        def advantages(self, rewards: RewardOutput) -> torch.Tensor:
            seen["all"] = rewards.components["red"]
            return super().advantages(rewards)

    seen: dict[str, torch.Tensor] = {}
    trained = update_once(range(8) if rank else [1, 6, 7], Spy(0.2, 0.2, advantage_std="global"))
    assert trained.policy.scored_rows == (1 if rank else 5)
    assert int(seen["all"].isfinite().sum()) == 5  # of both ranks
    both = gather_first_axis(trained.policy.weight.detach()[None])
    assert torch.equal(both[0], both[1])


def check_fault_on_one_rank(rank: int) -> None:
    """Only the second rank's weights were written to; both must name it, for the search makes collective calls."""

    def shift(policy: Policy) -> None:
        with torch.no_grad():
            policy.bias += 0.01 * rank

    with pytest.raises(OnPolicyError, match="the weights changed"):
        first_update(GaussianPolicy(), between=shift)


def check_shards_skip_nothing(rank: int) -> None:
    """A row skipped on one rank alone would leave the others waiting for its shards."""
    for policy, may_skip in ((ShardedPolicy(), False), (GaussianPolicy(), True)):
        policy.load()
        none = torch.zeros(2, 1)
        rollout = Rollout(("a",), 2, torch.zeros(2, 3, 1, 1), PolicyScore(none), none.bool())
        settings = {"microbatch_size": 1, "tolerance": 1e-5, "skip_zero_advantages": True}
        objective = GRPO(clip_low=0.2, clip_high=0.2)
        assert PolicyUpdate(policy, objective, rollout, torch.zeros(2), None, **settings).may_skip == may_skip


def check_fit(rank: int) -> None:
    """Two ranks train one policy on different prompts; one of them is asked to leave, and both do."""
    import signal

    from lightning.pytorch import Callback
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from realgen.callbacks import Preemption

    class Term(Callback):
        def on_train_batch_start(self, lightning: object, trained: object, *args: object) -> None:
            if rank == 1 and trained.iteration == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    folder = Path(os.environ["FIT_FOLDER"])
    trained = module(updates_per_epoch=2, microbatch_size=3)
    lightning = trainer(
        folder, devices=2, strategy="ddp", max_epochs=2, callbacks=[Term(), Preemption(), EMA()], limit_val_batches=0
    )
    with pytest.raises(SIGTERMException) as leaving:
        lightning.fit(trained, Prompts())
    assert leaving.value.code == 143
    assert trained.iteration == 3
    mine = torch.cat([p.detach().flatten() for p in trained.policy.trainable_parameters().values()])
    both = gather_first_axis(mine[None])
    assert torch.equal(both[0], both[1])
    metrics = lightning.callback_metrics
    logged = gather_first_axis(
        torch.stack([metrics["reward"], metrics["grad_norm"], metrics["advantage/absmax"]])[None]
    )
    assert torch.equal(logged[0], logged[1])
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["iteration"] == 3


def child(rank: int, check: Callable[[int], None], port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2", GROUP_RANK="0", TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=100))
    check(rank)
    dist.destroy_process_group()


CHECKS = (
    check_gathers,
    check_ddp,
    check_shards,
    check_sharded_average,
    check_shards_skip_nothing,
    check_gradients,
    check_a_rank_without_rewards,
    check_fault_on_one_rank,
    check_fit,
)


@pytest.mark.distributed
@pytest.mark.parametrize("check", CHECKS)
def test_two_processes(check: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forked after the imports, which take longer than the checks."""
    monkeypatch.setenv("FIT_FOLDER", str(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(child, args=(check, port), nprocs=2, daemon=True, start_method="fork")
