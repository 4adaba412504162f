"""Holds the default with its exact settings against the published scripts' way, and says which setting buys how much.

    python experiments/benchmarks/plain_baseline.py --config configs/diffusion.yaml --ablation --output runs/benchmarks

Run it from the repository's root, in an environment that has realgen installed. README.md beside this file says what is
measured, and what is not; plain_script.py says what the published way is.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from grpo_iteration import IterationBenchmark, setting, spread, total
from lightning.pytorch import LightningModule, Trainer
from measuring import PHASES, Clock
from plain_script import PlainScript, Sampled, rewards_of
from recipe_command import Command
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

from realgen.modules import GRPOModule
from realgen.planning.meter import flop_counter
from realgen.rewards.clip_similarity import ClipSimilarity
from realgen.types import PromptBatch

OURS, PLAIN, LARGE = "ours", "plain script", "plain script, large calls"
SHARED = 3
"""Samples that share their noise, in the published scripts and by default in both here."""
PARTS = (
    ("rollout", "text encoding"), ("rollout", "transformer"), ("rollout", "VAE decode"), ("rollout", "other"),
    ("reward", None), ("reference", None), ("update", None), ("rest", None),
)  # fmt: skip
"""Phases, or parts of them, that both ways have."""


class Setting(NamedTuple):
    """An attribute of ours with the value that turns a saving off."""

    owner: Any
    name: str
    value: Any


class State(NamedTuple):
    """What an iteration changes."""

    weights: list[Tensor]
    optimizer: dict[str, Any]
    iteration: int


class BaselineBenchmark(IterationBenchmark):
    """Makes each iteration in all ways in turn, from the same weights on; the first round counts FLOPs and compares."""

    def __init__(self, *, cpu_time: bool, ablation: bool) -> None:
        super().__init__(cpu_time=cpu_time)
        self.ablation = ablation
        self.ways: dict[str, Callable[[PromptBatch], Any]] = {}
        self.runs: dict[str, list[dict[str, Any]]] = {}
        self.agreement: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set up the plain script on the same networks, and watch its calls too."""
        assert isinstance(pl_module, GRPOModule)
        self.raw_reward = pl_module.reward
        super().on_train_start(trainer, pl_module)
        pl_module.reward, watched = self.raw_reward, pl_module.reward
        (optimizer,) = trainer.optimizers
        self.plain = PlainScript(pl_module, optimizer)
        self.large = PlainScript(pl_module, optimizer, self.policy.rollout_batch_size)
        pl_module.reward, self.optimizer = watched, optimizer
        self.timeline.watch(self.policy.backbone, "encode", "text encoding")
        phases = {"sample": "rollout", "judge": "reward", "reference_velocity": "reference", "update": "update"}
        for method, name in {**phases, "learn": "update", "backward": "backward", "iterate": "iteration"}.items():
            self.timeline.watch(self.plain, method, name)
            self.timeline.watch(self.large, method, name)
        self.ways = {OURS: lambda batch: self.step(batch, 0), PLAIN: self._plain, LARGE: self._large}
        if self.ablation and self.policy.compile_blocks:
            self.ways["compile_blocks=False"] = self._uncompiled
        if self.ablation:
            for name, settings in savings(self.module, self.raw_reward).items():
                self.ways[name] = lambda batch, settings=settings: self._without(settings, batch)
        self.runs = {name: [] for name in self.ways}

    def _plain(self, batch: PromptBatch, rewards: dict[str, Tensor] | None = None) -> list[Sampled]:
        with torch.compiler.set_stance("force_eager"):  # the published scripts compile nothing
            return self.plain.iterate(batch, rewards)

    def _large(self, batch: PromptBatch) -> list[Sampled]:
        with torch.compiler.set_stance("force_eager"):
            return self.large.iterate(batch)

    def _uncompiled(self, batch: PromptBatch) -> Any:
        with torch.compiler.set_stance("force_eager"):
            return self.step(batch, 0)

    def _without(self, settings: Sequence[Setting], batch: PromptBatch) -> Any:
        with changed(settings):
            return self.step(batch, 0)

    def _measure(self, batch: Any, batch_idx: int) -> Any:
        """One round: every way from the same weights, a different one first each time; goes on from ours."""
        before, names = self._state(), list(self.ways)
        after, output = before, None
        shift = batch_idx % len(names)
        for name in names[shift:] + names[:shift]:
            self._restore(before)
            self._forget()
            if batch_idx == 0:
                result, run = self._count(name, batch)
            else:
                result, run = self._time(name, batch)
            self.runs[name].append(run)
            if name == OURS:
                output, after = result, self._state()
        if batch_idx == 0:
            self._compare(batch, output, before)
            self.setting = setting(self.module, self.policy, output["rollout"])
        self._restore(after)
        return output

    def _count(self, name: str, batch: Any) -> tuple[Any, dict[str, Any]]:
        """FLOPs, rows and calls; also warms up."""
        with flop_counter() as counter, torch.compiler.set_stance("force_eager"):
            self.timeline.clock = Clock(counter.get_total_flops, list)
            result = self.ways[name](batch)
            flops = self.timeline.take()
        self.timeline.clock = self.stopwatch
        calls, rows = {phase: sum(call.phase == phase for call in self.bare.calls) for phase in PHASES}, self.bare.rows
        if self.policy.compile_blocks and name not in (PLAIN, LARGE):  # now, and not in a round that is timed
            result = self.ways[name](batch)
            self.timeline.take()
        return result, {"flops": flops, "rows": rows, "calls": calls}

    def _time(self, name: str, batch: Any) -> tuple[Any, dict[str, Any]]:
        on_gpu = self.policy.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        result = self.ways[name](batch)
        if on_gpu:
            torch.cuda.synchronize()
        spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        memory = {"gpu_peak": torch.cuda.max_memory_allocated()} if on_gpu else {}
        return result, {"seconds": self.timeline.take(), **spent, **memory, "rows": self.bare.rows}

    def _compare(self, batch: Any, output: dict[str, Any], before: State) -> None:
        """From the same weights, noise and rewards: do both ways sample, judge and learn the same?"""
        self._restore(before)
        again = self.step(batch, 0)
        ours = self._gradients()
        self._restore(before)
        rollout = again["rollout"]
        samples = self._plain(batch, dict(again["rewards"].components))
        plain = self._gradients()
        own = self.plain.judge(batch.prompts, samples)
        self._restore(before)
        self.large.iterate(batch, dict(again["rewards"].components))
        large = self._gradients()
        self.timeline.take()
        distance = {name: float((ours[name] - plain[name]).norm()) for name in ours}
        largest = max(float(gradient.norm()) for gradient in ours.values())
        log_probs = torch.cat([torch.stack(sample.log_probs, dim=1) for sample in samples])
        images = torch.cat([sample.images for sample in samples])
        self.agreement = {
            "images": float((images - rollout.images).abs().max()),
            "log_probs": float((log_probs - rollout.sampled.log_probs).abs().max()),
            "gradient_relative": max(distance.values()) / largest,
            "gradient_of_large_calls": max(float((large[name] - plain[name]).norm()) for name in plain) / largest,
            **{
                f"reward_{name}": float((own[name] - part.cpu()).abs().max())
                for name, part in again["rewards"].components.items()
            },
            "largest_gradient": largest,
        }

    def _gradients(self) -> dict[str, Tensor]:
        return {name: p.grad.detach().clone() for name, p in self.policy.trainable_parameters().items()}

    def _state(self) -> State:
        weights = [p.detach().clone() for p in self.policy.trainable_parameters().values()]
        return State(weights, copy.deepcopy(self.optimizer.state_dict()), self.module.iteration)

    def _forget(self) -> None:
        """Each way embeds the texts itself, none profits from another."""
        self.bare.calls.clear()
        self.policy.backbone._embeddings.clear()
        for reward in rewards_of(self.raw_reward).values():
            if isinstance(reward, ClipSimilarity):
                reward._text_cache.clear()

    def _restore(self, state: State) -> None:
        with torch.no_grad():
            for parameter, weight in zip(self.policy.trainable_parameters().values(), state.weights, strict=True):
                parameter.copy_(weight)
        self.optimizer.load_state_dict(copy.deepcopy(state.optimizer))
        self.module.iteration = state.iteration


