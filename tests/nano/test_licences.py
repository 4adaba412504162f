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


@pytest.mark.parametrize("file", FILES)
def test_quotes_and_links_are_the_packages(file, rows):
    where, source, licence = rows[file]
    said = statement(where, file)
    quotes = re.findall(r'"(.+?)"', licence)
    assert [quote for quote in quotes if quote not in said] == []
    links = [link.rstrip("/") for link in re.findall(r"<(.+?)>", source + licence)]
    assert [link for link in links if link not in said] == []
    assert quotes
