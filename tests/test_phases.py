"""An error knows the innermost phase in which it was raised."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from realgen.phases import phase, phase_of


def fail() -> None:
    with phase("inside"):
        raise MemoryError


def test_the_innermost_phase_counts() -> None:
    with pytest.raises(MemoryError) as raised, phase("outside"):
        fail()
    assert phase_of(raised.value) == "inside"


def test_an_error_behind_a_phase_has_the_outer_one() -> None:
    def fail_later() -> None:
        with phase("outside"):
            with phase("inside"):
                pass
            raise ValueError("later")

    with pytest.raises(ValueError, match="later") as raised:
        fail_later()
    assert phase_of(raised.value) == "outside"


def test_a_decorated_function_keeps_its_name_and_result_and_can_be_called_twice() -> None:
    @phase("sum")
    def add(a: int, b: int) -> int:
        return a + b

    assert (add(1, 2), add(a=3, b=4), add.__name__) == (3, 7, "add")


def test_the_note_comes_out_of_a_thread() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(MemoryError) as raised, phase("waiting"):
        pool.submit(fail).result()
    assert phase_of(raised.value) == "inside"


def test_outside_of_all_phases_there_is_none() -> None:
    assert phase_of(ValueError()) is None
