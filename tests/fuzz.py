"""Read damaged files: `python tests/fuzz.py --cases=100000 --seed=1 [--target=NAME] [--case=NUMBER]`.

Each case damages one good file and reads it. Two outcomes are right: a result, or the project's own error, which is
a ValueError or OSError of one line that names the file. Everything else is a failure: another exception, a process
that dies, more than 5 seconds of processor time, more than 500 MB of memory. A case depends only on the seed, the
target and its number, so `--target` and `--case` repeat it.

To add a file format, add a `Target` to `TARGETS`. Its functions import what they need when they are called, so that
one target alone starts quickly.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import json
import os
import random
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mutations
from mutations import BYTES

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "pretrained")]

SECONDS = 5  # of processor time that a case may take
MEGABYTES = 500  # that the process may grow by in a case
PATIENCE = 60  # seconds by the clock, for a case that waits and does not compute
RIGHT = ("result", "error")
WRONG = ("traceback", "message", "hang", "memory", "crash")
Mutation = Callable[[random.Random, bytes, list[bytes]], bytes]


@dataclasses.dataclass(frozen=True)
class Target:
    """One file format and its reader.

    Attributes:
      seeds: makes good files, always the same; each must be read without an error.
      read: reads the file at a path.
      mutations: ways to damage it, drawn equally often; a way that is listed twice is drawn twice as often.
      file: path of the damaged file in the target's folder.
      prepare: writes the files around it into that folder, once.
      names_file: whether an error must name the file.
      needs: a module without which the target is skipped.
    """

    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], Any]
    mutations: tuple[Mutation, ...]
    file: str
    prepare: Callable[[Path], None] = lambda folder: None
    names_file: bool = True
    needs: str = ""


# Targets.

DESCRIPTION = {"model": {"num_classes": 3, "width": 0.5, "norm": None}, "class_names": ["cat", "dog"], "step": 3}
IMAGES = {
    ".jpg": (),
    ".png": (mutations.change_png_chunk,) * 5,
    ".bmp": (),
    ".webp": (),
    ".gif": (),
    ".tif": (),
    ".ppm": (),
}


def _weights() -> list[dict[str, Any]]:
    import numpy as np

    numbers = np.arange(24, dtype=np.float32)
    small = {"0.weight": numbers.reshape(2, 3, 2, 2), "0.bias": numbers[:2], "fc.weight": numbers[:6].reshape(2, 3)}
    return [small, {f"layer{i}.weight": numbers[: 4 * i].reshape(i, 4) for i in range(1, 6)}, {"a": numbers[:1]}]


def _seeds(write: Callable[..., bytes], **options: Any) -> Callable[[], list[bytes]]:
    return lambda: [write(tensors, **options) for tensors in _weights()]


def pth(tensors: dict[str, Any], *, legacy: bool) -> bytes:
    """Write a `.pth` as a training script would."""
    import writers

    def checkpoint(description: dict[str, Any]) -> dict[str, Any]:
        return {"model": description, "epoch": 3, "optimizer": [1.0, None, (2,)]}

    return writers.pth(tensors, legacy=legacy, views=len(tensors) == 3, wrap=checkpoint)


def caffemodel(tensors: dict[str, Any]) -> bytes:
    """Write a `.caffemodel`, with one tensor in the format from before 2015."""
    import writers

    return writers.caffemodel(tensors, v1=len(tensors) == 1)


def safetensors(tensors: dict[str, Any]) -> bytes:
    """Write a `.safetensors`."""
    import writers

    return writers.safetensors(tensors)


def read_weights(path: Path) -> Any:
    """Read a file of weights."""
    from ssd_jax.pretrained.tensors import read_tensors

    return read_tensors(path)


def coco_files() -> list[bytes]:
    """Write three COCO annotation files: a usual one, one with numbers as text, one without optional fields."""
    boxes = [[1, 2, 10.5, 8], [0, 0, 32, 24], [4, 4, 2, 2], [30, 20, 9, 9]]
    images = [{"id": i, "file_name": f"{name}.png", "width": 32, "height": 24} for i, name in enumerate("abc")]
    categories = [{"id": i, "name": name, "supercategory": "pet"} for i, name in ((18, "dog"), (17, "cat"))]
    annotations = [
        {"id": i, "image_id": i % 2, "category_id": 17 + i % 2, "bbox": box, "area": 30.5, "iscrowd": int(i == 2)}
        for i, box in enumerate(boxes)
    ]
    usual = {"info": {}, "images": images, "categories": categories, "annotations": annotations}
    text = json.loads(json.dumps(usual), parse_int=str, parse_float=str)
    short = usual | {
        "images": [{"id": "x", "file_name": "a.png"}],
        "annotations": [{"image_id": "x", "category_id": 17, "bbox": box} for box in boxes],
    }
    return [json.dumps(data).encode() for data in (usual, text, short)]


def write_images(folder: Path) -> None:
    """Write the images of `coco_files`."""
    import cv2
    import numpy as np

    for level, name in enumerate("abc"):
        png = cv2.imencode(".png", np.full((24, 32, 3), 40 * level, np.uint8))[1]
        (folder / f"{name}.png").write_bytes(png.tobytes())


def read_coco(path: Path) -> Any:
    """Open a COCO annotation file, read its images, and score a detector that finds nothing."""
    import numpy as np

    from ssd_jax.data import COCOJson
    from ssd_jax.metrics import COCOMetric

    source = COCOJson(path, path.parent)
    metric = COCOMetric(source.truth())
    for example, image in zip(source, source.truth()["images"], strict=True):
        assert example.labels.max(initial=1) <= len(source.class_names)
        metric.add(image["id"], np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    return metric.compute()


def config_files() -> list[bytes]:
    """Write the `config.json` of runs, of an older version, and of imported weights."""
    from configs import shapes, ssd300_coco

    data = {"source": "coco_json", "root": "COCO", "train": "train2017", "eval": "val2017", "class_names": ["cat"]}
    configs = [
        shapes.get_config().to_dict(),
        ssd300_coco.get_config().to_dict(),
        {"imported": ["SSD300"], "data": data},
    ]
    older = ssd300_coco.get_config().to_dict()
    older["model"]["trunk"] = older["model"].pop("backbone")
    return [json.dumps(config, indent=2).encode() for config in (*configs, older)]


def read_config(path: Path) -> Any:
    """Read a workdir's config, and what differs from another one, as a run that resumes does."""
    from configs import ssd300_coco
    from ssd_jax.loop.workdir import changes, load_config

    return load_config(path.parent), changes(ssd300_coco.get_config(), path.parent)


