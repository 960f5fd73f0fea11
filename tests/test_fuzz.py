"""Readers answer damaged files with a result or an error of one line; the long form is `python tests/fuzz.py`."""

import re
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest

SCRIPT = Path(fuzz.__file__)


def run(*options):
    result = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=600)
    assert "Traceback" not in result.stderr, result.stderr
    return result


def test_five_thousand_damaged_files(tmp_path):
    result = run("--cases=5000", f"--keep={tmp_path}")
    assert result.returncode == 0, result.stdout + result.stderr
    counts = re.search(r"^all +(\d+) +(\d+) +(\d+) +0 +0 +0 +0 +0 ", result.stdout, re.MULTILINE)
    assert counts, result.stdout
    cases, results, errors = map(int, counts.groups())
    assert cases >= 5000
    assert results > 100  # most damage is seen, some is not or does no harm
    assert errors > 100


def test_a_case_depends_only_on_the_seed_the_target_and_its_number():
    for name, target in fuzz.TARGETS.items():
        if not target.needs:
            seeds = target.seeds()
            cases = {fuzz.make_case(name, number, 1, seeds) for number in range(20)}
            assert cases == {fuzz.make_case(name, number, 1, target.seeds()) for number in reversed(range(20))}
            assert len(cases) > 15
            assert cases != {fuzz.make_case(name, number, 2, seeds) for number in range(20)}


@pytest.mark.parametrize("name", fuzz.FAULTY)
def test_each_kind_of_fault_is_found_and_its_file_kept(tmp_path, name):
    kind = {"lines": "message", "nameless": "message", "stuck": "hang"}.get(name[7:], name[7:].partition("_")[0])
    # Only one limit is near, so that a busy machine does not meet the other first.
    limits = ["--seconds=1", "--megabytes=2000"] if kind == "hang" else ["--seconds=30", "--megabytes=60"]
    result = run("--cases=2", f"--target={name}", f"--keep={tmp_path}", *limits)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{name} 1: {kind}: " in result.stdout
    assert f"again: python tests/fuzz.py --seed=1 --target={name} --case=1" in result.stdout
    assert (tmp_path / f"{name}-1-1.txt").read_bytes() == b"bad"
