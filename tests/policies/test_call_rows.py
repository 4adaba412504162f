"""Rows of a call that are measured: when doubling stops, what is timed, and that a run keeps the number."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from realgen.callbacks.save_config import SaveConfig
from realgen.modules import GRPOModule
from realgen.objectives import GRPOGuard
from realgen.policies import DiffusionPolicy, call_rows
from realgen.policies.backbones.base import Schedule
from realgen.policies.call_rows import MOST_ROWS, call_seconds, choose_rows
from realgen.policies.denoising import VelocityField
from realgen.policies.diffusion_model import measured_rows
from tests.helpers.toy_grpo import Color

PROMPTS = ["a red fox", "an old harbour at dawn"]


@pytest.mark.parametrize(
    ("seconds", "least", "rows"),
    [
        (lambda rows: 0.1 * rows, 1, 1),  # nothing is gained
        (lambda rows: 1.0, 1, MOST_ROWS),  # all is gained
        (lambda rows: 1.0, 3, 384),
        (lambda rows: max(rows, 8) / 8, 1, 8),  # full at eight
        (lambda rows: rows * 0.98 ** math.log2(rows), 1, 1),  # 2 % for each doubling is too little
        (lambda rows: rows * 0.96 ** math.log2(rows), 1, MOST_ROWS),  # 4 % is not
        (lambda rows: math.inf if rows > 4 else 1.0, 1, 4),  # memory ends
        (lambda rows: math.inf, 2, 2),
    ],
)
def test_doubling_stops_where_a_row_gains_three_percent_no_more(
    seconds: Callable[[int], float], least: int, rows: int
) -> None:
    assert choose_rows(seconds, least=least) == rows


class Field(VelocityField):
    """Answers with a function of latents, prompts and the number of calls."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer, self.backbone = answer, SimpleNamespace(transformer=torch.nn.Linear(1, 1))
        self.schedule = Schedule(torch.ones(2), torch.ones(1))

    def __call__(self, latents: Any, steps: Any, prompt_index: Any, *, calls: int, guided: bool = True) -> Any:
        return self.answer(latents, prompt_index, calls)


def test_a_call_has_as_many_rows_as_asked_for_and_the_slowest_rank_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(call_rows, "max_over_ranks", lambda mine: mine + 100)
    field = Field(lambda latents, index, calls: seen.append((latents[:, 0].tolist(), index.tolist(), calls)))
    seconds = call_seconds(field, torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1]), 0, 3)
    assert 100 <= seconds < 101
    assert seen == [([1.0, 2.0, 1.0], [0, 1, 0], 1)] * (1 + call_rows.CALLS)


def test_what_does_not_fit_takes_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    given = (Field(full), torch.zeros(1, 1), torch.tensor([0]), 0, 2)
    assert call_seconds(*given) == math.inf
    monkeypatch.setattr(call_rows, "is_sharded", lambda network: True)
    with pytest.raises(torch.OutOfMemoryError):
        call_seconds(*given)


def test_a_call_fits_only_beside_gradients_and_optimizer(
    monkeypatch: pytest.MonkeyPatch, make_policy: Callable[..., DiffusionPolicy]
) -> None:
    def empty(size: int, **how: Any) -> torch.Tensor:
        if how.get("dtype") == torch.uint8 and size > 100:
            raise torch.OutOfMemoryError
        return torch.zeros(size)

    given = (Field(lambda *_: None), torch.zeros(1, 1), torch.tensor([0]))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        assert call_seconds(*given, 100, 1) < math.inf
        assert call_seconds(*given, 101, 1) == math.inf
    asked: list[int] = []
    monkeypatch.setattr("realgen.policies.diffusion_model.call_seconds", lambda *all_: asked.append(all_[-2]) or 1.0)
    policy = make_policy(rollout_batch_size="auto", samples_per_noise=1)
    rolled(policy)
    weights = list(policy.trainable_parameters().values())
    assert set(asked) == {3 * 4 * sum(weight.numel() for weight in weights)}  # a gradient and two moments, in float32


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, make_policy: Callable[..., DiffusionPolicy]) -> DiffusionPolicy:
    """A policy that finds four rows to be the fastest."""
    monkeypatch.setattr("realgen.policies.diffusion_model.call_seconds", lambda *given: max(given[-1], 4) / 4)
    return make_policy(rollout_batch_size="auto", samples_per_noise=1)


def rolled(policy: DiffusionPolicy) -> torch.Tensor:
    return policy.rollout(PROMPTS, 3, generator=torch.Generator().manual_seed(0)).images


def test_the_first_call_measures_and_all_others_use_the_number(
    measured: DiffusionPolicy, make_policy: Callable[..., DiffusionPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert measured.rollout_batch_size == 0
    images = rolled(measured)
    assert measured.rollout_batch_size == 4
    assert torch.equal(images, rolled(make_policy(rollout_batch_size=4, samples_per_noise=1)))
    monkeypatch.setattr("realgen.policies.diffusion_model.call_seconds", pytest.fail)
    rolled(measured)


def test_checkpoint_and_config_keep_the_number(measured: DiffusionPolicy, tmp_path: Path) -> None:
    def module(policy: DiffusionPolicy) -> GRPOModule:
        return GRPOModule(policy, Color(0), GRPOGuard(clip_low=1.0, clip_high=1.0))

    trained = module(measured)
    config = {"model": {"policy": {"num_steps": 4, "rollout_batch_size": "auto"}}}
    save = SaveConfig(yaml.safe_dump(config), tmp_path / "config.yaml")
    trainer = Mock(spec=Trainer, is_global_zero=True, loggers=[])
    save.on_train_batch_end(trainer, trained)
    assert not save.path.exists()  # nothing is measured yet
    rolled(measured)
    save.on_train_batch_end(trainer, trained)
    assert yaml.safe_load(save.path.read_text()) == {"model": {"policy": {"num_steps": 4, "rollout_batch_size": 4}}}

    checkpoint: dict[str, Any] = {"state_dict": trained.state_dict()}
    trained.on_save_checkpoint(checkpoint)
    measured.rollout_batch_size = 0
    trained.on_load_checkpoint(checkpoint)
    assert measured.rollout_batch_size == 4
    language_model = type("LanguageModel", (torch.nn.Module,), {"image_policy": measured})()  # not one of its modules
    assert measured_rows(language_model) == 4
    measured.measures_rows, measured.rollout_batch_size = False, 6  # a config that has a number is obeyed
    trained.on_load_checkpoint(checkpoint)
    assert measured.rollout_batch_size == 6
