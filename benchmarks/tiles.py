"""What tiles find in drawn scenes of small objects: mAP and images a second, without tiles and with them.

    python benchmarks/tiles.py --workdir=runs/demo

The detector is that of `make demo`, which saw images of 96 x 96 with objects of 12 to 58 pixels. The scenes are
480 x 480 with up to 60 objects of 14 to 40 pixels.
"""

import argparse
import time

from ssd_jax.data.shapes import Shapes
from ssd_jax.inference import load_detector
from ssd_jax.metrics import VOCMetric


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--images", type=int, default=20)
    options = parser.parse_args()
    detector = load_detector(options.workdir, batch_size=16)
    side = 480
    scenes = Shapes(options.images, seed=123, image_size=side, max_objects=60, sizes=(14 / side, 40 / side))
    print("tile  overlap  mAP@0.5  found at 0.4  of objects  images a second")
    for tile, overlap in ((None, 0.2), (192, 0.2), (96, 0.0), (96, 0.2), (96, 0.4)):
        images = [scenes[i].image for i in range(len(scenes))]
        detector(images, tile=tile, overlap=overlap)  # compile
        start = time.perf_counter()
        answers = detector(images, tile=tile, overlap=overlap)
        seconds = time.perf_counter() - start
        metric = VOCMetric(scenes.class_names, inclusive=False)
        objects = 0
        for index, found in enumerate(answers):
            truth = scenes[index]
            objects += len(truth.labels)
            metric.add(index, truth.boxes * side, truth.labels, truth.difficult, *found)
        kept = sum(len(found.above(0.4).boxes) for found in answers)
        rate = len(images) / seconds
        print(f"{tile!s:>4}  {overlap:7.1f}  {metric.compute()['mAP']:7.3f}  {kept:12}  {objects:10}  {rate:15.1f}")


if __name__ == "__main__":
    main()
