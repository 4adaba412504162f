"""The flow-matching loss on photographs: its gradient by the formula, in a run, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from realgen.fit import main
from realgen.modules.data_anchor import DataAnchor, encode_images
from realgen.policies import ForwardDraws
from realgen.types import PromptBatch
from tests.helpers import tiny_pipelines
from tests.helpers.toy_grpo import GaussianPolicy, batch_of
from tests.strategies.ranks import make_policy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a tiny random ``StableDiffusion3Pipeline``."""
    directory = tmp_path_factory.mktemp("sd3")
    tiny_pipelines.write_sd3(directory)
    return str(directory)


def photographs(size: int = 16) -> PromptBatch:
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return batch_of([1, 2])._replace(images=images)


@pytest.mark.parametrize("microbatch_size", [1, 2])
def test_the_gradient_is_that_of_the_error_on_encoded_photographs(sd3: str, microbatch_size: int) -> None:
    policy = make_policy(sd3)  # decides steps, with guidance 1.5
    policy.load()
    anchor = DataAnchor(0.5, ForwardDraws(count=2, noise_levels="uniform"))
    batch, generator = photographs(), torch.Generator().manual_seed(1)
    rollout = anchor.rollout(policy, batch, generator)
    policy.zero_grad()
    before = policy.transformer_evals
    error = anchor.gradients(policy, rollout, microbatch_size, torch.Tensor.backward)
    assert policy.transformer_evals - before == 4  # without guidance
    found = torch.cat([p.grad.flatten() for p in policy.trainable_parameters().values()])

    vae, state = policy.backbone._pipeline.vae, rollout.policy_state
    latents = vae.encode(2 * batch.images - 1).latent_dist.mean
    latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    torch.testing.assert_close(state["latents"], latents)
    policy.backbone.cfg_scale = 1.0
    losses = []
    for row in range(2):
        source = torch.Generator().manual_seed(int(state["seeds"][row]))
        noise = torch.randn(2, *policy.latent_shape, generator=source)
        for draw in range(2):
            sigma = state["sigma"][row, draw]
            text = policy.backbone.encode_prompts([batch.prompts[row]])
            noisy = (1 - sigma) * latents[row] + sigma * noise[draw]
            velocity = policy.backbone.velocity(noisy[None], sigma[None] * 1000, text)[0]
            losses.append((velocity - noise[draw] + latents[row]).square().mean())
    loss = torch.stack(losses).mean()
    expected = torch.autograd.grad(0.5 * loss, list(policy.trainable_parameters().values()))
    assert float(error) == pytest.approx(loss.item(), rel=1e-4)
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in expected]), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("backbone", tiny_pipelines.backbone_classes(), ids=tiny_pipelines.module_of)
def test_encoding_inverts_the_scale_of_decoding_in_every_model(backbone: Any, tmp_path: Path) -> None:
    module = tiny_pipelines.module_of(backbone)
    tiny_pipelines.write(module, tmp_path)
    model = backbone(str(tmp_path), **tiny_pipelines.TINY[module].guided)
    model.load()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = encode_images(model, images)
    assert latents.shape == (2, *model.latent_shape(32, 32))
    torch.testing.assert_close(model.from_vae(model.vae_latents(latents)), latents, rtol=1e-4, atol=1e-5)
    assert model.decode(latents).shape == images.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda batch: batch._replace(images=None),
            r"photographs of \(16, 16\) .* got none; set data.train_images=true",
        ),
        (lambda batch: photographs(32), r"photographs of \(16, 16\) pixels \(data.image_size\), got \(32, 32\)"),
    ],
)
def test_batches_without_fitting_photographs_are_refused(sd3: str, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataAnchor(1.0).rollout(make_policy(sd3), change(photographs()), torch.Generator())


def test_other_policies_and_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="data_anchor is for a DiffusionPolicy, got GaussianPolicy"):
        DataAnchor(1.0).rollout(GaussianPolicy(), photographs(), torch.Generator())
    with pytest.raises(ValueError, match="weight must be above 0"):
        replace(DataAnchor(1.0), weight=0.0)


@pytest.mark.slow
def test_a_run_with_photographs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    arguments = ["--config", "configs/diffusion_pepg.yaml", "--model.data_anchor.weight=0.1"]
    arguments += ["--data.train=data/prompts/validation/*.tar", "--data.train_images=true"]  # these have photographs
    arguments += ["--data.prompts_per_iteration=2", "--model.policy.num_steps=4", "--trainer.max_epochs=1"]
    arguments += ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=0"]
    arguments += ["--loggers={}", "--callbacks={}", "--baseline=false", "--model.group_size=4"]
    assert main([*arguments, f"--run_dir={tmp_path / 'run'}"]) == 0
    (metrics,) = (tmp_path / "run").rglob("metrics.csv")
    assert "objective/data_anchor" in metrics.read_text().splitlines()[0]
