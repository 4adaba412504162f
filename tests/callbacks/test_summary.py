from __future__ import annotations

import json
import math
import re
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from realgen.callbacks import BestCheckpoint, Export, LastCheckpoint, Summary
from realgen.callbacks import summary as summary_file
from realgen.callbacks.closing_screen import go_on_command
from realgen.callbacks.summary import (
    before_after_sheet,
    compare,
    number,
    paired_differences,
    summary_table,
    ways_to_load,
)
from realgen.functional.estimate import Estimate
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
    differences = {
        "reward": Estimate(0.2, 0.1, 0.3), "reward/red": Estimate(0.0, -0.1, 0.1),
        "diversity": Estimate(-0.1, -0.2, -0.05)
    }  # fmt: skip
    found = compare(before, after, higher_is_better=higher, differences=differences)
    rows = rendered(summary_table(found, before=0, after=60))
    headings = [["iteration", "iteration"], ["metric", "0", "60", "change", "its 95 % interval"]]
    assert [row for row in rows if "iteration" in row or "metric" in row] == headings
    cells = [row for row in rows if row not in headings and ((len(row) == 5 and row[4]) or row[0][:1] == "[")]
    assert cells == [
        ["reward", "0.100", "0.300", "+0.200", "↑ better"],
        ["[0.100, 0.300]"],
        ["red", "0.200", "0.200", "0.000", "not told apart"],
        ["[-0.100, 0.100]"],
        ["diversity", "0.500", "0.400", "-0.100", "↓ worse"],
        ["[-0.200, -0.05]"],
        ["held_out", "0.400", "", "", "unknown"],
        ["kid", "3.000", "2.000", "-1.000", "not told apart"],
        ["odd", "1.000", "2.000", "+1.000", "unknown"],
    ]
    assert [row[0] for row in rows if row[0] in ("rewarded", "never rewarded")] == ["rewarded", "never rewarded"]


def test_eighty_columns_cut_nothing() -> None:
    names = ["reward", "reward/alignment", "reward/omniaid", "held_out_realism", "spectrum_distance", "kid"]
    before = dict(zip(names, (0.1, 0.961, 0.0551, 0.06, 0.0123, 12345.678), strict=True))
    after = {name: value * 1.1 - 0.0003 for name, value in before.items()}
    differences = {
        name: Estimate(after[name] - value, -0.000345 * value, 0.15 * value) for name, value in before.items()
    }
    found = compare(before, after, higher_is_better=dict.fromkeys(names[3:], True), differences=differences)
    console = Console(file=StringIO(), width=80, soft_wrap=True)
    console.print(summary_table(found, before=0, after=1200))
    lines = console.file.getvalue().splitlines()[1:]
    text = re.findall(r"[\w.+-]+", " ".join(lines))
    assert max(map(len, lines)) <= 80
    assert {each.name.removeprefix("reward/") for each in found} <= set(text)
    for each in found:
        assert {number(each.before), number(each.after), number(each.difference.low or 0)} <= set(text)
    assert "…" not in "".join(lines)


def test_differences_are_paired_by_prompt() -> None:
    before = {
        "values": {"reward": 0.5, "gone": 1.0},
        "by_prompt": {"reward": {"a": 0.1, "b": 0.5, "c": 0.9, "d": math.nan}, "gone": {"a": 1.0}},
    }
    after = {"values": {"reward": 0.7}, "by_prompt": {"reward": {"c": 1.0, "b": 0.6, "a": 0.2, "d": 1.0, "e": 5.0}}}
    found = paired_differences(before, after)
    assert found.keys() == {"reward"}
    assert found["reward"].count == 3
    ends = (found["reward"].value, found["reward"].low, found["reward"].high)
    assert ends == pytest.approx((0.1, 0.1, 0.1))  # however far apart the prompts are


def test_a_metric_of_all_images_has_an_interval_from_its_values_without_each_prompt() -> None:
    before = {"values": {"kid": 3.0, "fid": 1.0, "old": 1.0}, "without_each": {"kid": [2.0, 3.0, 4.0], "fid": []}}
    after = {"values": {"kid": 2.0, "fid": 2.0, "old": 2.0}, "without_each": {"kid": [1.1, 2.0, 2.9], "fid": []}}
    found = paired_differences(before, after)
    assert (found["kid"].value, found["kid"].count) == (-1.0, 3)
    # Differences -0.9, -1.0, -1.1: their jackknife error is sqrt(2 / 3 * 0.02).
    half = 4.30265 * math.sqrt(2 / 3 * 0.02)  # Student's t, two degrees of freedom
    assert (found["kid"].low, found["kid"].high) == pytest.approx((-1 - half, -1 + half), abs=1e-6)
    assert not found["fid"].has_limits
    assert not found["old"].has_limits  # of a checkpoint from before there were such values


