"""Training of a detector on real and generated images."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau

from realgen.checks import check_at_least, with_article
from realgen.data.image_batches import ImageBatch
from realgen.detectors.base import Detector, DetectorNetwork
from realgen.detectors.checkpoint import save
from realgen.functional.corruptions import CHEATS, HARMLESS
from realgen.metrics.detector_quality import DetectorQuality, Quality
from realgen.modules.base import TrainableModule
from realgen.modules.seeds import mix_seed
from realgen.parallel import world_size
from realgen.rewards import Realism, WeightedSum

PLAIN = "plain"
"""Name of the condition in which validation images are as they are."""
VALIDATION_SEED = 0
"""Of the corruptions' random numbers, the same in every validation of every run."""


class DetectorTraining(TrainableModule):
    """Trains a detector with soft labels; measures it on held-out images as they are and under corruptions.

        L = CE(softmax(logits), (1 - s, s) for real and (s, 1 - s) for generated) + w * orthogonality

    The start is any ``Detector`` whose network is a ``DetectorNetwork`` (OmniAID, Effort), published weights
    included, and what is exported is loaded by the same class. From RealGen v2 (REALGEN, s = 0.05, w = 0.001, the
    experts and the head trained at a learning rate of 4e-5), without its gate and balance losses, whose weights are 0
    there. Validation adds ``val/accuracy``, ``val/auroc``, ``val/calibration_error``, ``val/brier``, and one
    ``val/<measure>/<condition>`` per corruption.

    The checkpoint holds trained weights only; on resuming the others come from ``detector`` again. ValueError if a
    number is out of its range.

    Args:
        detector: Where the training starts.
        optimizer: Builds the optimizer from the trained parameters.
        lr_scheduler: Builds a learning rate scheduler from the optimizer; it steps once per iteration.
        trainable: What is trained, a word that the network's ``set_trainable`` knows; OmniAID: ``experts``,
            ``experts_and_gate``, ``all``; Effort: ``residual``, ``all``. By default what the network itself chooses.
        soft_label: s, the probability that a label leaves to the other class, 0 to below 0.5.
        orthogonality_weight: w, at least 0; needs a network with experts whose main weights stay frozen.
        corruptions: Whether validation also looks at images under each of ``HARMLESS`` (JPEG, half size, blur, ...).
        cheats: Whether validation also looks at real images under each of ``CHEATS``, which should count as generated;
            train with ``hard_negatives`` to get there.
        seed: Of what is random in the network: a new head, dropout.
    """

    def __init__(
        self,
        detector: Detector,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        trainable: str | None = None,
        soft_label: float = 0.05,
        orthogonality_weight: float = 0.0,
        corruptions: bool = True,
        cheats: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= soft_label < 0.5:
            raise ValueError(f"soft_label must be 0 to below 0.5, got {soft_label}.")
        check_at_least(0, orthogonality_weight=orthogonality_weight)
        self.strict_loading = False
        self.detector = detector
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.trainable = trainable
        self.soft_label = soft_label
        self.orthogonality_weight = orthogonality_weight
        self.seed = seed
        self.network: DetectorNetwork | None = None
        """What is trained, after ``configure_model``."""
        self.quality: dict[str, Quality] = {}
        """What the last validation found, by condition."""
        self._main_bases: Any = None
        conditions = [PLAIN, *(HARMLESS if corruptions else ()), *(f"cheat_{name}" for name in CHEATS if cheats)]
        self._meters = {name: DetectorQuality() for name in conditions}

    def configure_model(self) -> None:
        """Read the detector's weights and choose what is trained, once; ValueError if that cannot be trained."""
        if self.network is not None:
            return
        torch.manual_seed(mix_seed(self.seed))
        network = self.detector.build()
        if not isinstance(network, DetectorNetwork) or network.merged:
            raise ValueError(
                f"detector must have a network that can be trained, a DetectorNetwork as of OmniAID or Effort; "
                f"{type(self.detector).__name__} has {with_article(type(network).__name__)}."
            )
        if self.trainable is not None:
            _set_trainable(network, self.trainable)
        if not network.trainable_parameters():
            raise ValueError(f"trainable={self.trainable!r} leaves nothing of {type(network).__name__} to train.")
        if self.orthogonality_weight:
            self._main_bases = _main_bases(network)
        self.network = network.train()

    def configure_optimizers(self) -> Any:
        """Build the optimizer of the trained parameters, and a scheduler; raise ValueError if that needs a metric."""
        optimizer = self.optimizer(list(self._network.trainable_parameters().values()))
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError("lr_scheduler must not wait for a metric, got ReduceLROnPlateau; take one of the others.")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 2"]:
        """Return logits of (real, fake) for images in [0, 1]."""
        return self._network(images).float()

    def losses(self, logits: Float[Tensor, "rows 2"], labels: Int[Tensor, " rows"]) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy with soft labels, and the experts' overlap, 0 where it has no weight."""
        # Torch spreads its smoothing over both classes: half of it stays with the right one.
        classification = F.cross_entropy(logits, labels, label_smoothing=2 * self.soft_label)
        if not self.orthogonality_weight:
            return classification, logits.new_zeros(())
        self._main_bases = [tuple(basis.to(logits.device) for basis in bases) for bases in self._main_bases]
        return classification, self._network.orthogonality_loss(self._main_bases)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Float[Tensor, ""]:
        """Return the loss of a batch, half real, half generated."""
        torch.manual_seed(mix_seed(self.seed, self.global_rank, self.iteration))  # dropout
        logits = self(batch.images)
        classification, orthogonality = self.losses(logits, batch.labels)
        loss = classification + self.orthogonality_weight * orthogonality
        accuracy = (logits.argmax(1) == batch.labels).float().mean()
        self.iteration += 1
        values = {"loss": loss, "loss/classification": classification, "accuracy": accuracy}
        if self.orthogonality_weight:
            values["loss/orthogonality"] = orthogonality
        values = {name: value.detach() for name, value in values.items()}
        values["lr"] = torch.tensor(float(self.trainer.optimizers[0].param_groups[0]["lr"]))
        self.log_dict({**values, "iteration": float(self.iteration)}, batch_size=len(logits))
        return loss

    def on_validation_start(self) -> None:
        """Forget the last validation."""
        for meter in self._meters.values():
            meter.to(self.device).reset()

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Score held-out images, as they are and under each corruption."""
        seed = mix_seed(VALIDATION_SEED, self.global_rank, batch_idx)
        for name, meter in self._meters.items():
            images, labels, mask = batch.images, batch.labels, batch.mask
            generator = torch.Generator().manual_seed(seed)
            if name in HARMLESS:
                images = HARMLESS[name](images, generator)
            elif name != PLAIN:
                images = CHEATS[name.removeprefix("cheat_")](images, generator)
                labels, mask = torch.ones_like(labels), mask & (labels == 0)
            meter.update(self(images).softmax(1)[:, 1], labels, mask)

    def on_validation_epoch_end(self) -> None:
        """Log what was found; the same on every rank."""
        self.quality = {name: meter.compute() for name, meter in self._meters.items()}
        values = {
            f"val/{measure}" if name == PLAIN else f"val/{measure}/{name}": value
            for name, quality in self.quality.items()
            for measure, value in quality._asdict().items()
            if bool(value.isfinite())
        }
        values["iteration"] = torch.tensor(float(self.iteration))
        here = {name: value.to(self.device, torch.float32) for name, value in values.items()}  # NCCL takes no others
        self.log_dict(here, sync_dist=True, batch_size=1)

    def export(self, directory: Path) -> Path:
        """Write the network as the detector's class reads it, into a folder ready to be its ``checkpoint``."""
        return save(self._network, directory)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the iteration, and of the weights only the trained ones."""
        checkpoint["iteration"] = self.iteration
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in self._trained_names()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the iteration; raise ValueError if the checkpoint's weights are not those that are trained."""
        self.iteration = checkpoint["iteration"]
        self.check_trained(checkpoint["state_dict"])

    def check_trained(self, names: Iterable[str]) -> None:
        """Raise ValueError if a checkpoint's weights are not those that are trained."""
        if odd := set(names) ^ set(self._trained_names()):
            raise ValueError(
                f"the checkpoint and the detector differ in {len(odd)} trained weights, such as {min(odd)}; resume "
                "with the detector and the trainable that wrote it."
            )

    @property
    def _network(self) -> Any:
        assert self.network is not None, "Lightning calls configure_model first"
        return self.network

    def _trained_names(self) -> list[str]:
        return [f"network.{name}" for name in self._network.trainable_parameters()]


def average_gradients(weights: Sequence[Tensor], found: Float[Tensor, " sums"]) -> Float[Tensor, " sums"]:
    """Divide gradients by the images of all ranks, last in ``found``; return that, summed too. RuntimeError for NaN."""
    gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    flat = torch.cat([*(gradient.flatten().float() for gradient in gradients), found])
    if world_size() > 1:
        dist.all_reduce(flat)
    if not bool(flat.isfinite().all()):
        raise RuntimeError("the gradient of a detector that learns is not finite; lower its learning rate.")
    parts = flat[: -len(found)].split([weight.numel() for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        weight.grad = (part / flat[-1]).view_as(weight).to(weight.dtype)
    return flat[-len(found) :]


def find_detector(module: LightningModule, component: str) -> Detector:
    """Return the detector of a component of a module's reward; ValueError if there is none on this machine."""
    reward: Any = getattr(module, "reward", None)
    parts = reward.rewards if isinstance(reward, WeightedSum) else {getattr(reward, "name", ""): reward}
    found = parts.get(component)
    if not isinstance(found, Realism):
        names = [name for name, part in parts.items() if isinstance(part, Realism)]
        raise ValueError(
            f"component must be a Realism of the reward ({', '.join(names) or 'none'}), got {component!r}."
        )
    return found.detector


def _set_trainable(network: DetectorNetwork, scope: str) -> None:
    choose: Any = getattr(network, "set_trainable", None)
    hints: Mapping[str, Any] = {} if choose is None else get_type_hints(choose)
    allowed = [word for hint in hints.values() for word in get_args(hint)]
    if scope not in allowed:
        known = ", ".join(map(str, allowed)) or "nothing to choose from"
        raise ValueError(f"trainable must be one of {type(network).__name__}'s ({known}), got {scope!r}.")
    choose(scope)


def _main_bases(network: nn.Module) -> Any:
    linears: Any = getattr(network, "expert_linears", None)
    if linears is None:
        raise ValueError(f"orthogonality_weight must be 0 for {type(network).__name__}, which has no experts.")
    if any(linear.frozen_weight.requires_grad for linear in linears()):
        raise ValueError(
            "orthogonality_weight must be 0 where the main weights are trained too, as by trainable='all'."
        )
    bases: Any = getattr(network, "main_bases", None)
    return bases()