def savings(module: GRPOModule, reward: Any) -> dict[str, list[Setting]]:
    """What ours does without, one saving at a time."""
    policy: Any = module.policy
    judges = [getattr(each, "detector", each) for each in rewards_of(reward).values()]
    shared = policy.samples_per_noise
    return {
        f"rollout_batch_size={shared}": [Setting(policy, "rollout_batch_size", shared)],
        "microbatch_size=1": [Setting(module, "microbatch_size", 1)],
        "samples_per_noise=1": [Setting(policy, "samples_per_noise", 1)],
        "rewards' batch_size=1": [Setting(judge, "batch_size", 1) for judge in judges if hasattr(judge, "batch_size")],
        "decode_batch_size=1": [Setting(policy, "decode_batch_size", 1)],
        "cache_size=1": [Setting(policy.backbone, "cache_size", 1)],
    }


@contextmanager
def changed(settings: Sequence[Setting]) -> Iterator[None]:
    """Other values as long as the context lasts."""
    old = [getattr(owner, name) for owner, name, _ in settings]
    for owner, name, value in settings:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(settings, old, strict=True):
            setattr(owner, name, value)


def report(benchmark: BaselineBenchmark) -> dict[str, Any]:
    """Everything that was measured; ratios are taken round by round."""
    ways: dict[str, Any] = {}
    ours = benchmark.runs[OURS][1:]
    for name, (counted, *runs) in benchmark.runs.items():
        flops = {phase: sum(parts.values()) for phase, parts in counted["flops"].items()}
        ways[name] = {
            "iteration_seconds": spread([total(run["seconds"]) for run in runs]),
            "to_ours": spread(
                [total(run["seconds"]) / total(own["seconds"]) for run, own in zip(runs, ours, strict=True)]
            ),
            **{clock: spread([run[clock] for run in runs]) for clock in ("wall", "cpu")},
            "parts": {label(*place): spread([part_of(run["seconds"], *place) for run in runs]) for place in PARTS},
            "rows": counted["rows"],
            "calls": counted["calls"],
            "flops": flops,
            "gpu_peak": max((run.get("gpu_peak", 0) for run in runs), default=0),
        }
    pairs, large_pairs = (list(zip(ours, benchmark.runs[name][1:], strict=True)) for name in (PLAIN, LARGE))
    return {
        "setting": benchmark.setting,
        "rounds": len(ours),
        "clock": "CPU seconds" if benchmark.cpu_time else "seconds",
        "ratio": spread([total(own["seconds"]) / total(other["seconds"]) for own, other in pairs]),
        "ratio_wall": spread([own["wall"] / other["wall"] for own, other in pairs]),
        "ratio_cpu": spread([own["cpu"] / other["cpu"] for own, other in pairs]),
        "ratio_to_large_calls": spread([total(own["seconds"]) / total(other["seconds"]) for own, other in large_pairs]),
        "agreement": benchmark.agreement,
        "ways": ways,
    }


