"""The benchmarks of one iteration and of the plain baseline at a model's full size, with random weights, on one GPU.

    python experiments/benchmarks/full_size.py --config configs/diffusion_flux.yaml --output runs/full_size

Not run by us at full size: no GPU was at hand. What is tested is this very script on a tiny model on the CPU. README.md
beside this file says what it measures and how long it should take.

Networks are made on the GPU from the numbers in realgen/planning/architectures and never leave it; no weight is read.
Random weights cost what trained ones cost. The rewards are the embedded ones, which cost next to nothing here: at full
size detector_scoring.py measures them. One prompt makes an iteration, with one update.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpo_iteration
import plain_baseline
import torch
from measuring import leave
from rich.console import Console
from torch import nn

from realgen.planning.architecture import Component, find_architecture, placeholder_tokenizer
from realgen.planning.forecast import GPUS
from realgen.policies.backbones.pipeline import PipelineBackbone

COMMON = (
    "--data.prompts_per_iteration=1", "--model.updates_per_epoch=1", "--model.metrics=null", "--loggers.wandb=null",
    "--model.reward=configs/rewards/realism_and_alignment.yaml",
)  # fmt: skip
"""What one GPU without anybody's weights can do; the command line may change it again."""

BENCHMARKS = {"iteration": (grpo_iteration, "iterations"), "baseline": (plain_baseline, "rounds")}
"""What is run, and the option for how often."""


@contextmanager
def random_weights(device: torch.device) -> Iterator[None]:
    """Let backbones make their pipeline of random numbers on a device, in place of reading it."""
    read = PipelineBackbone._read

    def make(backbone: PipelineBackbone) -> Any:
        return random_pipeline(backbone.pretrained, backbone.dtype, device)

    PipelineBackbone._read = make
    try:
        yield
    finally:
        PipelineBackbone._read = read


def random_pipeline(pretrained: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A pipeline of the real classes and sizes.

    Args:
        pretrained: Folder of a pipeline, of which configs and tokenizers alone are read, or its hub id.
        dtype: Of everything but the VAE, which is float32.
        device: Where it is made.

    Returns:
        The pipeline.
    """
    import diffusers

    architecture = find_architecture(pretrained)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        parts = {
            name: random_part(part, device, torch.float32 if name == "vae" else dtype)
            for name, part in architecture.components.items()
        }
    pipeline_class: Any = getattr(diffusers, architecture.pipeline)
    return pipeline_class(**parts, **architecture.settings)


def random_part(part: Component, device: torch.device, dtype: torch.dtype) -> Any:
    """One part: its class's own random start, made in its type, or a tokenizer: its own, or one of as many tokens."""
    import diffusers
    import transformers

    if "Tokenizer" in part.kind or part.kind.endswith("Processor"):
        if part.folder is not None:
            return getattr(transformers, part.kind).from_pretrained(part.folder, local_files_only=True)
        return placeholder_tokenizer(**part.config)
    if "Scheduler" in part.kind:
        return getattr(diffusers, part.kind).from_config(dict(part.config))
    torch.set_default_dtype(dtype)  # never whole in float32, which would not fit
    try:
        with device:
            if hasattr(diffusers, part.kind):
                made = getattr(diffusers, part.kind).from_config(dict(part.config))
            else:
                kind: Any = getattr(transformers, part.kind)
                made = kind(kind.config_class(**part.config))
    finally:
        torch.set_default_dtype(torch.float32)
    return nn.Module.to(made, dtype)


def training_speed(result: dict[str, Any], peak: float | None) -> dict[str, float | None]:
    """How fast the update's forward and backward passes compute.

    With gradient checkpointing the backward pass holds the blocks' forward pass once more: the hardware does it,
    but the model does not need it, so it does not count in the model FLOP utilisation.

    Args:
        result: What ``grpo_iteration`` reports.
        peak: FLOP/s that the device can do; ``None``: not known.

    Returns:
        ``model_flops`` and ``hardware_flops`` per second, and their shares of the peak.
    """
    flops, seconds = result["first_iteration_flops"]["phases"]["update"], result["seconds"]["update"]
    spent = sum(seconds[part]["median"] for part in ("transformer", "backward"))
    hardware = flops["transformer"] + flops["backward"]
    model = hardware - (flops["transformer"] if result["setting"]["gradient_checkpointing"] else 0)
    speeds: dict[str, float | None] = {"model_flops": model / spent, "hardware_flops": hardware / spent}
    shares = {f"{name[:-6]}_utilisation": None if peak is None else value / spent / peak
              for name, value in {"model_flops": model, "hardware_flops": hardware}.items()}  # fmt: skip
    return speeds | shares


def peak_flops() -> float | None:
    """Dense bfloat16 FLOP/s of this machine's GPU, if it is among those that plans know."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name().lower().replace(" ", "")
    return next((gpu.bf16 * 1e12 for key, gpu in GPUS.items() if key.partition("-")[0] in name), None)


def show(result: dict[str, Any], console: Console) -> None:
    """Print what was asked for."""
    if "iteration" in result:
        for name, value in result["training"].items():
            console.print(f"training: {name} {'unknown' if value is None else format(value, '.4g')}")
        memory = result["iteration"]["peak_memory_bytes"].get("gpu_peak", 0)
        console.print(f"peak GPU memory: {memory / 1e9:.1f} GB (aim: under 80)")
        console.print("iteration / bare calls: {median:.3f} (aim: 1.05)".format(**result["iteration"]["ratio"]))
    if "baseline" in result:
        console.print("ours / plain script: {median:.3f} (aim: 0.8)".format(**result["baseline"]["ratio"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program; ``sys.argv[1:]`` by default.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--config", action="append", help="recipe, and overlays (default: configs/diffusion_flux.yaml)")
    parser.add_argument("--iterations", type=int, default=1, help="measured of each, >= 1 (default: %(default)s)")
    parser.add_argument("--only", choices=BENCHMARKS, help="one of the two benchmarks (default: both)")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU, which only a tiny model can")
    parser.add_argument("--no_compile", action="store_true", help="leave ours uncompiled too")
    parser.add_argument("--output", type=Path, required=True, help="folder for the JSON files")
    known, overrides = parser.parse_known_args(argv)
    if known.iterations < 1:
        parser.error(f"--iterations must be at least 1, got {known.iterations}.")
    if not (known.cpu or torch.cuda.is_available()):
        parser.error("there is no GPU; --cpu runs a tiny model.")
    configs = [f"--config={config}" for config in known.config or ["configs/diffusion_flux.yaml"]]
    policy = [f"--model.policy.compile_blocks={str(not known.no_compile).lower()}"]
    policy += [f"--trainer.accelerator={'cpu' if known.cpu else 'gpu'}", f"--output={known.output}"]
    arguments = [*configs, *COMMON, *policy, *overrides]
    result: dict[str, Any] = {}
    with random_weights(torch.device("cpu" if known.cpu else "cuda")):
        for name in [known.only] if known.only else BENCHMARKS:
            benchmark, count = BENCHMARKS[name]
            if benchmark.main([*arguments, f"--{count}={known.iterations}"]):
                return 1
            gc.collect()  # the first one's networks make room for the second's
            torch.cuda.empty_cache()
            result[name] = json.loads((known.output / f"{benchmark.__name__}.json").read_text())
    if "iteration" in result:
        result["training"] = training_speed(result["iteration"], peak_flops())
    show(result, Console())
    leave(result, known.output, "full_size.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
