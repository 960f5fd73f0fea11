"""Image files: reading, decoding, orientation, damage, limits, resizing."""

import io
import os
import re
import tracemalloc

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from image_files import encode, make_image, photograph, png, rle_bmp, with_orientation

from ssd_jax import data
from ssd_jax.data import Example, ReadOptions, UnreadableImage
from ssd_jax.data.batches import NO_OBJECTS
from ssd_jax.data.image import read
from ssd_jax.files import read_bytes


def test_decode_gives_rgb():
    image = make_image(40, 60)
    np.testing.assert_array_equal(data.decode_image(encode(image, ".png")), image)
    decoded = data.decode_image(encode(image, ".jpg"))
    assert decoded.dtype == np.uint8
    np.testing.assert_allclose(decoded.astype(int), image, atol=8)


def test_decode_makes_three_channels_of_eight_bits():
    grey = make_image(9, 12)[:, :, 0]
    three = np.stack([grey] * 3, axis=2)
    alpha = np.concatenate([make_image(9, 12), grey[:, :, None]], axis=2)
    deep = make_image(9, 12).astype(np.uint16) * 257
    for image, expected in ((grey, three), (grey[:, :, None], three), (alpha, alpha[:, :, :3]), (deep, deep >> 8)):
        np.testing.assert_array_equal(data.decode_image(image), expected)
    np.testing.assert_array_equal(data.decode_image(encode(grey, ".png")), three)
    np.testing.assert_array_equal(data.decode_image(encode(alpha, ".png")), alpha[:, :, :3])
    np.testing.assert_allclose(data.decode_image(encode(deep, ".png")).astype(int), deep >> 8, atol=1)


def pnm(magic, white, levels, comment=b""):
    """A PPM or PGM of levels [h, w] or [h, w, 3], binary (P5, P6) or as text (P2, P3)."""
    height, width = levels.shape[:2]
    text = b" ".join(b"%d" % level for level in levels.ravel()) + b"\n"
    body = text if magic in (b"P2", b"P3") else levels.astype(np.uint8 if white < 256 else ">u2").tobytes()
    return magic + b"\n" + comment + b"%d %d\n%d\n" % (width, height, white) + body


@pytest.mark.parametrize("magic", [b"P2", b"P3", b"P5", b"P6"])
@pytest.mark.parametrize("white", [1, 15, 100, 255, 256, 1023, 4095, 65535])
def test_the_file_says_which_level_is_white(magic, white):
    """The parts of white are the same whatever its level; one byte is too few for 16 bits of each."""
    parts = np.linspace(0, 1, 3 * 5 * 7).reshape(5, 7, 3)
    levels = np.rint(parts * white).astype(int)
    levels = levels if magic in (b"P3", b"P6") else levels[:, :, 0]
    expected = 255 * levels / white
    decoded = data.decode_image(pnm(magic, white, levels, comment=b"# 9 9 9\n"))
    assert decoded.dtype == np.uint8 and decoded.shape == (5, 7, 3)
    np.testing.assert_allclose(decoded, expected if levels.ndim == 3 else np.stack([expected] * 3, 2), atol=1)
    assert (decoded[levels.reshape(5, 7, -1)[:, :, 0] == white] == 255).all()


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("part", [0.5, 0.9, -1])
def test_decode_refuses_part_of_a_file(extension, part):
    file = encode(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8), extension)
    cut = file[: int(len(file) * part)] if part > 0 else file[:part]
    with pytest.raises(UnreadableImage, match=r"^the file is cut short \(no end-of-image marker in its \d+ bytes\)$"):
        data.decode_image(cut)
    with pytest.raises(UnreadableImage, match=r"cut short"):
        data.decode_image(cut + bytes(len(file) - len(cut)))  # as a broken download leaves it


def test_a_thumbnails_end_is_not_the_images():
    jpeg, thumbnail = encode(make_image(40, 60)), encode(make_image(4, 6))
    header = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = jpeg[:2] + header + jpeg[2:]
    np.testing.assert_array_equal(data.decode_image(whole), data.decode_image(jpeg))
    with pytest.raises(UnreadableImage, match=r"cut short"):
        data.decode_image(whole[:-2])


