"""Look at a dataset before training on it: python -m ssd_jax check KIND SPLIT --root=DIR."""

import argparse
import json
import logging
from pathlib import Path

import numpy as np

from ssd_jax import box
from ssd_jax.command import command
from ssd_jax.data.open import KINDS, open_source
from ssd_jax.report.coverage import coverage, coverage_text, propose
from ssd_jax.report.dataset import Report, check
from ssd_jax.report.sheet import sheet, write_png

SPECS = {name: getattr(box, name.upper()) for name in ("ssd300_voc", "ssd512_voc", "ssd300_coco", "ssd512_coco")}
MOST_BOXES = 20_000  # priors are judged on so many boxes at most, drawn at random

CONFIG = '''"""{priors} {split} of {where}.

    python train.py --config=THIS_FILE --workdir=runs/NAME
"""

import dataclasses

from ml_collections import ConfigDict

from configs import {base}
from ssd_jax.box import {spec}


def get_config() -> ConfigDict:
    config = {base}.get_config().unlock()
    config.data.source = {kind!r}
    config.data.root = {root!r}
    config.data.class_names = {class_names!r}
    config.data.drop_other_classes = {drop!r}
    config.data.train = {split!r}
    config.data.eval = {eval!r}
    config.data.max_boxes = {max_boxes}
    priors = dataclasses.replace(
        {spec},
        sizes={sizes!r},
        ratios={ratios!r},
    )
    config.spec = ConfigDict(dataclasses.asdict(priors))
    return config.lock()
'''


def main(arguments: list[str] | None = None):
    """Parse the command line and print a report."""
    parser = argparse.ArgumentParser(prog="python -m ssd_jax", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checker = commands.add_parser(
        "check", help="report what a dataset holds, its dirt, and how priors cover its boxes"
    )
    checker.add_argument("kind", help=f"{', '.join(KINDS)}, or module:function")
    checker.add_argument("split", help="as in a config's data.train")
    checker.add_argument("--root", default="", help="folder of the data")
    checker.add_argument("--class_names", default="", help="comma-separated; all, unless given")
    checker.add_argument("--drop_other_classes", action="store_true")
    checker.add_argument("--spec", choices=SPECS, default="ssd300_voc", help="priors to judge")
    checker.add_argument(
        "--max_boxes", type=int, default=64, help="a config's data.max_boxes: what exceeds it is counted"
    )
    checker.add_argument("--names", type=int, default=5, help="images to name of each kind of dirt")
    checker.add_argument("--json", type=Path, help="write the report, with all names, there")
    checker.add_argument("--config", type=Path, help="write a config with fitted sizes and ratios there")
    checker.add_argument("--eval", default="", help="the split that this config evaluates on")
    checker.add_argument(
        "--base", default="", help="the config that it changes, as voc_folder to train from scratch; that of --spec"
    )
    checker.add_argument("--sheet", type=Path, help="write a PNG of samples before and after augmentation there")
    options = parser.parse_args(arguments)
    if bool(options.config) != bool(options.eval):
        parser.error("--config=FILE and --eval=SPLIT go together: the config evaluates on that split")
    if options.base and not options.config:
        parser.error("--base=NAME goes with --config=FILE, which changes that config")
    with command(level=logging.ERROR):  # the report says it all
        run(options)


def run(options: argparse.Namespace):
    """Check as the options say."""
    if options.base and not Path("configs", f"{options.base}.py").is_file():
        known = sorted(path.stem for path in Path("configs").glob("[!_]*.py"))
        raise ValueError(f"--base is the name of a file in configs/, {', '.join(known)}; got {options.base!r}")
    names = tuple(name.strip() for name in options.class_names.split(",") if name.strip())
    where = {"root": options.root, "drop_other_classes": options.drop_other_classes}
    source = open_source(options.kind, options.split, class_names=names, **where)
    if options.eval:
        open_source(options.kind, options.eval, class_names=source.class_names, **where)
    report = check(source, max_boxes=options.max_boxes)
    print(report.text(options.names))
    if options.json:
        options.json.write_text(json.dumps(report.to_dict(), indent=2) + "\n")

    spec, shapes = SPECS[options.spec], report.shapes
    if len(shapes) > MOST_BOXES:
        shapes = shapes[np.sort(np.random.default_rng(0).choice(len(shapes), MOST_BOXES, replace=False))]
        print(f"\npriors are judged on {MOST_BOXES:,} of the boxes")
    print(f"\n{options.spec}, sizes {spec.sizes}, ratios {spec.ratios}")
    print(coverage_text(coverage(shapes, spec)))
    if len(shapes) >= 100:
        fitted = propose(shapes, spec)
        if fitted == spec:
            print(f"\nno sizes and ratios were found that cover these boxes better than those of {options.spec}")
        else:
            print(f"\nfitted, sizes {fitted.sizes}, ratios {fitted.ratios}")
            print(coverage_text(coverage(shapes, fitted)))
        if options.config:
            options.config.write_text(config_text(options, report, fitted))
            print(f"written to {options.config}")
    else:
        print("\nfewer than 100 boxes: too few to fit priors to")
    if options.sheet:
        write_png(options.sheet, sheet(source, image_size=spec.image_size))
        print(f"samples before and after augmentation: {options.sheet}")


def config_text(options: argparse.Namespace, report: Report, fitted: box.PriorSpec) -> str:
    """A config as a diff of `--base`, with the priors of `--spec` in their fitted sizes and ratios."""
    same = fitted == SPECS[options.spec]
    return CONFIG.format(
        priors=f"The priors of {options.spec}, the best found for" if same else "Sizes and ratios fitted to",
        base=options.base or options.spec,
        where=options.root or options.kind,
        kind=options.kind,
        root=str(Path(options.root).absolute()) if options.root else "",
        class_names=report.class_names,
        drop=options.drop_other_classes,
        split=options.split,
        eval=options.eval,
        max_boxes=max(8, report.most_boxes),
        spec=options.spec.upper(),
        sizes=fitted.sizes,
        ratios=fitted.ratios,
    )


if __name__ == "__main__":
    main()
