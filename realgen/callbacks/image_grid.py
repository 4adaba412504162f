"""Images with legible captions, on one sheet."""

import logging
import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from realgen.functional.images import to_uint8
from realgen.types import RewardOutput

_LOGGER = logging.getLogger(__name__)
GAP = 8
FONT_SIZE = 13
LINE_HEIGHT = 17
PAPER, INK = "white", "black"
MIN_WIDTH, MAX_WIDTH = 192, 512

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def image_grid(
    images: Float[Tensor, "tiles 3 height width"], captions: Sequence[str], *, columns: int, max_lines: int = 3
) -> Image.Image:
    """Lay out images in [0, 1] in rows, each with its caption below.

    Small images are enlarged by a whole factor without smoothing, so that their pixels stay visible; large ones are
    shrunk to ``MAX_WIDTH``. Captions are wrapped between words, and line breaks kept; each piece between two may take
    ``max_lines``, a longer one is cut and ends in "...".
    """
    width = shown_width(images.shape[-1])
    height = round(images.shape[-2] * width / images.shape[-1])
    font, captions = caption_font(captions)
    wrapped = [wrap(caption, font, width, max_lines) for caption in captions]
    text_height = LINE_HEIGHT * max(len(lines) for lines in wrapped)
    rows = math.ceil(len(images) / columns)
    size = (GAP + columns * (width + GAP), GAP + rows * (height + text_height + GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    smooth = Image.Resampling.NEAREST if width >= images.shape[-1] else Image.Resampling.LANCZOS
    for index, (image, lines) in enumerate(zip(images, wrapped, strict=True)):
        left = GAP + index % columns * (width + GAP)
        top = GAP + index // columns * (height + text_height + GAP)
        sheet.paste(to_pil(image).resize((width, height), smooth), (left, top))
        for number, line in enumerate(lines):
            draw.text((left, top + height + number * LINE_HEIGHT + 1), line, fill=INK, font=font)
    return sheet


def caption_font(captions: Sequence[str]) -> tuple[Font, Sequence[str]]:
    """Return a font that has all characters of captions, and the captions.

    Pillow's own is Latin; for others a font of this machine is taken. Where none has them, the font that lacks fewest,
    and in the place of each that lacks a question mark.
    """
    wanted = {character for caption in captions for character in caption if not character.isspace()}
    if all(character < "\u0180" for character in wanted):
        return ImageFont.load_default(FONT_SIZE), captions
    needed = frozenset(map(ord, wanted))
    file = min(_fonts(), key=lambda file: len(needed - _characters(file)), default=None)
    font = ImageFont.load_default(FONT_SIZE) if file is None else ImageFont.truetype(file, FONT_SIZE)
    lacking = needed - (frozenset(range(0x180)) if file is None else _characters(file))
    if lacking:
        _warn_of_fonts()
    return font, [caption.translate(dict.fromkeys(lacking, "?")) for caption in captions]


@cache
def _warn_of_fonts() -> None:
    _LOGGER.warning(
        "captions in images show ? for letters that no font of this machine has; those of Chinese, Japanese and Korean "
        "are in Debian's package fonts-noto-cjk."
    )


@cache
def _fonts() -> list[str]:
    """Return the upright fonts of this machine and of matplotlib whose names say they know many scripts."""
    from matplotlib import get_data_path
    from matplotlib.font_manager import findSystemFonts

    known = re.compile(
        r"CJK|wqy|DroidSansFallback|PingFang|msyh|simhei|Arial ?Unicode|NotoSans-Regular|DejaVuSans\.", re.I
    )
    files = [*findSystemFonts(), str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))]
    return sorted(file for file in files if known.search(Path(file).name))


@cache
def _characters(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(file).get_charmap())


def shown_width(width: int) -> int:
    """Return the width of an image on the sheet: at least ``MIN_WIDTH`` by a whole factor, at most ``MAX_WIDTH``."""
    return min(width * math.ceil(MIN_WIDTH / width), MAX_WIDTH)


def to_pil(image: Float[Tensor, "3 height width"]) -> Image.Image:
    """Convert an image in [0, 1] to 8 bits; NaN is black."""
    return Image.fromarray(to_uint8(image).cpu().permute(1, 2, 0).numpy())


def wrap(text: str, font: Font, width: int, max_lines: int) -> list[str]:
    """Break each line of a text into at most ``max_lines`` of ``width`` pixels; a cut one ends in "..."."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        pieces = [""]
        for word in _words(paragraph, font, width):
            longer = f"{pieces[-1]} {word}".strip()
            if pieces[-1] and font.getlength(longer) > width:
                pieces.append(word)
            else:
                pieces[-1] = longer
        if len(pieces) > max_lines:
            pieces = [*pieces[: max_lines - 1], f"{pieces[max_lines - 1]}..."]
        lines += [shorten(piece, font, width) for piece in pieces]
    return lines


def _words(text: str, font: Font, width: int) -> Iterator[str]:
    """Yield the words, those wider than a line in pieces: Chinese has no blanks."""
    for word in text.split():
        start = 0
        for end in range(1, len(word)):
            if font.getlength(word[start : end + 1]) > width:
                yield word[start:end]
                start = end
        yield word[start:]


def shorten(line: str, font: Font, width: int) -> str:
    """Cut a line that is too long and end it in "..."."""
    if font.getlength(line) <= width:
        return line
    line = line.removesuffix("...")
    while line and font.getlength(f"{line}...") > width:
        line = line[:-1]
    return f"{line}..."


def reward_lines(rewards: RewardOutput, row: int) -> str:
    """Write total and components of one row's reward, one per line; "failed" where it could not be scored."""
    named = {"reward": rewards.total, **rewards.components} if len(rewards.components) > 1 else dict(rewards.components)
    values = {name: float(value.flatten()[row]) for name, value in named.items()}
    return "\n".join(f"{name} {'failed' if math.isnan(value) else f'{value:.3f}'}" for name, value in values.items())
