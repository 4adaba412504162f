"""A tiny random diffusion model."""

from pathlib import Path

import pytest

from tests.helpers.tiny_pipelines import write_sd3


@pytest.fixture(scope="session")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a tiny random ``StableDiffusion3Pipeline``."""
    directory: Path = tmp_path_factory.mktemp("sd3")
    write_sd3(directory)
    return str(directory)
