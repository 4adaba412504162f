"""Splits the GRPO iteration of a recipe into phases, and holds it against the bare transformer calls it needs.

Run it from the repository's root, in an environment that has realgen installed. README.md beside this file says what is
measured, and what is not.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from measuring import PHASES, BareCalls, Clock, Timeline, stopwatch
from recipe_command import Command
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

from realgen.modules import GRPOModule, grpo_module
from realgen.planning.meter import flop_counter
from realgen.policies import DiffusionPolicy
from realgen.rewards.base import Reward
from realgen.types import RewardOutput, Rollout, Samples

RATIOS = {
    "ratio": "iteration / bare calls",
    "ratio_without_decode_and_rewards": "the same, without VAE decode and rewards",
    "ratio_to_own_calls": "iteration / transformer and backward inside it",
    "ratio_to_own_calls_without_decode_and_rewards": "the same, without VAE decode and rewards",
}


class WatchedReward(Reward):
    """A reward whose calls are a section."""

    def __init__(self, reward: Reward, timeline: Timeline) -> None:
        self.reward = reward
        self.timeline = timeline

    def __call__(self, samples: Samples) -> RewardOutput:
        self.timeline.enter("reward")
        try:
            return self.reward(samples)
        finally:
            self.timeline.leave()

    def score(self, samples: Samples) -> Tensor:
        return self.reward.score(samples)


class IterationBenchmark(Callback):
    """Measures each iteration and, right after it, its bare calls. The first one warms up and counts FLOPs."""

    def __init__(self, *, cpu_time: bool = False) -> None:
        self.cpu_time = cpu_time
        self.setting: dict[str, Any] = {}
        self.flops: dict[str, Any] = {}
        self.iterations: list[dict[str, Any]] = []
        self.memory: dict[str, int] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the calls that the phases are made of."""
        assert isinstance(pl_module, GRPOModule)
        module, policy = pl_module, pl_module.policy
        if not isinstance(policy, DiffusionPolicy):
            raise ValueError(f"model.policy must be a DiffusionPolicy, got {type(policy).__name__}.")
        self.memory["rss_loaded"] = peak_rss()
        self.module, self.policy = module, policy
        module.overlap_rewards = False  # one thing after the other, so that each second belongs to one
        self.stopwatch, self.bare = stopwatch(policy.device, cpu_time=self.cpu_time), BareCalls(policy)
        self.timeline = Timeline(self.stopwatch)
        for name, reward in getattr(module.reward, "rewards", {module.reward.name: module.reward}).items():
            self.timeline.watch(reward, "score", name)
        module.reward = WatchedReward(module.reward, self.timeline)
        for owner, method, name in (
            (policy.backbone, "encode_prompts", "text encoding"),
            (policy.backbone, "decode", "VAE decode"),
            (policy, "_denoise", "rollout"),
            (policy, "_decode", "rollout"),
            (policy, "score", "scoring"),
            (grpo_module, "reference_score", "reference"),
            (module, "update_policies", "update"),
            (module, "manual_backward", "backward"),
            (module.optimizers(), "step", "optimizer"),
            (module, "training_step", "iteration"),
        ):
            self.timeline.watch(owner, method, name)
        transformers = {policy.backbone.transformer}
        if module.objective.needs_reference:
            with policy.reference():  # without adapters the reference is a copy
                transformers.add(policy.backbone.transformer)
        for transformer in transformers:
            transformer.register_forward_pre_hook(self._before_transformer, with_kwargs=True)
            transformer.register_forward_hook(self._after_transformer)
        self.step, module.training_step = module.training_step, self._measure

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop watching."""
        self.timeline.unwatch()

    def _before_transformer(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.timeline.open:  # it is closed while the calls are made again
            self.bare.record(self.timeline.open[1], args, kwargs)
            self.timeline.enter("transformer")

    def _after_transformer(self, *_: Any) -> None:
        if self.timeline.open:
            self.timeline.leave()

    def _measure(self, batch: Any, batch_idx: int) -> Any:
        """One iteration, then its bare calls, and so on in turn: what else the machine does hits both."""
        self.bare.calls.clear()
        if batch_idx == 0:
            return self._count_flops(batch)
        evals, on_gpu = self.policy.transformer_evals, self.policy.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        output = self.step(batch, batch_idx)
        seconds = self.timeline.take()
        if on_gpu:
            self.memory["gpu_peak"] = max(self.memory.get("gpu_peak", 0), torch.cuda.max_memory_allocated())
        self.memory["rss_peak"] = peak_rss()
        bare_seconds = self.bare.replay(self.stopwatch)
        rows = {
            "rows": self.bare.rows,
            "predicted_rows": predicted_rows(self.module, self.policy, output["rollout"]),
            "transformer_evals": self.policy.transformer_evals - evals,
        }
        times = {"seconds": seconds, "bare_seconds": bare_seconds, **ratios(seconds, bare_seconds)}
        self.iterations.append({**times, **rows})
        return output

    def _count_flops(self, batch: Any) -> Any:
        # Compiled programs would hide their FLOPs.
        with flop_counter() as counter, torch.compiler.set_stance("force_eager"):
            clock = self.timeline.clock = Clock(counter.get_total_flops, list)
            output = self.step(batch, 0)
            self.flops = {"phases": self.timeline.take(), "bare": self.bare.replay(clock), "rows": self.bare.rows}
        self.timeline.clock = self.stopwatch
        if self.policy.compile_blocks:  # now, and not in an iteration that is timed
            output = self.step(batch, 0)
            self.timeline.take()
        self.setting = setting(self.module, self.policy, output["rollout"])
        return output


def setting(module: GRPOModule, policy: DiffusionPolicy, rollout: Rollout) -> dict[str, Any]:
    """The numbers that decide how much there is to do, and what does it."""
    own = {name: getattr(module, name) for name in ("inner_epochs", "updates_per_epoch", "microbatch_size")}
    drawn = ("samples_per_noise", "num_steps", "height", "width", "rollout_batch_size")
    switches = ("gradient_checkpointing", "compile_blocks")
    return {
        "prompts": len(rollout.prompts),
        "group_size": rollout.group_size,
        "decisions": rollout.mask.shape[1],
        **own,
        **{name: getattr(policy, name) for name in (*drawn, *switches)},
        "evals_per_row": policy.backbone.evals_per_row,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "transformer_parameters": sum(parameter.numel() for parameter in policy.transformer.parameters()),
        "trained_parameters": sum(parameter.numel() for parameter in policy.trainable_parameters().values()),
        "device": torch.cuda.get_device_name() if policy.device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def predicted_rows(module: GRPOModule, policy: DiffusionPolicy, rollout: Rollout) -> dict[str, int]:
    """Transformer rows that the settings ask for with Euler steps, if no row of zero advantage is spared."""
    group, scored = rollout.group_size, rollout.mask.numel()
    noises = group // policy.samples_per_noise
    starts = rollout.policy_state["step_indices"][::group, 0].tolist()
    sampled = sum(noises * start + group * (policy.num_steps - start) for start in starts)
    rows = (sampled, scored if module.objective.needs_reference else 0, scored * module.inner_epochs)
    return {phase: number * policy.backbone.evals_per_row for phase, number in zip(PHASES, rows, strict=True)}


def ratios(seconds: dict[str, dict[str, float]], bare_seconds: dict[str, float]) -> dict[str, float]:
    """The iteration over its bare calls, and over those it made; all of it, and without VAE decode and rewards."""
    whole, bare = total(seconds), sum(bare_seconds.values())
    calls = sum(seconds.get(phase, {}).get(part, 0.0) for phase in PHASES for part in ("transformer", "backward"))
    without = whole - seconds["rollout"]["VAE decode"] - sum(seconds["reward"].values())
    return dict(zip(RATIOS, (whole / bare, without / bare, whole / calls, without / calls), strict=True))


def total(phases: dict[str, dict[str, float]]) -> float:
    """All parts of all phases."""
    return sum(sum(parts.values()) for parts in phases.values())


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def peak_rss() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def report(benchmark: IterationBenchmark) -> dict[str, Any]:
    """Everything that was measured; times as median and range over the iterations."""
    runs = benchmark.iterations
    parts: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for phase in sorted(run["seconds"], key="rest".__eq__):  # the rest comes last
            for part in run["seconds"][phase]:
                values = [each["seconds"].get(phase, {}).get(part, 0.0) for each in runs]
                parts.setdefault(phase, {})[part] = values
    return {
        "setting": benchmark.setting,
        "iterations": len(runs),
        "clock": "CPU seconds" if benchmark.cpu_time else "seconds",
        **{name: spread([run[name] for run in runs]) for name in RATIOS},
        "iteration_seconds": spread([total(run["seconds"]) for run in runs]),
        "bare_seconds": {phase: spread([run["bare_seconds"][phase] for run in runs]) for phase in PHASES},
        "seconds": {phase: {part: spread(each) for part, each in own.items()} for phase, own in parts.items()},
        **{name: [run[name] for run in runs] for name in ("rows", "predicted_rows", "transformer_evals")},
        "first_iteration_flops": benchmark.flops,
        "peak_memory_bytes": benchmark.memory,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print the report."""
    table = Table("phase", "part", title=f"One GRPO iteration (median of {result['iterations']})", box=SIMPLE)
    for name in (result["clock"], "min - max", "share", "GFLOP*"):
        table.add_column(name, justify="right", no_wrap=True)
    whole, flops = result["iteration_seconds"], result["first_iteration_flops"]

    def add(phase: str, part: str, value: dict[str, float], number: float) -> None:
        middle, span = f"{value['median']:.3f}", f"{value['min']:.3f} - {value['max']:.3f}"
        table.add_row(phase, part, middle, span, f"{value['median'] / whole['median']:.1%}", f"{number / 1e9:.2f}")

    for phase, parts in result["seconds"].items():
        for part, value in parts.items():
            add(phase, part, value, flops["phases"].get(phase, {}).get(part, 0))
        table.add_section()
    add("all", "", whole, total(flops["phases"]))
    for phase in PHASES:
        add("bare calls", phase, result["bare_seconds"][phase], flops["bare"][phase])
    console.print(table, "* of the first iteration, which is not timed\n", sep="")
    for name, meaning in RATIOS.items():
        console.print("{}: {median:.3f} ({min:.3f} - {max:.3f})".format(meaning, **result[name]))
    for phase in PHASES:
        counted, predicted = (sum(rows[phase] for rows in result[name]) for name in ("rows", "predicted_rows"))
        console.print(f"transformer rows of {phase}, all iterations: {counted}, predicted {predicted}")
    console.print(", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in result["peak_memory_bytes"].items()))


main = Command(
    name="grpo_iteration",
    about=__doc__,
    config="configs/diffusion.yaml",
    counted="iterations",
    make=lambda known: IterationBenchmark(cpu_time=known.cpu_time),
    report=report,
    show=show,
)


if __name__ == "__main__":
    sys.exit(main())
