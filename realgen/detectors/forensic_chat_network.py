"""The vision-language model behind Forensic-Chat: one question about each image, scored by its answer's first word.

The published rule (RealGen's ``forensic_chat_scorer``): a single forward pass, the logits that follow the prompt, and
the mean logit of each word's spellings, f of ("fake", "Fake") and g of ("real", "Real"); the probability of being
generated is sigmoid(f - g).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from realgen.checks import check_tokenizer
from realgen.functional.images import to_uint8


def word_ids(tokenizer: Any, words: Sequence[str], name: str = "words") -> Int[Tensor, " words"]:
    """Return the token of each spelling of a word that begins an answer; ValueError if one is not one token."""
    if not words:
        raise ValueError(f"{name} must hold at least one word.")
    ids = []
    for word in words:
        pieces = tokenizer.encode(word, add_special_tokens=False)
        if len(pieces) != 1:
            shown = ", ".join(repr(tokenizer.decode([piece])) for piece in pieces)
            raise ValueError(f"{name} must be words of one token each; {word!r} is {len(pieces)} tokens ({shown}).")
        ids += pieces
    return torch.tensor(ids)


class ForensicChatNetwork(nn.Module):
    """A Qwen2.5-VL that is asked one question about every image; it generates no text.

    Only the logits of the words' spellings are computed, in float32 whatever the type of the weights: the published
    scorer reads them out of a bfloat16 vocabulary, where logits near 20 lie 0.125 apart and neighbouring rewards tie.

    Args:
        model: ``Qwen2_5_VLForConditionalGeneration``.
        processor: Its processor, with a chat template of its own or of its tokenizer.
        question: What the user asks beside the image. The template's own system text is left as it is.
        real_words: Spellings of the answer that means a real image, one token each.
        fake_words: Spellings of the answer that means a generated image, one token each.

    Raises:
        ValueError: If a word is not one token of the model's tokenizer.
    """

    real_ids: Tensor
    fake_ids: Tensor

    def __init__(
        self, model: Any, processor: Any, question: str, real_words: Sequence[str], fake_words: Sequence[str]
    ) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        check_tokenizer(processor.tokenizer, model.get_input_embeddings().num_embeddings)
        content = [{"type": "image"}, {"type": "text", "text": question}]
        self.prompt: str = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=processor.chat_template or processor.tokenizer.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
        """The rendered conversation up to the first word of the answer; the image is one placeholder."""
        for name, words in {"real": real_words, "fake": fake_words}.items():
            ids = word_ids(processor.tokenizer, words, name=f"{name}_words")
            self.register_buffer(f"{name}_ids", ids, persistent=False)

    def inputs(
        self, images: Float[Tensor, "batch 3 height width"] | Sequence[Float[Tensor, "3 _ _"]]
    ) -> dict[str, Tensor]:
        """Return the model's inputs: prompts padded on the left, so that every row ends where the answer begins.

        Images in [0, 1], of one size or of many, are rounded to 8 bits, as the published scorer's PNG files are, and
        stay tensors where they are.
        """
        encoded = self.processor(
            text=[self.prompt] * len(images),
            images=[to_uint8(image) for image in images],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        device = self.real_ids.device
        return {name: value.to(device) for name, value in encoded.items()}

    def forward(
        self, images: Float[Tensor, "batch 3 height width"] | Sequence[Float[Tensor, "3 _ _"]]
    ) -> Float[Tensor, "batch 2"]:
        """Return logits of (real, fake) for images in [0, 1]; resizing and normalising included."""
        hidden = self.model.base_model(**self.inputs(images), use_cache=False).last_hidden_state[:, -1].float()
        vocabulary = self.model.get_output_embeddings().weight
        words = [hidden @ vocabulary[ids].float().T for ids in (self.real_ids, self.fake_ids)]  # [B, spellings] each
        return torch.stack([logits.mean(-1) for logits in words], dim=-1)
