"""What command lines share: flags, help, one-line errors, and an output that may be gone."""

import ast
import io
import logging
import os
import re
import subprocess
import sys

import pytest
from launch import ROOT

import ssd_jax
from configs import ssd300_voc
from ssd_jax.cli import COMMANDS, main
from ssd_jax.command import COMMON_FIELDS, Output, Parser, command, parse_step
from ssd_jax.config_file import config_names, describe_fields

LOGGER = logging.getLogger("ssd_jax")


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
def test_logging_is_afterwards_as_it_was_before(level, capsys):
    before = LOGGER.level, LOGGER.propagate, list(LOGGER.handlers), sys.stdout, sys.stderr
    with command(level):
        LOGGER.warning("a warning")
        LOGGER.warning("a %s", "warning")  # it was said
    assert (LOGGER.level, LOGGER.propagate, LOGGER.handlers, sys.stdout, sys.stderr) == before
    assert capsys.readouterr().err == ("WARNING: a warning\n" if level == logging.WARNING else "")


def test_an_error_of_the_user_is_one_line_and_the_rest_is_not_hidden(monkeypatch):
    monkeypatch.delenv("SSD_JAX_TRACEBACK", raising=False)
    with pytest.raises(SystemExit, match=r"^error: rule; got this and that$"), command():
        raise ValueError("rule; got this\nand that")
    with pytest.raises(SystemExit) as caught, command():
        raise KeyboardInterrupt
    assert caught.value.code == 130
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


# ---------------------------------------------------------------------------------------------- flags


@pytest.fixture
def parser():
    parser = Parser("try", "Try something.", examples=("try --size=3",), fields="the config")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--size", type=int, default=1)
    parser.add_argument("--fast", action="store_true")
    return parser


def test_flags_files_and_overrides_come_in_any_order(parser):
    options = parser.read(["a", "--config.steps=3", "--size", "2", "b", "--config.data.root", "c", "--fast", "d"])
    assert (options.files, options.size, options.fast) == (["a", "b", "d"], 2, True)
    assert options.overrides == ["--config.steps=3", "--config.data.root", "c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sise=2"], "unrecognized arguments: --sise=2; did you mean --size?"),
        (["--fst", "--other"], "unrecognized arguments: --fst --other; did you mean --fast?"),
        (["--size=two"], "argument --size: invalid int value: 'two'"),
        (["--confg.steps=2"], "unrecognized arguments: --confg.steps=2"),
    ],
)
def test_a_wrong_flag_is_one_line(parser, arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parser.read(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {message}; ssd-jax try --help lists the flags\n"


def test_a_command_without_a_config_refuses_its_fields(capsys):
    with pytest.raises(SystemExit):
        Parser("try", "Try something.", examples=()).read(["--config.steps=3"])
    assert "error: unrecognized arguments: --config.steps=3" in capsys.readouterr().err


def test_the_common_fields_are_those_of_the_full_config():
    config = ssd300_voc.get_config()
    for name, value, comment in describe_fields(COMMON_FIELDS):
        assert config_path_of(config, name) == ast.literal_eval(value) if name != "data.class_names" else "VOC"
        assert not comment.endswith(" ")


def config_path_of(config, name):
    for part in name.split("."):
        config = config[part]
    return config


COMMAND_LINE = [sys.executable, "-X", "importtime", "-m", "ssd_jax"]


def help_of(*arguments):
    done = subprocess.run(
        [*COMMAND_LINE, *arguments], cwd=ROOT, env=os.environ | {"COLUMNS": "120"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    return done.stdout, imported


def test_the_help_names_the_commands_and_the_configs_and_does_not_import_jax():
    text, imported = help_of("--help")
    assert "ssd_jax.cli" in imported and not imported & {"jax", "numpy", "flax"}
    for name, (_, summary) in COMMANDS.items():
        assert f"  {name:<8} {summary}\n" in text
    assert all(name in text for name in config_names())


@pytest.mark.parametrize("name", ["train", "eval", "detect"])
def test_the_help_of_a_command_needs_no_jax(name):
    text, imported = help_of(name, "--help")
    assert "ssd_jax.config_file" in imported and not imported & {"jax", "numpy", "flax"}
    assert text.startswith(f"usage: ssd-jax {name} ")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_examples_configs_and_common_fields(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    examples = [line for line in text.splitlines() if line.startswith(f"  ssd-jax {name} ")]
    assert len(examples) >= 2
    assert all(config in text for config in config_names())
    assert re.search(r"^  batch_size +32 +over all devices$", text, re.MULTILINE)
    assert re.search(r"^  schedule.learning_rate +1e-3$", text, re.MULTILINE)


def test_an_unknown_command_is_one_line_that_lists_the_commands():
    with pytest.raises(SystemExit, match=r"^error: COMMAND must be one of train, eval, detect, .*; got 'tran'$"):
        main(["tran"])


def test_the_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"ssd-jax {ssd_jax.__version__}\n"


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
