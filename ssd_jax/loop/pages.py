"""Evaluation pages of runs: ssd-jax report WORKDIR [WORKDIR ...] [--split=SPLIT] [--out=FILE]."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssd_jax.command import Parser, command
from ssd_jax.data import Source
from ssd_jax.loop.build import open_split
from ssd_jax.loop.log import read_log
from ssd_jax.loop.workdir import load_config, split_name
from ssd_jax.report.analysis import analyse
from ssd_jax.report.compare import write_comparison
from ssd_jax.report.evaluation import ImageLoader, write_page
from ssd_jax.report.record import Record, load_record


def write_run_page(
    workdir: str | Path,
    *,
    split: str | None = None,
    out: str | Path | None = None,
    record: Record | None = None,
    source: Source | None = None,
) -> Path:
    """Write the evaluation page of a run, and beside it its numbers as JSON.

    Args:
      workdir: of a run that was evaluated on the split by `ssd-jax eval`.
      split: the default is the config's `data.eval`.
      out: the HTML file; the default is `report_SPLIT.html` in the workdir.
      record: what the evaluation saw; it is read from the workdir by default.
      source: the dataset of the evaluation; it is opened as the config says by default.

    Returns:
      the path of the page.

    Raises:
      FileNotFoundError: if the run was not evaluated on the split.
      ValueError: for a damaged file, or another dataset than that of the evaluation.
    """
    split = split or str(load_config(workdir).data.eval)
    record = record or evaluated(workdir, split)
    path = Path(out) if out else Path(workdir) / f"report_{split_name(split)}.html"
    write_page(
        path,
        analyse(record),
        image_loader(workdir, split, record, source=source),
        title=Path(workdir).resolve().name,
        subtitle=f"Evaluated on the split {split}.",
        history=read_log(Path(workdir)),
    )
    return path


def write_runs_page(
    workdirs: Sequence[str | Path], *, out: str | Path, split: str | None = None
) -> tuple[Path, list[str]]:
    """Write a page that compares runs with the first of them on the same images.

    Args:
      workdirs: two or more, each evaluated on the split by `ssd-jax eval`.
      out: the HTML file.
      split: the default is `data.eval` of the first run's config.

    Returns:
      the path of the page, and a sentence for each run after the first.

    Raises:
      FileNotFoundError: if a run was not evaluated on the split.
      ValueError: for a damaged file, for runs on other images or classes, and for a run that is named twice.
    """
    if len({Path(workdir).resolve() for workdir in workdirs}) < len(workdirs):
        raise ValueError(f"workdirs to compare must be different; got {', '.join(map(str, workdirs))}")
    split = split or str(load_config(workdirs[0]).data.eval)
    records = [evaluated(workdir, split) for workdir in workdirs]
    runs = {name: analyse(record) for name, record in zip(run_names(workdirs), records, strict=True)}
    return Path(out), write_comparison(Path(out), runs, image_loader(workdirs[0], split, records[0]))


def evaluated(workdir: str | Path, split: str) -> Record:
    """Return what an evaluation of the run on a split saw."""
    path = Path(workdir) / f"eval_{split_name(split)}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; evaluate first: ssd-jax eval --workdir={workdir} --split={split}"
        )
    return load_record(path)


def image_loader(workdir: str | Path, split: str, record: Record, *, source: Source | None = None) -> ImageLoader:
    """Return a function that decodes an image of a record by its index, from `source` or else the run's dataset."""
    source = source or open_split(load_config(workdir).data, split, class_names=record.class_names)
    if len(record.places) and np.max(record.places) >= len(source):
        raise ValueError(f"{workdir}: the split {split} must be that of the evaluation; got {len(source)} images")

    def load(index: int) -> np.ndarray:
        example = source[int(record.places[index])]
        if example.image_id != record.image_ids[index]:
            raise ValueError(
                f"{workdir}: the split {split} must be that of the evaluation, with {record.image_ids[index]!r} at "
                f"place {record.places[index]}; got {example.image_id!r}"
            )
        return example.decode()

    return load


def run_names(workdirs: Sequence[str | Path]) -> list[str]:
    """Return the names of the folders, or their paths where names are the same."""
    names = [Path(workdir).resolve().name for workdir in workdirs]
    return names if len(set(names)) == len(names) else [str(workdir) for workdir in workdirs]


def main(arguments: Sequence[str]) -> None:
    """Write the page that the command line asks for."""
    parser = Parser(
        "report",
        "Write the evaluation page of one run, or compare several runs.",
        examples=("report runs/mine --split=test", "report runs/first runs/second --out=comparison.html"),
    )
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="of a run that was evaluated")
    parser.add_argument("--split", help="the default is the config's data.eval")
    parser.add_argument("--out", help="the HTML file; report_SPLIT.html in the workdir, or comparison.html")
    options = parser.read(arguments)
    with command():
        if len(options.workdirs) == 1:
            print(f"written to {write_run_page(options.workdirs[0], split=options.split, out=options.out)}")
            return
        path, sentences = write_runs_page(options.workdirs, out=options.out or "comparison.html", split=options.split)
        print("\n".join([*sentences, f"written to {path}"]))
