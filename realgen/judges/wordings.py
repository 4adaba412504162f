"""How judges word their verdicts, in English: of a pair, and of a single image.

All patterns are for texts as ``reply_text.plain`` makes them: lower case, one space between words, no markdown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

Pair = Literal["first", "second", "tie"]
Single = Literal["real", "fake"]

REASONS = (
    r"\b(?:because|since|due to|thanks to|as (?:it|its|there)|reason(?:ing)?|explanation|compared|than|"
    r"over|while|whereas|unlike)\b"
)
"""What begins an explanation; it ends the clause of a verdict."""


class Wording(NamedTuple):
    """Patterns of one kind of verdict; what the last group of a match holds has a meaning."""

    heading: re.Pattern[str]
    """An answer line; its group is the answer."""
    answer: re.Pattern[str]
    """What an answer opens with, if what follows leaves it one."""
    sentence: re.Pattern[str]
    """A verdict in running text."""
    named: re.Pattern[str]
    """Any mention of what can be chosen."""
    denied: re.Pattern[str]
    """A mention of the one that it is not."""
    corrected: re.Pattern[str]
    """What takes back an answer before it, and gives another one, if it has a group that matched."""
    doubt: re.Pattern[str]
    """What must not stand in the same clause behind an answer."""
    meaning: Callable[[str], Pair | Single]
    """Of what a group holds."""


_HEADING = (
    r"(?:^|(?<=[.!?] ))[^\w\n]{{0,9}}(?:(?:line )?\d{{1,2}}[.):][^\w\n]{{0,9}})?"
    r"(?:(?:(?:so|thus|therefore|hence),? )?(?:the |my |final |overall ){{0,3}}"
    r"(?:answer|verdict|choice|pick|decision|winner|selection|judgment|judgement|conclusion|result|{})"
    r"(?: ?\([^()\n]{{0,40}}\))?(?: is)?(?: ?[:=|?\u2013\u2014]+| -+(?= )| ?\n)\s*)+(.*)$"
)
_FOLLOWED = rf"(?=\W*$| ?[.!,;(\u2013\u2014-]| ?:(?! ?\d)| ?{REASONS}| ?(?:{{}}))"
"""What may follow an answer; any other word may turn it into a remark ("Image 1 has six fingers")."""
_DOUBT = (
    r"\?|n't\b|[\u2717\u2718\u274c\U0001f44e]|\b(?:not|never|no|less|least|but|however|though|although|yet|wrong|"
    r"false|edited|altered|manipulated|enhanced|initially|at first|glance|if|unless|when{})\b"
)
_CORRECTED = (
    r"\b(?:on second thought|scratch that|take (?:that|it) back|let me (?:reconsider|correct))\b"
    r"|\b(?:wait|(?:no|actually|sorry|correction|i mean)(?= ?[,.:;!\u2013\u2014-]))[ ,.:;!\u2013\u2014-]{{0,3}}(?:{})"
)
_NOT_LONGER = r"(?![\w'%]|[.,:/-]\d|-\w)"
"""Neither "1.5" nor "1-2" nor "real-looking"."""

_NOUN = r"(?:image|picture|photograph|photo|option)"
_IMAGE = (
    rf"(?:(?:the )?{_NOUN}[ #:]*-?(1|2|one|two|a|b)|the (first|second|1st|2nd)(?: (?:{_NOUN}|one))?"
    rf"|(first|second|1st|2nd) (?:{_NOUN}|one)){_NOT_LONGER}"
)
_NUMBER = rf"#?([12]){_NOT_LONGER}(?![.)] ?\w|:)"
"""No number of a list's item."""
_TIE = (
    r"(?:they are )?(?:an? )?(tie|draw|equal(?:ly realistic)?|both|neither|the same|undecided)"
    r"(?: images?)?(?: (?:is|are|look|looks) (?:equally |the )?(?:realistic|real|same))?"
)
_REALISTIC = r"(?:photo-?)?(?:realistic|natural|authentic|real|genuine|lifelike|convincing|believable)"
_WINS = (
    r"(?:is|looks|appears|seems|feels) (?:(?:to be|clearly|noticeably|slightly|much|definitely|significantly|"
    r"marginally|considerably|somewhat|subtly|far|overall|a bit|a little|the) )*"
    rf"(?:(?:more|most) {_REALISTIC}\b"
    r"|(?:more|most) (?:likely|like) (?:to be )?(?:an? |the )?(?:real|authentic|genuine|actual)\b"
    r"|(?:real|authentic|genuine|actual) (?:one|photo)|winner\b(?! (?:of|in)))(?: overall)?|wins\b"
)
_CHOOSE = (
    r"(?:i(?:'d|'ll|'m)?(?: (?:would|will|must|am|have to|would have to|had to|therefore|still|clearly)){0,2}"
    r" (?:choose|pick|select|prefer|go (?:with|for)|opt for|vote for|lean(?:ing)? towards?|favou?r|say)"
    rf"|(?:choice|answer|verdict|winner|mo(?:re|st) {_REALISTIC}(?: {_NOUN}| one)?(?: of the two)?) is:?)"
)


