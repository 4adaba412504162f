"""An image policy that is told rewrites: what reaches it, and what comes back."""

from dataclasses import replace

import pytest
import torch

from realgen.modules import GRPOModule
from realgen.policies import RewrittenPolicy
from realgen.types import Rewrite
from tests.helpers.toy_grpo import GaussianPolicy, Prompts, module, trainer

PROMPTS = ["a", "a cat", "a red fox", "the sea"]


def shout(prompts, seeds):
    """A rewriter's answer that can be foretold."""
    return [
        Rewrite(f"{prompt}!{seed % 7}", "", True, False, False) for prompt, seed in zip(prompts, seeds, strict=True)
    ]


@pytest.fixture
def make(make_rewriter, monkeypatch):
    def make(**settings) -> RewrittenPolicy:
        rewriter = make_rewriter()
        monkeypatch.setattr(rewriter, "rewrite", shout)
        policy = RewrittenPolicy(GaussianPolicy(), rewriter=rewriter, **settings)
        policy.load()
        return policy

    return make


def roll(policy, seed=0, prompts=PROMPTS):
    return policy.rollout(prompts, 2, generator=torch.Generator().manual_seed(seed))


def test_a_group_is_told_one_text_and_judged_by_the_prompt(make) -> None:
    rollout = roll(make(raw_share=0.0))
    assert rollout.prompts == tuple(PROMPTS)
    texts = rollout.row_texts
    assert texts[::2] == texts[1::2]
    assert all(text.startswith(f"{prompt}!") for prompt, text in zip(rollout.row_prompts, texts, strict=True))
    assert len({text[-1] for text in texts}) > 1  # each prompt has a seed of its own


def test_the_image_policy_is_told_the_texts_in_sampling_and_scoring(make) -> None:
    policy = make(raw_share=0.5)
    rollout = roll(policy)
    rows = torch.tensor([5, 0, 3])
    told = replace(rollout, prompts=tuple(rollout.row_texts[::2]))
    assert torch.equal(policy.score(rollout, rows).log_probs, policy.image_policy.score(told, rows).log_probs)
    assert torch.equal(policy.score(rollout, rows).log_probs, rollout.sampled.log_probs[rows])
    assert not torch.equal(policy.image_policy.score(rollout, rows).log_probs, rollout.sampled.log_probs[rows])


@pytest.mark.parametrize(("share", "left"), [(0.0, {0}), (0.25, {1}), (1.0, {4}), (0.4, {1, 2})])
def test_a_share_of_the_prompts_stays_as_it_is(make, share: float, left: set[int]) -> None:
    policy, counts, which = make(raw_share=share), [], set()
    for seed in range(40):
        raw = [index for index, rewrite in enumerate(roll(policy, seed).rewrites[::2]) if rewrite.skipped]
        counts.append(len(raw))
        which |= set(raw)
    assert set(counts) == left
    assert which == (set(range(4)) if share else set())
    assert sum(counts) / 40 == pytest.approx(share * 4, abs=0.25)  # a binomial's standard deviation is 0.08


def test_rollouts_repeat_by_their_generator(make) -> None:
    policy = make()
    first, again, other = roll(policy), roll(policy), roll(policy, 1)
    assert first.rewrites == again.rewrites
    assert torch.equal(first.images, again.images)
    assert first.rewrites != other.rewrites


def test_chunks_are_the_whole(make) -> None:
    class Chunked(GaussianPolicy):
        def rollout_chunks(self, prompts, group_size, *, generator, **how):
            for prompt in prompts:
                yield self.roll([prompt], group_size, generator)

    policy = make()
    policy.image_policy = Chunked()
    policy.image_policy.load()
    chunks = list(policy.rollout_chunks(PROMPTS, 2, generator=torch.Generator().manual_seed(0)))
    whole = roll(policy)
    assert [chunk.prompts for chunk in chunks] == [(prompt,) for prompt in PROMPTS]
    assert tuple(rewrite for chunk in chunks for rewrite in chunk.rewrites) == whole.rewrites


def test_deployed_every_prompt_is_rewritten(make) -> None:
    policy = make(raw_share=1.0)
    images, rewrites = policy.sample_rewritten(["a", "a cat"], [3, 4])
    assert [rewrite.text for rewrite in rewrites] == ["a!3", "a cat!4"]
    assert torch.equal(images, policy.image_policy.sample(["a!3", "a cat!4"], [3, 4]))
    assert torch.equal(images, policy.sample(["a", "a cat"], [3, 4]))


def test_only_the_image_policy_is_trained_and_kept(make, tmp_path) -> None:
    policy = make()
    trained: GRPOModule = module(policy=policy, on_policy_tolerance=0.0)
    before = [p.detach().clone() for p in policy.rewriter.parameters()]
    trainer(tmp_path, max_epochs=1, limit_val_batches=1).fit(trained, Prompts())
    assert set(policy.trainable_parameters()) == {"image_policy.weight", "image_policy.bias"}
    assert set(policy.state_dict()) == {"image_policy.weight", "image_policy.bias", "image_policy.frozen"}
    assert policy.image_policy.iterations == [0, 1]
    assert all(torch.equal(old, new) for old, new in zip(before, policy.rewriter.parameters(), strict=True))
    assert float((policy.image_policy.weight - torch.tensor([[0.1, -0.2], [0.3, 0.05]])).abs().max()) > 1e-3


def test_bad_arguments_are_named(make_rewriter) -> None:
    with pytest.raises(ValueError, match=r"raw_share must be 0 to 1, got 1.5"):
        RewrittenPolicy(GaussianPolicy(), rewriter=make_rewriter(), raw_share=1.5)
    with pytest.raises(ValueError, match=r"rewriter.image_policy must be null"):
        RewrittenPolicy(GaussianPolicy(), rewriter=make_rewriter(image_policy=GaussianPolicy()))
    for setting in ("raw_per_group", "images_per_rewrite"):
        with pytest.raises(ValueError, match=rf"rewriter.{setting} must be [01], got 2: here "):
            RewrittenPolicy(GaussianPolicy(), rewriter=make_rewriter(**{setting: 2}))
