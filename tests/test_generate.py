"""The command that draws: what it writes, that it goes on, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from realgen.functional.images import to_uint8
from realgen.generate import config_reader, main, open_generator, read_config, split_prompts

ROOT = Path(__file__).resolve().parent.parent
FAST = ["--policy.eval_num_steps=2", "--device=cpu"]
REWRITER = ["--rewriter", "configs/policies/llm_nano.yaml"]
PROMPTS = ["a cat on a sofa", "γάτα\tεδώ"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts, two seeds, with and without rewriting; one prompt comes from a file."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "prompts.txt").write_text(f"\ufeff\n{PROMPTS[1]}\r\n\n  {PROMPTS[0]}\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert main([PROMPTS[0], *again(folder)]) == 0
    return folder / "out"


def again(folder: Path) -> list[str]:
    given = ["--prompts", f"{folder}/prompts.txt", "--n", "2", "--seed", "7", "--batch_size", "3"]
    return [*given, "--output", f"{folder}/out", *REWRITER, *FAST]


def told(path: Path) -> dict[str, str]:
    with Image.open(path) as picture:
        return dict(picture.text)


def pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def state(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_each_prompt_has_its_pairs_and_a_sheet(drawn: Path) -> None:
    files = ["seed-7-rewritten.png", "seed-7.png", "seed-8-rewritten.png", "seed-8.png", "sheet.png"]
    folders = sorted(path for path in drawn.iterdir() if path.is_dir())
    assert len(folders) == 2
    assert any(folder.name.startswith("a-cat-on-a-sofa-") for folder in folders)
    for folder in folders:
        assert sorted(path.name for path in folder.iterdir()) == files
        with Image.open(folder / "sheet.png") as sheet:
            assert sheet.width == 8 + 2 * (192 + 8)
            assert sheet.height > 2 * 192


def test_an_image_says_how_it_was_drawn(drawn: Path) -> None:
    settings = json.loads((drawn / "settings.json").read_text())
    for folder in (path for path in drawn.iterdir() if path.is_dir()):
        plain, rewritten = told(folder / "seed-8.png"), told(folder / "seed-8-rewritten.png")
        assert plain["prompt"] == plain["text"] == rewritten["prompt"]
        assert plain["prompt"] in PROMPTS
        assert rewritten["text"] != plain["text"]
        assert rewritten["text"] == told(folder / "seed-7-rewritten.png")["text"]  # written once
        assert plain["rewriting"] == f"rewritten: {rewritten['text']}"
        assert (plain["seed"], rewritten["seed"]) == ("8", "8")
        assert plain["software"] == settings["software"]
        assert json.loads(plain["policy"]) == settings["policy"]
        assert json.loads(plain["policy"])["init_args"]["eval_num_steps"] == 2
        assert json.loads(plain["rewriter"])["init_args"]["image_policy"] is None
    assert settings["first_seed"] == 7


def test_both_are_what_the_policy_draws_from_the_same_noise(drawn: Path, repository: Path) -> None:
    policy = open_generator(FAST, ["-"])[0].policy
    for folder in (path for path in drawn.iterdir() if path.is_dir()):
        files = [folder / f"seed-{seed}{kind}.png" for seed in (7, 8) for kind in ("", "-rewritten")]
        texts = [told(file)["text"] for file in files]
        images = torch.cat([policy.sample(texts[:3], [7, 7, 8]), policy.sample(texts[3:], [8])])
        assert torch.equal(torch.stack([pixels(file) for file in files]), to_uint8(images))


def test_it_goes_on_where_it_was_left(drawn: Path, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(drawn)
    lost = next(path for path in sorted(before) if path.name == "seed-7.png")
    lost.unlink()
    assert main([PROMPTS[0], *again(drawn.parent)]) == 0
    after = state(drawn)
    assert after[lost][1] == before[lost][1]
    assert {path: after[path] for path in after if path != lost and path.name != "sheet.png"} == {
        path: before[path] for path in before if path != lost and path.name != "sheet.png"
    }
    out = capsys.readouterr().out
    assert out.endswith(f"{drawn}: 1 images drawn, 7 were there; 0 of 2 prompts kept as they are\n")
    assert out.count("\n  rewritten: ") == 2
    assert "γάτα εδώ\n" in out  # its control character is kept from the screen


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--policy.eval_num_steps=3"], "policy.eval_num_steps was 2, now it is 3. Take another folder."),
        (["--seed=8"], "first_seed was 7, now it is 8."),
        (["--rewriter.temperature=0.5"], "rewriter.temperature was 1.0, now it is 0.5."),
    ],
)
def test_pictures_of_other_settings_are_refused(
    changed: list[str], message: str, drawn: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(drawn)
    assert main([PROMPTS[0], *again(drawn.parent), *changed]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {str(drawn)!r} holds images of other settings: ")
    assert message in error
    assert state(drawn) == before


def test_without_a_rewriter_there_are_only_plain_images(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a dog", "--n=1", f"--output={tmp_path}", *FAST]) == 0
    [folder] = (path for path in tmp_path.iterdir() if path.is_dir())
    assert sorted(path.name for path in folder.iterdir()) == ["seed-0.png", "sheet.png"]
    assert told(folder / "seed-0.png")["rewriting"] == ""
    out = capsys.readouterr().out
    assert out == f"a dog\n  {folder / 'sheet.png'}\n{tmp_path}: 1 images drawn, 0 were there\n"


def test_a_prompt_that_cannot_be_rewritten_is_drawn_as_it_is(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([" ".join(["cat"] * 5000), "--n=1", f"--output={tmp_path}", *REWRITER, *FAST]) == 0
    [folder] = (path for path in tmp_path.iterdir() if path.is_dir())
    assert torch.equal(pixels(folder / "seed-0.png"), pixels(folder / "seed-0-rewritten.png"))
    out = capsys.readouterr().out
    assert "\n  kept as it is: it is too long for the rewriter" in out
    assert "; 1 of 1 prompts kept as they are\n" in out


@pytest.fixture
def export(repository: Path, tmp_path: Path) -> Callable[[float], Path]:
    """Writes adapters of rank 2 for the default policy, moved by some amount."""

    def write(amount: float) -> Path:
        policy: Any = open_generator([*FAST, "--policy.lora.rank=2"], ["-"])[0].policy
        with torch.no_grad():
            for parameter in policy.trainable_parameters().values():
                parameter += amount
        return policy.export(tmp_path / "lora")

    return write


def test_trained_adapters_draw_with_their_own_settings(
    export: Callable[[float], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, out = export(0.05), tmp_path / "out"
    command = ["a cat", "--n=1", f"--output={out}", *FAST]
    assert main([*command, f"--lora={directory}"]) == 0
    settings = json.loads((out / "settings.json").read_text())
    assert settings["policy"]["init_args"]["lora"]["rank"] == 2
    assert list(settings["adapters"]) == [str(directory)]
    base = tmp_path / "base"
    assert main([*command, f"--output={base}"]) == 0
    [with_adapters], [without] = (list(folder.rglob("seed-0.png")) for folder in (out, base))
    assert not torch.equal(pixels(with_adapters), pixels(without))
    export(0.06)  # trained further, in the same place
    assert main([*command, f"--lora={directory}"]) == 1
    assert "images of other settings: adapters." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n=2"], "there is no prompt."),
        ([""], "a prompt of the command line is empty."),
        (["a cat", "--n=0"], "n must be at least 1, got 0."),
        (["a cat", "--n=four"], "n: expected int, got 'four' (command line)."),
        (["a cat", "--seed=-1"], "seed must be 0 to 4294967292 for n=4, got -1."),
        (["a cat", "--seed"], "--seed needs a value: --seed=..."),
        (["a cat", "--sed=1"], "sed: generate has no such key (command line). Did you mean seed?"),
        (["a cat", "--prompts=nowhere.txt"], "prompts: 'nowhere.txt' cannot be read as UTF-8 text"),
        (["a cat", "--prompts=data/nano/llm/model.safetensors"], "prompts: 'data/nano/llm/model.safetensors' cannot"),
        (["half\ud800"], "the prompt 'half\\ud800' holds bytes that are no UTF-8 text."),
        (["a cat", "--device=nowhere"], "device: 'nowhere' cannot be used"),
        (["a cat", "--policy=configs/policies/sd4.yaml"], "policy: cannot read configs/policies/sd4.yaml"),
        (["a cat", "--policy.num_step=8"], "policy.num_step: DiffusionPolicy has no such key (command line). Did you"),
        (["a cat", "--policy.backbone.pretrained=data/nowhere"], "policy.backbone.pretrained must be a directory"),
        (["a cat", "--policy.height=63"], "policy.height must be a multiple of"),
        (["a cat", "--policy.lora.rank=0"], "policy.lora.rank must be at least 1, got 0."),
        (["a cat", "--policy=configs/policies/llm_nano.yaml"], "policy: expected one that draws, got PromptPolicy"),
        (
            ["a cat", "--policy=configs/policies/rewritten_nano.yaml"],
            "policy: expected one that draws, got RewrittenPol",
        ),
        (["a cat", "--policy=configs/policies/joint_nano.yaml"], "policy: expected one that draws, got JointPolicy"),
        (["a cat", "--lora=data/nano/sd3"], "lora: pretrained must be a directory with pytorch_lora_weights.safeten"),
        (["a cat", "--lora=data", "--policy.lora.rank=8"], "policy.lora.rank: --lora brings rank, alpha and layers"),
        (["a cat", "--rewriter_lora=data"], "rewriter: missing. Give one: --rewriter configs/policies/llm_nano.yaml"),
        (["a cat", "--rewriter=configs/policies/sd3_nano.yaml"], "rewriter: DiffusionPolicy is no PromptPolicy"),
        (["a cat", *REWRITER, "--rewriter.image_policy=null"], "rewriter.image_policy: the rewriter draws nothing"),
        (["a cat", *REWRITER, "--rewriter.instruction=go"], "rewriter.instruction must"),
        (["a cat", "--out=x"], "out: generate has no such key (command line). Did you mean output?"),
        (["a cat", "--config=configs/llm.yaml"], "config: recipes are for realgen.fit"),
    ],
    ids=lambda value: " ".join(value)[-40:].encode("ascii", "replace").decode() if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    arguments: list[str], message: str, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*arguments, f"--output={out}"]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith(f"error: {message}")
    assert not [line for line in captured.err.splitlines() if "Traceback" in line]
    assert not out.exists()


def test_prompts_may_stand_anywhere_among_the_options() -> None:
    assert split_prompts(["--n", "2", "a=b", "--output=x", "a cat", "--", "--n"]) == (
        ["a=b", "a cat", "--n"],
        ["--n", "2", "--output=x"],
    )
    assert split_prompts(["a cat", "--n"]) == (["a cat"], ["--n", "--"])


def test_a_part_and_its_keys_reach_the_policy(repository: Path) -> None:
    reader = config_reader()
    config = read_config(reader, ["--policy.num_steps=10", "--policy", "configs/policies/sd3_nano.yaml"])
    assert config["policy"]["init_args"]["num_steps"] == 12  # the later part wins
    config = read_config(reader, ["--policy", "configs/policies/sd3_nano.yaml", "--policy.num_steps=10"])
    assert config["policy"]["init_args"]["num_steps"] == 10
    assert config["rewriter"] is None


def test_a_policy_that_draws_nan_is_reported_and_leaves_no_image(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "realgen.policies.DiffusionPolicy.sample", lambda *_, **how: torch.full((1, 3, 8, 8), torch.nan)
    )
    assert main(["a cat", "--n=1", f"--output={tmp_path}", *FAST]) == 1
    assert "error: the policy drew NaN for 'a cat' with seed 0." in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))


def test_an_interrupted_run_says_how_to_go_on(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any, **how: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("realgen.policies.DiffusionPolicy.sample", interrupt)
    assert main(["a cat", f"--output={tmp_path}", *FAST]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; from realgen.generate import main; sys.exit(main(['--help']) or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python -m realgen.generate PROMPT")


def test_without_arguments_it_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    assert '"a cat on a sofa"' in capsys.readouterr().err


def test_the_settings_of_a_class_can_be_asked_for(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--policy.help", "realgen.policies.DiffusionPolicy"])
    assert stop.value.code == 0
    assert "--policy.eval_num_steps" in capsys.readouterr().out
