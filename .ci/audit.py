"""Look the pinned packages up in a database of known vulnerabilities, and say where none can be reached.

    python .ci/audit.py

Runs pip-audit, from an environment of its own that is made and thrown away. Ends with 1 if a pinned version is known to
be vulnerable, else with 0: a machine without a network is no fault of the pins.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PINS = Path(__file__).resolve().parent.parent / "constraints.txt"


def audit(folder: Path) -> list[dict]:
    """Return what pip-audit finds of each package; raises OSError or CalledProcessError where it cannot run."""
    venv.create(folder / "tool", with_pip=True)
    python = str(folder / "tool" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--retries=0", "--timeout=10", "pip-audit"]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    report = folder / "report.json"
    words = [
        "--requirement",
        str(PINS),
        "--disable-pip",
        "--format=json",
        f"--output={report}",
        "--progress-spinner=off",
    ]
    # It ends with 1 both where it finds something and where it fails, and then writes no report.
    subprocess.run([python, "-m", "pip_audit", *words, "--timeout=10"], check=False, capture_output=True, timeout=600)
    return json.loads(report.read_text())["dependencies"]


def verdict(found: list[dict]) -> tuple[list[str], int]:
    """Return lines to print and the exit status for what pip-audit found."""
    unknown = [package["name"] for package in found if "skip_reason" in package]
    bad = [(package, each) for package in found for each in package.get("vulns", [])]
    if len(unknown) == len(found):
        return ["audit: no database of vulnerabilities answers for any of the pins; nothing was audited"], 0
    lines = [f"audit: {len(found) - len(unknown)} pinned packages looked up, {len(bad)} known vulnerabilities"]
    lines += [f"audit: not in the database: {', '.join(unknown)}"] if unknown else []
    for package, each in bad:
        mended = ", ".join(each["fix_versions"]) or "no version"
        lines.append(f"{package['name']} {package['version']}: {each['id']}, mended in {mended}")
    return lines, int(bool(bad))


def main() -> int:
    """Audit and print."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = audit(Path(folder))
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            print(f"audit: no database of vulnerabilities can be reached ({type(error).__name__}); nothing was audited")
            return 0
    lines, status = verdict(found)
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
