"""Every backbone that there is, each with its tiny model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from realgen.policies.backbones import Backbone
from tests.helpers.tiny_pipelines import TINY, TinyModel, backbone_classes, module_of


@pytest.fixture(params=backbone_classes(), ids=lambda member: member.__name__)
def kind(request: pytest.FixtureRequest) -> type[Backbone]:
    """Each backbone in turn."""
    return request.param


@pytest.fixture
def directory(kind: type[Backbone], tiny: Callable[[str], str]) -> str:
    """Its tiny model."""
    return tiny(module_of(kind))


@pytest.fixture
def model(kind: type[Backbone], directory: str) -> TinyModel:
    """What is to be known of that model."""
    return TINY[module_of(kind)]


@pytest.fixture
def make(kind: type[Backbone], model: TinyModel, directory: str) -> Callable[..., Backbone]:
    """Builds the backbone on its tiny model."""

    def make(*, load: bool = True, guided: bool = False, **settings: Any) -> Backbone:
        backbone = kind(directory, **{**(model.guided if guided else model.settings), **settings})
        if load:
            backbone.load()
        return backbone

    return make
