from __future__ import annotations

import json
import math
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from realgen.callbacks import Export, LastCheckpoint, Summary
from realgen.callbacks import summary as summary_file
from realgen.callbacks.summary import before_after_sheet, go_on_command, ways_to_load
from realgen.callbacks.summary_table import compare, number, summary_table
from tests.helpers.toy_grpo import MeanBlue, Prompts, module, trainer


def rendered(table: object) -> list[list[str]]:
    console = Console(file=StringIO(), width=120)
    console.print(table)
    lines = [line.strip(" │┃").replace("┃", "│") for line in console.file.getvalue().splitlines()]
    return [[cell.strip() for cell in line.split("│")] for line in lines]


def test_the_table_shows_each_metric_by_its_own_direction() -> None:
    before = {"kid": 3.0, "diversity": 0.5, "reward": 0.1, "reward/red": 0.2, "held_out": 0.4, "odd": 1.0, "gone": 1.0}
    after = {"kid": 2.0, "diversity": 0.4, "reward": 0.3, "reward/red": 0.2, "held_out": math.nan, "odd": 2.0}
    higher = {"kid": False, "diversity": True, "held_out": True}
    rows = rendered(summary_table(compare(before, after, higher_is_better=higher), before=0, after=60))
    assert ["metric", "iteration 0", "iteration 60", "change"] in [row[:4] for row in rows]
    cells = [row for row in rows if len(row) == 5 and row[1]]
    assert cells == [
        ["reward", "0.100", "0.300", "+0.200", "↑ better"],
        ["red", "0.200", "0.200", "0.000", "= same"],
        ["diversity", "0.500", "0.400", "-0.100", "↓ worse"],
        ["held_out", "0.400", "nan", "nan", "? unknown"],
        ["kid", "3.000", "2.000", "-1.000", "↓ better"],
        ["odd", "1.000", "2.000", "+1.000", "↑ unknown"],
    ]
    assert [row[0] for row in rows if row[0] in ("rewarded", "never rewarded")] == ["rewarded", "never rewarded"]


@pytest.mark.parametrize(("value", "text"), [(0.0, "0.000"), (-0.05, "-0.05"), (123.4, "123"), (99.99, "99.990")])
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_run_ends_with_table_pictures_and_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = module(metrics={"blue": MeanBlue()}, validation_samples_per_prompt=2)
    callbacks = [Summary(num_images=2, columns=1), Export(), LastCheckpoint()]
    lightning = trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True, max_epochs=3)
    before = lightning.validate(trained, Prompts(), verbose=False)[0]
    assert before.pop("step") == 0
    lightning.fit(trained, Prompts())
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "summary.json").read_text())
    assert report["before"] == {"iteration": 0, "values": {n.removeprefix("val/"): v for n, v in before.items()}}
    assert report["after"]["iteration"] == 6
    last = {n: float(v) for n, v in lightning.callback_metrics.items() if n.startswith("val/")}
    assert {f"val/{name}": value for name, value in report["after"]["values"].items()} == last
    assert report["verdicts"] == {
        "reward": "better", "reward/red": "better", "reward/green": "better", "blue": "same",
    }  # fmt: skip
    assert report["exported"] == str(tmp_path / "lora")
    row = next(line for line in out.splitlines() if line.strip("│ ").startswith("red"))
    assert f"{before['val/reward/red']:.3f}" in row
    assert f"{last['val/reward/red']:.3f}" in row
    assert f"pipeline.load_lora_weights('{tmp_path / 'lora'}')" in out
    command = f"python -m realgen.fit --config {tmp_path / 'config.yaml'} --run_dir={tmp_path} --ckpt_path=last"
    assert f"{command} --trainer.max_epochs=6" in out


def test_the_command_to_go_on_keeps_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    callback = LastCheckpoint("runs/checkpoints")
    lightning = trainer(Path("runs"), callbacks=[callback], enable_checkpointing=True, max_steps=3)
    lightning.fit(module(), Prompts())
    assert "--run_dir=runs --ckpt_path=last " in go_on_command(lightning)


