r"""Reads what a judge wrote; what cannot be read with certainty is ``None``, never a guess.

The first of these that a reply has decides, and must say one thing only:

1. answer lines, ``More Realistic Image: Image 2`` or ``Answer: 2``; so are fields of JSON and ``\boxed{2}``;
2. sentences that give a verdict, ``Image 2 is more realistic`` or ``I choose Image 2``;
3. a line that is an answer and nothing else, at the end or before the reason.

An answer counts only if nothing behind it in its clause denies it, doubts it or names the other one, and nothing later
takes it back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from realgen.judges.reply_text import plain, reason, spoken
from realgen.judges.wordings import PAIR, REASONS, SINGLE, Pair, Single, Wording

_Found = tuple[Pair | Single | None, int]
"""What is said, and where in the text that ends."""

_NEAR = 300
"""Characters on each side of a verdict that are looked at, so that a long reply takes linear time."""
_MOST = 50
"""Verdicts in one reply; a model that gives as many is caught in a loop."""
_OPENING_MARKS = re.compile(r"^(?:[^\w#-]|-(?!\d))+")
_SENTENCE_END = re.compile(r"[.!?\n]+(?=\s|$)")
_CLAUSE_END = re.compile(rf"[.!](?=\s|$)|\n|{REASONS}")
_ALONE = re.compile(rf"(?! ?:)(?:\W*$| ?,? ?{REASONS})")
_REASON_LINE = re.compile(r"^\W{0,9}(?:reason|explanation|justification|because)", re.M)
_DOUBT_BEFORE = re.compile(
    r"n't\b|\b(?:not|never|cannot|could|might|may|whether|if|which|hard|difficult|unsure|n?either|nor|initially|"
    r"at first|glance|doubt|false|claim|mistake|(?:some|people|others) (?:would|say))\b|"
    r"\b(?:in|of|on|within) (?:(?:the|this|an?) )?$"
)
"""What makes the rest of a sentence no verdict, or one on a part of an image."""
_IN_PART = re.compile(r"\bin (?!(?:every|all|my|general)\b)")
_DOUBT_AFTERWARDS = re.compile(
    r"\b(?:but|however|though|although|yet|nevertheless|nonetheless|overall|ultimately|in the end|on balance|closer|"
    r"for realism|as for)\b"
)
"""What, behind a verdict in running text, may bring another one in words that are not known here."""
_BLIND = re.compile(
    r"\bno images? (?:was|were|is|are|has been|have been) "
    r"|\b(?:cannot|can't|couldn't|unable to|not able to|don't|do not) (?:actually |directly )?"
    r"(?:see|view|open|access|display) (?:(?:the|any|these|those|your|either|both) )?(?:images?|pictures?|photos?)\b"
)
"""What a judge says that was not shown the images."""


class Reading(NamedTuple):
    """What a reply says."""

    choice: Pair | Single | None
    """None where that is not certain."""
    reason: str
    """What it gives as its reason; the rest of the reply where it gives none by that name."""


Parse = Callable[[str, bool], Reading]
"""How a reply is read, and whether that is all of it."""


def parse_comparison(reply: str, finished: bool = True) -> Reading:
    r"""Read which of two images a reply calls the more realistic.

    Args:
        reply: As it came.
        finished: Whether that is all of it; in one that was cut off, only whole answer lines count.

    Returns:
        ``first`` or ``second``; ``tie`` where it says that they are equal; None where it says nothing, both, or
        something else.

    Example:
        >>> parse_comparison("**More Realistic Image:** Image 2\n**Reason:** Natural light.")
        Reading(choice='second', reason='Natural light.')
        >>> parse_comparison("I'm sorry, I can't help with that.").choice is None
        True
    """
    return _read(reply, PAIR, finished)


def parse_single(reply: str, finished: bool = True) -> Reading:
    r"""Read whether a reply calls an image real or fake.

    Args:
        reply: As it came.
        finished: Whether that is all of it; in one that was cut off, only whole answer lines count.

    Returns:
        ``real`` or ``fake``; None where it says neither, or both.

    Example:
        >>> parse_single("Real or Fake: *Fake*\nReason: Six fingers.")
        Reading(choice='fake', reason='Six fingers.')
    """
    return _read(reply, SINGLE, finished)


def _read(reply: str, wording: Wording, finished: bool) -> Reading:
    said = spoken(reply)
    text = plain(said) if finished else plain(said).rpartition("\n")[0]
    steps = (_answer_lines, _sentences, _lone_lines) if finished else (_answer_lines,)
    if _BLIND.search(text):
        return Reading(None, reason(said))
    for step in steps:
        found = list(islice(step(text, wording), _MOST))
        if found:
            return Reading(_unanimous(found, text, wording), reason(said))
    return Reading(None, reason(said))


def _unanimous(found: list[_Found], text: str, wording: Wording) -> Pair | Single | None:
    """What all say that was found, unless it is taken back behind the last of them."""
    choices = {choice for choice, _ in found}
    if len(choices) != 1 or len(found) == _MOST:
        return None
    choice, end = choices.pop(), max(end for _, end in found)
    corrections = wording.corrected.finditer(text, end)
    taken_back = any(match.lastindex is None or _said(match, wording) != choice for match in corrections)
    return None if taken_back else choice


def _answer_lines(text: str, wording: Wording) -> Iterator[_Found]:
    """What each answer line says, in an answer or in a sentence, and what the reason behind them says against it."""
    end = 0
    for line in wording.heading.finditer(text):
        answer = _OPENING_MARKS.sub("", line[1])
        match = wording.answer.match(answer)
        if match is not None and _stands_alone(match, wording):
            end = line.end() - len(answer) + match.end()
            yield _said(match, wording), end
        elif wording.named.search(answer):
            end = line.end()
            yield _unanimous(list(_sentences(answer, wording)), answer, wording), end
    reason_says = _unanimous(list(_sentences(text[end:], wording)), text[end:], wording) if end else None
    if reason_says is not None:
        yield reason_says, end


def _sentences(text: str, wording: Wording) -> Iterator[_Found]:
    """What running text says, but not behind "whether", "cannot" and the like, nor of a part of the image."""
    end = 0
    for match in wording.sentence.finditer(text):
        before = _SENTENCE_END.split(text[max(0, match.start() - _NEAR) : match.start()])[-1]
        if not _DOUBT_BEFORE.search(before) and not _IN_PART.search(_clause_behind(match)):
            end = match.end()
            yield _said(match, wording) if _stands_alone(match, wording) else None, end
    if end and _DOUBT_AFTERWARDS.search(_REASON_LINE.split(text[end:], maxsplit=1)[0]):
        yield None, end


def _lone_lines(text: str, wording: Wording) -> Iterator[_Found]:
    """What lines say that are an answer and nothing else, if one of them stands where answers stand."""
    lines = [line for line in text.split("\n") if line.strip()]
    found, is_placed = [], False
    for number, line in enumerate(lines):
        match = wording.answer.match(_OPENING_MARKS.sub("", line))
        if match is None or not _stands_alone(match, wording) or not _ALONE.match(match.string, match.end()):
            continue
        found.append((_said(match, wording), len(text)))
        is_asked = number > 0 and lines[number - 1].rstrip().endswith((":", "?"))
        is_last = number == len(lines) - 1 and not is_asked and re.search("[a-z]", line) is not None
        has_reason = any(map(_REASON_LINE.match, lines[number + 1 : number + 2]))
        is_placed |= len(lines) == 1 or is_last or has_reason
    yield from found if is_placed else ()


def _stands_alone(match: re.Match[str], wording: Wording) -> bool:
    """Whether the rest of the clause neither doubts what a match says, nor names another one."""
    said = _said(match, wording)
    clause = wording.denied.sub(
        lambda denied: denied[0] if _said(denied, wording) == said else "", _clause_behind(match)
    )
    named = {_said(mention, wording) for mention in wording.named.finditer(clause)}
    return named <= {said} and not wording.doubt.search(clause)


def _clause_behind(match: re.Match[str]) -> str:
    return _CLAUSE_END.split(match.string[match.end() : match.end() + _NEAR], maxsplit=1)[0]


def _said(match: re.Match[str], wording: Wording) -> Pair | Single:
    return wording.meaning(match[match.lastindex or 0])
