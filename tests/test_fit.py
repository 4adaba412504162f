"""``python -m realgen.fit`` as a user first meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch import nn

from realgen.callbacks import RealBenchScoring
from realgen.data import PromptShards
from realgen.fit import USAGE, check, main
from realgen.modules.detector_learning import DetectorLearning
from tests.helpers.toy_detector import ColorDetector
from tests.helpers.toy_grpo import Prompts, module

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ["diffusers", "open_clip", "peft", "skimage", "sklearn", "timm", "transformers.modeling_utils", "webdataset"]


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_without_arguments_it_names_the_first_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    text = capsys.readouterr().err
    assert text.startswith("usage: python -m realgen.fit --config RECIPE.yaml")
    assert "First command to try:\n  python -m realgen.fit --config configs/diffusion.yaml" in text
    assert (ROOT / "configs" / "diffusion.yaml").is_file()


def test_without_arguments_it_does_not_wait_for_torch() -> None:
    ended = python("import sys; from realgen.fit import main; main([]); sys.exit('torch' in sys.modules)")
    assert ended.returncode == 0


def test_help_imports_nothing_heavy_and_opens_with_the_usage() -> None:
    ended = python(
        "import sys, atexit\n"
        f"atexit.register(lambda: print('HEAVY', [name for name in {HEAVY} if name in sys.modules]))\n"
        "from realgen.fit import main\n"
        "main(['--help'])\n"
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"usage: {USAGE}")
    assert "--trainer.max_epochs" in ended.stdout
    assert len(ended.stdout.splitlines()) <= 30  # one screen
    assert ended.stdout.splitlines()[-1] == "HEAVY []"


def test_help_all_shows_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help", "all"])
    shown = capsys.readouterr().out
    assert (ended.value.code, "--trainer.accumulate_grad_batches" in shown) == (0, True)
    assert shown.startswith(f"usage: {USAGE}")


def test_what_the_usage_names_exists(repository: Path) -> None:
    words = [word.split("=")[-1] for word in USAGE.split()]
    files = {word for word in words if word.startswith("configs/")}
    assert len(files) >= 3
    assert not [name for name in files if not (repository / name).is_file()]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model.group_size=1", "model.group_size must be at least 2"),
        ("model.updates_per_epoch=5", "model.updates_per_epoch: expected a divisor of the 72 rows of an iteration"),
        ("model.policy.transition.noise_level=0", "model.policy.transition.noise_level: expected above 0, because"),
        ("model.group_size=7", "model.policy.samples_per_noise=2 must divide group_size, got 7"),
        ("model.policy.num_steps=3", "model.policy.step_window"),
        ("model.policy.height=63", "model.policy.height must be a multiple of 8"),
        ("model.policy.lora.rank=0", "model.policy.lora.rank must be at least 1, got 0"),
        ("model.policy.lora.targets=[nothing]", "model.policy"),
        ("model.optimizer.lr=-1", "model.optimizer: Invalid learning rate: -1.0"),
        ("model.policy.backbone.pretrained=data/nano/sd4", "model.policy.backbone.pretrained"),
        ("model.reward.rewards.omniaid.detector.checkpoint=data/nano/omniad",
         "model.reward.rewards.omniaid.detector.checkpoint"),
        ("data.train=data/prompts/trian/*.tar", "data.train"),
        ("data.train=pipe:false", "data: the shard 'pipe:false' could not be read"),
        ("data.validation=README.md", "data: no sample of the 1 shards can be used; first: README.md"),
        ("data.prompts_per_iteration=401", "data.prompts_per_iteration=401 on 1 ranks takes 401 prompts"),
        ("data.prompts_per_iteration=0", "data.prompts_per_iteration must be at least 1, got 0"),
        ("trainer.devices=0", "trainer"),
        ("model.reward=configs/rewards/pickscore.yaml",
         "model.reward: transformers cannot read 'yuvalkirstain/PickScore_v1' as CLIPModel: "),
        ('model.metrics={judged: {class_path: JudgedReal, init_args: {detector: {class_path: ForensicChat, init_args: '
         '{pretrained: nobody/nothing}}}}}', "model.metrics.judged.detector.pretrained"),
    ],
)  # fmt: skip
def test_impossible_settings_of_the_default_are_named_and_leave_nothing(
    argument: str, message: str, repository: Path, nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "runs"
    recipe = ["--config", "configs/diffusion.yaml", "--model.metrics={}", f"--output_dir={output}"]
    assert main([*recipe, f"--{argument}"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"error: {message}")
    assert len(lines) <= 2
    assert not output.exists()


@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        ("nowhere", "good", "data.real must be a folder of images, '{root}/nowhere' is none."),
        ("good", "nowhere", "data.generated must be a folder of images, '{root}/nowhere' is none."),
        ("good/0.png", "good", "data.real must be a folder of images, '{root}/good/0.png' is none."),
        ("good", "empty", "data.generated must hold images (.png, "),
        ("good", "broken", "data: none of the "),
        ("single", "good", "data.validation_share=0.5 leaves no real image to "),
    ],
)
def test_folders_without_usable_images_are_named_and_leave_nothing(
    real: str, generated: str, message: str, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    for name in ("good", "single", "empty", "broken"):
        (images / name).mkdir(parents=True)
    for number in range(20):
        (images / "broken" / f"{number}.png").write_bytes(b"no image %d" % number)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(images / "good" / f"{number}.png")
    Image.new("RGB", (8, 8), "white").save(images / "single" / "0.png")
    output = tmp_path / "runs"
    recipe = ["--config", "configs/detector.yaml", "--data=configs/data/image_folders.yaml", f"--output_dir={output}"]
    folders = [f"--data.real={images / real}", f"--data.generated={images / generated}", "--data.validation_share=0.5"]
    assert main([*recipe, *folders]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {message.format(root=images)}")
    assert not output.exists()


@pytest.mark.parametrize(
    ("anchor", "callbacks", "message"),
    [
        (object(), [], "data_anchor needs the prompts' photographs: set data.train_images=true"),
        (None, [DetectorLearning("omniaid")], "a detector learns from the training prompts' photographs"),
    ],
)
def test_photographs_that_are_missing_are_known_before_the_run(
    anchor: object, callbacks: list[Callback], message: str, repository: Path
) -> None:
    data = PromptShards("data/prompts/train/*.tar", prompts_per_iteration=2)
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, callbacks=callbacks)
    cli: Any = SimpleNamespace(model=SimpleNamespace(data_anchor=anchor), datamodule=data, trainer=trainer)
    with pytest.raises(ValueError, match=message):
        check(cli)


def test_a_benchmark_s_detector_that_cannot_be_read_is_known_before_the_run(tmp_path: Path) -> None:
    class Broken(ColorDetector):
        def build(self) -> nn.Module:
            raise ValueError("its weights are gone")

    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    scoring = RealBenchScoring(str(tmp_path / "prompts.txt"), {"broken": Broken()})
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, callbacks=[scoring])
    cli: Any = SimpleNamespace(model=module(), datamodule=Prompts(), trainer=trainer)
    with pytest.raises(ValueError, match="its weights are gone"):
        check(cli)
