from __future__ import annotations

import pytest
import torch

from realgen.functional.flow_sde import FlowSDE
from realgen.policies import DiffusionPolicy, RandomWindow
from realgen.policies.backbones import Lumina2
from tests.helpers.tiny_pipelines import read_stock

PROMPTS = ["a red fox", "old harbour, film grain"]
SETTINGS = {"guidance_scale": 3.0, "negative_prompt": "blur", "max_sequence_length": 256}


@pytest.mark.parametrize("normalized", [False, True])
def test_wide_images_by_the_pipelines_own_system_prompt(tiny, normalized: bool) -> None:
    backbone = Lumina2(tiny("lumina2"), cfg_normalization=normalized, **SETTINGS)
    size = {"height": 32, "width": 48}
    policy = DiffusionPolicy(backbone, transition=FlowSDE(), step_window=RandomWindow(1), num_steps=3, **size)
    policy.load()
    sources = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    call = {**SETTINGS, "negative_prompt": ["blur"] * 2, **size, "generator": sources, "output_type": "pt"}
    stock = read_stock(tiny("lumina2"))
    truth = stock(list(PROMPTS), num_inference_steps=3, cfg_normalization=normalized, **call).images
    torch.testing.assert_close(policy.sample(PROMPTS, [0, 1]), truth, rtol=0, atol=1e-5)
    backbone.cfg_normalization = not normalized
    assert (policy.sample(PROMPTS, [0, 1]) - truth).abs().max() > 1e-3


def test_a_prompt_that_is_the_negative_one_still_follows_the_system_prompt(tiny) -> None:
    backbone = Lumina2(tiny("lumina2"), **SETTINGS)
    backbone.load()
    text = backbone.encode_prompts(["blur"])
    assert text["mask"].sum() > text["negative_mask"].sum() == len("blur") + 1


def test_more_text_than_positions_is_refused(tiny) -> None:
    with pytest.raises(ValueError, match=r"max_sequence_length must be below 300, the positions of .*, got 300"):
        Lumina2(tiny("lumina2"), max_sequence_length=300).load()
