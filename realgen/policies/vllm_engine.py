"""Completions by vLLM (arXiv:2309.06180), a serving engine that is several times as fast at full size."""

import importlib.util
import io
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from realgen.parallel import world_size
from realgen.policies.lora import ADAPTER, LoRA
from realgen.policies.text_engine import Completions, TextEngine, WritingTask
from realgen.policies.trained_adapters import PEFT_FILE, PREFIXES

COLDEST, HOTTEST = 0.01, 2.0
"""Range of temperatures, beside 0, that vLLM does not change."""
SEEDS = 2**53
"""Number of seeds: a row's seed is made of all bits of its first random number."""


class VLLMEngine(TextEngine):
    """Writes with a copy of the model inside vLLM, which gets the adapters before each rollout if they have changed.

    Not run by us on a GPU: written after the signatures and the source of vLLM 0.33.0, and tested against a stand-in
    that has these. Compare ``sampler_gap_max`` of the first rollout with that of ``TransformersEngine``. The ratio of
    the first update is 1 in any case, as the trained model scores every completion once more.

    - One process: with several ranks each would need an engine of its own. ``tensor_parallel_size`` spreads the engine
      itself over GPUs; the first of them holds the trained model too.
    - Adapters only: full fine-tuning is not supported, all weights would have to be sent after each update.
    - ``top_p`` is 1: a score needs the nucleus of each token, which vLLM returns only together with a ``top_k``.
    - ``entropy`` of a token is minus its log-probability, whose expectation is the entropy: vLLM returns no more.
    - A seed repeats completions only as far as vLLM's kernels round alike in batches of other sizes.

    ValueError if a number is out of its range, or vLLM is not installed.

    Args:
        tensor_parallel_size: GPUs that share the engine's copy of the model, at least 1.
        gpu_memory_utilization: Share of each GPU's memory that the engine takes at once and keeps, above 0 and below 1;
            the rest must do for training and for the image policy.
        max_lora_rank: Largest rank of adapters that it makes room for.
        dtype: Type of its copy, adapters included; best that of the policy.
        enforce_eager: Without CUDA graphs: slower, but starts sooner and takes less memory.
    """

    def __init__(
        self,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.3,
        max_lora_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = 32,
        dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16",
        enforce_eager: bool = False,
    ) -> None:
        if tensor_parallel_size < 1:
            raise ValueError(f"tensor_parallel_size must be at least 1, got {tensor_parallel_size}.")
        if not 0 < gpu_memory_utilization < 1:
            raise ValueError(f"gpu_memory_utilization must be above 0 and below 1, got {gpu_memory_utilization}.")
        if importlib.util.find_spec("vllm") is None:
            raise ValueError("VLLMEngine needs vLLM, an extra: pip install 'realgen[vllm]'.")
        self.tensor_parallel_size = tensor_parallel_size
        self.gpu_memory_utilization = gpu_memory_utilization
        self.max_lora_rank = max_lora_rank
        self.dtype = dtype
        self.enforce_eager = enforce_eager
        self._llm: Any = None
        self._lora_request: Any = None
        self._sent: dict[str, Tensor] = {}

    def check(self, *, lora: LoRA | None, temperatures: Sequence[float], top_p: float) -> None:
        """Raise ValueError for settings that vLLM does not support, or samples otherwise than the policy scores."""
        if lora is None:
            raise ValueError("engine: VLLMEngine does not support full fine-tuning, lora must not be null.")
        if lora.rank > self.max_lora_rank:
            raise ValueError(f"max_lora_rank must be at least the rank of lora, {lora.rank}, got {self.max_lora_rank}.")
        for temperature in temperatures:
            if temperature and not COLDEST <= temperature <= HOTTEST:
                raise ValueError(
                    f"temperature must be 0 or between {COLDEST} and {HOTTEST} with VLLMEngine, got {temperature}."
                )
        if top_p < 1:
            raise ValueError(
                f"top_p must be 1 with VLLMEngine, which does not return the nucleus of a token, got {top_p}."
            )

    def write(self, task: WritingTask) -> Completions:
        """Continue all rows at once, whatever ``batch_size`` is; progress counts rows. RuntimeError if vLLM fails."""
        rows = [row for row, chat in enumerate(task.chats) if chat]
        outputs = self._generate(task, rows) if rows else []
        size = max([1, *(len(output.token_ids) for output in outputs)])
        tokens = torch.full((len(task.chats), size), task.chat.pad_id)
        mask, log_probs = torch.zeros_like(tokens, dtype=torch.bool), torch.zeros(tokens.shape)
        for row, output in zip(rows, outputs, strict=True):
            if output.finish_reason not in {"stop", "length"}:
                raise RuntimeError(f"vLLM gave up on a completion: {output.finish_reason}.")
            written = slice(len(output.token_ids))
            tokens[row, written], mask[row, written] = torch.tensor(output.token_ids), True
            if task.temperature:  # at 0 the most likely token has probability 1
                choices = zip(output.token_ids, output.logprobs, strict=True)
                log_probs[row, written] = torch.tensor([options[token].logprob for token, options in choices])
        ended = (mask & torch.isin(tokens, torch.tensor(task.chat.end_ids))).any(1)
        tokens, mask, ended, log_probs = (part.to(task.model.device) for part in (tokens, mask, ended, log_probs))
        return Completions(tokens, mask, ended, log_probs, entropy=-log_probs, kept=None)

    def _generate(self, task: WritingTask, rows: Sequence[int]) -> list[Any]:
        """Return vLLM's ``CompletionOutput`` of each of the rows."""
        from vllm import SamplingParams

        limit = task.uniforms.shape[1]
        if self._llm is None:
            self._llm = self._start(task.pretrained, task.chat.max_tokens + limit)
        first = task.uniforms[:, 0].tolist()
        how = [
            SamplingParams(
                temperature=task.temperature,
                top_p=task.top_p,
                max_tokens=limit,
                seed=math.floor(first[row] * SEEDS),
                stop_token_ids=list(task.chat.end_ids),
                logprobs=0,  # of the drawn token alone
                detokenize=False,
            )
            for row in rows
        ]
        answers = self._llm.generate(
            [{"prompt_token_ids": list(task.chats[row])} for row in rows],
            how,
            use_tqdm=False if task.progress is None else partial(_ProgressBar, task.progress),
            lora_request=self._adapters(task.model),
        )
        return [answer.outputs[0] for answer in answers]

    def _start(self, pretrained: str, max_model_len: int) -> Any:
        if world_size() > 1:
            raise ValueError(f"engine: VLLMEngine is for one process, got {world_size()} ranks; set engine to null.")
        from transformers.utils import cached_file
        from vllm import LLM

        if not Path(pretrained).is_dir():  # the folder that transformers has read, so that vLLM asks no hub
            pretrained = str(Path(str(cached_file(pretrained, "config.json", local_files_only=True))).parent)
        self._folder = tempfile.TemporaryDirectory(prefix="realgen-adapters-")
        return LLM(
            model=pretrained,
            dtype=self.dtype,
            tensor_parallel_size=self.tensor_parallel_size,
            gpu_memory_utilization=self.gpu_memory_utilization,
            enforce_eager=self.enforce_eager,
            max_model_len=max_model_len,
            enable_lora=True,
            trust_remote_code=False,
            max_loras=1,
            max_lora_rank=self.max_lora_rank,
            logprobs_mode="processed_logprobs",  # after the temperature
            generation_config="vllm",  # no sampling settings of the model's own
        )

    def _adapters(self, model: Any) -> Any:
        """Return a request for the adapters: with a new number and name, by which vLLM caches, if they have changed."""
        from safetensors.torch import save_file
        from vllm.lora.request import LoRARequest

        weights = {name: p.detach() for name, p in model.named_parameters() if ".lora_" in name}
        if any(name not in self._sent or not torch.equal(p.cpu(), self._sent[name]) for name, p in weights.items()):
            self._sent = {name: p.to("cpu", copy=True) for name, p in weights.items()}
            last = self._lora_request
            number = 1 if last is None else last.lora_int_id + 1
            folder = Path(self._folder.name) / str(number)
            model.peft_config[ADAPTER].save_pretrained(folder)  # the model's own would look itself up on the hub
            renamed = {name.replace(f".{ADAPTER}.", "."): weight for name, weight in self._sent.items()}
            save_file({PREFIXES[PEFT_FILE] + name: weight for name, weight in renamed.items()}, folder / PEFT_FILE)
            self._lora_request = LoRARequest(f"realgen-{number}", number, str(folder))
            if last is not None:
                shutil.rmtree(last.lora_path)
        return self._lora_request


class _ProgressBar(tqdm):
    """A hidden bar that calls a policy's ``progress`` after each finished row."""

    def __init__(self, progress: Callable[[int, int], None], iterable: Any = None, **settings: Any) -> None:
        self._progress = progress if iterable is None else None  # over an iterable it counts what was handed in
        super().__init__(iterable, **{**settings, "file": io.StringIO()})

    def update(self, n: Any = 1) -> bool | None:
        shown = super().update(n)
        if self._progress is not None:
            self._progress(int(self.n), int(self.total))
        return shown
