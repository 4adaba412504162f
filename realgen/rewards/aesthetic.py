"""The LAION aesthetic predictor: how people would rate an image's looks, whatever it shows."""

from collections import OrderedDict
from itertools import pairwise
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from realgen.detectors.checkpoint import load_exactly, read_state_dict
from realgen.detectors.transformers_model import load_pretrained, load_processor
from realgen.functional.network_input import NetworkInput, to_network_input
from realgen.functional.published_input import processor_input
from realgen.hub_files import check_file, local_file
from realgen.rewards.base import FrozenReward
from realgen.types import Samples

WIDTHS = {"0": 1024, "2": 128, "4": 64, "6": 16, "7": 1}
"""Outputs of the head's linear layers, by their published number; the numbers between are dropout."""


class AestheticHead(nn.Module):
    """Linear layers of 1024, 128, 64, 16 and 1 outputs without activations: an affine map in its published parts."""

    def __init__(self, features: int) -> None:
        super().__init__()
        sizes = [features, *WIDTHS.values()]
        layers = (nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes))
        self.layers = nn.Sequential(OrderedDict(zip(WIDTHS, layers, strict=True)))

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, " batch"]:
        """Return the ratings of features of length 1."""
        return self.layers(features).squeeze(-1)


class AestheticNetwork(nn.Module):
    """The image tower of a transformers ``CLIPModel``, and the head on its normalised features."""

    def __init__(self, clip: Any, head: AestheticHead, wanted: NetworkInput) -> None:
        super().__init__()
        del clip.text_model  # a third of the weights, and not used here
        self.clip, self.head, self.wanted = clip, head, wanted

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Return the ratings of images in [0, 1]."""
        pixels = to_network_input(images, self.wanted)
        features = self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output)
        return self.head(F.normalize(features, dim=-1))


class Aesthetic(FrozenReward):
    """LAION's improved aesthetic predictor: an MLP on CLIP ViT-L/14's normalised image features, about 1 to 10.

    Trained on ratings from 1 to 10 (SAC, LOGO, AVA), but not limited to that range; most images get 4 to 7. It does not
    see the prompt. ValueError if ``batch_size`` is below 1, or ``head`` is neither a file nor an address.

    Args:
        clip: A transformers ``CLIPModel`` with its image processor: folder, or hub id
            (``openai/clip-vit-large-patch14``).
        head: The published file (``sac+logos+ava1-l14-linearMSE.pth``); or the same weights as ``.safetensors``; or
            ``hf-hub:OWNER/REPOSITORY/FILE``.
        batch_size: Images per forward pass.
    """

    def __init__(self, clip: str, head: str, batch_size: int = 64) -> None:
        super().__init__(batch_size)
        check_file(head, "head")
        self.clip, self.head = clip, head

    def build(self) -> nn.Module:
        """Read the weights; raise ValueError if they cannot be read, and name those that do not fit."""
        from transformers import CLIPImageProcessor, CLIPModel  # seconds to import

        clip = load_pretrained(CLIPModel, self.clip)
        head, path = AestheticHead(clip.config.projection_dim), local_file(self.head)
        load_exactly(head, read_state_dict(path), path)
        processor = load_processor(CLIPImageProcessor, self.clip)
        return AestheticNetwork(clip, head, processor_input(processor, self.clip))

    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Return the rating of each row's image [B]; NaN for images with NaN."""
        return self.in_chunks(lambda network, images: network(images), samples.images)
