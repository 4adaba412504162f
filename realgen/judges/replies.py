"""Reads what a judge wrote; what cannot be read with certainty is ``None``, never a guess.

A reply counts if it says one thing only: on the line of its verdict, or, where it has no such line, in a plain sentence
("Image 2 is more realistic"). Reasoning in think tags, markdown and typographic marks are taken off first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

Pair = Literal["first", "second", "tie"]
Single = Literal["real", "fake"]
_Said = Pair | Single | None

_NOUN = r"(?:image|picture|photograph|photo|option)"
_NUMBERED = rf"(?:(?:the\s+)?{_NOUN}[\s#:]*(1|2|one|two|a|b)|#?(1|2)|(?:the\s+)?(first|second)(?:\s+(?:{_NOUN}|one))?)"
_IS = r"(?:is|looks|appears|seems|feels)\s+(?:(?:to be|clearly|noticeably|slightly|much|definitely|the)\s+)*"
_DOES = r"(?:choose|pick|select|prefer|go with|favou?r|choice is|answer is|winner is)"
_HEADING = r"^[^\w\n]*(?:{})\s*(?:is\b)?[^\S\n]*[:=\-\u2013\u2014]*[^\S\n]*(.*)$"
_COMPARISON_HEADING = re.compile(
    _HEADING.format(
        r"(?:the\s+)?mo(?:re|st)[ -](?:photo-?)?realistic(?:[ -]looking)?(?:\s+(?:image|one|photo|picture))?"
        r"|(?:final\s+)?(?:answer|verdict|choice|decision|winner)"
    ),
    re.MULTILINE,
)
_SINGLE_HEADING = re.compile(
    _HEADING.format(r"real\s*(?:or|/|vs\.?)\s*fake|(?:final\s+)?(?:answer|verdict|classification|decision|conclusion)"),
    re.MULTILINE,
)
_COMPARISON_SENTENCES = (
    re.compile(rf"\b{_NUMBERED}\s+{_IS}mo(?:re|st)\s+(?:photo-?)?(?:realistic|natural|authentic|real)\b"),
    re.compile(rf"\b{_DOES}\s+{_NUMBERED}(?![\w'])"),
)
_REAL = ("real", "authentic", "genuine")
_FAKE = ("fake", "ai-generated", "generated", "synthetic", "artificial")
_WORDS = "|".join((*_REAL, *_FAKE))
_OPENING = r"(?:(?:the|this|image|is|an?|it|likely|probably|most|almost certainly)\s+)*"
_SINGLE_SENTENCES = (
    re.compile(
        rf"\b(?:this|it|{_NOUN})\s+(?:is|appears|seems|looks)\s+"
        rf"(?:(?:an?|likely|probably|clearly|most|very|almost|certainly|definitely|be|to)\s+)*({_WORDS})\b"
    ),
)
_UNSURE = re.compile(r"\b(?:whether|if|cannot|could|might|may|not|never|hard|difficult|unsure|nor)\b|n't\b")
_TIE = re.compile(r"(?:it(?:'s| is) )?(?:an? )?(?:tie|draw|equal(?:ly realistic)?|both|neither|the same|undecided)\b")
_TAKEN_BACK = r"(?:-\w|\s*(?:[?|/]|(?:or|and|vs)\b))"
"""What follows a verdict that is none: another one beside it, a doubt, or the rest of a longer word."""
_REASON = re.compile(r"^[^\w\n]*(?:reason(?:ing)?|explanation|justification|why)\s*[:\-\u2013\u2014]\s*", re.I | re.M)


class Reading(NamedTuple):
    """What a reply says."""

    choice: Pair | Single | None
    """None where that is not certain."""
    reason: str
    """What it gives as its reason; the rest of the reply where it gives none by that name."""


def parse_comparison(reply: str) -> Reading:
    r"""Read which of two images a reply calls the more realistic.

    Args:
        reply: As it came.

    Returns:
        ``first`` or ``second``; ``tie`` where it says that it cannot decide; None where it says nothing, both, or
        something else.

    Example:
        >>> parse_comparison("**More Realistic Image:** Image 2\n**Reason:** Natural light.")
        Reading(choice='second', reason='Natural light.')
        >>> parse_comparison("I'm sorry, I can't help with that.").choice is None
        True
    """
    return Reading(_read(reply, _COMPARISON_HEADING, _pair_answer, _COMPARISON_SENTENCES, _pair), _reason(reply))


def parse_single(reply: str) -> Reading:
    r"""Read whether a reply calls an image real or fake.

    Args:
        reply: As it came.

    Returns:
        ``real`` or ``fake``; None where it says neither, or both.

    Example:
        >>> parse_single("Real or Fake: *Fake*\nReason: Six fingers.")
        Reading(choice='fake', reason='Six fingers.')
    """
    return Reading(_read(reply, _SINGLE_HEADING, _single_answer, _SINGLE_SENTENCES, _single), _reason(reply))


def _read(
    reply: str,
    heading: re.Pattern[str],
    of_answer: Callable[[str], _Said],
    sentences: tuple[re.Pattern[str], ...],
    of_word: Callable[[str], _Said],
) -> _Said:
    """What all headed lines say; without any, what the whole reply or all its sentences say."""
    text = _plain(reply)
    answers = list(_answers(text, heading))
    said = {of_answer(answer) or _of_sentences(answer, sentences, of_word) for answer in answers}
    if not answers:
        bare = text.strip(" .:;,!-[]()'\n\t")
        whole = of_answer(bare) if len(bare.split()) <= 3 else None
        said = {whole or _of_sentences(text, sentences, of_word)}
    return said.pop() if len(said) == 1 else None


def _answers(text: str, heading: re.Pattern[str]) -> Iterator[str]:
    """What stands behind each heading, or on the next line where nothing follows it."""
    for match in heading.finditer(text):
        answer = match.group(1).strip() or text[match.end() : match.end() + 200].strip().partition("\n")[0]
        yield answer.strip(" .:;,!-[]()'")


def _of_sentences(text: str, forms: tuple[re.Pattern[str], ...], of_word: Callable[[str], _Said]) -> _Said:
    """What running text says, once or always the same; not what it says after "whether", "cannot" and the like."""
    said = set()
    for sentence in re.split(r"[.!?\n]+(?=\s|$)", text):
        for match in (match for form in forms for match in form.finditer(sentence)):
            if not _UNSURE.search(sentence[: match.start()]) and not re.match(
                r"\s*(?:or|/)\s", sentence[match.end() :]
            ):
                said.add(of_word(next(group for group in match.groups() if group)))
    return said.pop() if len(said) == 1 else None


def _pair_answer(answer: str) -> _Said:
    """Of an answer that opens with an image's number, and does not name another one beside it or take it back."""
    match = re.match(rf"{_NUMBERED}(?![\w'])", answer)
    if match is None:
        return "tie" if _TIE.match(answer) else None
    rest = answer[match.end() :]
    if re.match(rf"\s*(?:\?|(?:and|or|/|\||&|,)\s*{_NUMBERED}(?![\w']))", rest) or re.match(
        r"\s*(?:\w+\s+)?(?:not|less)\b", rest
    ):
        return None
    return _pair(next(group for group in match.groups() if group))