def image_files(extension: str) -> list[bytes]:
    """Write images of one format: colour, grey, and where there is such a thing alpha or an orientation."""
    from data import image_files as write

    photograph = write.photograph(24, 32)
    files = [write.encode(photograph, extension)]
    if extension != ".gif":
        files.append(write.encode(photograph[:, :, 0], ".pgm" if extension == ".ppm" else extension))
    kind = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}.get(extension)
    if kind:
        files.append(write.with_orientation(photograph, 6, kind))
    if extension == ".jpg":
        import cv2

        files.append(write.encode(photograph, extension, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)))
    elif extension == ".png":
        import numpy as np

        files.append(write.encode(np.concatenate([photograph, photograph[:, :, :1]], axis=2), extension))
        files.append(write.png(16, 16, b"\0\xaa\x55" * 16))
    elif extension == ".bmp":
        files.append(write.rle_bmp(20, 300, 20))
    return files


def read_image(path: Path) -> Any:
    """Decode an image, as training does, and compare its size with that of the header."""
    from ssd_jax.data.image import decode_image, decoded_size, read, shrink

    file = read(path)
    image = shrink(decode_image(file), 300)
    assert image.shape[:2] == decoded_size(file) or max(decoded_size(file)) > 300
    return image.mean()


def voc_files() -> list[bytes]:
    """Write annotations of VOC: a usual one, one without optional elements, one by another tool."""
    box = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>12.5</xmax><ymax>9</ymax></bndbox>"
    dog = f"<object><name>dog</name><pose>Left</pose><difficult>0</difficult>{box.format(1)}</object>"
    cat = f"<object><name>cat</name><difficult>1</difficult>{box.format(3)}</object>"
    size = "<size><width>32</width><height>24</height><depth>3</depth></size>"
    return [
        f"<annotation><filename>a.png</filename>{size}\n{dog}\n{cat}\n</annotation>".encode(),
        f"<annotation>{cat}</annotation>".encode(),
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotation>\n{size}{dog}{dog}\n</annotation>\n'.encode(),
    ]


