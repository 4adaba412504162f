"""The GRPO module, as it is for diffusion, on a policy of tokens."""

from pathlib import Path

import pytest
import torch

from realgen.data import PromptShards, write_shards
from realgen.modules.refill import Groups, Refill
from realgen.objectives import GRPO, GSPO
from realgen.rewards.base import Reward
from realgen.types import PromptBatch, RewardOutput
from tests.helpers.toy_grpo import Prompts, module, trainer

OBJECTIVES = {
    "dapo": GRPO(0.2, 0.28),
    "grpo": GRPO(0.2, 0.2, average="samples", kl="k3", kl_coef=0.001),
    "dr_grpo": GRPO(0.2, 0.2, advantage_std="none", average="constant", most_decisions=10, kl="k2", kl_coef=0.001),
    "gspo": GSPO(),
}


class Short(Reward):
    """Prefers short completions."""

    def __init__(self) -> None:
        self.lengths = []

    def score(self, samples):
        lengths = torch.tensor([float(len(rewrite.completion)) for rewrite in samples.rewrites])
        self.lengths.append(lengths.mean().item())
        return -lengths / 10


def train(make_rewriter, folder: Path, iterations: int, **settings):
    trained = module(
        policy=make_rewriter(score_batch_size=4, **settings.pop("policy", {})),
        reward=Short(),
        on_policy_tolerance=0.0,  # the first ratio is 1 to the bit, or the run stops
        **{"optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=0.02), **settings},
    )
    short = {"max_epochs": 1, "limit_train_batches": iterations, "limit_val_batches": 0}
    trainer(folder, **short).fit(trained, Prompts())
    return trained


def weights(trained) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trained.policy.trainable_parameters().values()])


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_teaches_a_language_model(make_rewriter, tmp_path: Path, name: str) -> None:
    trained = train(make_rewriter, tmp_path, 10, objective=OBJECTIVES[name], group_size=16, microbatch_size=16)
    lengths = trained.reward.lengths
    assert sum(lengths[-2:]) < 0.75 * sum(lengths[:2]), lengths


@pytest.mark.parametrize("name", OBJECTIVES)
def test_microbatches_do_not_change_the_update(make_rewriter, tmp_path: Path, name: str) -> None:
    """Completions of uneven length fall into parts of uneven size."""
    settings = {
        "objective": OBJECTIVES[name],
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        "max_grad_norm": torch.inf,
        "skip_zero_advantages": False,
    }
    moved = [weights(train(make_rewriter, tmp_path, 1, microbatch_size=size, **settings)) for size in (8, 3)]
    start = weights(train(make_rewriter, tmp_path, 1, **{**settings, "optimizer": _still}))
    assert (moved[0] - start).abs().max() > 1e-4
    torch.testing.assert_close(moved[1] - start, moved[0] - start, rtol=1e-3, atol=1e-6)


def _still(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)


@pytest.mark.parametrize("settings", [{"mask_truncated": True}, {"top_p": 0.9, "temperature": 0.8}], ids=str)
def test_options_train(make_rewriter, tmp_path: Path, settings: dict) -> None:
    trained = train(make_rewriter, tmp_path, 2, objective=OBJECTIVES["dapo"], policy=settings, inner_epochs=2)
    assert trained.iteration == 2
    assert bool(weights(trained).isfinite().all())


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}], ids=str)
def test_refilled_groups_of_other_lengths_are_scored_as_before(make_rewriter, settings) -> None:
    policy = make_rewriter(score_batch_size=4, **settings)
    policy.load()

    def groups(prompts: tuple[str, ...], seed: int) -> Groups:
        rollout = policy.rollout(prompts, 4, generator=torch.Generator().manual_seed(seed))
        rewards = RewardOutput(torch.zeros(len(prompts), 4), {}, {})
        batch = PromptBatch(prompts, prompts, ({},) * len(prompts), (0,) * len(prompts), torch.ones(len(prompts)) > 0)
        return Groups(batch, rollout, rewards, rollout.sampled)

    first, other = groups(("a cat", "a dog sleeps on the mat"), 0), groups(("a", "the sea"), 1)
    shapes = [each.rollout.policy_state["tokens"].shape for each in (first, other)]
    assert shapes[0] != shapes[1]
    mixed = first.exchange([1], other, [0], policy)
    assert mixed.rollout.prompts == ("a cat", "a")
    assert [rewrite.text for rewrite in mixed.rollout.rewrites[4:]] == [r.text for r in other.rollout.rewrites[:4]]
    counts = mixed.rollout.mask
    score = policy.score(mixed.rollout, torch.arange(8)).log_probs
    torch.testing.assert_close(score[counts], mixed.rollout.sampled.log_probs[counts], rtol=0, atol=1e-5)
    torch.testing.assert_close(score[counts], mixed.reference.log_probs[counts], rtol=0, atol=1e-5)
    width = other.rollout.mask.shape[1]
    assert torch.equal(counts[4:, :width], other.rollout.mask[:4])
    assert not counts[4:, width:].any()


class SometimesAlike(Short):
    """No spread where the prompt has an even number of letters."""

    def score(self, samples):
        even = torch.tensor([len(prompt) % 2 == 0 for prompt in samples.row_prompts])
        return torch.where(even, torch.zeros(len(even)), super().score(samples))


def test_a_language_model_trains_with_refilled_groups(make_rewriter, tmp_path: Path) -> None:
    write_shards(({"prompt": "a" * (1 + i % 7)} for i in range(12)), tmp_path / "shards")
    settings = {"reward": SometimesAlike(), "refill": Refill(), "on_policy_tolerance": 0.0}  # the first ratio is 1
    trained = module(policy=make_rewriter(score_batch_size=4), **settings)
    data = PromptShards(f"{tmp_path}/shards/*.tar", prompts_per_iteration=3)
    lightning = trainer(tmp_path, max_epochs=1, limit_train_batches=2, limit_val_batches=0)
    lightning.fit(trained, data)
    assert lightning.callback_metrics["refill/replaced"] > 0
