"""Recipes on the shipped models, stopped and taken up again, equal runs that were not, to the bit; what one leaves."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file

from realgen.fit import main
from tests.modules.test_resume import assert_same, state
from tests.policies.test_adapter_formats import by_comfyui_s_rules, sd3_layers

ROOT = Path(__file__).resolve().parent.parent
TIMINGS = ("seconds/", "busy_seconds/", "images_per_second")
SHORT = [
    "--baseline=false",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.check_val_every_n_epoch=1",
    "--data.prompts_per_iteration=2",
    "--data.validation_batch_size=2",
    "--model.group_size=4",
    "--model.updates_per_epoch=2",
    "--model.metrics=null",
    "--loggers.wandb=null",
]
FORMATS = "--callbacks.export.formats=[comfyui, peft]"

pytestmark = pytest.mark.slow


class KillInUpdate(Callback):
    """Ends this process without a word, between the two updates of an iteration.

    Args:
        iteration: Finished iterations before the one that is cut.
    """

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration
        self.updates = 0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if pl_module.iteration == self.iteration:
            self.updates += 1
            if self.updates == 2:
                os.kill(os.getpid(), signal.SIGKILL)


def fit(run: Path, *words: str, epochs: int, resume: bool = False, recipe: str = "diffusion") -> None:
    """Run a recipe up to an epoch; each has two iterations (unless ``words`` differ) and a validation."""
    go_on = ["--ckpt_path", "last"] if resume else []
    start = [f"--config=configs/{recipe}.yaml", *SHORT, *([FORMATS] if recipe == "diffusion" else [])]
    assert main([*start, f"--run_dir={run}", f"--trainer.max_epochs={epochs}", *words, *go_on]) == 0


def rows(run: Path) -> list[dict[str, str]]:
    """What a run logged, over all its starts, timings left out."""
    (path,) = run.rglob("metrics.csv")
    with path.open() as file:
        return [
            {name: value for name, value in row.items() if value and not name.startswith(TIMINGS)}
            for row in csv.DictReader(file)
        ]


def assert_equal_ends(run: Path, straight: Path) -> None:
    last = Path("checkpoints", "last.ckpt")
    assert_same(state(run / last), state(straight / last))
    exported = sorted(path.relative_to(straight) for path in (straight / "lora").rglob("*.safetensors"))
    assert exported
    for path in exported:
        assert_same(load_file(run / path), load_file(straight / path))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of four iterations in one go."""
    run = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        fit(run, epochs=2)
    return run


def test_the_straight_run_trains_and_logs(straight: Path) -> None:
    logged = rows(straight)
    assert [row.get("iteration") for row in logged] == ["1.0", "2.0", "2.0", "3.0", "4.0", "4.0"]
    assert len({row["grad_norm"] for row in logged if "grad_norm" in row}) == 4
    assert all("val/reward" in logged[number] for number in (2, 5))
    end = state(straight / "checkpoints" / "last.ckpt")
    assert end["optimizer_states"][0]["state"][0]["step"] == end["EMA"]["updates"] == 8


