"""Blind spots of detectors whose answers are known by hand: the mean of red, and a coin that says one half."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torchvision.transforms.functional import to_pil_image

from realgen.benchmark.blind_spots import BlindSpot, BlindSpots, write_blind_spots
from tests.benchmark.report.test_page import HOSTILE, Page

DETECTORS = {"red": lambda images: images[:, 0].mean((1, 2)), "coin": lambda images: torch.full((len(images),), 0.5)}
CPU = torch.device("cpu")
HOW = {"matching": None, "batch_size": 4, "num_workers": 0}


def write(folder: Path, number: int, red: float, *, seed: int, suffix: str = "png") -> None:
    """Pictures of soft noise around 0.3, with more or less red."""
    folder.mkdir(parents=True)
    noise = torch.rand(number, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 0.2 + 0.2
    noise[:, 0] += red
    for place, image in enumerate(noise.clamp(0, 1)):
        to_pil_image(image).save(folder / f"{place}.{suffix}")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    place = tmp_path_factory.mktemp("images")
    write(place / "real", 8, 0.0, seed=0)
    write(place / "drawn" / "rosy", 6, 0.5, seed=1)
    write(place / "drawn" / "bluish", 6, -0.2, seed=2)
    return str(place / "real"), str(place / "drawn")


@pytest.fixture(scope="module")
def found(folders: tuple[str, str]) -> list[BlindSpot]:
    real, drawn = folders
    spots, warnings = BlindSpots().find(DETECTORS, real, {"drawn": drawn}, CPU, **HOW)
    assert warnings == []
    return spots


def of(spots: list[BlindSpot], detector: str) -> dict[str, BlindSpot]:
    return {spot.shown: spot for spot in spots if spot.detector == detector}


def test_generators_are_told_apart_by_name(found: list[BlindSpot]) -> None:
    red = of(found, "red")
    assert (red["rosy"].kind, red["rosy"].auroc.value, red["rosy"].caught.value) == ("a generator", 1.0, 1.0)
    assert (red["bluish"].auroc.value, red["bluish"].caught.value) == (0.0, 0.0)
    assert red["unchanged"].auroc.value == 0.5  # half of the generated images are above all photographs, half below
    assert red["unchanged"].caught.value == 0.5
    assert red["unchanged"].false_alarms.value == 0.0


def test_shifts_are_those_of_the_change(found: list[BlindSpot]) -> None:
    red = of(found, "red")
    dark, flat = red["dark"], red["over_contrast"]
    assert dark.kind == "label stays"
    assert dark.shift.value == pytest.approx(-0.4 * 0.3, abs=0.01)  # brightness 0.6 of a mean of 0.3
    assert dark.gain.value == pytest.approx(-0.4 * (0.8 + 0.1) / 2, abs=0.02)
    assert dark.shift.low < dark.shift.value < dark.shift.high
    assert flat.kind == "counts as generated"
    rosy, bluish = (0.299 * red + 0.701 * 0.3 for red in (0.8, 0.1))  # brightness by ITU-R BT.601
    assert red["grey"].gain.value == pytest.approx((rosy + bluish) / 2 - (0.8 + 0.1) / 2, abs=0.01)


def test_a_coin_is_blind_to_all_and_the_worst_come_first(found: list[BlindSpot]) -> None:
    assert {(spot.auroc.value, spot.auroc.low, spot.caught.value) for spot in of(found, "coin").values()} == {
        (0.5, 0.5, 0.0)
    }
    values = [spot.auroc.value for spot in found]
    assert values == sorted(values)
    assert {"jpeg_50", "half_size", "blur", "noise", "grid", "grey", "pale", "rosy"} <= of(found, "red").keys()


def test_the_picture_is_what_the_detector_missed(found: list[BlindSpot]) -> None:
    for spot in of(found, "red").values():
        assert float(DETECTORS["red"](spot.picture[None])) == pytest.approx(spot.p_fake, abs=1e-6)
        assert spot.p_fake <= spot.caught.value or spot.p_fake < 0.5
    assert Path(of(found, "red")["bluish"].missed).parent.name == "bluish"


def test_numbers_depend_neither_on_batches_nor_on_the_other_detectors(
    folders: tuple[str, str], found: list[BlindSpot]
) -> None:
    real, drawn = folders
    spots, _ = BlindSpots().find({"red": DETECTORS["red"]}, real, {"drawn": drawn}, CPU, **{**HOW, "batch_size": 3})
    other = of(found, "red")
    assert {spot.shown: spot.auroc.value for spot in spots} == {name: spot.auroc.value for name, spot in other.items()}
    assert all(spot.p_fake == pytest.approx(other[spot.shown].p_fake, abs=1e-6) for spot in spots)


def test_photographs_after_a_vae_count_as_generated_and_few_are_chosen(
    folders: tuple[str, str], tmp_path: Path
) -> None:
    AutoencoderKL(block_out_channels=(4,), norm_num_groups=2).save_pretrained(tmp_path / "vae")
    real, drawn = folders
    how = BlindSpots(vae=str(tmp_path / "vae"), num_images=2)
    spots, _ = how.find(DETECTORS, real, {"mine": f"{drawn}/rosy"}, CPU, **HOW)
    red = of(spots, "red")
    assert red["vae"].kind == "counts as generated"
    assert red["mine"].auroc.count == red["vae"].auroc.count == 4


def test_formats_that_differ_are_told_of(folders: tuple[str, str], tmp_path: Path) -> None:
    write(tmp_path / "jpeg", 2, 0.0, seed=3, suffix="jpg")
    spots, warnings = BlindSpots(num_images=1).find(DETECTORS, folders[0], {"a": str(tmp_path / "jpeg")}, CPU, **HOW)
    assert "differ in file format" in warnings[0]
    assert spots
    with pytest.raises(ValueError, match="num_images must be at least 1"):
        BlindSpots(num_images=0).find(DETECTORS, folders[0], {"a": folders[1]}, CPU, **HOW)


def test_page_and_table(found: list[BlindSpot], tmp_path: Path) -> None:
    settings = {"command": HOSTILE}
    renamed = [spot._replace(shown=HOSTILE if spot.shown == "rosy" else spot.shown) for spot in found]
    overview, files = write_blind_spots(renamed, tmp_path, warnings=[HOSTILE], settings=settings)
    page = Page(files[0].read_text(encoding="utf-8"))
    assert page.all("script") == []
    assert all(image["src"].startswith("data:image/jpeg;") for image in page.all("img"))
    assert len(page.all("img")) == 12  # six of each detector
    assert len(page.svgs) == 2
    assert overview.headings == ["shown", "kind", "coin", "red"]
    assert overview.rows[-1][3].startswith("1.00")  # what one of them sees stands last
    assert page.table("shown")["bluish"][1].startswith("0.50")
    rows = list(csv.DictReader(files[1].open(encoding="utf-8")))
    assert len(rows) == len(found)
    first = next(row for row in rows if (row["detector"], row["shown"]) == ("red", "dark"))
    assert float(first["shift"]) == pytest.approx(-0.12, abs=0.01)
    assert float(first["shift_low"]) < float(first["shift"]) < float(first["shift_high"])
