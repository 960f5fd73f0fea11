"""What long work shows while it runs."""

import io
import sys

import pytest

from ssd_jax.loop import progress
from ssd_jax.loop.log import Log
from ssd_jax.loop.progress import Clock, duration, shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (125, "2:05"), (3599.9, "1:00:00"), (90061, "25:01:01")],
)
def test_a_duration_is_written_as_on_a_clock(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, by `clock[0]`."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_work_shows_a_line_now_and_then(clock, capsys):
    """A hundred items, each of which takes 8 seconds."""
    done = []
    for item in shown(iter(range(100)), "evaluate", total=100):
        clock[0] += 8
        done.append(item)
    assert done == list(range(100))
    printed = capsys.readouterr()
    assert printed.out == ""
    first, second, *rest = printed.err.splitlines()
    assert first == "evaluate 4/100  0:32 elapsed, 12:48 left"
    assert second == "evaluate 8/100  1:04 elapsed, 12:16 left"
    assert len(rest) == 22 and rest[-1] == "evaluate 96/100  12:48 elapsed, 0:32 left"


def test_short_work_and_work_of_another_process_show_nothing(clock, capsys):
    assert list(shown("abc", "evaluate", total=3)) == ["a", "b", "c"]
    for _ in shown("abc", "evaluate", total=3, enabled=False):
        clock[0] += 100
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_work_shows_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(shown("abc", "evaluate", total=3)) == ["a", "b", "c"]
    assert "evaluate:" in sys.stderr.getvalue() and "0/3" in sys.stderr.getvalue()


@pytest.mark.parametrize("eval_every", [0, 3, 4, 10, 20])
@pytest.mark.parametrize("step", [0, 3, 4, 9])
def test_the_time_left_counts_steps_and_evaluations(eval_every, step, clock):
    """Ten steps of 2 seconds, evaluations of 100, counted one by one."""
    run = Clock(10, eval_every)
    run.evaluated(100.0)
    later = range(step + 1, 11)
    evaluations = [s for s in later if eval_every and (s % eval_every == 0 or s == 10)]
    assert run.left(step, 2.0) == 2 * len(later) + 100 * len(evaluations)
    clock[0] += 7
    assert run.elapsed == 7


def test_the_log_shows_the_time_in_plain_lines_and_on_a_bar(tmp_path, capsys, monkeypatch):
    with Log(tmp_path, start_step=0, steps=10) as log:
        log.progress(1, {"loss": 1.0}, elapsed=2.0)
        log.progress(2, {"loss": 1.0}, elapsed=65.0, left=130.0)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "step 1/10  loss 1  0:02 elapsed"
    assert second == "step 2/10  loss 1  1:05 elapsed, 2:10 left"
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Log(tmp_path, start_step=0, steps=10) as log:
        log.progress(2, {"loss": 1.0}, elapsed=65.0, left=130.0)
        bar = sys.stderr.getvalue()
    assert "2/10 [00:00 elapsed, 2:10 left  loss 1]" in bar
