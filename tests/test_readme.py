"""What README.md shows: its commands run, and its tree is the tree."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_model

from realgen.fit import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALLERS = {"conda", "git", "pip", "source"}
"""First words of commands that are not run here; tests/test_environment.py looks after them."""

SHORT = (
    "--trainer.max_epochs=1 --trainer.limit_train_batches=2 --trainer.limit_val_batches=1 "
    "--data.prompts_per_iteration=2 --data.validation_batch_size=8"
)


def commands(markdown: str) -> list[str]:
    """The command lines of all bash blocks, continued lines joined, comments left out."""
    blocks = re.findall(r"^```bash\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(words) for words in (shlex.split(line, comments=True) for line in lines) if words]


def tree(markdown: str) -> dict[str, str]:
    """Path and meaning of each line of the annotated tree."""
    block = re.search(r"^```text\n(realgen/.*?)^```", markdown, re.MULTILINE | re.DOTALL).group(1)
    folders, paths = [], {}
    for line in block.splitlines():
        indent, name, meaning = re.fullmatch(r"( *)(\S+)\s{2,}(\S.*)", line).groups()
        folders = [*folders[: len(indent) // 2], name]
        paths["".join(folders)] = meaning
    return paths


COMMANDS = commands(README)
MODULES = sorted({words[2] for words in map(shlex.split, COMMANDS) if words[:2] == ["python", "-m"]})
RUNS = [command for command in COMMANDS if command.startswith("python -m realgen.fit --config")]


def link(folder: Path) -> None:
    """Let a folder hold what the repository holds, so that outputs do no harm."""
    for name in ("Makefile", "configs", "constraints.txt", "data", "experiments", "pyproject.toml", "realgen"):
        (folder / name).symlink_to(ROOT / name)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a README command in a folder where its outputs do no harm."""
    link(folder)
    words = [sys.executable if word == "python" else word for word in shlex.split(command)]
    inherited = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(words, cwd=folder, env=inherited, capture_output=True, text=True, check=False, timeout=500)


def test_commands_joins_lines_and_leaves_comments_out() -> None:
    markdown = "a\n```bash\nmake fit  # five minutes\npython -m x \\\n  --y 'a b'\n```\n```text\nmake no\n```\n"
    assert commands(markdown) == ["make fit", "python -m x --y a b"]


def test_readme_opens_with_the_two_commands() -> None:
    assert COMMANDS[:2] == ["make fit", "make test"]
    assert len(RUNS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_command_names_what_exists(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[0] == "python":
        assert words[1] == "-m"
        assert find_spec(words[2])
    else:
        assert words[0] in INSTALLERS
    for value in (word.split("=", 1)[-1] for word in words):
        if re.search(r"\.(yaml|yml|txt|jsonl|json)$", value):
            assert (ROOT / value).is_file()


def test_tree_is_complete() -> None:
    paths = tree(README)
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing
    for folder, suffix, at_least in (("realgen", ".py", 60), ("configs", ".yaml", 9)):
        files = {
            str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob(f"*{suffix}") if path.name != "__init__.py"
        }
        assert len(files) >= at_least
        assert files - set(paths) == set()


def test_detector_example_is_a_detector(tmp_path: Path) -> None:
    namespace: dict[str, Any] = {}
    exec(re.search(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL).group(1), namespace)
    network = torchvision.models.resnet18(num_classes=1).eval()
    save_model(network, str(tmp_path / "weights.safetensors"))
    images = torch.rand(3, 3, 32, 32)
    p_fake = namespace["ResNetDetector"](str(tmp_path / "weights.safetensors"), batch_size=2)(images)
    with torch.no_grad():
        torch.testing.assert_close(p_fake, torch.sigmoid(network(images)[:, 0]))


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_every_command_has_help(module: str, tmp_path: Path) -> None:
    result = run(f"python -m {module} --help", tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage:")


@pytest.mark.parametrize("command", RUNS)
def test_every_config_command_parses(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    link(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([*shlex.split(command)[3:], "--print_config"])
    assert stop.value.code == 0
    assert "class_path: realgen." in capsys.readouterr().out


@pytest.mark.slow
def test_make_fit_trains(tmp_path: Path) -> None:
    result = run(f"make fit BIN={Path(sys.executable).parent} ARGS='{SHORT}'", tmp_path)
    assert result.returncode == 0, result.stderr
    written = {path.suffix for path in tmp_path.rglob("*") if path.is_file() and "data" not in path.parts}
    assert {".png", ".safetensors", ".csv", ".ckpt"} <= written
