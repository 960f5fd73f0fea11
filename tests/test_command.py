"""What command lines share leaves the process as it found it."""

import logging

import pytest

from ssd_jax.command import command, parse_flags

LOGGER = logging.getLogger("ssd_jax")


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
def test_logging_is_afterwards_as_it_was_before(level, capsys):
    before = LOGGER.level, LOGGER.propagate, list(LOGGER.handlers)
    with command(level):
        LOGGER.warning("a warning")
    assert (LOGGER.level, LOGGER.propagate, LOGGER.handlers) == before
    assert capsys.readouterr().err == ("WARNING: a warning\n" if level == logging.WARNING else "")


def test_what_the_user_can_mend_is_one_line_and_the_rest_is_not_hidden(monkeypatch):
    monkeypatch.delenv("SSD_JAX_TRACEBACK", raising=False)
    with pytest.raises(SystemExit, match=r"^error: rule, got this$"), command():
        raise ValueError("rule, got this")
    with pytest.raises(ZeroDivisionError), command():
        raise ZeroDivisionError
    monkeypatch.setenv("SSD_JAX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="rule"), command():
        raise ValueError("rule")
    assert LOGGER.propagate


def test_what_the_system_refuses_is_said_without_its_number(tmp_path):
    with pytest.raises(SystemExit, match=f"^error: {tmp_path}/none: No such file or directory$"), command():
        (tmp_path / "none").read_text()


def test_a_config_that_is_not_there_is_one_line():
    with pytest.raises(SystemExit, match=r"^error: no such config: configs/none\.py$"):
        parse_flags(["train.py", "--config=configs/none.py:small", "--workdir=runs/none"])
