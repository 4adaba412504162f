"""Rewards in a thread of their own. What overlaps is shown by events that only the other side sets, never by time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from realgen.modules import GRPOModule
from realgen.modules.background_rewards import BackgroundRewards
from realgen.objectives import GRPO
from realgen.policies.joint_policy import select_prompts
from realgen.rewards import Realism, RemoteReward, RewriteFormat, WeightedSum
from realgen.rewards.base import Reward
from realgen.types import PolicyScore, RewardOutput, Rollout, Samples
from tests.helpers.toy_detector import ColorDetector
from tests.helpers.toy_grpo import Color, GaussianPolicy, Prompts, module, trainer

PATIENCE = 20.0
"""Seconds after which an event that never comes fails a test; one that comes is not waited for."""


class Told(Reward):
    """The mean of each image; ``told`` is called with each chunk first. Overlaps, as if it waited for a server."""

    def __init__(self, told: Callable[[Samples], Any]) -> None:
        self.told = told

    def overlaps(self, device: torch.device) -> bool:
        return True

    def score(self, samples: Samples) -> Tensor:
        self.told(samples)
        return samples.images.mean((1, 2, 3))


class ChunkedPolicy(GaussianPolicy):
    """Gives its rollout prompt by prompt; ``before`` is called before each chunk and before the reference."""

    before: Callable[[str], Any] = staticmethod(lambda what: None)

    def rollout_chunks(
        self, prompts: Any, group_size: int, *, generator: torch.Generator, **how: Any
    ) -> Iterator[Rollout]:
        whole = self.roll(prompts, group_size, generator)
        for index, prompt in enumerate(prompts):
            self.before(prompt)
            yield select_prompts(whole, torch.tensor([index]))

    def reference(self) -> Any:
        self.before("reference")
        return super().reference()


def chunk(*values: float) -> Rollout:
    images = torch.tensor(values)[:, None, None, None].expand(-1, 3, 2, 2).contiguous()
    none = torch.zeros(len(values), 0)
    return Rollout(("a",), len(values), images, PolicyScore(none), none.bool())


def fit(folder: Path, iterations: int = 1, **settings: Any) -> GRPOModule:
    trained = module(**settings)
    trainer(folder, max_epochs=1, limit_train_batches=iterations, limit_val_batches=0).fit(trained, Prompts())
    return trained


def weights(trained: GRPOModule) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trained.policy.trainable_parameters().values()])


@pytest.mark.parametrize("background", [True, False])
def test_rewards_come_in_the_order_of_the_chunks(background: bool) -> None:
    threads: list[str] = []
    reward = WeightedSum(
        {"mean": Told(lambda _: threads.append(threading.current_thread().name)), "red": Color(0)}, {"red": 2.0}
    )
    with BackgroundRewards(reward, background=background) as scoring:
        chunks = [chunk(value, value + 0.1) for value in (0.0, 0.5, 0.25)]
        for each in chunks:
            scoring.start(each)
        rewards = scoring.rewards()
    rows = torch.tensor([[0.0, 0.1], [0.5, 0.6], [0.25, 0.35]])
    torch.testing.assert_close(rewards.components["mean"], rows)
    torch.testing.assert_close(rewards.total, 3 * rows)
    assert rewards.weights == {"mean": 1.0, "red": 2.0}
    whole = reward(Rollout.concatenate(chunks).samples())
    assert torch.equal(rewards.total, whole.total)
    assert all(name.startswith("reward") == background for name in threads[:3])
    assert scoring.seconds > 0


def test_each_chunk_is_scored_with_the_metadata_of_its_prompts() -> None:
    seen: list[Any] = []
    with BackgroundRewards(Told(lambda samples: seen.append(samples.metadata)), [{"n": 0}, {"n": 1}]) as scoring:
        for _ in range(2):
            scoring.start(chunk(0.0, 0.5))
        scoring.rewards()
    assert seen == [({"n": 0},), ({"n": 1},)]


def test_the_barrier_waits_for_every_chunk() -> None:
    arrived, go = threading.Event(), threading.Event()
    answer: Future[Any] = Future()

    def wait(_: Samples) -> None:
        arrived.set()
        assert go.wait(PATIENCE)

    with BackgroundRewards(Told(wait)) as scoring:
        scoring.start(chunk(0.1))
        scoring.start(chunk(0.2))
        assert arrived.wait(PATIENCE)
        barrier = threading.Thread(target=lambda: answer.set_result(scoring.rewards()))
        barrier.start()
        assert not answer.done()  # the first is on its way, and cannot end before ``go``
        go.set()
        torch.testing.assert_close(answer.result(PATIENCE).total, torch.tensor([[0.1], [0.2]]))
        barrier.join()


def test_an_error_keeps_its_message_and_stops_the_next_chunk() -> None:
    scored: list[float] = []

    def fail(rollout: Samples) -> None:
        scored.append(float(rollout.images.mean()))
        raise RuntimeError("the judge is asleep")

    with BackgroundRewards(Told(fail)) as scoring:
        scoring.start(chunk(0.0))
        with pytest.raises(RuntimeError, match="the judge is asleep"):
            scoring.rewards()
        with pytest.raises(RuntimeError, match="the judge is asleep"):
            scoring.start(chunk(1.0))
    assert scored == [0.0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_of_the_policy_does_not_wait_for_the_reward(error: type[BaseException]) -> None:
    begun, go = threading.Event(), threading.Event()
    scored: list[float] = []
    outputs: list[Future[Any]] = []

    def hang(rollout: Samples) -> None:
        scored.append(float(rollout.images.mean()))
        begun.set()
        assert go.wait(PATIENCE)

    def sample() -> None:
        with BackgroundRewards(Told(hang)) as scoring:
            scoring.start(chunk(0.0))
            scoring.start(chunk(1.0))
            outputs.extend(scoring._outputs)
            assert begun.wait(PATIENCE)
            raise error

    with pytest.raises(error):
        sample()
    assert not outputs[0].done()  # the reward hangs, and the error is here
    assert outputs[1].cancelled()
    go.set()
    outputs[0].result(PATIENCE)
    assert scored == [0.0]


def test_the_thread_takes_over_autocast_and_gradient_mode() -> None:
    seen = []

    def look(rollout: Samples) -> None:
        product = torch.ones(2, 2, requires_grad=True) @ torch.ones(2, 2)
        seen.append((product.dtype, product.requires_grad))

    with BackgroundRewards(Told(look)) as scoring:
        scoring.start(chunk(0.0))
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            scoring.start(chunk(0.0))
        scoring.rewards()
    assert seen == [(torch.float32, True), (torch.bfloat16, False)]


def test_the_global_generators_stay_as_they_are() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # Python's own moves with beartype
    with BackgroundRewards(WeightedSum({"red": Color(0), "green": Color(1, failing=[0])})) as scoring:
        scoring.start(chunk(0.0, 0.5))
        scoring.start(chunk(0.2, 0.3))
        scoring.rewards()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_the_next_chunk_is_sampled_while_one_is_scored(tmp_path: Path) -> None:
    """Each chunk's reward ends only when what comes after its sampling has begun."""
    reached = {name: threading.Event() for name in ("a", "a cat", "reference")}
    following = iter(["a cat", "reference"])
    missed = []

    def wait(_: Samples) -> None:
        name = next(following)
        if not reached[name].wait(PATIENCE):
            missed.append(name)

    policy = ChunkedPolicy()
    policy.before = lambda what: reached[what].set()
    penalty = GRPO(clip_low=0.2, clip_high=0.2, kl="k3", kl_coef=0.1)
    fit(tmp_path, policy=policy, reward=Told(wait), objective=penalty)
    assert not missed
    assert next(following, None) is None


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_overlap_and_chunks_leave_the_training_as_it_is(tmp_path: Path, kl_coef: float) -> None:
    penalty = GRPO(clip_low=0.2, clip_high=0.2, kl="k3", kl_coef=kl_coef)
    both = WeightedSum({"red": Color(0), "mean": Told(lambda _: None)})
    runs = [
        fit(tmp_path, 3, policy=policy(), objective=penalty, overlap_rewards=overlap, reward=both)
        for policy in (GaussianPolicy, ChunkedPolicy)
        for overlap in (False, True)
    ]
    assert torch.equal(weights(runs[1]), weights(runs[0]))
    assert torch.equal(weights(runs[3]), weights(runs[2]))
    # Joined images lie in memory otherwise than whole ones, so their means may round otherwise.
    torch.testing.assert_close(weights(runs[2]), weights(runs[0]), rtol=0, atol=1e-5)
    names = {"seconds/reward", "busy_seconds/reward"}
    assert all(names <= run.trainer.callback_metrics.keys() for run in runs)


