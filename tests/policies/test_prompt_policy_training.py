"""The GRPO module, as it is for diffusion, on a policy of tokens."""

from pathlib import Path

import pytest
import torch

from realgen.objectives import GRPO, GSPO
from realgen.rewards.base import Reward
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
