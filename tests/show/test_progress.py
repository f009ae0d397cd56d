from __future__ import annotations

import io

import pytest

from sgma_jax.show import progress
from sgma_jax.show.progress import Progress


class _Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_without_a_terminal_lines_are_plain_and_rare(clock: _Clock) -> None:
    stream = io.StringIO()
    with Progress("training", 100, stream=stream) as bar:
        for step in range(1, 101):
            clock.now += 1.0
            bar.update(step, loss=0.5, images_per_second=8.0)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "training 1/100  loss 0.5000  8.0 images/s  1:39 left"
    assert lines[-1] == "training 100/100  loss 0.5000  8.0 images/s"
    assert len(lines) == 11
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_a_resumed_run_does_not_count_what_was_done_before_towards_its_speed(clock: _Clock) -> None:
    stream = io.StringIO()
    with Progress("training", 1000, start=900, stream=stream) as bar:
        clock.now += 10.0
        bar.update(910)
    assert stream.getvalue() == "training 910/1000  1:30 left\n"


def test_on_a_terminal_the_bar_shows_loss_and_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Progress("training", 10, stream=stream) as bar:
        bar.update(5, loss=0.25, images_per_second=12.0)
        bar.say("step 5: mIoU 0.5")
    text = stream.getvalue()
    assert all(part in text for part in ("5/10", "loss 0.2500", "12.0 images/s", "step 5: mIoU 0.5"))
