from __future__ import annotations

import torch

from realgen.policies.backbones import QwenImage

PROMPTS = ["a red fox", "old harbour, film grain"]


def test_guided_tokens_keep_their_norm(tiny) -> None:
    backbone = QwenImage(tiny("qwen_image"), true_cfg_scale=4.0)
    backbone.load()
    positive, negative = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    guided = backbone.combine(positive, negative)
    plain = negative + 4 * (positive - negative)
    for y in (0, 4):  # a token is 2 x 2 pixels of all channels
        ours, raw, kept = (part[1, :, y : y + 2, 2:4] for part in (guided, plain, positive))
        torch.testing.assert_close(ours.norm(), kept.norm())
        torch.testing.assert_close(ours / ours.norm(), raw / raw.norm())


def test_a_mask_is_given_only_where_texts_differ_in_length(tiny) -> None:
    backbone = QwenImage(tiny("qwen_image"))
    backbone.load()
    given = []
    backbone.transformer.register_forward_pre_hook(
        lambda module, args, inputs: given.append(inputs["encoder_hidden_states_mask"]), with_kwargs=True
    )
    latents, timesteps = torch.randn(2, 4, 8, 8), backbone.schedule(2, 16, 16).timesteps
    texts = backbone.encode_prompts(PROMPTS)
    same = {name: part[[0, 0]] for name, part in texts.items()}
    with torch.no_grad():
        for text in (texts, same):
            backbone.velocity(latents, timesteps, text)
    assert given[0].sum(dim=1).diff().item() == len(PROMPTS[1]) - len(PROMPTS[0])  # one token per letter
    assert given[1] is None
