"""``python -m realgen.weights``: what a recipe needs, told without fetching it."""

from __future__ import annotations

import huggingface_hub
import pytest

from realgen.hub_files import fetch_command, found_at
from realgen.weights import main, needed_weights


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, repository) -> None:
    def fetch(*words: object, **settings: object) -> None:
        raise AssertionError(f"fetched {words}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)


def test_an_embedded_recipe_has_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs/diffusion.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (pipeline,) = (line for line in lines if line.startswith("there    data/nano/sd3  8."))
    assert " MB " in pipeline
    assert "model.policy.backbone.pretrained" in pipeline
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


def test_probes_processors_and_all_parts_of_a_config_are_looked_at() -> None:
    probe = {"class_path": "realgen.detectors.LinearProbe", "init_args": {"probe": "p", "backbone": "vit.in1k"}}
    own = {"class_path": "realgen.detectors.LinearProbe", "init_args": {"backbone": "vit.in1k", "pretrained": "f"}}
    config = {
        "model": {"init_args": {"reward": {"init_args": {"model": "m", "processor": "q"}}}},
        "arena": {"judge": {"class_path": "realgen.judges.OpenAIJudge", "init_args": {"model": "a-service-s-own"}}},
        "callbacks": {"judge": {"init_args": {"detectors": {"a": probe, "b": own}}}},
    }
    assert needed_weights(config) == {
        "m": ["model.reward.model"],
        "q": ["model.reward.processor"],
        "p": ["callbacks.judge.detectors.a.probe"],
        "timm/vit.in1k": ["callbacks.judge.detectors.a.backbone"],
        "f": ["callbacks.judge.detectors.b.pretrained"],
    }


def test_a_benchmark_s_weights_are_listed_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs/realbench.yaml"]) == 0
    assert "(detectors." in capsys.readouterr().out


def test_a_whole_repository_of_the_hub_is_named_by_its_command() -> None:
    assert found_at("hf-hub:nobody/nothing-at-all") is None
    assert fetch_command("hf-hub:nobody/nothing-at-all") == "hf download nobody/nothing-at-all"
