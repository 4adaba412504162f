"""Word statistics of a prompt and its rewrite: words kept, invented and added, in any script; no tensors."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import regex

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
"""English words without content, and those that refer to the image itself ("a picture of", "we see")."""

IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "feet": "foot", "teeth": "tooth",
    "geese": "goose", "mice": "mouse", "oxen": "ox", "wolves": "wolf", "leaves": "leaf", "knives": "knife",
    "wives": "wife", "lives": "life", "shelves": "shelf", "halves": "half", "loaves": "loaf", "scarves": "scarf",
    "thieves": "thief", "calves": "calf", "hooves": "hoof", "buses": "bus", "lenses": "lens", "lens": "lens",
    "movies": "movie", "cookies": "cookie", "shoes": "shoe", "toes": "toe", "canoes": "canoe", "aches": "ache",
}  # fmt: skip
"""English plurals that no rule of ``singular`` covers, and singulars that a rule would change."""

_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
"""Letters of the scripts without spaces between words."""
_SPACED = rf"[[\p{{L}}\p{{N}}]--{_UNSPACED}]"
_WORD = regex.compile(
    rf"(?V1){_SPACED}(?:{_SPACED}|\p{{M}}|'(?={_SPACED}))*|(?:[[\p{{L}}\p{{N}}]&&{_UNSPACED}]|\p{{So}})\p{{M}}*"
)
_IGNORED = regex.compile(r"(?V1)[[\p{Cf}\uFE0E\uFE0F]--\u200B]")
"""Joiners, direction marks and variation selectors (an emoji as text, or in colour); not the space without width."""


def words(text: str) -> list[str]:
    r"""Return the words of a text in order, case folded and in compatibility composition (NFKC).

    A word is a run of letters, digits and the marks on them; an apostrophe may be inside it, and a final "'s" is
    dropped. In a script without spaces between words each letter is a word, and so is each emoji (of any skin tone).
    All else, control characters too, ends a word.
    """
    composed = unicodedata.normalize("NFKC", text)
    folded = unicodedata.normalize("NFKC", composed.casefold()).replace("\u2019", "'")  # casefold decomposes some
    return [word.removesuffix("'s") for word in _WORD.findall(_IGNORED.sub("", folded))]


def singular(word: str) -> str:
    """Return one key for an English noun's singular and plural, not always a word; keep words of other alphabets."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) <= 3 or not word.isascii() or word.endswith(("ss", "us", "is")) or not word.endswith("s"):
        return word
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    return word[:-2] if word.endswith(("sses", "shes", "ches", "xes", "zes", "oes")) else word[:-1]


def content_words(text: str) -> list[str]:
    """Return the words of a text in order, repeated ones too, but no function words; case and plural folded."""
    return [singular(word) for word in words(text) if word not in FUNCTION_WORDS]


def content_kept(prompt: str, text: str) -> float:
    """Return the share of the prompt's content words that its rewrite has, in [0, 1].

    |C(prompt) & C(text)| / |C(prompt)| over sets of words; 1 where the prompt has no content words.
    """
    wanted = set(content_words(prompt))
    return len(wanted.intersection(content_words(text))) / len(wanted) if wanted else 1.0


def invented(subjects: Iterable[str], prompt: str, text: str) -> list[str]:
    """Return the subjects, words or phrases, that are in the rewrite and not in the prompt; case and plural folded."""
    before, after = _phrase(prompt), _phrase(text)
    return [subject for subject in subjects if _phrase(subject) in after and _phrase(subject) not in before]


def added_ngrams(prompt: str, text: str, length: int) -> frozenset[tuple[str, ...]]:
    """Return the n-grams, at least one, of the rewrite's content words that the prompt does not have.

    Fewer words than ``length``, which is at least 1, are one shorter n-gram; no words are one empty n-gram.
    """
    known = set(content_words(prompt))
    added = [word for word in content_words(text) if word not in known]
    return frozenset(tuple(added[start : start + length]) for start in range(max(len(added) - length, 0) + 1))


def mean_overlaps(sets: Sequence[frozenset[tuple[str, ...]]]) -> list[float]:
    """Return the mean share of each of N sets, none empty, that another set has; 0 for a set without others.

    o_i = 1/(N - 1) sum over j != i of |A_i & A_j| / |A_i|. That is the mean over the elements of A_i of the share of
    other sets that have it, so N sets take linear time.
    """
    having = Counter(element for elements in sets for element in elements)
    others = max(len(sets) - 1, 1)
    return [sum(having[element] - 1 for element in elements) / (len(elements) * others) for elements in sets]


def _phrase(text: str) -> str:
    """Return all words, plurals folded, between spaces, so that a phrase is found only at whole words."""
    return f" {' '.join(map(singular, words(text)))} "
