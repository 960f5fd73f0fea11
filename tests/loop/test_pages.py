"""Evaluation pages of runs, from a workdir to an HTML file."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from ssd_jax.cli import main
from ssd_jax.loop.evaluate import evaluate
from ssd_jax.loop.log import read_log
from ssd_jax.loop.pages import evaluated, image_loader, write_run_page, write_runs_page

pytest.importorskip("matplotlib", reason="needs matplotlib: the extra [report]")


@pytest.fixture(scope="module")
def evaluated_run(workdir, tmp_path_factory):
    """Return a copy of a trained run that was evaluated, and the results."""
    run = tmp_path_factory.mktemp("pages") / "run A"
    shutil.copytree(workdir, run)
    return run, evaluate(run)


def embedded(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.S)[1].replace("<\\/", "</"))


def test_a_page_shows_the_numbers_and_images_of_the_evaluation(evaluated_run, capsys):
    run, results = evaluated_run
    main(["report", str(run)])
    page = run / "report_val.html"
    assert capsys.readouterr().out == f"written to {page}\n"
    text, data = page.read_text(), embedded(page)
    assert f"{results['mAP']:.4f} (95 % interval" in text and "<h1>run A</h1>" in text
    assert "The training: loss over the steps." in text and "The training: mAP over the steps." in text
    assert {image["id"] for image in data["images"]} == set(evaluated(run, "val").image_ids)
    assert len(data["images"]) == results["images"]


def test_images_are_those_of_the_evaluation(evaluated_run):
    run, _ = evaluated_run
    split, record = "val", evaluated(run, "val")
    assert image_loader(run, split, record)(0).shape == (64, 64, 3)
    moved = dataclasses.replace(record, places=np.roll(record.places, 1))
    with pytest.raises(ValueError, match=f"that of the evaluation, with {record.image_ids[0]!r} at place"):
        image_loader(run, split, moved)(0)
    with pytest.raises(ValueError, match=r"the split val must be that of the evaluation; got \d+ images"):
        image_loader(run, split, dataclasses.replace(record, places=record.places + 1000))


def test_two_runs_on_one_page(evaluated_run, tmp_path, capsys):
    run, _ = evaluated_run
    other = shutil.copytree(run, tmp_path / "run B")
    main(["report", str(run), str(other), f"--out={tmp_path}/both.html"])
    sentence, written = capsys.readouterr().out.splitlines()
    assert sentence.startswith("run B and run A cannot be told apart: +0.0 mAP") and written.endswith("both.html")
    assert [entry["name"] for entry in embedded(tmp_path / "both.html")["runs"]] == ["run A", "run B"]


def test_a_run_is_not_compared_with_itself(evaluated_run):
    run, _ = evaluated_run
    with pytest.raises(ValueError, match="workdirs to compare must be different; got "):
        write_runs_page([run, f"{run}/"], out="both.html")


def test_the_page_of_an_interrupted_run_leaves_out_the_last_line_of_its_log(evaluated_run, tmp_path):
    run = shutil.copytree(evaluated_run[0], tmp_path / "run C")
    rows = read_log(run)
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 7, "lo')
    assert read_log(run) == rows
    assert "The training: loss over the steps." in write_run_page(run).read_text()


def test_a_run_that_was_not_evaluated_is_one_line(workdir, tmp_path):
    shutil.copy(workdir / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"eval_val.npz: no such file; evaluate first: ssd-jax eval"):
        write_run_page(tmp_path)
