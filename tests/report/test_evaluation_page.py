"""The evaluation page: its numbers, and what a browser makes of it."""

import dataclasses
import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import record_maker

from ssd_jax.files import to_json
from ssd_jax.report.analysis import (
    analyse,
    counts_by_score,
    errors_per_image,
    largest,
    missed_per_image,
    to_numbers,
    worst_by_loss,
)
from ssd_jax.report.compare import compare, write_comparison
from ssd_jax.report.evaluation import write_page
from ssd_jax.report.record import Record, load_record

pytest.importorskip("matplotlib", reason="needs matplotlib: the extra [report]")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def record():
    return record_maker.make_record()


@pytest.fixture(scope="module")
def analysis(record):
    return analyse(record, replicates=200)


@pytest.fixture(scope="module")
def page(analysis, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    grey = np.full((100, 120, 3), 128, np.uint8)
    history = [{"step": 1, "loss": 3.0, "eval/mAP": 0.1}, {"step": 2, "loss": 2.0, "eval/mAP": None}]
    write_page(path, analysis, lambda index: grey, title="A <run>", history=history, worst=4, random=3)
    return path


def counted(analysis, threshold, label=None):
    """Return correct and wrong detections and objects by a loop."""
    errors, correct, wrong = analysis.errors, 0, 0
    for outcome, score, of in zip(errors.outcome, errors.detections.scores, errors.detections.labels, strict=True):
        if score >= threshold and (label is None or of == label):
            correct += outcome == "true"
            wrong += outcome not in ("true", "ignored")
    objects = sum(
        not difficult and (label is None or of == label)
        for of, difficult in zip(errors.objects.labels, errors.objects.difficult, strict=True)
    )
    return correct, wrong, objects


def test_the_intervals_hold_the_numbers(analysis, record):
    wanted = record.metric.compute()
    assert analysis.mAP.value == wanted["mAP"]
    for number in (analysis.mAP, analysis.mAP_area):
        assert 0 <= number.low < number.value < number.high <= 1
    assert analysis.AP["cat"][0] == wanted["AP"]["cat"]


def test_counts_of_the_slider(analysis):
    counts = counts_by_score(analysis.errors, 3)
    for label, of_class in enumerate(counts, start=1):
        for t in range(101):
            wanted = counted(analysis, t / 100, label)
            assert (of_class["correct"][t], of_class["wrong"][t], of_class["objects"]) == wanted


def test_errors_of_the_images_add_up(analysis):
    per_image = errors_per_image(analysis.errors, 12, score=0.5)
    correct, wrong, objects = counted(analysis, 0.5)
    assert per_image.sum() == wrong + objects - correct


def test_the_images_with_most_missed_objects(analysis):
    missed = missed_per_image(analysis.errors, 12, score=0.5)
    errors = analysis.errors
    wanted = [0] * 12
    for k, (image, difficult) in enumerate(zip(errors.objects.image, errors.objects.difficult, strict=True)):
        finders = [
            d
            for d, (outcome, target) in enumerate(zip(errors.outcome, errors.target, strict=True))
            if outcome == "true" and target == k and errors.detections.scores[d] >= 0.5
        ]
        wanted[image] += not finders and not difficult
    assert missed.tolist() == wanted and sum(wanted) > 3
    ranked = largest(missed, 12)
    assert ranked == [k for k in sorted(range(12), key=lambda k: -wanted[k]) if wanted[k]]


def test_a_record_survives_its_file(record, tmp_path):
    record.save(tmp_path / "record.npz")
    loaded = load_record(tmp_path / "record.npz")
    assert loaded.image_ids == record.image_ids and loaded.class_names == record.class_names
    np.testing.assert_array_equal(loaded.sizes, record.sizes)
    np.testing.assert_array_equal(loaded.places, record.places)
    assert loaded.spec == record.spec
    np.testing.assert_allclose(loaded.loss, record.loss, rtol=1e-6)
    wanted = record.metric.compute()
    assert loaded.metric.compute()["AP"] == pytest.approx(wanted["AP"])
    assert [path.name for path in tmp_path.iterdir()] == ["record.npz"]


def test_a_record_of_an_older_version_has_no_losses(record, tmp_path):
    dataclasses.replace(record, loss=None).save(tmp_path / "record.npz")
    loaded = load_record(tmp_path / "record.npz")
    assert loaded.loss is None and worst_by_loss(loaded, 3) == []
    with pytest.raises(ValueError, match=r"^loss must have shape \[12\]; got \[3\]$"):
        dataclasses.replace(record, loss=np.zeros(3))


def test_the_worst_images_by_loss(record):
    wanted = sorted(range(12), key=lambda k: -record.loss[k])
    assert worst_by_loss(record, 5) == wanted[:5]
    loss = record.loss.copy()
    loss[7] = np.nan  # of a network that diverged
    assert worst_by_loss(dataclasses.replace(record, loss=loss), 1) == [7]
    assert worst_by_loss(dataclasses.replace(record, loss=np.full(12, np.nan)), 3) == []


def test_a_page_of_an_evaluation_without_losses(record, tmp_path):
    """An exported file has no losses: they are nan."""
    unknown = analyse(dataclasses.replace(record, loss=np.full(12, np.nan)), replicates=10)
    path, grey = tmp_path / "page.html", np.full((100, 120, 3), 128, np.uint8)
    write_page(path, unknown, lambda index: grey, title="exported", worst=2, random=1)
    data = re.search(r'id="data">(.*?)</script>', path.read_text(), re.S)[1].replace("<\\/", "</")
    images = json.loads(data, parse_constant=pytest.fail)["images"]  # a browser's JSON has no NaN
    assert images and all(image["losses"] == [None] and not image["loss"] for image in images)
    assert json.loads(path.with_suffix(".json").read_text())["worst_by_loss"] == {}


def test_the_numbers_beside_the_page(page, analysis):
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert numbers == json.loads(to_json(to_numbers(analysis, worst=4)))
    assert numbers["mAP"]["value"] == analysis.mAP.value and numbers["images"] == 12
    found = sum(fate == "found" for fate in analysis.errors.fate)
    objects = sum(not difficult for difficult in analysis.errors.objects.difficult)
    for name in ("recall_by_size", "recall_by_overlap", "recall_by_number"):
        assert (sum(b["objects"] for b in numbers[name]), sum(b["found"] for b in numbers[name])) == (objects, found)
    assert (np.sum(numbers["by_position"]["objects"]), np.sum(numbers["by_position"]["found"])) == (objects, found)
    for kind, of_kind in numbers["errors"].items():
        assert sum(of_class["errors"][kind] for of_class in numbers["classes"].values()) == of_kind["count"]
    (first, loss), *_ = numbers["worst_by_loss"].items()
    assert loss == max(analysis.record.loss) and first == analysis.record.image_ids[np.argmax(analysis.record.loss)]
    best = numbers["classes"]["cat"]["best"]
    assert best["F1"] == pytest.approx(2 / (1 / best["precision"] + 1 / best["recall"]))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", "cut"])
def test_a_damaged_record_is_one_line(record, tmp_path, content):
    path = tmp_path / "record.npz"
    record.save(path)
    path.write_bytes(path.read_bytes()[:-200] if content == "cut" else content)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: a record must be") as error:
        load_record(path)
    assert "\n" not in str(error.value)


def test_sizes_must_belong_to_the_images(record):
    with pytest.raises(ValueError, match=r"must have shapes \[12, 2\] and \[12\]; got \[1, 2\] and \[12\]"):
        Record(record.metric, record.image_ids, record.places, np.ones((1, 2)))


def test_a_run_compared_with_itself_and_with_a_worse_one(analysis):
    same = compare(analysis, analysis, replicates=100)
    assert same.mAP == (0, 0, 0) and same.images == []
    assert same.sentence("A", "B") == "B and A cannot be told apart: +0.0 mAP, 95 % interval 0.0 to 0.0"
    worse = compare(analysis, analyse(record_maker.make_record(seed=1, noise=40), replicates=10), replicates=300)
    assert worse.mAP.high < 0
    assert worse.sentence("A", "B").startswith("A is better than B by ")
    assert worse.images and worse.fewer_errors[worse.images[0]] != 0
    with pytest.raises(ValueError, match="runs must be evaluated on the same images and classes; got 12 images"):
        compare(analysis, analyse(record_maker.make_record(images=5), replicates=10))


def test_a_page_of_two_runs(analysis, tmp_path):
    other = analyse(record_maker.make_record(seed=1, noise=40), replicates=10)
    grey = np.full((100, 120, 3), 128, np.uint8)
    path = tmp_path / "both.html"
    (sentence,) = write_comparison(path, {"A": analysis, "B": other}, lambda index: grey)
    text = path.read_text()
    assert sentence.startswith("A is better than B by ") and sentence in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1].replace("<\\/", "</"))
    assert [run["name"] for run in data["runs"]] == ["A", "B"]
    assert all(len(image["detections"]) == 2 for image in data["images"])


