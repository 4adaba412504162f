"""Read the samples of one tar shard; what cannot be read is named and skipped, and the rest of the shard is still used.

By ``tarfile``, not ``webdataset.WebDataset``: an exact resume without a cursor needs the offset of each sample, which
its stream does not give, and its stream ends silently where a header is damaged. Both see the same samples (tested);
webdataset expands braces and opens URLs (``shard_paths``).
"""

import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from realgen.data.prompt_text import checked_text, open_text
from realgen.data.shards import MAX_BYTES, REAL_IMAGE_SUFFIXES
from realgen.given_files import parse_json
from realgen.image_decoding import HEIC, how_to_read

OTHER_IMAGES = {".gif", ".avif", *HEIC, ".jp2", ".jxl"} - {*REAL_IMAGE_SUFFIXES}
"""Of real images that are not read, and named."""
MAX_NAME = 1000
"""Characters of a sample's name."""
_END_MARK = bytes(tarfile.BLOCKSIZE)


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt of a shard."""

    key: str
    """Name of the sample in its shard."""
    prompt: str
    """The prompt, without white space at its ends."""
    metadata: Mapping[str, Any]
    """The object in the sample's .json; empty if there is none."""
    real_image: bytes | None
    """The encoded real image; None without one, or if images are not read."""


@dataclass(frozen=True, slots=True)
class InvalidSample:
    """A sample that cannot be used."""

    key: str
    """Name of the sample, or where in the shard the damage is."""
    reason: str


class _Tar(tarfile.TarFile):
    """A tar whose list of headers may be emptied: for a million prompts it would take gigabytes."""

    members: list[tarfile.TarInfo]

    def next(self) -> tarfile.TarInfo | None:
        """Return the next header; raise tarfile.ReadError for a negative size, after which there is no next."""
        member = super().next()
        if member is not None and (member.size < 0 or self.offset <= member.offset):
            raise tarfile.ReadError(f"the size of {member.name!r} is negative")
        return member


@dataclass(slots=True)
class _Group:
    """The members of one sample, as far as they are read."""

    key: str
    offset: int
    members: dict[str, bytes] = field(default_factory=dict)
    problem: str = ""
    """What is wrong with a member that was not read; empty if all were."""
    dotted: list[str] = field(default_factory=list)
    """Names of prompts that have a dot inside, up to .txt."""


def read_samples(file: IO[bytes], *, real_images: bool) -> Iterator[tuple[int, Sample | InvalidSample]]:
    """Read the samples of an uncompressed tar from where the file stands, in the tar's order.

    Yields the offset of each sample's first member, from which it can be read again, and the sample or why it is
    invalid. A sample is a run of members with the same name up to the first dot, as in WebDataset. Members other than
    .txt, .json and, with ``real_images``, images are skipped. Images are not decoded here.
    """
    suffixes = {".txt", ".json", *((*REAL_IMAGE_SUFFIXES, *OTHER_IMAGES) if real_images else ())}
    group: _Group | None = None
    try:
        tar = _Tar(fileobj=file)
        while (member := tar.next()) is not None:
            tar.members.clear()
            key, suffix = _split_name(member.name)
            if member.isdir() or not key:
                continue
            if group is None or group.key != key:
                if group is not None:
                    yield from _samples(group)
                group = _Group(key, member.offset)
            if suffix in suffixes:
                _read_member(tar, member, suffix, group)
            elif suffix.endswith(".txt"):
                group.dotted.append(key + suffix.removesuffix(".txt"))
    # A damaged header can lead anywhere, and tarfile then raises whatever its own code meets.
    except (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        key, offset = (group.key, group.offset) if group else ("first member", 0)
        yield offset, InvalidSample(key, f"the tar is damaged or cut off here ({error}), the rest of it is lost")
        return
    if group is not None:
        yield from _samples(group)
    # tarfile silently takes a broken header for the end of the tar; the true end is zeros, and nothing behind them.
    file.seek(tar.offset)
    ended = file.read(tarfile.BLOCKSIZE) == _END_MARK
    if not ended or any(chunk.strip(b"\0") for chunk in iter(lambda: file.read(2**20), b"")):
        key = f"after {group.key}" if group else "first member"
        yield tar.offset, InvalidSample(key, "the tar is damaged or cut off here, the rest of it is lost")


def _split_name(name: str) -> tuple[str, str]:
    """Split at the first dot of the file name, as WebDataset does; no key for its own ``__meta__`` members."""
    folder, slash, file = name.rpartition("/")
    key, dot, suffix = file.partition(".")
    if not key or not dot or re.match(r"__[^/]*__($|/)", name):
        return "", ""
    return f"{folder}{slash}{key}", f"{dot}{suffix}".lower()


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, group: _Group) -> None:
    """Read a member into its group, or say what is wrong with it."""
    if suffix in group.members:
        group.problem = f"it has more than one {suffix}"
    elif suffix in OTHER_IMAGES:
        group.problem = f"its real image is a {suffix}, expected {', '.join(REAL_IMAGE_SUFFIXES)}{how_to_read(suffix)}"
    elif not member.isfile() or member.issparse():
        group.problem = f"its {suffix} is no plain file but a link, a device or sparse"
    elif member.size > MAX_BYTES[suffix]:
        group.problem = f"its {suffix} has {member.size} bytes, at most {MAX_BYTES[suffix]} are read"
    else:
        content = tar.extractfile(member)
        assert content is not None, "isfile() said so"
        group.members[suffix] = content.read()


def _samples(group: _Group) -> Iterator[tuple[int, Sample | InvalidSample]]:
    """Yield the sample of a group; or one for each prompt with a dot in its name, which would make them all one."""
    if ".txt" in group.members or group.problem or not group.dotted:
        try:
            yield group.offset, _sample(group)
        except ValueError as error:
            yield group.offset, InvalidSample(group.key[:MAX_NAME], str(error))
        return
    for name in group.dotted:
        reason = f"it has no .txt: a sample's name ends at its first dot; rename {name + '.txt'!r}"
        yield group.offset, InvalidSample(name, reason)


def _sample(group: _Group) -> Sample:
    """Raise ValueError if the sample cannot be used."""
    if group.problem:
        raise ValueError(group.problem)
    if len(group.key) > MAX_NAME or re.search("[\ud800-\udfff]", group.key):
        raise ValueError(f"its name is not UTF-8, or has more than {MAX_NAME} characters")
    if ".txt" not in group.members:
        raise ValueError("it has no .txt")
    try:
        prompt = checked_text(open_text(group.members[".txt"]).read())
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error}") from error
    if not prompt:
        raise ValueError("its prompt is empty")
    real_image = next((group.members[suffix] for suffix in REAL_IMAGE_SUFFIXES if suffix in group.members), None)
    try:
        metadata = parse_json(group.members.get(".json", b"{}"))
    except ValueError as error:
        raise ValueError(f"its .json is not JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"its .json must be an object, got {type(metadata).__name__}")
    return Sample(group.key, prompt, metadata, real_image)
