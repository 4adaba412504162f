"""The prompts of training and validation, as a data module of Lightning."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator

from lightning.pytorch import LightningDataModule

from realgen.checks import check_at_least
from realgen.data.order import prompt_indices, validation_rows
from realgen.data.prompt_table import PromptTable
from realgen.data.shard_paths import find_shards
from realgen.types import PromptBatch

# Lightning prefetches from loaders without a length, and a resumed run would then miss the prefetched batch.
_ENDLESS = 10**9


class PromptShards(LightningDataModule):
    """Deal out the prompts of WebDataset tar shards: P per rank and GRPO iteration.

    What a rank gets is a pure function of (seed, iteration, rank, number of ranks): every prompt once per epoch, no
    prompt on two ranks, the same number of batches everywhere, and a resumed run goes on at the next prompt because
    the loader begins at ``trainer.lightning_module.iteration``. A sample that cannot be read is named, counted and
    skipped. There are no loader workers: the prompts of an iteration are read in milliseconds.

    Args:
        train: Shards to train on: a path, a pattern (``data/prompts/train/*.tar``, ``train-{000000..000009}.tar``), a
            URL as webdataset reads it (``pipe:COMMAND``, which a shell runs, ``s3://``, ``https://``), or a list.
        validation: Shards to validate on, written the same way; None for no validation.
        prompts_per_iteration: P, prompts of one rank in one iteration, at least 1.
        validation_batch_size: Prompts of one rank in one validation batch, at least 1.
        seed: Chooses the order of the training prompts.
        max_in_memory: Prompts up to which a set is kept in memory. More of them are read from the local tars on demand,
            in the same order; from URLs they are refused.
        train_images: Whether training batches carry the real images of the prompts. Validation batches always do, if
            the shards have them.
        image_size: Height and width in pixels to which real images are scaled and centrally cropped; None keeps their
            size, which must then be the same for all.

    Raises:
        ValueError: If a number is out of its range.
        ValueError: If a name or pattern matches no file.
    """

    def __init__(
        self,
        train: str | list[str],
        validation: str | list[str] | None = None,
        *,
        prompts_per_iteration: int,
        validation_batch_size: int = 16,
        seed: int = 0,
        max_in_memory: int = 200_000,
        train_images: bool = False,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        check_at_least(
            1,
            prompts_per_iteration=prompts_per_iteration,
            validation_batch_size=validation_batch_size,
            max_in_memory=max_in_memory,
            image_size=image_size,
        )
        # Here and not in `setup`: a misspelt path must not leave a started run behind in the loggers.
        self._train_shards = find_shards(train, argument="train")
        self._validation_shards = None if validation is None else find_shards(validation, argument="validation")
        self.prompts_per_iteration = prompts_per_iteration
        self.validation_batch_size = validation_batch_size
        self.seed = seed
        self._max_in_memory = max_in_memory
        self._train_images = train_images
        self._image_size = image_size
        self.train_table: PromptTable | None = None
        """The training prompts, after ``setup("fit")``."""
        self.validation_table: PromptTable | None = None
        """The validation prompts, after ``setup``; None if there are none."""
        self._announced: set[str] = set()

    @property
    def skipped(self) -> int:
        """Samples of both sets that could not be used."""
        return sum(table.skipped for table in (self.train_table, self.validation_table) if table is not None)

    @property
    def rank(self) -> int:
        """Number of this rank; 0 without a trainer."""
        return 0 if self.trainer is None else self.trainer.global_rank

    @property
    def world_size(self) -> int:
        """Number of ranks; 1 without a trainer."""
        return 1 if self.trainer is None else self.trainer.world_size

    # Lightning's own takes every loader for a DataLoader.
    def __str__(self) -> str:
        sets = (("train", self.train_table), ("validation", self.validation_table))
        parts = [f"{name}: {'not read' if table is None else f'{len(table)} prompts'}" for name, table in sets]
        return f"{type(self).__name__}({', '.join(parts)})"

    def read(self, stage: str | None = None, *, num_ranks: int = 1) -> None:
        """Read the shards, once; before a run begins, so that a mistake leaves nothing behind.

        The stage ``validate`` reads the validation shards only. The prompts are dealt out to ``num_ranks``.

        Raises:
            ValueError: If a set has no usable sample, or its real images do not fit together (see ``PromptTable``).
            ValueError: If there are fewer training prompts than one iteration of all ranks takes.
        """
        if stage in ("fit", None):
            if self.train_table is None:
                self.train_table = self._table(self._train_shards, real_images=self._train_images)
            needed = self.prompts_per_iteration * num_ranks
            if len(self.train_table) < needed:
                raise ValueError(
                    f"prompts_per_iteration={self.prompts_per_iteration} on {num_ranks} ranks takes {needed} "
                    f"prompts per iteration, the training shards hold {len(self.train_table)}: lower it or add prompts."
                )
        if self._validation_shards is not None and self.validation_table is None:
            self.validation_table = self._table(self._validation_shards, real_images=True)

    def setup(self, stage: str | None = None) -> None:
        """Read what is not read yet, and warn of skipped samples; ValueError if the ranks read different prompts."""
        self.read(stage, num_ranks=self.world_size)
        for name, table in (("train", self.train_table), ("validation", self.validation_table)):
            if table is not None and name not in self._announced:
                self._announced.add(name)
                self._announce(name, table)

    def train_dataloader(self) -> PromptLoader:
        """Return a loader of one batch per GRPO iteration, without end, beginning at the module's ``iteration``."""
        assert self.train_table is not None, "Lightning calls setup('fit') first"
        return PromptLoader(_ENDLESS, lambda: map(self._train_batch, itertools.count(self._iteration())))

    def val_dataloader(self) -> PromptLoader | list[PromptLoader]:
        """Return a loader of all validation prompts, each once over all ranks, in the shards' order; [] without any."""
        if self.validation_table is None:
            return []
        rows = validation_rows(len(self.validation_table), rank=self.rank, world_size=self.world_size)
        batches = [rows[i : i + self.validation_batch_size] for i in range(0, len(rows), self.validation_batch_size)]
        return PromptLoader(len(batches), lambda: map(self._validation_batch, batches))

    def _iteration(self) -> int:
        return 0 if self.trainer is None else getattr(self.trainer.lightning_module, "iteration", 0)

    def train_rows(self, iteration: int) -> list[int]:
        """Return the numbers in ``train_table`` of this rank's prompts of one iteration."""
        assert self.train_table is not None
        return prompt_indices(
            iteration,
            num_prompts=len(self.train_table),
            per_rank=self.prompts_per_iteration,
            seed=self.seed,
            rank=self.rank,
            world_size=self.world_size,
        )

    def _train_batch(self, iteration: int) -> PromptBatch:
        assert self.train_table is not None
        return self.train_table.batch(self.train_rows(iteration))

    def _validation_batch(self, batch: list[tuple[int, bool]]) -> PromptBatch:
        assert self.validation_table is not None
        rows, counts = zip(*batch, strict=True)
        return self.validation_table.batch(rows, mask=counts)

    def _table(self, shards: list[str], *, real_images: bool) -> PromptTable:
        return PromptTable(
            shards, max_in_memory=self._max_in_memory, real_images=real_images, image_size=self._image_size
        )

    def _announce(self, name: str, table: PromptTable) -> None:
        if self.rank == 0:
            for skipped in table.skipped_names:
                warnings.warn(f"{name}: skipped {skipped}", stacklevel=2)
            if table.skipped:
                warnings.warn(f"{name}: skipped {table.skipped} samples, {len(table)} are left.", stacklevel=2)
        if self.trainer is not None:
            theirs = self.trainer.strategy.broadcast((len(table), table.digest))
            if theirs != (len(table), table.digest):
                raise ValueError(
                    f"all ranks must read the same {name} shards: rank {self.rank} reads {len(table)} prompts, "
                    f"rank 0 reads {theirs[0]}{', other ones' if theirs[0] == len(table) else ''}."
                )


class PromptLoader:
    """Yield prompts in batches, their ``number`` known; ``batches`` begins with the first one, at each ``iter``."""

    def __init__(self, number: int, batches: Callable[[], Iterator[PromptBatch]]) -> None:
        self._number, self._batches = number, batches

    def __len__(self) -> int:
        """Number of batches, the same on every rank; more than any run takes where they do not end."""
        return self._number

    def __iter__(self) -> Iterator[PromptBatch]:
        """Begin."""
        return self._batches()
