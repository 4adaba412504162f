"""Images per second of OmniAID as this repository scores, against scoring one by one as RealGen's servers do.

    python experiments/benchmarks/detector_scoring.py --config '{"preprocess": "v1"}' --output runs/benchmarks

Both score the same images with the same random weights, by default those of CLIP ViT-L/14 at 336 pixels; their
answers are held against each other. One by one, written anew from RealGen's description: Pillow resizes each image, a
forward pass has one image, every map stacks all experts anew and applies the chosen ones in turn, attention is a
plain softmax. Ours: tensors are resized together, forward passes have `--forward_size` images, experts are merged; in
float32, which is exact, and in bfloat16, which is not. A round measures each once, the order alternates, and the
ratio is taken round by round. Images are at hand as Pillow images for the one, as a tensor on the device for the
other.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import Clock, leave, stopwatch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

from realgen.detectors import Detector, OmniAIDConfig, OmniAIDNetwork
from realgen.detectors.base import DetectorNetwork
from realgen.functional.images import from_uint8, resize, to_uint8
from realgen.functional.network_input import CLIP_MEAN, CLIP_STD, FIRST_SIZE

BASELINE = "one by one"


class Ours(Detector):
    """The repository's scoring, on a network that is at hand."""

    def __init__(self, network: DetectorNetwork, batch_size: int) -> None:
        super().__init__(batch_size)
        self._given = network

    def build(self) -> nn.Module:
        return self._given

    def p_fake(self, network: nn.Module, images: Tensor) -> Tensor:
        return network(images).float().softmax(-1)[:, 1]


