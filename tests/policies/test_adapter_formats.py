"""A LoRA's other formats, read by their own readers: each draws what the policy draws."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers.loaders import lora_conversion_utils, single_file_utils
from safetensors.torch import load_file

from realgen.callbacks.export import write_export
from realgen.functional.flow_sde import FlowSDE
from realgen.policies import DiffusionPolicy, LoRA, RandomWindow
from realgen.policies.adapter_formats import ORIGINAL_NAMES, original_layers, write_formats
from realgen.policies.backbones import Backbone, Flux2Klein, QwenImage
from tests.helpers.tiny_pipelines import SIZE, TINY, backbone_classes, module_of

ROOT = Path(__file__).resolve().parent.parent.parent
COMFYUI = "comfyui/lora.safetensors"


@pytest.fixture(params=backbone_classes(), ids=lambda member: member.__name__)
def policy(request: pytest.FixtureRequest, tiny, stir) -> DiffusionPolicy:
    """Each backbone's tiny model with adapters that act, by a factor other than 1."""
    return acting(request.param, tiny, stir)


def acting(kind: type[Backbone], tiny, stir) -> DiffusionPolicy:
    backbone = kind(tiny(module_of(kind)), **TINY[module_of(kind)].settings)
    settings = {"transition": FlowSDE(0.7), "step_window": RandomWindow(1), "num_steps": 4}
    policy = DiffusionPolicy(backbone, **settings, height=SIZE, width=SIZE, lora=LoRA(rank=2, alpha=6.0))
    policy.load()
    stir(policy)
    return policy


def deltas(policy: DiffusionPolicy) -> dict[str, torch.Tensor]:
    """Return what each adapter adds to its layer, by peft's own arithmetic."""
    layers = policy.transformer.named_modules()
    return {name: layer.get_delta_weight("default") for name, layer in layers if hasattr(layer, "lora_A")}


def by_comfyui_s_rules(file: Path) -> dict[str, torch.Tensor]:
    """Return the release's layers with up x down x alpha / rows of down; every key is one of these three."""
    stored, found = load_file(file), {}
    for name in {key.partition(".")[0] for key in stored}:
        down, up, alpha = (stored.pop(f"{name}.{end}") for end in ("lora_down.weight", "lora_up.weight", "alpha"))
        assert alpha.item() == len(down)
        found[name] = up @ down * (alpha / len(down))
    assert not stored
    return found


def test_every_format_draws_the_same_in_a_fresh_process(tiny, stir, tmp_path) -> None:
    """One process for all backbones, because it takes long to begin."""
    images, words = {}, []
    for kind in backbone_classes():
        policy, name = acting(kind, tiny, stir), kind.__name__
        images[name] = policy.sample(["a red fox", "moon"], [3, 4])
        formats = ["peft", "comfyui", "merged"]
        write_export(policy, tmp_path / name, iteration=1, averaged=False, formats=formats)
        words += [f"{module_of(kind)}|{name}|{policy.backbone.pretrained}"]
    command = [sys.executable, "-m", "tests.policies.test_adapter_formats", str(tmp_path), *words]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    for name, expected in images.items():
        drawn = torch.load(tmp_path / name / "images.pt")
        assert set(drawn) == {"base", "peft", "merged"}
        assert (drawn.pop("base") - expected).abs().max() > 0.01
        for form, found in drawn.items():  # the same pixels; merging rounds at 1e-7 of a weight
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5, msg=f"{name} {form}")


def draw_all(place: Path, module: str, kind: str, pretrained: str) -> None:
    """Draw with what ``PeftModel`` and ``from_pretrained`` read, in the process of its own that this file starts."""
    from peft import PeftModel

    import realgen.policies.backbones as backbones

    def read() -> DiffusionPolicy:
        backbone = getattr(backbones, kind)(pretrained, **TINY[module].settings)
        window = {"transition": FlowSDE(0.7), "step_window": RandomWindow(1), "num_steps": 4}
        policy = DiffusionPolicy(backbone, **window, height=SIZE, width=SIZE)
        policy.load()
        return policy

    drawn = {}
    for name in ("base", "peft", "merged"):
        policy: Any = read()
        if name == "peft":
            adapted = PeftModel.from_pretrained(policy.transformer, place / "peft")
            policy.transformer = policy.backbone.transformer = adapted
        elif name == "merged":
            merged = policy.backbone.transformer_class.from_pretrained(place / "merged")
            policy.transformer.load_state_dict(merged.state_dict())
        drawn[name] = policy.sample(["a red fox", "moon"], [3, 4])
    torch.save(drawn, place / "images.pt")


def test_peft_s_folder_names_base_and_scale(policy, tmp_path) -> None:
    write_formats(policy.export(tmp_path), policy.backbone, ["peft"])
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 2)
    assert config["base_model_name_or_path"] == policy.backbone.pretrained
    assert config["task_type"] is None  # peft has no task for drawing
    assert config["target_modules"] == sorted(policy.backbone.lora_targets)


