"""One list of versions, and the ways to install it: pip, make, conda, and the check that CI runs."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import torch
import yaml
from jaxtyping import TypeCheckError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from realgen.functional.advantages import group_advantages
from realgen.types import PolicyScore

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
DECLARED = RUNTIME + [Requirement(line) for line in PROJECT["optional-dependencies"]["dev"]]

IMPORTED_BY_OTHERS = {
    "accelerate": "diffusers and transformers load weights with it",
    "onnxruntime": "rapidocr computes with it",
    "omegaconf": "jsonargparse resolves the interpolations of configs with it",
    "pillow-heif": "realgen.image_decoding imports it by name, where it is installed",
    "scikit-learn": "experiments.nano reads the photographs it ships, without importing it",
    "tensorboard": "Lightning's logger imports it",
    "torchvision": "timm, open-clip and diffusers need it, and its version goes with torch's",
    "wandb": "Lightning's logger imports it",
}
"""Runtime dependencies that neither realgen nor experiments/nano imports itself."""


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().replace(" \\\n", "").splitlines()
    pattern = re.compile(r"([a-z0-9-]+)(?:\[[a-z,]+\])?==([^\s]+?)(?: +--hash=sha256:[0-9a-f]{64})+")
    return dict(pattern.fullmatch(line).groups() for line in lines if not line.startswith("#"))


def test_every_dependency_is_pinned_and_installed_in_range() -> None:
    pinned, wrong = pins(), []
    for requirement in DECLARED:
        pin, installed = pinned.get(canonicalize_name(requirement.name)), version(requirement.name)
        if pin is None or not requirement.specifier.contains(pin):
            wrong.append(f"{requirement}: pinned to {pin}")
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement}: {installed} is installed")
    assert len(DECLARED) >= 40
    assert wrong == []


def test_conda_installs_the_pins() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["--requirement constraints.txt"]}
    assert [line for line in conda if "=" in line] == ["python=3.11"]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains("3.11")


def test_imports_and_dependencies_agree() -> None:
    names = set()
    for path in [*(ROOT / "realgen").rglob("*.py"), *(ROOT / "experiments" / "nano").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    names -= {"realgen", "experiments", *sys.stdlib_module_names}
    homes = packages_distributions()
    imported = {canonicalize_name(home) for name in names for home in homes.get(name, [name])}  # vllm is not installed
    optional = [line for extra, lines in PROJECT["optional-dependencies"].items() if extra != "dev" for line in lines]
    extras = {canonicalize_name(Requirement(line).name) for line in optional}
    declared = {canonicalize_name(requirement.name) for requirement in RUNTIME} | extras
    assert imported - declared == set()
    assert declared - imported <= set(IMPORTED_BY_OTHERS)


def test_packages_come_from_where_the_user_says() -> None:
    """Neither an address nor an option of pip that names one; without the dashes too, as in a requirements file."""
    names = ("Makefile", "constraints.txt", "environment.yml", "pyproject.toml", ".ci/run")
    source = re.compile(r"://|\b(extra-)?index-|\bfind-l|\btrusted-")
    lines = [(name, line) for name in names for line in (ROOT / name).read_text().splitlines()]
    assert [f"{name}: {line}" for name, line in lines if source.search(line)] == []


def test_shapes_are_checked_in_tests() -> None:
    """The pytest option that turns jaxtyping and beartype on reaches functions and dataclasses alike."""
    with pytest.raises(TypeCheckError):
        PolicyScore(log_probs=torch.zeros(3))
    with pytest.raises(TypeCheckError):
        group_advantages(torch.zeros(3))
    assert PolicyScore(log_probs=torch.zeros(3, 1)).velocity is None


FAKE_PYTHON = """#!/bin/sh
echo "$@" >> "{log}"
case "$1 $2" in "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;; esac
case "$1" in -c) echo "$0" ;; esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the Makefile and what an environment is built from."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
        os.utime(tmp_path / name, (1, 1))
    return tmp_path