def write_voc(folder: Path) -> None:
    """Write the rest of a VOC folder."""
    for name in ("JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    write_images(folder / "JPEGImages")
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\n")


def read_voc(path: Path) -> Any:
    """Open a VOC folder, and read its image."""
    from ssd_jax.data import VOCFolder

    (example,) = VOCFolder(path.parents[1], "train")
    return example


def yolo_files() -> list[bytes]:
    """Write labels of YOLO: boxes, polygons, none."""
    return [b"0 0.5 0.5 0.25 0.5\n1 0.1 0.2 0.05 0.1\n", b"1 0.1 0.1 0.5 0.1 0.5 0.6 0.2 0.8\n", b""]


def yolo_configs() -> list[bytes]:
    """Write a `data.yaml` with names as a list, and as an object."""
    listed = "path: .\ntrain: images\nval: [images, ./images]\nnc: 2\nnames: ['dog', 'cat']\n"
    numbered = "# cells\ntrain: ../images\nval: list.txt\nnames:\n  0: dog\n  1: cat\n"
    return [listed.encode(), numbered.encode()]


def write_yolo(folder: Path) -> None:
    """Write the rest of a folder in YOLO's layout."""
    for name in ("images", "labels"):
        (folder / name).mkdir()
    write_images(folder / "images")
    (folder / "labels" / "a.txt").write_bytes(yolo_files()[0])
    (folder / "labels" / "b.txt").write_bytes(yolo_files()[1])
    (folder / "list.txt").write_text("./images/a.png\nimages/b.png\n")
    (folder / "data.yaml").write_bytes(yolo_configs()[0])


def read_any(path: Path) -> Any:
    """Open the folder of an annotation file, whatever format is left of it, and read its images."""
    from ssd_jax.data import open_source

    root = next(parent for parent in path.parents if (parent / "root").exists())
    return list(open_source("auto", "all", root=root))


def with_images(write: Callable[[Path], None] = write_images) -> Callable[[Path], None]:
    """Mark a folder as the root of a dataset, and write images, or what else is given, into it."""

    def prepare(folder: Path) -> None:
        (folder / "root").touch()
        write(folder)

    return prepare


def csv_files() -> list[bytes]:
    """Write CSV files: TensorFlow's, one with other names and separators, and Open Images'."""
    rows = "a.png,32,24,dog,1,2,12.5,9\nb.png,32,24,cat,0,0,32,24\n"
    columns = "ImageID,Source,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n"
    return [
        f"filename,width,height,class,xmin,ymin,xmax,ymax\n{rows}".encode(),
        b'\xef\xbb\xbfimage;x1;y1;x2;y2;label\r\n"a.png";1;2;12;9;"dog"\r\n',
        f"{columns}a,x,/m/1,0.1,0.5,0.2,0.6,1\nb,x,/m/2,0,1,0,1,0\n".encode(),
    ]


def labelme_files() -> list[bytes]:
    """Write LabelMe files: a rectangle, other shapes, and one with its image in it."""
    import base64

    import cv2
    import numpy as np

    png = base64.b64encode(cv2.imencode(".png", np.zeros((24, 32, 3), np.uint8))[1].tobytes()).decode()
    shape = {"label": "dog", "points": [[1, 2], [12.5, 9]], "shape_type": "rectangle", "flags": {}}
    usual = {"shapes": [shape], "imagePath": "a.png", "imageData": None, "imageHeight": 24, "imageWidth": 32}
    polygon = {"label": "cat", "points": [[1, 2], [9, 2], [4, 8]], "shape_type": "polygon"}
    others = usual | {"shapes": [polygon, shape | {"shape_type": "circle"}, shape | {"shape_type": "point"}]}
    inside = {"shapes": [shape], "imagePath": "lost.png", "imageData": png}
    return [json.dumps(data, indent=2).encode() for data in (usual, others, inside)]


def cvat_files() -> list[bytes]:
    """Write files of CVAT: boxes, and other shapes."""
    place = 'label="dog" occluded="0" xtl="1" ytl="2" xbr="12.5" ybr="9"'
    box = f'<box {place}/><box {place} rotation="30"><attribute name="x">y</attribute></box>'
    others = '<polygon label="cat" points="1,2;9,2;4,8"/><ellipse label="cat" cx="9" cy="9" rx="4" ry="2"/>'
    labels = "<label><name>dog</name></label><label><name>cat</name></label>"
    image = '<image id="0" name="{}.png" subset="Train" width="32" height="24">{}</image>'
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    bodies = (meta + image.format("a", box) + image.format("b", ""), image.format("a", others))
    return [f"<annotations>{body}</annotations>".encode() for body in bodies]


def label_studio_files() -> list[bytes]:
    """Write exports of Label Studio: a full one, a full one with other shapes, a minimal one."""
    value = {"x": 25, "y": 50, "width": 25.0, "height": 50, "rotation": 0, "rectanglelabels": ["dog"]}
    sides = {"original_width": 32, "original_height": 24}
    others = [
        {"ellipselabels": ["cat"], "x": 50, "y": 50, "radiusX": 25, "radiusY": 12.5},
        {"polygonlabels": ["cat"], "points": [[25, 50], [50, 75], [50, 50]]},
        value | {"rotation": 30},
    ]

    def task(name: str, values: list[dict[str, Any]]) -> dict[str, Any]:
        results = [{"type": "rectanglelabels", "value": v} | sides for v in values]
        annotation = {"id": 1, "was_cancelled": False, "result": results}
        return {"id": 1, "data": {"image": f"/data/upload/1/{name}.png"}, "annotations": [annotation]}

    full, turned = [task("a", [value]), task("b", [])], [task("0123abcd-a", others)]
    least = [{"id": 1, "image": "/data/local-files/?d=x/a.png", "label": [value | sides]}]
    return [json.dumps(data).encode() for data in (full, turned, least)]


def box_lists() -> list[bytes]:
    """Write lists of boxes: with commas, and with spaces."""
    return [b"a.png 1,2,12,9,0 3,4,9,9,1\nb.png\n", b"a.png 1 2 12 9 1\nb.png 1 2 3.5 4 0 5 6 7 8 0\n"]


def log_files() -> list[bytes]:
    """Write the `metrics.jsonl` of a run, and that of one that was killed in the middle of a line."""
    rows = [{"step": step, "loss": 1 / step, "images_per_second": None} for step in range(1, 9)]
    text = "".join(json.dumps(row) + "\n" for row in [*rows, {"step": 8, "mAP": 0.5, "AP": {"cat": 0.5}}])
    return [text.encode(), text[:-20].encode()]


def read_log(path: Path) -> Any:
    """Continue the log of a run."""
    from ssd_jax.loop.log import Log

    with Log(path.parent, start_step=5, steps=10) as log:
        log.scalars(6, {"loss": 1.0})
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_checkpoint(folder: Path) -> None:
    """Write a checkpoint with `DESCRIPTION`."""
    import numpy as np

    from ssd_jax.checkpoint import Checkpoints

    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(3, {"params": {"a": np.zeros(2)}, "batch_stats": {}}, DESCRIPTION)


def read_description(path: Path) -> Any:
    """Read the description of a run's newest checkpoint."""
    from ssd_jax.checkpoint import Checkpoints

    with Checkpoints.of_run(path.parents[3]) as checkpoints:
        return checkpoints.description(checkpoints.find())


TARGETS: dict[str, Target] = {
    **{
        f"image_{extension[1:]}": Target(
            seeds=functools.partial(image_files, extension),
            read=read_image,
            mutations=(*BYTES, mutations.write_integer, *extra),
            file=f"image{extension}",
            names_file=False,  # the caller names it
        )
        for extension, extra in IMAGES.items()
    },
    "voc_xml": Target(
        seeds=voc_files, read=read_voc, mutations=mutations.TEXT, file="Annotations/a.xml", prepare=write_voc
    ),
    "yolo_txt": Target(
        seeds=yolo_files,
        read=read_any,
        mutations=mutations.TEXT,
        file="labels/c.txt",
        prepare=with_images(write_yolo),
    ),
    "yolo_yaml": Target(
        seeds=yolo_configs,
        read=read_any,
        mutations=mutations.TEXT,
        file="data.yaml",
        prepare=with_images(write_yolo),
        names_file=False,  # damage may leave no configuration: then the folder has no meaning, or another one
    ),
    **{
        name: Target(
            seeds=seeds,
            read=read_any,
            mutations=(*mutations.TEXT, *[mutations.change_json] * (6 if file.endswith(".json") else 0)),
            file=file,
            prepare=with_images(),
            names_file=False,  # damage may leave nothing of the format: then the folder has no annotations
        )
        for name, seeds, file in (
            ("csv", csv_files, "labels.csv"),
            ("labelme", labelme_files, "a.json"),
            ("cvat", cvat_files, "annotations.xml"),
            ("label_studio", label_studio_files, "export.json"),
            ("box_list", box_lists, "train.txt"),
        )
    },
    "metrics_jsonl": Target(seeds=log_files, read=read_log, mutations=mutations.TEXT, file="metrics.jsonl"),
    "description": Target(
        seeds=lambda: [json.dumps(DESCRIPTION).encode()],
        read=read_description,
        mutations=(*mutations.TEXT, *[mutations.change_json] * 6),
        file="checkpoints/3/description/metadata",
        prepare=write_checkpoint,
        names_file=False,  # it names the folder of the step
    ),
    "config_json": Target(
        seeds=config_files,
        read=read_config,
        mutations=(*mutations.TEXT, *[mutations.change_json] * 6),
        file="config.json",
    ),
    "coco_json": Target(
        seeds=coco_files,
        read=read_coco,
        mutations=(*mutations.TEXT, *[mutations.change_json] * 6),
        file="instances.json",
        prepare=write_images,
    ),
    "pth_zip": Target(
        seeds=_seeds(pth, legacy=False),
        read=read_weights,
        mutations=(*BYTES, *[mutations.change_zipped_pickle] * 6, *[mutations.change_zip_entry] * 2),
        file="weights.pth",
    ),
    "pth_legacy": Target(
        seeds=_seeds(pth, legacy=True),
        read=read_weights,
        mutations=(*BYTES, *[mutations.change_legacy_pickle] * 5),
        file="weights.pth",
    ),
    "caffemodel": Target(
        seeds=_seeds(caffemodel),
        read=read_weights,
        mutations=(*BYTES, *[mutations.change_field] * 5),
        file="weights.caffemodel",
    ),
    "safetensors": Target(
        seeds=_seeds(safetensors),
        read=read_weights,
        mutations=(*BYTES, *[mutations.change_header] * 5),
        file="weights.safetensors",
        needs="safetensors",
    ),
}


def _fault(read: Callable[[Path], Any]) -> Target:
    def on_damage(path: Path) -> Any:
        return read(path) if path.read_bytes() != b"good" else None

    return Target(lambda: [b"good"], on_damage, (lambda rng, data, seeds: b"bad",), "file.txt")


def _raise(error: BaseException) -> Any:
    raise error


# Readers with one fault each: test_fuzz.py shows that each is found.
FAULTY: dict[str, Target] = {
    "faulty_traceback": _fault(lambda path: _raise(KeyError(str(path)))),
    "faulty_lines": _fault(lambda path: _raise(ValueError(f"{path} is bad\nvery bad"))),
    "faulty_nameless": _fault(lambda path: _raise(ValueError("something is bad"))),
    "faulty_hang": _fault(lambda path: [0 for i in iter(int, 1)]),
    "faulty_stuck": _fault(lambda path: sum(itertools.repeat(0))),  # no signal handler of Python's runs in it
    "faulty_memory": _fault(lambda path: [bytearray(b"x" * (1 << 20)) for _ in range(2 * MEGABYTES)] and None),
    "faulty_memory_limit": _fault(lambda path: b"x" * (1 << 40)),
    "faulty_crash": _fault(lambda path: os.kill(os.getpid(), signal.SIGSEGV)),
}


# One case.


class Hang(BaseException):
    """A case took too long."""


def make_case(name: str, number: int, seed: int, seeds: list[bytes]) -> bytes:
    """Return the damaged file of a case."""
    rng = random.Random(f"{seed}/{name}/{number}")
    data = rng.choice(seeds)
    data = rng.choice(table()[name].mutations)(rng, data, seeds)
    if rng.random() < 0.25:
        # The first mutation may have left no structure for the second, of which zipfile and others tell in many ways.
        with contextlib.suppress(Exception):
            data = rng.choice(table()[name].mutations)(rng, data, seeds)
    return data


def read_case(target: Target, path: Path, data: bytes) -> dict[str, Any]:
    """Read one file; return the outcome: its kind, a text, seconds of processor time and megabytes of growth."""
    path.write_bytes(data)
    before, started = _reset_peak(), time.process_time()
    _limit(resource.RLIMIT_CPU, int(started) + 2 * SECONDS + 1)  # where the timer's exception is not raised
    _limit(resource.RLIMIT_AS, _virtual_memory() + 3 * MEGABYTES * 10**6)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        target.read(path)
        kind, text = "result", ""
    except (ValueError, OSError) as error:
        named = isinstance(error, OSError) and error.strerror and error.filename
        kind, text = "error", f"{error.filename}: {error.strerror}" if named else str(error)  # as ssd_jax.command
        if "\n" in text or (target.names_file and path.name not in text):
            kind, text = "message", f"several lines, or no file's name: {text!r}\n{traceback.format_exc(limit=-3)}"
    except Hang:
        kind, text = "hang", traceback.format_exc(limit=-3)
    except MemoryError:
        kind, text = "memory", traceback.format_exc(limit=-3)
    except BaseException:  # a SystemExit is a fault here too
        kind, text = "traceback", traceback.format_exc(limit=-6)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)
    seconds, grown = time.process_time() - started, max(0, _peak() - before) / 1e6
    if kind in RIGHT and grown > MEGABYTES:
        kind, text = "memory", f"the process grew by {grown:.0f} MB"
    return {"kind": kind, "text": text[:4000], "seconds": seconds, "grown": grown}


