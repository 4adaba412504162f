"""What data/README.md says of the photographs is what the packages that ship them say."""

import re
from importlib import resources

import pytest
import skimage

from experiments.nano.photographs import SUBJECTS

FILES = sorted({subject.file for subject in SUBJECTS})


@pytest.fixture
def rows(repository):
    """File -> where, source, licence."""
    text = (repository / "data" / "README.md").read_text(encoding="utf-8")
    return {
        row[0]: row[1:] for row in re.findall(r"^\| `(\S+\.\w+)` \| `(\S+)` \| (.+?) \| (.+) \|$", text, re.MULTILINE)
    }


def statement(where, file):
    """What a package says, with its line breaks and marks taken out."""
    if where == "sklearn":
        readme = resources.files("sklearn").joinpath("datasets/images/README.txt").read_text(encoding="utf-8")
        said = readme[readme.index(f"Image: {file}") :]
        return " ".join(said.partition("\n\n\n")[0].split())
    function = getattr(skimage.data, where.removeprefix("skimage.data."))
    return " ".join(function.__doc__.replace("`", " ").split())


def test_every_photograph_is_listed(rows):
    assert sorted(rows) == FILES


def test_quotes_and_links_are_the_packages(rows):
    wrong = []
    for file, (where, source, licence) in rows.items():
        said = statement(where, file)
        quotes = re.findall(r'"(.+?)"', licence)
        links = [link.rstrip("/") for link in re.findall(r"<(.+?)>", source + licence)]
        wrong += [f"{file}: not in {where}: {text}" for text in quotes + links if text not in said]
        wrong += [f"{file}: no quote"] if not quotes else []
    assert wrong == []
