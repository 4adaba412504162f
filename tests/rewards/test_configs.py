"""Every part under configs/rewards and configs/detectors builds what it says, from the paths it names."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from transformers import CLIPVisionConfig, CLIPVisionModel

from realgen.detectors import Detector, Effort, EffortNetwork, OmniAID, OmniAIDNetwork, RoutedExperts
from realgen.detectors.checkpoint import save
from realgen.rewards import (
    Aesthetic,
    Alignment,
    HPSv2,
    LongClip,
    PickScore,
    Realism,
    Reward,
    VlmRating,
    WeightedSum,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
REWARDS = sorted((CONFIGS / "rewards").rglob("*.yaml"))
DETECTORS = sorted((CONFIGS / "detectors").rglob("*.yaml"))
PUBLISHED = {"hpsv2": HPSv2, "long_clip": LongClip, "pickscore": PickScore, "vlm_rating": VlmRating}
PUBLISHED["unified_reward"] = VlmRating
"""Rewards whose weights the hub has; each is exercised on tiny ones of the same layout in its own test."""
ELSEWHERE = re.compile(
    r"^ *(checkpoint|pretrained|models?|clip|head|probe|urls): (?!data/nano/(omniaid|effort|clip)\n)", re.MULTILINE
)
"""Weights that a part needs and that are not made here."""


@pytest.fixture
def nano(clip_folder, tmp_path, monkeypatch):
    """A working directory with tiny models at the paths that the parts name."""
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            patch_size=4,
            image_size=4,
        )
    )
    save(OmniAIDNetwork.from_clip_vision(tower, RoutedExperts()), tmp_path / "data/nano/omniaid")
    save(EffortNetwork.from_clip_vision(tower), tmp_path / "data/nano/effort")
    shutil.copytree(clip_folder, tmp_path / "data/nano/clip")
    (tmp_path / "data/nano/forensic_chat").symlink_to(CONFIGS.parent / "data/nano/forensic_chat")
    monkeypatch.chdir(tmp_path)


def here(paths):
    return [path for path in paths if not ELSEWHERE.search(path.read_text(encoding="utf-8"))]


def build(kind, *arguments):
    """Parse and instantiate one component the way the command line does."""
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf+")
    parser.add_subclass_arguments(kind, "part")
    return parser.instantiate(parser.parse_args([*arguments])).part


def test_the_walk_finds_the_parts():
    assert {"realism_and_alignment", "omniaid_only", "alignment_only"} <= {path.stem for path in REWARDS}
    assert {"omniaid", "effort"} <= {path.stem for path in DETECTORS}
    scored = {path.stem for path in here([*REWARDS, *DETECTORS])}
    assert scored >= {"realism_and_alignment", "omniaid_only", "alignment_only", "jpeg_size", "omniaid", "effort"}
    assert scored >= {"llm", "content_kept"}
    assert not scored & {*PUBLISHED, "aesthetic", "linear_probe", "remote"}


@pytest.mark.usefixtures("nano")
@pytest.mark.parametrize("path", here(REWARDS), ids=lambda path: path.stem)
def test_reward_parts_score(path, samples, rewritten):
    texts = [f"{prompt}, film grain" for prompt in samples.row_prompts]
    output = build(Reward, f"--part={path}")(rewritten(texts))
    assert output.total.shape == (2, 3)
    assert bool(output.valid.all())


@pytest.mark.usefixtures("nano")
@pytest.mark.parametrize("path", here(DETECTORS), ids=lambda path: path.stem)
def test_detector_parts_score(path, samples):
    assert build(Detector, f"--part={path}")(samples.images).shape == (6,)


@pytest.mark.parametrize(("stem", "kind"), PUBLISHED.items())
def test_published_parts_are_built_without_fetching(stem, kind):
    assert isinstance(build(Reward, f"--part={CONFIGS / 'rewards' / stem}.yaml"), kind)


def test_the_aesthetic_part_wants_its_head(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    part = f"--part={CONFIGS / 'rewards/aesthetic.yaml'}"
    with pytest.raises(ValueError, match=r"head must be a file, .*models/sac\+logos\+ava1-l14-linearMSE\.pth"):
        build(Reward, part)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "sac+logos+ava1-l14-linearMSE.pth").touch()
    assert isinstance(build(Reward, part), Aesthetic)


def test_the_probes_part_says_how_to_fit_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"Fit one: python -m realgen\.probe .*--output runs/probe"):
        build(Detector, f"--part={CONFIGS / 'detectors/linear_probe.yaml'}")


@pytest.mark.usefixtures("nano")
def test_the_default_is_realism_and_half_as_much_alignment():
    reward = build(Reward, f"--part={CONFIGS / 'rewards/realism_and_alignment.yaml'}")
    assert reward.weights == {"omniaid": 1.0, "alignment": 0.5}
    assert isinstance(reward, WeightedSum)
    assert isinstance(reward.rewards["omniaid"], Realism)
    assert isinstance(reward.rewards["omniaid"].detector, OmniAID)
    assert isinstance(reward.rewards["alignment"], Alignment)


@pytest.mark.usefixtures("nano")
def test_the_language_models_part_adds_its_texts(samples, rewritten):
    reward = build(Reward, f"--part={CONFIGS / 'rewards/llm.yaml'}")
    added = {"format": 0.2, "length": 0.1, "content": 0.2, "diversity": 0.1}
    assert reward.weights == {"omniaid": 1.0, "alignment": 0.5, **added}
    texts = ["the moon, film grain", "the moon, film grain", None, "a cat with grain", "rocket, film grain", "a cat"]
    parts = reward(rewritten(texts)).components
    assert parts["format"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert parts["content"][0].tolist() == [1, 1, 0]
    assert parts["content"][1].tolist() == [1, 0, 0.5]
    aligned = Alignment("data/nano/clip")(samples).total  # that saw no rewrite
    torch.testing.assert_close(parts["alignment"], aligned)


@pytest.mark.parametrize("path", REWARDS, ids=lambda path: path.stem)
def test_the_held_out_detector_rewards_nothing(path):
    text = path.read_text(encoding="utf-8")
    assert "effort" not in text.lower() or "Hold out another detector" in text.splitlines()[0]


@pytest.mark.usefixtures("nano")
def test_the_command_line_reaches_into_a_part():
    part = f"--part={CONFIGS / 'rewards/realism_and_alignment.yaml'}"
    swap = f"--part.rewards.omniaid.detector={CONFIGS / 'detectors/effort.yaml'}"
    reward = build(Reward, part, "--part.weights.alignment=0.2", swap, "--part.rewards.omniaid.detector.batch_size=2")
    assert reward.weights == {"omniaid": 1.0, "alignment": 0.2}
    detector = reward.rewards["omniaid"].detector
    assert isinstance(detector, Effort)
    assert detector.batch_size == 2
    dropped = build(
        Reward,
        part,
        '--part.rewards={"omniaid": null, "alignment": {"class_path": "realgen.rewards.Alignment",'
        ' "init_args": {"model": "data/nano/clip"}}}',
    )
    assert dropped.weights == {"alignment": 0.5}