def test_values_without_each_prompt_of_other_prompts_do_not_pair() -> None:
    seen = [{"values": {"kid": 3.0}, "without_each": {"kid": [2.0, 3.0]}, "by_prompt": {"reward": keys}}
            for keys in ({"a": 0.1, "b": 0.2}, {"a": 0.1, "c": 0.2})]  # fmt: skip
    assert not paired_differences(*seen)["kid"].has_limits
    assert paired_differences(seen[0], seen[0])["kid"].has_limits


@pytest.mark.parametrize(("value", "text"), [(0.0, "0.000"), (-0.05, "-0.05"), (123.4, "123"), (99.99, "99.990")])
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_run_ends_with_table_pictures_and_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = module(metrics={"blue": MeanBlue()}, validation_samples_per_prompt=2)
    callbacks = [Summary(num_images=2, columns=1), Export(), LastCheckpoint()]
    lightning = trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True, max_epochs=3)
    before = lightning.validate(trained, Prompts(), verbose=False)[0]
    assert before.pop("step") == before.pop("iteration") == 0
    lightning.fit(trained, Prompts())
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "summary.json").read_text())
    assert report["before"] == {"iteration": 0, "values": {n.removeprefix("val/"): v for n, v in before.items()}}
    assert report["after"]["iteration"] == 6
    last = {n: float(v) for n, v in lightning.callback_metrics.items() if n.startswith("val/")}
    assert {f"val/{name}": value for name, value in report["after"]["values"].items()} == last
    assert report["verdicts"] == {
        "reward": "better", "reward/red": "better", "reward/green": "better", "blue": "not told apart",
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
    summary.after = {"iteration": 6, "values": {"reward": 0.7}}
    resumed.load_state_dict(summary.state_dict())
    assert (resumed.before, resumed.after) == (summary.before, summary.after)
    resumed.load_state_dict({"before": summary.before})  # of an earlier version
    assert resumed.after is None


def test_one_validation_alone_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = module(metrics={"blue": MeanBlue()})
    callbacks = [Summary(num_images=2, columns=1), Export(), LastCheckpoint()]
    lightning = trainer(tmp_path, max_epochs=1, callbacks=callbacks, enable_checkpointing=True)
    lightning.fit(trained, Prompts())
    out = capsys.readouterr().out
    reward = float(lightning.callback_metrics["val/reward"])
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in out.splitlines()]
    assert ["reward", f"{reward:.3f}"] in rows
    assert "┃ iteration 2 ┃" in out
    assert f"weights    {tmp_path / 'lora'}" in out
    assert "--trainer.max_epochs=2" in out
    report = json.loads((tmp_path / "summary.json").read_text())
    assert "before" not in report
    assert (report["after"]["iteration"], report["verdicts"]) == (2, {})
    with Image.open(tmp_path / "before_after.png") as sheet:
        assert sheet.width == 8 + 200
    assert callbacks[0].is_written(tmp_path)


def test_no_validation_at_all_still_tells_where_the_weights_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = [Summary(), Export(), LastCheckpoint()]
    how = {"max_epochs": 1, "enable_checkpointing": True, "limit_val_batches": 0}
    trainer(tmp_path, callbacks=callbacks, **how).fit(module(), Prompts())
    assert f"weights    {tmp_path / 'lora'}" in capsys.readouterr().out
    assert not (tmp_path / "summary.json").exists()


def test_a_summary_of_an_earlier_validation_is_not_the_last_one(tmp_path: Path) -> None:
    seen = {"iteration": 6, "values": {}, "prompts": [], "rewards": [], "images": torch.zeros(0)}
    summary = Summary()
    assert summary.is_written(tmp_path)  # there is nothing to write
    summary.before, summary.after = seen, {**seen, "iteration": 12}
    assert not summary.is_written(tmp_path)
    (tmp_path / "before_after.png").touch()
    for text, written in (("{", False), ('{"after": {"iteration": 6}}', False), ('{"after": {"iteration": 12}}', True)):
        (tmp_path / "summary.json").write_text(text)
        assert summary.is_written(tmp_path) is written


def test_the_best_checkpoint_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = BestCheckpoint("blue", "max")
    callbacks = [best, Summary(), Export(), LastCheckpoint()]
    lightning = trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True)
    lightning.fit(module(metrics={"blue": MeanBlue()}), Prompts())
    out = capsys.readouterr().out
    assert f"best       {tmp_path / 'checkpoints' / 'best.ckpt'}" in out
    assert f"by       blue {number(best.value)} at iteration {best.iteration}" in out
    assert json.loads((tmp_path / "summary.json").read_text())["best"]["metric"] == "blue"


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


def test_a_rank_of_padding_alone_keeps_the_values_that_the_others_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What decides on them must decide the same on every rank."""
    summary, rows = Summary(), [{"key": "a", "sample": 0, "reward": 0.5}]
    monkeypatch.setattr(summary_file, "gather_rows", lambda own: own + rows)
    summary.on_validation_end(trainer(tmp_path), module())
    assert summary.before is not None
    assert summary.before["by_prompt"] == {"reward": {"a": 0.5}}
    assert len(summary.before["images"]) == 0
