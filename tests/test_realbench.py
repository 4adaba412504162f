"""The command: folders in, tables and files out; its mistakes; a killed run; the embedded default."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from realgen.benchmark.results import read_results
from realgen.cli import ConfigError
from realgen.realbench import gather_images, main, read_config
from tests.helpers.forked import forked
from tests.helpers.toy_bench import GreyPolicy, write_bench, write_grey, write_set

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "configs").glob("realbench*.yaml"))
ARENAS = sorted((ROOT / "configs" / "arena").glob("*.yaml"))
TOYS = "tests.helpers.toy_bench"


@pytest.fixture
def toys(tmp_path: Path) -> list[str]:
    """Arguments of a benchmark of greys; the run's folder is ``run``."""
    (tmp_path / "toys.yaml").write_text(
        yaml.safe_dump(
            {
                "prompts": str(write_bench(tmp_path / "bench")),
                "policies": {"grey": f"{TOYS}.GreyPolicy"},
                "detectors": {"bright": f"{TOYS}.Brightness"},
                "scoring": {"resamples": 20},
                "draw_batch_size": 2,
                "device": "cpu",
            }
        )
    )
    return ["--config", str(tmp_path / "toys.yaml"), f"--run_dir={tmp_path / 'run'}"]


@pytest.mark.parametrize("path", [*RECIPES, *ARENAS], ids=lambda path: path.stem)
def test_every_config_parses(path: Path, repository: Path) -> None:
    assert {"realbench", "realbench_images"} <= {recipe.stem for recipe in RECIPES}
    assert path.read_text().startswith("# ")
    arguments = ["--config", str(path)] if path in RECIPES else ["--config", str(RECIPES[0]), f"--arena={path}"]
    _, config = read_config(arguments)
    assert config["detectors"]["effort"]["class_path"] == "realgen.detectors.Effort"
    if path in ARENAS:
        assert config["arena"]["class_path"] == "realgen.benchmark.Arena"


