"""Two policies that learn from the same images: their rollouts, and the module that trains both."""

import math

import pytest
import torch

from realgen.modules import JointGRPOModule
from realgen.modules.seeds import iteration_generator
from realgen.objectives import GRPO
from realgen.policies import JointPolicy
from realgen.rewards import WeightedSum
from realgen.rewards.base import Reward
from tests.helpers.toy_grpo import PROMPTS, Color, GaussianPolicy, Prompts, module, trainer

G, N = 3, 4


class Words(Reward):
    """Prefers short completions; a reward of texts, the same for all images of one."""

    def score(self, rollout):
        return torch.tensor([-len(rewrite.completion) / 100 for rewrite in rollout.rewrites])


@pytest.fixture
def make(make_rewriter):
    def make(**settings) -> JointPolicy:
        policy = JointPolicy(make_rewriter(), image_policy=GaussianPolicy(dtype=torch.float64), images_per_rewrite=N)
        policy.load()
        return policy

    return make


def joint(policy: JointPolicy, **settings) -> JointGRPOModule:
    defaults = {
        "policy": policy,
        "reward": WeightedSum({"red": Color(0), "words": Words()}, {"words": 0.5}),
        "objective": GRPO(clip_low=0.2, clip_high=0.28),
        "image_objective": GRPO(clip_low=0.2, clip_high=0.2),
        "optimizer": lambda groups: torch.optim.SGD(groups, lr=1.0),
        "group_size": G,
        "microbatch_size": 5,
        "max_grad_norm": math.inf,
        "on_policy_tolerance": 0.0,
    }
    return JointGRPOModule(**{**defaults, **settings})


def test_both_rollouts_tell_of_the_same_images(make) -> None:
    policy = make()
    rewriting, drawing = policy.rollouts(PROMPTS[:2], G, generator=torch.Generator().manual_seed(0))
    assert (rewriting.prompts, rewriting.group_size, rewriting.images_per_row) == (PROMPTS[:2], G, N)
    assert list(drawing.prompts) == rewriting.row_texts
    assert drawing.group_size == N
    assert rewriting.images is drawing.images
    assert len(drawing.images) == 2 * G * N
    assert rewriting.samples().row_prompts == [prompt for prompt in PROMPTS[:2] for _ in range(G * N)]
    score = policy.image_policy.score(drawing, torch.arange(2 * G * N))
    torch.testing.assert_close(score.log_probs, drawing.sampled.log_probs, rtol=0, atol=0)


def test_the_texts_of_a_group_are_drawn_from_the_same_noise(make) -> None:
    policy = make()
    _, drawing = policy.rollouts(PROMPTS[:2], G, generator=torch.Generator().manual_seed(0))
    noise = drawing.policy_state["x"] - drawing.sampled.gaussian.mean
    noise = noise.view(2, G, N, -1)
    for sample in range(1, G):
        torch.testing.assert_close(noise[:, sample], noise[:, 0])
    assert not torch.allclose(noise[0], noise[1])
    assert not torch.allclose(noise[:, :, 0], noise[:, :, 1])


def advantages(rewards: torch.Tensor, weight: float) -> torch.Tensor:
    """weight (r - mean) / (std + 1e-4) in each row, by hand."""
    centered = rewards - rewards.mean(1, keepdim=True)
    return weight * centered / (centered.square().mean(1, keepdim=True).sqrt() + 1e-4)


