"""The layer between a policy and vLLM, on a stand-in with vLLM's signatures: vLLM itself needs a GPU."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from realgen.policies import LoRA, PromptPolicy, VLLMEngine
from realgen.policies.rewriting import rewrite_statistics
from tests.helpers import vllm_stand_in

PROMPTS = ("a cat", "", "галактика")


@pytest.fixture
def llm(monkeypatch):
    return vllm_stand_in.install(monkeypatch)


@pytest.fixture
def make(llm, make_rewriter):
    def make(**settings):
        return make_rewriter(**{"engine": VLLMEngine(dtype="float32", max_lora_rank=8), "temperature": 0.7, **settings})

    return make


def roll(policy, seed=0, prompts=PROMPTS, **how):
    return policy.rollout(prompts, 3, generator=torch.Generator().manual_seed(seed), **how)


def test_vllm_is_asked_for_what_the_policy_scores(make, llm, tiny_llm):
    policy = make()
    rollout = roll(policy)
    (engine,) = llm.made
    assert engine.settings == {
        "model": tiny_llm,
        "trust_remote_code": False,
        "dtype": "float32",
        "tensor_parallel_size": 1,
        "gpu_memory_utilization": 0.3,
        "enforce_eager": False,
        "max_model_len": 64 + 10,
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": 8,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
        "seed": 0,
    }
    ((call),) = engine.calls
    asked = [policy.chat.encode(prompt) for prompt in ("a cat", "галактика") for _ in range(3)]
    assert [prompt["prompt_token_ids"] for prompt in call["prompts"]] == asked  # the empty prompt is not asked
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(9, 10, dtype=torch.float64, generator=generator)[:, 0].tolist()
    seeds = [math.floor(first[row] * 2**53) for row in (0, 1, 2, 6, 7, 8)]
    assert [how.seed for how in call["how"]] == seeds
    assert len(set(seeds)) == 6
    for how in call["how"]:
        expected = {"temperature": 0.7, "top_p": 1.0, "max_tokens": 10, "logprobs": 0, "detokenize": False, "n": 1}
        assert {name: getattr(how, name) for name in expected} == expected
        assert how.stop_token_ids == policy.chat.end_ids
    assert [bool(row.any()) for row in rollout.mask] == [True] * 3 + [False] * 3 + [True] * 3
    assert [rewrite.skipped for rewrite in rollout.rewrites] == [False] * 3 + [True] * 3 + [False] * 3


def test_completions_are_what_vllm_wrote_and_score_as_it_said(make, llm, stir):
    policy = make()
    stir(policy)
    rollout = roll(policy)
    again = policy.score(rollout, torch.tensor([8, 0]))
    assert torch.equal(again.log_probs.detach()[1][rollout.mask[0]], rollout.sampled.log_probs[0][rollout.mask[0]])
    assert torch.equal(again.engine_log_probs, rollout.sampled.engine_log_probs[[8, 0]])
    gap = (rollout.sampled.engine_log_probs - rollout.sampled.log_probs)[rollout.mask].abs()
    assert 0 < gap.max() < 5e-5
    statistics = rewrite_statistics(rollout)
    assert statistics["sampler_gap_max"] < 5e-5  # the stand-in reads the adapters with PEFT
    assert statistics["entropy"] == pytest.approx(-float(rollout.sampled.log_probs[rollout.mask].mean()), abs=1e-4)
    lengths = rollout.mask.sum(1).tolist()
    assert len(set(lengths)) > 2
    ends = set(policy.chat.end_ids)
    for row, rewrite in enumerate(rollout.rewrites):
        size = lengths[row]
        start = int(rollout.policy_state["prompt_lengths"][row])
        tail = rollout.policy_state["tokens"][row, start : start + size].tolist()
        assert not ends.intersection(tail[:-1])
        assert rewrite.truncated == (size > 0 and tail[-1] not in ends)
        assert rollout.policy_state["tokens"][row, start + size :].eq(policy.chat.pad_id).all()
        assert rewrite.completion == policy.chat.decode(tail if rewrite.truncated else tail[:-1])


def test_adapters_are_handed_over_when_they_have_changed(make, llm, stir):
    policy = make()
    roll(policy)
    roll(policy, seed=1)
    stir(policy)
    roll(policy)
    policy.rewrite(["a cat"], [0])
    (engine,) = llm.made
    requests = [call["lora"] for call in engine.calls]
    assert [request.lora_int_id for request in requests] == [1, 1, 2, 2]
    assert [request.lora_name for request in requests] == ["realgen-1"] * 2 + ["realgen-2"] * 2
    assert not Path(requests[0].lora_path).exists()
    assert (Path(requests[2].lora_path) / "adapter_model.safetensors").is_file()
    assert (Path(requests[2].lora_path) / "adapter_config.json").is_file()
    assert roll(policy).rewrites != roll(make()).rewrites


def test_adapters_have_the_names_of_peft(make, llm, tiny_llm):
    from safetensors import safe_open

    policy = make()  # the folder goes with it
    roll(policy)
    folder = Path(llm.made[0].calls[0]["lora"].lora_path)
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        names = set(file.keys())
    layers = [name for name, part in AutoModelForCausalLM.from_pretrained(tiny_llm).named_modules() if "_proj" in name]
    assert names == {f"base_model.model.{layer}.lora_{side}.weight" for layer in layers for side in "AB"}


def test_a_seed_gives_the_same_rewrites_again(make, llm):
    policy = make()
    first, again, other = roll(policy), roll(policy), roll(policy, seed=1)
    assert first.rewrites == again.rewrites != other.rewrites
    one = policy.rewrite(["a cat"], [5])
    assert policy.rewrite(["a dog", "a cat"], [4, 5])[1] == one[0]


def test_greedy_rewrites_are_those_of_transformers(make, make_rewriter):
    prompts, seeds = ["a cat", "галактика"], [0, 1]
    policy = make(eval_temperature=0.0)
    assert policy.rewrite(prompts, seeds) == make_rewriter(eval_temperature=0.0).rewrite(prompts, seeds)


def test_nothing_to_write_asks_for_nothing(make, llm):
    rollout = roll(make(), prompts=("", "\x00"))
    assert rollout.mask.shape == (6, 1)
    assert not rollout.mask.any()
    assert not llm.made


def test_progress_counts_finished_rows(make, capsys):
    policy, told = make(), []
    roll(policy, progress=lambda *report: told.append(report))
    assert told[-1] == ("rollout", 6, 6)
    assert told == sorted(set(told))
    assert "prompts" not in capsys.readouterr().err  # the descriptions of vLLM's bars


def test_a_row_that_was_given_up_is_an_error(make, llm, monkeypatch):
    monkeypatch.setattr(llm, "gives_up", True)
    with pytest.raises(RuntimeError, match="vLLM gave up on a completion: abort"):
        roll(make())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora": None}, "VLLMEngine does not support full fine-tuning, lora must not be null"),
        ({"lora": LoRA(rank=16)}, "max_lora_rank must be at least the rank of lora, 16, got 8"),
        ({"top_p": 0.9}, "top_p must be 1 with VLLMEngine"),
        ({"temperature": 2.5}, r"temperature must be 0 or between 0.01 and 2.0 with VLLMEngine, got 2.5"),
        ({"eval_temperature": 0.001}, r"temperature must be 0 or between 0.01 and 2.0 with VLLMEngine, got 0.001"),
    ],
)
def test_settings_of_a_policy_that_vllm_cannot_write_for(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tensor_parallel_size": 0}, "tensor_parallel_size must be at least 1, got 0"),
        ({"gpu_memory_utilization": 1.0}, "gpu_memory_utilization must be above 0 and below 1, got 1.0"),
    ],
)
def test_impossible_settings_are_refused(llm, settings, message):
    with pytest.raises(ValueError, match=message):
        VLLMEngine(**settings)


def test_without_vllm_it_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'realgen\[vllm\]'"):
        VLLMEngine()


def test_several_ranks_are_refused(make, monkeypatch):
    monkeypatch.setattr("realgen.policies.vllm_engine.world_size", lambda: 2)
    with pytest.raises(ValueError, match="VLLMEngine is for one process, got 2 ranks"):
        roll(make())


def test_a_hub_id_is_read_from_where_transformers_put_it(llm, tiny_llm, tmp_path, monkeypatch):
    cached = tmp_path / "models--some--model"
    (cached / "snapshots").mkdir(parents=True)
    (cached / "snapshots" / "abc").symlink_to(tiny_llm)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    policy = PromptPolicy(
        "some/model", instruction="{prompt}", max_tokens=2, lora=LoRA(rank=4), engine=VLLMEngine(dtype="float32")
    )
    policy.load()
    policy.rewrite(["a cat"], [0])
    assert llm.made[0].settings["model"] == str(cached / "snapshots" / "abc")
