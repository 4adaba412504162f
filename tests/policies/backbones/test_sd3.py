import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from realgen.functional.flow_sde import FlowSDE
from realgen.policies import DiffusionPolicy, LoRA, RandomWindow
from realgen.policies.backbones import SD3
from tests.helpers.tiny_pipelines import SIZE, read_stock, sd3_pipeline

PROMPTS = ["a red fox", "old harbour, film grain"]


@pytest.mark.parametrize("num_steps", [1, 7, 28])
def test_the_schedule_is_the_pipelines(sd3: str, stock, num_steps: int) -> None:
    backbone = SD3(sd3)
    backbone.load()
    stock("x", height=16, width=16, num_inference_steps=num_steps, output_type="latent")
    sigmas, timesteps = backbone.schedule(num_steps, 16, 16)
    assert torch.equal(sigmas, stock.scheduler.sigmas)
    assert torch.equal(timesteps, stock.scheduler.timesteps)


def test_the_shift_of_the_schedule_depends_on_the_resolution(sd3: str, stock, tmp_path: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    shutil.copytree(sd3, tmp_path, dirs_exist_ok=True)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.save_pretrained(tmp_path / "scheduler")
    stock.scheduler = scheduler
    backbone = SD3(str(tmp_path))
    backbone.load()
    seen = []
    for size in (16, 32):
        stock("x", height=size, width=16, num_inference_steps=5, output_type="latent")
        seen.append(backbone.schedule(5, size, 16).sigmas)
        assert torch.equal(seen[-1], stock.scheduler.sigmas)
    assert not torch.equal(*seen)


def test_a_decoder_with_channels_last_draws_the_same_images(sd3: str, stock) -> None:
    backbone = SD3(sd3)
    backbone.load()
    convolution = next(part for part in backbone.frozen() if hasattr(part, "decoder")).decoder.conv_in.weight
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    assert not convolution.is_contiguous()
    images = backbone.decode(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    config = stock.vae.config
    drawn = stock.vae.decode(latents / config.scaling_factor + config.shift_factor).sample
    torch.testing.assert_close(images, (drawn / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)
    assert images.is_contiguous()


def test_embeddings_are_the_pipelines(sd3: str, stock) -> None:
    backbone = SD3(sd3, guidance_scale=2.0, negative_prompt="blur", max_sequence_length=5)
    backbone.load()
    parts = backbone.encode_prompts(PROMPTS)
    truth = stock.encode_prompt(PROMPTS, None, None, negative_prompt=["blur"] * 2, max_sequence_length=5)
    names = ("embeds", "negative_embeds", "pooled", "negative_pooled")
    for name, part in zip(names, truth, strict=True):
        torch.testing.assert_close(parts[name], part, rtol=0, atol=1e-5)
    assert parts["embeds"].shape == (2, 24 + 5, 32)


def test_half_precision_keeps_the_vae_and_the_timestep_exact(sd3: str) -> None:
    backbone = SD3(sd3, dtype="bfloat16")
    backbone.load()
    assert {part.dtype for part in backbone.frozen()} == {torch.bfloat16, torch.float32}
    given = []
    backbone.transformer.register_forward_pre_hook(
        lambda module, args, inputs: given.append(inputs["timestep"]), with_kwargs=True
    )
    timesteps = backbone.schedule(2, 16, 16).timesteps
    with torch.no_grad():
        backbone.velocity(torch.randn(2, 4, 8, 8), timesteps, backbone.encode_prompts(PROMPTS))
    assert torch.equal(given[0], timesteps)
    assert not torch.equal(timesteps.bfloat16().float(), timesteps)


def test_another_pipelines_directory_is_refused(tmp_path: Path) -> None:
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="pretrained must hold a StableDiffusion3Pipeline in diffusers' format"):
        SD3(str(tmp_path)).load()


@pytest.mark.parametrize(
    "parts", [{"qk_norm": "rms_norm"}, {"qk_norm": "rms_norm", "dual_attention_layers": (0,)}], ids=["large", "medium"]
)
def test_the_forms_of_3_5_draw_as_their_pipelines(tmp_path: Path, parts: dict[str, Any]) -> None:
    sd3_pipeline(**parts).save_pretrained(tmp_path)
    policy = DiffusionPolicy(
        SD3(str(tmp_path), guidance_scale=4.5, max_sequence_length=8),
        transition=FlowSDE(),
        step_window=RandomWindow(1),
        num_steps=3,
        height=SIZE,
        width=SIZE,
        lora=LoRA(rank=2),
    )
    policy.load()
    adapted = {name.partition(".lora_")[0].rpartition("attn")[2] for name in policy.trainable_parameters()}
    assert ("2.to_q" in adapted) == ("dual_attention_layers" in parts)
    sources = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    call = {"height": SIZE, "width": SIZE, "num_inference_steps": 3, "guidance_scale": 4.5, "max_sequence_length": 8}
    truth = read_stock(str(tmp_path))(PROMPTS, generator=sources, output_type="pt", **call).images
    torch.testing.assert_close(policy.sample(PROMPTS, [0, 1]), truth, rtol=0, atol=1e-5)


def test_loading_shows_no_bars_and_leaves_those_of_others(
    sd3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusers import StableDiffusion3Pipeline
    from diffusers.utils import logging

    SD3(sd3).load()
    broken = shutil.copytree(sd3, tmp_path / "broken")
    (broken / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="pretrained must hold"):
        SD3(str(broken)).load()
    assert capsys.readouterr().err == ""
    StableDiffusion3Pipeline.from_pretrained(sd3, text_encoder_3=None, tokenizer_3=None)
    shown = capsys.readouterr().err
    assert "Loading pipeline components" in shown  # by diffusers
    assert "Loading weights" in shown  # by transformers
    logging.disable_progress_bar()
    try:
        SD3(sd3).load()
        assert not logging.is_progress_bar_enabled()
    finally:
        logging.enable_progress_bar()
