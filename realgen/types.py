"""The letters of the code, and the data that flows through one GRPO iteration.

P prompts of one rank and iteration; G samples of one prompt (``group_size``); B = P * G rows, prompt-major, so
row = p * G + g; S decisions of one sample (tokens of a completion, stochastic denoising steps inside the window, or
draws of noise on the finished latent); b rows of a micro-batch. Images are [rows, 3, H, W] in [0, 1]; latents are
[rows, C, h, w].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """The Gaussian that a stochastic denoising step drew from: x' = mean + std * noise."""

    mean: Float[Tensor, "rows decisions *latent"]
    """[b, S, C, h, w] mean of the next latent."""
    std: Float[Tensor, "rows decisions"]
    """[b, S] standard deviation of the next latent, the step size included."""
    step_size: Float[Tensor, "rows decisions"]
    """[b, S] sigma_i - sigma_{i+1} > 0."""
    sample: Float[Tensor, "rows decisions *latent"]
    """[b, S, C, h, w] x' that was drawn."""
    mean_std: Float[Tensor, " rows"] | None = None
    """[b] mean of ``std`` over all steps of the schedule, if each took the same transition."""


@dataclass(frozen=True)
class Draw:
    """Draws of (sigma, noise) on a finished latent: the state is (1 - sigma) * latent + sigma * noise."""

    target: Float[Tensor, "rows decisions *latent"]
    """[b, S, C, h, w] noise minus latent, the velocity to regress to."""
    sigma: Float[Tensor, "rows decisions"]
    """[b, S] noise level, above 0 to 1."""
    error: str
    """How errors are weighted: a name of ``functional.matching``."""


@dataclass(frozen=True)
class PolicyScore:
    """Log-probabilities of decisions already taken. Fields that a policy does not provide are ``None``."""

    log_probs: Float[Tensor, "rows decisions"]
    """[b, S] log-probability of each decision; for diffusion the mean over the elements of the latent."""
    gaussian: Gaussian | None = None
    """The steps' Gaussians (a diffusion policy's window only)."""
    velocity: Float[Tensor, "rows decisions *latent"] | None = None
    """[b, S, C, h, w] guided flow velocity, noise minus data (diffusion only)."""
    draw: Draw | None = None
    """The draws (a diffusion policy's only); then a log-probability is minus the weighted error."""
    engine_log_probs: Float[Tensor, "rows decisions"] | None = None
    """[b, S] log-probability of each token to the engine that drew it (a policy of texts only)."""

    def select(self, rows: Int[Tensor, " picked"]) -> PolicyScore:
        """Return the score of the given rows."""
        return _map_tensors(lambda part: part[rows], self)

    @staticmethod
    def concatenate(scores: Sequence[PolicyScore]) -> PolicyScore:
        """Join the scores of consecutive rows; an optional field must be present in all of them or in none."""
        return _map_tensors(lambda *parts: torch.cat(parts), *scores)

    def lengthen(self, decisions: int) -> PolicyScore:
        """Return the score with zeros for more decisions, which a mask must leave out."""
        return _map_tensors(lambda part: lengthen(part, decisions), self)


def lengthen(tensor: Tensor, size: int, value: int = 0) -> Tensor:
    """Fill the second axis [rows, n, ...], where there is one, up to a size of at least n."""
    if tensor.ndim < 2 or tensor.shape[1] == size:
        return tensor
    longer = tensor.new_full((len(tensor), size, *tensor.shape[2:]), value)
    longer[:, : tensor.shape[1]] = tensor
    return longer


def _map_tensors(change: Callable[..., Tensor], *parts: Any) -> Any:
    """Apply a function to the tensors of equally built dataclasses, field by field; keep everything else."""
    if isinstance(parts[0], Tensor):
        return change(*parts)
    if not is_dataclass(parts[0]) or isinstance(parts[0], type):
        return parts[0]
    return replace(
        parts[0],
        **{f.name: _map_tensors(change, *(getattr(part, f.name) for part in parts)) for f in fields(parts[0])},
    )


@dataclass(frozen=True)
class Rewrite:
    """A language model's rewrite of one prompt."""

    text: str
    """What the image model is given: the answer, or the user's prompt where there is no valid answer."""
    completion: str
    """All that the language model wrote; empty where it was not called."""
    formatted: bool
    """Whether the completion kept to the think/answer format."""
    truncated: bool
    """Whether the completion was cut off before its end."""
    skipped: bool
    """Whether the language model was not called: the prompt was empty or too long, or was to be kept as it is."""


