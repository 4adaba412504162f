"""What type hints let stand in a config."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.loggers import WandbLogger

from realgen.cli.schema import describe, parameters, slot_of
from realgen.policies.backbones import SD3
from tests.helpers.cli_toys import Bright, Model, Reward


@dataclass
class Settings:
    rank: int
    alpha: float = 1.0


@pytest.mark.parametrize(
    ("hint", "kind", "value"),
    [
        (Reward, "base", Reward),
        (Reward | None, "base", Reward),
        (str | Reward, "base", Reward),
        (OptimizerCallable, "base", torch.optim.Optimizer),
        (OptimizerCallable, "num_given", 1),
        (dict[str, Reward | None] | None, "items", Reward | None),
        (list[Reward], "elements", Reward),
        (Sequence[int], "elements", int),
        (Iterable[Reward] | bool, "elements", Reward),
        (Settings | None, "owner", "Settings"),
    ],
)
def test_slot_of_finds_what_it_holds(hint: Any, kind: str, value: Any) -> None:
    assert getattr(slot_of(hint), kind) == value


@pytest.mark.parametrize("hint", [int, float | torch.Tensor, str, Path, bool, tuple[int, int], Literal["a"], None, Any])
def test_plain_values_are_no_components(hint: Any) -> None:
    slot = slot_of(hint)
    assert (slot.base, slot.items, slot.elements, slot.arguments) == (None, None, None, None)


@pytest.mark.parametrize(
    ("hint", "text", "null"),
    [
        (int, False, False),
        (int | None, False, True),
        (str, True, False),
        (str | Path | None, True, True),
        (Reward, False, False),
        (Any, True, True),
        (Literal["a", "b"] | Reward, True, False),
    ],
)
def test_slot_of_tells_text_and_null(hint: Any, text: bool, null: bool) -> None:
    assert (slot_of(hint).takes_text, slot_of(hint).takes_null) == (text, null)


@pytest.mark.parametrize(
    ("hint", "plain"),
    [(Reward | None, False), (Reward | int, True), (Reward | bool, True), (Literal["a"] | Reward, True), (Any, True)],
)
def test_slot_of_tells_whether_a_scalar_may_stand(hint: Any, plain: bool) -> None:
    assert slot_of(hint).takes_plain is plain


def test_parameters_of_a_class() -> None:
    slots = parameters(Model)
    assert list(slots) == ["reward", "group_size", "lr", "metrics", "optimizer", "fail_at"]
    assert [name for name, slot in slots.items() if slot.required] == ["reward"]
    assert slots["optimizer"].default is torch.optim.SGD


def test_parameters_leave_out_what_the_code_passes() -> None:
    assert "params" not in parameters(torch.optim.AdamW, 1)
    assert "lr" in parameters(torch.optim.AdamW, 1)


def test_parameters_reach_through_kwargs() -> None:
    assert {"offline", "project", "group", "tags"} <= set(parameters(WandbLogger))
    cache_size = parameters(SD3)["cache_size"]
    assert (cache_size.hint, cache_size.default, cache_size.required) == (int, 256, False)


def test_parameters_of_a_dataclass_and_of_a_function() -> None:
    def make(target: float = 0.1) -> Reward:
        return Bright(target)

    assert list(parameters(Settings)) == ["rank", "alpha"]
    assert list(parameters(make)) == ["target"]


def test_every_argument_of_the_trainer_is_known() -> None:
    slots = parameters(Trainer)
    assert {"max_epochs", "limit_train_batches", "strategy", "logger", "callbacks"} <= set(slots)
    assert slots["strategy"].takes_text


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "int"),
        (Reward | None, "Reward or null"),
        (Callable[[int], Reward], "Reward"),
        (list[int], "list of int"),
        (str | Literal["x", 1], "str or 'x' or 1"),
    ],
)
def test_describe(hint: Any, words: str) -> None:
    assert describe(hint) == words
