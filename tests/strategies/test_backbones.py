"""Backbones other than SD3 train sharded as they do whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from realgen.policies.backbones import Backbone, Flux, ZImage
from realgen.strategies import FSDP2
from tests.helpers.tiny_pipelines import TINY, module_of, write
from tests.strategies.ranks import on_ranks
from tests.strategies.test_equality import assert_equal, in_one_piece, train

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.mark.parametrize("kind", [Flux, ZImage])
def test_sharded_equals_whole(kind: type[Backbone], tmp_path: Path) -> None:
    """Blocks of two kinds, and a transformer that takes lists; SD3 has tests of its own beside this one."""
    name = module_of(kind)
    write(name, tmp_path / "model")
    settings = {"backbone": kind(str(tmp_path / "model"), **TINY[name].guided)}
    steps = in_one_piece("", tmp_path / "whole", **settings)
    settings = {"backbone": kind(str(tmp_path / "model"), **TINY[name].guided)}
    assert on_ranks(train, "", tmp_path, FSDP2(), settings) == [0, 0]
    # Rounding grows with each update (1.0e-6 was seen), and prompts of one call are padded to the longest.
    assert_equal(tmp_path, steps, tolerance=1e-5, on_policy=1e-6)
