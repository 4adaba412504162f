from __future__ import annotations

from pathlib import Path

import pytest

from realgen.policies.backbones import Flux2Klein
from tests.helpers.tiny_pipelines import flux2_klein_pipeline


def test_a_distilled_model_has_no_guidance(tmp_path: Path) -> None:
    flux2_klein_pipeline(is_distilled=True).save_pretrained(tmp_path)
    Flux2Klein(str(tmp_path)).load()
    with pytest.raises(ValueError, match=r"guidance_scale must be at most 1 for .*, which is distilled, got 4.0"):
        Flux2Klein(str(tmp_path), guidance_scale=4.0).load()
