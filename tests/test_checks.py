from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from realgen.checks import check_at_least, check_choice, check_pretrained


def test_the_first_number_that_is_too_small_is_named() -> None:
    check_at_least(1, size=1, every=None, share=1.5)
    with pytest.raises(ValueError, match=re.escape("every must be at least 1, got 0.")):
        check_at_least(1, size=3, every=0, last=-1)
    with pytest.raises(ValueError, match=re.escape("share must be at least 0: it is a share, got nan.")):
        check_at_least(0, ": it is a share", share=math.nan)


def test_an_unknown_word_is_refused_with_the_nearest() -> None:
    check_choice("kl", "k2", ("k2", "k3"))
    with pytest.raises(
        ValueError, match=re.escape("kl must be one of latent, k3, got 'latents'; did you mean 'latent'?")
    ):
        check_choice("kl", "latents", ("latent", "k3"))
    with pytest.raises(ValueError, match=re.escape("kl must be one of latent, k3, got 'mean'.")):
        check_choice("kl", "mean", ("latent", "k3"))


def test_a_missing_directory_is_refused_and_a_hub_id_is_not(tmp_path: Path) -> None:
    check_pretrained(str(tmp_path))
    check_pretrained("owner/model")
    for missing in ("", str(tmp_path / "missing"), "./missing"):
        with pytest.raises(ValueError, match="must be a directory or a hub id"):
            check_pretrained(missing)
