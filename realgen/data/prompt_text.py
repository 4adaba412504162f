"""Texts of prompts as others write them: byte order marks, UTF-16, and the line ends of all systems."""

import codecs
import io
import re
from pathlib import Path

MAX_CHARACTERS = 16_384
"""Of a prompt, the most that a reward server takes too; text encoders read far fewer."""
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def open_text(source: Path | bytes) -> io.TextIOWrapper:
    r"""Open a text, a path or its content, in UTF-8 or what its byte order mark says; every line ends in ``\n``.

    Bytes of no character become surrogates, so that a reader knows their line: ``checked_text`` refuses them.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    start = file.read(4)
    file.seek(0)
    encoding = next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), "utf-8")
    return io.TextIOWrapper(file, encoding=encoding, errors="surrogateescape")


def as_utf8(text: str) -> str:
    """Return a text of ``open_text``; raise UnicodeDecodeError if bytes of it are no characters."""
    return text.encode(errors="surrogateescape").decode()


def read_lines(path: Path) -> list[str]:
    """Read a file with a prompt per line, by ``checked_text``; raise ValueError with the line, or for the file."""
    lines: list[str] = []
    try:
        with open_text(path) as file:
            for line in file:
                lines.append(checked_text(line))
    except (OSError, UnicodeDecodeError) as error:
        where = f", line {len(lines) + 1}" if isinstance(error, UnicodeDecodeError) else ""
        raise ValueError(f"prompts: {str(path)!r} cannot be read as UTF-8 text{where}: {error}.") from error
    except ValueError as error:
        raise ValueError(f"prompts: {str(path)!r}, line {len(lines) + 1}: {error}.") from error
    return lines


def checked_text(text: str) -> str:
    """Strip a prompt, or a line of a file of prompts; ValueError if it is not UTF-8, has a NUL, or is too long."""
    text = as_utf8(text).strip()
    if "\0" in text:
        raise ValueError("it holds a NUL character, as UTF-16 does that is read as UTF-8")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has {len(text)} characters, a prompt may have {MAX_CHARACTERS}")
    return text


def trace(prompt: str) -> str:
    """Return the beginning of a prompt as a part of a file's name: letters and figures of any script, in lower case."""
    words = re.findall(r"\w+", prompt.lower())
    found = "-".join(words)[:40]
    return (found if len("-".join(words)) <= 40 else found.rpartition("-")[0] or found) or "prompt"