def test_blind_spots_are_reported_in_place_of_scores(
    toys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "drawn" / "bright", [200, 210, 220])
    toys += [f"--real={tmp_path / 'bench/real-img-benchmark'}", "--images", str(tmp_path / "drawn")]
    assert main([*toys, "--blind_spots.num_images=3"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "AUROC; first what even the best of them sees worst"
    row = next(line for line in out if line.split()[:1] == ["bright"])
    assert row.split()[1:] == ["a", "generator", "1.00", "[1.00,", "1.00]"]
    assert out[-2:] == [str(tmp_path / "run" / f"blind_spots.{kind}") for kind in ("html", "csv")]
    assert "--blind_spots.num_images=3" in (tmp_path / "run" / "blind_spots.html").read_text()
    for wrong, message in (
        (["--real=null"], "give photographs, generated images and detectors"),
        (["--dry-run"], "so there is no dry run"),
        ([f"--real={tmp_path / 'nowhere'}", f"--run_dir={tmp_path / 'new'}"], "real must be a folder of images"),
    ):
        assert main([*toys, "--blind_spots.num_images=3", *wrong]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_draws_scores_writes_and_shows(toys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(toys) == 0
    out = capsys.readouterr().out
    assert "RealBench, 4 prompts" in out
    assert "bright_judged_real" in out
    run = tmp_path / "run"
    results = read_results(run)
    assert [model.name for model in results.models] == ["grey"]
    assert len(results.rows) == 8
    assert results.settings["command"].startswith("python -m realgen.realbench --config")
    assert all((run / name).is_file() for name in ("results.md", "images.csv", "report.html", "config.yaml"))
    assert main(["--config", str(run / "config.yaml"), f"--run_dir={tmp_path / 'again'}"]) == 0
    assert read_results(tmp_path / "again").models[0].scores == results.models[0].scores


def test_what_comes_from_the_environment_is_written_nowhere(
    toys: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, secret in enumerate(("sesame-open", "sesame-shut")):
        monkeypatch.setenv("MY_SECRET", secret)
        argv = [*toys, "--policies.grey.fault=${oc.env:MY_SECRET}", "--num_prompts=2"]
        assert main(argv) == number  # images that another value has drawn are not mixed in
        written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
        assert len(written) > 5
        assert not [path for path in written if secret.encode() in path.read_bytes()]
    config = read_results(tmp_path / "run").settings["config"]
    assert config["policies"]["grey"]["init_args"]["fault"] == "${oc.env:MY_SECRET}"


def test_folders_are_scored_and_nothing_is_drawn(
    toys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    GreyPolicy.drawn = 0
    write_set(tmp_path / "dark", (0, 1, 2, 3))
    write_set(tmp_path / "m" / "photo", (250, 251, 252, 253), ".jpg")
    (tmp_path / "p.txt").write_text("a\nb\nc\nd\n")
    folders = ["--images", str(tmp_path / "dark"), f"--images=light={tmp_path / 'm'}"]
    given = [f"--prompts={tmp_path / 'p.txt'}", f"--real={tmp_path / 'bench/real-img-benchmark'}"]
    assert main([*toys, *folders, *given]) == 0
    results = read_results(tmp_path / "run")
    assert [model.name for model in results.models] == ["dark", "light"]
    assert results.models[0].scores["bright"].value > 99
    assert GreyPolicy.drawn == 0
    assert "the sets differ in file format or shape" in capsys.readouterr().out


def test_a_stopped_run_says_how_to_go_on(toys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    GreyPolicy.drawn = 0
    policy = f"--policies.grey={TOYS}.GreyPolicy"
    assert main([*toys, policy, "--policies.grey.stop_after=2"]) == 130
    err = capsys.readouterr().err
    assert f"--run_dir={tmp_path / 'run'}" in err.splitlines()[-1]
    assert len(list((tmp_path / "run/images/grey").glob("*.png"))) == 2
    GreyPolicy.drawn = -10  # the same settings, and nobody stops it
    assert main([*toys, policy, "--policies.grey.stop_after=2"]) == 0
    assert GreyPolicy.drawn == -8


def test_several_processes_share_the_drawing(
    toys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    GreyPolicy.drawn = 0
    assert main([*toys, "--part=2/3"]) == 0
    assert [path.name for path in (tmp_path / "run/images/grey").glob("*.png")] == ["00001.png"]
    assert main([*toys, "--part=1/3"]) == 0
    assert GreyPolicy.drawn == 3
    assert capsys.readouterr().out.splitlines()[-1] == f"2 images are in {tmp_path / 'run'}"
    assert not (tmp_path / "run/results.json").exists()
    assert main([*toys, "--part=3/3"]) == 0
    assert GreyPolicy.drawn == 4
    assert main(toys) == 0
    assert GreyPolicy.drawn == 4


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("4/3", "part must be 1/3 to 3/3, got 4/3."),
        ("0/3", "part must be K/N, such as 1/8, got '0/3'."),
        ("x", "part must be K/N, such as 1/8, got 'x'."),
        ("1/2", "part: give the folder that all parts draw into: --run_dir=FOLDER"),
    ],
)
def test_a_wrong_part_is_refused_before_anything_is_made(
    part: str, message: str, toys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = toys if part != "1/2" else toys[:2]
    # A policy that nobody can make: the part is looked at first.
    wrong = [f"--policies.grey={TOYS}.GreyPolicy", "--policies.grey.size=0", "--prompts=nowhere"]
    assert main([*given, *wrong, f"--part={part}"]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "run").exists()


def test_parts_of_one_folder_are_of_one_config(
    toys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*toys, "--part", "1/2", "--device=cpu"]) == 0
    kept = (tmp_path / "run/config.yaml").read_text()
    assert "--part" not in kept
    assert yaml.safe_load(kept)["part"] is None
    assert main([*toys, "--part=2/2", "--draw_batch_size=1", "--num_prompts=3"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: part: {tmp_path / 'run'} is of another config: num_prompts was not set, now it is 3. "
        "Choose another --run_dir."
    )
    assert main([*toys, "--part=2/2", "--draw_batch_size=1"]) == 0
    assert main(toys) == 0
    assert (tmp_path / "run/config.yaml").read_text() == kept


def test_another_config_is_said_and_one_that_is_refused_leaves_the_folder_alone(
    toys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(toys) == 0
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert main([*toys, "--seed=1"]) == 1
    assert "seed was 0, now it is 1" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == files
    assert main([*toys, "--scoring.resamples=30", "--detectors.bright.batch_size=2"]) == 0
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert note == (
        f"note: {tmp_path / 'run'} was of another config, its results are replaced: "
        "detectors.bright.batch_size was 64, now it is 2; scoring.resamples was 20, now it is 30"
    )
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["scoring"]["resamples"] == 30
    (tmp_path / "run/config.yaml").write_text("{")
    assert main(toys) == 1
    assert f"cannot read {tmp_path / 'run/config.yaml'}" in capsys.readouterr().err


def test_dry_run_writes_nothing(toys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arena = ["--arena=realgen.benchmark.Arena", "--arena.judge=realgen.judges.DetectorJudge"]
    assert main([*toys, *arena, f"--arena.judge.detector={TOYS}.Brightness", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "grey: 4 images to draw, 0 there already",
        "8 images to score, by bright",
        "arena: about 16 calls of the judge; images that are not drawn yet may turn out equal",
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts=nowhere"], "error: prompts must be a file or a folder, 'nowhere' does not exist."),
        (["--prompts=null"], "error: prompts: missing. Give a recipe: --config configs/realbench.yaml"),
        (["--detectors.bright=null"], "error: there is nothing to score with"),
        (["--policies.grey=null"], "error: there is nothing to score"),
        (["--images=none=nowhere"], "error: images.none must be a folder of images, 'nowhere'"),
        (["--matching={size: 0}"], "error: matching.size must be at least 1, got 0"),
        (["--matching={size: 16}"], "error: matching.size=16 would enlarge"),
        (["--scoring.batch_size=0"], "error: scoring.batch_size must be at least 1, got 0"),
        (["--num_prompts=9"], "error: num_prompts must be 1 to 4"),
        (["--device=abacus"], "error: device: 'abacus' cannot be used"),
        (
            ["--loggers={x: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: .}}}"],
            "error: loggers.x: a benchmark is logged by WandbLogger only, got CSVLogger",
        ),
        (["--leength=long"], "error: leength: config has no such key (command line). Did you mean length?"),
        (["--policies.grey.fault=nan"], "error: the policy drew NaN for 00000"),
    ],
    ids=lambda value: value[0].split("=")[0] if isinstance(value, list) else "",
)
def test_mistakes_take_a_line(
    arguments: list[str], message: str, toys: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*toys, *arguments]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(message)


def test_a_missing_key_is_said_before_a_folder_is_made(
    toys: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    arguments = [*toys[:2], f"--output_dir={tmp_path / 'runs'}", f"--arena={ARENAS[0].with_name('openai.yaml')}"]
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: arena.judge.api_key_variable names the environment variable")
    assert main([*arguments, "--dry-run"]) == 0
    assert not (tmp_path / "runs").exists()


def test_broken_images_are_named(toys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "mine", (0, 0, 0, 0))
    (tmp_path / "mine" / "00002.png").write_bytes(b"broken")
    assert main([*toys, f"--images={tmp_path / 'mine'}"]) == 1
    assert "error: mine: cannot decode" in capsys.readouterr().err
    (tmp_path / "mine" / "00002.png").unlink()
    write_grey(tmp_path / "mine" / "extra.png", 0)
    assert main([*toys, f"--images={tmp_path / 'mine'}"]) == 1
    assert "has no image of 00002" in capsys.readouterr().err


def test_without_arguments_it_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    assert "--config configs/realbench.yaml" in capsys.readouterr().err


@pytest.mark.slow
def test_the_embedded_default(repository: Path, tmp_path: Path) -> None:
    """Both policies, all judges, an arena, Weights & Biases, in a process of its own."""
    words = ["--config", "configs/realbench.yaml", "--num_prompts=8", f"--run_dir={tmp_path / 'run'}"]
    done = forked(lambda: main([*words, "--arena=configs/arena/detector.yaml", "--device=cpu"]), repository)
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "run")
    base, rewritten = results.models
    assert results.real.scores["effort"].value > base.scores["effort"].value
    assert {"omniaid", "effort", "alignment", "kid", "fid", "arena_win_rate"} <= set(base.scores)
    assert all(row.rewritten.startswith(row.prompt) for row in results.rows if row.model == rewritten.name)
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert json.loads((tmp_path / "run" / "wandb" / "run.json").read_text())["group"] == "realbench"
    assert json.loads((tmp_path / "run/results.json").read_text())["arena"]["protocol"] == "swapped"


def test_folders_may_be_given_again_and_again() -> None:
    arguments = [
        "--config",
        "a.yaml",
        "--images",
        "x/flux",
        "--num_prompts=3",
        "--images=mine=y",
        "--images",
        "z/photo",
    ]
    assert gather_images(arguments) == [
        "--config", "a.yaml", "--policies={}", '--images={"flux": "x/flux", "mine": "y", "z": "z/photo"}',
        "--num_prompts=3",
    ]  # fmt: skip
    kept = ["--images={}", "--images=null", "--images.a=b", "--dry_run=true"]
    assert gather_images([*kept[:3], "--dry-run"]) == kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "a/x", "--images", "b/x"], "a/x and b/x are both called x. Give names"),
        (["--images"], "--images needs a value"),
        (["--images", "--real=x"], "--images needs a value"),
    ],
)
def test_unclear_folders_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gather_images(arguments)


def test_a_folder_is_one_process_s_and_parts_share_it(
    toys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import sys; from pathlib import Path; from realgen.run_lock import RunLock\n"
    code += "lock = RunLock(Path(sys.argv[1]), shared='shared' in sys.argv); print(1, flush=True); sys.stdin.readline()"
    (tmp_path / "run").mkdir()
    for how, refused in (((), (toys, [*toys, "--part=1/2"])), (("shared",), (toys,))):
        words = [sys.executable, "-c", code, str(tmp_path / "run"), *how]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
            first.stdout.readline()
            for arguments in refused:
                assert main(arguments) == 1
                assert f"process {first.pid} on" in capsys.readouterr().err
            if how:
                assert main([*toys, "--part=1/2"]) == 0
            first.kill()
    assert main(toys) == 0
