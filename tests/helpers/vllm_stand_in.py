"""A stand-in for vLLM with the signatures of vLLM 0.33.0, as far as realgen calls it: transformers and PEFT inside.

Like vLLM it reads adapters once for each number and keeps them, hands back rows with their end token, and tells each
finished row to the bar that it was given.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch


@dataclass
class SamplingParams:
    """Those of the wheel's fields that decide what is written, with its defaults."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    load_inplace: bool = False


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool


class LLM:
    """Writes row by row; ``made`` holds all that there are, ``calls`` what each was asked."""

    made: ClassVar[list[LLM]] = []
    gives_up = False
    """Whether rows are aborted."""

    def __init__(
        self,
        model: str,
        *,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        enforce_eager: bool = False,
        max_model_len: int | None = None,  # from here on fields of EngineArgs
        enable_lora: bool = False,
        max_loras: int = 1,
        max_lora_rank: int = 16,
        logprobs_mode: str = "raw_logprobs",
        generation_config: str = "auto",
    ) -> None:
        self.settings = {name: value for name, value in locals().items() if name != "self"}
        self.calls: list[dict[str, Any]] = []
        self._adapted: dict[int, Any] = {}
        self.made.append(self)

    def generate(
        self,
        prompts: Sequence[dict[str, Any]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool | Callable[..., Any] = True,
        lora_request: Sequence[LoRARequest] | LoRARequest | None = None,
        priority: int | Sequence[int] | None = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        self.calls.append({"prompts": prompts, "how": sampling_params, "lora": lora_request})
        model = self._model(lora_request)
        if callable(use_tqdm):
            prompts = list(use_tqdm(prompts, desc="Rendering prompts"))
            bar = use_tqdm(total=len(prompts), desc="Processed prompts", dynamic_ncols=True, postfix="est. speed")
        outputs = []
        for number, (prompt, how) in enumerate(zip(prompts, sampling_params, strict=True)):
            asked = prompt["prompt_token_ids"]
            assert len(asked) + how.max_tokens <= self.settings["max_model_len"]
            outputs.append(RequestOutput(str(number), asked, [self._write(model, asked, how)], finished=True))
            if callable(use_tqdm):
                assert bar.format_dict["elapsed"] > 0
                bar.postfix = "est. speed"
                bar.update(1)
        if callable(use_tqdm):
            bar.close()
        return outputs

    def _model(self, request: LoRARequest) -> Any:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        if request.lora_int_id not in self._adapted:
            model = AutoModelForCausalLM.from_pretrained(self.settings["model"])
            self._adapted[request.lora_int_id] = PeftModel.from_pretrained(model, request.lora_path).eval()
        return self._adapted[request.lora_int_id]

    @torch.no_grad()
    def _write(self, model: Any, asked: list[int], how: SamplingParams) -> CompletionOutput:
        if self.gives_up:
            return CompletionOutput(0, "", [], None, [], finish_reason="abort")
        generator = torch.Generator().manual_seed(how.seed)
        tokens: list[int] = []
        told: list[dict[int, Logprob]] = []
        reason = "length"
        while len(tokens) < how.max_tokens and reason == "length":
            logits = model(torch.tensor([[*asked, *tokens]])).logits[0, -1]
            log_probs = (logits / (how.temperature or 1)).log_softmax(-1)
            drawn = torch.multinomial(log_probs.exp(), 1, generator=generator) if how.temperature else logits.argmax()
            tokens.append(int(drawn))
            told.append({tokens[-1]: Logprob(float(log_probs[tokens[-1]]), rank=1)})
            if tokens[-1] in how.stop_token_ids:
                reason = "stop"
        return CompletionOutput(0, "", tokens, None, told, finish_reason=reason)


def install(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    """Put the stand-in where ``import vllm`` finds it, until the test ends."""
    modules = {name: ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request")}
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None, is_package=name != "vllm.lora.request")
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(LLM, "made", [])
    modules["vllm"].__dict__.update(LLM=LLM, SamplingParams=SamplingParams)
    modules["vllm.lora.request"].__dict__.update(LoRARequest=LoRARequest)
    return LLM
