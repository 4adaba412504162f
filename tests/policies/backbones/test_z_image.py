from __future__ import annotations

import pytest
import torch

from realgen.functional.flow_sde import FlowSDE
from realgen.policies import DiffusionPolicy, RandomWindow
from realgen.policies.backbones import ZImage
from tests.helpers.tiny_pipelines import SIZE, read_stock

PROMPTS = ["a red fox", "old harbour, film grain"]
SETTINGS = {"guidance_scale": 2.0, "max_sequence_length": 128}


@pytest.mark.parametrize("limit", [0.9, 1.0])
def test_the_limit_on_the_norm_is_the_pipelines(tiny, limit: float) -> None:
    backbone = ZImage(tiny("z_image"), cfg_normalization=limit, **SETTINGS)
    size = {"height": SIZE, "width": SIZE}
    policy = DiffusionPolicy(backbone, transition=FlowSDE(), step_window=RandomWindow(1), num_steps=3, **size)
    policy.load()
    sources = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    call = {**SETTINGS, **size, "num_inference_steps": 3, "generator": sources, "output_type": "pt"}
    truth = read_stock(tiny("z_image"))(list(PROMPTS), cfg_normalization=limit, **call).images
    torch.testing.assert_close(policy.sample(PROMPTS, [0, 1]), truth, rtol=0, atol=1e-5)
    backbone.cfg_normalization = 0.0
    assert (policy.sample(PROMPTS, [0, 1]) - truth).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": 1.0, "cfg_normalization": -1.0}, "cfg_normalization must be at least 0, got -1.0"),
        ({"cfg_normalization": 1.0}, "cfg_normalization has an effect only with guidance_scale above 0, got 0.0"),
    ],
)
def test_impossible_limits_are_refused(tiny, settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZImage(tiny("z_image"), **settings)
