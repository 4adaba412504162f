from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from realgen.callbacks import LastCheckpoint, ValidationRows
from realgen.callbacks.validation_rows import write_rows
from realgen.detectors import Detector
from realgen.metrics import DetectorScore
from realgen.modules.seeds import mix_seed
from realgen.rewards import WeightedSum
from tests.helpers.toy_grpo import PROMPTS, Color, Prompts, module, trainer


class Redness(Detector):
    """p_fake is the image's mean red."""

    def build(self) -> nn.Module:
        return nn.Linear(1, 1)  # the device is that of its parameters

    def p_fake(self, network: nn.Module, images: Tensor) -> Tensor:
        return images[:, 0].mean((1, 2))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def train(folder: Path, *, epochs: int = 2, resume: Path | None = None, **settings: Any) -> Any:
    metrics = {"held_out": DetectorScore(Redness())}
    trained = module(validation_samples_per_prompt=2, metrics=metrics, **settings)
    callbacks = [ValidationRows(), LastCheckpoint()]
    lightning = trainer(folder, callbacks=callbacks, enable_checkpointing=True, max_epochs=epochs)
    if resume is None:
        lightning.validate(trained, Prompts(), verbose=False)
    lightning.fit(trained, Prompts(), ckpt_path=resume, weights_only=True)
    return trained


def test_each_image_of_each_validation_has_a_row(tmp_path: Path) -> None:
    trained = train(tmp_path)
    rows = read(tmp_path / "validation.csv")
    assert [int(row["iteration"]) for row in rows] == [0] * 6 + [2] * 6 + [4] * 6
    assert [int(row["images"]) for row in rows] == [0] * 6 + [16] * 6 + [32] * 6  # 2 iterations x 2 prompts x 4
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds[0] == 0 < seconds[6] < seconds[12]
    last = rows[12:]  # three prompts, the padded one left out, two samples each
    assert [(row["key"], row["sample"]) for row in last] == [(key, s) for key in "012" for s in "01"]
    assert [row["prompt"] for row in last] == [PROMPTS[n] for n in (0, 0, 1, 1, 2, 2)]
    seeds = [seed for n in range(3) for seed in (100 + n, mix_seed(100 + n, 1))]
    assert [int(row["seed"]) for row in last] == seeds
    images = trained.policy.sample([row["prompt"] for row in last], seeds)  # the policy as it was last validated
    red, green = images[:, 0, 0, 0], images[:, 1, 0, 0]
    for column, expected in (("reward/red", red), ("reward/green", green), ("held_out", 1 - red)):
        torch.testing.assert_close(torch.tensor([float(row[column]) for row in last]), expected)
    weighted = red + 0.5 * green
    torch.testing.assert_close(torch.tensor([float(row["reward"]) for row in last]), weighted)


def test_a_reward_that_failed_leaves_its_cell_empty(tmp_path: Path) -> None:
    train(tmp_path, reward=WeightedSum({"red": Color(0, failing=[1]), "green": Color(1)}, {}), epochs=1)
    rows = read(tmp_path / "validation.csv")
    assert [bool(row["reward/red"]) for row in rows[:6]] == [True, False, True, True, True, False]  # two batches
    assert [bool(row["reward/green"]) for row in rows[:6]] == [True] * 6


def test_a_resumed_run_counts_on_and_replaces_what_it_measures_again(tmp_path: Path) -> None:
    train(tmp_path, epochs=1)
    early = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    train(tmp_path, epochs=3, resume=tmp_path / "checkpoints" / "last.ckpt")
    rows = read(tmp_path / "validation.csv")
    assert sorted({int(row["iteration"]) for row in rows}) == [0, 2, 4, 6]
    assert {int(row["images"]) for row in rows if row["iteration"] == "6"} == {48}
    (tmp_path / "early.ckpt").write_bytes(early)
    train(tmp_path, epochs=2, resume=tmp_path / "early.ckpt")
    again = read(tmp_path / "validation.csv")
    assert [int(row["iteration"]) for row in again] == [0] * 6 + [2] * 6 + [4] * 6
    assert {int(row["images"]) for row in again[12:]} == {32}


def test_a_run_that_begins_once_more_drops_the_rows_of_the_first_start(tmp_path: Path) -> None:
    train(tmp_path)
    callbacks = [ValidationRows()]
    trainer(tmp_path, callbacks=callbacks, limit_val_batches=0).fit(module(), Prompts())
    assert {row["iteration"] for row in read(tmp_path / "validation.csv")} == {"0"}
    write_rows(tmp_path / "validation.csv", [], iteration=0)
    assert not (tmp_path / "validation.csv").exists()


def test_sanity_checks_write_nothing(tmp_path: Path) -> None:
    lightning = trainer(tmp_path, callbacks=[ValidationRows()], num_sanity_val_steps=1, limit_train_batches=1)
    lightning.fit(module(), Prompts())
    assert {row["iteration"] for row in read(tmp_path / "validation.csv")} == {"1", "2"}


def test_other_columns_are_added(tmp_path: Path) -> None:
    path = tmp_path / "validation.csv"
    write_rows(path, [{"iteration": 1, "reward/red": 0.5}], iteration=1)
    write_rows(
        path, [{"iteration": 2, "reward/blue": float("nan")}, {"iteration": 2, "reward/blue": 0.25}], iteration=2
    )
    assert read(path) == [
        {"iteration": "1", "reward/red": "0.5", "reward/blue": ""},
        {"iteration": "2", "reward/red": "", "reward/blue": ""},
        {"iteration": "2", "reward/red": "", "reward/blue": "0.25"},
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["validation.csv"]


@pytest.mark.distributed
def test_two_ranks_write_one_file(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(_rank, args=(tmp_path,), nprocs=2, start_method="fork")
    assert read(tmp_path / "validation.csv") == [
        {"iteration": "1", "key": key, "sample": sample} for key in "ab" for sample in "01"
    ]


def _rank(rank: int, folder: Path) -> None:
    from realgen.callbacks.validation_rows import gather_rows

    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    rows = gather_rows([{"iteration": 1, "key": "ba"[rank], "sample": sample} for sample in (1, 0)])
    if rank == 0:
        write_rows(folder / "validation.csv", rows, iteration=1)
    torch.distributed.destroy_process_group()
