"""The published numbers against published sizes, and against arithmetic."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml

from realgen.planning.architecture import build_network, find_architecture, published
from realgen.planning.meter import metered, total

FILES = sorted(str(file) for file in files("realgen.planning").joinpath("architectures").iterdir())


@pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file).stem)
def test_a_transformer_has_as_many_weights_as_its_makers_say(file: str) -> None:
    facts = yaml.safe_load(Path(file).read_text())
    transformer = published()[facts["hub_ids"][0]].components["transformer"]
    weights = sum(weight.numel() for weight in build_network(transformer).parameters())
    assert weights == pytest.approx(facts["parameters"], rel=0.005)
    assert facts["source"]


def test_every_full_size_policy_of_the_configs_has_published_numbers() -> None:
    configs = Path(__file__).resolve().parents[2] / "configs" / "policies"
    policies = [yaml.safe_load(file.read_text())["init_args"] for file in configs.glob("*.yaml")]
    wanted = {policy["backbone"]["init_args"]["pretrained"] for policy in policies if "backbone" in policy}
    assert {name for name in wanted if Path(name).parts[0] != "data"} <= set(published())


def test_flux_has_the_flops_of_its_blocks() -> None:
    flux = published()["black-forest-labs/FLUX.1-dev"].components["transformer"]
    small = {**flux.config, "num_layers": 2, "num_single_layers": 4}
    transformer = build_network(type(flux)(flux.package, flux.kind, small))
    image, text, width = 4096, 512, 3072

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="meta")

    with torch.no_grad(), metered() as meter:
        transformer(
            hidden_states=empty(1, image, 64),
            timestep=empty(1),
            guidance=empty(1),
            pooled_projections=empty(1, 768),
            encoder_hidden_states=empty(1, text, 4096),
            txt_ids=empty(text, 3),
            img_ids=empty(image, 3),
        )
    tokens = image + text
    block = 2 * 12 * width**2 * tokens + 4 * tokens**2 * width  # q, k, v, out, and four times the width twice
    ends = 2 * (image * 64 * width * 2 + text * 4096 * width)
    assert total(meter.work) == pytest.approx(6 * block + ends, rel=0.002)


def test_a_model_that_nobody_knows_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"FLUX\.1-deh'? is no folder.*Nearest: black-forest-labs/FLUX\.1-dev.*json"):
        find_architecture("black-forest-labs/FLUX.1-deh")


def test_a_folder_without_a_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must hold a diffusers pipeline"):
        find_architecture(str(tmp_path))