class _Rows:
    """Prompts and texts by row, for data of P prompts with G rows each."""

    prompts: tuple[str, ...]
    group_size: int
    rewrites: tuple[Rewrite, ...] | None

    @property
    def row_prompts(self) -> list[str]:
        """The prompt of each row, as the user wrote it."""
        return [prompt for prompt in self.prompts for _ in range(self.group_size)]

    @property
    def row_texts(self) -> list[str]:
        """The text that the image model was given for each row."""
        return self.row_prompts if self.rewrites is None else [rewrite.text for rewrite in self.rewrites]


@dataclass(frozen=True)
class Samples(_Rows):
    """P prompts with G finished images each: all that a reward sees. One row is one image."""

    prompts: tuple[str, ...]
    """P prompts as the user wrote them."""
    group_size: int
    """G."""
    images: Float[Tensor, "rows 3 height width"]
    """[P * G, 3, H, W] in [0, 1]; no pixels (H = W = 0) where a policy of texts had no image policy to draw them."""
    rewrites: tuple[Rewrite, ...] | None = None
    """P * G rewrites of the prompts, one per row; ``None`` where the image model was given the prompts themselves."""
    metadata: tuple[Mapping[str, Any], ...] = ()
    """P mappings of the prompts' other fields (``PromptBatch.metadata``); empty mappings where none were given."""

    def __post_init__(self) -> None:
        if not self.metadata:
            object.__setattr__(self, "metadata", ({},) * len(self.prompts))  # frozen: plain assignment is refused

    def per_prompt(self, scores: Any, name: str) -> Float[Tensor, "prompts group"]:
        """Reshape row scores [P * G] to float32 [P, G] on the images' device; infinities become NaN: 'not scored'."""
        rows = len(self.prompts) * self.group_size
        if not isinstance(scores, Tensor) or scores.shape != (rows,):
            got = tuple(scores.shape) if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
            raise ValueError(f"reward {name!r} must return one score per row, shape ({rows},), got {got}.")
        scores = scores.to(self.images.device, torch.float32)
        return torch.where(scores.isfinite(), scores, torch.nan).view(len(self.prompts), self.group_size)  # [P, G]


@dataclass(frozen=True)
class Rollout(_Rows):
    """P groups of G samples with what is needed to score them again."""

    prompts: tuple[str, ...]
    """P prompts as the user wrote them."""
    group_size: int
    """G."""
    images: Float[Tensor, "images 3 height width"]
    """[B * images_per_row, 3, H, W] in [0, 1], those of a row together; see ``Samples.images``."""
    sampled: PolicyScore | None
    """The sampling policy's own score of its decisions, without gradient; ``None`` of draws, which no step decided."""
    mask: Bool[Tensor, "rows decisions"]
    """[B, S] True where a decision counts (False pads completions)."""
    policy_state: Mapping[str, Tensor] = field(default_factory=dict)
    """What the policy needs to score its rows again; private to it, first axis B."""
    rewrites: tuple[Rewrite, ...] | None = None
    """B rewrites of the prompts, one per row; ``None`` where the image model was given the prompts themselves."""
    images_per_row: int = 1
    """N, images that were drawn of each row's text."""

    def samples(self, metadata: Sequence[Mapping[str, Any]] = ()) -> Samples:
        """Return the finished images, P groups of G * N rows, with P mappings of the prompts' other fields, or none."""
        count = self.images_per_row
        rewrites = self.rewrites and tuple(rewrite for rewrite in self.rewrites for _ in range(count))
        return Samples(self.prompts, self.group_size * count, self.images, rewrites, tuple(metadata))

    @staticmethod
    def concatenate(chunks: Sequence[Rollout]) -> Rollout:
        """Join rollouts of consecutive prompts that agree in group size, images per row and number of decisions."""
        first = chunks[0]
        if len(chunks) == 1:
            return first
        rewrites = tuple(rewrite for chunk in chunks for rewrite in chunk.rewrites or ())
        return replace(
            first,
            prompts=tuple(prompt for chunk in chunks for prompt in chunk.prompts),
            images=torch.cat([chunk.images for chunk in chunks]),
            sampled=first.sampled and PolicyScore.concatenate([chunk.sampled for chunk in chunks if chunk.sampled]),
            mask=torch.cat([chunk.mask for chunk in chunks]),
            policy_state={name: torch.cat([c.policy_state[name] for c in chunks]) for name in first.policy_state},
            rewrites=None if first.rewrites is None else rewrites,
        )