def test_one_update_follows_both_gradients(make, tmp_path) -> None:
    """-mean(A grad ln p), each policy with its own groups: G texts of a prompt, N images of a text."""
    policy = make()
    trained = joint(policy)
    start = {name: p.detach().clone() for name, p in policy.trainable_parameters().items()}
    short = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0}
    trainer(tmp_path, **short).fit(trained, Prompts())
    moved = {name: start[name] - p.detach() for name, p in policy.trainable_parameters().items()}

    again = make()
    rewriting, drawing = again.rollouts(PROMPTS[:2], G, generator=iteration_generator(0, 0, 0))
    red = drawing.images[:, 0].mean((1, 2)).view(2, G, N)
    words = torch.tensor([-len(rewrite.completion) / 100 for rewrite in rewriting.rewrites]).view(2, G)
    of_texts = (advantages(red.mean(2), 1 / 1.5) + advantages(words, 0.5 / 1.5)).view(2 * G, 1)
    of_images = advantages(red.view(2 * G, N), 1 / 1.5).view(2 * G * N, 1)  # words are alike in a text's images
    scored = again.score(rewriting, torch.arange(2 * G)).log_probs
    loss = -(of_texts * scored * rewriting.mask).sum() / rewriting.mask.sum()
    loss = loss - (of_images * again.image_policy.score(drawing, torch.arange(2 * G * N)).log_probs).mean()
    gradients = torch.autograd.grad(loss, list(again.trainable_parameters().values()))
    for (name, change), gradient in zip(moved.items(), gradients, strict=True):
        torch.testing.assert_close(
            change, gradient, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert float(moved["image_policy.weight"].abs().max()) > 1e-3
    assert max(float(change.abs().max()) for name, change in moved.items() if "rewriter" in name) > 1e-3


def test_the_log_tells_the_two_apart(make, tmp_path) -> None:
    policy = make()
    trained = joint(policy, image_lr=0.5, objective=GRPO(0.2, 0.2, kl="k3", kl_coef=0.1))
    lightning = trainer(tmp_path, max_epochs=1, limit_val_batches=1)
    lightning.fit(trained, Prompts())
    names = set(lightning.callback_metrics)
    for name in ("objective/policy_loss", "grad_norm", "ratio/on_policy_deviation", "advantage/std"):
        assert {name, f"image/{name}"} <= names
    assert {"objective/kl", "rewrite/format_rate", "reward/words", "val/reward/words"} <= names
    assert "image/objective/kl" not in names
    assert [group["lr"] for group in lightning.optimizers[0].param_groups] == [1.0, 0.5]
    assert float(lightning.callback_metrics["image/ratio/on_policy_deviation"]) == 0


def test_export_writes_both(make, tmp_path) -> None:
    policy = make()
    policy.export(tmp_path)
    assert (tmp_path / "rewriter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "images" / "w.pt").is_file()


def test_deployed_both_work_together(make) -> None:
    policy = make()
    images, rewrites = policy.sample_rewritten(["a cat"], [5])
    assert torch.equal(images, policy.image_policy.sample([rewrites[0].text], [5]))
    assert torch.equal(images, policy.sample(["a cat"], [5]))


def test_the_reference_is_the_rewriters(make, stir) -> None:
    policy = make()
    rollout = policy.rollout(["a cat"], 2, generator=torch.Generator().manual_seed(0))
    stir(policy.rewriter)
    with policy.reference():
        torch.testing.assert_close(policy.score(rollout, torch.arange(2)).log_probs, rollout.sampled.log_probs)
    assert policy.image_policy.references == 0


class Silent(GaussianPolicy):
    """Draws without a decision, as a denoising schedule without noise does."""

    def roll(self, *args):
        rollout = super().roll(*args)
        rollout.mask[:] = False
        return rollout


def test_an_image_policy_without_decisions_is_refused(make, tmp_path) -> None:
    policy = make()
    policy.image_policy = Silent(dtype=torch.float64)
    policy.image_policy.load()
    with pytest.raises(ValueError, match="took no decision that counts; is noise_level 0"):
        trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(joint(policy), Prompts())


def test_bad_arguments_are_named(make, make_rewriter) -> None:
    with pytest.raises(ValueError, match=r"images_per_rewrite must be at least 2, a group of images, got 1"):
        JointPolicy(make_rewriter(), image_policy=GaussianPolicy(), images_per_rewrite=1)
    with pytest.raises(ValueError, match=r"rewriter.image_policy must be null"):
        JointPolicy(make_rewriter(image_policy=GaussianPolicy()), image_policy=GaussianPolicy())
    with pytest.raises(ValueError, match=r"rewriter.images_per_rewrite must be 1, got 2"):
        JointPolicy(make_rewriter(images_per_rewrite=2), image_policy=GaussianPolicy())
    with pytest.raises(ValueError, match=r"image_lr must be above 0, got 0"):
        joint(make(), image_lr=0.0)
    with pytest.raises(ValueError, match=r"JointPolicy trains two policies; take realgen\.modules\.JointGRPOModule"):
        module(policy=make())
