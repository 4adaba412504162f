import pytest

from realgen.policies.solvers import CachedVelocity


def test_a_cache_of_one_step_is_none() -> None:
    with pytest.raises(ValueError, match="every must be at least 2, got 1; solver=null evaluates every step"):
        CachedVelocity(1)
