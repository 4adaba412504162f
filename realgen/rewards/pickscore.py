"""PickScore: which of two images of a prompt users of a text-to-image site would pick."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from realgen.checks import check_tokenizer
from realgen.detectors.transformers_model import load_pretrained, load_processor
from realgen.functional.network_input import to_network_input
from realgen.functional.published_input import processor_input
from realgen.rewards.clip_similarity import ClipSimilarity, Encoders
from realgen.types import Samples


class PickScore(ClipSimilarity):
    """PickScore v1 (arXiv:2305.01569): exp(logit_scale) * cosine of a fine-tuned CLIP-H, about 17 to 24.

    The probability that the first of two images is picked is the sigmoid of the difference of their scores. RealGen
    divides by 26; here a weight of the sum does that. The published code computes in half precision, we in float32.

    Args:
        pretrained: A transformers ``CLIPModel``: folder, or hub id (``yuvalkirstain/PickScore_v1``).
        processor: Its tokenizer and image processor: folder, or hub id; ``null``: in ``pretrained``.
        batch_size: Images or prompts per forward pass.
    """

    def __init__(self, pretrained: str, processor: str | None = None, batch_size: int = 64) -> None:
        super().__init__(batch_size=batch_size)
        self.pretrained = pretrained
        self.processor = pretrained if processor is None else processor

    def build(self) -> Encoders:
        """Read model, tokenizer and image processor; raise ValueError if they cannot be read or do not fit."""
        from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel  # seconds to import

        model = load_pretrained(CLIPModel, self.pretrained)
        tokenizer = load_processor(AutoTokenizer, self.processor)
        check_tokenizer(tokenizer, model.text_model.get_input_embeddings().num_embeddings, "processor")
        length = model.config.text_config.max_position_embeddings

        def tokenize(prompts: list[str]) -> Int[Tensor, "prompts tokens"]:
            settings = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
            return tokenizer(prompts, **settings).input_ids

        images = load_processor(CLIPImageProcessor, self.processor)
        return ClipModelEncoders(model, tokenize, processor_input(images, self.processor))

    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Return the score of each row's image and prompt [B]; NaN for images with NaN."""
        cosine = super().score(samples)
        encoders: Any = self.network
        return cosine * encoders.model.logit_scale.exp().to(cosine)


class ClipModelEncoders(Encoders):
    """The encoders of a transformers ``CLIPModel``."""

    def encode_image(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Return the float32 features of images in [0, 1]."""
        pixels = to_network_input(images, self.wanted)
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output).float()

    def encode_text(self, prompts: list[str]) -> Float[Tensor, "prompts features"]:
        """Return the features of texts; causal attention does not see the padding behind them, so it needs no mask."""
        tokens = self.tokenize(prompts).to(next(self.parameters()).device)
        return self.model.text_projection(self.model.text_model(input_ids=tokens).pooler_output).float()
