"""Which files and lines of the package one training step enters: how far a reader, or a debugger, has to walk.

    python experiments/benchmarks/iteration_journey.py

The second ``training_step`` of a recipe runs under ``sys.setprofile`` (and ``threading.setprofile``, for rewards in the
background) with two prompts, no callbacks and no loggers; every call into ``realgen/`` is counted by its file. Lines
are those of the whole files entered, docstrings included: what a reader has open, not what is executed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = Path(__file__).resolve().parents[2] / "realgen"


class Journey:
    """Counts calls by file and function while it is switched on."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Take in one event of the profiler."""
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            self.calls[frame.f_code.co_filename, frame.f_code.co_qualname] += 1

    def files(self) -> list[tuple[str, int, int]]:
        """Path inside the package, lines of the file and functions entered, sorted by path."""
        functions = Counter(name for name, _ in self.calls)
        return [
            (str(Path(name).relative_to(PACKAGE)), len(Path(name).read_text(encoding="utf-8").splitlines()), count)
            for name, count in sorted(functions.items())
        ]


def run(recipe: str) -> Journey:
    """Train two steps of a recipe and follow the second one."""
    from realgen import fit
    from realgen.modules import GRPOModule

    journey, step = Journey(), GRPOModule.training_step

    def followed(self: GRPOModule, batch: Any, batch_idx: int) -> Any:
        if self.iteration != 1:
            return step(self, batch, batch_idx)
        threading.setprofile(journey)
        sys.setprofile(journey)
        try:
            return step(self, batch, batch_idx)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    GRPOModule.training_step = followed
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--callbacks={}", "--loggers={}", "--baseline=false", "--data.prompts_per_iteration=2"]
        flags += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=0"]
        code = fit.main(["--config", recipe, *flags, f"--run_dir={folder}/run"])
    if code:
        sys.exit(code)
    return journey


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/diffusion.yaml")
    files = run(parser.parse_args().config).files()
    for name, lines, functions in files:
        print(f"{lines:6} lines {functions:4} functions  {name}")
    print(f"{len(files)} files, {sum(lines for _, lines, _ in files):,} lines, {sum(n for *_, n in files)} functions")


if __name__ == "__main__":
    main()
