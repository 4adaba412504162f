"""Groups without spread are replaced by whole groups of other prompts; a resumed run draws the same ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from realgen.callbacks import LastCheckpoint
from realgen.data import PromptShards, write_shards
from realgen.modules import GRPOModule, JointGRPOModule
from realgen.modules.refill import Groups, Refill
from realgen.objectives import GRPO
from realgen.parallel import world_size
from realgen.policies.joint_policy import JointPolicy
from realgen.rewards import WeightedSum
from realgen.types import RewardOutput, Samples
from tests.helpers.toy_grpo import Color, GaussianPolicy, Prompts, batch_of, module, trainer

NUMBER = 12


class Solved(Color):
    """Red; but always 1 for prompts whose number can be divided by three, all of whose samples succeed."""

    def score(self, samples: Samples) -> Tensor:
        scores = super().score(samples)
        numbers = torch.tensor([int(re.findall(r"\d+", prompt)[0]) for prompt in samples.row_prompts])
        return torch.where(numbers % 3 == 0, torch.ones_like(scores), scores)


@pytest.fixture
def shards(tmp_path: Path) -> str:
    write_shards(({"prompt": f"prompt {'x' * i} {i}", "number": i} for i in range(NUMBER)), tmp_path / "shards")
    return f"{tmp_path}/shards/*.tar"


class Keep(Callback):
    """Keeps what each iteration trained on, and what it logged."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []

    def on_train_batch_end(self, lightning: Trainer, trained: GRPOModule, outputs: Any, *args: Any) -> None:
        self.outputs.append(outputs)
        self.logged.append({name: float(value) for name, value in lightning.callback_metrics.items()})


def run(folder: Path, shards: str, epochs: int, *, refill: Refill | None, resume: bool = False) -> tuple[Keep, Any]:
    """Train to an epoch of two iterations of three prompts."""
    keep, last = Keep(), folder / "checkpoints" / "last.ckpt"
    trained = module(reward=WeightedSum({"task": Solved(0), "green": Color(1)}, {"green": 0.5}), refill=refill)
    lightning = trainer(folder, max_epochs=epochs, callbacks=[keep, LastCheckpoint()], enable_checkpointing=True)
    data = PromptShards(shards, prompts_per_iteration=3)
    trained.check(data)
    lightning.fit(trained, data, ckpt_path=str(last) if resume else None, weights_only=True)
    return keep, torch.load(last, weights_only=True)


def number(prompt: str) -> int:
    return int(prompt.rpartition(" ")[2])


def test_what_is_trained_on_has_spread_and_belongs_together(tmp_path: Path, shards: str) -> None:
    plain, _ = run(tmp_path / "plain", shards, 2, refill=None)
    assert [any(number(p) % 3 == 0 for p in out["samples"].prompts) for out in plain.outputs].count(True) >= 2
    keep, _ = run(tmp_path / "filled", shards, 2, refill=Refill(3, component="task"))
    drawn = 0
    for dealt, out, logged in zip(plain.outputs, keep.outputs, keep.logged, strict=True):
        samples = out["samples"]
        assert all(number(prompt) % 3 for prompt in samples.prompts)
        assert len(set(samples.prompts)) == 3  # nothing that the iteration had already
        assert [m["number"] for m in samples.metadata] == [number(prompt) for prompt in samples.prompts]
        task = out["rewards"].components["task"]
        torch.testing.assert_close(task, Solved(0).score(samples).view(3, 4))  # the images are those of the prompts
        kept = [i for i, prompt in enumerate(dealt["samples"].prompts) if number(prompt) % 3]
        assert [samples.prompts[i] for i in kept] == [dealt["samples"].prompts[i] for i in kept]
        assert logged["refill/replaced"] == 3 - len(kept)
        assert logged["refill/drawn"] >= logged["refill/replaced"]
        drawn += int(logged["refill/drawn"])
    assert drawn
    # Logged are the rewards of the prompts that were dealt out, as without refilling.
    assert keep.logged[0]["reward/task"] == plain.logged[0]["reward/task"]


def test_a_sum_hides_that_all_samples_are_alike_in_its_main_part(tmp_path: Path, shards: str) -> None:
    keep, _ = run(tmp_path, shards, 2, refill=Refill())
    assert any(number(prompt) % 3 == 0 for out in keep.outputs for prompt in out["samples"].prompts)
    assert all(logged["refill/drawn"] == 0 for logged in keep.logged)


def test_a_resumed_run_draws_the_same_prompts_to_the_bit(tmp_path: Path, shards: str) -> None:
    straight, end = run(tmp_path / "straight", shards, 2, refill=Refill(component="task"))
    run(tmp_path / "broken", shards, 1, refill=Refill(component="task"))
    rest, resumed = run(tmp_path / "broken", shards, 2, refill=Refill(component="task"), resume=True)
    assert [out["samples"].prompts for out in rest.outputs] == [o["samples"].prompts for o in straight.outputs[2:]]
    assert torch.equal(end["refill"]["weights"], resumed["refill"]["weights"])
    assert all(torch.equal(weights, resumed["state_dict"][name]) for name, weights in end["state_dict"].items())
    weights = end["refill"]["weights"]
    assert weights[1::3].eq(1).all()
    assert weights[0::3].lt(1).any()


