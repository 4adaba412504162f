"""What the policy's part of an iteration costs with each option, the options taking turns on a shared machine.

python experiments/2026-11-22-approximate-options/iteration_cost.py --rounds 3 > costs.json

A turn is what configs/diffusion.yaml asks of the policy in one iteration: the rollout of 6 x 12 images with their
decoding, the reference's score, and score and gradient in microbatches of 18. Rewards cost the same with all options
and are left out. FLOPs: of one transformer row, forward, and forward and backward. ``image_difference`` says how far
the images are from those of the exact setting, from the same noise, as a mean over pixels in [0, 1].
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import mean, median

import torch
from jsonargparse import ArgumentParser

from realgen.planning.meter import flop_counter
from realgen.policies import DiffusionPolicy, Policy

PROMPTS = ("a smiling woman", "a cat on a sofa", "old harbour", "moon over grass", "a cup of coffee", "a brick wall")
GROUP_SIZE, MICROBATCH = 12, 18
SOLVER = "--policy.solver=realgen.policies.solvers"
OPTIONS: dict[str, tuple[str, ...]] = {
    "exact": (),
    "tail": (f"{SOLVER}.HigherOrderTail", "--policy.solver.num_tail_steps=3"),
    "cached": (f"{SOLVER}.CachedVelocity", "--policy.solver.every=2"),
    "bf16": (f"{SOLVER}.LowPrecision",),
    "fewer_steps": ("--policy.num_steps=6", "--policy.eval_num_steps=12", "--policy.step_window.start_max=2"),
    "guided": ("--policy.backbone.guidance_scale=2",),
    "guidance_free": ("--policy.backbone.guidance_scale=2", "--policy.guided_window=false"),
}
"""Those that change what an iteration costs; the sliding window, CPS and Dance-SDE only change what its steps are."""


def build(arguments: tuple[str, ...]) -> DiffusionPolicy:
    """The embedded policy with an option."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Policy, "policy")
    policy = parser.instantiate(parser.parse_args(["--policy=configs/policies/sd3_nano.yaml", *arguments])).policy
    policy.load()
    return policy


def iterate(policy: DiffusionPolicy, prompts: tuple[str, ...], seed: int) -> torch.Tensor:
    """Rollout, reference and gradient; no optimizer step. Returns the images."""
    rollout = policy.rollout(prompts, GROUP_SIZE, generator=torch.Generator().manual_seed(seed))
    for rows in torch.arange(len(rollout.images)).split(MICROBATCH):
        with torch.no_grad(), policy.reference():
            policy.score(rollout, rows)
        score = policy.score(rollout, rows)
        (score.log_probs.sum() + score.velocity.square().mean()).backward()
    policy.zero_grad(set_to_none=True)
    return rollout.images


def count_flops(policy: DiffusionPolicy) -> tuple[float, float]:
    """MFLOPs of one transformer row: forward, and forward and backward."""
    rollout, one = policy.rollout(PROMPTS[:1], 2, generator=torch.Generator().manual_seed(0)), torch.arange(1)
    decisions = rollout.mask.shape[1]
    with flop_counter() as forward, torch.no_grad():
        policy.score(rollout, one)
    with flop_counter() as both:
        policy.score(rollout, one).log_probs.sum().backward()
    policy.zero_grad(set_to_none=True)
    return forward.get_total_flops() / decisions / 1e6, both.get_total_flops() / decisions / 1e6


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed turns of each option, with the same seeds in all")
    rounds = parser.parse_args().rounds
    policies = {name: build(arguments) for name, arguments in OPTIONS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in OPTIONS}
    rows: dict[str, list[int]] = {name: [] for name in OPTIONS}
    apart: dict[str, list[float]] = {name: [] for name in OPTIONS}
    for policy in policies.values():
        iterate(policy, PROMPTS[:1], 0)  # warms up
    exact = torch.empty(0)
    for turn in range(rounds):
        for name, policy in policies.items():
            before, start = policy.transformer_evals, time.process_time()
            images = iterate(policy, PROMPTS, turn)
            seconds[name].append(round(time.process_time() - start, 3))
            rows[name].append(policy.transformer_evals - before)
            exact = images if name == "exact" else exact
            apart[name].append((images - exact).abs().mean().item())
    forward, both = count_flops(policies["exact"])
    options = {
        name: {
            "rows": mean(rows[name]),
            "cpu_seconds": seconds[name],
            "image_difference": mean(apart[name]),
            "relative": median(own / other for own, other in zip(seconds[name], seconds["exact"], strict=True)),
        }
        for name in OPTIONS
    }
    print(json.dumps({"mflops_forward": forward, "mflops_forward_and_backward": both, "options": options}, indent=2))


if __name__ == "__main__":
    main()
