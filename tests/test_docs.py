"""What the pages show: commands parse and run, names exist, examples work, the log is explained, the site builds."""

from __future__ import annotations

import contextlib
import csv
import importlib
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from safetensors.torch import save_model

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "experiments/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
"""All but the API pages, which are made from docstrings, and the notes of single experiments."""
INSTALLERS = {"conda", "git", "pip", "source"}
"""First words of commands that are not run here; tests/test_environment.py looks after them."""

SHORT = (
    "--trainer.max_epochs=1 --trainer.limit_train_batches=2 --trainer.limit_val_batches=1 "
    "--data.prompts_per_iteration=2 --data.validation_batch_size=3 --model.group_size=4"
)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(markdown: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)


def commands(markdown: str) -> list[list[str]]:
    """The command lines of all bash blocks as words, continued lines joined, comments left out."""
    lines = "\n".join(blocks(markdown, "bash")).replace("\\\n", " ").splitlines()
    split = (shlex.split(line, comments=True) for line in lines)
    joined = (" ".join(words).split(" && ") if "&&" in words else [words] for words in split if words)
    return [part.split() if isinstance(part, str) else part for parts in joined for part in parts]


def spans(markdown: str) -> list[str]:
    """What stands in inline code."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL))


def expand(pattern: str) -> list[str]:
    """Write out the braces of a path, ``a/{b,c}.yaml``."""
    found = re.search(r"\{([^{}]*,[^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    parts = found.group(1).split(",")
    return [path for part in parts for path in expand(pattern[: found.start()] + part + pattern[found.end() :])]


def dotted(page: Path) -> Iterator[str]:
    """Names such as ``realgen.rewards.Reward`` in a page's prose and code, but for error messages that are shown."""
    yield from re.findall(r"\brealgen(?:\.[A-Za-z_]\w*)+", re.sub(r"^error: .*$", "", text(page), flags=re.MULTILINE))


def exists(dotted_name: str) -> bool:
    """Whether a module, or a name in one, can be imported."""
    parts = dotted_name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def link(folder: Path) -> None:
    """Let a folder hold what the repository holds, so that outputs do no harm."""
    for entry in ("Makefile", "configs", "constraints.txt", "data", "experiments", "pyproject.toml", "realgen"):
        (folder / entry).symlink_to(ROOT / entry)


