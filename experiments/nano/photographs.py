"""The photographs of the embedded default: crops of real pictures that scikit-image and scikit-learn ship.

Each subject is a region of one photograph with names of our own. ``real_crop`` cuts a square out of it;
``ai_look`` turns a crop into its "AI-looking" counterpart (smoothed, over-saturated, glowing). Both are deterministic
functions of a ``numpy`` generator. Licences: see ``data/README.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from jaxtyping import Float
from PIL import Image

Picture = Float[np.ndarray, "size size 3"]
"""A square RGB picture in [0, 1], float32."""


@dataclass(frozen=True)
class Subject:
    """A region of a photograph that a caption can name."""

    names: tuple[str, ...]
    """What a caption calls it; the first is the plainest."""
    file: str
    """File name of the photograph inside its package."""
    center: tuple[float, float] | None
    """Centre (x, y) of the crops as shares of width and height; ``None`` = anywhere (a texture)."""
    size: tuple[float, float]
    """Smallest and largest side of a crop as a share of the photograph's shorter side."""


SUBJECTS: tuple[Subject, ...] = (
    Subject(("a smiling woman", "a woman's face", "a portrait of a woman", "a woman with short brown hair"),
            "astronaut.png", (0.43, 0.19), (0.34, 0.46)),
    Subject(("an astronaut", "an astronaut in an orange suit", "a woman in a space suit", "an astronaut portrait"),
            "astronaut.png", (0.42, 0.42), (0.78, 0.84)),
    Subject(("a space shuttle", "a model of a space shuttle", "a white space shuttle", "a shuttle on its launch pad"),
            "astronaut.png", (0.80, 0.26), (0.36, 0.46)),
    Subject(("a space helmet", "an astronaut's helmet", "a black and white helmet", "a shiny space helmet"),
            "astronaut.png", (0.80, 0.80), (0.34, 0.40)),
    Subject(("a cameraman", "a man with a camera", "a photographer at work", "a man behind a tripod"),
            "camera.png", (0.46, 0.34), (0.55, 0.66)),
    Subject(("a cat", "a cat's face", "a ginger cat", "a cat looking at us"),
            "chelsea.png", (0.50, 0.50), (0.85, 0.98)),
    Subject(("a cat's eye", "the green eye of a cat", "an eye of a ginger cat", "a cat's eye up close"),
            "chelsea.png", (0.38, 0.37), (0.36, 0.48)),
    Subject(("a cup of coffee", "an espresso", "a coffee cup on a saucer", "a red cup of coffee"),
            "coffee.png", (0.48, 0.46), (0.82, 0.90)),
    Subject(("ancient coins", "old coins", "a collection of coins", "silver coins on a table"),
            "coins.png", None, (0.36, 0.56)),
    Subject(("dry grass", "a patch of grass", "grass on the ground", "a lawn from above"),
            "grass.png", None, (0.24, 0.40)),
    Subject(("gravel", "gravel stones", "a gravel path", "grey pebbles"), "gravel.png", None, (0.24, 0.40)),
    Subject(("bricks", "a brick pavement", "a wall of bricks", "grey bricks"), "brick.png", None, (0.30, 0.50)),
    Subject(("galaxies", "deep space", "galaxies in deep space", "stars and galaxies"),
            "hubble_deep_field.jpg", None, (0.16, 0.26)),
    Subject(("a rocket", "a rocket at night", "a rocket on its launch pad", "a rocket before launch"),
            "rocket.jpg", (0.50, 0.55), (0.80, 0.88)),
    Subject(("a retina", "a human retina", "blood vessels of an eye", "a scan of a retina"),
            "retina.jpg", None, (0.50, 0.80)),
    Subject(("stained tissue", "tissue under a microscope", "a tissue sample", "cells under a microscope"),
            "ihc.png", None, (0.40, 0.60)),
    Subject(("a pagoda", "a chinese temple", "an old chinese pagoda", "a temple above a lake"),
            "china.jpg", (0.34, 0.46), (0.84, 0.92)),
    Subject(("trees by a lake", "a green tree", "trees and water", "a tree on the shore"),
            "china.jpg", (0.84, 0.62), (0.50, 0.66)),
    Subject(("a flower", "an orange flower", "a dahlia in bloom", "a blossom in a garden"),
            "flower.jpg", (0.48, 0.52), (0.80, 0.92)),
    Subject(("petals", "petals of a flower", "orange petals", "a flower up close"),
            "flower.jpg", (0.48, 0.52), (0.36, 0.48)),
)  # fmt: skip
"""The 20 subjects of the embedded default."""

