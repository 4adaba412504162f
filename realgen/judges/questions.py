"""The questions to a multimodal language model: which of two images is the more realistic, and whether one is real.

The criteria are those of RealGen's published evaluation; the wording is ours. ``verdict_form`` adds how to answer.
"""

from __future__ import annotations

from realgen.judges.base import Kind
from realgen.judges.verdict_form import FORMS, AnswerFormat

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
    "You must choose one of the two."
)

SINGLE = (
    "You are an impartial forensic analyst of images. Decide whether the image is a real photograph or was generated "
    "or altered by AI.\n"
    "Look at:\n"
    "- physics and geometry: perspective, proportions, gravity, shadows and reflections that fit together;\n"
    "- texture: natural irregularity and noise instead of smooth or repeated surfaces;\n"
    "- text: letters and signs that can be read and make sense;\n"
    "- people: right anatomy; skin that is not greasy, waxy or flawless;\n"
    "- light and colour: a believable source, exposure and saturation;\n"
    "- edges: clean transitions between objects and background, without halos or melting."
)


class Questions:
    """What a judge is asked about a pair and about one image; how to answer is said behind it.

    ``show_prompt``: whether it is told what the images are meant to show; the published evaluation does not.

    Raises:
        ValueError: If a question is empty.
    """

    def __init__(self, compare: str, single: str, *, show_prompt: bool) -> None:
        self.show_prompt = show_prompt
        self._questions: dict[Kind, str] = {"compare": compare.strip(), "single": single.strip()}
        for kind, question in self._questions.items():
            if not question:
                raise ValueError(f"{kind}_question must be a text, got an empty one.")

    def text(self, kind: Kind, answer_format: AnswerFormat, prompt: str | None = None) -> str:
        """Return the whole text of a question, with the way to answer it.

        The prompt of the images is quoted on one line, because it is data and no instruction; None leaves it out.

        Example:
            >>> print(Questions("Which?", "Is it?", show_prompt=True).text("single", "lines", "a  cat"))
            Is it?
            Answer in exactly two lines:
            Real or Fake: [Real or Fake]
            Reason: one or two sentences
            <BLANKLINE>
            Description of the scene, for information only: "a cat"
        """
        text = f"{self._questions[kind]}\n{FORMS[kind].instructions(answer_format)}"
        if prompt is None or not self.show_prompt:
            return text
        return f'{text}\n\nDescription of the scene, for information only: "{" ".join(prompt.split())}"'
