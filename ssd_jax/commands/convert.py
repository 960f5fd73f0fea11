"""ssd-jax convert: write a dataset in another layout."""

from collections.abc import Sequence
from pathlib import Path

from ssd_jax.command import Parser, command

EXAMPLES = ("convert PICTURES VOC --to=voc", "convert COCO YOLO --to=yolo --from=coco")


def main(arguments: Sequence[str]) -> None:
    """Convert as the arguments say, and print what was read and written."""
    parser = Parser(
        "convert",
        "Write a folder of labelled images, of any format that can be read, in the layout of VOC, COCO or YOLO.",
        examples=EXAMPLES,
    )
    parser.add_argument("source", metavar="SRC", help="the folder to read")
    parser.add_argument("target", metavar="DST", help="the folder to write, which must be empty or not exist")
    parser.add_argument("--to", required=True, choices=("voc", "coco", "yolo"), help="the layout to write")
    parser.add_argument("--from", dest="kind", default="auto", metavar="KIND", help="the format to read, if not auto")
    parser.add_argument("--strict", action="store_true", help="refuse annotation errors")
    parser.add_argument(
        "--allow_outside", action="store_true", help="accept links and file names of a COCO file that lead out of SRC"
    )
    options = parser.read(arguments)
    with command():
        from ssd_jax.data.auto import READERS, describe_folder, open_folder, read_folder
        from ssd_jax.data.write_dataset import write_dataset

        if options.kind != "auto" and options.kind not in READERS:
            raise ValueError(f"from must be auto, or one of {', '.join(READERS)}; got {options.kind!r}")
        source, target = Path(options.source), Path(options.target)
        if source.resolve() in (target.resolve(), *target.resolve().parents):
            raise ValueError(f"{target}: the folder to write must not be in the folder to read, {source}")
        how = {"strict": options.strict, "allow_outside": options.allow_outside}
        reading = read_folder(source, options.kind, **how)
        print(f"{source}: {reading.counts()}")
        everything = open_folder(source, "all", options.kind, **how)
        for note in write_dataset(everything, reading.splits, target, options.to):
            print(f"NOTE: {note}")
        print(f"written to {describe_folder(target).text}")
