"""A rating from a vision-language model that is asked how good an image is, and writes a number."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.checks import check_at_least
from realgen.functional.images import to_uint8
from realgen.functional.network_input import check_images
from realgen.rewards.base import Reward
from realgen.rewards.transformers_model import load_pretrained, load_processor
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


class VlmHandle(NamedTuple):
    """A model, its processor, and the prompt around the image."""

    model: Any
    processor: Any
    prompt: str
    """The rendered conversation up to the answer; the image is one placeholder."""


class VlmRating(Reward):
    """Rating from 1 to 5 that a Qwen2.5-VL writes about an image, as VisualQuality-R1 does (arXiv:2505.14460).

    It does not see the prompt. An answer without a single number from 1 to 5 is NaN: the sample is masked and counted,
    where the published code draws a random rating and RealGen takes the worst. Decoding is greedy, where theirs is
    sampled, so the same image always gets the same rating.

    Args:
        pretrained: A ``Qwen2_5_VLForConditionalGeneration`` and its processor: folder, or hub id
            (``TianheWu/VisualQuality-R1-7B``).
        thinking: Let the model reason first. Better, and tens of times slower.
        question: The question; how to answer is said behind it.
        max_new_tokens: Longest answer, reasoning included; one that is cut off before its rating is NaN.
        max_pixels: Largest area, in pixels, that images are scaled down to; null for what the processor's config says.
        dtype: Of weights and computation.
        batch_size: Images per forward pass; ratings of float32 do not depend on it.

    Raises:
        ValueError: If ``batch_size``, ``max_new_tokens`` or ``max_pixels`` is below 1, or ``question`` is empty.
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
    ) -> None:
        check_at_least(1, batch_size=batch_size, max_new_tokens=max_new_tokens, max_pixels=max_pixels)
        if not question.strip():
            raise ValueError("question must be a text that asks for a rating from 1 to 5, got an empty one.")
        self.pretrained, self.thinking = pretrained, thinking
        self.question = f"{question.strip()} {THINK if thinking else ANSWER}"
        self.max_new_tokens, self.max_pixels, self.batch_size = max_new_tokens, max_pixels, batch_size
        self.dtype: torch.dtype = getattr(torch, dtype)
        self._device = torch.device("cpu")
        self._built: VlmHandle | None = None

    @property
    def handle(self) -> VlmHandle:
        """The frozen model and its processor, loaded at the first use.

        Raises:
            ValueError: If one of them cannot be read; weights that are missing, unknown or of another shape are named.
        """
        if self._built is None:
            from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration  # seconds to import

            limits = {} if self.max_pixels is None else {"max_pixels": self.max_pixels}
            model = load_pretrained(Qwen2_5_VLForConditionalGeneration, self.pretrained, self.dtype)
            processor = load_processor(AutoProcessor, self.pretrained, **limits)
            content = [{"type": "image"}, {"type": "text", "text": self.question}]
            prompt = processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, add_vision_id=True
            )
            self._built = VlmHandle(model.eval().requires_grad_(False).to(self._device), processor, prompt)
        return self._built

    def to(self, device: torch.device | str) -> VlmRating:
        """Move the model; returns self."""
        self._device = torch.device(device)
        self.handle.model.to(device)
        return self

    @torch.no_grad()
    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Rating of each row's image [B]; NaN where the image has NaN or the answer no rating."""
        images = samples.images
        check_images(images)
        drawn = images.isfinite().flatten(1).all(1).nonzero().flatten()
        ratings = torch.full((len(images),), torch.nan)
        with torch.autocast(self._device.type, enabled=False):
            for rows in drawn.split(self.batch_size) if len(drawn) else ():
                ratings[rows.cpu()] = torch.tensor([parse_rating(answer) for answer in self.answers(images[rows])])
        return ratings.to(images.device)

    def answers(self, images: Float[Tensor, "batch 3 height width"]) -> list[str]:
        """Return what the model writes about each image.

        Args:
            images: [B, 3, H, W] in [0, 1]; rounded to 8 bits, as files are.

        Returns:
            B texts.
        """
        model, processor, prompt = self.handle
        encoded = processor(
            text=[prompt] * len(images),
            images=list(to_uint8(images)),
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self._device)
        plain = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        written = model.generate(**encoded, max_new_tokens=self.max_new_tokens, **plain)
        return processor.batch_decode(written[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)


def parse_rating(answer: str) -> float:
    """Read the one number from 1 to 5 of an answer.

    It stands between the last pair of answer tags; without tags, anywhere behind the reasoning. "out of 5" and "/5" are
    no second number.

    Args:
        answer: The text of the model.

    Returns:
        The rating; NaN if there is no number, more than one, or one outside 1 to 5.

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
