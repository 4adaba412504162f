"""Runs the harness with disks of its own: ``python -m experiments.endurance``."""

from __future__ import annotations

import os
import subprocess
import sys

from experiments.endurance.harness import main

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
"""In front of a command that mounts disks of its own, without rights on the machine."""


def own_disks() -> None:
    """Start this program again where it may mount disks, once."""
    if "ENDURANCE_MOUNTS" not in os.environ:
        mounts = subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode == 0
        words = [*(NAMESPACE if mounts else ()), sys.executable, "-m", "experiments.endurance", *sys.argv[1:]]
        os.execvpe(words[0], words, {**os.environ, "ENDURANCE_MOUNTS": str(mounts)})


if __name__ == "__main__":
    own_disks()
    sys.exit(main())
