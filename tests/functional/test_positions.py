import numpy as np
import pytest
import torch

from realgen.functional.positions import stretch_positions


def test_clips_77_become_long_clips_248():
    assert stretch_positions(torch.zeros(77, 3)).shape == (248, 3)


def test_kept_rows_stay_and_the_others_are_interpolated():
    table = torch.randn(77, 2, dtype=torch.float64)
    stretched = stretch_positions(table)
    assert torch.equal(stretched[:20], table[:20])
    # Row p of the stretched tail lies at 20 + (p - 20) / 4 of the old table; the last three lie behind its end.
    at = 20 + (np.arange(20, 245) - 20) / 4
    for column in range(2):
        expected = np.interp(at, np.arange(77), table[:, column].numpy())
        np.testing.assert_allclose(stretched[20:245, column].numpy(), expected, atol=1e-12)


def test_behind_the_end_the_last_difference_goes_on():
    line = torch.arange(77, dtype=torch.float64)[:, None] * torch.tensor([1.0, -2.0], dtype=torch.float64)
    stretched = stretch_positions(line)[20:, 0]
    np.testing.assert_allclose(stretched.numpy(), 20 + np.arange(228) / 4, atol=1e-12)


def test_a_short_table_is_refused():
    with pytest.raises(ValueError, match="more than 21 rows to be stretched behind row 20, got 21"):
        stretch_positions(torch.zeros(21, 2))
