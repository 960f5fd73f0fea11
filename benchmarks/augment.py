"""Time the augmentation on the device against Caffe's on one core of the host.

    python benchmarks/augment.py [--batch 128] [--repeat 20] [--step_ms 60]

For each setting it prints the milliseconds per image on the device (median of the calls, vmapped and compiled) and on
the host (NumPy and OpenCV, one thread), both without decoding; their ratio; and the time of the batch as a share of a
training step of `--step_ms`.
"""

import argparse
import functools
import time

import caffe_augment
import cv2
import jax
import numpy as np
from timing import machine, seconds

from ssd_jax.augment import INTERPOLATIONS, NO_AUGMENTATION, AugmentOptions, augment

OPTIONS = {
    "Caffe's five interpolations": AugmentOptions(),
    "linear only": AugmentOptions(interpolations=("linear",)),
    "linear only, no hue": AugmentOptions(interpolations=("linear",), hue_probability=0),
    "plain warp": NO_AUGMENTATION,
}
SIZES = {(512, 300): (375, 500), (96, 96): (96, 96)}
"""(canvas, result): (height, width) of the images."""


def images(count, canvas, size, *, slots=20, objects=3):
    rng = np.random.default_rng(0)
    images = np.zeros((count, canvas, canvas, 3), np.uint8)
    for image in images:
        small = rng.integers(0, 256, (12, 16, 3), np.uint8)
        image[: size[0], : size[1]] = cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)
    corner = rng.uniform(0, 0.5, (count, slots, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.5, corner.shape)], axis=2).astype(np.float32)
    labels = np.tile(np.arange(slots) < objects, (count, 1)).astype(np.int32)
    return images, np.tile(np.array(size, np.int32), (count, 1)), boxes, labels


def device_ms(batch, image_size, options, repeat):
    f = jax.jit(jax.vmap(functools.partial(augment, image_size=image_size, options=options)))
    count = len(batch[0])
    batch = jax.device_put(batch)
    keys = jax.random.split(jax.random.key(0), (repeat + 2, count))
    times = [seconds(lambda key=key: f(key, *batch)) for key in keys]
    return 1000 * np.median(times[2:]) / count


def host_ms(batch, image_size, interpolations, repeat):
    images, sizes, boxes, labels = batch
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for i in range(repeat):
        k = i % len(images)
        valid = labels[k] > 0
        image = np.ascontiguousarray(images[k, : sizes[k, 0], : sizes[k, 1]])
        caffe_augment.augment(
            rng, image, boxes[k, valid], labels[k, valid], image_size=image_size, interpolations=interpolations
        )
    return 1000 * (time.perf_counter() - start) / repeat


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--step_ms", type=float, default=60.0)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)

    print(f"{machine()}; batch {arguments.batch}")
    print(f"{'canvas':>6} {'size':>5}  {'options':28} {'device':>10} {'host':>10} {'ratio':>7} {'of a step':>10}")
    for (canvas, image_size), size in SIZES.items():
        batch = images(arguments.batch, canvas, size)
        host: dict[tuple[str, ...], float] = {
            names: host_ms(batch, image_size, names, 10 * arguments.repeat) for names in (INTERPOLATIONS, ("linear",))
        }
        for name, options in OPTIONS.items():
            on_device = device_ms(batch, image_size, options, arguments.repeat)
            on_host = host[options.interpolations]
            share = on_device * arguments.batch / arguments.step_ms
            text = f"{canvas:6} {image_size:5}  {name:28} {on_device:7.3f} ms"
            if options is not NO_AUGMENTATION and options.hue_probability:
                text += f" {on_host:7.3f} ms {on_host / on_device:6.1f}x"
            else:
                text += f" {'':10} {'':7}"
            print(f"{text} {share:10.1%}", flush=True)


if __name__ == "__main__":
    main()