@dataclass(frozen=True)
class RewardOutput:
    """Rewards of samples, in total and by component. Higher is better; NaN marks a sample that could not be scored."""

    total: Float[Tensor, "prompts group"]
    """[P, G] weighted sum of the components; NaN where a component that has a weight is NaN."""
    components: Mapping[str, Float[Tensor, "prompts group"]]
    """Each component by name, [P, G], unweighted."""
    weights: Mapping[str, float]
    """Weight of each component in the total."""

    @property
    def valid(self) -> Bool[Tensor, "prompts group"]:
        """[P, G] True where every component that has a weight could be scored."""
        return torch.isfinite(self.total)

    @staticmethod
    def concatenate(outputs: Sequence[RewardOutput]) -> RewardOutput:
        """Join the rewards of consecutive prompts, scored by one reward."""
        first = outputs[0]
        if len(outputs) == 1:
            return first
        components = {name: torch.cat([output.components[name] for output in outputs]) for name in first.components}
        return RewardOutput(torch.cat([output.total for output in outputs]), components, first.weights)

    def mean_over_images(self, images_per_row: int) -> RewardOutput:
        """Average the rewards of each row's images, over the images that could be scored.

        The N images of a row stand together: [P, G * N] becomes [P, G], NaN where none of a row's could be scored.
        """
        if images_per_row == 1:
            return self
        # One component may score an image that another cannot: all means must be over the same images.
        valid, shape = self.valid, (-1, images_per_row)
        return self._map(lambda values: torch.where(valid, values, torch.nan).unflatten(1, shape).nanmean(-1))  # [P, G]

    def by_row(self, images_per_row: int) -> RewardOutput:
        """Regroup [P, G * N] to [P * G, N]: the N images of one row are a group."""
        return self._map(lambda values: values.reshape(-1, images_per_row))  # [P * G, N]

    def _map(self, change: Callable[[Tensor], Tensor]) -> RewardOutput:
        components = {name: change(values) for name, values in self.components.items()}
        return RewardOutput(change(self.total), components, self.weights)


@dataclass(frozen=True)
class Minibatch:
    """The part of an iteration that one loss call sees."""

    advantages: Float[Tensor, " rows"]
    """[b] one advantage per sample; 0 for samples that could not be scored."""
    sampled: PolicyScore
    """The sampling policy's score of the same rows (old log-probs, old Gaussians)."""
    mask: Bool[Tensor, "rows decisions"]
    """[b, S] True where a decision counts."""
    reference: PolicyScore | None = None
    """The reference policy's score of the same rows; present when the objective needs it."""
    lagged: Mapping[str, PolicyScore] = field(default_factory=dict)
    """The scores under the lagged weights that the objective reads, by name."""
    group_terms: Float[Tensor, "rows decisions"] | None = None
    """[b, S] what the objective has made of whole groups, see ``Objective.group_terms``."""


# A NamedTuple and not a frozen dataclass: Lightning rebuilds batches field by field (devices, "bf16-true"), and refuses
# to rebuild frozen dataclasses.
class PromptBatch(NamedTuple):
    """The prompts that one rank gets for one GRPO iteration, or for one step of validation."""

    prompts: tuple[str, ...]
    """P prompts as the user wrote them."""
    keys: tuple[str, ...]
    """P keys of the samples in their shards."""
    metadata: tuple[Mapping[str, Any], ...]
    """P mappings with the other fields that the samples were written with; empty where there are none."""
    seeds: tuple[int, ...]
    """P numbers in [0, 2^32), a pure function of key and prompt: a prompt is validated on the same noise always."""
    mask: Bool[Tensor, " prompts"]
    """[P] True where a prompt counts (False repeats a prompt, so that all ranks validate the same number of rows)."""
    images: Float[Tensor, "prompts 3 height width"] | None = None
    """[P, 3, H, W] the prompts' real images in [0, 1]; None where the shards have none or none were requested."""
