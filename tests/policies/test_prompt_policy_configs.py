"""The parts in configs/policies whose names say that a language model rewrites."""

from pathlib import Path

import pytest
import yaml

from realgen.policies import DiffusionPolicy, LoRA, PromptPolicy, TransformersEngine, VLLMEngine
from realgen.policies.chat import check_instruction
from tests.helpers import vllm_stand_in

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "policies"


@pytest.mark.parametrize("name", ["llm_nano", "qwen3_4b", "qwen3_4b_vllm", "qwen3_5_4b", "gemma3_4b"])
def test_parts_build_a_policy_without_reading_weights(name: str, tmp_path: Path, monkeypatch) -> None:
    from jsonargparse import ArgumentParser

    from realgen.policies import Policy

    vllm_stand_in.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for model in ("sd3", "llm"):
        (tmp_path / "data" / "nano" / model).mkdir(parents=True)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Policy, "policy")
    policy = parser.instantiate(parser.parse_args([f"--policy={CONFIGS / name}.yaml"])).policy
    assert isinstance(policy, PromptPolicy)
    assert isinstance(policy.lora, LoRA)
    assert isinstance(policy._image_policy[0], DiffusionPolicy)
    assert not list(policy.parameters())
    stated = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["init_args"]
    plain = {key: value for key, value in stated.items() if key not in ("image_policy", "lora", "dtype", "engine")}
    assert {key: getattr(policy, key) for key in plain} == plain
    check_instruction(policy.instruction)
    assert isinstance(policy.engine, VLLMEngine if name.endswith("_vllm") else TransformersEngine)


def test_vllm_alone_is_what_its_part_changes() -> None:
    plain, with_vllm = (
        yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["init_args"] for name in ("qwen3_4b", "qwen3_4b_vllm")
    )
    assert {**with_vllm, "rollout_batch_size": 96} == {**plain, "engine": with_vllm["engine"]}