def _limit(which: int, soft: int) -> None:
    hard = resource.getrlimit(which)[1]
    free = hard == resource.RLIM_INFINITY or 0 <= soft <= hard  # RLIM_INFINITY is -1
    resource.setrlimit(which, (soft if free else hard, hard))


def _reset_peak() -> int:
    """Set the peak of resident memory to what is used now, where Linux allows it; return that in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _virtual_memory() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 1 << 40


# Many cases: a worker process reads, this one watches it.


def table() -> dict[str, Target]:
    """Return every target by name."""
    return TARGETS | FAULTY


def work(plan: list[tuple[str, int]], seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Run cases (target, number) in this process; give the outcome of each."""

    def stop(signal_number: int, frame: Any) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    ready: dict[str, tuple[Path, list[bytes]]] = {}
    for name, number in plan:
        target = table()[name]
        if name not in ready:
            path, seeds = ready[name] = folder / name / target.file, target.seeds()
            (folder / name).mkdir(parents=True)
            target.prepare(folder / name)
            path.parent.mkdir(parents=True, exist_ok=True)
            for good in seeds:  # imports what the reader needs, and shows that it takes good files
                path.write_bytes(good)
                target.read(path)
        path, seeds = ready[name]
        yield read_case(target, path, make_case(name, number, seed, seeds))


