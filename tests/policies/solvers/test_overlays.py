"""The overlays of configs/variants/ that choose an approximate option, over the recipes that they are for."""

from pathlib import Path

import pytest
import yaml

from realgen.fit import main

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
OVERLAYS = {
    "fast_tail": ("diffusion_flux", "solver", "HigherOrderTail"),
    "cached_steps": ("diffusion_flux", "solver", "CachedVelocity"),
    "low_precision_steps": ("diffusion", "solver", "LowPrecision"),
    "float8_steps": ("diffusion_flux", "solver", "Float8"),
    "guidance_free_window": ("diffusion_sd35", "guided_window", False),
    "mixgrpo": ("diffusion", "step_window", "SlidingWindow"),
}


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_chooses_its_option(name: str, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    recipe, setting, value = OVERLAYS[name]
    with pytest.raises(SystemExit):
        main([f"--config={CONFIGS / recipe}.yaml", f"--config={CONFIGS / 'variants' / name}.yaml", "--print_config"])
    policy = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["policy"]["init_args"]
    chosen = policy[setting]
    assert (chosen["class_path"].rpartition(".")[2] if isinstance(chosen, dict) else chosen) == value
    assert policy["lora"]["rank"] in (16, 32, 64)  # the rest is the recipe's


def test_every_overlay_is_here_or_has_published_numbers() -> None:
    approximate = {path.stem for path in CONFIGS.glob("variants/*.yaml") if "\n# Approximate" in path.read_text()}
    assert approximate == set(OVERLAYS)