def test_prompts_without_spread_are_drawn_less(shards: str) -> None:
    refill = Refill(rate=1.0)
    refill.weights = torch.tensor([1.0, 0.05] * 6)
    counts = torch.zeros(NUMBER)
    for iteration in range(600):
        counts[refill._choose(2, torch.tensor([0, 1]), f"0/{iteration}/0")] += 1
    assert counts[:2].sum() == 0
    assert 0.02 < counts[3::2].sum() / counts.sum() < 0.08  # 0.25 of 5.25, and 0.25 of 4.25 at the second draw


def rewards_of(*groups: list[float]) -> RewardOutput:
    total = torch.tensor(groups)
    return RewardOutput(total, {"only": total}, {"only": 1.0})


def test_spread_is_that_of_the_samples_that_were_scored() -> None:
    nan = float("nan")
    rewards = rewards_of([0.5, 0.5, nan], [nan, nan, nan], [0.5, 0.6, nan], [0.1, 0.1, 0.1])
    assert Refill().has_spread(rewards).tolist() == [False, False, True, False]
    assert Refill(min_spread=0.2).has_spread(rewards).tolist() == [False, False, False, False]


def test_the_reference_s_score_and_photographs_go_along() -> None:
    def groups(numbers: list[int]) -> Groups:
        policy, batch = GaussianPolicy(), batch_of(numbers)
        policy.load()
        rollout = policy.rollout(batch.prompts, 2, generator=torch.Generator().manual_seed(numbers[0]))
        values = torch.arange(4.0).view(2, 2) + 10 * numbers[0]
        images = torch.full((2, 3, 1, 1), float(numbers[0]))
        return Groups(batch._replace(images=images), rollout, rewards_of(*values.tolist()), rollout.sampled)

    first, other = groups([0, 1]), groups([2, 3])
    mixed = first.exchange([0], other, [1], GaussianPolicy())
    assert mixed.batch.prompts == (other.batch.prompts[1], first.batch.prompts[1]) == mixed.rollout.prompts
    assert mixed.batch.images.flatten(1)[:, 0].tolist() == [2.0, 0.0]
    assert mixed.rewards.total.tolist() == [[22.0, 23.0], [2.0, 3.0]]
    expected = torch.cat([other.reference.log_probs[2:], first.reference.log_probs[2:]])
    assert torch.equal(mixed.reference.log_probs, expected)
    assert torch.equal(mixed.rollout.sampled.gaussian.mean[:2], other.rollout.sampled.gaussian.mean[2:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Refill(0), "rounds"),
        (lambda: Refill(min_spread=-1.0), "min_spread"),
        (lambda: Refill(rate=0.0), "rate must be above 0"),
        (lambda: module(refill=Refill()).check(Prompts()), "needs realgen.data.PromptShards as data, got Prompts"),
        (lambda: module(refill=Refill(component="rde")).check(Prompts()), "model.refill.component.*red"),
        (
            lambda: JointGRPOModule(JointPolicy.__new__(JointPolicy), Color(0), GRPO(), GRPO(), refill=Refill()),
            "refill is for one policy",
        ),
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_checkpoint_of_other_shards_is_refused(tmp_path: Path, shards: str) -> None:
    refill = Refill(component="task")
    refill.load_state_dict({"weights": torch.ones(NUMBER + 1)})
    with pytest.raises(ValueError, match="weights of 13 prompts, the training shards hold 12"):
        run(tmp_path, shards, 1, refill=refill)


class SolvedOnOneRank(Color):
    """All samples of the second rank's own prompts are alike, those that it draws are not."""

    calls = 0

    def score(self, samples: Samples) -> Tensor:
        self.calls += 1
        alike = torch.distributed.get_rank() == 1 and self.calls == 1
        return torch.full((len(samples.images),), 0.5) if alike else super().score(samples)


class SaveState(Callback):
    def on_train_end(self, lightning: Trainer, trained: GRPOModule) -> None:
        assert world_size() == 2
        values = {name: float(value) for name, value in lightning.callback_metrics.items()}
        parts = {"weights": trained.refill.weights, "policy": trained.policy.weight.detach(), "logged": values}
        torch.save(parts, f"{lightning.default_root_dir}/{lightning.global_rank}.pt")


@pytest.mark.slow
def test_two_ranks_draw_together_where_one_of_them_is_short(tmp_path: Path, shards: str) -> None:
    trained = module(reward=SolvedOnOneRank(0), objective=GRPO(0.2, 0.2), refill=Refill(1, rate=1.0))
    ddp = DDPStrategy(start_method="fork", process_group_backend="gloo")
    settings = {
        "devices": 2,
        "max_epochs": 1,
        "limit_train_batches": 1,
        "callbacks": [SaveState()],
        "strategy": ddp,
        "use_distributed_sampler": False,
    }
    trainer(tmp_path, **settings).fit(trained, PromptShards(shards, prompts_per_iteration=2))
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(one["policy"], two["policy"])
    assert torch.equal(one["weights"], two["weights"])
    assert one["weights"].lt(1).sum() == 2
    assert one["logged"]["refill/drawn"] == 2  # each rank two, as all must make the same calls
    assert one["logged"]["refill/replaced"] == 1  # none and two
