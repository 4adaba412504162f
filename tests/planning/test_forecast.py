"""What GPUs do at most, and what settings make of it."""

from __future__ import annotations

from realgen.planning.forecast import GPUS


def test_the_precision_of_float32_products_decides_their_rate() -> None:
    h200 = GPUS["h200"]
    assert h200.at_precision("highest") is h200
    rounded = h200.at_precision("high")
    assert (rounded.fp32, rounded.bf16) == (h200.tf32, h200.bf16)
    assert "float32_matmul_precision=high" in rounded.source
    assert GPUS["rtx4090"].at_precision("high") is GPUS["rtx4090"]  # TF32 is no faster there
