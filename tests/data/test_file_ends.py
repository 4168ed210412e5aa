"""Files whose end became zeros are no images; what fills up a whole file does not matter."""

import io

import numpy as np
import pytest
from PIL import Image

from involution.data.images import ImageError, Reading, is_image, look, read_image
from involution.data.noticed import Noticed


def padded():
    """Metadata that end with zeros, in which cameras leave room for more."""
    exif = Image.Exif()
    exif[0xEA1C] = bytes(500)
    return exif


KINDS = {
    "a.jpg": {"quality": 98},
    "progressive.jpg": {"progressive": True, "quality": 98},
    "a.png": {},
    "a.webp": {"quality": 98},
    "lossless.webp": {"lossless": True},
    "exif.webp": {"quality": 98, "exif": padded()},
    "a.avif": {},
}


@pytest.fixture
def content(request):
    y, x = np.mgrid[0:96, 0:96]
    noise = np.random.default_rng(0).integers(0, 40, (96, 96, 3))
    pixels = (np.stack([x, y, x + y], axis=-1) + noise).astype(np.uint8)
    kind = request.param
    options = dict(KINDS[kind])
    if kind.endswith(".jpg"):
        # a small picture in the metadata has an end of its own
        thumbnail = io.BytesIO()
        Image.new("RGB", (8, 8)).save(thumbnail, "JPEG")
        exif = Image.Exif()
        exif[0x010E] = thumbnail.getvalue()
        options["exif"] = exif
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, {"jpg": "JPEG"}.get(kind[-3:], kind.rpartition(".")[2].upper()), **options)
    return file.getvalue()


@pytest.mark.parametrize("content", KINDS, indirect=True)
def test_an_end_that_became_zeros_is_refused(content, tmp_path):
    file = tmp_path / "a"
    for kept in (len(content) // 2, len(content) * 9 // 10 - 64):
        file.write_bytes(content[:kept] + bytes(len(content) - kept))
        for read in (look, read_image):
            with pytest.raises(
                ImageError, match=r"a: its end is lost: the last [\d,]+ bytes are zeros; copy or fetch it"
            ):
                read(file)
        assert not is_image(file)
        with pytest.raises(ImageError, match="x: its end is lost"):
            read_image(file.read_bytes(), name="x")


@pytest.mark.parametrize("content", KINDS, indirect=True)
def test_what_fills_up_a_whole_file_does_not_matter(content, tmp_path):
    (tmp_path / "a").write_bytes(content + bytes(4096))
    assert look(tmp_path / "a").size == (96, 96)
    assert np.array_equal(read_image(tmp_path / "a"), read_image(content))


def ends_in_zeros(path, kept=None, border=0):
    """A picture that is stored as it is, black from a row on, or with zeros behind so many bytes."""
    pixels = np.random.default_rng(0).integers(1, 255, (90, 101, 3), dtype=np.uint8)
    if border:
        # the last rows of a BMP file are the upper ones
        pixels[slice(border) if path.suffix == ".bmp" else slice(-border, None)] = 0
    Image.fromarray(pixels).save(path)
    content = path.read_bytes()
    if kept is not None:
        path.write_bytes(content[:kept] + bytes(len(content) - kept))
    return path


@pytest.mark.parametrize("kind", ["bmp", "ppm", "tif"])
def test_zeros_at_the_end_of_what_is_not_compressed_are_told(kind, tmp_path):
    lost = [ends_in_zeros(tmp_path / f"{kept}.{kind}", kept) for kept in (9_000, 20_000)]
    whole = [ends_in_zeros(tmp_path / f"whole.{kind}"), ends_in_zeros(tmp_path / f"border.{kind}", border=30)]
    black = tmp_path / f"black.{kind}"
    Image.new("RGB", (101, 90)).save(black)
    noticed = Noticed()
    for file in (*lost, *whole, black):
        noticed.header(file.name, look(file))
    said = (
        "images whose last pixels are zeros to the end of the file: they are black, or lost where a copy was broken "
        f"off: 2 (9000.{kind}, 20000.{kind})"
    )
    assert noticed.lines(Reading()) == [said]
    one = Noticed()
    read_image(lost[0], noticed=one)
    assert [line for line in one.of_one(Reading()) if "broken off" in line]
    # where most of them are so, it is how they look
    for number in range(20):
        noticed.header(f"{number}", look(lost[0]))
    assert noticed.lines(Reading()) == []
