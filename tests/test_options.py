"""A wrong option of a command without a config: one line with the nearest one, exit code 1, as of the others."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize(
    ("command", "argv", "message"),
    [
        ("compare", ["a", "b", "--confidnce=0.9"], "has no option --confidnce. Did you mean --confidence?"),
        ("compare", ["a", "b", "--seed=x"], "--seed: invalid int value: 'x'. See python -m realgen.compare --help"),
        ("compare", [], "the following arguments are required: RUN. See python -m realgen.compare --help"),
        ("probe", ["--outputt", "x"], "has no option --outputt. Did you mean --output?"),
        ("probe", ["--calibration=plat"], "invalid choice: 'plat' (choose from "),
        ("plan", ["--gpuu=h200"], "has no option --gpuu. Did you mean --gpu?"),
        ("plan", ["--config=configs/diffusion.yaml", "--utilization=0.5"], "utilization is a share of a GPU's peak"),
        ("plan", ["--config=configs/diffusion.yaml", "--gpu=h20"], "got 'h20'. Did you mean h200?"),
        ("plan", ["--trainr.max_steps=4"], "trainr: config has no such key (command line). Did you mean trainer?"),
        ("data.make_shards", ["--inptu=x"], "has no option --inptu. Did you mean --input?"),
    ],
)
def test_wrong_options(command: str, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert importlib.import_module(f"realgen.{command}").main(argv) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