def _meaning_of_pair(word: str) -> Pair:
    if word in {"1", "one", "a", "first", "1st"}:
        return "first"
    return "second" if word in {"2", "two", "b", "second", "2nd"} else "tie"


PAIR = Wording(
    heading=re.compile(
        _HEADING.format(
            rf"mo(?:re|st)[ -]{_REALISTIC}(?:[ -]looking)?(?: {_NOUN}| one)?|(?:chosen|selected|preferred) {_NOUN}"
        ),
        re.M,
    ),
    answer=re.compile(
        rf"(?:it(?:'s| is) )?(?:{_IMAGE}|{_NUMBER}|(first|second|1st|2nd|one|two)(?=\W*$)|{_TIE}){_NOT_LONGER}"
        + _FOLLOWED.format(rf"{_WINS}|is (?:real|authentic|genuine)\b")
    ),
    sentence=re.compile(
        rf"\b{_IMAGE} (?:{_WINS})|\b{_CHOOSE} (?:{_IMAGE}|{_NUMBER})"
        + _FOLLOWED.format(rf"as (?:the|my) (?:(?:more|most) {_REALISTIC}|answer|choice|winner)")
    ),
    named=re.compile(
        rf"\b{_IMAGE}|\b([12])\b(?![.,]\d|%)|(?:\b(?:or|and|vs\.?)|[/&]) ?(?:the )?(one|two|a|b|first|second)\b"
    ),
    denied=re.compile(rf"\b(?:not|instead of|rather than) (?:{_IMAGE}|{_NUMBER})"),
    corrected=re.compile(_CORRECTED.format(rf"(?:\w+ ){{0,3}}?{_IMAGE}|{_NUMBER}")),
    doubt=re.compile(
        _DOUBT.format("|fake|ai|ai-generated|generated|synthetic|artificial|cgi|render(?:ed|ing)?|other|former|latter")
    ),
    meaning=_meaning_of_pair,
)

_VERDICT = r"(real|authentic|genuine|fake|(?:ai|computer|artificially)[ -]generated|generated|synthetic|artificial|ai)"
_HEDGES = r"(?:(?:an?|likely|probably|clearly|most|very|almost|certainly|definitely|be|to) ){0,6}"
_PICTURE = r"(?:photo(?:graph)?|image|picture|one|by (?:an? )?(?:ai|artificial|generative|diffusion))\b"


def _meaning_of_single(word: str) -> Single:
    return "real" if word in {"real", "authentic", "genuine"} else "fake"


SINGLE = Wording(
    heading=re.compile(
        _HEADING.format(r"(?:real|fake) ?(?:or|/|vs\.?) ?(?:real|fake|generated)|classification|label|prediction"), re.M
    ),
    answer=re.compile(
        rf"(?:(?:the|this|it|image|is) ){{0,4}}{_HEDGES}{_VERDICT}{_NOT_LONGER}"
        + _FOLLOWED.format(rf"{_PICTURE}|/|or\b")
    ),
    sentence=re.compile(
        rf"\b(?:(?:this|it|{_NOUN}) (?:is|was|appears|seems|looks)|(?:this|it)'s) {_HEDGES}{_VERDICT}{_NOT_LONGER}"
        + _FOLLOWED.format(_PICTURE)
    ),
    named=re.compile(rf"\b{_VERDICT}\b"),
    denied=re.compile(rf"\bnot (?:an? )?{_VERDICT}\b"),
    corrected=re.compile(_CORRECTED.format(rf"(?:\w+ ){{0,3}}?{_VERDICT}\b")),
    doubt=re.compile(_DOUBT.format("")),
    meaning=_meaning_of_single,
)