def _single_answer(answer: str) -> _Said:
    """Of an answer that opens with the verdict, and does not go on with another one."""
    match = re.match(rf"{_OPENING}({_WORDS})\b(?!{_TAKEN_BACK})", answer)
    return None if match is None else _single(match.group(1))


def _pair(number: str) -> Pair:
    return "first" if number in {"1", "one", "a", "first"} else "second"


def _single(word: str) -> Single:
    return "real" if word in _REAL else "fake"


def _plain(reply: str) -> str:
    """Lower case, without reasoning, tags, markdown, LaTeX and typographic quotes."""
    text = _without_thinking(reply).lower().replace("\u2019", "'").replace("\u00a0", " ")
    return re.sub(r"\\[a-z]+|[*_`#>{}$\"\u201c\u201d]+|</?[a-z_]{1,20}>", " ", text)


def _without_thinking(reply: str) -> str:
    """What follows the reasoning; nothing where the reasoning was cut off before its end."""
    text = re.split(r"</think(?:ing)?>", reply, flags=re.IGNORECASE)[-1]
    return re.split(r"<think(?:ing)?>", text, flags=re.IGNORECASE)[0]


def _reason(reply: str) -> str:
    """What follows the word for it; else what follows the first line; else the reply."""
    text = re.sub(r"[*_`#]+", "", _without_thinking(reply)).strip()
    parts = _REASON.split(text, maxsplit=1)
    if len(parts) == 2:
        return parts[1].strip()
    _, _, rest = text.partition("\n")
    return (rest or text).strip()
