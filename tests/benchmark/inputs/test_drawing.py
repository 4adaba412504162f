"""Drawn images: seeded, whole or not there, never drawn twice, never mixed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from realgen.benchmark.inputs.drawing import (
    CURE,
    adapter_digests,
    draw_images,
    image_seed,
    missing_images,
    rewritten_prompt,
)
from realgen.benchmark.inputs.image_sets import BenchmarkPrompt
from realgen.data.generated_images import check_settings, keep_settings
from tests.helpers.toy_bench import GreyPolicy

PROMPTS = [BenchmarkPrompt(number, f"{number:05d}", f"prompt {number} ü") for number in range(5)]


def draw(folder: Path, policy: GreyPolicy, *, seed: int = 0, batch_size: int = 2) -> list[BenchmarkPrompt]:
    folder.mkdir(exist_ok=True)
    missing = missing_images(PROMPTS, folder, seed=seed)
    draw_images(policy, PROMPTS, missing, folder, seed=seed, batch_size=batch_size)
    return missing


def level(path: Path) -> int:
    with Image.open(path) as image:
        return image.getpixel((0, 0))[0]


def test_each_image_has_its_own_seed_and_says_so(tmp_path: Path) -> None:
    assert draw(tmp_path, GreyPolicy()) == PROMPTS
    assert not list(tmp_path.glob(".*"))
    for prompt in PROMPTS:
        path = tmp_path / f"{prompt.name}.png"
        assert level(path) == image_seed(0, prompt) % 256
        with Image.open(path) as image:
            assert image.info["prompt"] == prompt.prompt
            assert image.info["seed"] == str(image_seed(0, prompt))
            assert image.info["software"].startswith("realgen ")
    assert len({image_seed(seed, prompt) for prompt in PROMPTS for seed in (0, 1)}) == 10


def test_a_killed_run_goes_on_and_draws_nothing_twice(tmp_path: Path) -> None:
    GreyPolicy.drawn = 0
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "a", GreyPolicy(stop_after=4))
    assert len(list((tmp_path / "a").iterdir())) == 4
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    assert draw(tmp_path / "a", GreyPolicy()) == PROMPTS[4:]
    assert GreyPolicy.drawn == 5
    assert {path: path.stat().st_mtime_ns for path in before} == before
    draw(tmp_path / "b", GreyPolicy(), batch_size=5)
    for prompt in PROMPTS:
        assert level(tmp_path / "a" / f"{prompt.name}.png") == level(tmp_path / "b" / f"{prompt.name}.png")


class Crowded(GreyPolicy):
    """Draws a grey that tells how many images are drawn together, and which of them it is."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Any = None) -> torch.Tensor:
        levels = torch.arange(len(prompts)) + 10.0 * len(prompts)
        return (levels / 255).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)


def test_an_image_has_the_same_neighbours_after_a_kill(tmp_path: Path) -> None:
    draw(tmp_path, Crowded(), batch_size=3)
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert [level(path) for path in sorted(whole)] == [30, 31, 32, 20, 21]
    gone = [tmp_path / name for name in ("00001.png", "00004.png")]
    for path in gone:
        path.unlink()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    draw(tmp_path, Crowded(), batch_size=3)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == whole
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_images_of_another_seed_or_prompt_are_not_taken(tmp_path: Path) -> None:
    draw(tmp_path, GreyPolicy())
    with pytest.raises(ValueError, match=r"00000\.png was drawn from .* Choose another --run_dir"):
        missing_images(PROMPTS, tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"was drawn from .*prompt 0"):
        missing_images([BenchmarkPrompt(0, "00000", "another")], tmp_path, seed=0)


def test_changed_settings_are_refused_by_name(tmp_path: Path) -> None:
    settings = {"policy": {"init_args": {"num_steps": 4, "lora": None}}, "seed": 0}
    keep_settings(tmp_path / "m", settings, cure=CURE)
    keep_settings(tmp_path / "m", settings, cure=CURE)
    changed = {"policy": {"init_args": {"num_steps": 5, "lora": {"rank": 1}}}, "seed": 0}
    message = (
        r"other settings: policy\.lora\.rank was not set, .*; policy\.num_steps was 4, now it is 5\. Choose another"
    )
    with pytest.raises(ValueError, match=message):
        keep_settings(tmp_path / "m", changed, cure=CURE)


def test_settings_are_checked_without_writing(tmp_path: Path) -> None:
    check_settings(tmp_path / "m", {"seed": 0}, cure=CURE)
    assert not (tmp_path / "m").exists()
    keep_settings(tmp_path / "m", {"seed": 0}, cure=CURE)
    with pytest.raises(ValueError, match="other settings: seed"):
        check_settings(tmp_path / "m", {"seed": 1}, cure=CURE)


def test_trained_adapters_are_told_by_content(tmp_path: Path) -> None:
    config = {"policy": {"lora": {"pretrained": str(tmp_path)}, "pretrained": "data/none", "steps": [4]}}
    assert adapter_digests(config) == {}
    (tmp_path / "adapter_model.safetensors").write_bytes(b"one")
    first = adapter_digests(config)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"two")
    assert list(first) == [str(tmp_path)]
    assert adapter_digests(json.loads(json.dumps(config))) != first


def test_the_rewritten_prompt_is_kept(tmp_path: Path) -> None:
    draw(tmp_path, GreyPolicy(rewrites=True))
    assert rewritten_prompt(tmp_path / "00001.png") == "prompt 1 ü, film grain"
    draw(tmp_path / "plain", GreyPolicy())
    assert rewritten_prompt(tmp_path / "plain" / "00001.png") == ""


@pytest.mark.parametrize(
    ("fault", "message"), [("nan", "the policy drew NaN for 00000"), ("cannot draw", "GreyPolicy draws no images")]
)
def test_what_is_no_image_is_not_saved(fault: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        draw(tmp_path, GreyPolicy(fault=fault))
    assert not list(tmp_path.iterdir())


def test_drawing_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    draw(tmp_path, GreyPolicy())
    assert torch.equal(torch.random.get_rng_state(), before)
