from __future__ import annotations

from dataclasses import replace

import torch

from realgen.policies.joint_policy import select_prompts
from realgen.types import Gaussian, PolicyScore, Rewrite, Rollout


def score(rows: range, *, full: bool = True) -> PolicyScore:
    steps = torch.tensor([[2.0 * row, 2.0 * row + 1] for row in rows])
    latents = steps[..., None].expand(-1, -1, 3)
    gaussian = Gaussian(latents, steps + 1, steps + 2, 2 * latents)
    return PolicyScore(steps, gaussian, -latents) if full else PolicyScore(steps)


def rollout(first: int, prompts: str, *, rewritten: bool = False) -> Rollout:
    rows = range(first, first + 2 * len(prompts))
    images = torch.stack([torch.full((3, 1, 1), row / 10) for row in rows])
    mask = torch.tensor([[True, row % 3 == 0] for row in rows])
    rewrites = tuple(Rewrite(f"text {row}", "", True, False, False) for row in rows) if rewritten else None
    return Rollout(tuple(prompts), 2, images, score(rows), mask, {"x": torch.tensor(list(rows))}, rewrites)


def test_scores_are_joined_in_every_part() -> None:
    joined, whole = PolicyScore.concatenate([score(range(2)), score(range(2, 3)), score(range(3, 5))]), score(range(5))
    assert torch.equal(joined.log_probs, whole.log_probs)
    assert torch.equal(joined.gaussian.mean, whole.gaussian.mean)
    assert torch.equal(joined.gaussian.std, whole.gaussian.std)
    assert torch.equal(joined.gaussian.step_size, whole.gaussian.step_size)
    assert torch.equal(joined.gaussian.sample, whole.gaussian.sample)
    assert torch.equal(joined.velocity, whole.velocity)


def test_missing_parts_of_scores_stay_missing() -> None:
    bare = PolicyScore.concatenate([score(range(1), full=False), score(range(1, 2), full=False)])
    assert (bare.gaussian, bare.velocity) == (None, None)


def test_rollouts_are_joined_in_every_part() -> None:
    joined = Rollout.concatenate([rollout(0, "ab", rewritten=True), rollout(4, "c", rewritten=True)])
    whole = rollout(0, "abc", rewritten=True)
    assert (joined.prompts, joined.group_size) == (("a", "b", "c"), 2)
    assert joined.rewrites == whole.rewrites
    assert joined.row_texts == [f"text {row}" for row in range(6)]
    assert torch.equal(joined.images, whole.images)
    assert torch.equal(joined.sampled.log_probs, whole.sampled.log_probs)
    assert torch.equal(joined.mask, whole.mask)
    assert joined.policy_state["x"].tolist() == list(range(6))
    assert Rollout.concatenate([rollout(0, "a"), rollout(2, "b")]).rewrites is None


def test_one_rollout_is_left_as_it_is() -> None:
    alone = rollout(0, "ab")
    assert Rollout.concatenate([alone]) is alone


def test_select_takes_every_part_in_the_given_order() -> None:
    picked = score(range(4)).select(torch.tensor([3, 1]))
    assert picked.log_probs.tolist() == [[6, 7], [2, 3]]
    assert picked.gaussian.mean[:, 1].tolist() == [[7, 7, 7], [3, 3, 3]]
    assert picked.gaussian.std.tolist() == [[7, 8], [3, 4]]
    assert picked.gaussian.step_size.tolist() == [[8, 9], [4, 5]]
    assert picked.velocity[1, 1].tolist() == [-3, -3, -3]
    bare = score(range(2), full=False).select(torch.tensor([0]))
    assert (bare.gaussian, bare.velocity) == (None, None)


def test_select_prompts_takes_whole_groups_with_all_their_images() -> None:
    whole = rollout(0, "abc", rewritten=True)
    two_each = replace(whole, images=torch.arange(12.0)[:, None, None, None].expand(-1, 3, 1, 1), images_per_row=2)
    picked = select_prompts(two_each, torch.tensor([2, 0]))
    assert picked.prompts == ("c", "a")
    assert [rewrite.text for rewrite in picked.rewrites] == ["text 4", "text 5", "text 0", "text 1"]
    assert picked.images[:, 0, 0, 0].tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
    assert picked.policy_state["x"].tolist() == [4, 5, 0, 1]
    assert torch.equal(picked.sampled.log_probs, whole.sampled.log_probs[[4, 5, 0, 1]])
    assert torch.equal(picked.mask, whole.mask[[4, 5, 0, 1]])


def test_samples_of_a_rollout_have_a_row_for_each_image() -> None:
    whole = rollout(0, "abc", rewritten=True)
    images = torch.arange(12.0)[:, None, None, None].expand(-1, 3, 1, 1)
    samples = replace(whole, images=images, images_per_row=2).samples([{"key": 1}, {}, {"key": 3}])
    assert (samples.prompts, samples.group_size) == (("a", "b", "c"), 4)
    assert samples.images is images
    assert samples.row_prompts == ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    assert samples.row_texts == [f"text {row // 2}" for row in range(12)]
    assert samples.metadata == ({"key": 1}, {}, {"key": 3})
    plain = rollout(0, "ab").samples()
    assert plain.rewrites is None
    assert plain.metadata == ({}, {})
    assert plain.row_texts == plain.row_prompts == ["a", "a", "b", "b"]
