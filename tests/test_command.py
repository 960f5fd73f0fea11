"""What command lines share: one-line errors, the config's mistakes, and an output that may be gone."""

import io
import logging
import os
import subprocess
import sys

import pytest
from absl import flags
from launch import ROOT
from ml_collections import config_flags

from ssd_jax.command import Output, command, parse_flags, parse_step, refuse_arguments

# ml_collections loads a config by a method that Python 3.11 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

LOGGER = logging.getLogger("ssd_jax")


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
def test_logging_is_afterwards_as_it_was_before(level, capsys):
    before = LOGGER.level, LOGGER.propagate, list(LOGGER.handlers), sys.stdout, sys.stderr
    with command(level):
        LOGGER.warning("a warning")
    assert (LOGGER.level, LOGGER.propagate, LOGGER.handlers, sys.stdout, sys.stderr) == before
    assert capsys.readouterr().err == ("WARNING: a warning\n" if level == logging.WARNING else "")


def test_an_error_of_the_user_is_one_line_and_the_rest_is_not_hidden(monkeypatch):
    monkeypatch.delenv("SSD_JAX_TRACEBACK", raising=False)
    with pytest.raises(SystemExit, match=r"^error: rule; got this and that$"), command():
        raise ValueError("rule; got this\nand that")
    with pytest.raises(ZeroDivisionError), command():
        raise ZeroDivisionError
    monkeypatch.setenv("SSD_JAX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="rule"), command():
        raise ValueError("rule")
    assert LOGGER.propagate


def test_an_error_of_the_system_is_reported_without_its_number(tmp_path):
    with pytest.raises(SystemExit, match=f"^error: {tmp_path}/none: No such file or directory$"), command():
        (tmp_path / "none").read_text()


@pytest.mark.parametrize("text", ["newest", "-1", "1.0", "", "\N{SUPERSCRIPT TWO}"])
def test_a_step_is_a_number_or_best(text):
    assert (parse_step("12"), parse_step("best"), parse_step(None)) == (12, "best", None)
    with pytest.raises(ValueError, match="step must be a number or best; got"):
        parse_step(text)


def test_arguments_that_are_no_flags_are_refused():
    refuse_arguments(["train.py"])
    with pytest.raises(ValueError, match="arguments must be flags, --NAME=VALUE; got one two"):
        refuse_arguments(["train.py", "one", "two"])


# ---------------------------------------------------------------------------------------------- the config

CONFIG = """
import numpy as np
from ml_collections import ConfigDict

def get_config(size=""):
    config = ConfigDict({"steps": 3, "data": {"root": "", "sizes": (1, 2)}})
    config.lock()
    # a mistake
    return config
"""


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """Parse flags with a config in which `# a mistake` is another line."""
    monkeypatch.delenv("SSD_JAX_TRACEBACK", raising=False)
    config_flags.DEFINE_config_file("config", None, "")

    def parse(line="", *rest, text=CONFIG, separate=False, argument=""):
        path = tmp_path / "mine.py"
        path.write_text(text.replace("# a mistake", line))
        named = ["--config", f"{path}{argument}"] if separate else [f"--config={path}{argument}"]
        monkeypatch.setattr(sys, "argv", ["train.py", *named, *rest])  # where ml_collections looks for --config.
        parse_flags(sys.argv)
        return flags.FLAGS.config

    yield parse
    sys.modules.pop("config_config", None)
    for name in list(flags.FLAGS):
        if name.partition(".")[0] == "config":
            delattr(flags.FLAGS, name)


@pytest.mark.parametrize("options", [{}, {"separate": True}, {"argument": ":small"}])
def test_a_config_is_read_and_changed_by_flags(parse, options):
    config = parse("", "--config.steps=4", "--config.data.sizes=(7,)", **options)
    assert (config.steps, config.data.sizes) == (4, (7,))


@pytest.mark.parametrize("flag", ["--config.steps=4", "--log_dir=x"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("np.flot(3)", "AttributeError: module 'numpy' has no attribute 'flot'"),
        ("config.stpes = 3", 'AttributeError: \'Key "stpes" does not exist and cannot be added since the'),
        ("config['data']['rot']", "KeyError: 'rot'"),
        ("int('a')", "ValueError: invalid literal for int() with base 10: 'a'"),
        ("open('nowhere')", "FileNotFoundError: "),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("return 1 +", "invalid syntax"),
    ],
)
def test_a_mistake_in_a_config_is_one_line_that_shows_its_line(parse, line, message, flag, monkeypatch, tmp_path):
    with pytest.raises(SystemExit) as caught:
        parse(line, flag)
    text = str(caught.value)
    assert text.startswith(f"error: {tmp_path}/mine.py, line 8: {line}: ") and "\n" not in text
    assert message in text
    monkeypatch.setenv("SSD_JAX_TRACEBACK", "1")
    with pytest.raises(Exception) as caught:
        parse(line, flag)
    assert not isinstance(caught.value, SystemExit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "a config must define get_config(); got a file without it"),
        ("def get_config():\n    return {'steps': 3}", "get_config() must return a ConfigDict; got dict"),
        ("def get_config():\n    pass", "get_config() must return a ConfigDict; got NoneType"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(parse, text, message, tmp_path):
    with pytest.raises(SystemExit) as caught:
        parse(text=text)
    assert str(caught.value) == f"error: {tmp_path}/mine.py: {message}"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.data.rot=x", "; got --config.data.rot=x; did you mean 'root'?"),
        ("--config.stps=4", "; got --config.stps=4; did you mean 'steps'?"),
        ("--config.optimizer.lrr=1", "; got --config.optimizer.lrr=1"),
        ("--config.steps.much=1", "; got --config.steps.much=1"),
        ("--config.data.sizes[5]=1", "; got --config.data.sizes[5]=1"),
        ("--config.steps=many", "flag --config.steps=many: invalid literal for int()"),
        ("--config.steps", "Missing value for flag --config.steps"),
        ("--confg=x", "Unknown command line flag 'confg'. Did you mean: config"),
    ],
)
def test_a_flag_that_the_config_does_not_have_is_one_line(parse, flag, message):
    with pytest.raises(SystemExit) as caught:
        parse("", "--config.data.root=here", flag)
    text = str(caught.value)
    assert text.startswith("error: ") and message in text and "\n" not in text
    if "; got" in message:
        assert text.startswith("error: a --config. flag must name a field of the config; got ")


