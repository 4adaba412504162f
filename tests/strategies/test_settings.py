"""Strategies as a config gives them, and what they refuse before a GPU is spent."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from realgen.cli.realgen_cli import RealGenCLI
from realgen.fit import main
from realgen.modules.base import TrainableModule
from realgen.strategies import FSDP2
from realgen.strategies.base import ShardedStrategy, blocks_of, check_types, networks_of
from tests.helpers.toy_grpo import GaussianPolicy, module, trainer
from tests.strategies.ranks import make_policy

RECIPE = ["--config=configs/diffusion.yaml", "--trainer.devices=2", "--loggers.wandb=null"]


@pytest.mark.parametrize(
    ("part", "kind", "timeout"),
    [("fsdp2", FSDP2, "timeout"), ("ddp", DDPStrategy, "_timeout")],
)
def test_a_part_file_chooses_the_strategy(
    part: str, kind: type, timeout: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = f"--trainer.strategy=configs/strategies/{part}.yaml"
    cli = RealGenCLI(TrainableModule, LightningDataModule, argv=[*RECIPE, chosen])
    assert type(cli.trainer.strategy) is kind
    assert getattr(cli.trainer.strategy, timeout) == timedelta(minutes=30)
    assert cli.trainer.world_size == 2


def test_settings_of_a_strategy_can_be_changed_one_by_one(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--trainer.strategy=realgen.strategies.FSDP2", "--trainer.strategy.ranks_per_copy=1", "--print_config"]
    with pytest.raises(SystemExit):
        main([*RECIPE, *words])
    strategy = yaml.safe_load(capsys.readouterr().out)["trainer"]["strategy"]
    assert strategy["class_path"] == "realgen.strategies.FSDP2"
    assert strategy["init_args"]["ranks_per_copy"] == 1
    assert main([*RECIPE, words[0], "--trainer.strategy.timeout_minutes=0"]) == 1
    assert "trainer.strategy.timeout_minutes must be above 0 and finite, got 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"timeout_minutes": 0.0}, "timeout_minutes must be above 0 and finite, got 0.0"),
        ({"timeout_minutes": float("nan")}, "timeout_minutes must be above 0 and finite, got nan"),
        ({"ranks_per_copy": 0}, r"ranks_per_copy must divide the number of ranks, 3 \(.*\), got 0"),
        ({"ranks_per_copy": 2}, r"ranks_per_copy must divide the number of ranks, 3 \(.*\), got 2"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        trainer(tmp_path, devices=3, strategy=FSDP2(**settings))
    trainer(tmp_path, devices=3, strategy=FSDP2(ranks_per_copy=3))


def with_module(kind: type[ShardedStrategy], run: LightningModule) -> ShardedStrategy:
    strategy = kind()
    strategy._lightning_module = run
    return strategy


def test_a_module_without_a_policy_is_sent_to_ddp() -> None:
    strategy = with_module(FSDP2, LightningModule())
    with pytest.raises(ValueError, match=r"FSDP2 shards a policy, and LightningModule has none\. Take ddp\."):
        _ = strategy.policy
    run = module()
    assert with_module(FSDP2, run).policy is run.policy


def test_a_policy_without_networks_is_sent_to_ddp() -> None:
    with pytest.raises(ValueError, match="GaussianPolicy names no blocks to shard; train it with ddp"):
        blocks_of(GaussianPolicy())
    policy = GaussianPolicy()
    del policy.dropout
    with pytest.raises(ValueError, match="GaussianPolicy has no network to shard"):
        networks_of(policy)


def test_language_models_are_not_offloaded() -> None:
    class One(FSDP2):
        def _mesh(self) -> Any:
            return None

    with pytest.raises(ValueError, match="cpu_offload is for diffusion policies"):
        One(cpu_offload=True).shard(GaussianPolicy())


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_precisions_that_round_adapters_are_refused(precision: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"trainer\.precision must leave the trained weights .* got {precision}"):
        trainer(tmp_path, precision=precision, strategy=FSDP2())
    trainer(tmp_path, precision="bf16-mixed", strategy=FSDP2())


def test_trained_weights_of_two_types_are_refused() -> None:
    policy = GaussianPolicy()
    policy.load()
    check_types(policy)
    policy.bias = nn.Parameter(policy.bias.detach().bfloat16())
    with pytest.raises(ValueError, match=r"must all be of one type, got torch\.float32 \(weight\), torch\.bfloat16"):
        check_types(policy)


def test_the_parts_of_a_diffusion_policy(sd3: str) -> None:
    policy = make_policy(sd3)
    policy.load()
    assert blocks_of(policy) == list(policy.transformer.transformer_blocks)
    assert networks_of(policy) == [policy.transformer]
