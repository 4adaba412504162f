"""Run the tests that are marked as attacks and write the tables of docs/security.md: ``python docs/attacks.py``.

A test of something hostile from outside carries ``@pytest.mark.attack(area, what)``: where it comes in, and what it is.
``--collect-only`` runs nothing and prints the tables; other arguments are handed on to pytest.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "security.md"
BEGIN = "<!-- What follows is written by docs/attacks.py. -->\n"
LINE = re.compile(r"^- (?P<what>.+?)(?: \((?P<tried>\d+) variants\))?$")


class Attacks:
    """A plugin of pytest that keeps the marked tests, and counts those that were collected and those that passed."""

    def __init__(self) -> None:
        self.tried: dict[str, Counter[str]] = defaultdict(Counter)
        """By area: tests of each attack."""
        self.survived: Counter[str] = Counter()
        """Tests passed by area."""
        self._areas: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the marked tests."""
        kept = []
        for item in items:
            marker = item.get_closest_marker("attack")
            if marker is not None:
                area, what = marker.args
                self._areas[item.nodeid] = area
                self.tried[area][what] += 1
                kept.append(item)
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test that passed; one that was skipped is not survived."""
        if report.when == "call" and report.passed:
            self.survived[self._areas[report.nodeid]] += 1

    def table(self) -> str:
        """Return the numbers by area, then the attacks of each, as Markdown."""
        lines = ["| area | attacks tried | survived |", "|---|---|---|"]
        rows = [(area, self.tried[area].total(), self.survived[area]) for area in sorted(self.tried)]
        rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
        lines += [f"| {area} | {tried} | {survived} |" for area, tried, survived in rows]
        for area in sorted(self.tried):
            lines += ["", f"## {area[0].upper()}{area[1:]}", ""]
            lines += [
                f"- {what}" + (f" ({number} variants)" if number > 1 else "")
                for what, number in sorted(self.tried[area].items())
            ]
        return "\n".join([*lines, ""])


def read(tables: str) -> tuple[dict[str, dict[str, int]], dict[str, tuple[int, int]]]:
    """Read the tables back: by area the tests of each attack; and by area how many were tried and how many survived."""
    rows = re.findall(r"^\| (.+) \| (\d+) \| (\d+) \|$", tables, re.MULTILINE)
    attacks: dict[str, dict[str, int]] = {}
    for section in tables.split("\n## ")[1:]:
        title, *lines = section.splitlines()
        found = [match for line in lines if (match := LINE.match(line))]
        attacks[title[0].lower() + title[1:]] = {match["what"]: int(match["tried"] or 1) for match in found}
    return attacks, {area: (int(tried), int(survived)) for area, tried, survived in rows}


def main() -> int:
    """Run the marked tests, and write the page also where some fail; return pytest's exit status."""
    attacks = Attacks()
    marked = [str(path) for path in sorted((ROOT / "tests").rglob("*.py")) if "mark.attack(" in path.read_text()]
    status = pytest.main(["-q", "--tb=short", f"--rootdir={ROOT}", *marked, *sys.argv[1:]], [attacks])
    if "--collect-only" in sys.argv:
        print(BEGIN + attacks.table())
    else:
        PAGE.write_text(PAGE.read_text().split(BEGIN)[0] + BEGIN + "\n" + attacks.table())
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
