"""From what a config says (paths, patterns, URLs) to a list of shards, and from a shard to a file that can seek."""

import contextlib
import difflib
import glob
import os
import re
import shlex
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO


def find_shards(spec: str | Sequence[str], *, argument: str) -> list[str]:
    """Resolve shard names: braces first (``{000000..000009}``), then ``*``, ``?``, ``[...]`` and ``**`` of local paths.

    Names stay in the order given, relative to the working directory, the matches of a pattern sorted. URLs
    (``pipe:COMMAND``, ``s3://``, ``https://``, and what else webdataset opens) are taken as they are. Messages call it
    ``argument``.

    Raises:
        ValueError: If a name or pattern matches no file; the message names the nearest folder that exists.
        ValueError: If braces are not balanced, if a shard is named twice, or if none is named.
    """
    # braceexpand is what webdataset expands braces with, and comes with it.
    from braceexpand import braceexpand

    shards: list[str] = []
    for name in [spec] if isinstance(spec, str) else spec:
        try:
            patterns = list(braceexpand(name))
        except ValueError as error:
            raise ValueError(f"{argument}={name!r}: {error}.") from error
        shards += [shard for pattern in patterns for shard in _match(pattern, argument)]
    if not shards:
        raise ValueError(f"{argument} must name at least one shard, got {spec!r}.")
    shard, times = Counter(shards).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"{argument}={spec!r} names {shard!r} {times} times: its prompts would come as often per epoch."
        )
    return shards


def is_url(shard: str) -> bool:
    """Return whether a shard is a stream (``pipe:``, ``scheme://``) and not a local file."""
    return shard.startswith("pipe:") or "://" in shard


def open_shard(shard: str) -> IO[bytes]:
    """Open a shard to read and seek, a URL as a copy, gone on ``close``; ValueError if a URL cannot be read."""
    if not is_url(shard):
        return open(shard, "rb")
    from webdataset import gopen, gopen_schemes

    url = shard
    if shard.startswith("s3://") and "s3" not in gopen_schemes:
        # webdataset reads s3 by the same kind of pipe as it reads gs, but only if one is set up by hand.
        url = f"pipe:aws s3 cp {shlex.quote(shard)} -"
    with contextlib.ExitStack() as on_error:
        copy = on_error.enter_context(tempfile.TemporaryFile())
        try:
            with gopen(url) as stream:
                shutil.copyfileobj(stream, copy)
        except (OSError, ValueError) as error:
            raise ValueError(f"the shard {shard!r} could not be read: {error}") from error
        copy.seek(0)
        on_error.pop_all()
    return copy


def _match(pattern: str, argument: str) -> list[str]:
    pattern = re.sub("^file:(//)?", "", pattern)
    if is_url(pattern) or Path(pattern).is_file():
        return [pattern]
    shards = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not shards:
        raise ValueError(f"{argument}={pattern!r} matches no file; {_nearest_folder(Path(pattern))}.")
    return shards


def _nearest_folder(path: Path) -> str:
    """Describe how far a path exists, and what is there."""
    if path.is_dir():
        return f"it is a folder, name the shards in it: {path / '*.tar'}"
    folder = next(parent for parent in path.parents if parent.is_dir())
    entries = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    missing = path.relative_to(folder).parts[0]
    nearest = difflib.get_close_matches(missing, entries, n=1)
    holds = f"did you mean {nearest[0]!r}?" if nearest else f"it holds {', '.join(entries[:8]) or 'nothing'}"
    return f"the nearest folder that exists is {os.path.relpath(folder)!r}, {holds}"
