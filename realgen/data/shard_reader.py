"""Read the samples of one tar shard; what cannot be read is named and skipped, and the rest of the shard is still used.

By ``tarfile``, not ``webdataset.WebDataset``: an exact resume without a cursor needs the offset of each sample, which
its stream does not give, and its stream ends silently where a header is damaged. Both see the same samples (tested);
webdataset expands braces and opens URLs (``shard_paths``).
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from realgen.data.shards import REAL_IMAGE_SUFFIXES

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
    """What is wrong with it."""


class _Tar(tarfile.TarFile):
    """A tar whose list of headers may be emptied: for a million prompts it would take gigabytes."""

    members: list[tarfile.TarInfo]


@dataclass(slots=True)
class _Group:
    """The members of one sample, as far as they are read."""

    key: str
    offset: int
    members: dict[str, bytes] = field(default_factory=dict)
    double: str | None = None


def read_samples(file: IO[bytes], *, real_images: bool) -> Iterator[tuple[int, Sample | InvalidSample]]:
    """Read the samples of a tar from where the file stands, in the tar's order.

    A sample is a run of members with the same name up to the first dot, as in WebDataset. Members other than .txt,
    .json and, with ``real_images``, .png and .jpg are skipped. Images are not decoded here.

    Args:
        file: An uncompressed tar, at its beginning or at an offset that this function yielded.
        real_images: Whether to read the real images.

    Yields:
        Offset of the sample's first member in the file, and the sample or why it is invalid.
    """
    suffixes = {".txt", ".json", *(REAL_IMAGE_SUFFIXES if real_images else ())}
    group: _Group | None = None
    try:
        tar = _Tar(fileobj=file)
        while (member := tar.next()) is not None:
            tar.members.clear()
            key, suffix = _split_name(member.name)
            if not member.isfile() or not key:
                continue
            if group is None or group.key != key:
                if group is not None:
                    yield group.offset, _sample(group)
                group = _Group(key, member.offset)
            if suffix in suffixes:
                if suffix in group.members:
                    group.double = suffix
                content = tar.extractfile(member)
                assert content is not None, "isfile() said so"
                group.members[suffix] = content.read()
    # A damaged size in a header can lead beyond the end of any file.
    except (tarfile.TarError, OverflowError, MemoryError) as error:
        key, offset = (group.key, group.offset) if group else ("first member", 0)
        yield offset, InvalidSample(key, f"the tar is damaged or cut off here ({error}), the rest of it is lost")
        return
    if group is not None:
        yield group.offset, _sample(group)
    # tarfile silently takes a broken header for the end of the tar; the true end is a block of zeros.
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != _END_MARK:
        key = f"after {group.key}" if group else "first member"
        yield tar.offset, InvalidSample(key, "the tar is damaged or cut off here, the rest of it is lost")


def _split_name(name: str) -> tuple[str, str]:
    """Split at the first dot of the file name, as WebDataset does; no key for its own ``__meta__`` members."""
    match = re.match(r"((?:.*/|)[^.]+)(\.[^/]*)$", name)
    if match is None or re.match(r"__[^/]*__($|/)", name):
        return "", ""
    return match[1], match[2].lower()


def _sample(group: _Group) -> Sample | InvalidSample:
    if group.double is not None:
        return InvalidSample(group.key, f"it has more than one {group.double}")
    if ".txt" not in group.members:
        return InvalidSample(group.key, "it has no .txt")
    try:
        prompt = group.members[".txt"].decode().strip()
        metadata = json.loads(group.members.get(".json", b"{}"))
    except UnicodeDecodeError as error:
        return InvalidSample(group.key, f"it is not UTF-8: {error}")
    except (ValueError, RecursionError) as error:  # the latter for a value that is nested too deep
        return InvalidSample(group.key, f"its .json is not JSON: {error}")
    if not prompt:
        return InvalidSample(group.key, "its prompt is empty")
    if not isinstance(metadata, dict):
        return InvalidSample(group.key, f"its .json must be an object, got {type(metadata).__name__}")
    real_image = next((group.members[suffix] for suffix in REAL_IMAGE_SUFFIXES if suffix in group.members), None)
    return Sample(group.key, prompt, metadata, real_image)
