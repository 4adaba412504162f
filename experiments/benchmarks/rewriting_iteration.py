"""Splits an iteration that trains a rewriting language model into its phases: writing, drawing, judging and so on.

Run it from the repository's root, in an environment that has realgen installed. README.md beside this file says what is
measured, and what is not.
"""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import torch
from grpo_iteration import WatchedReward, peak_rss, spread, total
from lightning.pytorch import Callback, LightningModule, Trainer
from measuring import Timeline, stopwatch
from recipe_command import Command
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from realgen.modules import GRPOModule, grpo_module
from realgen.policies import DiffusionPolicy, PromptPolicy
from realgen.policies.text_engine import Completions, WritingTask
from realgen.rewards.base import Reward
from realgen.types import Rollout

DRAWING = ("text encoding", "transformer", "VAE decode", "drawing")
"""Parts of the rollout that make images; the last one is what the others leave of it."""
SPEEDS = {
    "tokens_per_second": ("tokens", ("writing",)),
    "scored_tokens_per_second": ("tokens", ("scoring",)),
    "images_per_second": ("images", DRAWING),
}
"""What is counted, and the parts of the rollout that do it."""


class RewritingBenchmark(Callback):
    """Measures each iteration but the first, which warms up."""

    def __init__(self, *, cpu_time: bool = False) -> None:
        self.cpu_time = cpu_time
        self.setting: dict[str, Any] = {}
        self.iterations: list[dict[str, Any]] = []
        self.memory: dict[str, int] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the calls that the phases are made of."""
        assert isinstance(pl_module, GRPOModule)
        module, policy = pl_module, pl_module.policy
        if not isinstance(policy, PromptPolicy):
            raise ValueError(f"model.policy must be a PromptPolicy, got {type(policy).__name__}.")
        self.memory["rss_loaded"] = peak_rss()
        self.module, self.policy = module, policy
        module.overlap_rewards = False  # one thing after the other, so that each second belongs to one
        self.timeline = Timeline(stopwatch(policy.device, cpu_time=self.cpu_time))
        for name, reward in rewards(module).items():
            self.timeline.watch(reward, "score", name)
        module.reward = WatchedReward(module.reward, self.timeline)
        self.write, policy.engine.write = policy.engine.write, self._count_tokens
        watched = [
            (policy, "_rollout", "rollout"),
            (policy.engine, "write", "writing"),
            (policy, "_log_probs", "scoring"),
            (grpo_module, "reference_score", "reference"),
            (module, "update_policies", "update"),
            (module, "manual_backward", "backward"),
            (module.optimizers(), "step", "optimizer"),
            (module, "training_step", "iteration"),
        ]
        if policy.image_policy is not None:
            watched.append((policy.image_policy, "sample", "drawing"))
        if isinstance(policy.image_policy, DiffusionPolicy):
            backbone = policy.image_policy.backbone
            watched += [(backbone, "encode_prompts", "text encoding"), (backbone, "decode", "VAE decode")]
            backbone.transformer.register_forward_pre_hook(self._before_transformer)
            backbone.transformer.register_forward_hook(self._after_transformer)
        for owner, method, name in watched:
            self.timeline.watch(owner, method, name)
        self.step, module.training_step = module.training_step, self._measure

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop watching."""
        self.timeline.unwatch()

    def _before_transformer(self, _: Any, args: tuple[Any, ...]) -> None:
        self.timeline.enter("transformer")

    def _after_transformer(self, *_: Any) -> None:
        self.timeline.leave()

    def _count_tokens(self, task: WritingTask) -> Completions:
        written = self.write(task)
        self.counts = {"asked": sum(map(bool, task.chats)), "tokens": int(written.mask.sum())}
        return written

    def _measure(self, batch: Any, batch_idx: int) -> Any:
        evals, on_gpu = self._transformer_evals(), self.policy.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        output = self.step(batch, batch_idx)
        seconds = self.timeline.take()
        if batch_idx == 0:
            self.setting = setting(self.module, self.policy, output["rollout"])
            return output
        if on_gpu:
            self.memory["gpu_peak"] = max(self.memory.get("gpu_peak", 0), torch.cuda.max_memory_allocated())
        self.memory["rss_peak"] = peak_rss()
        self.counts |= {"images": len(output["rollout"].images), "transformer_evals": self._transformer_evals() - evals}
        self.iterations.append({"seconds": seconds, "counts": self.counts, "speeds": speeds(seconds, self.counts)})
        return output

    def _transformer_evals(self) -> int:
        return getattr(self.policy.image_policy, "transformer_evals", 0)


