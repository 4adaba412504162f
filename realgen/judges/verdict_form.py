"""The form in which a language model gives its verdict: a JSON schema, or the two lines of the published evaluation.

Both are read strictly: a reply in any other form, prose included, is no verdict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from realgen.judges.base import Choice, Kind

AnswerFormat = Literal["json", "lines"]
"""``json``: an object of a schema that the endpoint enforces (``response_format``). ``lines``: two lines of text."""


class Reading(NamedTuple):
    """What a reply says."""

    choice: Choice | None
    """None where the reply is not in the requested form."""
    reason: str
    """The judge's reason; empty where there is none."""


UNREADABLE = Reading(None, "")


@dataclass(frozen=True)
class VerdictForm:
    """The form of a verdict on one kind of question.

    Args:
        heading: Name of the verdict, as RealGen's published evaluation writes it.
        choices: What each possible answer means.
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
        r"""Read a reply; thinking in front of it (``<think>...</think>``) does not count.

        Args:
            reply: As it came.
            answer_format: The requested form.
            finished: Whether the reply is whole. Of one that was cut off, a verdict line counts only with a line
                behind it: " or Image 2" may have been to come.

        Returns:
            Verdict and reason.

        Example:
            >>> form = FORMS["compare"]
            >>> form.read("More Realistic Image: Image 2\nReason: Natural light.", "lines")
            Reading(choice='second', reason='Natural light.')
            >>> form.read('{"more_realistic_image": "Image 2", "reason": "Natural light."}', "json")
            Reading(choice='second', reason='Natural light.')
            >>> form.read("I would say that Image 2 is more realistic.", "lines").choice is None
            True
        """
        text = re.split(r"</think(?:ing)?>", reply, flags=re.IGNORECASE)[-1].strip()
        return self._read_json(text) if answer_format == "json" else self._read_lines(text, finished)

    def _read_json(self, text: str) -> Reading:
        # Some servers that do not know response_format ignore it; their models put the object into a code fence.
        text = text.removeprefix("```json").removeprefix("```").removesuffix("```")
        try:
            found = json.loads(text, object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError):
            return UNREADABLE
        if not isinstance(found, dict) or set(found) != {self.field, "reason"}:
            return UNREADABLE
        choice, reason = found[self.field], found["reason"]
        if not isinstance(reason, str) or not isinstance(choice, str) or choice not in self.choices:
            return UNREADABLE
        return Reading(self.choices[choice], reason.strip())

    def _read_lines(self, text: str, finished: bool) -> Reading:
        lines = [line.strip() for line in re.sub(r"[*`#]+", "", text).splitlines()]  # without Markdown's emphasis
        first, *rest = [line for line in lines if line] or [""]
        names = "|".join(map(re.escape, self.choices))
        verdict = re.fullmatch(rf"{self.heading}:\s*(\[)?({names})(?(1)\])\.?", first, re.IGNORECASE)
        has_reason = bool(rest) and rest[0].lower().startswith("reason:")
        contradicts = any(line.lower().startswith(self.heading.lower()) for line in rest)
        if verdict is None or contradicts or (not has_reason and (rest or not finished)):
            return UNREADABLE
        choice = next(choice for name, choice in self.choices.items() if name.lower() == verdict[2].lower())
        return Reading(choice, "\n".join(rest)[len("reason:") :].strip())


FORMS: Mapping[Kind, VerdictForm] = {
    "compare": VerdictForm("More Realistic Image", {"Image 1": "first", "Image 2": "second"}),
    "single": VerdictForm("Real or Fake", {"Real": "real", "Fake": "fake"}),
}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a field stands twice")
    return dict(pairs)
