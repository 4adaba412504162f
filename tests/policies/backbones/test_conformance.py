"""What every backbone promises; a new one joins by existing, with a tiny model in tests/helpers/tiny_pipelines.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import realgen.policies.backbones
from realgen.policies.backbones import Backbone
from tests.helpers.tiny_pipelines import TinyModel, backbone_classes

PROMPTS = ["a red fox", "old harbour, film grain", "moon"]


def inputs(backbone: Backbone, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    latents = torch.randn(rows, *backbone.latent_shape(16, 16), generator=torch.Generator().manual_seed(0))
    return latents, backbone.schedule(rows, 16, 16).timesteps


def test_backbones_are_found() -> None:
    names = {backbone.__name__ for backbone in backbone_classes()}
    known = "SD3 Flux Flux2 Flux2Klein Chroma ErnieImage HiDream Krea2 Lumina2 QwenImage ZImage"
    assert set(known.split()) <= names
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


def test_sigmas_fall_from_noise_to_data(make, model: TinyModel) -> None:
    backbone = make()
    for num_steps in (1, 2, 9):
        if num_steps < model.fewest_steps:
            too_few = f"num_steps must be at least {model.fewest_steps} for .* got {num_steps}"
            with pytest.raises(ValueError, match=too_few):
                backbone.schedule(num_steps, 16, 16)
            continue
        sigmas, timesteps = backbone.schedule(num_steps, 16, 16)
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


def test_sizes_that_cannot_be_drawn_are_refused(make) -> None:
    backbone = make()
    for name in ("height", "width"):
        with pytest.raises(ValueError, match=f"{name} must be a multiple of .* got 17"):
            backbone.latent_shape(**{"height": 16, "width": 16, name: 17})


def test_each_text_is_embedded_once_and_alike_in_any_company(make, model: TinyModel, monkeypatch) -> None:
    backbone, encoded = make(guided=True), []
    encode = backbone.encode
    monkeypatch.setattr(backbone, "encode", lambda prompt: encoded.append(prompt) or encode(prompt))
    together = backbone.encode_prompts([*PROMPTS, PROMPTS[0]])
    again = backbone.encode_prompts(PROMPTS[1:])
    assert sorted(encoded) == sorted([backbone.negative_prompt, *(model.before + prompt for prompt in PROMPTS)])
    alone = make(guided=True).encode_prompts([PROMPTS[2]])
    for name, part in together.items():
        assert part.shape[0] == 4
        assert torch.equal(part[0], part[3])
        assert torch.equal(part[1:3], again[name])
        length = alone[name].shape[1]  # of a shorter text, what follows are zeros
        assert torch.equal(part[2:3, :length], alone[name])
        assert part[2, length:].count_nonzero() == 0
    differ = [not torch.equal(part[0], part[1]) for name, part in together.items() if not name.startswith("negative_")]
    assert all(differ)
    assert all(torch.equal(part[0], part[1]) for name, part in together.items() if name.startswith("negative_"))


def test_a_mask_tells_the_length_of_a_text(make) -> None:
    backbone = make()
    together, lengths = backbone.encode_prompts(PROMPTS), {}
    for prompt in PROMPTS:
        lengths[prompt] = len(backbone.encode_prompts([prompt])["embeds"][0])
    if "mask" in together:
        assert together["mask"].dtype == torch.bool
        assert together["mask"].sum(dim=1).tolist() == list(lengths.values())
        assert len(set(lengths.values())) == len(PROMPTS)
    else:
        assert set(lengths.values()) == {together["embeds"].shape[1]}


def test_the_cache_is_bounded_and_keeps_what_was_used_last(make, model: TinyModel, monkeypatch) -> None:
    backbone, encoded = make(cache_size=2), []
    encode = backbone.encode
    monkeypatch.setattr(backbone, "encode", lambda prompt: encoded.append(prompt) or encode(prompt))
    whole = backbone.encode_prompts(PROMPTS)  # keeps the second and the third
    texts = [model.before + prompt for prompt in PROMPTS]
    assert encoded == texts
    backbone.encode_prompts(PROMPTS[1:2])
    backbone.encode_prompts(PROMPTS[:1])  # takes the place of the third, which was used longest ago
    assert encoded == [*texts, texts[0]]
    backbone.encode_prompts(PROMPTS[:2])
    assert len(encoded) == 4
    assert all(torch.equal(part, whole[name]) for name, part in backbone.encode_prompts(PROMPTS).items())


def test_embeddings_do_not_depend_on_autocast(make) -> None:
    plain = make().encode_prompts(PROMPTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = make().encode_prompts(PROMPTS)
    assert all(torch.equal(part, cast[name]) for name, part in plain.items())


@pytest.mark.parametrize("guided", [False, True])
def test_rows_do_not_see_each_other(make, guided: bool) -> None:
    backbone = make(guided=guided)
    latents, timesteps = inputs(backbone)
    conditioning = backbone.encode_prompts(PROMPTS)
    with torch.no_grad():
        together = backbone.velocity(latents, timesteps, conditioning)
        assert together.shape == latents.shape
        assert together.dtype == torch.float32
        for row in range(3):
            one = slice(row, row + 1)
            part = {name: value[one] for name, value in conditioning.items()}
            for text in (part, backbone.encode_prompts([PROMPTS[row]])):  # padded to the others' length, and not
                alone = backbone.velocity(latents[one], timesteps[one], text)
                torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-5)
        turned = {name: value.roll(1, 0) for name, value in conditioning.items()}
        assert (backbone.velocity(latents, timesteps, turned) - together).abs().max() > 1e-3
        assert (backbone.velocity(latents, timesteps.roll(1), conditioning) - together).abs().max() > 1e-3


def test_guidance_leads_away_from_the_negative_prompt(make) -> None:
    guided, plain = make(guided=True), make()
    latents, timesteps = inputs(plain)
    with torch.no_grad():
        positive = plain.velocity(latents, timesteps, plain.encode_prompts(PROMPTS))
        text = plain.encode(guided.negative_prompt)
        negative = plain.velocity(latents, timesteps, {name: torch.stack([part] * 3) for name, part in text.items()})
        velocity = guided.velocity(latents, timesteps, guided.encode_prompts(PROMPTS))
    torch.testing.assert_close(velocity, guided.combine(positive, negative), rtol=0, atol=1e-5)
    assert ((velocity - positive) * (positive - negative)).sum() > 0
    assert (velocity - positive).abs().max() > 1e-3
    assert (plain.guided, plain.evals_per_row) == (False, 1)
    assert (guided.guided, guided.evals_per_row) == (True, 2)


def test_gradient_reaches_both_sides_of_the_guidance(make, model: TinyModel) -> None:
    backbone = make(guided=True)
    latents, timesteps = inputs(backbone)
    conditioning = {
        name: part.clone().requires_grad_(part.is_floating_point())
        for name, part in backbone.encode_prompts(PROMPTS).items()
    }
    backbone.velocity(latents, timesteps, conditioning).square().sum().backward()
    assert all(part.grad.abs().max() > 0 for part in conditioning.values() if part.requires_grad)
    # a few parameters (the bias of a key, say) have no effect on the output
    without = [name for name, p in backbone.transformer.named_parameters() if p.grad is None]
    assert sorted(without) == sorted(model.without_gradient)


def test_blocks_and_adapters_are_parts_of_the_transformer(make) -> None:
    backbone = make()
    blocks, names = backbone.blocks(), dict(backbone.transformer.named_modules())
    assert len(blocks) > 1
    assert all(any(block is module for module in names.values()) for block in blocks)
    for target in backbone.lora_targets:
        assert any(
            f".{name}".endswith(f".{target}") and isinstance(module, nn.Linear) for name, module in names.items()
        )


def test_half_precision_answers_in_float32(make) -> None:
    backbone = make(dtype="bfloat16", guided=True)
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
    text = backbone.encode_prompts(PROMPTS)
    # a mask stays on the host, which reads lengths from it without waiting for the device
    assert all(part.is_meta for name, part in text.items() if name != "mask")
    assert not any(parameter.is_meta for parameter in backbone.transformer.parameters())


def test_impossible_numbers_are_refused(make, kind: type[Backbone], model: TinyModel) -> None:
    scale, off = next(iter(model.guided)), model.plain_scale
    assert scale == kind.cfg_setting
    longest = max(number for number in (512, 1024) if number == getattr(kind, "longest_text", 512))
    for settings, message in (
        ({scale: -1.0}, f"{scale} must be at least 0, got -1.0"),
        ({"cache_size": 0}, "cache_size must be at least 1, got 0"),
        ({"negative_prompt": "blur", scale: off}, f"an effect only with {scale} above {off:g}, got {off}"),
        ({"max_sequence_length": 0}, f"max_sequence_length must be between 1 and {longest}, got 0"),
        ({"max_sequence_length": longest + 1}, f"between 1 and {longest}, got {longest + 1}"),
    ):
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


def test_what_is_no_such_model_is_refused_in_one_line(kind: type[Backbone], tmp_path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "SanaPipeline"}')
    empty = tmp_path / "empty"
    empty.mkdir()
    for wrong, what in ((tmp_path, "it holds a SanaPipeline"), (empty, "no file named model_index.json")):
        with pytest.raises(
            ValueError, match=rf"pretrained must hold a .*{wrong}.*local_files_only=True.*{what}"
        ) as error:
            kind(str(wrong)).load()
        assert "hf download" not in str(error.value)


def test_a_hub_id_that_is_not_here_says_what_to_do(kind: type[Backbone]) -> None:
    what_to_do = "Fetch it with `hf download someone/model`; .* tells its size. Or set local_files_only to false"
    with pytest.raises(ValueError, match=rf"pretrained must hold a .*'someone/model' .*{what_to_do}") as error:
        kind("someone/model").load()
    assert "\n" not in str(error.value)
