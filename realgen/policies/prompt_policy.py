"""A causal language model that rewrites prompts as a policy: its decisions are the tokens of its completions.

Cached sampling and scoring round differently, so a rollout is scored once more after sampling, by the function behind
``score``: the ratio of the first update is 1 by construction; ``rewrite_statistics`` has the sampler's distance from
it. Where ``GRPOModule.old_log_probs`` is ``update``, that pass is spared. Later scores stay equal because sequences are
padded on the right, where causal attention does not see it, every chunk has the same shape, and each token's nucleus is
stored, so that a drawn token cannot leave it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from realgen.checks import check_at_least, check_pretrained
from realgen.logging_filters import no_loading_bars
from realgen.parallel import autocast_without_cache, is_sharded, world_size
from realgen.policies.base import Policy, Progress
from realgen.policies.chat import INSTRUCTION, Chat, check_instruction
from realgen.policies.language_model import checkpointed_layers, end_token_ids, linear_layers, load_language_model
from realgen.policies.lora import LoRA
from realgen.policies.network_policy import NetworkPolicy
from realgen.policies.rewriting import read_rewrites, rewrite_statistics
from realgen.policies.text_engine import Completions, TextEngine, TransformersEngine, WritingTask
from realgen.policies.token_scoring import join_token_states, score_tokens, token_state
from realgen.types import PolicyScore, Rewrite, Rollout


class PromptPolicy(NetworkPolicy):
    """Rewrites prompts with a trained language model, and draws the rewrites with a frozen image policy.

    A completion must be ``<think>..</think><answer>..</answer>``; the answer is drawn. Where the format is broken, the
    user's prompt is drawn, and its ``Rewrite`` says so; likewise where the prompt is empty or longer than
    ``max_prompt_tokens``, in rows that have no decision. ValueError if a number is out of range, ``instruction`` lacks
    ``{prompt}``, or a folder or the engine is bad.

    Args:
        pretrained: Directory of a causal language model with a chat template in transformers' format, or its hub id.
        image_policy: Draws the rewrites, never trained here; all samples of a group start from the same noise, so that
            only their texts differ. ``null`` rewrites without drawing.
        images_per_rewrite: N, images drawn of each rewrite of a rollout, at least 1; its reward is their mean.
        raw_per_group: Samples of each group that keep the prompt as it is, so that a rewrite has to be better than
            none. They have no decision.
        instruction: Text of the user turn; ``{prompt}`` is replaced by the user's prompt.
        temperature: Divides the logits, > 0. Scores are of the same distribution.
        top_p: Tokens are drawn from the fewest whose probabilities reach this, above 0, at most 1. Below 1 a rollout
            stores a bit for each token and each word of the vocabulary.
        eval_temperature: Of ``sample`` and ``rewrite``; 0 takes the most likely token, ``null``: ``temperature``.
        max_prompt_tokens: Longest prompt that is rewritten, with the instruction and the chat template around it.
        max_tokens: Longest completion.
        mask_truncated: Leave completions that did not end out of the loss (DAPO's filtering, arXiv:2503.14476).
        lora: Adapters to train; ``None`` trains the whole model.
        keep_reference: Without ``lora``, keep a frozen copy of the model for ``reference``. Doubles its memory.
        merge_adapters: Write with the adapters merged into a copy of the weights; scores, and so the ratio, do not
            change. Exact but for rounding, 1e-7; only for whole weights in float32.
        rollout_batch_size: Most rows in one sampling batch, at least 1; vLLM batches rows itself.
        score_batch_size: Rows of each scoring pass, at least 1; fewer are padded to it. A pass holds this many
            times ``max_tokens`` times the vocabulary float32 numbers, a few times over. ``microbatch_size`` should be a
            multiple of it.
        gradient_checkpointing: Recompute activations in the backward pass. Exact; slower by a third, far less memory.
        dtype: Type of the model; adapters at rest are float32 always. In bfloat16 the ratio is exactly 1 before the
            first update only where kernels round alike without and with gradient; look at ``on_policy_tolerance``.
        local_files_only: Whether a hub id is looked for only among the files already on this machine.
        trust_remote_code: Run Python files that the model brings, which can do whatever you can; not with vLLM.
        engine: Writes the completions; ``null``: ``TransformersEngine``, the trained model itself.
    """

    score_fields = frozenset({"engine_log_probs"})

    def __init__(
        self,
        pretrained: str,
        *,
        image_policy: Policy | None = None,
        images_per_rewrite: int = 1,
        raw_per_group: int = 0,
        instruction: str = INSTRUCTION,
        temperature: float = 1.0,
        top_p: float = 1.0,
        eval_temperature: float | None = None,
        max_prompt_tokens: int = 1024,
        max_tokens: int = 512,
        mask_truncated: bool = False,
        lora: LoRA | None = None,
        keep_reference: bool = False,
        merge_adapters: bool = False,
        rollout_batch_size: int = 64,
        score_batch_size: int = 8,
        gradient_checkpointing: bool = False,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        local_files_only: bool = True,
        trust_remote_code: bool | None = None,
        engine: TextEngine | None = None,
    ) -> None:
        super().__init__(lora, keep_reference=keep_reference, merge_adapters=merge_adapters)
        check_pretrained(pretrained)
        check_instruction(instruction)
        self.pretrained = pretrained
        self.instruction = instruction
        self.images_per_rewrite, self.raw_per_group = images_per_rewrite, raw_per_group
        self.temperature, self.top_p = temperature, top_p
        self.eval_temperature = temperature if eval_temperature is None else eval_temperature
        self.max_prompt_tokens, self.max_tokens = max_prompt_tokens, max_tokens
        self.mask_truncated = mask_truncated
        self.rollout_batch_size, self.score_batch_size = rollout_batch_size, score_batch_size
        self.gradient_checkpointing = gradient_checkpointing
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.local_files_only, self.trust_remote_code = local_files_only, bool(trust_remote_code)
        self.engine = TransformersEngine() if engine is None else engine
        # A tuple hides what is frozen from state_dict, optimizers and shards.
        self._image_policy = () if image_policy is None else (image_policy,)
        self._check_arguments()

    @property
    def network(self) -> Any:
        """The language model."""
        return self.model

    @property
    def image_policy(self) -> Policy | None:
        """Return the frozen image policy, which is no submodule; None if rewrites are not drawn."""
        return self._image_policy[0] if self._image_policy else None

    def _check_arguments(self) -> None:
        names = ("max_prompt_tokens", "max_tokens", "rollout_batch_size", "score_batch_size", "images_per_rewrite")
        check_at_least(1, **{name: getattr(self, name) for name in names})
        check_at_least(0, raw_per_group=self.raw_per_group)
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}; eval_temperature may be 0.")
        check_at_least(0, eval_temperature=self.eval_temperature)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}.")
        if self.merge_adapters and not isinstance(self.engine, TransformersEngine):
            raise ValueError(f"merge_adapters is for TransformersEngine, got {type(self.engine).__name__}.")
        self.engine.check(lora=self.lora, temperatures=(self.temperature, self.eval_temperature), top_p=self.top_p)

    def load(self) -> None:
        """Read the models and attach adapters, once; ValueError for no such model, no chat template or no end token."""
        if hasattr(self, "model"):
            return
        how = {"local_files_only": self.local_files_only, "trust_remote_code": self.trust_remote_code}
        how["checkpointing"] = self.gradient_checkpointing
        model, tokenizer = load_language_model(self.pretrained, self.dtype, **how)
        self.chat = Chat(tokenizer, self.instruction, self.max_prompt_tokens, end_token_ids(model))
        self.attach(model, linear_layers(model))
        for image_policy in self._image_policy:
            image_policy.load()
            image_policy.requires_grad_(False)
        self.model = model.eval()

    def check_group_size(self, group_size: int) -> None:
        """Raise ValueError for a group of raw prompts only."""
        super().check_group_size(group_size)
        if self.raw_per_group >= group_size:
            raise ValueError(f"raw_per_group must be below group_size={group_size}, got {self.raw_per_group}.")

    def rollout_chunks(
        self, prompts: Sequence[str], group_size: int, *, generator: torch.Generator, **how: Any
    ) -> Iterator[Rollout]:
        """Write ``group_size`` rewrites of each prompt, and draw N images of each, in one chunk.

        The generator is used, in this order, for one number per token and N seeds for each prompt's images. All are
        drawn before the first token, so batch sizes change nothing but rounding.
        """
        yield self._rollout(prompts, group_size, generator, how.get("progress"))

    @torch.no_grad()  # not on the generator: after the chunk its caller may need gradients
    def _rollout(
        self, prompts: Sequence[str], group_size: int, generator: torch.Generator, progress: Progress | None
    ) -> Rollout:
        self.check_group_size(group_size)
        how: dict[str, Any] = {"generator": generator, "device": generator.device}
        uniforms = torch.rand(len(prompts) * group_size, self.max_tokens, dtype=torch.float64, **how)
        seeds = torch.randint(2**32, (len(prompts), self.images_per_rewrite), **how)
        encoded = [self.chat.encode(prompt) or [] for prompt in prompts]
        chats = [chat if row < group_size - self.raw_per_group else [] for chat in encoded for row in range(group_size)]
        completions = self._write(chats, uniforms, self.temperature, "rollout", progress)
        row_prompts = [prompt for prompt in prompts for _ in range(group_size)]
        rewrites = read_rewrites(row_prompts, chats, completions, self.chat)
        mask = completions.mask & completions.ended[:, None] if self.mask_truncated else completions.mask
        state = token_state(chats, completions, self.chat.pad_id)
        texts = [rewrite.text for rewrite in rewrites for _ in range(self.images_per_rewrite)]
        images = self._draw(texts, seeds.repeat_interleave(group_size, 0).flatten().tolist(), progress)
        scored = self._log_probs(state, torch.arange(len(chats))) if self.scores_rollouts else completions.log_probs
        return Rollout(
            prompts=tuple(prompts),
            group_size=group_size,
            images=images,
            sampled=PolicyScore(scored, engine_log_probs=completions.log_probs),
            mask=mask,
            policy_state=state,
            rewrites=tuple(rewrites),
            images_per_row=self.images_per_rewrite,
        )

    def join_states(self, states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Join states whose prompts and completions differ in length."""
        return join_token_states(states, self.chat.pad_id)

    def score(self, rollout: Rollout, rows: Int[Tensor, " rows"]) -> PolicyScore:
        """Score the tokens of some rows under the distribution of the sampling, with its temperature and nucleus."""
        engine = rollout.policy_state["sampler_log_probs"]
        return PolicyScore(self._log_probs(rollout.policy_state, rows), engine_log_probs=engine[rows.to(engine.device)])

    @torch.no_grad()
    def rewrite(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> list[Rewrite]:
        """Rewrite each prompt once, the way the policy is deployed: at ``eval_temperature``, a CPU generator per row.

        Seeds are in [0, 2^32), and without effect where ``eval_temperature`` is 0.

        Raises:
            ValueError: If there are not as many seeds as prompts.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"seeds must be as many as prompts, {len(prompts)}, got {len(seeds)}.")
        sources = (torch.Generator().manual_seed(seed) for seed in seeds)
        uniforms = torch.stack([torch.rand(self.max_tokens, generator=s, dtype=torch.float64) for s in sources])
        chats = [self.chat.encode(prompt) or [] for prompt in prompts]
        completions = self._write(chats, uniforms, self.eval_temperature, "sample", progress)
        return read_rewrites(prompts, chats, completions, self.chat)

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> Float[Tensor, "rows 3 height width"]:
        """Rewrite and draw each prompt from the row's seed; ValueError without an image policy, or a seed for each."""
        return self.sample_rewritten(prompts, seeds, progress=progress)[0]

    def sample_rewritten(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> tuple[Float[Tensor, "rows 3 height width"], list[Rewrite]]:
        """Return ``sample``, and the rewrites."""
        if not self._image_policy:
            raise ValueError("PromptPolicy cannot draw: image_policy is null.")
        rewrites = self.rewrite(prompts, seeds, progress=progress)
        return self._draw([rewrite.text for rewrite in rewrites], seeds, progress), rewrites

    @property
    def transformer_evals(self) -> int:
        """Return those of the image policy."""
        return self._image_policy[0].transformer_evals if self._image_policy else 0

    def statistics(self, rollout: Rollout) -> dict[str, float]:
        """Return ``rewrite/format_rate`` and the other statistics of the rewrites; see ``rewrite_statistics``."""
        return {f"rewrite/{name}": value for name, value in rewrite_statistics(rollout).items()}

    def export(self, directory: Path) -> Path:
        """Write weights for transformers or PEFT, and return the directory, made if missing. All ranks must call it."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=self.lora is not None)
        weights: Any = get_model_state_dict(self.model, options=options)
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            with no_loading_bars():
                self.model.save_pretrained(directory, state_dict=weights)  # with adapters it writes those alone
            self.chat.tokenizer.save_pretrained(directory)
        return directory

    def _write(
        self,
        chats: Sequence[Sequence[int]],
        uniforms: Float[Tensor, "rows limit"],
        temperature: float,
        phase: str,
        progress: Progress | None,
    ) -> Completions:
        task = WritingTask(
            model=self.model,
            pretrained=self.pretrained,
            chat=self.chat,
            chats=chats,
            uniforms=uniforms,
            temperature=temperature,
            top_p=self.top_p,
            batch_size=self.rollout_batch_size,
            same_calls_everywhere=is_sharded(self) and world_size() > 1,
            progress=None if progress is None else lambda done, total: progress(phase, done, total),
        )
        with self.sampling():
            return self.engine.write(task)

    def _log_probs(self, state: Mapping[str, Tensor], rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows decisions"]:
        frozen = self._in_reference and bool(self._frozen_start)
        model = self._frozen_start[0].to(self.device) if frozen else self.model
        with checkpointed_layers(model), autocast_without_cache(self.device.type):
            return score_tokens(model, state, rows, temperature=self.temperature, batch_size=self.score_batch_size)

    def _draw(
        self, texts: Sequence[str], seeds: Sequence[int], progress: Progress | None
    ) -> Float[Tensor, "rows 3 height width"]:
        if not self._image_policy:
            return torch.zeros(len(texts), 3, 0, 0, device=self.device)
        return self._image_policy[0].to(self.device).sample(texts, seeds, progress=progress)
