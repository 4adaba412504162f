"""A local vision-language model as a judge, by what it writes or by its logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.checks import check_at_least
from realgen.detectors.forensic_chat import QUESTION, ForensicChat
from realgen.detectors.vision_language import GREEDY, render_question
from realgen.functional.images import to_uint8
from realgen.functional.network_input import check_images
from realgen.judges.base import ArenaJudge, Kind, Verdict
from realgen.judges.detector_judge import DetectorJudge
from realgen.judges.verdict_form import COMPARE, FORMS, SINGLE, Questions
from realgen.policies.chat import clean


class VlmJudge(ArenaJudge):
    """A Qwen2.5-VL, Qwen3-VL or Qwen3.5 on this machine, plain or fine-tuned; it answers without thinking first.

    ValueError if a number is out of its range, a question is empty, ``show_prompt`` is asked of ``logits``, or
    ``pretrained`` is no folder with a config and no hub id.

    Args:
        pretrained: Folder of the model and its processor, or a hub id ``organisation/name``.
        answers: ``words``: it is shown both images of a pair, and writes its verdict in two lines, greedily.
            ``logits``: it is asked ``logits_question`` about each image alone, and the logits of the answer's first
            word give P(real); of a pair, the image with the higher P(real) wins. The nano model can do nothing else.
        compare_question: Asked about a pair, in ``words``; how to answer is said behind it.
        single_question: Asked about one image, in ``words``; likewise.
        logits_question: Asked about each image, in ``logits``; the one that the model was trained on.
        show_prompt: Tell the judge what the images are meant to show, in ``words``.
        max_new_tokens: Longest reply, in ``words``; one that is cut off before its verdict is unreadable.
        tie_margin: Largest difference of P(real) that is a tie, in ``logits``; in [0, 1).
        max_pixels: Largest area, in pixels, that images are scaled down to; null for what the processor's config says.
        dtype: Of weights and computation.
        device: Where it computes; null for the device of the command.
    """

    def __init__(
        self,
        pretrained: str,
        answers: Literal["words", "logits"] = "words",
        compare_question: str = COMPARE,
        single_question: str = SINGLE,
        logits_question: str = QUESTION,
        show_prompt: bool = False,
        max_new_tokens: int = 512,
        tie_margin: float = 0.0,
        max_pixels: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16",
        device: str | None = None,
    ) -> None:
        check_at_least(1, max_new_tokens=max_new_tokens)
        if show_prompt and answers == "logits":
            raise ValueError("show_prompt needs answers=words: the question behind the logits is always the same.")
        self.pretrained, self.answers = pretrained, answers
        self.questions = Questions(compare_question, single_question, show_prompt=show_prompt)
        self.max_new_tokens, self.max_pixels, self.dtype = max_new_tokens, max_pixels, dtype
        self.reads_prompt = show_prompt
        self._model = ForensicChat(pretrained, question=logits_question, dtype=dtype, max_pixels=max_pixels)
        self._by_logits = DetectorJudge(self._model, tie_margin=tie_margin, device=device)

    @property
    def name(self) -> str:
        """The model's folder or id, and how it answers."""
        return f"{self.pretrained} (local, by {self.answers})"

    def identity(self, kind: Kind) -> Mapping[str, Any]:
        """Return model, its weights, question, and how it answers; reads the weights."""
        if self.answers == "logits":
            return {**self._by_logits.identity(kind), "judge": "vlm logits"}
        return {
            "judge": "vlm words",
            "pretrained": self.pretrained,
            "weights": self._by_logits.weights,
            "question": self.questions.text(kind, "lines"),
            "max_new_tokens": self.max_new_tokens,
            "max_pixels": self.max_pixels,
            "dtype": self.dtype,
        }

    async def compare(self, first: Float[Tensor, "3 h1 w1"], second: Float[Tensor, "3 h2 w2"], prompt: str) -> Verdict:
        """Show two images together, or, in ``logits``, one after the other."""
        if self.answers == "logits":
            return await self._by_logits.compare(first, second, prompt)
        return self._written("compare", {"Image 1": first, "Image 2": second}, prompt)

    async def judge_single(self, image: Float[Tensor, "3 height width"], prompt: str) -> Verdict:
        """Show an image."""
        if self.answers == "logits":
            return await self._by_logits.judge_single(image, prompt)
        return self._written("single", {"": image}, prompt)

    def to(self, device: torch.device | str) -> VlmJudge:
        """Compute on a device, unless ``device`` was given; return self."""
        self._by_logits.to(device)
        return self

    @torch.no_grad()
    def _written(self, kind: Kind, images: Mapping[str, Tensor], prompt: str) -> Verdict:
        for image in images.values():
            check_images(image.unsqueeze(0))
        device = self._by_logits.device
        self._model.to(device)
        network: Any = self._model.network
        processor = network.processor
        harmless = clean(prompt, processor.tokenizer.all_special_tokens)  # it opens no turn and no image
        content: list[dict[str, str]] = [{"type": "text", "text": self.questions.text(kind, "lines", harmless)}]
        for label in images:
            content += [{"type": "text", "text": f"\n{label}:"}] if label else []
            content.append({"type": "image"})
        text = render_question(processor, content)
        pixels = [to_uint8(image) for image in images.values()]
        encoded = processor(text=[text], images=pixels, return_tensors="pt").to(device)
        written = network.model.generate(**encoded, max_new_tokens=self.max_new_tokens, **GREEDY)
        tokens_in = encoded["input_ids"].shape[1]
        reply = processor.decode(written[0, tokens_in:], skip_special_tokens=True)
        tokens_out = written.shape[1] - tokens_in
        choice, reason = FORMS[kind].read(reply, "lines", finished=tokens_out < self.max_new_tokens)
        return Verdict(choice, reason, reply, tokens_in=tokens_in, tokens_out=tokens_out)
