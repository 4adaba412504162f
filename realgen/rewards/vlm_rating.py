"""A rating from a vision-language model that is asked how good an image is, and writes a number."""

import re
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.checks import check_at_least, check_tokenizer
from realgen.detectors.transformers_model import load_pretrained, load_processor
from realgen.functional.images import to_uint8
from realgen.quantization import EightBits, check_quantization, quantize_weights
from realgen.rewards.base import FrozenReward
from realgen.types import Samples

QUESTION = (
    "You are doing the image quality assessment task. Here is the question: What is your overall rating on the quality "
    "of this picture? The rating should be a float between 1 and 5, rounded to two decimal places, with 1 representing "
    "very poor quality and 5 representing excellent quality."
)
"""What VisualQuality-R1 was trained to be asked (its model card)."""
THINK = (
    "First output the thinking process in <think> </think> tags and then output the final answer with only one score "
    "in <answer> </answer> tags."
)
ANSWER = "Output the final answer with only one score in <answer> </answer> tags."
LOWEST, HIGHEST = 1.0, 5.0


class VlmRater(nn.Module):
    """A ``Qwen2_5_VLForConditionalGeneration`` that is asked one question about every image, and writes an answer."""

    def __init__(self, model: Any, processor: Any, question: str, max_new_tokens: int) -> None:
        super().__init__()
        self.model, self.processor, self.max_new_tokens = model, processor, max_new_tokens
        content = [{"type": "image"}, {"type": "text", "text": question}]
        self.prompt: str = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, add_vision_id=True
        )
        """The rendered conversation up to the answer; the image is one placeholder."""

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> list[str]:
        """Return the answer about each image in [0, 1]; images are rounded to 8 bits, as files are."""
        encoded = self.processor(
            text=[self.prompt] * len(images),
            images=list(to_uint8(images)),
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self.model.device)
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        written = self.model.generate(**encoded, max_new_tokens=self.max_new_tokens, **greedy)
        return self.processor.batch_decode(written[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)


class VlmRating(FrozenReward):
    """Rating from 1 to 5 that a Qwen2.5-VL writes about an image, as VisualQuality-R1 does (arXiv:2505.14460).

    It does not see the prompt. An answer without a single number from 1 to 5 is NaN: the sample is masked and counted,
    where the published code draws a random rating and RealGen takes the worst. Decoding is greedy, where theirs is
    sampled, so the same image always gets the same rating. ValueError if ``batch_size``, ``max_new_tokens`` or
    ``max_pixels`` is below 1, or ``question`` is empty.

    Args:
        pretrained: A ``Qwen2_5_VLForConditionalGeneration`` and its processor: folder, or hub id
            (``TianheWu/VisualQuality-R1-7B``).
        thinking: Let the model reason first. Better, and tens of times slower.
        question: The question; the format of the answer is appended.
        max_new_tokens: Longest answer, reasoning included; one that is cut off before its rating is NaN.
        max_pixels: Largest area of an image in pixels, larger ones are scaled down; null for the processor's own.
        dtype: Of weights and computation.
        batch_size: Images per forward pass; ratings of float32 do not depend on it.
        bits: As of ``ForensicChat``.
    """

    def __init__(
        self,
        pretrained: str,
        thinking: bool = False,
        question: str = QUESTION,
        max_new_tokens: int = 512,
        max_pixels: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16",
        batch_size: int = 4,
        bits: EightBits | None = None,
    ) -> None:
        super().__init__(batch_size)
        check_at_least(1, max_new_tokens=max_new_tokens, max_pixels=max_pixels)
        if not question.strip():
            raise ValueError("question must be a text that asks for a rating from 1 to 5, got an empty one.")
        self.pretrained, self.thinking = pretrained, thinking
        self.question = f"{question.strip()} {THINK if thinking else ANSWER}"
        self.max_new_tokens, self.max_pixels = max_new_tokens, max_pixels
        self.dtype: torch.dtype = getattr(torch, dtype)
        check_quantization(bits)
        self.bits = bits

    def build(self) -> nn.Module:
        """Read the model and its processor; raise ValueError if they cannot be read, or weights do not fit."""
        from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration  # seconds to import

        limits = {} if self.max_pixels is None else {"max_pixels": self.max_pixels}
        model = load_pretrained(Qwen2_5_VLForConditionalGeneration, self.pretrained, self.dtype)
        quantize_weights(model, self.bits)
        processor = load_processor(AutoProcessor, self.pretrained, **limits)
        check_tokenizer(processor.tokenizer, model.get_input_embeddings().num_embeddings)
        return VlmRater(model, processor, self.question, self.max_new_tokens)

    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Return the rating of each row's image [B]; NaN where the image has NaN or the answer no rating."""
        return self.in_chunks(rate_images, samples.images)


def rate_images(network: nn.Module, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
    """Return the rating of each image by a ``VlmRater``, without showing it images with NaN."""
    drawn = images.isfinite().flatten(1).all(1).cpu()  # [B]
    ratings = torch.full((len(images),), torch.nan)
    if drawn.any():
        ratings[drawn] = torch.tensor([parse_rating(answer) for answer in network(images[drawn.to(images.device)])])
    return ratings


def parse_rating(answer: str) -> float:
    """Read the one number from 1 to 5 of an answer; NaN if there is none, more than one, or one outside.

    It stands between the last pair of answer tags; without tags, anywhere behind the reasoning. "out of 5" and "/5" are
    no second number.

    Example:
        >>> parse_rating("<think>2 or 4, sharp.</think> <answer>4.25/5</answer>")
        4.25
        >>> parse_rating("somewhere from 3 to 4")
        nan
    """
    tagged = re.findall(r"<answer>(.*?)</answer>", answer, re.DOTALL | re.IGNORECASE)
    text = tagged[-1] if tagged else re.split(r"</think>", answer, flags=re.IGNORECASE)[-1]
    if not tagged and re.search(r"<(think|answer)>", text, re.IGNORECASE):
        return float("nan")  # cut off before its end
    text = re.sub(r"(?:/|\bout of|\bof)\s*5(?:\.0+)?(?![\d.,]*\d)", " ", text, flags=re.IGNORECASE)
    numbers = re.findall(r"-?\d+(?:[.,]\d+)?", text)
    rating = float(numbers[0].replace(",", ".")) if len(numbers) == 1 else float("nan")
    return rating if LOWEST <= rating <= HIGHEST else float("nan")
