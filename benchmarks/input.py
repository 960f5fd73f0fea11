"""Images a second that one core of the host gets ready, against Caffe's way in NumPy and OpenCV.

    python benchmarks/input.py [--root DIR] [--images 256] [--repeat 5]
    python benchmarks/input.py --large [--images 32] [--repeat 5]

The process keeps itself to one core, and counts its processor time, not what others take of the core. Ours is
`data.train_batches`: decode, place in canvases of 512 pixels; the augmentation is then the accelerator's. Caffe's
way is to decode and to augment to 300 x 300 on the host. Images are 500 x 375 JPEGs drawn here, with a photograph's
spectrum and size in bytes, or those of `--root`; the files are in memory. Every figure is the median of `--repeat`
passes over the images.

`--large` compares decoding at the full and at a reduced scale on 4000 x 3000 JPEGs instead.
"""

import argparse
import os
import platform
import time
from pathlib import Path

import augment as augment_benchmark
import caffe_augment
import cv2
import grain
import jax
import numpy as np
import simplejpeg
from timing import Table

from ssd_jax import data

CANVAS, IMAGE_SIZE, BATCH, MAX_BOXES = 512, 300, 32, 64


def photograph(rng, height=375, width=500):
    """Noise whose amplitude falls with frequency, as that of photographs does, mostly grey; and some grain."""
    image = 0.2 * rng.normal(size=(height, width, 1)).astype(np.float32) + np.zeros(3, np.float32)
    for octave in range(1, 9):
        cells = (2**octave * 3 // 4, 2**octave)
        noise = rng.normal(size=(*cells, 1)) + 0.3 * rng.normal(size=(*cells, 3))
        image += 0.62**octave * cv2.resize(noise.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 75 * image, 0, 255).astype(np.uint8)


def drawn(count):
    rng = np.random.default_rng(0)
    return [cv2.imencode(".jpg", photograph(rng), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes() for _ in range(count)]


class Images:
    """Files with three objects each, over and over, as long as VOC2007 and VOC2012 together."""

    class_names: tuple[str, ...] = ("one", "two", "three")
    inclusive = False

    def __init__(self, files, length=16_551):
        rng = np.random.default_rng(0)
        corner = rng.uniform(0, 0.5, (len(files), 3, 2))
        self.boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.5, corner.shape)], axis=2).astype(np.float32)
        self.files, self.length = files, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        k = index % len(self.files)
        return data.Example(
            str(index), self.files[k], self.boxes[k], np.array([1, 2, 3], np.int32), np.zeros(3, bool)
        )

    def truth(self):
        return None


def decode(count, source):
    for k in range(count):
        data.decode_image(source[k].image)


def batches_of(source, **options):
    return data.train_batches(
        source, batch_size=BATCH, canvas_size=CANVAS, max_boxes=MAX_BOXES, seed=0, threads=0, **options
    )


def run_batches(source, **options):
    batches = batches_of(source, **options)

    def run(count, source):
        for _ in range(count // BATCH):
            next(batches)

    return run


def caffe(interpolations):
    rng = np.random.default_rng(0)

    def run(count, source):
        rows = []
        for k in range(count):
            example = source[k]
            image = data.decode_image(example.image)
            rows.append(
                caffe_augment.augment(
                    rng,
                    image,
                    example.boxes,
                    example.labels,
                    image_size=IMAGE_SIZE,
                    interpolations=interpolations,
                )[0]
            )
            if len(rows) == BATCH:
                np.stack(rows)
                rows = []

    return run


def rate(run, count, source, repeat):
    """Images a second of processor time: the median of `repeat` passes after one that does not count."""
    seconds = []
    for _ in range(repeat + 1):
        start = time.process_time()
        run(count, source)
        seconds.append(time.process_time() - start)
    return count / np.median(seconds[1:])


def decode_at_an_eighth(count, source):
    """Decode with one pixel of each 8 x 8 block: what remains is the reading of the file."""
    for index in range(count):
        simplejpeg.decode_jpeg(source[index].image, min_height=1, min_width=1)


def compare_reduced_decoding(count, repeat):
    """Print the images a second of batches of three 4000 x 3000 JPEGs, at the full and at a reduced scale."""
    rng = np.random.default_rng(0)
    sharp = photograph(rng, 3000, 4000)
    soft, softer = (
        cv2.resize(photograph(rng, 3000 // k, 4000 // k), (4000, 3000), interpolation=cv2.INTER_CUBIC) for k in (2, 4)
    )
    table = Table("image", "MB", "full", "reduced", "reduced / full", "RMS difference", "decoded alone at an eighth")
    for name, image, quality in (("sharp", sharp, 90), ("soft", soft, 90), ("softer", softer, 75)):
        source = Images([cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()])
        full, reduced = (
            next(batches_of(source, reduced_decoding=reduced)).arrays["images"][0, : CANVAS * 3 // 4].astype(float)
            for reduced in (False, True)
        )
        slow, fast = (
            rate(run_batches(source, reduced_decoding=reduced), count, None, repeat) for reduced in (False, True)
        )
        table.row(
            *(f"{name}, quality {quality}", f"{len(source.files[0]) / 1e6:.1f}", f"{slow:.1f}", f"{fast:.1f}"),
            f"{fast / slow:.2f}",
            f"{np.sqrt(np.mean((reduced - full) ** 2)):.2f}",
            f"{rate(decode_at_an_eighth, count, source, repeat):.1f}",
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of JPEGs, instead of drawn ones")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="compare `reduced_decoding` on 4000 x 3000 JPEGs")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)

    if arguments.large:
        compare_reduced_decoding(arguments.images, arguments.repeat)
        return
    files = [path.read_bytes() for path in sorted(arguments.root.glob("*.jpg"))] if arguments.root else drawn(64)
    source = Images(files)
    print(
        f"Python {platform.python_version()}, jax {jax.__version__}, grain {grain.__version__}, "
        f"OpenCV {cv2.__version__}, NumPy {np.__version__}\n"
        f"{len(files)} JPEGs of {arguments.root or 'noise'}, {np.mean([*map(len, files)]) / 1000:.0f} kB on average\n"
    )
    runs = {
        "decode alone": decode,
        f"batches of {CANVAS} x {CANVAS} canvases": run_batches(source),
        f"batches of {CANVAS} x {CANVAS} canvases, cached": run_batches(Images(files, arguments.images), cache_gb=10),
        "Caffe's way, five interpolations": caffe(tuple(caffe_augment.INTERPOLATIONS)),
        "Caffe's way, linear only": caffe(("linear",)),
    }
    rates = {name: rate(run, arguments.images, source, arguments.repeat) for name, run in runs.items()}
    ours = rates[f"batches of {CANVAS} x {CANVAS} canvases"]
    for name, found in rates.items():
        print(f"{name:36} {found:7,.0f} images a second and core   ours / it {ours / found:5.2f}", flush=True)

    batch = augment_benchmark.images(BATCH, CANVAS, (375, 500))
    for name, options in augment_benchmark.OPTIONS.items():
        ms = augment_benchmark.device_ms(batch, IMAGE_SIZE, options, arguments.repeat)
        print(f"augmentation as on the device, on this core, {name:28} {1000 / ms:7,.0f} images a second", flush=True)


if __name__ == "__main__":
    main()