def rewards(module: GRPOModule) -> dict[str, Reward]:
    """The rewards that are summed up, or the only one, by name."""
    reward = module.reward.reward if isinstance(module.reward, WatchedReward) else module.reward
    return getattr(reward, "rewards", {reward.name: reward})


def speeds(seconds: dict[str, dict[str, float]], counts: dict[str, int]) -> dict[str, float]:
    """What each second of its own work gave; what took no time is left out."""
    spent = {name: sum(seconds["rollout"].get(part, 0.0) for part in parts) for name, (_, parts) in SPEEDS.items()}
    return {name: counts[what] / spent[name] for name, (what, _) in SPEEDS.items() if spent[name] > 0}


def setting(module: GRPOModule, policy: PromptPolicy, rollout: Rollout) -> dict[str, Any]:
    """The numbers that decide how much there is to do, and what does it."""
    own = ("group_size", "inner_epochs", "updates_per_epoch", "microbatch_size")
    texts = ("images_per_rewrite", "raw_per_group", "max_tokens", "rollout_batch_size", "score_batch_size")
    drawn = ("eval_num_steps", "height", "width", "rollout_batch_size")
    image_policy = policy.image_policy
    numbers = {name: getattr(image_policy, name) for name in drawn if hasattr(image_policy, name)}
    if isinstance(image_policy, DiffusionPolicy):
        numbers["evals_per_row"] = image_policy.backbone.evals_per_row
    return {
        "prompts": len(rollout.prompts),
        **{name: getattr(module, name) for name in own},
        **{name: getattr(policy, name) for name in texts},
        "engine": type(policy.engine).__name__,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "language_model_parameters": sum(parameter.numel() for parameter in policy.parameters()),
        "trained_parameters": sum(parameter.numel() for parameter in policy.trainable_parameters().values()),
        "image_policy": numbers,
        "rewards": list(rewards(module)),
        "device": torch.cuda.get_device_name() if policy.device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def report(benchmark: RewritingBenchmark) -> dict[str, Any]:
    """Everything that was measured; times, shares and speeds as median and range over the iterations."""
    runs = benchmark.iterations
    whole = [total(run["seconds"]) for run in runs]
    places = list(
        dict.fromkeys((phase, part) for run in runs for phase, parts in run["seconds"].items() for part in parts)
    )
    places.sort(key=lambda place: place[0] == "rest")  # it comes last
    seconds: dict[str, dict[str, Any]] = {}
    shares: dict[str, dict[str, Any]] = {}
    for phase, part in places:
        values = [run["seconds"].get(phase, {}).get(part, 0.0) for run in runs]
        seconds.setdefault(phase, {})[part] = spread(values)
        shares.setdefault(phase, {})[part] = spread([value / all_ for value, all_ in zip(values, whole, strict=True)])
    return {
        "setting": benchmark.setting,
        "iterations": len(runs),
        "clock": "CPU seconds" if benchmark.cpu_time else "seconds",
        "iteration_seconds": spread(whole),
        "seconds": seconds,
        "shares": shares,
        **{name: spread([run["speeds"][name] for run in runs]) for name in SPEEDS if name in runs[0]["speeds"]},
        "counts": [run["counts"] for run in runs],
        "peak_memory_bytes": benchmark.memory,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print the report."""
    table = Table("phase", "part", title=f"One rewriting iteration (median of {result['iterations']})", box=SIMPLE)
    for name in (result["clock"], "min - max", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for phase, parts in result["seconds"].items():
        for part, value in parts.items():
            span, share = f"{value['min']:.3f} - {value['max']:.3f}", result["shares"][phase][part]["median"]
            table.add_row(phase, part, f"{value['median']:.3f}", span, f"{share:.1%}")
        table.add_section()
    whole = result["iteration_seconds"]
    table.add_row("all", "", f"{whole['median']:.3f}", f"{whole['min']:.3f} - {whole['max']:.3f}", "")
    console.print(table)
    for name in SPEEDS:
        if name in result:
            console.print("{}: {median:.2f} ({min:.2f} - {max:.2f})".format(name.replace("_", " "), **result[name]))
    console.print(", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in result["peak_memory_bytes"].items()))


main = Command(
    name="rewriting_iteration",
    about=__doc__,
    config="configs/llm.yaml",
    counted="iterations",
    make=lambda known: RewritingBenchmark(cpu_time=known.cpu_time),
    report=report,
    show=show,
)


if __name__ == "__main__":
    sys.exit(main())
