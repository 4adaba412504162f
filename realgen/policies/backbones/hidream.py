"""HiDream-I1 (arXiv:2505.22705), and every model in the format of diffusers' ``HiDreamImagePipeline``."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.logging_filters import no_loading_bars
from realgen.policies.backbones.base import Schedule
from realgen.policies.backbones.pipeline import PipelineBackbone


class HiDream(PipelineBackbone):
    """The parts of a ``HiDreamImagePipeline``, called in the order in which that pipeline calls them.

    The pipeline draws all the pixels that the model has places for, whatever the size it is asked for; here fewer are
    possible. Every expert computes every token, and a token takes its own experts' answers: exact, with no wait for the
    device, in whole graphs, at twice the FLOPs; in the pipeline's way, no gradient flows through the experts. A
    multistep scheduler (``UniPCMultistepScheduler``) gives way to Euler steps with its shift.

    Args:
        pretrained: Directory of a ``HiDreamImagePipeline``, or its hub id; no model that is distilled to few steps.
        llama: Directory or hub id of the fourth text encoder, Llama-3.1-8B-Instruct; ``None``: in ``pretrained``.
        guidance_scale: Classifier-free guidance w, v_negative + w (v - v_negative), by two rows for each; 1: none.
        max_sequence_length: Tokens to which each text encoder's text is padded or cut.
        **settings: Of ``PipelineBackbone``.
    """

    pipeline_class: ClassVar[str] = "HiDreamImagePipeline"
    unused_parts: ClassVar[tuple[str, ...]] = ("text_encoder_4", "tokenizer_4")  # read by itself
    lora_targets: tuple[str, ...] = (
        *(f"attn1.{name}{text}" for text in ("", "_t") for name in ("to_q", "to_k", "to_v", "to_out")),
        *(f"{part}.{name}" for part in ("shared_experts", "ff_t") for name in ("w1", "w2", "w3")),
    )

    def __init__(
        self,
        pretrained: str,
        *,
        llama: str | None = None,
        guidance_scale: float = 1.0,
        max_sequence_length: int = 128,
        **settings: Any,
    ) -> None:
        super().__init__(pretrained, cfg_scale=guidance_scale, max_sequence_length=max_sequence_length, **settings)
        self.llama = llama

    def _read(self) -> Any:
        from transformers import AutoTokenizer, LlamaForCausalLM

        pipeline, place = super()._read(), self.llama or self.pretrained
        for name, kind in (("text_encoder_4", LlamaForCausalLM), ("tokenizer_4", AutoTokenizer)):
            where = {"subfolder": "" if self.llama else name, "local_files_only": self.local_files_only}
            with torch.device("cpu"), no_loading_bars():
                pipeline.register_modules(**{name: kind.from_pretrained(place, trust_remote_code=False, **where)})
        pipeline.text_encoder_4.to(self.dtype)
        pipeline.tokenizer_4.pad_token = pipeline.tokenizer_4.eos_token
        return pipeline

    def use_pipeline(self, pipeline: Any) -> None:
        """Take a pipeline's networks, with experts that have gradients; ValueError too for a scheduler of few steps."""
        from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
        from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU

        super().use_pipeline(pipeline)
        if isinstance(pipeline.scheduler, UniPCMultistepScheduler):
            pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=pipeline.scheduler.config.flow_shift)
        if (kind := type(pipeline.scheduler)) is not FlowMatchEulerDiscreteScheduler:
            raise ValueError(f"pretrained must not be distilled to few steps: {self.pretrained!r}, {kind.__name__}.")
        for module in pipeline.transformer.modules():
            if isinstance(module, MOEFeedForwardSwiGLU):
                module.moe_infer = partial(_mixed, module.experts)

    def tokens(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of image tokens; ValueError too if they are more than the model has places for."""
        rows, columns = super().tokens(height, width)
        if rows * columns > (most := self._pipeline.transformer.max_seq):
            raise ValueError(f"height, width: {self.pretrained!r} has {most} places, got {rows} x {columns} tokens.")
        return rows, columns

    def schedule(self, num_steps: int, height: int, width: int) -> Schedule:
        """Return the scheduler's sigmas and timesteps, which do not depend on the size."""
        from diffusers.pipelines.hidream_image.pipeline_hidream_image import calculate_shift

        return self._set_timesteps(num_steps, mu=calculate_shift(self._pipeline.transformer.max_seq))

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Return token embeddings of T5 [tokens, dim] and Llama [tokens, layers, dim], and CLIP's pooled ones [dim]."""
        settings = {"do_classifier_free_guidance": False, "max_sequence_length": self.max_sequence_length}
        t5, _, llama, _, pooled, _ = self._pipeline.encode_prompt([prompt], device=self.device, **settings)
        return {"embeds": t5[0], "llama": llama[:, 0].transpose(0, 1), "pooled": pooled[0]}

    def predict(
        self, latents: Float[Tensor, "rows *latent"], timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows *latent"]:
        """Return the transformer's velocity, data minus noise, turned round; see ``PipelineBackbone``."""
        tokens, mask, _, places = self._pipeline.transformer.patchify(latents)
        return -self.transformer(
            hidden_states=tokens,
            timesteps=timesteps,
            encoder_hidden_states_t5=text["embeds"],
            encoder_hidden_states_llama3=text["llama"].permute(2, 0, 1, 3),  # [layers, B, tokens, dim]
            pooled_embeds=text["pooled"],
            img_ids=places,
            img_sizes=[tuple(side // 2 for side in latents.shape[2:])] * len(latents),  # not to be read from the device
            hidden_states_masks=tokens.new_ones(tokens.shape[:2]) if mask is None else mask,
            return_dict=False,
        )[0]

    def blocks(self) -> list[nn.Module]:
        """Return the blocks of two streams, then those of one."""
        return [*self._pipeline.transformer.double_stream_blocks, *self._pipeline.transformer.single_stream_blocks]


@no_type_check  # whose check, in tests, compiled blocks would be compiled again for
def _mixed(experts: nn.ModuleList, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of each token's [tokens, dim] chosen experts' answers times their weights [tokens x chosen, 1]."""
    rows = tokens.shape[0]  # not len, which would fix it in compiled blocks
    shares = tokens.new_zeros(rows, len(experts)).scatter(1, chosen.view(rows, -1), weights.view(rows, -1))
    return torch.stack([expert(tokens) * shares[:, i, None] for i, expert in enumerate(experts)]).sum(dim=0)
