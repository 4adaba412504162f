"""What every backbone promises; a new one joins by existing, and needs a tiny model of its own in conftest.py."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import nn

import realgen.policies.backbones
from realgen.policies.backbones import Backbone


def backbones() -> list[type[Backbone]]:
    found = set()
    for module in pkgutil.walk_packages(realgen.policies.backbones.__path__, "realgen.policies.backbones."):
        for _, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(member, Backbone) and not inspect.isabstract(member) and member.__module__ == module.name:
                found.add(member)
    return sorted(found, key=lambda member: member.__name__)


PROMPTS = ["a red fox", "old harbour, film grain", "moon"]


@pytest.fixture(params=backbones(), ids=lambda member: member.__name__)
def make(request, tiny):
    """Builds a backbone on its tiny model."""
    directory = tiny(request.param.__module__.rpartition(".")[2])

    def make(*, load: bool = True, **settings) -> Backbone:
        backbone = request.param(directory, **settings)
        if load:
            backbone.load()
        return backbone

    return make


def inputs(backbone: Backbone, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    latents = torch.randn(rows, *backbone.latent_shape(16, 16), generator=torch.Generator().manual_seed(0))
    return latents, backbone.schedule(rows, 16, 16).timesteps


def test_backbones_are_found() -> None:
    names = {backbone.__name__ for backbone in backbones()}
    assert {"SD3"} <= names
    assert names <= set(realgen.policies.backbones.__all__)


def test_nothing_is_read_before_load(make) -> None:
    backbone = make(load=False)
    assert not isinstance(backbone, nn.Module)
    assert not hasattr(backbone, "transformer")
    backbone.load()
    transformer = backbone.transformer
    backbone.load()
    assert backbone.transformer is transformer


def test_everything_is_in_eval_mode_and_only_the_transformer_may_learn(make) -> None:
    backbone = make()
    parts = backbone.frozen()
    assert not any(module.training for part in (backbone.transformer, *parts) for module in part.modules())
    assert not any(parameter.requires_grad for part in parts for parameter in part.parameters())
    frozen = {id(parameter) for part in parts for parameter in part.parameters()}
    assert not frozen & {id(parameter) for parameter in backbone.transformer.parameters()}


@pytest.mark.parametrize("num_steps", [1, 2, 9])
def test_sigmas_fall_from_noise_to_data(make, num_steps: int) -> None:
    sigmas, timesteps = make().schedule(num_steps, 16, 16)
    assert (len(sigmas), len(timesteps)) == (num_steps + 1, num_steps)
    assert sigmas.dtype == timesteps.dtype == torch.float32
    assert (sigmas.diff() < 0).all()
    assert (sigmas[0], sigmas[-1]) == (1, 0)


def test_latents_belong_to_images(make) -> None:
    backbone = make()
    latents = torch.randn(2, *backbone.latent_shape(16, 32))
    images = backbone.decode(latents)
    assert images.shape == (2, 3, 16, 32)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    torch.testing.assert_close(backbone.decode(latents[1:]), images[1:], rtol=0, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(backbone.decode(latents), images)


@pytest.mark.parametrize("name", ["height", "width"])
def test_sizes_that_cannot_be_drawn_are_refused(make, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a multiple of .* got 17"):
        make().latent_shape(**{"height": 16, "width": 16, name: 17})


def test_each_text_is_embedded_once_and_alike_in_any_company(make, monkeypatch) -> None:
    backbone, encoded = make(guidance_scale=2.0), []
    encode = backbone.encode
    monkeypatch.setattr(backbone, "encode", lambda prompt: encoded.append(prompt) or encode(prompt))
    together = backbone.encode_prompts([*PROMPTS, PROMPTS[0]])
    again = backbone.encode_prompts(PROMPTS[1:])
    assert sorted(encoded) == sorted(["", *PROMPTS])
    alone = make(guidance_scale=2.0).encode_prompts([PROMPTS[2]])
    for name, part in together.items():
        assert part.shape[0] == 4
        assert torch.equal(part[0], part[3])
        assert torch.equal(part[1:3], again[name])
        assert torch.equal(part[2:3], alone[name])
        assert torch.equal(part[0], part[1]) == name.startswith("negative_")


def test_the_cache_is_bounded_and_keeps_what_was_used_last(make, monkeypatch) -> None:
    backbone, encoded = make(cache_size=2), []
    encode = backbone.encode
    monkeypatch.setattr(backbone, "encode", lambda prompt: encoded.append(prompt) or encode(prompt))
    whole = backbone.encode_prompts(PROMPTS)  # keeps the second and the third
    assert encoded == PROMPTS
    backbone.encode_prompts(PROMPTS[1:2])
    backbone.encode_prompts(PROMPTS[:1])  # takes the place of the third, which was used longest ago
    assert encoded == [*PROMPTS, PROMPTS[0]]
    backbone.encode_prompts(PROMPTS[:2])
    assert len(encoded) == 4
    assert all(torch.equal(part, whole[name]) for name, part in backbone.encode_prompts(PROMPTS).items())


def test_embeddings_do_not_depend_on_autocast(make) -> None:
    plain = make().encode_prompts(PROMPTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = make().encode_prompts(PROMPTS)
    assert all(torch.equal(part, cast[name]) for name, part in plain.items())


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
def test_rows_do_not_see_each_other(make, guidance_scale: float) -> None:
    backbone = make(guidance_scale=guidance_scale)
    latents, timesteps = inputs(backbone)
    conditioning = backbone.encode_prompts(PROMPTS)
    with torch.no_grad():
        together = backbone.velocity(latents, timesteps, conditioning)
        assert together.shape == latents.shape
        assert together.dtype == torch.float32
        for row in range(3):
            one = slice(row, row + 1)
            part = {name: value[one] for name, value in conditioning.items()}
            alone = backbone.velocity(latents[one], timesteps[one], part)
            torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-5)
        turned = {name: value.roll(1, 0) for name, value in conditioning.items()}
        assert (backbone.velocity(latents, timesteps, turned) - together).abs().max() > 1e-3
        assert (backbone.velocity(latents, timesteps.roll(1), conditioning) - together).abs().max() > 1e-3


def test_guidance_leads_away_from_the_negative_prompt(make) -> None:
    guided, plain = make(guidance_scale=2.5, negative_prompt="blur"), make()
    latents, timesteps = inputs(plain)
    with torch.no_grad():
        positive = plain.velocity(latents, timesteps, plain.encode_prompts(PROMPTS))
        negative = plain.velocity(latents, timesteps, plain.encode_prompts(["blur"] * 3))
        velocity = guided.velocity(latents, timesteps, guided.encode_prompts(PROMPTS))
    torch.testing.assert_close(velocity, negative + 2.5 * (positive - negative), rtol=0, atol=1e-5)
    assert (plain.guided, plain.evals_per_row) == (False, 1)
    assert (guided.guided, guided.evals_per_row) == (True, 2)


def test_gradient_reaches_both_sides_of_the_guidance(make) -> None:
    backbone = make(guidance_scale=2.5)
    latents, timesteps = inputs(backbone)
    conditioning = {name: part.clone().requires_grad_() for name, part in backbone.encode_prompts(PROMPTS).items()}
    backbone.velocity(latents, timesteps, conditioning).square().sum().backward()
    assert all(part.grad.abs().max() > 0 for part in conditioning.values())
    # a few parameters (the bias of a key, say) have no effect on the output
    without = [name for name, p in backbone.transformer.named_parameters() if p.grad is None]
    assert not without


def test_blocks_and_adapters_are_parts_of_the_transformer(make) -> None:
    backbone = make()
    blocks, names = backbone.blocks(), dict(backbone.transformer.named_modules())
    assert len(blocks) > 1
    assert all(any(block is module for module in names.values()) for block in blocks)
    for target in backbone.lora_targets:
        assert any(name.endswith(f".{target}") and isinstance(module, nn.Linear) for name, module in names.items())


def test_half_precision_answers_in_float32(make) -> None:
    backbone = make(dtype="bfloat16", guidance_scale=2.0)
    latents, timesteps = inputs(backbone)
    with torch.no_grad():
        velocity = backbone.velocity(latents, timesteps, backbone.encode_prompts(PROMPTS))
    assert velocity.dtype == torch.float32
    assert next(backbone.transformer.parameters()).dtype == torch.bfloat16
    assert backbone.decode(latents).dtype == torch.float32


def test_frozen_parts_and_kept_embeddings_move_and_the_transformer_does_not(make) -> None:
    backbone = make()
    backbone.encode_prompts(PROMPTS)
    assert backbone.to(torch.device("meta")) is backbone
    assert all(parameter.is_meta for part in backbone.frozen() for parameter in part.parameters())
    assert all(part.is_meta for part in backbone.encode_prompts(PROMPTS).values())
    assert not any(parameter.is_meta for parameter in backbone.transformer.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": -1.0}, "guidance_scale must be at least 0, got -1.0"),
        ({"cache_size": 0}, "cache_size must be at least 1, got 0"),
        ({"negative_prompt": "blur"}, "negative_prompt has an effect only with guidance_scale above 1, got 1.0"),
    ],
)
def test_impossible_numbers_are_refused(make, settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(load=False, **settings)


def test_a_missing_directory_is_refused_at_once(make, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    backbone = type(make(load=False))
    for missing in ("./model", str(tmp_path / "model"), "data/model", ""):
        with pytest.raises(
            ValueError, match=f"pretrained must be a directory or a hub id; there is no directory '{missing}'"
        ):
            backbone(missing)
    assert backbone("someone/model").pretrained == "someone/model"  # could be a hub id, so it is for load to find out


def test_what_is_no_such_model_is_refused_by_name(make, tmp_path) -> None:
    backbone = type(make(load=False))
    for wrong in (str(tmp_path), "someone/model"):
        with pytest.raises(ValueError, match=rf"pretrained must hold a .*{wrong}.*local_files_only=True"):
            backbone(wrong).load()
