from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchLCMScheduler, UniPCMultistepScheduler
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU

from realgen.policies.backbones import HiDream

LENGTH = {"max_sequence_length": 24}


def test_experts_answer_as_in_the_training_of_diffusers_own_and_have_its_gradients(tiny) -> None:
    backbone = HiDream(tiny("hidream"))
    backbone.load()
    (ours, *_) = (part for part in backbone.transformer.modules() if isinstance(part, MOEFeedForwardSwiGLU))
    tokens = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(0))
    answers, gradients = [], []
    for training in (False, True):  # diffusers' way with gradients is that of its training mode
        found = ours.train(training)(tokens)
        answers.append(found)
        gradients.append(torch.autograd.grad(found.square().sum(), list(ours.parameters())))
    torch.testing.assert_close(*answers)
    assert all(each.abs().max() > 0 for each in gradients[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_the_fourth_text_encoder_may_lie_elsewhere(tiny, tmp_path: Path) -> None:
    whole, folder, llama = Path(tiny("hidream")), tmp_path / "model", tmp_path / "llama"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*_4"))
    for part in ("text_encoder_4", "tokenizer_4"):
        shutil.copytree(whole / part, llama, dirs_exist_ok=True)
    backbones = (HiDream(str(folder), llama=str(llama), **LENGTH), HiDream(str(whole), **LENGTH))
    for backbone in backbones:
        backbone.load()
    apart, together = (backbone.encode("a red fox") for backbone in backbones)
    assert all(torch.equal(apart[name], part) for name, part in together.items())
    with pytest.raises(ValueError, match="pretrained must hold a HiDreamImagePipeline"):
        HiDream(str(folder)).load()


def test_euler_steps_take_a_multistep_scheduler_s_place_and_no_few_steps(tiny, monkeypatch) -> None:
    read = HiDream._read

    def with_scheduler(backbone: HiDream, scheduler: object) -> object:
        pipeline = read(backbone)
        pipeline.scheduler = scheduler
        return pipeline

    multistep = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    monkeypatch.setattr(HiDream, "_read", lambda backbone: with_scheduler(backbone, multistep))
    backbone = HiDream(tiny("hidream"))
    backbone.load()
    sigmas = backbone.schedule(4, 16, 16).sigmas
    even = torch.linspace(1, 0.001 * 5 / (1 + 4 * 0.001), 4)  # the last is the smallest of training, shifted
    torch.testing.assert_close(sigmas, torch.cat([5 * even / (1 + 4 * even), torch.zeros(1)]))
    monkeypatch.setattr(HiDream, "_read", lambda backbone: with_scheduler(backbone, FlowMatchLCMScheduler()))
    with pytest.raises(ValueError, match=r"pretrained must not be distilled to few steps: .*FlowMatchLCMScheduler"):
        HiDream(tiny("hidream")).load()


def test_more_tokens_than_places_are_refused(tiny) -> None:
    backbone = HiDream(tiny("hidream"))
    backbone.load()
    assert backbone.latent_shape(16, 64) == (4, 8, 32)
    with pytest.raises(ValueError, match=r"height, width: .* has 64 places, got 4 x 17 tokens"):
        backbone.latent_shape(16, 68)