def test_its_folder_opens_with_other_people_s_tools(straight: Path, repository: Path) -> None:
    """The page, the card, and the LoRA as the card says it is loaded: plain diffusers, PEFT, ComfyUI's rules."""
    from diffusers import DiffusionPipeline
    from peft import PeftModel

    page = (straight / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"\b(?:src|href)=[\"']?(?![\"']|data:|#)[^\s>]+", page)
    assert all(f'data-name="iteration {i}"' in page for i in (2, 4))
    assert re.search(r"<figure\b.*?<svg\b.*?reward", page, re.DOTALL)
    card = (straight / "lora" / "README.md").read_text(encoding="utf-8")
    assert "| iteration | 4, ema weights |" in card
    loading = dict(re.findall(r"^(diffusers|PEFT):\n`(.+)`$", card, re.MULTILINE))
    opened, words = re.fullmatch(r"(DiffusionPipeline\S+)\.load_lora_weights\('(.+)'\)", loading["diffusers"]).groups()
    place, names = straight / "lora", {"DiffusionPipeline": DiffusionPipeline, "PeftModel": PeftModel}

    def draw(change: Any = None) -> torch.Tensor:
        pipeline = eval(opened, names)
        pipeline.set_progress_bar_config(disable=True)
        if change is not None:
            change(pipeline)
        options = {"num_inference_steps": 2, "height": 64, "width": 64, "max_sequence_length": 8, "output_type": "pt"}
        return pipeline("a red fox", generator=torch.Generator().manual_seed(0), **options).images

    def by_peft(pipeline: Any) -> None:
        read = loading["PEFT"].replace("'peft'", repr(str(place / "peft")))
        pipeline.transformer = eval(read, names, {"pipeline": pipeline})

    def by_comfyui(pipeline: Any) -> None:
        copied = re.search(r"^ComfyUI: copy `(.+?)` into `models/loras`", card, re.MULTILINE).group(1)
        sides = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        blocks = range(pipeline.transformer.config.num_layers)
        layers = [f"joint_blocks.{i}.{to}_block.{side}" for i in blocks for to in ("x", "context") for side in sides]
        keys = {f"lora_unet_{layer.replace('.', '_')}": f"{layer}.weight" for layer in layers}  # of SD3's checkpoint
        found = {keys[name]: delta for name, delta in by_comfyui_s_rules(place / copied).items()}
        for name, delta in sd3_layers(found).items():
            pipeline.transformer.get_parameter(name).data += delta

    base, diffusers = draw(), draw(lambda pipeline: pipeline.load_lora_weights(place / words))
    assert (diffusers - base).abs().max() > 1e-3
    for change in (by_peft, by_comfyui):
        torch.testing.assert_close(draw(change), diffusers, rtol=0, atol=1e-5)


def test_two_and_two_iterations_equal_four(straight: Path, repository: Path, tmp_path: Path) -> None:
    fit(tmp_path / "run", epochs=1)
    fit(tmp_path / "run", epochs=2, resume=True)
    assert_equal_ends(tmp_path / "run", straight)
    assert rows(tmp_path / "run") == rows(straight)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("llm", ["--model.policy.max_tokens=32", "--model.updates_per_epoch=1"]),
        ("joint", ["--model.policy.rewriter.max_tokens=32", "--model.policy.images_per_rewrite=2"]),
    ],
)
def test_recipes_with_a_language_model_too(recipe: str, words: list[str], repository: Path, tmp_path: Path) -> None:
    words = [*words, "--trainer.limit_train_batches=1", "--model.validation_samples_per_prompt=1"]
    fit(tmp_path / "straight", *words, epochs=2, recipe=recipe)
    fit(tmp_path / "run", *words, epochs=1, recipe=recipe)
    fit(tmp_path / "run", *words, epochs=2, recipe=recipe, resume=True)
    assert_equal_ends(tmp_path / "run", tmp_path / "straight")
    assert rows(tmp_path / "run") == rows(tmp_path / "straight")


def test_a_run_killed_amid_an_update_goes_on_from_its_last_checkpoint(
    straight: Path, repository: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    kill = "{class_path: tests.test_resume_nano.KillInUpdate, init_args: {iteration: 3}}"
    words = [
        "-m",
        "realgen.fit",
        "--config=configs/diffusion.yaml",
        *SHORT,
        FORMATS,
        f"--run_dir={run}",
        "--trainer.max_epochs=2",
        f"--callbacks.kill={kill}",
    ]
    killed = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=500)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert state(run / "checkpoints" / "last.ckpt")["iteration"] == 2
    assert rows(run) == rows(straight)[:4]  # the third iteration too, which is done once more
    fit(run, epochs=2, resume=True)
    assert_equal_ends(run, straight)
    assert rows(run) == rows(straight)
