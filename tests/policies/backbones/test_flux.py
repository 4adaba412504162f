from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
import torch

from realgen.logging_filters import report_truncation_once
from realgen.policies.backbones import Flux
from tests.helpers.tiny_pipelines import flux_pipeline

PROMPTS = ["a red fox", "moon"]


def velocity(directory: str, **settings: float | None) -> torch.Tensor:
    backbone = Flux(directory, max_sequence_length=16, **settings)
    backbone.load()
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return backbone.velocity(latents, backbone.schedule(2, 16, 16).timesteps, backbone.encode_prompts(PROMPTS))


def test_the_model_is_told_its_guidance(tiny) -> None:
    weak, strong = (velocity(tiny("flux"), guidance_scale=scale) for scale in (1.0, 7.0))
    assert (weak - strong).abs().max() > 1e-3


def test_a_model_that_knows_no_guidance_is_told_none(tiny, tmp_path: Path) -> None:
    flux_pipeline(guidance_embeds=False).save_pretrained(tmp_path)
    assert velocity(str(tmp_path), guidance_scale=None).isfinite().all()
    with pytest.raises(ValueError, match=r"guidance_scale must be null, as the model has no such input, .* got 3.5"):
        Flux(str(tmp_path)).load()
    with pytest.raises(ValueError, match=r"guidance_scale must be a number, an input of the model, .* got None"):
        Flux(tiny("flux"), guidance_scale=None).load()


def test_clips_short_memory_is_mentioned_once(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    report_truncation_once()
    handler, screen = logging.getLogger("diffusers").handlers[0], io.StringIO()
    monkeypatch.setattr(handler, "stream", screen)
    monkeypatch.setattr(handler.filters[0], "seen", {})
    for _ in range(2):
        backbone = Flux(tiny("flux"), max_sequence_length=64)
        backbone.load()
        backbone.encode_prompts(["a red fox in the snow at dawn", "old harbour with boats, film grain"])
    assert screen.getvalue().count("a prompt is cut off behind 24 tokens, which a text encoder reads") == 1


def test_negative_guidance_is_refused(tiny) -> None:
    with pytest.raises(ValueError, match=r"guidance_scale must be at least 0, got -1\.0"):
        Flux(tiny("flux"), guidance_scale=-1.0)
