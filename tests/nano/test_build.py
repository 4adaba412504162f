"""One command makes everything, in order; what is finished stays, and what was killed goes on."""

import inspect
import json
import re

import pytest
import torch
from safetensors.torch import load_file

from experiments.nano import build, clip, detectors, diffusion, encoder, forensic_chat, llm, probe, vae
from experiments.nano.build import Scale, Stage, main, make_vae, plan, run

STAGES = [
    "vae",
    "sd3",
    "clip",
    "encoder",
    "omniaid",
    "effort",
    "forensic_chat",
    "imagenet_probe",
    "llm",
    "shards",
    "realbench",
    "figures",
]
MAKERS = {
    "vae": (vae, "make_vae"),
    "sd3": (diffusion, "make_pipeline"),
    "clip": (clip, "make_clip"),
    "encoder": (encoder, "make_encoder"),
    "omniaid": (detectors, "make_detector"),
    "effort": (detectors, "make_detector"),
    "forensic_chat": (forensic_chat, "make_forensic_chat"),
    "imagenet_probe": (probe, "make_probe"),
    "llm": (llm, "make_llm"),
}
"""Which function makes which stage."""


class Killed(BaseException):
    """What a signal would do."""


@pytest.fixture
def stages(tmp_path):
    """Three stages that write their file; the second needs the first, the third sums up."""
    made = []

    def stage(name, **settings):
        path = tmp_path / name

        def make():
            made.append(name)
            path.write_text(name)

        return Stage(name, path, make, **settings)

    stages = [stage("a"), stage("b", needs=("a",)), stage("sum", needs=("a", "b"), kept_fresh=True)]
    return stages, made


def test_everything_is_made_in_order_and_once(stages, capsys):
    stages, made = stages
    assert run(stages) == ["a", "b", "sum"]
    assert run(stages) == []
    assert made == ["a", "b", "sum"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[1/3] a ..."
    assert re.fullmatch(r"\[1/3\] a: made in \d+\.\d min", lines[1])
    assert lines[6] == f"[1/3] a: there already, {stages[0].finished}"


def test_a_killed_stage_goes_on_and_the_finished_stay(stages):
    stages, made = stages
    kill = [True]

    def make():
        if kill.pop():
            raise Killed
        stages[1].make()

    with pytest.raises(Killed):
        run([stages[0], Stage("b", stages[1].finished, make, needs=("a",)), stages[2]])
    assert made == ["a"]
    assert run(stages) == ["b", "sum"]


def test_only_makes_what_is_chosen(stages):
    stages, made = stages
    assert run(stages, only=["a"]) == ["a"]
    assert run(stages, only=["b"]) == ["b"]
    assert made == ["a", "b"]


def test_force_makes_again_what_is_chosen_and_outdates_the_sum(stages):
    stages, _ = stages
    run(stages)
    assert run(stages, only=["b"], force=True) == ["b"]
    assert not stages[2].finished.exists()
    assert stages[0].finished.exists()
    assert run(stages) == ["sum"]


def test_a_killed_forced_run_goes_on_without_force(stages):
    stages, _ = stages
    run(stages)

    def make():
        raise Killed

    with pytest.raises(Killed):
        run([stages[0], Stage("b", stages[1].finished, make), stages[2]], only=["b"], force=True)
    assert run(stages) == ["b", "sum"]


def test_what_is_needed_must_be_finished_or_chosen(stages):
    stages, made = stages
    with pytest.raises(ValueError, match="--only b needs a, not finished yet"):
        run(stages, only=["b"])
    assert made == []
    run(stages, only=["a", "b"])
    with pytest.raises(ValueError, match=r"--only does not know c; known: a, b, sum\."):
        run(stages, only=["a", "c"], force=True)
    assert stages[0].finished.exists()


def test_plan_is_every_stage_after_what_it_needs(tmp_path):
    stages = plan(tmp_path / "nano", tmp_path / "prompts", Scale())
    assert [stage.name for stage in stages] == STAGES
    for number, stage in enumerate(stages):
        assert set(stage.needs) <= set(STAGES[:number])
    assert len({stage.finished for stage in stages}) == len(STAGES)


def test_scale():
    scale = Scale(steps=0.01, data=0.1)
    assert (scale.of_steps(1500), scale.of_steps(10), scale.of_data(24), scale.of_data(250)) == (15, 1, 2, 25)
    assert (Scale().of_steps(1700), Scale().of_data(80)) == (1700, 80)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="--steps_scale must be above 0"):
            Scale(steps=wrong)
        with pytest.raises(ValueError, match="--data_scale must be above 0"):
            Scale(data=wrong)