def run_worker(seed: int, folder: Path) -> None:
    """Read a plan from stdin; write a line of JSON to stdout for each of its cases."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some libraries print
    for outcome in work(json.load(sys.stdin), seed, folder):
        print(json.dumps(outcome), file=out, flush=True)


def watch(plan: list[tuple[str, int]], seed: int, folder: Path, keep: Path) -> Iterator[dict[str, Any]]:
    """Run cases in a worker process, and in a new one after a case that ended it; keep the files that fail."""
    done = 0
    while done < len(plan):
        with tempfile.TemporaryFile() as complaints:
            command = [sys.executable, __file__, "--worker", f"--seed={seed}", f"--folder={folder / str(done)}"]
            command += [f"--seconds={SECONDS}", f"--megabytes={MEGABYTES}"]
            environment = os.environ | {"JAX_PLATFORMS": "cpu", "OPENCV_LOG_LEVEL": "SILENT"}
            pipe = subprocess.PIPE
            worker = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=complaints, env=environment)
            with worker.stdin:
                worker.stdin.write(json.dumps(plan[done:]).encode())
            while line := _line(worker):
                yield _kept(plan[done], json.loads(line), seed, keep)
                done += 1
            try:
                code = worker.wait(10)  # its output has ended, unless it hangs
            except subprocess.TimeoutExpired:
                worker.kill()
                code = worker.wait()
            worker.stdout.close()
            if done < len(plan):
                complaints.seek(0)
                stderr = complaints.read()[-2000:].decode(errors="replace")
                if code == 1:
                    raise SystemExit(f"{plan[done][0]}: a good file was refused, or an import failed\n{stderr}")
                kind = "hang" if code in (-signal.SIGXCPU, -signal.SIGKILL) else "crash"
                outcome = {"kind": kind, "text": f"the process ended: {code}\n{stderr}", "seconds": 0, "grown": 0}
                yield _kept(plan[done], outcome, seed, keep)
                done += 1


def _line(worker: subprocess.Popen) -> bytes:
    """Return the worker's next line; nothing if it has ended, or takes longer than a case and its imports may."""
    ready, _, _ = select.select([worker.stdout], [], [], 3 * PATIENCE)
    return worker.stdout.readline() if ready else b""


