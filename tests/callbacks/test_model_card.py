"""The model card says what the files beside it are, and nothing that it was not told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from realgen.callbacks.model_card import licence, write_card

CONFIG = """\
# realgen 0.1.0: python -m realgen.fit --config configs/diffusion.yaml
callbacks:
  ema: {class_path: realgen.callbacks.EMA}
  gone: null
model:
  class_path: realgen.modules.GRPOModule
  init_args:
    objective: {class_path: realgen.objectives.GRPOGuard}
    policy:
      class_path: realgen.policies.DiffusionPolicy
      init_args:
        backbone: {class_path: realgen.policies.backbones.SD3, init_args: {pretrained: BASE}}
        lora: {rank: 4, pretrained: an/older/run}
    reward:
      class_path: realgen.rewards.WeightedSum
      init_args:
        rewards:
          omniaid: {class_path: realgen.rewards.Realism}
          alignment: {class_path: realgen.rewards.Alignment}
          dropped: null
        weights: {alignment: 0.5}
"""
SUMMARY = {
    "before": {"iteration": 0, "values": {"reward": 0.25, "kid": 0.9}},
    "after": {"iteration": 30, "values": {"reward": 0.5, "kid": 0.8}},
    "intervals": {"reward": [0.125, 0.375], "kid": [None, None]},
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text("---\nlicense: other\nlicense_name: sai-nc-community\n---\n# Base\n")
    (tmp_path / "run" / "lora" / "comfyui").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(CONFIG.replace("BASE", str(tmp_path / "base")))
    place = tmp_path / "run" / "lora"
    (place / "export.json").write_text(json.dumps({"iteration": 30, "weights": "ema", "files": {}}))
    for name in ("pytorch_lora_weights.safetensors", "comfyui/lora.safetensors"):
        (place / name).write_bytes(b"")
    return place


def test_a_card_has_all_that_the_run_says(place: Path) -> None:
    (place.parent / "summary.json").write_text(json.dumps(SUMMARY))
    (place.parent / "before_after.png").write_bytes(b"picture")
    write_card(place, place.parent / "config.yaml")
    text = (place / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    base = str(place.parent.parent / "base")
    assert front["base_model"] == [base]
    for line in (
        "# run/lora",
        f"| base model | `{base}` |",
        "| its licence | other, sai-nc-community |",
        "| trained by | GRPOModule with GRPOGuard |",
        "| iteration | 30, ema weights |",
        "| command | `realgen 0.1.0: python -m realgen.fit --config configs/diffusion.yaml` |",
        "| omniaid | 1.0 | Realism |",
        "| alignment | 0.5 | Alignment |",
        "| held-out prompts | before (0) | after (30) | 95 % interval of the change |",
        "| reward | 0.25 | 0.5 | +0.125 to +0.375 |",
        "| kid | 0.9 | 0.8 |  |",
        "![The same prompts and seeds before and after](before_after.png)",
        "Paths are relative to this folder.",
        "`DiffusionPipeline.from_pretrained('../../base').load_lora_weights('.')`",
        "ComfyUI: copy `comfyui/lora.safetensors` into `models/loras`; Load LoRA, strength 1.",
    ):
        assert line in text.splitlines(), line
    assert (place / "before_after.png").read_bytes() == b"picture"
    assert "dropped" not in text
    assert "an/older" not in text


@pytest.mark.parametrize(("iteration", "weights"), [(20, "ema"), (30, "live")])
def test_measures_and_picture_are_of_the_weights_of_the_card(place: Path, iteration: int, weights: str) -> None:
    (place.parent / "summary.json").write_text(json.dumps(SUMMARY))
    (place.parent / "before_after.png").write_bytes(b"picture")
    (place / "export.json").write_text(json.dumps({"iteration": iteration, "weights": weights, "files": {}}))
    write_card(place, place.parent / "config.yaml")
    text = (place / "README.md").read_text()
    assert f"| iteration | {iteration}, {weights} weights |" in text
    assert "## Measures" not in text
    assert "before_after" not in text


@pytest.mark.parametrize(
    "front",
    [
        b"# my own fine-tune",
        b"title: FLUX: the model",
        b"- a list",
        b"license:\tmit",
        b"license: \xff\xfe",
        b"license: [" + b"[" * 2000,
        b"a: &a [x, x]\nb: &b [*a, *a]\nlicense: [*b, *b]",
    ],
)
def test_a_base_model_s_card_of_any_kind_costs_nothing(place: Path, front: bytes) -> None:
    (place.parent.parent / "base" / "README.md").write_bytes(b"---\n" + front + b"\n---\n")
    write_card(place, place.parent / "config.yaml")
    assert "| base model |" in (place / "README.md").read_text()


def test_before_the_end_there_are_no_measures(place: Path) -> None:
    write_card(place, place.parent / "config.yaml")
    text = (place / "README.md").read_text()
    assert "## Measures" not in text
    assert "before_after" not in text


def test_the_licence_is_what_the_folder_says(tmp_path: Path) -> None:
    assert licence("someone/something") == "see the page of someone/something"
    assert licence(str(tmp_path)) == f"its folder {tmp_path} does not say"
    (tmp_path / "LICENSE.txt").write_text("MIT")
    assert licence(str(tmp_path)) == "file LICENSE.txt"