def test_the_command_to_go_on_is_true_wherever_checkpoints_lie(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "my run", tmp_path / "scratch" / "kept"
    lightning = trainer(folder, callbacks=[LastCheckpoint(str(elsewhere))], enable_checkpointing=True, max_steps=3)
    lightning.fit(module(), Prompts())
    config = f"--config '{folder / 'config.yaml'}' '--run_dir={folder}'"
    limits = "--trainer.max_epochs=4 --trainer.max_steps=6"
    assert go_on_command(lightning) == f"python -m realgen.fit {config} --ckpt_path={elsewhere / 'last.ckpt'} {limits}"
    endless = trainer(tmp_path, max_epochs=-1, max_steps=5)
    assert go_on_command(endless).endswith("--ckpt_path=last --trainer.max_steps=10")


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = module()
    lightning = trainer(tmp_path, callbacks=[Summary()], max_epochs=1)
    lightning.validate(trained, Prompts(), verbose=False)
    lightning.fit(trained, Prompts())
    out = capsys.readouterr().out
    assert "held-out" in out
    assert "go on" not in out


def test_the_pairs_show_the_same_prompt_and_seed(tmp_path: Path) -> None:
    trained = module()
    summary = Summary(num_images=3, columns=2)
    lightning = trainer(tmp_path, callbacks=[summary], max_epochs=1)
    lightning.validate(trained, Prompts(), verbose=False)
    first = trained.policy.sample(["a"], [100])[0, :, 0, 0]
    lightning.fit(trained, Prompts())
    last = trained.policy.sample(["a"], [100])[0, :, 0, 0]
    assert summary.before["prompts"] == summary.after["prompts"] == ["a", "a cat", "a red fox"]  # no padding
    with Image.open(tmp_path / "before_after.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")) / 255
    assert pixels.shape[1] == 8 + 4 * 200
    np.testing.assert_allclose(pixels[100, 100], first, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(pixels[100, 300], last, atol=0.5 / 255 + 1e-6)
    assert not torch.equal(first, last)


def test_the_captions_say_what_the_number_is(monkeypatch: pytest.MonkeyPatch) -> None:
    captions: list[str] = []
    monkeypatch.setattr(summary_file, "image_grid", lambda images, texts, columns: captions.extend(texts))
    before = {"iteration": 0, "prompts": ["a cat"], "rewards": [0.25], "images": torch.zeros(1, 3, 8, 8).byte()}
    before_after_sheet(before, {**before, "iteration": 40, "rewards": [0.5]}, columns=4)
    assert captions == ["before, iteration 0\nreward 0.250\na cat", "after, iteration 40\nreward 0.500"]


def test_a_resumed_run_keeps_the_baseline() -> None:
    summary, resumed = Summary(), Summary()
    summary.before = {"iteration": 0, "values": {"reward": 0.5}}
    resumed.load_state_dict(summary.state_dict())
    assert resumed.before == summary.before


def test_one_validation_is_nothing_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path, callbacks=[Summary()], max_epochs=1).fit(module(), Prompts())
    assert "held-out" not in capsys.readouterr().out
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("name", ["num_images", "columns"])
def test_impossible_numbers_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Summary(**{name: 0})


def test_every_export_says_how_it_is_loaded(tmp_path: Path) -> None:
    whole, lora, joint = tmp_path / "whole", tmp_path / "lora", tmp_path / "joint"
    for path in (whole / "model.safetensors", lora / "adapter_model.safetensors"):
        path.parent.mkdir(parents=True)
        path.touch()
    for part, name in (("rewriter", "adapter_model"), ("images", "pytorch_lora_weights")):
        (joint / part).mkdir(parents=True)
        (joint / part / f"{name}.safetensors").touch()
    assert ways_to_load(whole) == [f"from_pretrained('{whole}')"]
    assert ways_to_load(lora) == [f"PeftModel.from_pretrained(model, '{lora}')"]
    assert ways_to_load(joint) == [
        f"PeftModel.from_pretrained(model, '{joint / 'rewriter'}')",
        f"pipeline.load_lora_weights('{joint / 'images'}')",
    ]
