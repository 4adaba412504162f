from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from realgen.data import PromptShards, write_shards
from realgen.types import PromptBatch


@pytest.fixture
def shards(tmp_path: Path, make_image: Callable[..., Image.Image]) -> SimpleNamespace:
    """Twelve prompts to train on in unequal shards, five with a real image to validate on."""
    write_shards(({"prompt": f"train {i}"} for i in range(12)), tmp_path / "train", 5)
    write_shards(({"prompt": f"validation {i}", "image": make_image(i)} for i in range(5)), tmp_path / "validation", 3)
    return SimpleNamespace(train=f"{tmp_path}/train/*.tar", validation=f"{tmp_path}/validation/*.tar")


def on_rank(data: PromptShards, rank: int = 0, world_size: int = 1, *, iteration: int = 0) -> PromptShards:
    """Put the data on one rank of several, without a process group."""
    trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        lightning_module=SimpleNamespace(iteration=iteration),
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )
    vars(data)["trainer"] = trainer
    data.setup("fit")
    return data


def first_prompts(data: PromptShards, batches: int) -> list[tuple[str, ...]]:
    return [batch.prompts for batch in itertools.islice(data.train_dataloader(), batches)]


def test_a_resumed_loader_goes_on_at_the_next_prompt(shards: SimpleNamespace) -> None:
    straight = on_rank(PromptShards(shards.train, prompts_per_iteration=5, seed=3))
    resumed = on_rank(PromptShards(shards.train, prompts_per_iteration=5, seed=3), iteration=4)
    assert first_prompts(straight, 8)[4:] == first_prompts(resumed, 4)


def test_the_order_does_not_depend_on_where_the_prompts_are_kept(shards: SimpleNamespace) -> None:
    order = first_prompts(on_rank(PromptShards(shards.train, prompts_per_iteration=4)), 6)
    on_demand = PromptShards(shards.train, prompts_per_iteration=4, max_in_memory=3)
    assert first_prompts(on_rank(on_demand), 6) == order
    streamed = PromptShards(f"pipe:cat {shards.train[:-5]}train-00000{{0..2}}.tar", prompts_per_iteration=4)
    assert first_prompts(on_rank(streamed), 6) == order


def test_the_seed_chooses_the_order(shards: SimpleNamespace) -> None:
    orders = [on_rank(PromptShards(shards.train, prompts_per_iteration=4, seed=seed)) for seed in (0, 0, 1)]
    first, same, other = (first_prompts(data, 3) for data in orders)
    assert first == same != other


def test_ranks_share_an_epoch(shards: SimpleNamespace) -> None:
    ranks = [on_rank(PromptShards(shards.train, prompts_per_iteration=3), rank, 2) for rank in range(2)]
    prompts = [prompt for data in ranks for batch in first_prompts(data, 2) for prompt in batch]
    assert sorted(prompts) == sorted(f"train {i}" for i in range(12))


def test_validation_counts_every_prompt_once_with_its_real_image(
    shards: SimpleNamespace, make_image: Callable[..., Image.Image]
) -> None:
    counted: dict[str, PromptBatch] = {}
    for rank in range(2):
        data = PromptShards(shards.train, shards.validation, prompts_per_iteration=1, validation_batch_size=2)
        loader = on_rank(data, rank, 2).val_dataloader()
        assert not isinstance(loader, list)
        batches = list(loader)
        assert [len(batch.prompts) for batch in batches] == [2, 1]
        assert len(loader) == 2
        for batch in batches:
            for row in batch.mask.nonzero().flatten().tolist():
                assert batch.prompts[row] not in counted
                counted[batch.prompts[row]] = batch
                number = int(batch.prompts[row].split()[-1])
                pixels = torch.from_numpy(np.array(make_image(number))).permute(2, 0, 1)
                assert batch.images is not None
                torch.testing.assert_close(batch.images[row] * 255, pixels.float())
    assert sorted(counted) == [f"validation {i}" for i in range(5)]


def test_validation_repeats_itself(shards: SimpleNamespace) -> None:
    def epoch(world_size: int) -> dict[str, int]:
        seeds = {}
        for rank in range(world_size):
            data = on_rank(PromptShards(shards.train, shards.validation, prompts_per_iteration=1), rank, world_size)
            for batch in data.val_dataloader():
                seeds.update(zip(batch.prompts, batch.seeds, strict=True))
        return seeds

    assert epoch(1) == epoch(1) == epoch(3)
    assert len(set(epoch(1).values())) == 5


def test_training_images_are_an_option(shards: SimpleNamespace) -> None:
    without = on_rank(PromptShards(shards.validation, prompts_per_iteration=2))
    assert next(iter(without.train_dataloader())).images is None
    images = PromptShards(shards.validation, prompts_per_iteration=2, train_images=True, image_size=8)
    batch = next(iter(on_rank(images).train_dataloader()))
    assert batch.images is not None
    assert batch.images.shape == (2, 3, 8, 8)


