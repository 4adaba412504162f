"""Print docs/licences.md: what constraints.txt installs, and under which licence, as the packages say themselves.

python docs/licences.py > docs/licences.md
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

PINS = Path(__file__).resolve().parent.parent / "constraints.txt"
HEAD = """\
# Licences of what is installed

Every package of `constraints.txt` with the licence that its own metadata names; `make pin` writes this page. Packages
of NVIDIA belong to PyTorch's build for CUDA. The licences of the photographs in `data/` stand there.

| package | version | licence |
|---|---|---|"""


def licence(name: str) -> str:
    """Return the licence in an installed package's metadata: its expression, its classifiers, or its first line."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return "not installed here"
    classifiers = [
        line.rpartition(" :: ")[2] for line in found.get_all("Classifier") or () if line.startswith("License")
    ]
    first = (found.get("License") or "").strip().partition("\n")[0][:60]
    return found.get("License-Expression") or ", ".join(classifiers) or first or "not said"


def main() -> None:
    """Print the page."""
    print(HEAD)
    for name, version in re.findall(r"^([a-z0-9-]+)(?:\[.*?\])?==([^\s\\]+)", PINS.read_text(), re.MULTILINE):
        print(f"| {name} | {version} | {licence(name).replace('|', '/')} |")


if __name__ == "__main__":
    main()
