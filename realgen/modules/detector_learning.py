"""A detector of the reward that learns beside the policy which it judges."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from realgen.checkpoint_files import exported_iteration, write_record
from realgen.checks import check_at_least
from realgen.data.detector_pairs import IterationPairs, PairSettings, Photographs, as_square, replaced, training_steps
from realgen.functional.images import from_uint8
from realgen.metrics.detector_quality import DetectorQuality, Quality
from realgen.modules.base import TrainableModule
from realgen.modules.data_anchor import through_vae
from realgen.modules.detector_training import DetectorTraining, average_gradients, find_detector
from realgen.modules.seeds import mix_seed
from realgen.parallel import gather_first_axis, together
from realgen.policies.weight_copy import WeightCopy, trained_weights
from realgen.types import PromptBatch, Samples
from realgen.whole_files import written_whole

MEASURES = ("accuracy", "auroc", "calibration_error")


class DetectorLearning(Callback):
    """Trains one detector of the reward against the images that the policy draws (RealGen v2, arXiv:2512.00473).

    After an iteration, when it is due, the detector learns to tell this iteration's images, and some of earlier ones,
    from photographs; averages of its weights score from the next iteration on. The policy's own update is over by then,
    with the rewards of the detector before. ``null`` in place of this callback freezes the detector again, and several
    of them train several detectors, beside any policy.

    Departures from RealGen v2: accuracy is measured on held-out images that are not changed, published on the training
    images; a photograph stands once in a pass, published once for each sample; crop, size, blur and JPEG are the same
    in a pair; steps weigh all images of all ranks alike; the detector is saved, and the run resumes to the bit.

    Logged as ``detector/<component>/...``, see docs/logging.md. ``val/reward`` is by the detector as it is then, so its
    curve has steps; ``reward_rebased`` and the metrics have none. ValueError if a number is out of its range.

    Args:
        component: Name of the reward among those of the config, a ``Realism``; of one alone ``realism``.
        optimizer: Builds the detector's optimizer from its trained parameters.
        pairs: The images it learns from, and how they are changed.
        trainable: What is trained, a word that the network's ``set_trainable`` knows; by default its own choice.
        soft_label: Probability that a label leaves to the other class, 0 to below 0.5.
        orthogonality_weight: Of the overlap of the experts, at least 0; needs a network with experts.
        warmup_updates: Updates at the start, each in the next iteration that can be measured, whatever the reward.
        threshold: Later, an iteration whose mean realism is above it brings an update.
        target_accuracy: An update ends after the pass that reaches it on held-out images, 0.5 to 1.
        max_passes: Passes over the iteration's pairs after which it ends all the same, at least 1.
        ema_decay: Largest decay of the averages that judge, 0 to below 1.
        microbatch_size: Images of one forward and backward pass, at least 1; changes memory, not the result.
        seed: Of what is drawn here; the policy's random numbers are the same with and without this callback.
    """

    essential = True
    """Whether its errors end the run: without it, the reward is another one."""
    moves_reward = True
    """Whether equal images get other rewards later."""

    def __init__(
        self,
        component: str,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        pairs: PairSettings | None = None,
        trainable: str | None = None,
        soft_label: float = 0.05,
        orthogonality_weight: float = 0.0,
        warmup_updates: int = 1,
        threshold: float = 0.6,
        target_accuracy: float = 0.9,
        max_passes: int = 20,
        ema_decay: float = 0.99,
        microbatch_size: int = 16,
        seed: int = 0,
    ) -> None:
        check_at_least(0, warmup_updates=warmup_updates)
        check_at_least(1, max_passes=max_passes, microbatch_size=microbatch_size)
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be 0 to below 1, got {ema_decay}.")
        if not 0.5 <= target_accuracy <= 1:
            raise ValueError(f"target_accuracy must be 0.5 to 1, got {target_accuracy}.")
        self.component = component
        self.settings = PairSettings() if pairs is None else pairs
        self.warmup_updates, self.threshold = warmup_updates, threshold
        self.target_accuracy, self.max_passes = target_accuracy, max_passes
        self.seed = seed
        self.updates = 0
        """Updates so far."""
        self.steps = 0
        """Optimizer steps so far."""
        self.training: Any = None
        """The ``DetectorTraining`` of the detector, after ``setup``."""
        self.averages = WeightCopy()
        """Of its weights; they judge."""
        self.images: dict[str, Tensor] = {}
        """Kept for later, in 8 bits: pairs to ``replay``, the ``recent`` samples of held-out prompts, the ``base``."""
        self._how: dict[str, Any] = {"optimizer": optimizer, "trainable": trainable, "soft_label": soft_label}
        self._how |= {"orthogonality_weight": orthogonality_weight, "corruptions": False, "cheats": False}
        self.ema_decay, self.microbatch_size = ema_decay, microbatch_size
        self._detector: Any = None
        self._optimizer: Any = None
        self._photographs: Photographs | None = None
        self._measured: Any = None  # photographs that are held out, [rows, 3, S, S]
        self._new: Any = None  # pairs of this iteration, to be kept
        self._probe = (float("nan"), float("nan"))
        self._resumed: Mapping[str, Any] = {}
        self._device = torch.device("cpu")

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint, one for each component."""
        return f"{type(self).__name__}[{self.component}]"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look for the detector (ValueError), and stand before what saves, which must know of the update."""
        self._detector = find_detector(pl_module, self.component)
        self.training = self.training or DetectorTraining(self._detector, **self._how)
        lightning: Any = trainer
        others = [each for each in lightning.callbacks if each is not self]
        lightning.callbacks = [self, *others]  # a new list, as Lightning is walking the old one

    def check_photographs(self, table: Any) -> None:
        """Raise ValueError if there are none to learn from; ``table`` is the training prompts', if they are in one."""
        if self.settings.photographs is None and (table is None or table.image_shape is None):
            cure = "set data.train_images=true, of shards that have them, or give others as pairs.photographs"
            raise ValueError(f"a detector learns from the training prompts' photographs: {cure}.")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the detector once more to be trained; take up the state of a resumed run."""
        self._device = pl_module.device
        with together(self._device), torch.random.fork_rng(devices=[]):  # a network may draw a new head
            self.training.configure_model()
        self.training.to(self._device)
        self._optimizer = self.training.optimizer(list(trained_weights(self.training).values()))
        self.averages.start(self.training)
        if self._resumed:
            self._take_up(self._resumed["detector"])
        self._judge()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PromptBatch, batch_idx: int
    ) -> None:
        """Take in the iteration's images, train if it is due, and log."""
        start, module = time.perf_counter(), cast("TrainableModule", pl_module)
        generator = torch.Generator().manual_seed(mix_seed(self.seed, trainer.global_rank, module.iteration))
        current = self._collect(trainer, module, outputs["samples"], batch)
        reward = float(gather_first_axis(outputs["rewards"].components[self.component]).nanmean())
        photographs, base = self._probe
        values = {"reward_rebased": (reward - base) / (photographs - base)} if photographs > base else {}
        if self.updates < self.warmup_updates or reward > self.threshold:
            values |= self._update(current, generator)
        values["updates"] = float(self.updates)
        pl_module.log_dict({f"detector/{self.component}/{name}": value for name, value in values.items()})
        pl_module.log(f"seconds/detector_{self.component}", time.perf_counter() - start)  # beside those of the phases

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the detector to ``detector_<component>`` in the run's folder."""
        with together(self._device):
            if trainer.is_global_zero:
                self._export(Path(trainer.default_root_dir), cast("TrainableModule", pl_module).iteration)

    def export_missing(self, run: Path, module: LightningModule, state: Mapping[str, Any], iteration: int) -> None:
        """Export from the state of a run's last checkpoint, and say so, if the run was killed before it did."""
        if exported_iteration(run / f"detector_{self.component}") == iteration:
            return
        self.training = DetectorTraining(find_detector(module, self.component), **self._how)
        self.training.configure_model()
        self.averages.weights = dict(state["detector"]["averages"])
        self._export(run, iteration)
        print(f"exported the detector of {self.component}")

    def _export(self, run: Path, iteration: int) -> None:
        with written_whole(run / f"detector_{self.component}") as unfinished, self.averages.applied(self.training):
            self.training.export(unfinished)
            write_record(unfinished, iteration=iteration, averaged=True)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next iteration depends on, the same on every rank."""
        if self._optimizer is None:
            return dict(self._resumed)
        state = {"updates": self.updates, "probe": list(self._probe), "images": dict(self.images)}
        return {**state, "detector": self._detector_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the fit starts."""
        self._resumed = state_dict
        self.updates, self.images = state_dict["updates"], dict(state_dict["images"])
        if "replay" in self.images:  # a run may go on with a smaller one
            self.images["replay"] = self.images["replay"][: self.settings.replay].clone()
        self._probe = (state_dict["probe"][0], state_dict["probe"][1])
        if self._optimizer is not None:  # a sharded strategy gives the state when the fit has started
            self._take_up(state_dict["detector"])
            self._judge()

    def _detector_state(self) -> dict[str, Any]:
        trained = {name: weight.detach() for name, weight in trained_weights(self.training).items()}
        state = {"steps": self.steps, "trained": trained, "averages": dict(self.averages.weights)}
        return {**state, "optimizer": self._optimizer.state_dict()}

    @torch.no_grad()
    def _take_up(self, state: Mapping[str, Any]) -> None:
        self.training.check_trained(state["trained"])
        for name, weight in trained_weights(self.training).items():
            weight.copy_(state["trained"][name])
            self.averages.weights[name].copy_(state["averages"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]

    def _judge(self) -> None:
        """Let the detector score with the averages as they are now, merged; before the first step, change nothing."""
        if self.steps:
            self._optimizer.zero_grad()  # gradients would be copied too
            with self.averages.applied(self.training):
                network = copy.deepcopy(self.training.network).merge()
            self._detector._network = network.to(next(self._detector.network.parameters()).device)

    def _step(self, images: Tensor, labels: Tensor, seed: int) -> Float[Tensor, "3"]:
        """Take one step on the images of all ranks; return cross-entropy, overlap of the experts, and accuracy."""
        training, found = self.training.train(), torch.zeros(4, device=self._device)
        on_gpu = [self._device] if torch.cuda.is_available() and self._device.type == "cuda" else []
        self._optimizer.zero_grad()
        exact = torch.autocast(self._device.type, enabled=False)
        with together(self._device), torch.random.fork_rng(devices=on_gpu), exact:
            torch.manual_seed(seed)  # dropout
            chunks = zip(*(each.split(self.microbatch_size) for each in (images, labels)), strict=True)
            for chunk, target in chunks if len(images) else ():  # the mean of no images would be NaN
                logits, target = training(chunk.to(self._device)), target.to(self._device)
                classification, overlap = training.losses(logits, target)
                (len(chunk) * (classification + training.orthogonality_weight * overlap)).backward()
                right = (logits.argmax(1) == target).float().mean()
                found += len(chunk) * torch.stack([classification, overlap, right, torch.ones_like(right)]).detach()
        found = average_gradients(list(trained_weights(training).values()), found)
        self._optimizer.step()
        self.averages.follow(training, min(self.ema_decay, (1 + self.steps) / (10 + self.steps)))  # as RealGen v2
        self.steps += 1
        return found[:3] / found[3]

    @torch.no_grad()
    def _p_fake(self, images: Tensor) -> Tensor:
        """Return p_fake by the weights that are trained."""
        training = self.training.eval()
        with torch.autocast(self._device.type, enabled=False):
            return torch.cat([training(chunk).softmax(-1)[:, 1] for chunk in images.split(self.microbatch_size)])

    def _collect(
        self, trainer: Trainer, module: TrainableModule, samples: Samples, batch: PromptBatch
    ) -> IterationPairs:
        """Return what this rank trains on, and keep what all ranks measure on; ValueError if images are missing."""
        with together(self._device):
            photographs, grouped = self._read(trainer, module.iteration, samples, batch)
        few = max(1, min(4, grouped.shape[1] // 2))  # of each prompt, for all ranks
        held_out = torch.tensor([self.settings.holds_out(seed) for seed in batch.seeds])
        shared, held = (
            gather_first_axis(each.to(self._device)).cpu()
            for each in (torch.cat([photographs[:, None], grouped[:, :few]], dim=1), held_out)
        )
        self._new = shared[~held, :2]
        recent = torch.cat([self.images.get("recent", grouped[:0, 0]), shared[held, 1:].flatten(0, 1)])
        self.images["recent"] = recent[-self.settings.held_out_images :].clone()  # a view would be saved whole
        with together(self._device):
            if "base" not in self.images:  # what the policy draws before it learns; never trained on
                self.images["base"] = shared[:, 1:].flatten(0, 1)[: self.settings.held_out_images].clone()
                self.images["replay"] = shared[:0, :2].clone()
                self._new, grouped = self._new[:0], grouped[:, few:]
                self._probe = self._score_probe()
            decoded = through_vae(module, photographs[~held_out] if self.settings.reconstructed else photographs[:0])
        return IterationPairs(photographs[~held_out], grouped[~held_out], decoded)

    def _read(self, trainer: Trainer, iteration: int, samples: Samples, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        """Return a photograph for each prompt [P, 3, S, S], and its samples [P, G, 3, S, S]."""
        size = self.settings.image_size or min(samples.images.shape[2:])
        if not size:
            raise ValueError(f"component {self.component!r} learns from images, and the policy draws none.")
        if "base" in self.images and (kept := self.images["base"].shape[-1]) != size:
            raise ValueError(f"pairs.image_size must be {kept}, as in the run that goes on, got {size}.")
        if self._photographs is None:
            self.check_photographs(table := getattr(getattr(trainer, "datamodule", None), "train_table", None))
            self._photographs = Photographs(self.settings, table)
            self._measured = self._photographs.read(self._photographs.held_out[: self.settings.held_out_images], size)
        if self.settings.photographs is not None:
            place = {"iteration": iteration, "seed": self.seed}
            place |= {"rank": trainer.global_rank, "world_size": trainer.world_size}
            photographs = self._photographs.draw(len(batch.prompts), size, **place)
        else:
            assert batch.images is not None  # the table has some
            photographs = as_square(batch.images, size)
        return photographs, as_square(samples.images, size).unflatten(0, (len(samples.prompts), -1))

    def _update(self, current: IterationPairs, generator: torch.Generator) -> dict[str, Any]:
        """Train until the detector is good enough; return what to log, nothing if there is nothing to measure on."""
        counts = gather_first_axis(torch.tensor([len(current.photographs)], device=self._device))
        number = -(-int(counts.max()) // self.settings.per_step)
        before = self._quality(self._p_fake)
        if not number or not bool(before.auroc.isfinite()):
            return {}
        saved, passes = copy.deepcopy(self._detector_state()), 0
        losses, replayed, pairs = list[Tensor](), 0, 0
        try:
            while passes < self.max_passes:
                batches = training_steps(current, self.images["replay"], number, self.settings, generator)
                for _ in range(number):
                    with together(self._device):
                        images, labels, old = next(batches)
                    seed = int(torch.randint(2**62, (), generator=generator))
                    losses.append(self._step(images, labels, seed))
                    replayed, pairs = replayed + old, pairs + len(images) // 2
                passes += 1
                if float(self._quality(self._p_fake).accuracy) >= self.target_accuracy:
                    break
            with together(self._device):
                self._judge()
        except Exception:  # whatever it was: a checkpoint of the finished iterations may still be written
            self._take_up(saved)
            raise
        self.updates += 1
        everywhere = torch.Generator().manual_seed(mix_seed(self.seed, self.updates))
        self.images["replay"] = replaced(self.images["replay"], self._new, self.settings.replay, everywhere)
        probe, self._probe = self._probe, self._score_probe()
        names: Sequence[str] = ("loss/classification", "loss/orthogonality", "accuracy_trained")
        values: dict[str, Any] = dict(zip(names, torch.stack(losses).mean(0), strict=True))
        for end, quality in (("_before", before), ("", self._quality(self._detector))):
            values |= {f"{name}{end}": getattr(quality, name) for name in MEASURES}
        values |= {"passes": passes, "steps": self.steps, "replayed": replayed / max(1, pairs)}
        names = ("probe/photographs_before", "probe/base_before", "probe/photographs", "probe/base")
        return values | dict(zip(names, (*probe, *self._probe), strict=True))

    def _quality(self, score: Callable[[Tensor], Tensor]) -> Quality:
        """Measure on the held-out images, the same on all ranks."""
        meter = DetectorQuality().to(self._device)
        for label, images in enumerate((self._measured, self.images["recent"])):
            p_fake = score(from_uint8(images).to(self._device)) if len(images) else torch.empty(0, device=self._device)
            labels = torch.full(p_fake.shape, label, device=self._device)
            meter.update(p_fake, labels, torch.ones_like(labels, dtype=torch.bool))
        return meter.compute()

    def _score_probe(self) -> tuple[float, float]:
        """Return the mean realism of the held-out photographs and of the run's first images."""
        shown = [from_uint8(images).to(self._device) for images in (self._measured, self.images["base"])]
        return float(1 - self._detector(shown[0]).mean()), float(1 - self._detector(shown[1]).mean())