@pytest.mark.parametrize(("gains", "overlap"), [(True, True), (True, False), (False, True)])
def test_only_a_reward_that_gains_by_a_thread_gets_one(tmp_path: Path, gains: bool, overlap: bool) -> None:
    class Elsewhere(Told):
        def overlaps(self, device: torch.device) -> bool:
            assert device == torch.device("cpu")  # the policy's
            return gains

    threads: set[str] = set()
    reward = Elsewhere(lambda _: threads.add(threading.current_thread().name.split("_")[0]))
    fit(tmp_path, policy=ChunkedPolicy(), reward=reward, overlap_rewards=overlap)
    assert threads == {"reward" if gains and overlap else threading.current_thread().name}


def test_what_waits_or_lies_on_another_device_gains_by_a_thread() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    detector = ColorDetector()
    local, remote = Realism(detector), RemoteReward(["http://127.0.0.1:9"])
    assert [remote.overlaps(cpu), remote.overlaps(gpu)] == [True, True]
    for on_cpu in (local, RewriteFormat(), WeightedSum({"a": local, "b": RewriteFormat()})):
        assert [on_cpu.overlaps(cpu), on_cpu.overlaps(gpu)] == [False, True]
    assert WeightedSum({"a": local, "b": remote}).overlaps(cpu)
    local.to("meta")
    assert local.overlaps(cpu)
    assert not local.overlaps(torch.device("meta"))
    assert not Color(0).overlaps(gpu)  # a reward of one's own says so itself


