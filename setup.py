"""The recipes as a part of the installed package; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Copy ``configs`` to ``realgen/recipes`` of a wheel, for ``realgen.init``; a checkout needs no copy."""

    def run(self) -> None:
        """Build the package, then add the recipes."""
        super().run()
        if not self.editable_mode:
            source, target = Path(__file__).resolve().parent / "configs", Path(self.build_lib) / "realgen" / "recipes"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)


setup(cmdclass={"build_py": BuildWithRecipes})
