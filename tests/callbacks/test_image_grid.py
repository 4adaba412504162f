from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib.font_manager import findfont
from PIL import ImageFont

from realgen.callbacks.image_grid import (
    _fonts,
    _warn_of_fonts,
    caption_font,
    image_grid,
    reward_lines,
    shorten,
    to_pil,
    wrap,
)
from realgen.types import RewardOutput

FONT = ImageFont.load_default(13)


def test_the_sheet_has_the_expected_size_and_images() -> None:
    images = torch.zeros(3, 3, 64, 64)
    images[0, 0] = 1
    images[1, 1, 32:] = 1
    sheet = image_grid(images, ["a", "b\n1\n2", "c"], columns=2)
    assert sheet.size == (8 + 2 * (192 + 8), 8 + 2 * (192 + 3 * 17 + 8))
    pixels = np.asarray(sheet)
    assert (pixels[8:200, 8:200] == [255, 0, 0]).all()
    second = pixels[8:200, 208:400]
    assert (second[:96] == 0).all()
    assert (second[96:] == [0, 255, 0]).all()
    third_top = 8 + 192 + 3 * 17 + 8
    assert (pixels[third_top : third_top + 192, 8:200] == 0).all()
    assert (pixels[third_top:, 208:] == 255).all()  # an empty place


def test_captions_are_drawn_below_their_picture() -> None:
    images = torch.ones(2, 3, 64, 64)
    pixels = np.asarray(image_grid(images, ["words", ""], columns=2))
    assert (pixels[200:217, 8:200] < 128).any()
    assert (pixels[200:217, 208:400] == 255).all()


def test_large_pictures_shrink_and_keep_their_shape() -> None:
    assert image_grid(torch.zeros(1, 3, 512, 1024), ["a"], columns=1).size == (8 + 512 + 8, 8 + 256 + 17 + 8)


def test_bytes_are_rounded_clamped_and_free_of_nan() -> None:
    image = torch.tensor([0.0, 1.0, 0.5, 2.0, -1.0, math.nan]).view(1, 1, 6).expand(3, 1, 6)
    assert [to_pil(image).getpixel((x, 0)) for x in range(6)] == [(v, v, v) for v in (0, 255, 128, 255, 0, 0)]


def test_lines_fit_the_width_and_lose_no_word() -> None:
    text = "a very long prompt about a red fox in the snow at dawn with soft light"
    lines = wrap(text, FONT, 120, 10)
    assert " ".join(lines) == text
    assert all(FONT.getlength(line) <= 120 for line in lines)
    assert len(lines) > 2


def test_too_many_lines_are_cut_but_later_paragraphs_stay() -> None:
    lines = wrap("one two three four five six seven\nreward 0.500\nred 0.100", FONT, 90, 2)
    assert lines[2:] == ["reward 0.500", "red 0.100"]
    assert lines[0].startswith("one two")
    assert lines[1].endswith("...")
    assert all(FONT.getlength(line) <= 90 for line in lines)


def test_a_word_longer_than_the_line_is_cut() -> None:
    assert shorten("short", FONT, 100) == "short"
    cut = shorten("x" * 50, FONT, 60)
    assert cut.endswith("x...")
    assert FONT.getlength(cut) <= 60


def test_rewards_are_told_by_part() -> None:
    red, green = torch.tensor([[0.25, 0.5]]), torch.tensor([[1.0, math.nan]])
    both = RewardOutput(red + green, {"red": red, "green": green}, {"red": 1.0, "green": 1.0})
    assert reward_lines(both, 0) == "reward 1.250\nred 0.250\ngreen 1.000"
    assert reward_lines(both, 1) == "reward failed\nred 0.500\ngreen failed"
    assert reward_lines(RewardOutput(red, {"red": red}, {"red": 1.0}), 1) == "red 0.500"


def test_captions_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        image_grid(torch.zeros(2, 3, 8, 8), ["only one"], columns=1)


def test_characters_that_no_font_of_this_machine_has_are_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realgen.callbacks.image_grid._fonts", list)
    assert caption_font(["a red fox", "caf\u00e9"])[1] == ["a red fox", "caf\u00e9"]
    assert caption_font(["一只猫 and\na dog"])[1] == ["??? and\na dog"]


def test_letters_without_a_font_are_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("realgen.callbacks.image_grid._fonts", list)
    _warn_of_fonts.cache_clear()
    for caption in ("a red fox", "一只猫", "两只狗"):
        caption_font([caption])
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "captions in images show ? for letters that no font of this machine has"
    ]
    assert "fonts-noto-cjk" in caplog.text


def test_a_machine_without_fonts_writes_greek_and_cyrillic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", list)
    _fonts.cache_clear()
    try:
        assert caption_font(["\u03b1\u0436"])[1] == ["\u03b1\u0436"]
    finally:
        _fonts.cache_clear()


def test_a_font_that_has_the_characters_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = findfont("DejaVu Sans")  # comes with matplotlib; it knows Greek, and no Chinese
    monkeypatch.setattr("realgen.callbacks.image_grid._fonts", lambda: [plain])
    font, captions = caption_font(["\u03b1\u03b2\u03b3 猫"])
    assert font.path == plain
    assert captions == ["\u03b1\u03b2\u03b3 ?"]


def test_a_text_without_blanks_is_broken_into_lines() -> None:
    lines = wrap("w" * 60, FONT, 120, 10)
    assert "".join(lines) == "w" * 60
    assert len(lines) > 3
    assert all(FONT.getlength(line) <= 120 for line in lines)
