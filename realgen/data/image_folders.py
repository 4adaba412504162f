"""Folders of real and generated images, as a data module of Lightning to train a detector on."""

import warnings
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from realgen.checks import check_at_least
from realgen.data.detector_augment import DetectorAugment
from realgen.data.image_batches import (
    CLASSES,
    Batches,
    Draw,
    ImageBatch,
    LabelledImage,
    TrainImages,
    ValidationImages,
    collate,
    draw_seed,
)
from realgen.data.image_files import (
    ImageFile,
    SplitBy,
    check_disjoint,
    check_folders,
    check_readable,
    digest,
    find_images,
    group_names,
    split_files,
)
from realgen.data.order import prompt_indices, validation_rows


class ImageFolders(LightningDataModule):
    """Deal out images of two classes, half a batch each, whatever the sizes of the folders.

    What a rank trains on is a pure function of (seed, iteration, rank, number of ranks): every image of a class once
    per epoch of its class, and a resumed run goes on at the next image with the augmentation it would have had, because
    the loader begins at ``trainer.lightning_module.iteration``. Lightning's epoch is one pass over the larger class. A
    file that cannot be read is named, counted and skipped. Images may have any size and format; both are shortcuts that
    ``augment`` takes away from training. ValueError if a number is out of its range, only one class has validation
    folders, or a folder does not exist.

    Args:
        real: Folder of real images, or a list of folders; folders inside are searched too.
        generated: Folder of generated images, or a list.
        validation_real: Photographs to validate on; None sets a share of ``real`` aside.
        validation_generated: Generated images to validate on; give both or none.
        validation_share: Share of the images that is set aside for validation, above 0 and below 1.
        split_by: ``name`` keeps files of the same name (suffix aside) together, such as a real image and the
            image generated from its caption, and copies under other names with them; ``content`` keeps only copies
            together, and reads every file once.
        image_size: Side in pixels that the detector gets; larger than its own input only costs time.
        batch_size: Training images of one rank and step, even; half of them are real.
        validation_batch_size: Validation images of one rank and step.
        augment: How training images are changed; by default ``DetectorAugment``'s numbers.
        hard_negatives: Share, 0 to 1, of the generated half of a training batch that are images of either class,
            blurred, gridded, flattened...: what a policy that is rewarded by the detector would try.
        num_workers: Processes that read images beside the training; 0 reads in it.
        seed: Chooses order and augmentation.
    """

    def __init__(
        self,
        real: str | list[str],
        generated: str | list[str],
        *,
        validation_real: str | list[str] | None = None,
        validation_generated: str | list[str] | None = None,
        validation_share: float = 0.1,
        split_by: SplitBy = "name",
        image_size: int = 336,
        batch_size: int = 32,
        validation_batch_size: int = 64,
        augment: DetectorAugment | None = None,
        hard_negatives: float = 0.0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_at_least(1, image_size=image_size, validation_batch_size=validation_batch_size)
        check_at_least(0, num_workers=num_workers)
        if batch_size < 2 or batch_size % 2:
            raise ValueError(f"batch_size must be even, half of it is real; got {batch_size}.")
        if not 0 < validation_share < 1:
            raise ValueError(f"validation_share must be above 0 and below 1, got {validation_share}.")
        if not 0 <= hard_negatives <= 1:
            raise ValueError(f"hard_negatives must be a share, 0 to 1, got {hard_negatives}.")
        if (validation_real is None) != (validation_generated is None):
            raise ValueError("validation_real and validation_generated must be given both or not at all, got one.")
        self._given = {"real": real, "generated": generated}
        self._validation = {"validation_real": validation_real, "validation_generated": validation_generated}
        self.validation_share, self.split_by = validation_share, split_by
        self.image_size, self.batch_size, self.validation_batch_size = image_size, batch_size, validation_batch_size
        self.augment = DetectorAugment() if augment is None else augment
        self.hard_negatives, self.num_workers, self.seed = hard_negatives, num_workers, seed
        self.train_files: list[list[ImageFile]] = []
        """Of each class, after ``read``."""
        self.validation_files: list[list[ImageFile]] = []
        """Of each class, after ``read``."""
        self.broken: dict[str, str] = {}
        """Files that could not be read so far, and the reason."""
        self.check_folders()

    def check_folders(self) -> None:
        """Raise ValueError if a folder does not exist, before a run's folder is made."""
        for argument, folders in {**self._given, **self._validation}.items():
            if folders is not None:
                check_folders(folders, argument=argument)

    def read(self) -> None:
        """List and split the files, once; before a run begins, so that a mistake leaves nothing behind.

        Raises:
            ValueError: If a folder cannot be listed or holds no image, one side of the split holds none of a class that
                can be read, or images, or copies, are given both to train and to validate on, or as both classes.
        """
        if self.train_files:
            return
        found = [find_images(folders, argument=argument) for argument, folders in self._given.items()]
        if self._validation["validation_real"] is None:
            groups = group_names([*found[0], *found[1]]) if self.split_by == "name" else None
            split = [split_files(files, self.validation_share, by=self.split_by, groups=groups) for files in found]
            train, validation = [parts[0] for parts in split], [parts[1] for parts in split]
        else:
            given = ((name, folders) for name, folders in self._validation.items() if folders is not None)
            train, validation = found, [find_images(folders, argument=name) for name, folders in given]
            for name, mine, theirs in zip(CLASSES, train, validation, strict=True):
                check_disjoint({name: mine, f"validation_{name}": theirs})
        check_disjoint({name: [*mine, *theirs] for name, mine, theirs in zip(CLASSES, train, validation, strict=True)})
        for side, parts in (("train", train), ("validate", validation)):
            for name, files in zip(CLASSES, parts, strict=True):
                if not files:
                    raise ValueError(
                        f"validation_share={self.validation_share} leaves no {name} image to {side} on; change it, or "
                        "give validation folders."
                    )
                check_readable(files, purpose=f"{name} images to {side} on")
        self.train_files, self.validation_files = train, validation

    def setup(self, stage: str | None = None) -> None:
        """Read what is not read yet, and check that all ranks found the same files, or raise ValueError."""
        # The recipe's images are small; num_workers says what is wanted.
        warnings.filterwarnings("ignore", message=r".*does not have many workers")
        self.read()
        if self.trainer is not None:
            mine = [(len(files), digest(files)) for files in (*self.train_files, *self.validation_files)]
            theirs = self.trainer.strategy.broadcast(mine)
            if theirs != mine:
                raise ValueError(
                    f"all ranks must find the same images: rank {self._rank} finds {[n for n, _ in mine]} files, "
                    f"rank 0 finds {[n for n, _ in theirs]}, or files of other names."
                )

    def train_dataloader(self) -> DataLoader[Any]:
        """Return balanced batches of an epoch, beginning at the module's ``iteration``."""
        images = TrainImages(self.train_files, self.image_size, self.augment, self.hard_negatives)
        longest = max(len(files) for files in self.train_files)
        number = -(-longest // (self.batch_size // 2 * self._world_size))
        return self._loader(images, Batches(self._train_draws, number=number, first=self._iteration))

    def val_dataloader(self) -> DataLoader[Any]:
        """Return every validation image once over all ranks, both classes spread evenly over the batches."""
        draws = [Draw(label, row, 0) for label, files in enumerate(self.validation_files) for row in range(len(files))]
        draws.sort(key=lambda draw: (draw.row + 0.5) / len(self.validation_files[draw.label]))
        rows = validation_rows(len(draws), rank=self._rank, world_size=self._world_size)
        mine = [draws[row]._replace(counts=counts) for row, counts in rows]
        size = self.validation_batch_size
        batches = Batches(lambda i: mine[i * size : (i + 1) * size], number=-(-len(mine) // size), first=lambda: 0)
        return self._loader(ValidationImages(self.validation_files, self.image_size), batches)

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Warn of broken files and count them; loader workers cannot, so the batch brings them here."""
        for path, reason in batch.broken:
            if path not in self.broken:
                self.broken[path] = reason
                warnings.warn(f"skipped {path}: {reason} ({len(self.broken)} so far)", stacklevel=2)
        return batch

    def _loader(self, images: Dataset[LabelledImage], batches: Batches) -> DataLoader[Any]:
        return DataLoader(
            images,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _train_draws(self, iteration: int) -> list[Draw]:
        half = self.batch_size // 2
        first = (iteration * self._world_size + self._rank) * half
        draws = []
        for label, files in enumerate(self.train_files):
            rows = prompt_indices(
                iteration,
                num_prompts=len(files),
                per_rank=half,
                seed=2 * self.seed + label,
                rank=self._rank,
                world_size=self._world_size,
            )
            draws += [Draw(label, row, draw_seed(self.seed, label, first + i)) for i, row in enumerate(rows)]
        return draws

    @property
    def _rank(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_rank

    @property
    def _world_size(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    def _iteration(self) -> int:
        return 0 if self.trainer is None else getattr(self.trainer.lightning_module, "iteration", 0)
