"""``python -m realgen.export``: from every recipe's checkpoint what the run itself exported, and clear refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from realgen.export import main
from realgen.fit import main as fit
from tests.modules.test_resume import assert_same

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ["diffusers", "lightning", "peft", "torch", "transformers"]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print('HEAVY', [name for name in {HEAVY} if name in sys.modules]))\n"
        "from realgen.export import main\n"
        "main(['--help'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("usage: python -m realgen.export RUN_OR_CHECKPOINT")
    assert ended.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no nowhere. Expected the folder of a run, or a checkpoint."),
        (["run"], "config: there is no run/config.yaml. Give the run's config: --config=FILE"),
        (["run", "--config=configs/diffusion.yaml"], "run holds no checkpoint."),
        (["run", "--config=configs/diffusion.yaml", "--model.polici=1"], "model.polici: GRPOModule has no such key"),
        (["half.ckpt", "--config=configs/diffusion.yaml"], "half.ckpt is damaged, or no checkpoint of realgen.fit"),
    ],
)
def test_what_cannot_be_exported_is_named(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "half.ckpt").write_bytes(b"half")
    for name in ("configs", "data", "experiments"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"error: {message}")
    assert len(lines) <= 2
    assert {path.name for path in tmp_path.iterdir()} == {"run", "half.ckpt", "configs", "data", "experiments"}
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("word", "near"), [("--fomats=comfyui", "--formats"), ("--outptu=x", "--output"), ("--wieghts=ema", "--weights")]
)
def test_a_misspelt_option_is_answered_by_the_command_s_own(
    word: str, near: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), word]) == 1
    name = word.partition("=")[0]
    assert capsys.readouterr().err == f"error: python -m realgen.export has no option {name}. Did you mean {near}?\n"


SHORT = [
    "--baseline=false",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=0",
    "--loggers.wandb=null",
]
PROMPTS = ["--data.prompts_per_iteration=2", "--model.group_size=4", "--model.metrics=null"]
RECIPES = {
    "diffusion": ["--config=configs/diffusion.yaml", *PROMPTS],
    "whole": ["--config=configs/diffusion.yaml", *PROMPTS, "--model.policy.lora=null", "--model.objective.kl_coef=0"],
    "llm": ["--config=configs/llm.yaml", *PROMPTS, "--model.policy.max_tokens=32"],  # shorter, all score alike
    "joint": [
        "--config=configs/joint.yaml",
        *PROMPTS,
        "--model.policy.rewriter.max_tokens=16",
        "--model.policy.images_per_rewrite=2",
    ],
    "two_stage": ["--config=configs/two_stage.yaml", *PROMPTS, "--model.policy.rewriter.max_tokens=16"],
    "detector": [
        "--config=configs/detector.yaml",
        *("--data.crops=2", "--data.samples=16", "--data.held_out_crops=1", "--data.held_out_samples=16"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_s_checkpoint_gives_what_the_run_exported(recipe: str, repository: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    own = [f"--data.directory={tmp_path / 'data'}"] if recipe == "detector" else []
    assert fit([*RECIPES[recipe], *SHORT, *own, f"--run_dir={run}"]) == 0
    (exported,) = (path.parent for path in run.glob("*/export.json"))
    assert main([str(run), f"--output={tmp_path / 'again'}"]) == 0
    files = sorted(path.relative_to(exported) for path in exported.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*"))
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert weights
    for path in weights:
        assert_same(load_file(tmp_path / "again" / path), load_file(exported / path))
    assert main([str(run / "checkpoints" / "last.ckpt"), "--weights=live"]) == 0
    live = run / f"{exported.name}_live"
    card = (live / "README.md").read_text()
    assert "live weights" in card
    assert "python -m realgen.fit" in card
    if recipe == "diffusion":
        _check_a_checkpoint_elsewhere(run, tmp_path)
    assert json.loads((live / "export.json").read_text())["weights"] == "live"
    same = [torch.equal(a, b) for path in weights for a, b in _pairs(live / path, exported / path)]
    assert not all(same)


def _check_a_checkpoint_elsewhere(run: Path, tmp_path: Path) -> None:
    """The folders around it are of others: nothing in them is removed or locked."""
    elsewhere = tmp_path / "mine" / "kept"
    elsewhere.mkdir(parents=True)
    (elsewhere / "best.ckpt").write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    foreign = tmp_path / "other_run" / ".last.ckpt.host.1.part"
    foreign.parent.mkdir()
    foreign.write_bytes(b"a run that is writing")
    assert main([str(elsewhere / "best.ckpt"), f"--config={run / 'config.yaml'}"]) == 0
    assert (elsewhere / "lora_best" / "export.json").exists()
    assert main([str(run), f"--output={tmp_path / 'beside'}"]) == 0
    assert foreign.exists()


def _pairs(first: Path, second: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    return [(one[name], other[name]) for name in one]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_sharded_folder_of_two_processes_gives_what_the_run_exported(repository: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*RECIPES["diffusion"], *SHORT, f"--run_dir={run}", "--trainer.devices=2"]
    words += ["--trainer.strategy=realgen.strategies.FSDP2", "--trainer.strategy.sharded_checkpoints=true"]
    command = [sys.executable, "-m", "realgen.fit", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=550)
    assert ended.returncode == 0, ended.stderr
    assert (run / "checkpoints" / "last.ckpt").is_dir()
    assert main([str(run), f"--output={tmp_path / 'again'}"]) == 0
    (path,) = (run / "lora").glob("*.safetensors")
    assert_same(load_file(tmp_path / "again" / path.name), load_file(path))
