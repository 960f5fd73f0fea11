"""One image, given in every kind that a detector takes."""

import io

import cv2
import numpy as np
import PIL.Image
import pytest

from ssd_jax.data import UnreadableImage
from ssd_jax.inference.inputs import read_image

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(extension):
    return cv2.imencode(extension, IMAGE[:, :, ::-1])[1].tobytes()


def test_all_kinds_of_one_image_are_equal(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(".png"))
    kinds = [IMAGE, path, str(path), encoded(".png"), PIL.Image.fromarray(IMAGE), PIL.Image.open(path)]
    for image in kinds:
        np.testing.assert_array_equal(read_image(image), IMAGE)
    np.testing.assert_array_equal(read_image(IMAGE[:, :, ::-1], bgr=True), IMAGE)
    np.testing.assert_array_equal(read_image(path, bgr=True), IMAGE)  # files know their order


def test_images_of_pil_are_converted_to_rgb():
    gray = IMAGE[:, :, 0]
    three = np.repeat(gray[:, :, None], 3, axis=2)
    deep = PIL.Image.fromarray(gray.astype(np.uint16) * 256 + 255)
    assert deep.mode == "I;16"
    for image in (PIL.Image.fromarray(gray), deep, PIL.Image.fromarray(gray).convert("RGBA")):
        np.testing.assert_array_equal(read_image(image), three)


def test_an_image_of_pil_is_turned_as_a_file_is():
    image = PIL.Image.fromarray(IMAGE)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    turned = read_image(PIL.Image.open(file))
    assert turned.shape == (30, 20, 3)
    np.testing.assert_array_equal(turned, read_image(file.getvalue()))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (IMAGE.astype(np.float32), ValueError, r"image 4 must be uint8 RGB \[h, w, 3\]; got float32 \[20, 30, 3\]"),
        (IMAGE[:, :, 0], ValueError, r"image 4 must be uint8 RGB \[h, w, 3\]; got uint8 \[20, 30\]"),
        (b"", UnreadableImage, "image 4: the file is empty"),
        (3, TypeError, "image 4 must be a NumPy array, .* or an image of PIL; got int"),
        (PIL.Image.open(io.BytesIO(encoded(".png")[:400])), UnreadableImage, "image 4 must be an image that PIL can"),
    ],
)
def test_what_is_no_image_is_named(image, error, message):
    with pytest.raises(error, match=f"^{message}"):
        read_image(image, name="image 4")


def test_the_order_of_the_channels_is_in_the_message():
    with pytest.raises(ValueError, match="an image must be uint8 BGR"):
        read_image(IMAGE[:0], bgr=True)
