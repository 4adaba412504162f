"""The floors of the house: who may import whom, and what must not be imported at start-up."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "realgen"
HEAVY = {
    "diffusers",
    "matplotlib",
    "open_clip",
    "openai",
    "peft",
    "skimage",
    "sklearn",
    "timm",
    "torchao",
    "transformers",
    "wandb",
    "webdataset",
}
"""Packages that take seconds to import; config errors and ``--help`` must not wait for them."""

LINT = "import sys; from importlinter.cli import lint_imports_command as lint; sys.argv[0] = 'lint-imports'; lint()"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LINT, "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


def test_contracts_are_kept() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Contracts: {len(contracts)} kept, 0 broken." in result.stdout


def test_contributing_shows_the_floors() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["id"] == "floors")
    rows = re.findall(r"^\| [\w ]+ \| (`.+?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    shown = [set(re.findall(r"`([a-z_]+)`", row)) for row in rows]
    assert shown[: len(layers)] == [set(layer.split(" | ")) for layer in layers]


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("functional/images.py", "import realgen.policies.base", "floors"),
        ("rewards/base.py", "import realgen.objectives.base", "floors"),
        ("policies/base.py", "import lightning", "lightning"),
        ("data/__init__.py", "import wandb", "data"),
        ("rewards/base.py", "import torchmetrics", "torchmetrics"),
    ],
)
def test_a_broken_floor_is_found(module: str, line: str, broken: str, tmp_path: Path) -> None:
    for path in PACKAGE.rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    with (tmp_path / "realgen" / module).open("a") as file:
        file.write(f"\n{line}\n")
    contracts = tomllib.loads((tmp_path / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    name = next(contract["name"] for contract in contracts if contract["id"] == broken)
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert re.search(re.escape(name) + r"\s+BROKEN", re.sub(r"\s*\n\s*", " ", result.stdout)), result.stdout


def imports_at_start(body: list[ast.stmt]) -> Iterator[str]:
    """Dotted names that run when a module is imported: not in functions, not under ``TYPE_CHECKING``."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_type_checking(node):
            for part in ("body", "orelse", "finalbody"):
                yield from imports_at_start(getattr(node, part, []))


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def dotted(path: Path) -> str:
    """The name under which a file is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def module_files(name: str) -> list[Path]:
    """Files that importing a dotted name runs: the module's, and its packages'."""
    parts = name.split(".")
    stems = [ROOT.joinpath(*parts[: end + 1]) for end in range(len(parts))]
    candidates = [path for stem in stems for path in (stem / "__init__.py", stem.with_suffix(".py"))]
    return [path for path in candidates if path.is_file()]


def import_graph(folder: Path) -> dict[str, set[str]]:
    """Modules of the package below a folder, and which of them each imports anywhere, for type checking too."""
    files = {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
        for path in folder.joinpath("realgen").rglob("*.py")
    }
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                dotted_names = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                found |= {dotted if dotted in files else node.module for dotted in dotted_names.values()}
        graph[name] = found & files.keys() - {name}
    return graph


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = import_graph(ROOT)
    assert len(graph) >= 200
    graphlib.TopologicalSorter(graph).prepare()  # names the modules of a circle


def test_a_circle_for_type_checking_is_found(tmp_path: Path) -> None:
    (tmp_path / "realgen").mkdir()
    (tmp_path / "realgen/a.py").write_text("import realgen.b")
    (tmp_path / "realgen/b.py").write_text("if TYPE_CHECKING:\n    from realgen.a import A")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(import_graph(tmp_path)).prepare()


def test_start_up_imports_nothing_heavy() -> None:
    """Walk from the command line, and from every class that a config may name, through all imports at module level."""
    folders = (path.parent for path in PACKAGE.rglob("__init__.py"))
    waiting = [path for folder in folders for path in folder.glob("*.py")]
    assert {"realgen.cli", "realgen.fit"} <= {dotted(path) for path in waiting}
    seen, heavy = set(), {}
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imports_at_start(ast.parse(path.read_text(encoding="utf-8")).body):
            if name.split(".")[0] == "realgen":
                waiting += module_files(name)
            elif name.split(".")[0] in HEAVY:
                heavy[str(path.relative_to(ROOT))] = name
    assert len(seen) >= 50
    assert not heavy


def test_imports_at_start_sees_conditions_and_skips_functions() -> None:
    source = (
        "import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import e\ntry:\n    import f\nexcept OSError:\n    pass\n"
        "def g():\n    import h\nclass I:\n    import j\n"
    )
    assert set(imports_at_start(ast.parse(source).body)) == {"a.b", "c", "c.d", "f", "j"}


def defined_names(path: Path) -> set[str]:
    """All names that a module gives to something, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
    return found


def test_experiments_import_what_there_is() -> None:
    """No test runs all of them, and mypy passes over a name that moved out of a module."""
    missing, names = [], {}
    for file in (ROOT / "experiments").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("realgen"):
                continue
            place = ROOT / str(node.module).replace(".", "/")
            source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            if source not in names:
                names[source] = defined_names(source) if source.is_file() else set()
            known = names[source] | {path.stem for path in place.glob("*")}
            missing += [f"{file.name}: {node.module}.{each.name}" for each in node.names if each.name not in known]
    assert not missing