def test_a_vae_whose_refining_was_killed_is_not_trained_again(monkeypatch, tmp_path):
    output, asked = tmp_path / "sd3" / "vae", []

    def killed_or_not(folder, *, crops, steps, refine_steps):
        asked.append((folder, crops, steps, refine_steps))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "diffusion_pytorch_model.safetensors").write_text("trained")
        if len(asked) == 1:
            raise Killed
        (folder / "diffusion_pytorch_model.safetensors").write_text("refined")

    monkeypatch.setattr(vae, "make_vae", killed_or_not)
    with pytest.raises(Killed):
        make_vae(output, Scale())
    assert not output.exists()
    make_vae(output, Scale())
    assert (output / "diffusion_pytorch_model.safetensors").read_text() == "refined"
    assert [path.name for path in output.parent.iterdir()] == ["vae"]
    unfinished = output.with_name("vae.unfinished")
    assert asked == [
        (unfinished, vae.CROPS, vae.STEPS, vae.REFINE_STEPS),
        (unfinished, vae.CROPS, 0, vae.REFINE_STEPS),
    ]


def test_a_new_vae_takes_the_place_of_the_old(monkeypatch, tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "old").touch()
    monkeypatch.setattr(vae, "make_vae", lambda folder, **_: folder.mkdir() or (folder / "new").touch())
    make_vae(tmp_path / "vae", Scale())
    assert [path.name for path in (tmp_path / "vae").iterdir()] == ["new"]


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_full_scale_is_the_default_of_each_file(name, monkeypatch, tmp_path):
    module, function = MAKERS[name]
    parameters = inspect.signature(getattr(module, function)).parameters.values()
    # all but these are numbers of steps or pictures, which a scale must reach
    defaults = {
        p.name: p.default
        for p in parameters
        if p.default is not p.empty and p.name not in ("batch_size", "seed", "start")
    }
    seen = {}

    def make(*folder, **settings):
        seen.update(settings)
        if name == "vae":
            folder[0].mkdir(parents=True)

    monkeypatch.setattr(module, function, make)
    next(stage for stage in plan(tmp_path, tmp_path, Scale()) if stage.name == name).make()
    seen.pop("pretrained", None)
    assert seen == defaults
    assert len(defaults) >= (1 if name == "llm" else 2)  # it has no pictures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "vea"], "--only does not know vea; known: vae, sd3"),
        (["--only", "effort"], "--only effort needs sd3, not finished yet"),
        (["--steps_scale", "0"], "--steps_scale must be above 0, got 0.0"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, tmp_path, capsys):
    assert main(["--output", str(tmp_path / "nano"), "--prompts", str(tmp_path / "prompts"), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_figures_are_remade_when_a_model_was(monkeypatch, tmp_path, capsys):
    """Also when the stage of the figures was not asked for."""

    path, counter = tmp_path / "figures.json", iter([1.0, 2.0, 3.0])

    def make_figures():
        path.write_text(json.dumps({"clip": {"value": next(counter)}}))

    model = Stage("model", tmp_path / "model", lambda: (tmp_path / "model").touch())
    last = Stage("figures", path, make_figures, needs=("model",), kept_fresh=True)
    monkeypatch.setattr(build, "plan", lambda *_: [model, last])
    assert main(["--only", "model"]) == 0
    assert "| clip | value | 1.000 |" in capsys.readouterr().out
    assert main([]) == 0
    assert "| clip | value | 1.000 |" in capsys.readouterr().out
    assert main(["--only", "model", "--force"]) == 0
    assert "| clip | value | 2.000 |" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_a_handful_of_steps_make_everything(tmp_path, capsys):
    from realgen.data import PromptShards
    from realgen.detectors import Effort, OmniAID
    from realgen.metrics import TimmEncoder
    from realgen.rewards import Alignment

    nano, shards = tmp_path / "nano", tmp_path / "prompts"
    nano.mkdir()
    (nano / "README.md").write_text("<!-- recipe --><!-- /recipe -->\n<!-- figures --><!-- /figures -->\n")
    arguments = ["--output", str(nano), "--prompts", str(shards), "--steps_scale", "0.0005", "--data_scale", "0.004"]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert re.findall(r"\[\d+/12\] (\w+): made", first) == STAGES
    figures = json.loads((nano / "figures.json").read_text())
    assert set(figures) == {*(stage for stage in STAGES if stage in MAKERS), "realism", "megabytes"}
    assert f"| omniaid | balanced_accuracy | {figures['omniaid']['balanced_accuracy']:.3f} |" in first
    assert "| sd3 | retrieval_plain |" in (nano / "README.md").read_text()
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".ckpt", ".tmp", ".unfinished")]

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert main(arguments) == 0
    assert re.findall(r"\[\d+/12\] (\w+): there already", capsys.readouterr().out) == STAGES
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == before

    weights = load_file(nano / "encoder" / "model.safetensors")
    assert main([*arguments, "--only", "encoder", "shards", "--force"]) == 0
    again = load_file(nano / "encoder" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    for built in (OmniAID(str(nano / "omniaid")), Effort(str(nano / "effort")), TimmEncoder(str(nano / "encoder"))):
        assert built.network
    assert Alignment(str(nano / "clip")).network.model
    data = PromptShards(f"{shards}/train/*.tar", f"{shards}/validation/*.tar", prompts_per_iteration=6)
    data.setup("fit")
    assert (len(data.train_table), len(data.validation_table)) == (400, 80)
