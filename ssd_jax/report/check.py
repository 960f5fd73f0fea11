"""Look at a dataset before training on it: ssd-jax check DIR, or ssd-jax check KIND SPLIT --root=DIR."""

import argparse
import dataclasses
import inspect
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ssd_jax.augment import AugmentOptions
from ssd_jax.box import SSD300_VOC, PriorSpec
from ssd_jax.command import Parser, command
from ssd_jax.config_file import changed, config_names, read_config
from ssd_jax.data.auto import FOLDER_KINDS, describe_folder
from ssd_jax.data.box_table import some
from ssd_jax.data.image import ReadOptions
from ssd_jax.data.open import KINDS, open_source
from ssd_jax.inference.drawing import write_png
from ssd_jax.report.advice import advice
from ssd_jax.report.coverage import coverage, coverage_text
from ssd_jax.report.dataset import check
from ssd_jax.report.sheet import sheet

OPTIONS = inspect.signature(open_source).parameters
EXAMPLES = (
    "check PICTURES",
    "check voc_folder train --root=DIR --eval=val --sheet=samples.png",
    "check coco_json train2017 --root=COCO --base=ssd300_coco --config.data.max_boxes=50",
)
OWN_IMAGES = next(name for name in ("finetune", "voc_folder") if name in config_names())
MOST_BOXES = 20_000  # coverage is measured on so many boxes at most, drawn at random


def main(arguments: Sequence[str]) -> None:
    """Parse the arguments that follow the name of the command, and print a report."""
    parser = Parser(
        "check",
        "Report what a dataset holds, what is wrong with it, and how well priors cover its boxes.",
        examples=EXAMPLES,
        fields="--base",
    )
    parser.add_argument(
        "kind",
        nargs="?",
        help=f"a folder of labelled images; or {', '.join(KINDS)}, or module:function; or the data of --base",
    )
    parser.add_argument(
        "split",
        nargs="?",
        help="the training split, as in a config's data.train; left out: the folder's, or else all its images",
    )
    parser.add_argument("--root", help="folder of the data")
    parser.add_argument("--eval", help="the evaluation split: count and name the images that are in both")
    parser.add_argument(
        "--base",
        help="the config you will train with, a file or a name: the report uses its priors, "
        f"augmentation, class names and limits; without it, those of {OWN_IMAGES} for a folder, and of the paper's "
        "SSD300 otherwise",
    )
    parser.add_argument("--class_names", help="comma-separated; otherwise those of --base, or of the data")
    parser.add_argument("--drop_other_classes", action="store_true", default=None, help="as in a config's data")
    parser.add_argument("--max_boxes", type=int, help="as in a config's data: further boxes of an image are counted")
    parser.add_argument("--names", type=int, default=5, help="how many images to name of each finding")
    parser.add_argument("--json", type=Path, help="write the report, with all names, there")
    parser.add_argument(
        "--sheet",
        help="write a PNG of samples before and after augmentation there; of a folder DIR it is written to "
        "DIR_samples.png in the current folder, unless --sheet=",
    )
    options = parser.read(arguments)
    if options.kind is None and options.base is None:
        parser.error("a folder, or a kind and a split, or --base must be given")
    with command(level=logging.ERROR):  # the report says what opening the dataset would warn of
        _run(options)


def load_base(base: str | None, overrides: Sequence[str] = ()) -> ConfigDict:
    """Load the config of a training.

    Args:
      base: as in `config_file.read_config`; None for the part of the paper's SSD300 that concerns the data.
      overrides: flags that change it, "--config.FIELD=VALUE".

    Raises:
      ValueError: there is no such config, or no such field.
    """
    if base is not None:
        return read_config(base, overrides)
    data = {name: option.default for name, option in OPTIONS.items() if option.kind is option.KEYWORD_ONLY}
    data |= {"canvas_size": 512, "max_boxes": 64, "train_difficult": True}
    config = ConfigDict({"data": data, "spec": dataclasses.asdict(SSD300_VOC)})
    config.augment = ConfigDict(dataclasses.asdict(AugmentOptions()))
    return changed(config, overrides)