@pytest.mark.parametrize("named", [["--config=none.py:small"], ["--config", "none.py"], ["-config=none.py"]])
def test_a_config_that_does_not_exist_is_one_line(named):
    with pytest.raises(SystemExit, match=r"^error: no such config: none\.py$"):
        parse_flags(["train.py", *named, "--workdir=runs/none"])


# ---------------------------------------------------------------------------------------------- the output


def test_what_an_encoding_lacks_is_written_as_escapes():
    file = io.BytesIO()
    with Output(io.TextIOWrapper(file, encoding="ascii", write_through=True)) as output:
        print("caf\N{LATIN SMALL LETTER E WITH ACUTE}, \udcff", file=output)
    assert file.getvalue() == b"caf\\xe9, \\udcff\n"


def test_a_stream_that_is_closed_takes_everything(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with command():
        print("a line")
        sys.stdout.flush()
    assert sys.stdout is None


def test_a_reader_that_went_away_does_not_end_the_run(tmp_path):
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream, Output(stream) as output:
        os.close(read)
        for _ in range(3):
            print("a line", file=output, flush=True)
        (tmp_path / "result").write_text("done")
    assert (tmp_path / "result").exists()


SCRIPT = """
import sys
from ssd_jax.command import command
with command():
    for i in range(20_000):
        print("line", i)
    raise ValueError("the last line; got here")
"""


@pytest.mark.parametrize("shell", ["{} | head -1", "{} >&-", "{} 2>&1 >&- | cat", "{} 2>&1 | head -1"])
def test_a_program_goes_on_without_its_output(shell, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    shell = shell.format(f"{sys.executable} {tmp_path}/script.py")
    done = subprocess.run(
        ["bash", "-c", f"{shell}; echo ${{PIPESTATUS[0]}} > {tmp_path}/code"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (tmp_path / "code").read_text() == "1\n"
    assert "Traceback" not in done.stdout + done.stderr and "Broken" not in done.stdout + done.stderr
    assert done.stdout in ("line 0\n", "", "error: the last line; got here\n")


def test_a_platform_that_is_not_there_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "train.py", "--config=configs/shapes.py", f"--workdir={tmp_path}/run"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cuda", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert done.stderr.startswith("error: JAX must find a device; got none with JAX_PLATFORMS='cuda'")
    assert done.stderr.count("\n") == 1
