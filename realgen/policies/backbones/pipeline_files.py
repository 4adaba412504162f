"""How a backbone is read from a text-to-image pipeline of diffusers, and what was trained is written for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from realgen.checks import check_at_least, check_choice, check_tokenizer, first_line
from realgen.hub_files import how_to_fetch
from realgen.logging_filters import no_loading_bars, report_truncation_once
from realgen.policies.backbones.base import Backbone
from realgen.policies.backbones.pipeline_options import attention_backends, set_attention_backend, set_tiles
from realgen.quantization import EightBits, check_quantization, quantize_weights

Dtype = Literal["float32", "bfloat16", "float16"]


class PipelineFiles(Backbone):
    """A backbone that is read from a pipeline of diffusers, and saved for it.

    Args:
        pretrained: Directory of a pipeline, or its hub id.
        max_sequence_length: Text tokens, 1 to ``longest_text``; the model pads or cuts every text to so many.
        dtype: Type of the transformer and the text encoders; the VAE is always float32. For full fine-tuning take
            float32 and let the trainer's precision do the rest.
        local_files_only: Whether a hub id is looked for only among the files already on this machine.
        attention_backend: Kernel of the transformer's attention, by diffusers' name (``flash``, ``_flash_3_hub``,
            ``_native_cudnn``); ``None``: PyTorch's choice. Exact but for rounding, which is the same in rollout and
            score. The plan counts the same FLOPs for all. SD3's attention knows no other than PyTorch's.
        text_encoder_bits: ``int8`` or ``float8`` stores the text encoders' linear layers in 8 bits, which takes the
            extra ``quantized``; ``None``: as ``dtype``. Approximate: embeddings move, the same in rollout and score.
            The plan halves their bytes.
        vae_tile_size: Images with a side of more pixels are decoded in overlapping tiles of this size, a multiple of 4
            VAE factors (32 pixels, mostly); ``None``: in one piece. Approximate: seams are blended. By the plan, tiles
            of 512 decode FLUX's 1024 pixels with 0.8 GiB of activations, not 3.0, and half more FLOPs.
        **settings: Of ``Backbone``.
    """

    pipeline_class: ClassVar[str]
    """Name of the pipeline's class in diffusers."""
    transformer_class: Any
    """Of diffusers; there after ``load``."""
    longest_text: ClassVar[int] = 512
    """Largest ``max_sequence_length`` that the pipeline takes."""
    unused_parts: ClassVar[tuple[str, ...]] = ()
    """Optional components that are not read."""

    def __init__(
        self,
        pretrained: str,
        *,
        max_sequence_length: int = 512,
        dtype: Dtype = "float32",
        local_files_only: bool = True,
        attention_backend: str | None = None,
        text_encoder_bits: EightBits | None = None,
        vae_tile_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(pretrained, **settings)
        if not 1 <= max_sequence_length <= self.longest_text:
            raise ValueError(
                f"max_sequence_length must be between 1 and {self.longest_text}, got {max_sequence_length}."
            )
        check_at_least(1, vae_tile_size=vae_tile_size)
        if attention_backend is not None:
            check_choice("attention_backend", attention_backend, attention_backends())
        check_quantization(text_encoder_bits)
        self.attention_backend, self.text_encoder_bits = attention_backend, text_encoder_bits
        self.vae_tile_size = vae_tile_size
        self.max_sequence_length = max_sequence_length
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.local_files_only = local_files_only
        self._pipeline: Any = None

    def load(self) -> None:
        """Read the pipeline onto the CPU, once; ValueError if ``pretrained`` holds none with these settings."""
        if self._pipeline is not None:
            return
        try:
            pipeline = self._read()
        except (OSError, ValueError) as error:
            to_do = ""
            if self.local_files_only and not Path(self.pretrained).is_dir():
                to_do = f"{how_to_fetch(self.pretrained)} Or set local_files_only to false."
            raise ValueError(
                f"pretrained must hold a {self.pipeline_class} in diffusers' format, got {self.pretrained!r} "
                f"(local_files_only={self.local_files_only}): {first_line(error)}{to_do}"
            ) from error
        self.use_pipeline(pipeline)

    def use_pipeline(self, pipeline: Any) -> None:
        """Take a pipeline's networks in place of ``load``; ValueError if they cannot have these settings."""
        if (kind := type(pipeline).__name__) != self.pipeline_class:
            raise ValueError(
                f"pretrained must hold a {self.pipeline_class} for {type(self).__name__}, got {self.pretrained!r}, "
                f"a {kind}."
            )
        self._pipeline, self.transformer_class = pipeline, type(pipeline.transformer)
        self.transformer = pipeline.transformer.eval()
        for module in self.frozen():
            channels_last(module.eval().requires_grad_(False))
            if module is not pipeline.vae:
                quantize_weights(module, self.text_encoder_bits)
        if self.attention_backend is not None:
            set_attention_backend(pipeline.transformer, self.attention_backend)
        if self.vae_tile_size is not None:
            set_tiles(pipeline.vae, self.vae_tile_size, self.vae_factor)

    def _read(self) -> Any:
        import diffusers

        pipeline_class: Any = getattr(diffusers, self.pipeline_class)
        where: dict[str, Any] = {"local_files_only": self.local_files_only}
        index = pipeline_class.load_config(self.pretrained, **where)
        if index["_class_name"] != self.pipeline_class:
            raise ValueError(f"it holds a {index['_class_name']}.")
        # Diffusers reads a pipeline without one of its parts, such as SD3's T5, only if None is passed for it.
        absent = {name: None for name, entry in index.items() if isinstance(entry, list) and entry[0] is None}
        absent |= dict.fromkeys(self.unused_parts)
        report_truncation_once()
        with torch.device("cpu"), no_loading_bars():
            pipeline = pipeline_class.from_pretrained(
                self.pretrained,
                dtype={"vae": torch.float32, "default": self.dtype},
                trust_remote_code=False,
                **where,
                **absent,
            )
        for name, tokenizer in pipeline.components.items():
            if name.startswith("tokenizer") and tokenizer is not None:
                encoder = pipeline.components[name.replace("tokenizer", "text_encoder")]
                tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor of texts and images
                check_tokenizer(tokenizer, encoder.get_input_embeddings().num_embeddings, name)
        return pipeline

    @property
    def vae_factor(self) -> int:
        """Pixels of an image that are one of the VAE's latent, in each direction; there after ``load``."""
        return self._pipeline.vae_scale_factor

    @property
    def vae(self) -> Any:
        """The decoder, in float32; there after ``load``."""
        return self._pipeline.vae

    def frozen(self) -> list[nn.Module]:
        """Return the text encoders and the VAE."""
        parts = self._pipeline.components.items()
        return [part for name, part in parts if isinstance(part, nn.Module) and name != "transformer"]

    def save_adapter(self, directory: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Write ``pytorch_lora_weights.safetensors``."""
        self._pipeline.save_lora_weights(
            directory, transformer_lora_layers=dict(weights), transformer_lora_adapter_metadata=dict(config)
        )

    def save_transformer(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Write ``config.json`` and the weights, for ``from_pretrained`` of the transformer's class."""
        with torch.device("meta"):
            transformer = self.transformer_class.from_config(self._pipeline.transformer.config)
        transformer.load_state_dict(weights, assign=True)
        transformer.save_pretrained(directory)


def channels_last(module: nn.Module) -> None:
    """Lay out 2-D convolutions' weights channels last, in place: exact but for rounding, a fifth faster on a CPU."""
    for weight in module.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
