"""Every sweep gives commands that the command line takes: rendered as an agent of Weights & Biases renders them."""

from __future__ import annotations

import itertools
import json
import platform
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import LightningDataModule
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from realgen.cli.realgen_cli import ParsedConfig, RealGenCLI
from realgen.fit import check, main
from realgen.modules.base import TrainableModule

ROOT = Path(__file__).resolve().parent.parent
SWEEPS = sorted((ROOT / "configs" / "sweeps").rglob("*.y*ml"))
DISTRIBUTIONS = {"uniform", "log_uniform_values", "q_uniform", "q_log_uniform_values", "int_uniform"}


def choices(parameter: dict[str, Any]) -> list[Any]:
    """The values that a parameter may take; of a range its ends."""
    if "value" in parameter:
        return [parameter["value"]]
    if "values" in parameter:
        return list(parameter["values"])
    assert parameter["distribution"] in DISTRIBUTIONS
    ends = [parameter["min"], parameter["max"]]
    assert all(isinstance(end, int | float) for end in ends)  # YAML reads 1e-4 as a text, and 1.0e-4 as a number
    assert ends[0] < ends[1]
    return ends


def combinations(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """All of a grid; of a search every choice of every parameter, the others at their first."""
    values = {name: choices(parameter) for name, parameter in sweep["parameters"].items()}
    if sweep["method"] == "grid":
        return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]
    first = {name: options[0] for name, options in values.items()}
    return [first, *({**first, name: option} for name, options in values.items() for option in options[1:])]


def rendered(sweep: dict[str, Any], combination: dict[str, Any]) -> list[str]:
    """The command line that an agent starts; what stands in ``${...}`` is replaced as ``wandb agent`` does it."""
    macros = create_sweep_command_args({"args": {name: {"value": value} for name, value in combination.items()}})
    macros |= {"interpreter": ["python"], "program": [sweep["program"]]}
    macros |= {"env": ["/usr/bin/env"]} if platform.system() != "Windows" else {}
    words: list[str] = []
    for word in map(str, create_sweep_command(list(sweep["command"]))):
        words += (macros.get(word[2:-1]) or []) if word.startswith("${") and word.endswith("}") else [word]
    return words


def load(path: Path) -> dict[str, Any]:
    """A sweep as an agent gets it: the server keeps it as JSON."""
    sweep = load_sweep_config(str(path))
    assert sweep is not None
    return json.loads(json.dumps(sweep))


def arguments(sweep: dict[str, Any], combination: dict[str, Any]) -> list[str]:
    """Those of ``python -m realgen.fit``."""
    words = rendered(sweep, combination)
    assert words[:4] == ["/usr/bin/env", "python", "-m", "realgen.fit"]
    return words[4:]


CASES = [
    pytest.param(sweep, combination, id=f"{path.stem}-{number}")
    for path in SWEEPS
    for sweep in [load(path)]
    for number, combination in enumerate(combinations(sweep))
]


@pytest.fixture(autouse=True)
def _sweep_id(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc123")


def shown(argv: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The config that ``realgen.fit`` would run."""
    with pytest.raises(SystemExit) as stop:
        main([*argv, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def at(config: dict[str, Any], key: str) -> Any:
    """The value of a dotted key; ``init_args`` may be left out."""
    value: Any = config
    for part in key.split("."):
        value = value["init_args"][part] if "init_args" in value and part not in value else value[part]
    return value


def test_the_folder_is_walked() -> None:
    assert {path.stem for path in SWEEPS} >= {"hyperparameters", "detectors", "objectives"}
    assert len(CASES) >= 9 + 9 + 8


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_a_sweep_says_what_wandb_needs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = load(path)
    assert (ROOT / sweep["program"]).is_file()
    assert sweep["method"] in ("grid", "random", "bayes")
    assert sweep["metric"]["goal"] in ("maximize", "minimize")
    assert path.read_text().startswith("# ")
    assert sweep["name"] == path.stem
    config = shown(arguments(sweep, combinations(sweep)[0]), capsys)
    group, _, metric = sweep["metric"]["name"].partition("/")
    assert (group, at(config, "model.metrics")[metric] is not None) == ("val", True)
    assert at(config, "loggers.wandb.offline") is False
    assert config["output_dir"] == "runs/sweeps/abc123"


@pytest.mark.slow
@pytest.mark.parametrize(("sweep", "combination"), CASES)
def test_every_command_could_start_and_every_value_arrives(
    sweep: dict[str, Any], combination: dict[str, Any], nano: Path, tmp_path: Path
) -> None:
    """As ``realgen.fit`` checks before it makes a folder: the parts fit together, the weights are there."""
    again = bool(combination.get("seed_everything"))  # the seed decides nothing of the rest
    argv = [*arguments(sweep, combination), f"--output_dir={tmp_path / 'runs'}"]
    cli = (ParsedConfig if again else RealGenCLI)(TrainableModule, LightningDataModule, argv=argv)
    config = cli.config.as_dict()
    for key, value in combination.items():
        if isinstance(value, str) and value.endswith(".yaml"):
            assert at(config, key)["class_path"] == yaml.safe_load(Path(value).read_text())["class_path"]
        else:
            assert at(config, key) == value
    assert at(config, "model.objective.clip_high") == at(config, "model.objective.clip_low")
    if not again:
        check(cli)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_a_misspelt_parameter_is_found(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = load(path)
    for name in sweep["parameters"]:
        first = combinations(sweep)[0]
        misspelt = {(f"{key}s" if key == name else key): value for key, value in first.items()}
        assert main([*arguments(sweep, misspelt), "--print_config"]) == 1, name
        assert f"Did you mean {name.rpartition('.')[2]}?" in capsys.readouterr().err


def test_none_and_booleans_arrive_as_they_are_meant(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = load(ROOT / "configs" / "sweeps" / "objectives.yaml")
    odd = {"model.metrics.kid": None, "model.skip_zero_advantages": False, "trainer.max_epochs": 3}
    assert [word for word in rendered(sweep, odd) if "kid" in word] == ["--model.metrics.kid=None"]
    config = shown(arguments(sweep, odd), capsys)
    assert [at(config, key) for key in odd] == [None, False, 3]


def test_the_variants_of_an_objective_share_clip_and_kl_penalty(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = load(ROOT / "configs" / "sweeps" / "objectives.yaml")
    seen = [at(shown(arguments(sweep, choice), capsys), "model.objective") for choice in combinations(sweep)[::3]]
    assert [objective["class_path"].rpartition(".")[2] for objective in seen] == ["GRPO", "GRPOGuard", "GRPO"]
    assert len({tuple(each["init_args"][name] for name in ("clip_low", "kl", "kl_coef")) for each in seen}) == 1
    assert [each["init_args"]["advantage_std"] for each in seen] == ["group", "group", "none"]
