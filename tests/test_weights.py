"""``python -m realgen.weights``: what a recipe needs, told without fetching it."""

from __future__ import annotations

import huggingface_hub
import pytest

from realgen.weights import main


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, repository) -> None:
    def fetch(*words: object, **settings: object) -> None:
        raise AssertionError(f"fetched {words}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)


def test_an_embedded_recipe_has_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs/diffusion.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("there    data/nano/sd3  0.0") and "model.policy.backbone.pretrained" in line for line in lines
    )
    assert any(
        "data/nano/omniaid" in line and "model.reward.rewards.omniaid.detector.checkpoint" in line for line in lines
    )
    assert not any(line.startswith("missing") for line in lines)


def test_a_full_size_recipe_s_missing_weights_have_their_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs/diffusion_flux.yaml"]) == 1
    out = capsys.readouterr().out
    assert "missing  black-forest-labs/FLUX.1-dev  (model.policy.backbone.pretrained)" in out
    assert "`hf download black-forest-labs/FLUX.1-dev`; `hf download black-forest-labs/FLUX.1-dev --dry-run`" in out
    assert "mv downloads/ckpt/checkpoint_omniaid_v2.pth models/checkpoint_omniaid_v2.pth" in out
    assert "https://github.com/YZY-stack/Effort-AIGI-Detection says where it is" in out


def test_a_config_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs/nowhere.yaml"]) == 1
    assert "nowhere.yaml" in capsys.readouterr().err