def test_every_layer_has_its_name_and_scale_by_comfyui_s_rules(policy, tmp_path) -> None:
    """The file's layers, cut into diffusers' by the converters of diffusers that read such names or checkpoints."""
    write_formats(policy.export(tmp_path), policy.backbone, ["comfyui"])
    truth, found = deltas(policy), by_comfyui_s_rules(tmp_path / COMFYUI)
    pipeline = policy.backbone.pipeline_class
    layers = original_layers(pipeline, truth)
    assert {f"lora_unet_{name.replace('.', '_')}" for name in layers} == set(found)
    release = {name: found[f"lora_unet_{name.replace('.', '_')}"] for name in layers}
    cut = {
        "StableDiffusion3Pipeline": sd3_layers,
        "FluxPipeline": flux_layers,
        "Flux2KleinPipeline": single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers,
        "ZImagePipeline": single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers,
        "QwenImagePipeline": dict,
        "ErnieImagePipeline": dict,
        "HiDreamImagePipeline": dict,
        "ChromaPipeline": flux_layers,
        "Flux2Pipeline": single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers,
        "Lumina2Pipeline": lumina2_layers,
        "Krea2Pipeline": single_file_utils.convert_krea2_transformer_checkpoint_to_diffusers,
    }[pipeline]({f"{name}.weight": delta for name, delta in release.items()})
    again = {name.removesuffix(".weight"): delta for name, delta in cut.items()}
    assert again.keys() == truth.keys()
    for name, delta in truth.items():
        torch.testing.assert_close(again[name], delta, rtol=1e-5, atol=1e-7, msg=name)


class AnyWeight(dict):
    """A checkpoint that has zeros for what it lacks, so that diffusers' converter of whole checkpoints takes it."""

    def pop(self, key: str, *default: Any) -> Any:
        """Return the weight, or zeros."""
        return super().pop(key, torch.zeros(6, 6))


def sd3_layers(release: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cut by diffusers' converter of SD3's checkpoints; what was zero there is of no adapter."""
    checkpoint = AnyWeight({"context_embedder.weight": torch.zeros(6, 6), **release})
    cut = single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(checkpoint)
    return {name: each for name, each in cut.items() if each.abs().max() > 0}


def flux_layers(release: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cut by FLUX.1's published layout: img_attn.qkv and txt_attn.qkv in three; linear1 is q, k, v and the MLP."""
    names = {"img_attn.proj": "attn.to_out.0", "txt_attn.proj": "attn.to_add_out", "linear2": "proj_out"}
    names |= {"img_mlp.0": "ff.net.0.proj", "img_mlp.2": "ff.net.2"}
    names |= {"txt_mlp.0": "ff_context.net.0.proj", "txt_mlp.2": "ff_context.net.2"}
    qkv = {"img_attn.qkv": ("to_q", "to_k", "to_v"), "txt_attn.qkv": ("add_q_proj", "add_k_proj", "add_v_proj")}
    cut = {}
    for name, delta in release.items():
        kind, number, rest = name.removesuffix(".weight").split(".", 2)
        block = {"double_blocks": "transformer_blocks", "single_blocks": "single_transformer_blocks"}[kind]
        if rest in qkv:
            cut |= {f"{block}.{number}.attn.{to}": part for to, part in zip(qkv[rest], delta.chunk(3), strict=True)}
        elif rest == "linear1":
            width = delta.shape[1]
            for part, rows in zip(("to_q", "to_k", "to_v"), delta[: 3 * width].split(width), strict=True):
                if rows.abs().max() > 0:
                    cut[f"{block}.{number}.attn.{part}"] = rows
            if delta[3 * width :].abs().max() > 0:
                cut[f"{block}.{number}.proj_mlp"] = delta[3 * width :]
        else:
            cut[f"{block}.{number}.{names[rest]}"] = delta
    return cut


def lumina2_layers(release: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cut by diffusers' converter, which knows the published widths alone: they are 48 times the tiny model's."""
    wide = {name: rows.repeat_interleave(48, 0) if "qkv" in name else rows for name, rows in release.items()}
    cut = single_file_utils.convert_lumina2_to_diffusers(wide)
    return {name: rows[::48] if len(rows) in (2304, 768) else rows for name, rows in cut.items()}


KOHYA = {
    Flux2Klein: lora_conversion_utils._convert_kohya_flux2_lora_to_diffusers,
    QwenImage: lora_conversion_utils._convert_non_diffusers_qwen_lora_to_diffusers,
}


@pytest.mark.parametrize("policy", KOHYA, indirect=True)
def test_diffusers_reads_kohya_s_names(policy, tmp_path) -> None:
    write_formats(policy.export(tmp_path), policy.backbone, ["comfyui"])
    read = KOHYA[type(policy.backbone)](load_file(tmp_path / COMFYUI))
    for name, delta in deltas(policy).items():
        a, b = (read[f"transformer.{name}.lora_{factor}.weight"] for factor in "AB")
        torch.testing.assert_close(b @ a, delta, rtol=1e-5, atol=1e-7)


def test_layers_without_a_name_and_models_that_comfyui_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"comfyui has no name here for 'proj_out'; adapt layers of the blocks alone"):
        original_layers("FluxPipeline", ["proj_out"])
    with pytest.raises(ValueError, match=r"formats: comfyui knows StableDiffusion3Pipeline, .*, got a LTXPipeline"):
        original_layers("LTXPipeline", [])
    with pytest.raises(ValueError, match=r"no name here for 'transformer_blocks.0.norm1.linear'"):
        original_layers("StableDiffusion3Pipeline", ["transformer_blocks.0.norm1.linear"])
    assert set(yaml.safe_load(ORIGINAL_NAMES.read_text())) == {kind.pipeline_class for kind in backbone_classes()}


def test_a_format_needs_adapters(policy, tmp_path) -> None:
    policy.lora = None
    with pytest.raises(ValueError, match=r"formats must be \[\] where no image policy trains a LoRA, got \['peft'\]"):
        write_export(policy, tmp_path / "lora", iteration=1, averaged=False, formats=["peft"])
    assert list(tmp_path.iterdir()) == []


if __name__ == "__main__":
    for word in sys.argv[2:]:
        draw_all(Path(sys.argv[1], word.split("|")[1]), *word.split("|"))
