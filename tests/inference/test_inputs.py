"""One image, given in every kind that a detector takes."""

import io
import struct

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


@pytest.mark.parametrize("white", [100, 4095, 65535])
def test_an_image_of_pil_has_the_levels_of_its_file(white):
    levels = (np.arange(600).reshape(20, 30) % (white + 1)).astype(np.uint8 if white < 256 else ">u2")
    file = b"P5\n30 20\n%d\n" % white + levels.tobytes()
    image = PIL.Image.open(io.BytesIO(file))
    assert image.mode == ("L" if white < 256 else "I")
    np.testing.assert_allclose(read_image(image).astype(int), read_image(file), atol=1)
    np.testing.assert_allclose(read_image(image)[:, :, 0], 255 * levels.astype(float) / white, atol=1)


def test_a_tiff_of_twelve_bits():
    """Pillow gives the levels as they are, and only the file's tags tell that 4095 is white."""
    body = bytes.fromhex("fff800000010")  # 4095, 2048 and 0, 16
    fields = {256: 2, 257: 2, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 2, 279: len(body)}
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    file = struct.pack("<4sI", b"II*\0", 8 + len(body)) + body + struct.pack("<H", len(fields)) + tags + bytes(4)
    image = PIL.Image.open(io.BytesIO(file))
    assert image.mode == "I;16"
    np.testing.assert_array_equal(read_image(image)[:, :, 0], [[255, 128], [0, 1]])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_an_image_of_pil_whose_white_is_not_known(dtype):
    levels = np.arange(256).reshape(16, 16)
    small = PIL.Image.fromarray(levels.astype(dtype))
    assert small.mode in ("I", "F")
    np.testing.assert_array_equal(read_image(small)[:, :, 1], levels)
    for change, rule in ((levels + 1, "levels from 1 to 256"), (levels - 1, "levels from -1 to 254")):
        with pytest.raises(
            UnreadableImage, match=f"^image 4 must be an image that PIL can decode; got {rule} in mode"
        ):
            read_image(PIL.Image.fromarray(change.astype(dtype)), name="image 4")


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