def test_the_page_is_one_file_that_names_no_other(page):
    text = page.read_text()
    assert "<h1>A &lt;run&gt;</h1>" in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text.replace("xlink:", ""))
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1].replace("<\\/", "</"))
    assert sum(image["worst"] for image in data["images"]) == 4
    assert sum(image["random"] for image in data["images"]) == 3
    assert sum(image["loss"] for image in data["images"]) == 2


SLIDE = """<script>
window.onerror = (message) => { document.body.dataset.error = message; };
document.getElementById("loss").click();
document.body.dataset.first = document.querySelector("#gallery figcaption").textContent;
document.getElementById("worst").click();
const slider = document.getElementById("threshold");
slider.value = %d;
slider.dispatchEvent(new Event("input"));
document.getElementById("class").value = "%s";
document.getElementById("class").dispatchEvent(new Event("input"));
document.body.dataset.cards = document.querySelectorAll("#gallery figure").length;
</script></body>"""


def opened(path):
    """Open a page in a browser, and return its text after its scripts have run without an error."""
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    command = [CHROMIUM, *options.split(), f"--user-data-dir={path.parent}/profile", "--enable-logging=stderr"]
    result = subprocess.run([*command, "--dump-dom", f"file://{path}"], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in result.stderr
    assert "data-error" not in result.stdout
    return html.unescape(result.stdout)


SHOWN = """<script>
document.body.dataset.shown = [...document.querySelectorAll(".choices label")]
  .filter((label) => getComputedStyle(label).display !== "none").map((label) => label.firstChild.id).join(" ");
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium browser")
def test_a_browser_shows_only_choices_that_have_images(record, tmp_path):
    path, grey = tmp_path / "page.html", np.full((100, 120, 3), 128, np.uint8)
    write_page(path, analyse(dataclasses.replace(record, loss=None), replicates=10), lambda index: grey, title="x")
    path.write_text(path.read_text().replace("</body>", SHOWN))
    assert 'data-shown="worst random missed suspect"' in opened(path)


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium browser")
@pytest.mark.parametrize(("threshold", "label"), [(0, ""), (50, ""), (35, "2")])
def test_a_browser_counts_again_where_the_slider_moves(page, analysis, tmp_path, threshold, label):
    moved = tmp_path / "moved.html"
    moved.write_text(page.read_text().replace("</body>", SLIDE % (threshold, label)))
    dom = opened(moved)
    shown = dict(re.findall(r'<b id="count-(\w+)-0">([^<]*)</b>', dom))
    correct, wrong, objects = counted(analysis, threshold / 100, int(label) if label else None)
    assert int(shown["correct"]) == correct and int(shown["wrong"]) == wrong
    assert int(shown["missed"]) == objects - correct
    assert shown["precision"] == f"{100 * correct / (correct + wrong):.1f} %"
    assert shown["recall"] == f"{100 * correct / objects:.1f} %"
    assert int(re.search(r'data-cards="(\d+)"', dom)[1]) >= 1
    first = worst_by_loss(analysis.record, 2)[0]
    caption = re.search(r'data-first="([^"]*)"', dom)[1]
    assert caption.startswith(f"image {first}: ") and caption.endswith(f"loss {analysis.record.loss[first]:.2f}")
