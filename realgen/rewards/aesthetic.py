"""The LAION aesthetic predictor: how people would rate a picture's looks, whatever it shows."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from realgen.checks import check_at_least
from realgen.detectors.checkpoint import load_exactly, read_state_dict
from realgen.functional.network_input import NetworkInput, check_images, to_network_input
from realgen.functional.published_input import open_clip_input
from realgen.rewards.base import Reward
from realgen.rewards.published_weights import check_file, local_file
from realgen.rewards.transformers_model import load_pretrained, load_processor, transformers_preprocess
from realgen.types import Samples

WIDTHS = {"0": 1024, "2": 128, "4": 64, "6": 16, "7": 1}
"""Of the head's linear layers, by their published number; between them training has dropout, and nothing else."""


class AestheticHead(nn.Module):
    """768-1024-128-64-16-1 linear layers without activations between them: an affine map, kept in its published parts.

    Args:
        features: Number of the CLIP's features, 768 for ViT-L/14.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        sizes = [features, *WIDTHS.values()]
        layers = (nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes))
        self.layers = nn.Sequential(OrderedDict(zip(WIDTHS, layers, strict=True)))

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, " batch"]:
        """Ratings of features of length 1."""
        return self.layers(features).squeeze(-1)


class Parts(NamedTuple):
    """What judges."""

    clip: Any
    head: AestheticHead
    wanted: NetworkInput


class Aesthetic(Reward):
    """LAION's improved aesthetic predictor: an MLP on CLIP ViT-L/14's normalised image features, about 1 to 10.

    Trained on ratings from 1 to 10 (SAC, LOGO, AVA); nothing holds it to that range, most images get 4 to 7. It does
    not see the prompt.

    Args:
        clip: A transformers ``CLIPModel`` with its image processor: folder, or hub id
            (``openai/clip-vit-large-patch14``).
        head: The published file (``sac+logos+ava1-l14-linearMSE.pth``); or the same weights as ``.safetensors``; or
            ``hf-hub:OWNER/REPOSITORY/FILE``.
        batch_size: Images per forward pass.

    Raises:
        ValueError: If ``batch_size`` is below 1, or ``head`` is neither a file nor an address.
    """

    def __init__(self, clip: str, head: str, batch_size: int = 64) -> None:
        check_at_least(1, batch_size=batch_size)
        check_file(head, "head")
        self.clip, self.head, self.batch_size = clip, head, batch_size
        self._device = torch.device("cpu")
        self._built: Parts | None = None

    @property
    def parts(self) -> Parts:
        """The frozen CLIP and head, read at the first use.

        Raises:
            ValueError: If one of them cannot be read; weights that are missing, unknown or of another shape are named.
        """
        if self._built is None:
            from transformers import CLIPImageProcessor, CLIPModel  # seconds to import

            clip = load_pretrained(CLIPModel, self.clip)
            del clip.text_model  # a third of the weights, and no image is judged by them
            head = AestheticHead(clip.config.projection_dim)
            path: Path = local_file(self.head)
            load_exactly(head, read_state_dict(path), path)
            processor = load_processor(CLIPImageProcessor, self.clip)
            for network in (clip, head):
                network.eval().requires_grad_(False).to(self._device)
            self._built = Parts(clip, head, open_clip_input(transformers_preprocess(processor, self.clip)))
        return self._built

    def to(self, device: torch.device | str) -> Aesthetic:
        """Move CLIP and head; returns self."""
        self._device = torch.device(device)
        for network in self.parts[:2]:
            network.to(device)
        return self

    @torch.no_grad()
    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Rating of each row's image [B]; NaN for images with NaN."""
        check_images(samples.images)
        with torch.autocast(self._device.type, enabled=False):
            ratings = [self._ratings(chunk) for chunk in samples.images.split(self.batch_size)]
        return torch.cat(ratings).to(samples.images.device)

    def _ratings(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        clip, head, wanted = self.parts
        pixels = to_network_input(images.to(self._device).float(), wanted)
        features = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
        return head(F.normalize(features, dim=-1))
