from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from realgen.policies import DiffusionPolicy, LoRA, Policy, RandomWindow
from realgen.policies.backbones import SD3

PARTS = sorted((Path(__file__).resolve().parents[2] / "configs" / "policies").glob("*.yaml"))


def build(path: Path, *changes: str) -> Policy:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Policy, "policy")
    return parser.instantiate(parser.parse_args([f"--policy={path}", *changes])).policy


@pytest.mark.parametrize("path", [path for path in PARTS if path.stem.startswith("sd3")], ids=lambda path: path.stem)
def test_parts_build_a_policy_without_reading_weights(path: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "nano" / "sd3").mkdir(parents=True)  # an empty directory is enough
    policy = build(path)
    assert isinstance(policy, DiffusionPolicy)
    assert isinstance(policy.backbone, SD3)
    assert isinstance(policy.step_window, RandomWindow) or policy.draws is not None
    assert isinstance(policy.lora, LoRA)
    assert not list(policy.parameters())


def test_settings_change_on_the_command_line(sd3: str) -> None:
    path = next(path for path in PARTS if path.stem == "sd3_nano")
    policy = build(
        path,
        f"--policy.backbone.pretrained={sd3}",
        "--policy.backbone.guidance_scale=2.5",
        "--policy.lora.rank=3",
        "--policy.lora.targets=[to_q]",
        "--policy.step_window=AllSteps",
        "--policy.transition=DanceSDE",
        "--policy.transition.noise_level=0.4",
        "--policy.num_steps=3",
    )
    assert (policy.backbone.cfg_scale, policy.lora.rank, policy.num_steps) == (2.5, 3, 3)
    assert policy.lora.alpha == 32.0
    assert policy.step_window.decisions(3) == 3
    assert (type(policy.transition).__name__, policy.transition.noise_level) == ("DanceSDE", 0.4)
    policy = build(path, f"--policy.backbone.pretrained={sd3}", "--policy.lora=null")
    assert policy.lora is None
