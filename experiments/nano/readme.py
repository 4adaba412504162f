"""The tables in the README of the nano models: what they were trained with, and what they can do.

Both are made of what the code and ``figures.json`` say, so they cannot say something else.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.nano import clip, detectors, diffusion, encoder, forensic_chat, llm, probe, vae
from realgen.tables import markdown_table

Figures = Mapping[str, Mapping[str, float]]
"""Model -> name of a figure -> value."""


def recipe_table() -> str:
    """The default numbers of every stage, as Markdown."""
    seeds = detectors.SEEDS
    pictures = f"{detectors.CROPS}, and {detectors.SAMPLES} samples of sd3"
    seen = f"{forensic_chat.CROPS}, and {forensic_chat.SAMPLES} samples of sd3"
    rows = [
        ("vae", f"{vae.STEPS}, then {vae.REFINE_STEPS} of the decoder", vae.BATCH_SIZE, vae.CROPS, vae.SEED),
        ("sd3", diffusion.STEPS, diffusion.BATCH_SIZE, diffusion.CROPS, diffusion.SEED),
        ("clip", clip.STEPS, clip.BATCH_SIZE, clip.CROPS, clip.SEED),
        ("encoder", encoder.STEPS, encoder.BATCH_SIZE, encoder.CROPS, encoder.SEED),
        *((name, detectors.STEPS, detectors.BATCH_SIZE, pictures, seeds[name]) for name in ("omniaid", "effort")),
        ("forensic_chat", forensic_chat.STEPS, forensic_chat.BATCH_SIZE, seen, forensic_chat.SEED),
        ("imagenet_probe", "", "", f"{probe.CROPS}, and {probe.SAMPLES} samples of sd3", probe.SEED),
        ("llm", llm.STEPS, llm.BATCH_SIZE, "prompts and rewrites alone", llm.SEED),
    ]
    return markdown_table(["stage", "steps", "batch", "crops per subject", "seed"], rows)


def figures_table(figures: Figures) -> str:
    """Figures as Markdown, one line per figure.

    Args:
        figures: Model -> name -> value.

    Returns:
        A table without a final line break.

    Example:
        >>> print(figures_table({"vae": {"psnr_real": 30.0}}))
        | model | figure | value |
        |---|---|---|
        | vae | psnr_real | 30.000 |
    """
    rows = ((model, name, f"{value:.3f}") for model, values in figures.items() for name, value in values.items())
    return markdown_table(["model", "figure", "value"], rows)


def fill(text: str, name: str, table: str) -> str:
    """Put a table between the markers of its name.

    Args:
        text: The README.
        name: Of the markers ``<!-- name -->`` and ``<!-- /name -->``.
        table: What shall stand between them.

    Returns:
        The README, with what stood between them replaced.

    Raises:
        ValueError: If the text has not each of the markers once.

    Example:
        >>> print(fill("a <!-- x --> old <!-- /x --> b", "x", "new"))
        a <!-- x -->
        new
        <!-- /x --> b
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the README must have {begin} and {end} once each.")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}"


def fill_all(text: str, figures: Figures) -> str:
    """The README with both tables as they are now."""
    return fill(fill(text, "recipe", recipe_table()), "figures", figures_table(figures))
