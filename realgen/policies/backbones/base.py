"""The contract of a backbone: a flow-matching model of diffusers, taken apart into the steps that GRPO needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from realgen.checks import check_at_least, check_pretrained
from realgen.on_demand import on_device
from realgen.phases import phase


class Schedule(NamedTuple):
    """The noise levels of a denoising run, from the model's own scheduler."""

    sigmas: Float[Tensor, " nodes"]
    """[T + 1] falling from at most 1 to 0; step i goes from sigmas[i] to sigmas[i + 1]."""
    timesteps: Float[Tensor, " steps"]
    """[T] the transformer's time argument at each step."""


class Backbone(ABC):
    """A base model. Not an ``nn.Module``: only its ``transformer`` is trained, and the policy registers that.

    The other parts (text encoders, VAE) are frozen, in eval mode, and stay out of state dicts, optimizers and shards.
    The constructor reads no weights.

    Args:
        pretrained: Directory of the model in diffusers' format, or its hub id.
        cfg_scale: Classifier-free guidance (arXiv:2207.12598), with two transformer rows for each row; at ``cfg_off``
            and below there is none. Subclasses name it as the model's pipeline does, ``cfg_setting``.
        negative_prompt: What guidance leads away from; only with guidance.
        cache_size: Texts whose embeddings are kept, the latest used first; at least those of an iteration. Exact.
    """

    lora_targets: tuple[str, ...]
    """Linear layers that adapters change unless the config says otherwise; all of them, after ``load``."""
    cfg_setting: ClassVar[str] = "guidance_scale"
    """The constructor's name for ``cfg_scale``."""
    cfg_off: ClassVar[float] = 1.0
    """The largest ``cfg_scale`` without guidance."""
    transformer: nn.Module
    """Predicts the velocity; there after ``load``."""
    frozen_on_demand = False
    """Whether the frozen parts wait on the CPU, and lie on ``device`` only while they compute."""

    def __init__(
        self, pretrained: str, *, cfg_scale: float = 1.0, negative_prompt: str = "", cache_size: int = 256
    ) -> None:
        check_pretrained(pretrained)
        check_at_least(0, **{self.cfg_setting: cfg_scale})
        if negative_prompt and cfg_scale <= self.cfg_off:
            off = f"{self.cfg_off:g}"
            raise ValueError(
                f"negative_prompt has an effect only with {self.cfg_setting} above {off}, got {cfg_scale}."
            )
        check_at_least(1, cache_size=cache_size)
        self.pretrained = pretrained
        self.cfg_scale = cfg_scale
        self.negative_prompt = negative_prompt
        self.cache_size = cache_size
        self.device = torch.device("cpu")
        self._embeddings: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    @abstractmethod
    def load(self) -> None:
        """Read the weights onto the CPU, once; ValueError if there is no such model, with where it was looked for."""

    @abstractmethod
    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return one image's latent shape, for example (C, h, w); ValueError for a size that the model cannot draw."""

    @abstractmethod
    def schedule(self, num_steps: int, height: int, width: int) -> Schedule:
        """Return sigmas and timesteps of a run of ``num_steps`` steps, on the CPU, in float32."""

    @abstractmethod
    def velocity(
        self,
        latents: Float[Tensor, "rows *latent"],
        timesteps: Float[Tensor, " rows"],
        conditioning: Mapping[str, Tensor],
    ) -> Float[Tensor, "rows *latent"]:
        """Predict noise minus data, guidance included.

        Gradient flows through all of it, also through the negative prompt's part, where RealGen stops it for SD3.

        Args:
            latents: At least float32; the transformer gets its own type.
            timesteps: Entries of ``Schedule.timesteps``, one per row.
            conditioning: What ``encode_prompts`` returned, one entry per row.

        Returns:
            Velocity, at least float32.
        """

    @abstractmethod
    def decode(self, latents: Float[Tensor, "rows *latent"]) -> Float[Tensor, "rows 3 height width"]:
        """Decode finished latents into images in [0, 1], in float32 even under autocast."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """Return the transformer's blocks in order, to be sharded one by one."""

    @abstractmethod
    def save_adapter(self, directory: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Write adapters so that the stock pipeline's ``load_lora_weights(directory)`` reads them."""

    @abstractmethod
    def save_transformer(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Write a whole transformer so that its diffusers class reads it with ``from_pretrained(directory)``."""

    @abstractmethod
    def frozen(self) -> list[nn.Module]:
        """Return text encoders and decoder."""

    @abstractmethod
    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Embed one prompt, without its row axis and without the cache.

        Where texts differ in length, the parts begin with the token axis, and one of them is ``mask``, all true. It
        stays on the CPU: lengths are asked for in every call, and the host would wait for the device to tell them.
        """

    @property
    def guided(self) -> bool:
        """Whether each velocity needs a second transformer row for the negative prompt."""
        return self.cfg_scale > self.cfg_off

    @property
    def evals_per_row(self) -> int:
        """Transformer rows that one row of ``velocity`` costs."""
        return 2 if self.guided else 1

    def to(self, device: torch.device) -> Backbone:
        """Move the frozen parts and the kept embeddings; the transformer follows the policy. Returns self."""
        if device != self.device:
            for module in [] if self.frozen_on_demand else self.frozen():
                module.to(device)
            for parts in self._embeddings.values():
                parts.update({name: part.to(device) for name, part in parts.items() if name != "mask"})
            self.device = device
        return self

    def needed(self, *parts: nn.Module) -> AbstractContextManager[None]:
        """Return a context inside which frozen parts lie on ``device``."""
        return on_device(parts, self.device) if self.frozen_on_demand else nullcontext()

    @phase("text encoding")
    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Embed prompts, each text once as long as it stays in the cache.

        The parts have the first axis P; with guidance there are also those of the negative prompt, ``negative_<part>``.
        Texts shorter than the longest end in zeros (false in ``mask``).
        """
        # One by one: the bits must not depend on the other prompts of a call, or a resumed run, whose cache is empty,
        # would differ from an uninterrupted one.
        texts = [*([self.negative_prompt] if self.guided else []), *prompts]
        waiting = self.frozen_on_demand and not all(text in self._embeddings for text in texts)
        with self.needed(*self.frozen()) if waiting else nullcontext():
            rows = [self._embed(text) for text in texts]
        negative = rows.pop(0) if self.guided else {}
        while len(self._embeddings) > self.cache_size:
            self._embeddings.popitem(last=False)
        return {name: pad_sequence([row[name] for row in rows], batch_first=True) for name in rows[0]} | {
            f"negative_{name}": part.expand(len(rows), *part.shape) for name, part in negative.items()
        }

    def _embed(self, prompt: str) -> dict[str, Tensor]:
        if prompt not in self._embeddings:
            with torch.autocast(self.device.type, enabled=False):
                self._embeddings[prompt] = self.encode(prompt)
        self._embeddings.move_to_end(prompt)
        return self._embeddings[prompt]