def part_of(seconds: dict[str, dict[str, float]], phase: str, part: str | None) -> float:
    """What a phase, or a part of it, took."""
    parts = seconds.get(phase, {})
    return sum(parts.values()) if part is None else parts.get(part, 0.0)


def label(phase: str, part: str | None) -> str:
    """How a phase, or a part of it, is called."""
    return phase if part is None else f"{phase}: {part}"


def show(result: dict[str, Any], console: Console) -> None:
    """Print the report."""
    ways, clock = result["ways"], result["clock"]
    saved = ways[PLAIN]["iteration_seconds"]["median"] - ways[OURS]["iteration_seconds"]["median"]
    table = Table("part", title=f"{clock} of an iteration (median of {result['rounds']})", box=SIMPLE)
    for name in (PLAIN, OURS, "saved", "share of what is saved"):
        table.add_column(name, justify="right")
    for place in PARTS:
        name = label(*place)
        plain, ours = (ways[way]["parts"][name]["median"] for way in (PLAIN, OURS))
        table.add_row(name, f"{plain:.3f}", f"{ours:.3f}", f"{plain - ours:.3f}", f"{(plain - ours) / saved:.1%}")
    console.print(table)
    table = Table(title="Ours, and with one saving turned off at a time", box=SIMPLE)
    table.add_column("way", no_wrap=True)
    for name in (clock, "to ours", "min - max", "rows", "calls", "GFLOP"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, way in ways.items():
        to_ours, middle = way["to_ours"], way["iteration_seconds"]["median"]
        span = f"{to_ours['min']:.2f} - {to_ours['max']:.2f}"
        counts = (str(sum(way["rows"].values())), str(sum(way["calls"].values())))
        gflop = f"{sum(way['flops'].values()) / 1e9:.1f}"
        table.add_row(name, f"{middle:.3f}", f"{to_ours['median']:.2f}", span, *counts, gflop)
    console.print(table)
    for name, meaning in {"ratio": clock, "ratio_wall": "wall time", "ratio_cpu": "CPU time"}.items():
        console.print("ours / plain script, {}: {median:.3f} ({min:.3f} - {max:.3f})".format(meaning, **result[name]))
    large = result["ratio_to_large_calls"]
    console.print("ours / {}, {}: {median:.3f} ({min:.3f} - {max:.3f})".format(LARGE, clock, **large))
    console.print(
        "largest differences: " + ", ".join(f"{name} {value:.2g}" for name, value in result["agreement"].items())
    )


main = Command(
    name="plain_baseline",
    about=__doc__,
    config="configs/diffusion.yaml",
    counted="rounds",
    make=lambda known: BaselineBenchmark(cpu_time=known.cpu_time, ablation=known.ablation),
    report=report,
    show=show,
    switches=(("ablation", "also turn one saving of ours off at a time"),),
    common=(f"--model.policy.samples_per_noise={SHARED}",),
)


if __name__ == "__main__":
    sys.exit(main())
