"""The command ``realgen``: every command of the package under one name."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from realgen import __version__
from realgen.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]


def test_it_names_every_command_of_the_package() -> None:
    runs = 'if __name__ == "__main__":'
    found = {path for path in (ROOT / "realgen").rglob("*.py") if runs in path.read_text(encoding="utf-8")}
    modules = {path.relative_to(ROOT / "realgen").with_suffix("").as_posix().replace("/", ".") for path in found}
    assert modules - {"__main__"} == set(COMMANDS)


def test_help_is_one_screen_and_needs_no_torch(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--help"]):
        assert main(argv) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) <= 24
        assert max(map(len, lines)) <= 80
        assert [line.split()[0] for line in lines[2 : 2 + len(COMMANDS)]] == [
            module.rpartition(".")[2] for module in COMMANDS
        ]
    code = "import sys, realgen.__main__ as m; m.main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_the_line_of_the_page_completes_commands_in_bash() -> None:
    (line,) = re.findall("^complete .*", (ROOT / "docs" / "install.md").read_text(encoding="utf-8"), re.MULTILINE)
    words = re.search('-W "(.*)" ', line)[1]
    script = f'realgen() {{ "{sys.executable}" -m realgen "$@"; }}; {line}; complete -p realgen; compgen -W "{words}" '
    done = subprocess.run(["bash", "-c", f"{script} re"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = " ".join(module.rpartition(".")[2] for module in COMMANDS).replace(" ", "\n")
    assert done.stdout == f"complete -o default -W '{names}' realgen\nrealbench\n"


def test_version_and_a_misspelt_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"realgen {__version__}\n"
    assert main(["genrate", "a cat"]) == 1
    assert capsys.readouterr().err == "error: there is no command 'genrate'. Did you mean generate?\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["fit", "--config", "configs/difusion.yaml"], 1, "Did you mean configs/diffusion.yaml?"),
        (["make_shards", "--help"], 0, "python -m realgen.data.make_shards"),
        (["generate", "--help"], 0, "usage: python -m realgen.generate"),
    ],
)
def test_a_command_gets_its_arguments_and_gives_its_exit_code(arguments: list[str], code: int, said: str) -> None:
    command = [sys.executable, "-m", "realgen", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert said in done.stdout + done.stderr


def test_the_script_is_installed_as_realgen() -> None:
    assert find_spec("realgen.__main__") is not None
    assert 'realgen = "realgen.__main__:main"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