class OneByOne:
    """Scoring as RealGen's servers do: Pillow, one image per forward pass, experts stacked anew in every map.

    Args:
        network: Whose weights are used, before it is merged.
        device: Where the forward pass runs.
    """

    def __init__(self, network: OmniAIDNetwork, device: torch.device) -> None:
        self.config = network.config
        # Copies: merging changes the network's own in place.
        self.weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.tower = copy.deepcopy(network.feature_extractor)
        size = self.config.image_size
        sizes = (FIRST_SIZE, size) if self.config.preprocess == "v1" else (size,)
        self.transform = transforms.Compose(
            [
                *(transforms.Resize((side, side)) for side in sizes),
                transforms.ToTensor(),
                transforms.Normalize(CLIP_MEAN, CLIP_STD),
            ]
        )
        self.device = device

    @torch.no_grad()
    def __call__(self, images: list[Image.Image]) -> list[float]:
        """``p_fake`` of each image."""
        return [self.forward(self.transform(image).unsqueeze(0).to(self.device)).tolist()[0] for image in images]

    def forward(self, pixels: Tensor) -> Tensor:
        """``p_fake`` of a batch of one."""
        patches = F.conv2d(pixels, self.weights["embeddings.patch_embedding.weight"], stride=self.config.patch_size)
        first = self.weights["embeddings.class_embedding"].expand(len(pixels), 1, -1)
        hidden = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)
        hidden = hidden + self.weights["embeddings.position_embedding.weight"]
        indices, gates = self.route(pixels, hidden)
        hidden = self.norm(hidden, "ln_pre")
        for index in range(self.config.num_hidden_layers):
            layer = f"encoder_layers.{index}"
            hidden = hidden + self.attention(self.norm(hidden, f"{layer}.layer_norm1"), layer, indices, gates)
            middle = self.linear(self.norm(hidden, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
            hidden = hidden + self.linear(middle * torch.sigmoid(1.702 * middle), f"{layer}.mlp.fc2")
        return self.linear(self.norm(hidden[:, 0], "ln_post"), "head").softmax(-1)[:, 1]

    def route(self, pixels: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Indices and gates of the experts that act on an image; the always-on expert comes last."""
        seen = embedded[:, 1:].mean(1) if self.tower is None else self.tower(pixel_values=pixels).pooler_output
        middle = self.linear(seen, "gating_network.network.0").relu()
        top = self.linear(middle, "gating_network.network.2").topk(self.config.top_k, dim=-1)
        indices, gates = top.indices, top.values.softmax(-1)
        if self.config.hybrid:
            last = torch.full_like(indices[:, :1], self.config.num_experts - 1)
            indices, gates = torch.cat([indices, last], dim=1), torch.cat([gates, torch.ones_like(gates[:, :1])], dim=1)
        return indices, gates

    def norm(self, hidden: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(hidden, weight.shape, weight, bias, self.config.layer_norm_eps)

    def linear(self, hidden: Tensor, name: str) -> Tensor:
        return F.linear(hidden, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def attention(self, hidden: Tensor, layer: str, indices: Tensor, gates: Tensor) -> Tensor:
        """Plain softmax attention, one matrix of weights per head."""
        query, key, value = (
            self.experts(hidden, f"{layer}.self_attn.{name}", indices, gates)
            .unflatten(-1, (self.config.num_attention_heads, -1))
            .transpose(1, 2)
            .flatten(0, 1)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        weights = torch.bmm(query * query.shape[-1] ** -0.5, key.transpose(1, 2)).softmax(-1)
        attended = torch.bmm(weights, value).unflatten(0, (len(hidden), -1)).transpose(1, 2).flatten(2)
        return self.experts(attended, f"{layer}.self_attn.out_proj", indices, gates)

    def experts(self, hidden: Tensor, name: str, indices: Tensor, gates: Tensor) -> Tensor:
        """A map with experts: all of them are stacked, and the chosen ones picked out and applied one after another."""
        stacked = (
            torch.stack([self.weights[f"{name}.{part}_experts.{e}"] for e in range(self.config.num_experts)])
            for part in "USV"
        )
        u, s, v = stacked
        main = F.linear(hidden, self.weights[f"{name}.weight_main"])
        added = torch.zeros_like(main)
        for chosen, gate in zip(indices.T, gates.T, strict=True):
            low = torch.bmm(hidden, v[chosen].transpose(1, 2)) * s[chosen].unsqueeze(1)
            added += torch.bmm(low, u[chosen].transpose(1, 2)) * gate.view(-1, 1, 1)
        return main + added + self.weights[f"{name}.bias"]


@torch.no_grad()
def random_network(config: OmniAIDConfig, generator: torch.Generator) -> OmniAIDNetwork:
    """A network with random weights of a trained one's size; norms start at 1."""
    network = OmniAIDNetwork(config)
    for name, parameter in network.named_parameters():
        if not ("norm" in name or "ln_" in name or "layrnorm" in name):
            parameter.normal_(0, config.hidden_size**-0.5, generator=generator)
    return network.eval().requires_grad_(False)


def measure(
    scorers: dict[str, Callable[[], Any]], clock: Clock, device: torch.device, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each scorer in each round; who begins alternates."""
    names = list(scorers)
    for name in names:
        scorers[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        for name in names if index % 2 else reversed(names):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = clock.mark()
            scorers[name]()
            first, last = clock.read([start, clock.mark()])
            seconds[name].append(last - first)
    return seconds


def spread(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Ratios pair by pair."""
    ratios = [one / other for one, other in zip(slow, fast, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Build both scorers on the same random weights, compare their answers and their speed."""
    device, generator = torch.device(arguments.device), torch.Generator().manual_seed(0)
    config = OmniAIDConfig(**arguments.config)
    network = random_network(config, generator).to(device)
    coarse = torch.rand(arguments.batch_size, 3, 16, 16, generator=generator)
    pixels = to_uint8(resize(coarse, arguments.pixels))
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    images = from_uint8(pixels).to(device)
    published = OneByOne(network, device)
    merged = network.merge()
    ours = {
        "ours": Ours(merged, arguments.forward_size),
        "ours in bfloat16": Ours(copy.deepcopy(merged).bfloat16(), arguments.forward_size),
    }
    theirs, answers = torch.tensor(published(pictures)), ours["ours"](images).cpu()
    alone = torch.cat([ours["ours"](image.unsqueeze(0)) for image in images]).cpu()
    scorers: dict[str, Callable[[], Any]] = {
        BASELINE: lambda: published(pictures),
        **{name: lambda scorer=scorer: scorer(images).tolist() for name, scorer in ours.items()},
    }
    seconds = measure(scorers, stopwatch(device, cpu_time=arguments.cpu_time), device, arguments.rounds)
    return {
        "setting": {
            **{name: value for name, value in vars(arguments).items() if name not in ("output", "config")},
            "config": dataclasses.asdict(config),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        },
        "seconds": seconds,
        "images_per_second": {
            name: arguments.batch_size / statistics.median(values) for name, values in seconds.items()
        },
        "ratio": {name: spread(seconds[BASELINE], seconds[name]) for name in ours},
        "largest_difference": {
            "to one by one, which goes through Pillow": float((answers - theirs).abs().max()),
            "of the batch to our own one by one": float((answers - alone).abs().max()),
            "of bfloat16": float((answers - ours["ours in bfloat16"](images).cpu()).abs().max()),
        },
        "spread_of_answers": float(answers.std()),
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print the report."""
    for name, speed in result["images_per_second"].items():
        console.print(f"{name}: {speed:.3g} images per second")
    for name, ratio in result["ratio"].items():
        console.print(f"{name} / {BASELINE}, pair by pair:", "{median:.2f} ({min:.2f} to {max:.2f})".format(**ratio))
    for name, difference in result["largest_difference"].items():
        console.print(f"largest difference {name}: {difference:.2g}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program; ``sys.argv[1:]`` by default.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", type=json.loads, default={}, help="measures of the network, as JSON")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch_size", type=int, default=16, help="images of one call (default: %(default)s)")
    parser.add_argument("--forward_size", type=int, default=16, help="images of a forward pass (default: %(default)s)")
    parser.add_argument("--pixels", type=int, default=1024, help="side of the images (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements (default: %(default)s)")
    parser.add_argument("--cpu_time", action="store_true", help="count CPU seconds, for a machine with other jobs")
    parser.add_argument("--output", type=Path, help="folder for detector_scoring.json (default: print the JSON)")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {arguments.rounds}.")
    result = run(arguments)
    show(result, Console())
    leave(result, arguments.output, "detector_scoring.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
