"""float32_matmul_precision holds for a run's stages, and for nothing behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from realgen.cli import ConfigError
from realgen.cli.realgen_cli import RealGenCLI
from tests.helpers.cli_toys import Model

Fit = Callable[..., int]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precision at each training step."""
    seen: list[str] = []
    step = Model.training_step

    def spy(model: Model, *args: Any) -> Any:
        seen.append(torch.get_float32_matmul_precision())
        return step(model, *args)

    monkeypatch.setattr(Model, "training_step", spy)
    return seen


@pytest.mark.parametrize(("arguments", "expected"), [([], "highest"), (["--float32_matmul_precision=high"], "high")])
def test_it_holds_while_a_run_lasts(fit: Fit, seen: list[str], arguments: list[str], expected: str) -> None:
    assert fit(*arguments) == 0
    assert set(seen) == {expected}
    assert torch.get_float32_matmul_precision() == "highest"


def test_it_is_set_back_behind_an_error(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(model: Model, *args: Any) -> Any:
        raise RuntimeError(f"it is {torch.get_float32_matmul_precision()}")

    monkeypatch.setattr(Model, "training_step", fail)
    assert fit("--float32_matmul_precision=medium") == 1
    assert "it is medium" in capsys.readouterr().err
    assert torch.get_float32_matmul_precision() == "highest"


def test_another_word_is_refused(parse: Callable[..., RealGenCLI]) -> None:
    with pytest.raises(ConfigError, match=r"float32_matmul_precision.*'tf32'"):
        parse("--float32_matmul_precision=tf32")
