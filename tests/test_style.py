"""The rules of CONTRIBUTING.md that a machine can check."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = sorted((ROOT / "realgen").rglob("*.py"))
TESTS = [path for path in sorted((ROOT / "tests").rglob("*.py")) if path != Path(__file__).resolve()]
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef

SILENCERS = re.compile(
    r"type: ignore|noqa|pragma: no cover|NotImplementedError|\b(TODO|FIXME|XXX)\b"
    r"|except:|except (Base)?Exception\b[^#]*$"
)
"""Ways to make a tool or a reader look away; catching everything needs its reason on the same line."""


def walk(kind: type | tuple[type, ...]) -> Iterator[tuple[Path, ast.AST]]:
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield path, node


def silencers(paths: list[Path]) -> list[str]:
    """``file:line: text`` of every line that silences a tool or a reader."""
    lines = ((path, number, line) for path in paths for number, line in enumerate(path.read_text().splitlines(), 1))
    return [f"{path}:{number}: {line.strip()}" for path, number, line in lines if SILENCERS.search(line)]


def body_lines(function: Function) -> int:
    """Lines of a function from its ``def`` to its end, its docstring left out."""
    first = function.body[0]
    docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(function, clean=False) is not None else 0
    return function.end_lineno - function.lineno + 1 - docstring


def documented_arguments(docstring: str) -> list[str]:
    """Names in the ``Args`` section of a cleaned Google docstring."""
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)+)", docstring, re.MULTILINE)
    return re.findall(r"^[ ]{4}\*{0,2}(\w+)(?: \(.*\))?:", section.group(1), re.MULTILINE) if section else []


def test_the_tree_is_walked() -> None:
    assert len(PACKAGE) >= 60
    nouns = {"callbacks", "cli", "data", "detectors", "fit", "functional", "metrics", "modules", "objectives"}
    nouns |= {"policies", "rewards", "types"}
    assert {path.relative_to(ROOT / "realgen").with_suffix("").parts[0] for path in PACKAGE} >= nouns


def test_no_file_is_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE}
    assert not {name: length for name, length in lengths.items() if length > 350}
    assert sorted(lengths.values())[len(lengths) // 2] <= 150


def test_no_function_is_long() -> None:
    long = [f"{path}:{node.lineno} {node.name}" for path, node in walk(Function) if body_lines(node) > 60]
    assert not long


def test_body_lines_leaves_the_docstring_out() -> None:
    source = 'def f():\n    """One\n    two."""\n    a = 1\n    return a\n'
    assert body_lines(ast.parse(source).body[0]) == 3


def test_no_drawers() -> None:
    drawers = {"utils", "util", "common", "helpers", "misc"}
    assert not [path for path in PACKAGE if drawers & {path.stem, *path.relative_to(ROOT).parts}]


def test_nothing_is_silenced() -> None:
    assert len(TESTS) >= 100
    assert silencers(PACKAGE + TESTS + EXPERIMENTS) == []


def test_silencers_are_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("a = 1\ntry:\n    pass\nexcept:\n    pass\nexcept Exception:  # the caller logs it\n")
    assert silencers([path]) == [f"{path}:4: except:"]


def exported_names() -> set[str]:
    """What the packages' ``__all__`` list: the names that a config may use."""
    assignments = (node for path, node in walk(ast.Assign) if path.name == "__init__.py")
    lists = (ast.literal_eval(node.value) for node in assignments if ast.unparse(node.targets[0]) == "__all__")
    return {name for names in lists for name in names}


def test_constructor_arguments_are_documented() -> None:
    """``--help`` shows what the class docstring says of each argument, so the two lists must agree."""
    wrong, exported, checked = {}, exported_names(), 0
    for path, node in walk(ast.ClassDef):
        constructors = [child for child in node.body if isinstance(child, Function) and child.name == "__init__"]
        if node.name not in exported or not constructors:
            continue
        checked += 1
        signature = constructors[0].args
        keywords = [*signature.kwonlyargs, *([signature.kwarg] if signature.kwarg else [])]
        names = [argument.arg for argument in (*signature.posonlyargs, *signature.args, *keywords)][1:]
        documented = documented_arguments(ast.get_docstring(node) or "")
        if names != documented:
            wrong[f"{path.relative_to(ROOT)} {node.name}"] = (names, documented)
    assert checked >= 15
    assert not wrong


def test_documented_arguments_reads_google_style() -> None:
    docstring = "One.\n\nArgs:\n    a: First, and\n        more: of it.\n    b (int): Second.\n\nReturns:\n    c: none."
    assert documented_arguments(docstring) == ["a", "b"]
    assert documented_arguments("One.") == []


def test_no_large_file_outside_data() -> None:
    files = [path for name in ("realgen", "tests", "configs") for path in (ROOT / name).rglob("*") if path.is_file()]
    assert not [path for path in files if path.stat().st_size > 100_000 and "__pycache__" not in path.parts]
