from __future__ import annotations

from pathlib import Path

import pytest
import torch

from realgen.callbacks import EMA, Export
from realgen.modules import OnPolicyError
from tests.helpers.toy_grpo import GaussianPolicy, Prompts, module, trainer


def test_the_average_is_exported_at_the_end(tmp_path: Path) -> None:
    trained, average, export = module(), EMA(decay=0.9, warmup=1), Export("weights")
    trainer(tmp_path, callbacks=[export, average], limit_val_batches=0).fit(trained, Prompts())
    assert export.path == tmp_path / "weights"
    exported = torch.load(export.path / "w.pt")
    assert torch.equal(exported["weight"], average.weights["weight"])
    assert not torch.equal(exported["weight"], trained.policy.weight)


def test_the_live_weights_are_exported_without_an_average(tmp_path: Path) -> None:
    trained, export = module(), Export()
    trainer(tmp_path, callbacks=[export], limit_val_batches=0).fit(trained, Prompts())
    assert torch.equal(torch.load(tmp_path / "lora" / "w.pt")["bias"], trained.policy.bias)


def test_an_error_exports_nothing(tmp_path: Path) -> None:
    export = Export()
    with pytest.raises(OnPolicyError):
        trainer(tmp_path, callbacks=[export]).fit(module(policy=GaussianPolicy(fault="conditioning")), Prompts())
    assert export.path is None
    assert not (tmp_path / "lora").exists()