def _kept(case: tuple[str, int], outcome: dict[str, Any], seed: int, keep: Path) -> dict[str, Any]:
    """Write the file of a failed case into `keep`."""
    name, number = case
    if outcome["kind"] in WRONG:
        keep.mkdir(parents=True, exist_ok=True)
        path = keep / f"{name}-{seed}-{number}{Path(table()[name].file).suffix}"
        path.write_bytes(make_case(name, number, seed, table()[name].seeds()))
        again = f"python tests/fuzz.py --seed={seed} --target={name} --case={number}"
        outcome["text"] += f"\n  the file: {path}\n  again: {again}"
    return outcome | {"target": name, "number": number}


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser("python tests/fuzz.py", description=__doc__.splitlines()[0])
    options.add_argument("--cases", type=int, default=5000, help="how many in all, the same number for each target")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--target", action="append", choices=table(), help="may be given several times")
    options.add_argument("--case", type=int, help="run only the case of this number")
    kept = Path(tempfile.gettempdir()) / "ssd_jax_fuzz"
    options.add_argument("--keep", type=Path, default=kept, help="folder for files that fail")
    options.add_argument("--seconds", type=int, default=SECONDS, help="of processor time that a case may take")
    options.add_argument("--megabytes", type=int, default=MEGABYTES, help="that the process may grow by in a case")
    options.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return options


