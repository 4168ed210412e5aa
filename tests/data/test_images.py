import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from involution.data.images import ImageError, check_image, read_image


def png_header(width, height):
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg(size=(40, 30)):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (b"just some words", "not an image"),
        (jpeg()[:600], "[Tt]runcated"),
        (png_header(60_000, 60_000), "too large|more than"),
        (png_header(14_000, 14_000), "too large|more than"),
        (png_header(100, 100), "broken or truncated"),
    ],
    ids=["empty", "text", "truncated", "bomb", "over-the-limit", "no-pixels"],
)
def test_hostile_files_are_refused_by_name(tmp_path, content, cause):
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=cause) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ImageError, match=f"mine.*({cause})"):
        read_image(content, name="mine")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match=r"can't be opened"):
        check_image(tmp_path)


@pytest.mark.parametrize(
    ("mode", "wanted"), [("1", "L"), ("L", "L"), ("LA", "L"), ("RGB", "RGB"), ("RGBA", "RGB"), ("P", "RGB")]
)
def test_modes(tmp_path, mode, wanted):
    path = tmp_path / "picture.png"
    Image.new("RGB", (6, 4), (200, 200, 200)).convert(mode).save(path)
    image = read_image(path)
    assert image.mode == wanted
    assert image.size == (6, 4)


def test_cmyk_becomes_rgb(tmp_path):
    path = tmp_path / "picture.jpg"
    Image.new("CMYK", (6, 4)).save(path)
    assert read_image(path).mode == "RGB"


def test_transparent_parts_become_white(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(path)
    assert read_image(path).getpixel((0, 0)) == (255, 255, 255)


def test_16_bits_keep_their_range(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(path)
    assert np.asarray(read_image(path)).tolist() == [[0, 128, 255]]


def test_exif_orientation_is_applied(tmp_path):
    path = tmp_path / "picture.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    assert read_image(path).size == check_image(path) == (4, 8)
    png = tmp_path / "picture.png"
    Image.new("RGB", (8, 4)).save(png, exif=exif)
    assert read_image(png).size == check_image(png) == (4, 8)
    Image.new("RGB", (8, 4)).save(png)
    assert check_image(png) == (8, 4)
