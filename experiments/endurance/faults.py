"""Two processes in one folder, and disks that are full, read-only or gone; mounts need a namespace."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.endurance.kills import Case, Straight
from experiments.endurance.processes import Ended, Process

TMPFS, GROW = "mount -t tmpfs -o {} none RUN", "mount -o remount,rw,size=1g RUN"
DISKS = (
    ("full at 2 %", "No space left", TMPFS.format("size=$((SIZE / 50))"), "", GROW),
    ("full at 50 %", "No space left", TMPFS.format("size=$((SIZE / 2))"), "", GROW),
    ("full at 95 %", "No space left", TMPFS.format("size=$((SIZE * 19 / 20))"), "", GROW),
    ("read-only", "Read-only", TMPFS.format("ro"), "", GROW),
    (
        "read-only in the middle",
        "Read-only",
        "",
        "mount --bind RUN RUN && mount -o remount,ro,bind RUN",
        "umount -l RUN",
    ),
    ("deleted in the middle", "No such file", "", "rm -rf RUN", ""),
)
"""A fault, the reason that must be told, and what a shell does before the start, in the middle and after the end.

A second mount on top of a folder counts for the files that are opened from then on.
"""
MOST_LINES = 6
"""Of what a command may say about a disk."""


def doubles(straight: Straight) -> Iterator[Case]:
    """Start a run's command twice in one folder."""
    kind, begun = "two processes in one folder", straight.place / "config.yaml"
    for together in (True, False):
        shutil.rmtree(straight.place, ignore_errors=True)
        first = straight.start()
        if not together:
            _wait_for(begun, first)
            first.send_signal(signal.SIGSTOP)  # or it may be over before the second one has begun
        second = straight.start().finish() if not together else straight.start()
        first.send_signal(signal.SIGCONT)
        ended = [second if isinstance(second, Ended) else second.finish(), first.finish()]
        ends = sorted(ended, key=lambda each: each.code)
        well, refused = ends
        faults = [] if refused.code != 0 else ["both went on"]
        faults += (
            [] if re.search(r"process \d+ on", refused.output) else [f"names no process and host: {refused.words}"]
        )
        what = f"{straight.recipe.name}: {'at once' if together else 'the second one later'}"
        yield Case(kind, what, faults + straight.faults_of(well))
    shutil.rmtree(straight.place)
    first = straight.start()
    _wait_for(begun, first)
    first.kill()
    again = straight.start()  # the first one may not even be gone yet
    first.finish()
    yield Case(kind, f"{straight.recipe.name}: the first one killed that moment", straight.faults_of(again.finish()))


def disks(straight: Straight) -> Iterator[Case]:
    """Take a run's disk away, see what the command says, give the disk back, and go on."""
    size = sum(path.stat().st_size for path in straight.folder.rglob("*") if path.is_file())
    names = ("checkpoints/last.ckpt", "images/nano_rewritten/settings.json")
    middle = next(straight.place / name for name in names if (straight.folder / name).exists())

    def shell(line: str) -> None:
        line = line.replace("SIZE", str(size)).replace("RUN", str(straight.place))
        subprocess.run(line, shell=True, check=True)

    for fault, reason, before, amid, after in DISKS:
        shutil.rmtree(straight.place, ignore_errors=True)
        straight.place.mkdir()
        try:
            shell(before)
            process = straight.start()
            if amid:
                _wait_for(middle, process)
                shell(amid)
            faults = told(process.finish(), straight.place, reason)
            shell(after)
            faults += straight.faults_of(straight.start().finish())
        finally:
            while straight.place.is_mount():
                shell("umount --lazy RUN")
        yield Case("disk faults", f"{straight.recipe.name}: {fault}", faults)


def told(ended: Ended, place: Path, reason: str) -> list[str]:
    """Return what is wrong with the last words of a command that lost its disk."""
    lines = ended.output.splitlines()
    first = next((index for index, line in enumerate(lines) if line.startswith(("error", "Traceback"))), None)
    if ended.code == 0 or first is None:
        return [f"ended with {ended.code} and no error: {ended.words}"]
    words = "\n".join(lines[first:])
    faults = ["a traceback was printed"] if "Traceback" in ended.output else []
    faults += [f"{len(lines) - first} lines about it"] if len(lines) - first > MOST_LINES else []
    return faults + [f"does not say {word}: {lines[first][:160]}" for word in (str(place), reason) if word not in words]


def _wait_for(path: Path, process: Process) -> None:
    """Wait until a file is there or the process that should write it has ended."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.02)
