"""Examples of functions inside the package, file by module; those of the public ones stand in their docstrings."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).with_name("examples").glob("*.txt"))
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_examples_of_a_module(file: Path) -> None:
    module = importlib.import_module(file.stem)
    examples = doctest.DocTestParser().get_doctest(file.read_text(), dict(vars(module)), file.stem, str(file), 0)
    told: list[str] = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(examples, out=told.append)
    assert result.attempted > 0
    assert not result.failed, "".join(told)
