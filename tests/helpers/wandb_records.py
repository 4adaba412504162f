"""Reads what Weights & Biases has written to disk: files of LevelDB's log format that hold protobuf records."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER, MAGIC = 32768, 7, 7
FULL, FIRST, LAST = 1, 2, 4


def records(folder: Path) -> list[Any]:
    """Return the records of one offline run, in their order."""
    (path,) = folder.glob("*.wandb")
    data, place, joined, found = path.read_bytes(), MAGIC, b"", []
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        piece = data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        joined = piece if kind in (FULL, FIRST) else joined + piece
        if kind in (FULL, LAST):
            found.append(Record.FromString(joined))
    return found


def of_kind(folder: Path, kind: str) -> list[Any]:
    """Return the records of one kind, such as ``run``, ``exit`` or ``artifact``."""
    return [getattr(record, kind) for record in records(folder) if record.WhichOneof("record_type") == kind]


def history(folder: Path) -> list[dict[str, Any]]:
    """Return the rows that were logged, names of media by their first part."""
    return [
        {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in row.item}
        for row in of_kind(folder, "history")
    ]
