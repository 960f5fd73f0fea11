"""A full disk ends a run with one line within seconds, and the same command goes on after room was made."""

import functools
import os
import re
import resource
import shutil
import subprocess

import jax
import numpy as np
import pytest
import shapes_config
from launch import lines, parameters, start, start_training

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.files import append_text, write_json, write_text
from ssd_jax.loop.log import Log
from ssd_jax.loop.train import train

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote
NO_ROOM = r"(No space left on device|File too large)"  # the second where files are limited


@pytest.fixture
def limited():
    """Limit the files that this process writes to so many bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("write", [write_text, write_json])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_file_is_written_whole_or_not_at_all(write, old, limited, tmp_path):
    path = tmp_path / "file"
    if old:
        path.write_text(old)
    limited(1000)
    with pytest.raises(OSError, match="File too large") as error:
        write(path, "new" * 1000)
    assert error.value.filename == str(path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == ([("file", "old")] if old else [])


def test_a_row_that_is_not_written_whole_names_its_file(limited, tmp_path):
    limited(1000)
    with pytest.raises(OSError, match="File too large") as error:
        append_text(tmp_path / "file", "row" * 1000)
    assert error.value.filename == str(tmp_path / "file")


def test_a_full_disk_ends_tensorboard_at_once(limited, tmp_path):
    with pytest.raises(OSError, match="File too large") as error, Log(tmp_path, start_step=0, steps=10) as log:
        limited(3000)
        for step in range(1000):  # the thread of tensorboardX's SummaryWriter died, and its queue of 10 blocked
            log.images(step, {"image": np.zeros((8, 8, 3), np.uint8)})
    assert error.value.filename == str(tmp_path / "tensorboard")


class TmpFS:
    """A disk of 4 MB."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", folder], check=True, capture_output=True)

    def fill(self, kilobytes):
        """Leave so much room."""
        self.free()
        space = os.statvfs(self.folder)
        with open(self.folder / "filler", "wb") as file:
            file.write(bytes(max(0, space.f_bavail * space.f_frsize - kilobytes * 1024)))

    def limit(self, process):
        pass

    def free(self):
        (self.folder / "filler").unlink(missing_ok=True)

    def close(self):
        subprocess.run(["umount", self.folder], check=True)


class Limit:
    """Where no disk may be mounted: a limit of the size of a file."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def fill(self, kilobytes):
        self.size = kilobytes * 1024 // 4  # the room is for several files

    def limit(self, process):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (self.size, self.size))

    def free(self):
        pass

    def close(self):
        pass


@pytest.fixture
def disk(tmp_path):
    try:
        disk = TmpFS(tmp_path / "disk")
    except (OSError, subprocess.CalledProcessError):
        disk = Limit(tmp_path / "limited")
    yield disk
    disk.free()
    disk.close()


def test_a_run_on_a_full_disk_ends_with_one_line_and_goes_on_after_room_was_made(disk, tmp_path):
    config = shapes_config.get_config()
    train(config, tmp_path / "run")
    workdir, left_out = disk.folder / "run", shutil.ignore_patterns("5", "tensorboard")
    shutil.copytree(tmp_path / "run", workdir, ignore=left_out)
    saved = parameters(workdir, 10)
    settings = ("--config.steps=1000", "--config.log_every=1", "--config.eval_every=0")
    shared = {"devices": 4, "cache": jax.config.jax_compilation_cache_dir}

    def training(save_every):
        return start_training(workdir, *settings, f"--config.save_every={save_every}", **shared)

    def evaluation():
        script = f"import runpy, sys, tiny; sys.argv = ['eval.py', '--workdir={workdir}']"
        script += "; runpy.run_path('eval.py', run_name='__main__')"  # tiny has the backbone
        return start("-c", script, **shared)

    for kilobytes, begin, file in (
        (0, functools.partial(training, 1000), r"(.lock|config.json)"),
        (16, functools.partial(training, 1000), r"(metrics.jsonl|tensorboard)"),
        (80, functools.partial(training, 20), r"checkpoints, those there are whole"),
        (0, evaluation, r"eval_test_11.json"),
    ):
        disk.fill(kilobytes)
        with begin() as process:
            disk.limit(process)
            output, errors = process.communicate(timeout=120)
        assert process.returncode == 1, (output, errors)
        ours = [
            line for line in errors.splitlines() if not re.match(r"WARNING: |[IWE]\d{4} ", line)
        ]  # the rest is XLA's
        assert len(ours) == 1 and re.fullmatch(rf"error: .*/{file}.*: {NO_ROOM}", ours[0]), errors
        assert not list(workdir.glob("*.partial"))
        with Checkpoints.of_run(workdir) as checkpoints:
            assert checkpoints.latest() == 10
            for a, b in zip(jax.tree.leaves(checkpoints.restore_variables(10)), jax.tree.leaves(saved), strict=True):
                np.testing.assert_array_equal(a, b)
    assert "mAP" in output  # eval.py prints what it cannot write

    disk.free()
    with start_training(workdir, "--config.steps=12", *settings[1:], **shared) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert [line["step"] for line in lines(workdir)][-3:] == [10, 11, 12]
    with Checkpoints.of_run(workdir) as checkpoints:
        assert checkpoints.steps() == [10, 12]
