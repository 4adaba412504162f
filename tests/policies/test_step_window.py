import pytest
import torch

from realgen.functional import CPS, FlowSDE
from realgen.policies import AllSteps, RandomWindow, SlidingWindow


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def starts(window, num_prompts: int, num_steps: int, *, iteration: int = 0, seed: int = 0) -> list[int]:
    return window.sample(num_prompts, num_steps, iteration=iteration, generator=generator(seed)).tolist()


def test_all_steps() -> None:
    assert starts(AllSteps(), 3, 10) == [0, 0, 0]
    assert AllSteps().decisions(10) == 10
    assert AllSteps(skip_last=True).decisions(10) == 9


def test_random_window_reaches_every_start_and_no_other() -> None:
    assert set(starts(RandomWindow(3), 500, 8)) == {0, 1, 2, 3, 4, 5}
    assert set(starts(RandomWindow(3, start_min=1, start_max=2), 500, 8)) == {1, 2}


def test_random_window_is_uniform() -> None:
    counts = torch.bincount(torch.tensor(starts(RandomWindow(3), 6000, 8)), minlength=6)
    assert (counts - 1000).abs().max() < 5 * (6000 * 1 / 6 * 5 / 6) ** 0.5  # five standard deviations


def test_random_window_depends_on_the_generator_alone() -> None:
    window = RandomWindow(2)
    assert starts(window, 20, 16, seed=1) == starts(window, 20, 16, seed=1, iteration=7)
    assert starts(window, 20, 16, seed=1) != starts(window, 20, 16, seed=2)


def test_random_window_differs_between_prompts_and_calls() -> None:
    window, source = RandomWindow(2), generator()
    first, second = (window.sample(20, 16, iteration=0, generator=source) for _ in range(2))
    assert first.unique().numel() > 5
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (SlidingWindow(2, interval=3), [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3]),  # stays at 5 - 2
        (SlidingWindow(2, interval=1, stride=2), [0, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]),
        (SlidingWindow(2, interval=1, stride=2, roll_back=True), [0, 2, 3] * 5),
        (SlidingWindow(2, interval=2, roll_back=True), [0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 1, 1, 2, 2, 3]),
    ],
)
def test_sliding_window(window: SlidingWindow, expected: list[int]) -> None:
    assert [starts(window, 1, 5, iteration=iteration) for iteration in range(15)] == [[step] for step in expected]


def test_sliding_window_is_the_same_for_all_prompts() -> None:
    assert starts(SlidingWindow(2, interval=1), 4, 8, iteration=3) == [3, 3, 3, 3]


@pytest.mark.parametrize(
    "window", [AllSteps(), AllSteps(True), RandomWindow(4), RandomWindow(2, 1, 2), SlidingWindow(4, 1)]
)
def test_windows_that_fit_are_accepted(window) -> None:
    window.check(4)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (RandomWindow(5), r"RandomWindow covers 5 steps; it must cover 1 to num_steps=4 of them"),
        (SlidingWindow(5, 1), r"SlidingWindow covers 5 steps; it must cover 1 to num_steps=4"),
        (RandomWindow(2, start_max=3), r"may start at steps 0 to 3; with num_steps=4 it can start at 0 to 2"),
        (RandomWindow(2, start_min=3), r"with num_steps=4 it can start at 0 to 2"),
    ],
)
def test_windows_that_do_not_fit_are_refused(window, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        window.check(4)


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="AllSteps covers 0 steps"):
        AllSteps(skip_last=True).check(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomWindow(0), "size must be at least 1, got 0"),
        (lambda: RandomWindow(1, start_min=-1), "0 <= start_min <= start_max, got -1, None"),
        (lambda: RandomWindow(1, start_min=2, start_max=1), "0 <= start_min <= start_max, got 2, 1"),
        (lambda: SlidingWindow(0, 1), "size must be at least 1, got 0"),
        (lambda: SlidingWindow(1, 0), "interval must be at least 1, got 0"),
        (lambda: SlidingWindow(1, 1, stride=0), "stride must be at least 1, got 0"),
        (lambda: SlidingWindow(1, 3, dwell="linear", shortest=4), "shortest must be at most interval=3, got 4"),
    ],
)
def test_impossible_numbers_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_step_without_noise_is_refused() -> None:
    sigmas = torch.tensor([1.0, 0.75, 0.5, 0.0])
    with pytest.raises(ValueError, match=r"step_window may cover steps \[2\] of 3, to which transition CPS adds no"):
        AllSteps().check_noise(CPS(), sigmas)
    AllSteps(skip_last=True).check_noise(CPS(), sigmas)
    AllSteps().check_noise(FlowSDE(0.0), sigmas)  # no noise is intended


@pytest.mark.parametrize(
    ("settings", "num_steps", "stays"),
    [
        ({"interval": 2, "stride": 2}, 7, [2, 2, 2, 2]),  # starts 0, 2, 4, 5
        ({"interval": 5, "dwell": "linear", "shortest": 1}, 6, [5, 4, 3, 2, 1]),
        ({"interval": 3, "dwell": "linear", "shortest": 1}, 2, [3]),
        ({"interval": 4, "dwell": "exponential"}, 20, [4] * 14 + [4, 4, 3, 3, 3]),  # ceil(4 exp(-0.1 k)), k = 1 to 5
    ],
)
def test_a_sliding_window_stays_as_long_as_its_dwell_says(settings: dict, num_steps: int, stays: list[int]) -> None:
    size = 2
    starts = [*range(0, num_steps - size, settings.get("stride", 1)), num_steps - size]
    expected = [start for start, stay in zip(starts, stays, strict=True) for _ in range(stay)]
    for roll_back, behind in ((True, expected[:3]), (False, [starts[-1]] * 3)):
        window = SlidingWindow(size, **settings, roll_back=roll_back)
        generator = torch.Generator()
        found = [int(window.sample(1, num_steps, iteration=i, generator=generator)) for i in range(len(expected) + 3)]
        assert found == expected + behind[:3]