def outside_make() -> dict[str, str]:
    """The environment without what a ``make`` that runs these tests has put into it."""
    return {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", *arguments]
    return subprocess.run(
        command, cwd=folder, env=outside_make(), capture_output=True, text=True, check=False, timeout=60
    )


def test_make_installs_once_and_again_when_the_pins_change(project: Path) -> None:
    log = project / "log"
    python = project / "fake-python"
    python.write_text(FAKE_PYTHON.format(log=log))
    python.chmod(0o755)
    install = [
        "-m pip install --require-hashes --requirement constraints.txt",
        "-m pip install --no-deps --no-build-isolation --editable .",
    ]
    train = "-m realgen.fit --config configs/diffusion.yaml --model.x=1"

    def fit() -> list[str]:
        log.write_text("")
        result = make(project, "fit", f"PYTHON={python}", "ARGS=--model.x=1")
        assert result.returncode == 0, result.stderr
        return [line for line in log.read_text().splitlines() if not line.startswith("-c")]

    assert fit() == ["-m venv .venv", *install, train]
    assert fit() == [train]
    stamp = project / ".venv" / "bin" / ".installed"
    os.utime(project / "constraints.txt", (stamp.stat().st_mtime + 10, stamp.stat().st_mtime + 10))
    assert fit() == ["-m venv .venv", *install, train]


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        (
            [{"name": "a", "skip_reason": "not found"}, {"name": "b", "skip_reason": "not found"}],
            0,
            "nothing was audited",
        ),
        ([{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "?"}], 0, "not in the database: b"),
        (
            [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}],
            1,
            "a 1: CVE-1, mended in 2",
        ),
    ],
)
def test_the_audit_says_what_it_found_and_what_it_could_not(found: list[dict], status: int, said: str) -> None:
    lines, ended = runpy.run_path(str(ROOT / ".ci" / "audit.py"))["verdict"](found)
    assert ended == status
    assert said in "\n".join(lines)


def test_the_licences_of_all_pins_are_listed() -> None:
    listed = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \|$", (ROOT / "docs" / "licences.md").read_text(), re.MULTILINE)
    assert {name: version for name, version, _ in listed[1:]} == pins()
    assert [name for name, _, licence in listed if licence == "not installed here"] == []


def test_make_installs_nothing_into_an_environment_of_ones_own(project: Path) -> None:
    result = make(project, "--dry-run", "test", "BIN=/opt/own/bin")
    assert result.returncode == 0
    assert "pip" not in result.stdout
    assert all(line.startswith("/opt/own/bin/") for line in result.stdout.splitlines())


def test_make_says_which_python_it_needs(project: Path) -> None:
    result = make(project, "fit", "PYTHON=/no/such/python")
    assert result.returncode == 2
    assert "/no/such/python is no Python >= 3.11" in result.stderr
    assert "make PYTHON=/path/to/python3.11" in result.stderr
    assert not (project / ".venv").exists()


def test_make_lists_its_targets() -> None:
    listed = re.findall(r"^make (\w+)", make(ROOT).stdout, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split()
    assert listed == phony


@pytest.mark.parametrize("status", [0, 3])
def test_ci_exits_as_the_tests_do(status: int, tmp_path: Path) -> None:
    script = tmp_path / ".ci" / "run"
    script.parent.mkdir()
    script.write_bytes((ROOT / ".ci" / "run").read_bytes())
    (tmp_path / "Makefile").write_text(f"test:\n\t@echo offline=$$HF_HUB_OFFLINE $$WANDB_MODE\n\t@exit {status}\n")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    result = subprocess.run(
        ["bash", str(script)], cwd="/", env=outside_make(), capture_output=True, text=True, check=False, timeout=60
    )
    assert bool(result.returncode) == bool(status)
    assert result.stdout.splitlines()[-1] == "offline=1 offline"