def test_failed_samples_of_a_chunk_are_masked(tmp_path: Path) -> None:
    class FailsAtTheSecond(Color):
        """Cannot judge the first two samples of the second prompt, rows 4 and 5 of the whole."""

        def score(self, samples: Samples) -> Tensor:
            scores = super().score(samples)
            rows = [row for row, prompt in enumerate(samples.row_prompts) if prompt == "a cat"][:2]
            scores[rows] = torch.nan
            return scores

    chunked = fit(tmp_path, policy=ChunkedPolicy(), reward=FailsAtTheSecond(0))
    whole = fit(tmp_path, reward=Color(0, failing=[4, 5]), overlap_rewards=False)
    torch.testing.assert_close(weights(chunked), weights(whole), rtol=0, atol=1e-5)
    assert float(chunked.trainer.callback_metrics["failed/failsatthesecond"]) == 2


def test_an_error_of_the_reward_stops_the_fit_with_its_own_message(tmp_path: Path) -> None:
    def fail(_: Samples) -> None:
        raise RuntimeError("remote reward: 8 of the last 8 samples could not be scored")

    trained = module(policy=ChunkedPolicy(), reward=Told(fail))
    with pytest.raises(RuntimeError, match="remote reward: 8 of the last 8 samples could not be scored"):
        trainer(tmp_path, limit_val_batches=0).fit(trained, Prompts())
    start = GaussianPolicy()
    start.load()
    assert torch.equal(trained.policy.weight, start.weight)
    judging = [thread for thread in threading.enumerate() if thread.name.startswith("reward")]
    for thread in judging:  # told to end, not waited for
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in judging)


def test_a_row_has_the_mean_of_its_images_that_could_be_scored() -> None:
    nan = torch.nan
    red = torch.tensor([[0.0, 1.0, 0.5, 0.5], [nan, 0.4, nan, nan]])
    green = torch.tensor([[1.0, 3.0, nan, 5.0], [9.0, 0.2, 0.1, 0.1]])
    rewards = RewardOutput(red + green, {"red": red, "green": green}, {"red": 1.0, "green": 1.0})
    rows = rewards.mean_over_images(2)
    # Prompt 1: both images of row 0, the second of row 1. Prompt 2: the second of row 0, none of row 1.
    torch.testing.assert_close(rows.components["red"], torch.tensor([[0.5, 0.5], [0.4, nan]]), equal_nan=True)
    torch.testing.assert_close(rows.components["green"], torch.tensor([[2.0, 5.0], [0.2, nan]]), equal_nan=True)
    torch.testing.assert_close(rows.total, torch.tensor([[2.5, 5.5], [0.6, nan]]), equal_nan=True)
    assert rows.valid.tolist() == [[True, True], [True, False]]
    assert rewards.mean_over_images(1) is rewards
    by_row = rewards.by_row(2)
    assert by_row.components["green"][0].tolist() == [1.0, 3.0]
    assert by_row.total.shape == (4, 2)


def test_the_reward_sees_every_image() -> None:
    seen = []
    rollout = replace(chunk(0.0, 0.5), images=torch.rand(4, 3, 2, 2), images_per_row=2)
    with BackgroundRewards(Told(lambda samples: seen.append((samples.group_size, len(samples.images))))) as scoring:
        scoring.start(rollout)
        rewards = scoring.rewards()
    assert seen == [(4, 4)]
    assert rewards.total.shape == (1, 4)