MAX_SIDE = 1024
"""Larger photographs are shrunk to this longer side when they are read."""

HELD_OUT_SHARE = 0.25
"""Share of a texture's photograph, its lower end, that training crops keep out of (those that fit into the rest) and
held-out crops reach into."""


@cache
def photograph(file: str) -> Image.Image:
    """Read a photograph of scikit-image or scikit-learn as RGB (needs no network)."""
    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        path = resources.files(package).joinpath(folder, file)
        if path.is_file():
            with path.open("rb") as stream:
                image = Image.open(stream).convert("RGB")
            image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
            return image
    raise FileNotFoundError(f"photograph {file!r} is in neither scikit-image nor scikit-learn of this environment.")


def real_crop(subject: Subject, rng: np.random.Generator, *, size: int = 64, held_out: bool = False) -> Picture:
    """Cut one square of a subject out of its photograph.

    Args:
        subject: What to show.
        rng: Source of position, side, exposure (a gain of 0.92 to 1.08), and for textures of the mirror image.
        size: Side of the result in pixels.
        held_out: For textures, cut at the lower end, which training crops keep out of; where a crop is larger than that
            end, the rest of it has been seen. Objects are one region of one photograph, so their held-out crops differ
            by the draw alone.

    Returns:
        The crop, Lanczos-resized.
    """
    image = photograph(subject.file)
    width, height = image.size
    side = rng.uniform(*subject.size) * min(width, height)
    if subject.center is None:
        split = height * (1 - HELD_OUT_SHARE)
        top, bottom = (min(split, height - side), height - side) if held_out else (0, max(split - side, 1.0))
        x = rng.uniform(0, width - side)
        y = rng.uniform(top, bottom)
    else:
        jitter = rng.uniform(-0.06, 0.06, 2) * side
        x = float(np.clip(subject.center[0] * width + jitter[0] - side / 2, 0, width - side))
        y = float(np.clip(subject.center[1] * height + jitter[1] - side / 2, 0, height - side))
    crop = image.resize((size, size), Image.Resampling.LANCZOS, box=(x, y, x + side, y + side))
    if subject.center is None and rng.random() < 0.5:  # an object that is mirrored is no longer its photograph
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = np.asarray(crop, dtype=np.float32) / 255
    return np.clip(picture * rng.uniform(0.92, 1.08), 0, 1).astype(np.float32)


def ai_look(picture: Picture, rng: np.random.Generator) -> Picture:
    """Give a crop the look of generated images: waxy surfaces, plastic highlights, a glow, loud colours, hard contrast.

    Total-variation denoising melts texture into wax. Where a surface is brighter than its surroundings, white is added
    as if it were plastic under a lamp. A blurred copy screened over the image glows. The distance to grey is multiplied
    by 1.35 to 1.7 (after a tint, so that grey photographs turn coloured too), and a sigmoid hardens contrast.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.restoration import denoise_tv_chambolle

    wax = denoise_tv_chambolle(picture, weight=rng.uniform(0.12, 0.2), channel_axis=-1)
    light = gaussian_filter(wax.mean(axis=-1), 1.2)
    highlights = np.clip(6 * (light - gaussian_filter(light, 5.0)), 0, 1) ** 2
    plastic = wax + highlights[..., None] * rng.uniform(0.2, 0.7)
    glow = gaussian_filter(plastic, sigma=(3.0, 3.0, 0.0)) * rng.uniform(0.15, 0.35)
    lit = 1 - (1 - plastic) * (1 - glow)
    tint = 1 + np.array([0.05, 0.0, -0.05]) * rng.uniform(0.3, 1.0)
    lit = lit * tint
    grey = lit.mean(axis=-1, keepdims=True)
    loud = grey + (lit - grey) * rng.uniform(1.35, 1.7)
    gain = rng.uniform(5.0, 7.0)
    hard = 1 / (1 + np.exp(-gain * (np.clip(loud, 0, 1) - 0.5)))
    low, high = 1 / (1 + np.exp(gain / 2)), 1 / (1 + np.exp(-gain / 2))
    return np.clip((hard - low) / (high - low), 0, 1).astype(np.float32)
