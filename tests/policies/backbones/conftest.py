"""Every backbone that there is, each with its tiny model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from realgen.policies.backbones import Backbone
from realgen.policies.backbones.pipeline_files import PipelineFiles
from tests.helpers.tiny_pipelines import TINY, TinyModel, backbone_classes, module_of


@pytest.fixture(scope="session")
def pipelines() -> dict[tuple[Any, ...], Any]:
    """Pipelines that were read, by folder and type."""
    return {}


@pytest.fixture(autouse=True)
def read_once(pipelines: dict[tuple[Any, ...], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a folder takes longer than copying what was read of it."""
    read = PipelineFiles._read

    def read_or_copy(backbone: PipelineFiles) -> Any:
        key = (type(backbone), backbone.pretrained, backbone.dtype, backbone.local_files_only)
        if key not in pipelines:
            pipelines[key] = read(backbone)
        return copy.deepcopy(pipelines[key])

    monkeypatch.setattr(PipelineFiles, "_read", read_or_copy)


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