def test_skipped_samples_are_warned_of_once_by_rank_0(tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    members = {"ok.txt": b"good", **{f"bad{i}.txt": b"" for i in range(6)}}
    shard = str(write_tar(tmp_path / "a.tar", members))
    with pytest.warns(UserWarning, match="train: skipped") as record:
        data = on_rank(PromptShards(shard, prompts_per_iteration=1))
    messages = [str(warning.message) for warning in record]
    assert len(messages) == 6
    assert messages[0] == f"train: skipped {shard}, sample 'bad0': its prompt is empty."
    assert messages[-1] == "train: skipped 6 samples, 1 are left."
    assert data.skipped == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.setup("fit")
        assert on_rank(PromptShards([shard, f"pipe:cat {shard}"], prompts_per_iteration=1), 1, 2).skipped == 12


def test_it_can_be_printed(shards: SimpleNamespace) -> None:
    data = PromptShards(shards.train, shards.validation, prompts_per_iteration=1)
    data.setup("validate")
    assert str(data) == "PromptShards(train: not read, validation: 5 prompts)"
    data.setup("fit")
    assert str(data) == "PromptShards(train: 12 prompts, validation: 5 prompts)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts_per_iteration": 0}, "prompts_per_iteration must be at least 1, got 0"),
        ({"validation_batch_size": 0}, "validation_batch_size must be at least 1, got 0"),
        ({"max_in_memory": -1}, "max_in_memory must be at least 1, got -1"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"validation": "nowhere/*.tar"}, "validation='nowhere/[*].tar' matches no file"),
    ],
)
def test_constructor_refuses(shards: SimpleNamespace, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptShards(shards.train, **{"prompts_per_iteration": 1, **settings})


def test_an_iteration_may_not_take_more_prompts_than_there_are(shards: SimpleNamespace) -> None:
    on_rank(PromptShards(shards.train, prompts_per_iteration=6), world_size=2)
    with pytest.raises(ValueError, match=r"prompts_per_iteration=7 on 2 ranks takes 14 .* hold 12"):
        on_rank(PromptShards(shards.train, prompts_per_iteration=7), world_size=2)


def test_reading_before_a_run_finds_what_setup_would(shards: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prompts_per_iteration=7 on 2 ranks takes 14 .* hold 12"):
        PromptShards(shards.train, prompts_per_iteration=7).read(num_ranks=2)
    (tmp_path / "text.tar").write_text("no tar")
    with pytest.raises(ValueError, match="no sample of the 1 shards can be used"):
        PromptShards(shards.train, str(tmp_path / "text.tar"), prompts_per_iteration=1).read()
    with pytest.raises(ValueError, match="the shard 'pipe:false' could not be read"):
        PromptShards("pipe:false", prompts_per_iteration=1).read()


def test_what_was_read_is_not_read_again_but_checked_again(shards: SimpleNamespace) -> None:
    data = PromptShards(shards.train, shards.validation, prompts_per_iteration=7)
    data.read()
    tables = (data.train_table, data.validation_table)
    with pytest.raises(ValueError, match=r"prompts_per_iteration=7 on 2 ranks takes 14 .* hold 12"):
        on_rank(data, world_size=2)
    assert tables == (data.train_table, data.validation_table)


def test_ranks_must_read_the_same_prompts(shards: SimpleNamespace) -> None:
    other = PromptShards(shards.validation, prompts_per_iteration=1)
    on_rank(other)
    assert other.train_table is not None
    seen_by_rank_0 = (len(other.train_table), other.train_table.digest)
    data = PromptShards(shards.train, prompts_per_iteration=1)
    strategy = SimpleNamespace(broadcast=lambda _: seen_by_rank_0)
    vars(data)["trainer"] = SimpleNamespace(global_rank=1, world_size=2, strategy=strategy)
    with pytest.raises(ValueError, match="same train shards: rank 1 reads 12 prompts, rank 0 reads 5"):
        data.setup("fit")


class Recorder(LightningModule):
    """Counts iterations as the GRPO module does, and remembers the prompts."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.iteration = 0
        self.trained: list[tuple[str, ...]] = []
        self.validated: list[PromptBatch] = []

    def training_step(self, batch: PromptBatch, index: int) -> None:
        self.iteration += 1
        self.trained.append(batch.prompts)

    def validation_step(self, batch: PromptBatch, index: int) -> None:
        self.validated.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["iteration"] = self.iteration

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.iteration = checkpoint["iteration"]


def fit(shards: SimpleNamespace, epochs: int, *, ckpt_path: Path | None = None) -> tuple[Recorder, Trainer]:
    module = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_train_batches=3,
        num_sanity_val_steps=0,
        precision="64-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = PromptShards(shards.train, shards.validation, prompts_per_iteration=2, validation_batch_size=4)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return module, trainer


def test_under_lightning_a_resumed_run_sees_what_the_straight_run_sees(shards: SimpleNamespace, tmp_path: Path) -> None:
    straight, _ = fit(shards, 4)
    half, trainer = fit(shards, 2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(shards, 4, ckpt_path=tmp_path / "half.ckpt")
    assert half.trained + resumed.trained == straight.trained
    # 6 iterations of 2 are one epoch over the 12 prompts
    assert sorted(p for prompts in half.trained for p in prompts) == sorted(f"train {i}" for i in range(12))

    first, second = straight.validated[:2]
    assert first.prompts + second.prompts == tuple(f"validation {i}" for i in range(5))
    assert first.mask.tolist() == [True] * 4
    # Lightning rebuilds batches for "true" precisions, which it refuses to do with frozen dataclasses.
    assert isinstance(first, PromptBatch)
    assert first.images is not None
    assert first.images.dtype == torch.float64


@pytest.mark.filterwarnings("ignore:Total length of `list`")
def test_training_without_validation_shards(shards: SimpleNamespace) -> None:
    data = PromptShards(shards.train, prompts_per_iteration=2)
    data.setup("fit")
    assert data.val_dataloader() == []
    module = Recorder()
    Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(module, data)  # fmt: skip
    assert (len(module.trained), module.validated) == (1, [])
