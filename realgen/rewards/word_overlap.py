"""What a rewritten prompt kept, left out, invented and added, word by word; no tensors, any script."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

FUNCTION_WORDS = frozenset((
    "a", "an", "the", "this", "that", "these", "those", "some", "any", "each", "every", "either", "neither", "such",
    "i", "me", "my", "mine", "you", "your", "yours", "he", "him", "his", "she", "her", "hers", "it", "its", "we",
    "us", "our", "ours", "they", "them", "their", "theirs", "who", "whom", "whose", "which", "what", "there",
    "here", "and", "or", "but", "nor", "so", "yet", "if", "than", "as", "while", "because", "though", "about",
    "above", "across", "after", "against", "along", "among", "around", "at", "before", "behind", "below", "beneath",
    "beside", "between", "beyond", "by", "down", "during", "for", "from", "in", "inside", "into", "near", "of",
    "off", "on", "onto", "out", "outside", "over", "past", "per", "through", "to", "toward", "towards", "under",
    "until", "up", "upon", "via", "with", "within", "without", "am", "is", "are", "was", "were", "be", "been",
    "being", "do", "does", "did", "done", "has", "have", "had", "having", "can", "could", "may", "might", "must",
    "shall", "should", "will", "would", "not", "no", "very", "also", "just", "only", "too", "then", "see", "show",
    "shows", "showing", "picture", "image", "photo", "photograph",
))  # fmt: skip
"""English words without content of their own, and those that name the picture itself ("a picture of", "we see")."""

IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "feet": "foot", "teeth": "tooth",
    "geese": "goose", "mice": "mouse", "oxen": "ox", "wolves": "wolf", "leaves": "leaf", "knives": "knife",
    "wives": "wife", "lives": "life", "shelves": "shelf", "halves": "half", "loaves": "loaf", "scarves": "scarf",
    "thieves": "thief", "calves": "calf", "hooves": "hoof", "buses": "bus", "lenses": "lens", "lens": "lens",
    "movies": "movie", "cookies": "cookie", "shoes": "shoe", "toes": "toe", "canoes": "canoe", "aches": "ache",
}  # fmt: skip
"""English plurals that no rule of ``singular`` finds, and singulars that one would spoil."""

UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA", "THAI ", "LAO ", "KHMER ", "MYANMAR ")
"""Beginnings of the Unicode names of letters that are written without spaces between words."""

STYLES = "\ufe0e\ufe0f"
"""Characters that ask for an emoji as text, or in colour."""
ZERO_WIDTH_SPACE = "\u200b"

_WORD = re.compile(r"w(?:[wm]|'(?=w))*|[us]m*")


def words(text: str) -> list[str]:
    r"""Words of a text in any script, case folded.

    A word is a run of letters, digits and the marks on them; an apostrophe may stand inside it, and a final "'s" is
    left out. Where a script has no spaces between words each letter is one, and so is each emoji (whatever its skin
    tone). All else, control characters too, ends a word.

    Args:
        text: Any text.

    Returns:
        Words in order, in compatibility composition (NFKC).

    Example:
        >>> words("The cat's EYES, 35mm\tfilm-grain!")
        ['the', 'cat', 'eyes', '35mm', 'film', 'grain']
        >>> words("Ёлка, हिन्दी, 猫と犬 🐱")
        ['ёлка', 'हिन्दी', '猫', 'と', '犬', '🐱']
    """
    composed = unicodedata.normalize("NFKC", text)
    folded = unicodedata.normalize("NFKC", composed.casefold()).replace("\u2019", "'")  # casefold decomposes some
    folded = "".join(c for c in folded if _kind(c))
    kinds = "".join(map(_kind, folded))
    found = (folded[match.start() : match.end()] for match in _WORD.finditer(kinds))
    return [word.removesuffix("'s") for word in found]


def singular(word: str) -> str:
    """An English noun without its plural ending; a key to compare words by, not always a word.

    Args:
        word: Of ``words``; of another alphabet than the English one it is left as it is.

    Returns:
        The same for singular and plural.

    Example:
        >>> [singular(word) for word in ("cats", "cities", "boxes", "women", "glass", "gas", "дома")]
        ['cat', 'city', 'box', 'woman', 'glass', 'gas', 'дома']
    """
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) <= 3 or not word.isascii() or word.endswith(("ss", "us", "is")) or not word.endswith("s"):
        return word
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    return word[:-2] if word.endswith(("sses", "shes", "ches", "xes", "zes", "oes")) else word[:-1]


def content_words(text: str) -> list[str]:
    """Words of a text that say something of its picture: function words left out, case and plural folded.

    Args:
        text: Any text.

    Returns:
        Words in order, repeated ones too.

    Example:
        >>> content_words("A picture of two cats on the sofa")
        ['two', 'cat', 'sofa']
    """
    return [singular(word) for word in words(text) if word not in FUNCTION_WORDS]


def content_kept(prompt: str, text: str) -> float:
    """Share of the prompt's content words that the text has, |C(prompt) & C(text)| / |C(prompt)| over sets of words.

    Args:
        prompt: What was asked for.
        text: What was made of it.

    Returns:
        In [0, 1]; 1 where the prompt has no content words, for there was nothing to lose.

    Example:
        >>> content_kept("two cats on a sofa", "a cat, on the sofa, film grain")
        0.6666666666666666
    """
    asked = set(content_words(prompt))
    return len(asked.intersection(content_words(text))) / len(asked) if asked else 1.0


def invented(subjects: Iterable[str], prompt: str, text: str) -> list[str]:
    """The subjects that stand in the text and not in the prompt.

    Args:
        subjects: Words, or phrases whose words stand together; case and plural do not count.
        prompt: What was asked for.
        text: What was made of it.

    Returns:
        Subjects, as they were given.

    Example:
        >>> invented(["dog", "space shuttle"], "a cat", "two cats and dogs on space shuttles")
        ['dog', 'space shuttle']
    """
    asked, told = _phrase(prompt), _phrase(text)
    return [subject for subject in subjects if _phrase(subject) in told and _phrase(subject) not in asked]


def added_ngrams(prompt: str, text: str, length: int) -> frozenset[tuple[str, ...]]:
    """What the text adds to the prompt: n-grams of its content words, those of the prompt left out before.

    Args:
        prompt: What was asked for.
        text: What was made of it.
        length: n, at least 1; fewer added words are one n-gram as they are, and so is adding nothing.

    Returns:
        At least one n-gram.

    Example:
        >>> sorted(added_ngrams("a cat", "a cat, film grain, soft light", 2))
        [('film', 'grain'), ('grain', 'soft'), ('soft', 'light')]
        >>> added_ngrams("a cat", "the cats", 2)
        frozenset({()})
    """
    asked = set(content_words(prompt))
    added = [word for word in content_words(text) if word not in asked]
    return frozenset(tuple(added[start : start + length]) for start in range(max(len(added) - length, 0) + 1))


def mean_overlaps(sets: Sequence[frozenset[tuple[str, ...]]]) -> list[float]:
    """How much of each set the others have, on average: o_i = 1/(N - 1) sum over j != i of |A_i & A_j| / |A_i|.

    That is the mean over the elements of A_i of the share of other sets that have it, so N sets take linear time.

    Args:
        sets: N sets, none empty.

    Returns:
        N numbers in [0, 1]; 0 for a set without others.

    Example:
        >>> one, two = ("film", "grain"), ("soft", "light")
        >>> mean_overlaps([frozenset({one}), frozenset({one, two}), frozenset({two})])
        [0.5, 0.5, 0.5]
    """
    having = Counter(element for elements in sets for element in elements)
    others = max(len(sets) - 1, 1)
    return [sum(having[element] - 1 for element in elements) / (len(elements) * others) for elements in sets]


def length_window(count: int, shortest: int, longest: int, slope: float) -> float:
    """1 within [shortest, longest], and max(0, 1 - slope * d) at a distance d outside.

    Args:
        count: A number of words.
        shortest: Lower end.
        longest: Upper end.
        slope: Loss for each word outside, above 0.

    Returns:
        In [0, 1].

    Example:
        >>> [length_window(count, 3, 20, 0.25) for count in (0, 3, 20, 22, 5000)]
        [0.25, 1.0, 1.0, 0.5, 0.0]
    """
    distance = max(shortest - count, count - longest, 0)
    return max(1.0 - slope * distance, 0.0)


def _phrase(text: str) -> str:
    """All words with their plurals folded, so that a phrase is part of a text just where its words are."""
    return f" {' '.join(map(singular, words(text)))} "


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    """What a character is to ``words``.

    w: letter or digit; u: letter of a script without spaces; m: mark; s: symbol; an apostrophe is itself; a space ends
    a word, and nothing stands for what does not count.
    """
    category = unicodedata.category(character)
    if character in STYLES or (category == "Cf" and character != ZERO_WIDTH_SPACE):  # joiners, direction marks
        return ""
    if category[0] in "LN":
        return "u" if unicodedata.name(character, "").startswith(UNSPACED) else "w"
    if category[0] == "M":
        return "m"
    return "s" if category == "So" else "'" if character == "'" else " "