def main(arguments: list[str]) -> int:
    """Run the cases and print a table; return 1 if one failed."""
    global SECONDS, MEGABYTES
    flags = parser().parse_args(arguments)
    SECONDS, MEGABYTES = flags.seconds, flags.megabytes
    if flags.worker:
        run_worker(flags.seed, flags.folder)
        return 0
    names = flags.target or list(TARGETS)
    skipped = [name for name in names if table()[name].needs and not importlib.util.find_spec(table()[name].needs)]
    names = [name for name in names if name not in skipped]
    numbers = range(-(-flags.cases // len(names))) if flags.case is None else [flags.case]
    plan = [(name, number) for name in names for number in numbers]
    outcomes: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for outcome in watch(plan, flags.seed, Path(folder), flags.keep):
            outcomes[outcome["target"]].append(outcome)
            if outcome["kind"] in WRONG or flags.case is not None:
                print(f"{outcome['target']} {outcome['number']}: {outcome['kind']}: {outcome['text']}", flush=True)
    kinds = "".join(f"{kind:>10}" for kind in RIGHT + WRONG)
    print(f"{'target':16}{'cases':>8}{kinds}{'slowest':>10}{'peak':>9}")
    outcomes["all"] = [row for rows in outcomes.values() for row in rows]
    for name, rows in outcomes.items():
        counts = collections.Counter(row["kind"] for row in rows)
        line = f"{name:16}{len(rows):8}" + "".join(f"{counts[kind]:10}" for kind in RIGHT + WRONG)
        print(f"{line}{max(row['seconds'] for row in rows):8.2f} s{max(row['grown'] for row in rows):6.0f} MB")
    for name in skipped:
        print(f"{name} was skipped: {table()[name].needs} is not installed")
    return int(any(counts[kind] for kind in WRONG))  # those of "all", which is the last


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
