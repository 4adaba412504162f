"""Print pins with hashes, of a pylock.toml that uv wrote for the same versions: ``make pin`` runs it.

Of each package the wheels for Linux on x86-64 and the Pythons below, or its source; with the extras that the installed
packages ask for, without which pip does not take a pin with a hash for ``coverage[toml]``.
"""

from __future__ import annotations

import sys
import tomllib
from collections import defaultdict
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

PYTHONS = {"cp311", "cp312", "cp313", "cp314"}


def fits(filename: str) -> bool:
    """Whether a wheel is for Linux on x86-64 and one of ``PYTHONS``."""
    for tag in parse_wheel_filename(filename)[3]:
        linux = tag.platform == "any" or ("linux" in tag.platform and tag.platform.endswith("x86_64"))
        own = tag.interpreter in PYTHONS and tag.abi in (tag.interpreter, "none")
        if linux and "musl" not in tag.platform and (own or tag.abi == "abi3" or tag.interpreter.startswith("py")):
            return True
    return False


def extras() -> dict[str, set[str]]:
    """Return the extras that installed packages ask of others, by name, whatever the markers say."""
    found = defaultdict(set)
    for distribution in distributions():
        own = set(distribution.metadata.get_all("Provides-Extra") or ())
        for requirement in map(Requirement, distribution.requires or ()):
            optional = requirement.marker and any(f'extra == "{name}"' in str(requirement.marker) for name in own)
            if not optional:
                found[canonicalize_name(requirement.name)] |= requirement.extras
    return found


def main() -> None:
    """Print a line per package, and one per hash."""
    asked = extras()
    for package in tomllib.loads(Path(sys.argv[1]).read_text())["packages"]:
        names = [wheel["url"].rpartition("/")[2].replace("%2B", "+") for wheel in package.get("wheels", [])]
        files = [wheel for wheel, name in zip(package.get("wheels", []), names, strict=True) if fits(name)]
        hashes = sorted({file["hashes"]["sha256"] for file in files or [package["sdist"]]})
        wanted = f"[{','.join(sorted(asked[package['name']]))}]" if asked[package["name"]] else ""
        first = f"{package['name']}{wanted}=={package['version']}"
        print(" \\\n    ".join([first, *(f"--hash=sha256:{digest}" for digest in hashes)]))


if __name__ == "__main__":
    main()
