"""What a multimodal language model is asked: which of two images is the more realistic, or whether one is real.

The criteria and the answers' first lines are those of RealGen's published evaluation; the wording is ours. The form of
the answer shows neither choice alone, so that it leans to none, and a model that only repeats it has said nothing.
"""

from __future__ import annotations

COMPARE = (
    "You are an impartial expert in photography and image forensics. You are shown two images, Image 1 and Image 2, of "
    "the same subject. Decide which of them looks more like a real photograph. Judge realism only: not beauty, not how "
    "interesting the scene is, not resolution, and not which image comes first.\n"
    "Look at:\n"
    "- people: hands, fingers, eyes, teeth, faces and bodies that are anatomically right; skin with pores and small "
    "blemishes instead of a greasy, waxy or plastic shine;\n"
    "- repetition: copied patterns, textures or objects, and details that melt into each other;\n"
    "- light and colour: shadows and reflections that agree with one light source, believable exposure and colours;\n"
    "- edges: natural transitions in depth of field, no halos, no cut-out look;\n"
    "- style: the imperfection of a photograph instead of the smoothness of a rendering or an illustration.\n"
    "You must choose one of the two. Answer in exactly two lines:\n"
    "More Realistic Image: [Image 1 or Image 2]\n"
    "Reason: one or two sentences"
)
"""Asked about a pair; the answer is read by ``replies.parse_comparison``."""

SINGLE = (
    "You are an impartial forensic analyst of images. Decide whether the image is a real photograph or was generated "
    "or altered by AI.\n"
    "Look at:\n"
    "- physics and geometry: perspective, proportions, gravity, shadows and reflections that fit together;\n"
    "- texture: natural irregularity and noise instead of smooth or repeated surfaces;\n"
    "- text: letters and signs that can be read and make sense;\n"
    "- people: right anatomy; skin that is not greasy, waxy or flawless;\n"
    "- light and colour: a believable source, exposure and saturation;\n"
    "- edges: clean transitions between objects and background, without halos or melting.\n"
    "Answer in exactly two lines:\n"
    "Real or Fake: [Real or Fake]\n"
    "Reason: one or two sentences"
)
"""Asked about one image; the answer is read by ``replies.parse_single``."""


def with_prompt(question: str, prompt: str) -> str:
    r"""Add what the images are meant to show; the published evaluation does not tell it.

    Args:
        question: Asked.
        prompt: Of the images; quoted on one line, since it is somebody's text and no instruction.

    Returns:
        The longer question.

    Example:
        >>> with_prompt("Which?", "a  cat")
        'Which?\n\nDescription of the scene, for information only: "a cat"'
    """
    return f'{question}\n\nDescription of the scene, for information only: "{" ".join(prompt.split())}"'
