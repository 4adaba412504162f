"""What a plan reads from a recipe: its training module without weights or rewards, and where it will run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from realgen.modules import GRPOModule
from realgen.policies import DiffusionPolicy, RewrittenPolicy
from realgen.policies.backbones.pipeline import PipelineBackbone
from realgen.rewards.base import Reward
from realgen.types import Samples


class Unbuilt(Reward):
    """Placeholder of a recipe's reward; a plan reads the reward's settings and does not build it."""

    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Raise RuntimeError: a plan scores nothing."""
        raise RuntimeError("a plan has no rewards to score with.")


@dataclass(frozen=True)
class Sharding:
    """How a trainer's strategy spreads a policy over the ranks."""

    name: str
    """Of the strategy, for the reader of a plan."""
    ranks: int
    """Processes that train together."""
    base: int = 1
    """Ranks that one copy of the frozen weights is spread over."""
    trained: int = 1
    """Ranks that one copy of the trained weights, their gradients and the optimizer's state is spread over."""
    keeps_gathered: bool = False
    """Whether gathered weights stay until the next update."""
    offloads: bool = False
    """Whether shards, gradients and the optimizer's state are on the CPU."""
    buckets: bool = False
    """Whether gradients are held twice, the second time in buckets (DDP)."""


@dataclass(frozen=True)
class Recipe:
    """The settings that decide how much there is to compute."""

    module: GRPOModule
    """The training module; its policy is not loaded, its reward is ``Unbuilt``."""
    prompts: int
    """P, prompts of one rank and iteration."""
    sharding: Sharding
    """How it is spread over the ranks."""
    precision: str
    """``trainer.precision``."""
    reward: Mapping[str, Any]
    """The reward's settings: ``class_path`` and ``init_args``."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """The metrics' settings by name, likewise; their networks stay on the GPU."""
    iterations: int | None = None
    """Of the whole run; None where it has no end."""
    averages: int = 0
    """Moving averages of the trained weights that are kept (callbacks of class EMA)."""
    learning: tuple[Mapping[str, Any], ...] = ()
    """Arguments of each callback ``DetectorLearning``."""
    float32_matmul_precision: str = "highest"
    """PyTorch's setting: whether GPUs may round the factors of float32 products."""

    @property
    def rows_per_update(self) -> int:
        """Rows of one optimizer update on one rank."""
        return self.prompts * self.module.group_size // self.module.updates_per_epoch

    @property
    def policy(self) -> DiffusionPolicy:
        """The image policy.

        Raises:
            ValueError: If it is of another kind, or its backbone is.
        """
        policy: Any = self.module.policy
        if isinstance(policy, RewrittenPolicy):
            policy = policy.image_policy
        if not isinstance(policy, DiffusionPolicy):
            raise ValueError(
                f"model.policy: a plan needs a DiffusionPolicy, or a RewrittenPolicy around one, got "
                f"{type(policy).__name__}. How much a language model writes is not known before it runs."
            )
        if not isinstance(policy.backbone, PipelineBackbone):
            raise ValueError(
                f"model.policy.backbone: a plan needs one that is made of a pipeline of diffusers (PipelineBackbone), "
                f"got {type(policy.backbone).__name__}."
            )
        return policy


def sharding_of(strategy: Any, ranks: int) -> Sharding:
    """Read how a trainer's ``strategy``, a name or ``class_path`` and ``init_args``, spreads a policy over the ranks.

    Raises:
        ValueError: If a plan does not know the strategy, or its copies do not share the ranks evenly.
    """
    named = isinstance(strategy, str)
    path: str = strategy if named else strategy["class_path"]
    settings: Mapping[str, Any] = {} if named else strategy.get("init_args") or {}
    name = path.rpartition(".")[2]
    if name == "FSDP2":
        size = settings.get("ranks_per_copy") or ranks
        if ranks % size:
            raise ValueError(
                f"trainer.strategy.ranks_per_copy must divide the number of ranks, {ranks} (trainer.devices x "
                f"trainer.num_nodes), got {size}."
            )
        return Sharding(
            name,
            ranks,
            base=size,
            trained=size,
            keeps_gathered=not settings.get("reshard_after_forward", True),
            offloads=bool(settings.get("cpu_offload")),
        )
    if ranks == 1 and name in ("auto", "SingleDeviceStrategy"):
        return Sharding("no sharding", ranks)
    if name == "auto" or name.lower().startswith("ddp"):
        return Sharding("DDP", ranks, buckets=ranks > 1)
    raise ValueError(f"trainer.strategy: a plan knows realgen.strategies.FSDP2, ddp and auto, got {path}.")
