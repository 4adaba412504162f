"""A rating from a vision-language model that is asked how good an image is, and writes a number."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.checks import check_at_least, check_tokenizer
from realgen.detectors.transformers_model import load_processor
from realgen.detectors.vision_language import GREEDY, load_vision_language, opened_thoughts, render_question
from realgen.functional.images import to_uint8
from realgen.policies.chat import PLACEHOLDER, clean
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
LONGEST = 4000
"""Characters of a prompt that are shown; the published code has no limit."""


class VlmRater(nn.Module):
    """A Qwen-VL that is asked one question about every image, with its prompt if it has ``{prompt}``, and answers."""

    def __init__(
        self, model: Any, processor: Any, question: str, max_new_tokens: int, *, thinking: bool, numbered: bool
    ) -> None:
        super().__init__()
        self.model, self.processor, self.max_new_tokens = model, processor, max_new_tokens
        content = [{"type": "image"}, {"type": "text", "text": question}]
        self.prompt = render_question(processor, content, thinking=thinking, add_vision_id=numbered)
        """The rendered conversation up to the answer; the image is one placeholder."""

    def forward(self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]) -> list[str]:
        """Return the answer about each image in [0, 1]; images are rounded to 8 bits, as files are."""
        special = self.processor.tokenizer.all_special_tokens  # a prompt opens no turn and no image
        encoded = self.processor(
            text=[self.prompt.replace(PLACEHOLDER, clean(prompt, special)[:LONGEST]) for prompt in prompts],
            images=list(to_uint8(images)),
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self.model.device)
        written = self.model.generate(**encoded, max_new_tokens=self.max_new_tokens, **GREEDY)
        answers = self.processor.batch_decode(written[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        return [opened_thoughts(self.prompt) + answer for answer in answers]


class VlmRating(FrozenReward):
    """Rating from 1 to 5 that a Qwen-VL writes about an image, as VisualQuality-R1 does (arXiv:2505.14460).

    It sees the prompt only where ``question`` has ``{prompt}``. An answer without a single number from 1 to 5 is NaN:
    the sample is masked and counted, where the published code draws a random rating and RealGen takes the worst.
    Decoding is greedy, where theirs is sampled, so the same image always gets the same rating. ValueError if
    ``batch_size``, ``max_new_tokens`` or ``max_pixels`` is below 1, ``question`` or a name of ``scores`` is empty, or a
    name stands twice.

    Args:
        pretrained: A Qwen2.5-VL, Qwen3-VL or Qwen3.5 and its processor: folder, or hub id
            (``TianheWu/VisualQuality-R1-7B``).
        thinking: Let the model reason first. Better, and tens of times slower.
        question: The question. ``{prompt}`` is replaced by the prompt as the user wrote it, without special tokens. The
            format of the answer is appended, unless ``scores`` are given, whose format the question states.
        scores: Names of the scores that the answer must hold, each once, as ``Style Score (1-5): 2.8``; the rating is
            their mean, as of UnifiedReward 2.0 (arXiv:2503.05236). Empty: the answer is one number.
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
        scores: tuple[str, ...] = (),
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
        if not all(name.strip() for name in scores) or len({name.lower() for name in scores}) < len(scores):
            raise ValueError(f"scores must be different names of scores, got {scores}.")
        self.pretrained, self.thinking, self.scores = pretrained, thinking, scores
        self.question = question.strip() if scores else f"{question.strip()} {THINK if thinking else ANSWER}"
        self.max_new_tokens, self.max_pixels = max_new_tokens, max_pixels
        self.dtype: torch.dtype = getattr(torch, dtype)
        check_quantization(bits)
        self.bits = bits

    def build(self) -> nn.Module:
        """Read the model and its processor; raise ValueError if they cannot be read, or weights do not fit."""
        from transformers import AutoProcessor  # seconds to import

        limits = {} if self.max_pixels is None else {"max_pixels": self.max_pixels}
        model = load_vision_language(self.pretrained, self.dtype)
        quantize_weights(model, self.bits)
        processor = load_processor(AutoProcessor, self.pretrained, **limits)
        check_tokenizer(processor.tokenizer, model.get_input_embeddings().num_embeddings)
        how = {"thinking": self.thinking, "numbered": not self.scores}  # as each was published
        return VlmRater(model, processor, self.question, self.max_new_tokens, **how)

    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Return the rating of each row's image [B]; NaN where the image has NaN or the answer no rating."""
        prompts = iter(samples.row_prompts)  # chunks come in the order of the rows
        return self.in_chunks(lambda network, images: self._rate(network, images, prompts), samples.images)

    def _rate(
        self, network: nn.Module, images: Float[Tensor, "batch 3 height width"], prompts: Iterator[str]
    ) -> Float[Tensor, " batch"]:
        """Return the rating of each image by a ``VlmRater``, without showing it images with NaN."""
        drawn = images.isfinite().flatten(1).all(1).cpu()  # [B]
        ratings = torch.full((len(images),), torch.nan)
        shown = [prompt for prompt, whole in zip(islice(prompts, len(images)), drawn.tolist(), strict=True) if whole]
        if shown:
            answers = network(images[drawn.to(images.device)], shown)
            ratings[drawn] = torch.tensor([parse_rating(answer, self.scores) for answer in answers])
        return ratings


def parse_rating(answer: str, scores: Sequence[str] = ()) -> float:
    """Read the one number from 1 to 5 of an answer; NaN if there is none, more than one, or one outside.

    With ``scores``, the mean of theirs; NaN if one is missing, stands twice, or is no number from 1 to 5.

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
    if scores:
        parts = [_score(text, name) for name in scores]
        return sum(parts) / len(parts)
    text = re.sub(r"(?:/|\bout of|\bof)\s*5(?:\.0+)?(?![\d.,]*\d)", " ", text, flags=re.IGNORECASE)
    numbers = re.findall(r"-?\d+(?:[.,]\d+)?", text)
    rating = float(numbers[0].replace(",", ".")) if len(numbers) == 1 else float("nan")
    return rating if LOWEST <= rating <= HIGHEST else float("nan")


def _score(text: str, name: str) -> float:
    found = re.findall(rf"{re.escape(name)}[ \t]*(?:\(1-5\))?[ \t]*:(.*)", text, re.IGNORECASE)
    number = re.fullmatch(r"\s*([0-9](?:\.[0-9]{1,20})?)\s*", found[0]) if len(found) == 1 else None
    score = float(number[1]) if number else float("nan")
    return score if LOWEST <= score <= HIGHEST else float("nan")
