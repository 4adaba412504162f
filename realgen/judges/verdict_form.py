"""What a language model is asked, and the form of its verdict: a JSON schema, or the published evaluation's two lines.

The criteria of the questions are those of RealGen's published evaluation; the wording is ours. Both forms are read
strictly: a reply in any other one, prose included, is no verdict.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from realgen.given_files import parse_json
from realgen.judges.base import Choice, Kind

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

AnswerFormat = Literal["json", "lines"]
"""``json``: an object of a schema that the endpoint enforces (``response_format``). ``lines``: two lines of text."""


Reading = tuple[Choice | None, str]
"""What a reply says: the choice, None where it is not in the requested form, and the reason, which may be empty."""
UNREADABLE: Reading = (None, "")
_THOUGHTS_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_QUOTED = re.compile(r'"[^"]*"|“[^”]*”|«[^»]*»|„[^“”]*[“”]')


@dataclass(frozen=True)
class VerdictForm:
    """The form of a verdict on one kind of question.

    Its heading is that of RealGen's published evaluation; ``choices`` say what each possible answer means.
    """

    heading: str
    choices: Mapping[str, Choice]

    @property
    def field(self) -> str:
        """The heading as the name of a JSON field."""
        return self.heading.lower().replace(" ", "_")

    def instructions(self, answer_format: AnswerFormat) -> str:
        """Return what is said behind a question; it shows no choice alone, so that it leans to none."""
        if answer_format == "lines":
            either = " or ".join(self.choices)
            return f"Answer in exactly two lines:\n{self.heading}: [{either}]\nReason: one or two sentences"
        either = " or ".join(f'"{choice}"' for choice in self.choices)
        return f'Answer with a JSON object: "{self.field}" is {either}, "reason" is one or two sentences.'

    def response_format(self) -> dict[str, Any]:
        """Return the schema of the JSON object, as the chat-completions API takes it."""
        fields = {self.field: {"type": "string", "enum": list(self.choices)}, "reason": {"type": "string"}}
        schema = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
        return {"type": "json_schema", "json_schema": {"name": self.field, "strict": True, "schema": schema}}

    def read(self, reply: str, answer_format: AnswerFormat, *, finished: bool = True) -> Reading:
        r"""Read a reply; neither thinking in front of it (``<think>...</think>``) nor what it quotes counts.

        Of a reply that was cut off, not ``finished``, a verdict line counts only with a line behind it: " or Image 2"
        may have been to come.
        """
        if answer_format == "lines":
            return self._read_lines(_without_thoughts(reply).strip(), finished)
        whole = self._read_json(reply.strip())  # its reason may hold anything
        return whole if whole != UNREADABLE else self._read_json(_without_thoughts(reply).strip())

    def _read_json(self, text: str) -> Reading:
        # Some servers that do not know response_format ignore it; their models put the object into a code fence.
        text = text.removeprefix("```json").removeprefix("```").removesuffix("```")
        try:
            found = parse_json(text, object_pairs_hook=_without_duplicates)
        except ValueError:
            return UNREADABLE
        if not isinstance(found, dict) or set(found) != {self.field, "reason"}:
            return UNREADABLE
        choice, reason = found[self.field], found["reason"]
        if not isinstance(reason, str) or not isinstance(choice, str) or choice not in self.choices:
            return UNREADABLE
        # Half a surrogate pair, which JSON lets through, fits no file.
        return self.choices[choice], reason.strip().encode("utf-8", "replace").decode()

    def _read_lines(self, text: str, finished: bool) -> Reading:
        lines = [line.strip() for line in re.sub(r"[*`#]+", "", text).splitlines()]  # without Markdown's emphasis
        first, *rest = [line for line in lines if line] or [""]
        names = "|".join(map(re.escape, self.choices))
        # In ASCII, or a dotless i would count as an i.
        form = rf"{self.heading}:[\s\u00a0]*(\[)?({names})(?(1)\])\.?"
        verdict = re.fullmatch(form, first, re.IGNORECASE | re.ASCII)
        has_reason = bool(rest) and rest[0].lower().startswith("reason:")
        # A second verdict, however it is written, is none; one in quotation marks may be what an image says.
        written = unicodedata.normalize("NFKC", _QUOTED.sub("", "\n".join(rest)))
        written = "".join(letter for letter in written if unicodedata.category(letter) != "Cf")
        contradicts = re.search(rf"{self.heading}\s*:", written, re.IGNORECASE) is not None
        contradicts |= any(line.lower().startswith(self.heading.lower()) for line in rest)
        if verdict is None or contradicts or (not has_reason and (rest or not finished)):
            return UNREADABLE
        choice = next(choice for name, choice in self.choices.items() if name.lower() == verdict[2].lower())
        return choice, "\n".join(rest)[len("reason:") :].strip()


FORMS: Mapping[Kind, VerdictForm] = {
    "compare": VerdictForm("More Realistic Image", {"Image 1": "first", "Image 2": "second"}),
    "single": VerdictForm("Real or Fake", {"Real": "real", "Fake": "fake"}),
}


class Questions:
    """What a judge is asked about a pair and about one image; how to answer is said behind it.

    ``show_prompt``: whether it is told what the images are meant to show; the published evaluation does not. ValueError
    if a question is empty.
    """

    def __init__(self, compare: str, single: str, *, show_prompt: bool) -> None:
        self.show_prompt = show_prompt
        self._questions: dict[Kind, str] = {"compare": compare.strip(), "single": single.strip()}
        for kind, question in self._questions.items():
            if not question:
                raise ValueError(f"{kind}_question must be a text, got an empty one.")

    def text(self, kind: Kind, answer_format: AnswerFormat, prompt: str | None = None) -> str:
        """Return a question with the way to answer it; any prompt is quoted on one line: data, no instruction."""
        text = f"{self._questions[kind]}\n{FORMS[kind].instructions(answer_format)}"
        if prompt is None or not self.show_prompt:
            return text
        return f'{text}\n\nDescription of the scene, for information only: "{" ".join(prompt.split())}"'


def _without_thoughts(reply: str) -> str:
    """Return what follows a model's thoughts; the whole reply where their end may be what an image says."""
    thoughts, *rest = _THOUGHTS_END.split(reply)
    marked = thoughts.lstrip().lower().startswith("<think") or thoughts.rstrip(" ").endswith("\n")
    quoted = '"' in _QUOTED.sub("", thoughts) or "“" in _QUOTED.sub("", thoughts)
    return rest[0] if len(rest) == 1 and marked and not quoted else reply


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a field stands twice")
    return dict(pairs)
