"""ssd-jax detect: detect in image files, and draw what is found; or in many images, into parts."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssd_jax.command import Parser, command, parse_step

if TYPE_CHECKING:
    from ssd_jax.loop.detect_many import Progress

EXAMPLES = (
    "detect --workdir=runs/mine --out=drawings photo.jpg folder/",
    "detect --workdir=runs/mine --out=drawings --score=0.2 --step=best",
    "detect --workdir=runs/mine --out=drawings --tile=300 aerial.jpg",
    "detect --workdir=runs/mine --out=results --format=parquet folder/ images.tar",
    "detect --workdir=runs/mine --out=results --track clip.mp4",
)


def main(arguments: Sequence[str]) -> None:
    """Detect in the images named, or in some of the run's evaluation split."""
    parser = Parser("detect", "Detect in images with a run, and draw what is found.", examples=EXAMPLES)
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="images and folders; or lists (.txt), tars and Parquet tables of images; or videos, a camera (0) and "
        "streams (rtsp://...); the default is some of the run's evaluation split",
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--step", help="the checkpoint: a number, or best; the default is the newest")
    parser.add_argument(
        "--score",
        type=_score,
        default=0.4,
        metavar="SCORE",
        help="keep detections from this score on; %(default)s; auto: the best one of each class",
    )
    parser.add_argument("--tile", type=int, metavar="PIXELS", help="also look at squares of this side: small objects")
    parser.add_argument("--overlap", type=float, default=0.2, help="of neighbouring tiles; %(default)s of their side")
    parser.add_argument("--batch_size", type=int, default=8, help="images of a batch; %(default)s")
    parser.add_argument(
        "--format",
        choices=("drawings", "jsonl", "parquet"),
        help="drawings and detections.json, or for many images a row each in parts of --part_size; the default is "
        "drawings, but jsonl for lists, tars and tables",
    )
    parser.add_argument("--track", action="store_true", help="number the objects of a video through its frames")
    parser.add_argument("--part_size", type=int, default=1000, help="images in a part; %(default)s")
    options = parser.read(arguments)
    with command():
        common = {
            "score": options.score,
            "step": parse_step(options.step),
            "tile": options.tile,
            "overlap": options.overlap,
            "batch_size": options.batch_size,
        }

        from ssd_jax.inference.detector import EXPORTED
        from ssd_jax.inference.video import is_video
        from ssd_jax.loop.image_lists import is_container

        suffix = Path(options.workdir).suffix
        if suffix in EXPORTED and not options.inputs:
            raise ValueError(f"inputs must be given with an exported file; got none with {options.workdir}")
        if suffix != ".onnx":  # onnxruntime runs that, without JAX
            from ssd_jax.loop.workdir import choose_kernels_of
            from ssd_jax.parallel import require_devices

            choose_kernels_of(options.workdir)
            require_devices()
        containers = [path for path in options.inputs if is_container(path)]
        videos = [path for path in options.inputs if is_video(path)]
        if options.track and not videos:
            raise ValueError("track must be of videos; got none")
        if videos:
            if len(videos) < len(options.inputs):
                other = next(path for path in options.inputs if path not in videos)
                raise ValueError(f"inputs must be videos alone, or no videos; got {videos[0]} and {other}")
            if options.format:
                raise ValueError(f"format must not be given for videos; got {options.format}")
            _videos(options, common)
        elif containers or options.format in ("jsonl", "parquet"):
            if options.format == "drawings":
                raise ValueError(f"format must be jsonl or parquet for lists, tars and tables; got {containers[0]}")
            _many(options, common)
        else:
            _drawings(options, common)


def _drawings(options: argparse.Namespace, common: dict[str, Any]) -> None:
    from ssd_jax.loop.detect import detect_images

    count = detect_images(options.workdir, options.inputs, options.out, **common)
    if not count:
        raise ValueError("at least one image must be readable; got none")
    print(f"{count} images with their detections, and detections.json, in {options.out}")


def _videos(options: argparse.Namespace, common: dict[str, Any]) -> None:
    from ssd_jax.inference import load_detector
    from ssd_jax.inference.video import is_live
    from ssd_jax.loop.detect import best_scores, unused
    from ssd_jax.loop.detect_video import detect_video

    live = any(map(is_live, options.inputs))  # a batch of frames would have to be waited for
    detector = load_detector(options.workdir, step=common["step"], batch_size=1 if live else options.batch_size)
    score = best_scores(detector, options.workdir) if options.score == "auto" else options.score
    out = Path(options.out)
    taken = {
        path.stem for path in map(Path, options.inputs) if path.resolve() == (out / f"{path.stem}.mp4").resolve()
    }
    for source in options.inputs:
        stem = unused(Path(source).stem if not is_live(source) else "live", taken)
        settings = {"score": score, "tile": options.tile, "overlap": options.overlap, "track": options.track}
        done = detect_video(detector, source, out, stem=stem, **settings)
        end = f", ended by {done.interrupted}" if done.interrupted else ""
        print(f"{source}: {done.frames} frames in {done.lines} and {done.video}{end}", flush=True)
        if done.interrupted:
            break


def _many(options: argparse.Namespace, common: dict[str, Any]) -> None:
    from ssd_jax.loop.detect_many import detect_many

    if not options.inputs:
        raise ValueError("inputs must be images, folders, lists, tars or tables; got none")
    format = options.format or "jsonl"
    done = detect_many(
        options.workdir,
        options.inputs,
        options.out,
        format=format,
        part_size=options.part_size,
        report=lambda progress: print(f"{progress.images} images done, {_rate(progress)}", flush=True),
        **common,
    )
    rate = f", {done.new} of them now, {_rate(done)}" if done.new else ", all of them before"
    print(f"{done.images} images in {options.out}/part-*.{format}{rate}")


def _rate(progress: "Progress") -> str:
    errors = f", {progress.errors} unreadable" if progress.errors else ""
    return f"{progress.new / progress.seconds:.1f} images a second{errors}"


def _score(text: str) -> float | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, or auto; got {text!r}")
    return value
