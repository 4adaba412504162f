"""A logistic regression on an encoder's features, as a judge that is never a reward."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.detectors.checkpoint import WEIGHTS_NAME, read_state_dict, write_folder
from realgen.functional.logistic_regression import LogisticHead
from realgen.metrics.encoder import Encoder
from realgen.metrics.held_out_detector import MeanRealism


class EncoderProbe(MeanRealism):
    """Mean realism 1 - p_fake of the generated images, in [0, 1], by a linear probe on an encoder's features.

    With an encoder that grew up elsewhere (``ImageNetEncoder``) it asks another question than the detectors that were
    trained on our images whole: only directions that the encoder knows already can tell real from generated. It is a
    metric, not a detector, so no reward can be made of it. ValueError if there is no such file, or it holds other
    tensors.

    Args:
        encoder: One that no reward uses.
        probe: Folder with ``model.safetensors`` of ``weight`` [D] and ``bias``, as ``save_probe`` writes it.
    """

    def __init__(self, encoder: Encoder, probe: str) -> None:
        super().__init__()
        self.encoder = encoder
        path = Path(probe) / WEIGHTS_NAME
        if not path.is_file():
            raise ValueError(f"probe must be a folder that holds {WEIGHTS_NAME}; {path} does not exist.")
        state = read_state_dict(path)
        shapes = {name: list(value.shape) for name, value in state.items()}
        if set(shapes) != {"weight", "bias"} or state["weight"].ndim != 1 or state["bias"].ndim:
            raise ValueError(f"{path} must hold weight [D] and bias [], got {shapes}.")
        self.head = LogisticHead(state["weight"].float(), state["bias"].float())

    def describe(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Return ``p_fake`` [B]; raise ValueError if the encoder has another number of features than the probe."""
        features = self.encoder.to(images.device)(images)
        weight, bias = (part.to(features.device) for part in self.head)
        if features.shape[1] != len(weight):
            raise ValueError(f"probe is for {len(weight)} features, the encoder has {features.shape[1]}.")
        return (features @ weight + bias).sigmoid()


def save_probe(folder: Path, head: LogisticHead) -> None:
    """Write a folder that ``EncoderProbe`` reads; the head is for the encoder's features as they are."""
    write_folder(folder, {"weight": head.weight.float(), "bias": torch.as_tensor(head.bias).float()})