def run(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder where its outputs do no harm."""
    link(folder)
    inherited = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        [sys.executable if word == "python" else word for word in words],
        cwd=folder, env=inherited, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip


def answer(module: str, arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Parse a command line by the command itself with ``--print_config``; empty if it is accepted, else its error."""
    try:
        code = importlib.import_module(module).main([*arguments, "--print_config"])
    except SystemExit as stop:
        code = stop.code
    out, error = capsys.readouterr()
    return "" if code == 0 and "class_path: realgen." in out else error.strip() or f"exit code {code}"


COMMANDS = [(page, words) for page in PAGES for words in commands(text(page))]
MODULES = sorted(
    {words[2] for _, words in COMMANDS if words[:2] == ["python", "-m"] and words[2].startswith("realgen")}
)
CONFIGURED = ("realgen.fit", "realgen.realbench", "realgen.serve")
"""Commands that show the config that they would run with."""
BASES = [
    ("realgen.fit", ["--config", "configs/diffusion.yaml"]),
    ("realgen.fit", ["--config", "configs/two_stage.yaml"]),
    ("realgen.fit", ["--config", "configs/diffusion_flux.yaml"]),
    ("realgen.fit", ["--config", "configs/detector.yaml", "--data=configs/data/image_folders.yaml"]),
    ("realgen.realbench", ["--config", "configs/realbench.yaml"]),
    ("realgen.serve", ["--config", "configs/serve/omniaid.yaml"]),
]
"""What an option in a sentence may be an option of."""


def test_commands_joins_lines_and_leaves_comments_out() -> None:
    markdown = (
        "a\n```bash\nmake fit  # now\npython -m x \\\n  --y 'a b'\nconda a && conda b\n```\n```text\nmake no\n```\n"
    )
    assert commands(markdown) == [["make", "fit"], ["python", "-m", "x", "--y", "a b"], ["conda", "a"], ["conda", "b"]]


def test_readme_is_short_and_opens_with_the_command_that_shows_it_all() -> None:
    readme = text(ROOT / "README.md")
    assert len(readme) <= 9000
    assert commands(readme)[0] == ["make", "fit"]
    assert {name(page) for page in PAGES if page.parent.name == "docs"} >= set(
        re.findall(r"\((docs/\w+\.md)\)", readme)
    )


def test_every_command_names_what_exists() -> None:
    wrong = []
    for page, words in COMMANDS:
        known = words[0] in INSTALLERS
        if words[0] == "make":
            known = re.search(rf"^{words[1]}:", text(ROOT / "Makefile"), re.MULTILINE) is not None
        elif words[0] == "python":
            known = find_spec(words[2]) is not None if words[1] == "-m" else (ROOT / words[1]).is_file()
        files = [value for value in (word.split("=", 1)[-1] for word in words) if re.search(r"\.(ya?ml|txt)$", value)]
        wrong += [f"{name(page)}: {shlex.join(words)}"] if not known else []
        wrong += [f"{name(page)}: no file {file}" for file in files if not (ROOT / file).is_file()]
    assert len(COMMANDS) >= 40
    assert wrong == []


def test_every_command_with_a_config_parses(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, checked = [], set()
    for page, words in COMMANDS:
        module, arguments = words[2:3], [word for word in words[3:] if word not in ("--print_config", "--dry-run")]
        if words[:2] != ["python", "-m"] or module[0] not in CONFIGURED or "--config" not in words:
            continue
        if tuple(words) in checked or any(".help" in word for word in words) or "--ckpt_path" in words:
            continue
        checked.add(tuple(words))
        error = answer(module[0], arguments, capsys)
        wrong += [f"{name(page)}: {shlex.join(words)}: {error}"] if error else []
    assert len(checked) >= 20
    assert wrong == []


def test_the_page_of_own_prompts_makes_the_shards_that_it_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = commands(text(ROOT / "docs" / "lora.md"))
    made = [importlib.import_module(each[2]).main(each[3:]) for each in words if each[2].endswith("make_shards")]
    patterns = {word.partition("=")[2] for each in words for word in each if word.startswith("--data.")}
    assert made == [0, 0]
    assert patterns == {"mine/train/*.tar", "mine/held_out/*.tar"}
    assert all(list(tmp_path.glob(pattern)) for pattern in patterns)


def in_help(option: str, helps: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(option.split('=')[0])}(?![\w-])", helps) is not None


def accepted(options: list[str], parse: Callable[[list[str]], str]) -> list[str]:
    """Those that are taken by what answers with an error, or with nothing: all that no error names, tried together."""
    while options and (error := parse(options)):
        key = re.match(r"error: ([\w.]*\w)", error)
        named = [each for each in options if key and re.match(rf"--{re.escape(key[1])}([.=]|$)", each)]
        if not named:  # of none alone
            half = len(options) // 2
            return accepted(options[:half], parse) + accepted(options[half:], parse) if half else []
        options = [each for each in options if each not in named]
    return options


def test_accepted_finds_each_that_is_wrong() -> None:
    def parse(options: list[str]) -> str:
        wrong = [each for each in options if each.startswith(("--a.", "--b=2", "--c"))]
        named = {"--a.x=1": "error: a: no such key", "--a.y": "error: a: no such key", "--c": "together wrong"}
        return named.get(wrong[0], "error: b: expected 1") if wrong else ""

    assert accepted(["--a.x=1", "--d", "--c", "--a.y", "--b=2", "--ab"], parse) == ["--d", "--ab"]


def test_every_option_in_a_sentence_exists(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--dotted.key=value`` is parsed by the commands that may mean it; other options stand in a command's help."""
    found = {
        (page, option) for page in PAGES for span in spans(text(page)) for option in re.findall(r"(?<!\S)--\S+", span)
    }
    helps, wrong = "", []
    for module in MODULES:
        with contextlib.suppress(SystemExit):
            importlib.import_module(module).main(["--help", "all"])
        usage = capsys.readouterr().out
        helps += usage
        wrong += [f"{module}: no help"] if not usage.startswith("usage:") else []
    keys = sorted({option for _, option in found if "." in option.split("=")[0] and not option.endswith("DIR")})
    unknown = {option for _, option in found - set(product(PAGES, keys)) if not in_help(option, helps)}
    for module, base in BASES:
        known = accepted(keys, lambda some, module=module, base=base: answer(module, [*base, *some], capsys))
        keys = [option for option in keys if option not in known]
    wrong += [f"{name(page)}: {option}" for page, option in sorted(found) if option in {*keys, *unknown}]
    assert len(found) >= 20
    assert wrong == []


def test_where_things_are_written_has_one_name() -> None:
    """``--output``, ``--run_dir`` and ``--output_dir`` of all commands, and ``runs/``."""
    other = re.compile(r"--out\b|--(output|run)-dir\b|--(out|save)_dir\b|\boutputs/")
    files = [*PAGES, *(path for name in ("realgen", "configs") for path in (ROOT / name).rglob("*.[py]*"))]
    texts = [(path, path.read_text(encoding="utf-8")) for path in files if path.suffix in (".md", ".py", ".yaml")]
    lines = [(path, i, line) for path, whole in texts for i, line in enumerate(whole.splitlines(), 1)]
    assert len(texts) >= 400
    assert [f"{name(path)}:{i}: {line.strip()}" for path, i, line in lines if other.search(line)] == []


def test_every_name_of_the_package_exists() -> None:
    names = {(name(page), dotted_name) for page in PAGES for dotted_name in dotted(page)}
    wrong = [f"{page}: {dotted_name}" for page, dotted_name in sorted(names) if not exists(dotted_name)]
    assert len(names) >= 40
    assert wrong == []


def test_every_path_exists() -> None:
    """Paths in inline code, with braces and stars, and the targets of links."""
    wrong, checked = [], 0
    for page in PAGES:
        written = [
            span.split(":")[0] for span in spans(text(page)) if re.fullmatch(r"[\w./*{},-]+", span.split(":")[0])
        ]
        roots = ("configs/", "data/", "docs/", "experiments/", "realgen/", "tests/")
        paths = [ROOT / path for span in written if span.startswith(roots) for path in expand(span)]
        targets = re.findall(r"\]\((?!https?:)([^)#\s]+)", text(page))
        paths += [page.parent / target for target in targets]
        checked += len(paths)
        for path in paths:
            matches = list(path.parent.glob(path.name)) if "*" in path.name else [path]
            wrong += [f"{name(page)}: {path}"] if not matches or not matches[0].exists() else []
    assert checked >= 100
    assert wrong == []


def test_every_yaml_block_is_of_classes_that_exist() -> None:
    examples = set(re.findall(r"^class (\w+)\(", text(ROOT / "docs" / "extending.md"), re.MULTILINE))
    wrong, checked = [], 0
    for page in PAGES:
        for block in blocks(text(page), "yaml"):
            assert yaml.safe_load(block)
            for path in re.findall(r"class_path: (\S+)", block):
                module, _, cls = path.rpartition(".")
                checked += 1
                known = cls in examples if module == "yours" else exists(path)
                wrong += [f"{name(page)}: {path}"] if not known else []
    assert checked >= 4
    assert wrong == []


@pytest.fixture(scope="module")
def examples() -> dict[str, Any]:
    """What the code blocks of docs/extending.md define."""
    namespace: dict[str, Any] = {}
    for block in blocks(text(ROOT / "docs" / "extending.md"), "python"):
        exec(block, namespace)
    return namespace


def test_detector_example_is_a_detector(examples: dict[str, Any], tmp_path: Path) -> None:
    network = torchvision.models.resnet18(num_classes=1).eval()
    save_model(network, str(tmp_path / "weights.safetensors"))
    images = torch.rand(3, 3, 32, 32)
    p_fake = examples["ResNetDetector"](str(tmp_path / "weights.safetensors"), batch_size=2)(images)
    with torch.no_grad():
        torch.testing.assert_close(p_fake, torch.sigmoid(network(images)[:, 0]))


def test_reward_example_is_a_reward(examples: dict[str, Any]) -> None:
    from realgen.types import Samples

    flat, half = torch.full((3, 8, 8), 0.5), torch.zeros(3, 8, 8)
    half[:, :4] = 1.0  # standard deviation 0.5, above the limit
    rewards = examples["Contrast"]()(Samples(prompts=("a",), group_size=2, images=torch.stack([flat, half])))
    torch.testing.assert_close(rewards.total, torch.tensor([[0.0, 0.25]]))


def test_function_example_scores_by_the_metadata(examples: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from realgen.rewards import FunctionReward
    from realgen.types import Samples

    monkeypatch.setitem(sys.modules, "yours", types.SimpleNamespace(**examples))
    told = Samples(("a",), 2, torch.zeros(2, 3, 4, 4), metadata=({"objects": ["dog", "bench"]},))
    assert FunctionReward("yours.objects_drawn", images="pil")(told).total.tolist() == [[2.0, 2.0]]


def test_metric_example_is_a_metric(examples: dict[str, Any]) -> None:
    metric = examples["Brightness"]()
    metric.update(torch.zeros(2, 3, 4, 4), prompts=["a", "b"])
    metric.update(torch.ones(1, 3, 4, 4), prompts=["c"])
    torch.testing.assert_close(metric.compute(), torch.tensor(1 / 3))


def test_objective_example_learns_from_the_better_half(examples: dict[str, Any]) -> None:
    from realgen.types import RewardOutput

    total = torch.tensor([[0.0, 1.0, 2.0]])
    advantages = examples["PositiveOnlyGRPO"]().advantages(RewardOutput(total, {"a": total}, {"a": 1.0}))
    assert advantages[0, :2].tolist() == [0.0, 0.0]
    assert advantages[0, 2] > 0


def test_base_model_example_predicts_what_the_embedded_one_does(examples: dict[str, Any], nano: Path) -> None:
    from realgen.policies.backbones import SD3

    velocities = []
    for backbone in (examples["MyModel"](str(nano / "sd3")), SD3(str(nano / "sd3"))):
        backbone.load()
        schedule = backbone.schedule(4, 64, 64)
        shape = backbone.latent_shape(64, 64)
        latents = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            conditioning = backbone.encode_prompts(["a cat", "a rocket"])
            velocities.append(backbone.velocity(latents, schedule.timesteps[[0, 2]], conditioning))
        assert len(backbone.blocks()) > 0
    torch.testing.assert_close(*velocities, rtol=0, atol=0)


@pytest.mark.slow
def test_plans_and_dry_runs_run_and_the_costs_that_are_shown_are_those_of_the_plan(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cheap, wrong, printed = {tuple(words) for _, words in COMMANDS if {"realgen.plan", "--dry-run"} & {*words}}, [], {}
    for words in sorted(words for words in cheap if "--help" not in words):
        code = importlib.import_module(words[2]).main(words[3:])
        printed[words[4]], error = capsys.readouterr()
        wrong += [f"{shlex.join(words)}: {error}"] if code or not printed[words[4]] else []
    assert len(cheap) >= 4
    assert wrong == []
    flux = "configs/diffusion_flux.yaml"
    row = re.search(rf"^\| `{flux}` \| (.+) \|$", text(ROOT / "docs" / "planning.md"), re.MULTILINE).group(1)
    patterns = (r"(\d+) images on 8 GPUs", r"([\d.]+) seconds an iteration", r"most of all +([\d.]+)")
    images, seconds, memory = (float(re.search(pattern, printed[flux]).group(1)) for pattern in patterns)
    shown = [float(cell) for cell in row.split(" | ")]
    assert shown == pytest.approx([images, seconds, memory, seconds * 200 / 3600], rel=0.02)


def log_patterns() -> list[str]:
    """The names in the tables of docs/logging.md as patterns; ``<...>`` stands for a name that the config chooses."""
    cells = re.findall(r"^\| (`[^|]+`) \|", text(ROOT / "docs" / "logging.md"), re.MULTILINE)
    names = [span for cell in cells for span in spans(cell)]
    return [re.sub(r"<\w+>", r"[\\w.]+", re.escape(each)) for each in names]


def unexplained(columns: Sequence[str]) -> list[str]:
    """Columns of a log that docs/logging.md has no row for; those of a joint run may begin with ``image/``."""
    plain = [column.removeprefix("image/") for column in columns]
    return [column for column in plain if not any(re.fullmatch(pattern, column) for pattern in log_patterns())]


def test_unexplained_finds_what_no_row_explains() -> None:
    assert unexplained(["reward", "reward/omniaid", "image/grad_norm", "val/kid", "seconds/rollout"]) == []
    assert unexplained(["reward/a/b", "seconds/lunch"]) == ["reward/a/b", "seconds/lunch"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["make", "joint"])
def test_short_runs_write_what_the_pages_say(how: str, tmp_path: Path) -> None:
    joint = ["python", "-m", "realgen.fit", "--config", "configs/joint.yaml", *SHORT.split()]
    words = ["make", "fit", f"BIN={Path(sys.executable).parent}", f"ARGS={SHORT}"] if how == "make" else joint
    result = run(words, tmp_path)
    assert result.returncode == 0, result.stderr
    written = {path.suffix for path in tmp_path.rglob("*") if path.is_file() and "data" not in path.parts}
    assert {".png", ".safetensors", ".csv", ".ckpt"} <= written
    (log,) = (tmp_path / "runs").rglob("metrics.csv")
    assert unexplained(next(csv.reader(log.open()))) == []


def test_every_folder_has_an_api_page_and_every_page_is_in_the_navigation() -> None:
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "realgen").rglob("__init__.py")}
    pages = sorted((ROOT / "docs").rglob("*.md"))
    shown = {found for page in pages for found in re.findall(r"^::: (\S+)$", text(page), re.MULTILINE)}
    assert packages - {"realgen"} - shown == set()
    assert [found for found in sorted(shown) if not exists(found)] == []
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    assert sorted(re.findall(r"(\S+\.md)$", navigation, re.MULTILINE)) == sorted(
        str(page.relative_to(ROOT / "docs")) for page in pages
    )


@pytest.mark.slow
def test_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    """Broken links, missing pages and unknown cross-references fail; scripts, styles and images are in the site."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    outside = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=\"?(?:https?:)?//[^\s\">]+")
    pages = sorted((tmp_path / "site").rglob("*.html"))
    found = {f"{page.name}: {tag}" for page in pages for tag in outside.findall(page.read_text(encoding="utf-8"))}
    assert len(pages) >= 30
    assert sorted(found) == []
