"""What a user sees of a long job, with and without a terminal, and the log of the packages beside it."""

import io
import logging
from collections.abc import Callable

import pytest
from rich.console import Console

from eo_backbones.progress import ProgressBars, Speed, duration


class Time:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def shown() -> Callable[..., tuple[ProgressBars, Callable[[], str]]]:
    def make(*, terminal: bool, clock: Callable[[], float]) -> tuple[ProgressBars, Callable[[], str]]:
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=120, color_system=None)
        return ProgressBars(console, clock=clock), file.getvalue

    return make


def test_without_a_terminal_a_line_every_half_minute_says_where_it_is(shown: Callable, time: Time) -> None:
    progress, text = shown(terminal=False, clock=time)
    with progress, progress.stage("byol-mini", 100, done=20) as tick:
        for seconds, steps in ((10, 10), (29, 10), (32, 24), (40, 10)):
            time.now = 100 + seconds
            tick(steps, "loss 0.7500")
    assert text().splitlines() == ["byol-mini", "byol-mini: 64/100, loss 0.7500, 26 s left"]  # 44 steps took 32 s


def test_a_stage_with_details_ends_with_a_line(shown: Callable, time: Time) -> None:
    progress, text = shown(terminal=False, clock=time)
    with progress:
        with progress.stage("scenes", 2) as tick:
            tick(2, "1 skipped, 7/s")
        with progress.stage("report", 1) as tick:
            tick(1)
        with progress.stage("nothing left", 0):
            pass
    assert text().splitlines() == ["scenes", "scenes: 2/2, 1 skipped, 7/s", "report"]


def test_in_a_terminal_a_bar_says_the_same(shown: Callable, time: Time) -> None:
    progress, text = shown(terminal=True, clock=time)
    with progress, progress.stage("scenes", 200, done=50) as tick:
        time.now += 60
        tick(50, "1 skipped")
        progress.note("a line [above] the bar")
    assert "a line [above] the bar" in text()
    assert "50/200" in text()
    assert "200/200 1 skipped 0:" in text(), "complete at the end, and no time left"


def test_an_interrupted_stage_stops_the_bars(shown: Callable, time: Time) -> None:
    progress, text = shown(terminal=True, clock=time)
    with pytest.raises(KeyboardInterrupt), progress, progress.stage("scenes", 2):
        raise KeyboardInterrupt
    assert text().count("\x1b[?25l") == text().count("\x1b[?25h") == 1, "the cursor is hidden, then shown again"


def test_the_log_is_shown_and_left_as_it_was(shown: Callable, time: Time) -> None:
    logger = logging.getLogger("eo_backbones_train")
    handlers, level = list(logger.handlers), logger.level
    progress, text = shown(terminal=False, clock=time)
    with pytest.raises(KeyboardInterrupt), progress:
        logging.getLogger("eo_backbones_train.data").info("%d scenes", 12)
        logging.getLogger("eo_backbones.models").warning("not pinned")
        raise KeyboardInterrupt
    assert text().splitlines() == ["12 scenes", "warning: not pinned"]
    assert (logger.handlers, logger.level) == (handlers, level)


def test_speed_is_that_since_the_previous_reading(time: Time) -> None:
    speed = Speed(10, clock=time)
    time.now += 2
    assert speed.read(15) == pytest.approx(5 / 2)
    time.now += 1
    assert speed.read(30) == pytest.approx(15)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3540, "59 min"), (11100, "3 h 05 min")]
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
