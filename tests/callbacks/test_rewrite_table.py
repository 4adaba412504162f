from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from realgen.callbacks import RewriteTable
from realgen.types import Rewrite, Rollout, Samples
from tests.helpers.toy_grpo import PROMPTS, GaussianPolicy, Prompts, module, trainer


def shouted(prompt: str) -> Rewrite:
    return Rewrite(f"{prompt}!", f"<answer>{prompt}! ü</answer>", formatted=True, truncated=False, skipped=False)


class Shouting(GaussianPolicy):
    """Tells of rewrites that it does not read."""

    def roll(self, prompts: Sequence[str], group_size: int, generator: torch.Generator) -> Rollout:
        rollout = super().roll(prompts, group_size, generator)
        return replace(rollout, rewrites=tuple(shouted(prompt) for prompt in rollout.row_prompts))

    def sample_rewritten(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Any = None
    ) -> tuple[Tensor, list[Rewrite]]:
        return self.sample(prompts, seeds), [shouted(prompt) for prompt in prompts]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_tables_are_written_of_rollouts_and_validations(tmp_path: Path) -> None:
    table = RewriteTable(every_n_iterations=2, num_rows=5)
    trainer(tmp_path, callbacks=[table]).fit(module(policy=Shouting()), Prompts())
    files = sorted(path.name for path in (tmp_path / "rewrites").iterdir())
    assert files == [
        "iteration-000002.jsonl",
        "iteration-000004.jsonl",
        "validation-000002.jsonl",
        "validation-000004.jsonl",
    ]
    rows = lines(tmp_path / "rewrites" / "iteration-000002.jsonl")
    assert [row["prompt"] for row in rows] == [PROMPTS[2]] * 2 + [PROMPTS[3]] * 2
    assert rows[0]["text"] == f"{PROMPTS[2]}!"
    assert rows[0]["completion"].endswith("! ü</answer>")
    assert (rows[0]["formatted"], rows[0]["truncated"], rows[0]["skipped"]) == (True, False, False)
    assert rows[0]["reward"] == pytest.approx(rows[0]["red"] + 0.5 * rows[0]["green"])
    # Three validation prompts; the fourth row only pads.
    assert [row["prompt"] for row in lines(tmp_path / "rewrites" / "validation-000002.jsonl")] == list(PROMPTS[:3])


def test_what_could_not_be_judged_is_null(tmp_path: Path) -> None:
    from realgen.rewards import WeightedSum
    from tests.helpers.toy_grpo import Color

    failing = module(policy=Shouting(), reward=WeightedSum({"red": Color(0, failing=[0])}))
    table = RewriteTable(every_n_iterations=1)
    trainer(tmp_path, callbacks=[table], max_epochs=1, limit_val_batches=0).fit(failing, Prompts())
    first, second = lines(tmp_path / "rewrites" / "iteration-000001.jsonl")[:2]
    assert (first["red"], first["reward"]) == (None, None)
    assert second["red"] is not None


def test_rollouts_without_rewrites_are_passed_over(tmp_path: Path) -> None:
    trainer(tmp_path, callbacks=[RewriteTable(every_n_iterations=1)]).fit(module(), Prompts())
    assert not (tmp_path / "rewrites").exists()


def test_weights_and_biases_get_a_table_with_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}
    monkeypatch.setattr(WandbLogger, "log_metrics", lambda self, metrics, step: sent.update({**metrics, "step": step}))
    lightning = trainer(tmp_path, callbacks=[RewriteTable(every_n_iterations=2, num_rows=2)], max_epochs=1)
    lightning.loggers = [WandbLogger(save_dir=tmp_path, offline=True)]
    lightning.fit(module(policy=Shouting()), Prompts())
    assert {"rewrites/iteration", "rewrites/validation"} <= sent.keys()
    assert (sent["iteration"], sent["step"]) == (2, 2)
    columns, data = sent["rewrites/iteration"].columns, sent["rewrites/iteration"].data
    assert columns[:3] == ["prompt", "text", "completion"]
    assert columns[-1] == "image"
    assert [len(row) for row in data] == [len(columns)] * 2
    assert type(data[0][-1]).__name__ == "Image"


def test_rows_are_spread_over_the_rewrites_of_a_prompt(tmp_path: Path) -> None:
    """Three images of each of two rewrites: two rows show both."""

    class Twice(Shouting):
        def roll(self, prompts: Sequence[str], group_size: int, generator: torch.Generator) -> Rollout:
            rollout = super().roll(prompts, group_size, generator)
            rewrites = tuple(replace(each, text=f"{row % 2}") for row, each in enumerate(rollout.rewrites))
            return replace(rollout, images=rollout.images.repeat_interleave(3, 0), images_per_row=3, rewrites=rewrites)

    table = RewriteTable(every_n_iterations=1, num_rows=4)
    lightning = trainer(tmp_path, callbacks=[table], max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    lightning.fit(module(policy=Twice(), group_size=2), Prompts())
    rows = lines(tmp_path / "rewrites" / "iteration-000001.jsonl")
    assert [row["prompt"] for row in rows] == [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2
    assert [row["text"] for row in rows] == ["0", "1"] * 2


def test_no_more_images_of_a_validation_are_kept_than_are_shown(tmp_path: Path) -> None:
    table = RewriteTable(num_rows=1)
    kept = []

    class Look(Callback):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            kept.extend(table._validated)

    trainer(tmp_path, callbacks=[table, Look()]).validate(module(policy=Shouting()), Prompts(), verbose=False)
    assert [image is not None for _, image in kept] == [True, False, False]
    assert not any(isinstance(value, Tensor | Samples) for values, _ in kept for value in values.values())


@pytest.mark.parametrize("name", ["every_n_iterations", "num_rows"])
def test_impossible_numbers_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        RewriteTable(**{name: 0})