def test_trailing_bytes_do_no_harm():
    for extension in (".jpg", ".png"):
        file = encode(make_image(40, 60), extension)
        np.testing.assert_array_equal(data.decode_image(file + b"more"), data.decode_image(file))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "must be JPEG, PNG, .*; got one that begins with b'<html>no'"),
        (np.zeros((3, 4, 2), np.uint8), r"got uint8 \[3, 4, 2\]"),
        (np.zeros((3, 4, 3), np.float32), r"got float32 \[3, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"got uint8 \[0, 4, 3\]"),
    ],
)
def test_decode_says_why_it_refuses(image, reason):
    with pytest.raises(UnreadableImage, match=reason) as error:
        data.decode_image(image)
    assert "\n" not in str(error.value)


# -- orientation

STORED = make_image(6, 9) // 2 + np.arange(54, dtype=np.uint8).reshape(6, 9, 1)  # no two orientations look alike


def upright(stored, orientation):
    """Pillow's own way."""
    image = PIL.Image.open(io.BytesIO(with_orientation(stored, orientation, "PNG")))
    return np.asarray(PIL.ImageOps.exif_transpose(image))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_by_exif(kind, orientation):
    file = with_orientation(STORED, orientation, kind)
    np.testing.assert_array_equal(data.decode_image(file), upright(STORED, orientation))
    np.testing.assert_array_equal(data.decode_image(file, options=ReadOptions(exif="ignore")), STORED)
    assert data.decoded_size(file) == data.decode_image(file).shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_by_exif(orientation):
    stored = make_image(40, 60)
    file = with_orientation(stored, orientation, "JPEG")
    np.testing.assert_allclose(data.decode_image(file).astype(int), upright(stored, orientation), atol=8)
    assert data.decode_image(file, options=ReadOptions(exif="ignore")).shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("size", "exif", "turned"),
    [
        (None, "auto", True),
        ((9, 6), "auto", True),  # annotated as a viewer shows it
        ((6, 9), "auto", False),  # annotated on the stored pixels
        ((900, 600), "auto", True),  # likewise, of a resized copy
        ((600, 900), "auto", False),
        ((7, 7), "auto", True),
        ((6, 9), "turn", True),
        ((9, 6), "ignore", False),
        (None, "ignore", False),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_size_in_the_annotation_tells_whether_an_image_is_turned(kind, size, exif, turned):
    options = ReadOptions(exif=exif)
    expected = (9, 6) if turned else (6, 9)
    for orientation in (5, 6, 7, 8):
        file = with_orientation(STORED, orientation, kind)
        assert data.decode_image(file, size=size, options=options).shape[:2] == expected
        assert data.decoded_size(file, size=size, options=options) == expected
    example = Example("a", file, *NO_OBJECTS, size=size, options=options)
    assert example.decode().shape[:2] == expected


def test_a_square_image_is_turned_unless_exif_is_ignored():
    square = STORED[:, :6]
    file = with_orientation(square, 6, "PNG")
    np.testing.assert_array_equal(data.decode_image(file, size=(6, 6)), upright(square, 6))
    np.testing.assert_array_equal(data.decode_image(file, size=(6, 6), options=ReadOptions(exif="ignore")), square)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_is_ignored(orientation):
    np.testing.assert_array_equal(data.decode_image(with_orientation(STORED, orientation, "PNG")), STORED)


def test_damaged_exif_data_is_ignored():
    jpeg = encode(make_image(40, 60))
    for exif in (b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", os.urandom(50)):
        segment = b"Exif\0\0" + exif
        file = jpeg[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:]
        np.testing.assert_array_equal(data.decode_image(file), data.decode_image(jpeg))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_pixels": 0}, "max_pixels must be at least 1; got 0"),
        ({"max_annotation_bytes": -1}, "max_annotation_bytes must be at least 1; got -1"),
        ({"exif": "yes"}, "exif must be one of auto, turn, ignore; got 'yes'"),
        ({"size_mismatch": True}, "size_mismatch must be one of warn, error, ignore; got True"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ReadOptions(**options)


# -- damage

PHOTOGRAPH = photograph()
BASELINE = encode(PHOTOGRAPH)
PROGRESSIVE = encode(PHOTOGRAPH, options=(cv2.IMWRITE_JPEG_PROGRESSIVE, 1))
RESTARTING = encode(PHOTOGRAPH, options=(cv2.IMWRITE_JPEG_RST_INTERVAL, 4))
JPEGS = {"baseline": BASELINE, "progressive": PROGRESSIVE, "with restarts": RESTARTING}


def middle(jpeg):
    """Somewhere in the compressed pixels."""
    return (jpeg.index(b"\xff\xda") + len(jpeg)) // 2


def replaced(file, start, new):
    return file[:start] + new + file[start + len(new) :]


DAMAGE = {
    "half of the scan is missing": lambda jpeg: jpeg[: middle(jpeg)] + b"\xff\xd9",
    "zeros to the end": lambda jpeg: replaced(jpeg, middle(jpeg), bytes(len(jpeg) - 2 - middle(jpeg))),
    "zeros in the middle": lambda jpeg: replaced(jpeg, middle(jpeg), bytes(len(jpeg) // 10)),
    "other bytes in the middle": lambda jpeg: replaced(jpeg, middle(jpeg), bytes(range(200))),
    "a hole": lambda jpeg: jpeg[: middle(jpeg)] + jpeg[middle(jpeg) + len(jpeg) // 10 :],
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", JPEGS)
def test_a_damaged_jpeg_is_unreadable(kind, damage):
    with pytest.raises(UnreadableImage, match=r"^the file is damaged: .+$"):
        data.decode_image(DAMAGE[damage](JPEGS[kind]))


UNUSUAL = {
    "bytes between the segments": lambda jpeg: jpeg[:2] + b"abc" + jpeg[2:],
    "fill bytes": lambda jpeg: jpeg[:2] + b"\xff\xff\xff" + jpeg[2:],
    "an unknown segment": lambda jpeg: jpeg[:2] + b"\xff\xef\0\5abc" + jpeg[2:],
    "a comment that ends an image": lambda jpeg: jpeg[:2] + b"\xff\xfe\0\4\xff\xd9" + jpeg[2:],
    "an unknown version": lambda jpeg: jpeg.replace(b"JFIF\0\1", b"JFIF\0\5"),
    "padding with zeros": lambda jpeg: jpeg[:-2] + bytes(300) + jpeg[-2:],
    "padding with ones": lambda jpeg: jpeg[:-2] + b"\xff" * 300 + jpeg[-2:],
    "a byte too many": lambda jpeg: jpeg[:-2] + b"\x12" + jpeg[-2:],
    "another image after it": lambda jpeg: jpeg + encode(make_image(10, 10)),
    "padding and another image after it": lambda jpeg: jpeg[:-2] + bytes(9) + jpeg[-2:] + encode(make_image(10, 10)),
}


@pytest.mark.parametrize("change", UNUSUAL)
@pytest.mark.parametrize("kind", JPEGS)
def test_a_complete_jpeg_with_something_unusual_is_read(kind, change):
    np.testing.assert_array_equal(data.decode_image(UNUSUAL[change](JPEGS[kind])), data.decode_image(JPEGS[kind]))


def test_a_jpeg_with_unusual_subsampling_is_read():
    """Simplejpeg refuses these. The pixels here are no image, since only the header was changed."""
    file = bytearray(BASELINE)
    frame = file.index(b"\xff\xc0")
    file[frame + 17] = 0x12
    assert data.decode_image(bytes(file)).shape == PHOTOGRAPH.shape


def test_strict_decoding_gives_opencvs_pixels():
    """Of gray, colour, progressive, CMYK: simplejpeg and OpenCV share libjpeg-turbo."""
    cmyk = io.BytesIO()
    PIL.Image.fromarray(np.concatenate([PHOTOGRAPH, PHOTOGRAPH[:, :, :1]], axis=2), "CMYK").save(cmyk, "JPEG")
    for file in (*JPEGS.values(), encode(PHOTOGRAPH[:, :, 0]), cmyk.getvalue()):
        expected = cv2.cvtColor(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(data.decode_image(file), expected)


@pytest.mark.parametrize("place", ["IHDR", "IDAT", "the length of IDAT"])
def test_a_damaged_png_is_unreadable(place):
    file = bytearray(encode(PHOTOGRAPH, ".png"))
    idat = file.index(b"IDAT")
    file[{"IHDR": 18, "IDAT": idat + 50, "the length of IDAT": idat - 4}[place]] ^= 64
    with pytest.raises(UnreadableImage, match=r"^the file is damaged: .+$"):
        data.decode_image(bytes(file))


@pytest.mark.parametrize("extension", [".bmp", ".webp", ".tif", ".gif", ".ppm"])
def test_other_files_that_are_cut_short_are_unreadable(extension, capfd):
    file = encode(PHOTOGRAPH, extension)
    assert data.decode_image(file).shape == PHOTOGRAPH.shape
    for part in (0.02, 0.5, 0.9):
        with pytest.raises(UnreadableImage, match=r"^the (file|header) is damaged: .+$"):
            data.decode_image(file[: int(len(file) * part)])
    capfd.readouterr()  # OpenCV prints


# -- limits

MEGABYTES = 20  # that refusing an image may take


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (png(3, 5, bytes(6), idat_length=2**32 - 12), "a chunk says that it has 4294967284 bytes"),
        (png(20_000, 20_000, bytes(20_000 * 2_501)), "at most 100,000,000 pixels (max_pixels); got 20000 x 20000"),
        (rle_bmp(30_000, 30_000, 1), "bytes cannot hold 30000 x 30000 pixels"),
        (png(8_000, 8_000, bytes(100)), "bytes cannot hold 8000 x 8000 pixels"),
        (replaced(BASELINE, BASELINE.index(b"\xff\xc0") + 5, b"\x27\x10" * 2), "cannot hold 10000 x 10000 pixels"),
        (png(0, 5), "got 5 x 0"),
        (encode(PHOTOGRAPH, ".webp")[:15], "the header is damaged"),
        (b"P6 99999 99999 255\n", "got 99999 x 99999"),
    ],
)
def test_an_image_beyond_the_limits_is_refused_before_it_is_decoded(file, reason):
    tracemalloc.start()
    with pytest.raises(UnreadableImage, match=re.escape(reason)):
        data.decode_image(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(file) + MEGABYTES * 1e6


def test_the_limit_on_pixels_is_an_option():
    jpeg = encode(make_image(40, 60))
    assert data.decode_image(jpeg, options=ReadOptions(max_pixels=2400)).shape == (40, 60, 3)
    message = r"^the image must have at most 2,399 pixels \(max_pixels\); got 60 x 40$"
    with pytest.raises(UnreadableImage, match=message):
        data.decode_image(jpeg, options=ReadOptions(max_pixels=2399))
    with pytest.raises(UnreadableImage, match=message):
        data.decoded_size(jpeg, options=ReadOptions(max_pixels=2399))


def test_only_regular_files_are_read(tmp_path, caplog):
    (tmp_path / "image.jpg").write_bytes(b"content")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "image.jpg")
    assert read(tmp_path / "image.jpg") == read(tmp_path / "link.jpg") == b"content"
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("pipe", "endless", "folder", "missing"):
        assert read(tmp_path / f"{name}.jpg") == b""
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path}/pipe.jpg: must be a regular file; got a pipe",
        f"{tmp_path}/endless.jpg: must be a regular file; got a device",
        f"{tmp_path}/folder.jpg: must be a regular file; got a folder",
        f"{tmp_path}/missing.jpg: No such file or directory",
    ]
    with pytest.raises(ValueError, match=r"image.jpg: must have at most 6 bytes; got 7$"):
        read_bytes(tmp_path / "image.jpg", most=6)


# -- shrink, warp


def areas(image, h, w):
    """The mean of each of h x w areas: a slow, exact shrink."""
    rows, columns = (overlaps(side, n) for side, n in zip(image.shape[:2], (h, w), strict=True))
    return np.moveaxis(rows @ np.moveaxis(image.astype(float), 2, 0) @ columns.T, 0, 2)


def overlaps(side, n):
    """[n, side]: which part of area i each pixel is."""
    edges, pixels = np.linspace(0, side, n + 1), np.arange(side)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(shared, 0, None) * n / side


def test_shrink_leaves_what_fits():
    image = make_image(20, 32)
    assert data.shrink(image, 32) is image


def test_shrink_by_two_is_the_mean_of_four_pixels():
    image = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    shrunk = data.shrink(image, 60)
    assert shrunk.shape == (40, 60, 3)
    np.testing.assert_allclose(shrunk, image.reshape(40, 2, 60, 2, 3).mean(axis=(1, 3)), atol=0.51)


@pytest.mark.parametrize("factor", [1.1, 1.67, 2, 2.3, 3, 5.2])
def test_shrink_is_near_the_mean_over_areas(factor):
    random = np.random.default_rng(0)
    photograph = cv2.resize(random.integers(0, 256, (12, 16, 3), np.uint8), (240, 180), interpolation=cv2.INTER_CUBIC)
    noise = random.integers(0, 256, (180, 240, 3), np.uint8)
    size = round(240 / factor)
    h, w = round(180 * size / 240), size
    error = data.shrink(photograph, size) - areas(photograph, h, w)
    assert np.sqrt(np.mean(error**2)) < 2
    # Pixels that are left out would let noise through: of n independent pixels the mean has 1 / sqrt(n) of it.
    assert np.std(data.shrink(noise, size)) < 1.5 * np.std(areas(noise, h, w))


@pytest.mark.parametrize("factor", [1.1, 1.67, 2.3, 5.2])
def test_shrink_moves_nothing(factor):
    ramp = np.tile(np.arange(240, dtype=np.uint8)[None, :, None], (240, 1, 3))
    ramp[:, :, 1] = ramp[:, :, 0].T
    size = round(240 / factor)
    np.testing.assert_allclose(data.shrink(ramp, size)[1:-1, 1:-1], areas(ramp, size, size)[1:-1, 1:-1], atol=1.01)


def test_shrink_never_loses_a_side():
    assert data.shrink(make_image(1000, 2), 64).shape == (64, 1, 3)
    assert data.shrink(make_image(2, 1000), 64).shape == (1, 64, 3)


@pytest.mark.parametrize(
    ("at_least", "divisor"), [(None, 1), (153, 1), (152, 2), (77, 2), (76, 4), (39, 4), (38, 8), (1, 8)]
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_can_be_decoded_at_a_reduced_scale(at_least, divisor, orientation):
    random = np.random.default_rng(0)
    smooth = cv2.resize(random.integers(0, 256, (4, 5, 3), np.uint8), (303, 199), interpolation=cv2.INTER_CUBIC)
    file = with_orientation(smooth, orientation, "JPEG")
    reduced = data.decode_image(file, at_least=at_least)
    height, width = -(-199 // divisor), -(-303 // divisor)
    assert reduced.shape[:2] == ((width, height) if orientation == 6 else (height, width))
    mean = upright(cv2.resize(smooth, (width, height), interpolation=cv2.INTER_AREA), orientation)
    error = reduced.astype(float) - mean
    assert np.sqrt(np.mean(error[2:-2, 2:-2] ** 2)) < 4
    assert np.array_equal(data.decode_image(encode(smooth, ".png"), at_least=1), smooth)


def test_damage_is_found_at_a_reduced_scale():
    file = encode(make_image(160, 200), ".jpg")
    with pytest.raises(UnreadableImage, match=r"cut short"):
        data.decode_image(file[: len(file) // 2], at_least=20)


def test_warp_is_linear_with_pixel_centres_at_halves():
    ramp = np.repeat(np.arange(0, 80, 10, dtype=np.uint8)[None, :, None], 3, axis=2)  # [1, 8, 3]
    warped = data.warp(np.repeat(ramp, 8, axis=0), 4)
    assert warped.shape == (4, 4, 3)
    np.testing.assert_array_equal(warped[0, :, 0], [5, 25, 45, 65])