def _run(options: argparse.Namespace) -> None:
    is_folder = options.kind is not None and options.kind not in KINDS and ":" not in options.kind
    base = OWN_IMAGES if is_folder and options.base is None else options.base
    config = load_base(base)
    if is_folder:  # its format and its splits are found, but for those that the flags name
        with config.unlocked():
            config.data.update(source="auto", train="", eval="")
    config = changed(config, options.overrides)
    data = config.data.to_dict()
    if options.kind is None:
        options.kind, options.split = data["source"], options.split or data["train"]
        options.eval = options.eval or data["eval"]
    if is_folder and not Path(options.kind).is_dir():
        raise ValueError(
            f"a dataset must be a folder, or one of {', '.join(KINDS)}, or module:function; got {options.kind!r}"
        )
    if is_folder:
        options.kind, options.root = data["source"], options.kind
        options.split, options.eval = options.split or data["train"] or None, options.eval or data["eval"]
        root = Path(options.root).resolve()
        if options.sheet is None and root not in (
            Path.cwd(),
            *Path.cwd().parents,
        ):  # it would be an image of the dataset
            options.sheet = f"{root.name}_samples.png"
    for name in ("root", "drop_other_classes", "max_boxes"):
        if getattr(options, name) is not None:
            data[name] = getattr(options, name)
    if options.class_names is not None:
        data["class_names"] = tuple(name.strip() for name in options.class_names.split(",") if name.strip())
    # With strict, the first annotation error would end the report.
    opening: dict[str, Any] = {name: data[name] for name in OPTIONS if name in data}
    opening["strict"] = False

    if options.kind in FOLDER_KINDS:
        reading = ReadOptions.among(data)
        found = describe_folder(data["root"], options.kind, allow_outside=data["allow_outside"], options=reading)
        print(found.text)
        if options.split is None and found.splits:
            options.split, options.eval = found.train, options.eval or found.eval
        options.split = options.split or "all"
        print(f"split       {options.split}\n")
    if options.split is None:
        raise ValueError(f"a split must be given for the kind {options.kind}; got none")
    source = open_source(options.kind, options.split, **opening)
    report = check(source, max_boxes=data["max_boxes"])
    print(report.text(options.names))
    result = report.to_dict()
    if options.eval:
        opening["class_names"] = source.class_names
        held_out = open_source(options.kind, options.eval, **opening)
        evaluation = check(held_out, max_boxes=data["max_boxes"])
        result["also_in_eval"] = shared = evaluation.also_in(report)
        print(f"evaluation  {evaluation.images:,} images, {evaluation.boxes:,} boxes")
        if not evaluation.boxes:
            print("  WARNING: no image of this split has an object, so mAP is not a number")
        if shared:
            print(f"  WARNING: {len(shared):,} are also in the training split: {some(shared, options.names)}")
            print("  (evaluate on images that the model is not trained on)")
        else:
            print("  none is also in the training split")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")

    spec, corners = PriorSpec(**config.spec.to_dict()), report.corners
    if len(corners) > MOST_BOXES:
        corners = corners[np.sort(np.random.default_rng(0).choice(len(corners), MOST_BOXES, replace=False))]
        print(f"\ncoverage is measured on {MOST_BOXES:,} of the boxes")
    print(f"\npriors of {base or 'the paper'}, which these flags change, here and in training:")
    print(f'  --config.spec.sizes="{spec.sizes}" --config.spec.ratios="{spec.ratios}"')
    print(coverage_text(coverage(corners, spec)))
    print("\nadvice")
    for sentence in advice(report, spec, max_boxes=data["max_boxes"]) or ["Nothing to change."]:
        print(f"  {sentence}")
    if options.sheet:
        drawn = sheet(
            source,
            augment_options=AugmentOptions(**config.augment.to_dict()),
            image_size=spec.image_size,
            canvas_size=data["canvas_size"],
            max_boxes=data["max_boxes"],
            train_difficult=data["train_difficult"],
        )
        write_png(options.sheet, drawn)
        print(f"\nsamples before and after augmentation: {options.sheet}")
