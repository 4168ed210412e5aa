import io
import os
import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from generated import tiff
from PIL import Image, PngImagePlugin, TiffImagePlugin

from involution.data.images import ImageError, Reading, check_image, is_image, look, open_pixels, read_image
from involution.data.noticed import Noticed


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
    with pytest.raises(ImageError, match="is a folder, not a file"):
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


ARROW = np.array([[10, 60, 110], [160, 210, 250]], np.uint8)
# what must be done to stored pixels to see them upright, by the EXIF standard
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize(
    "options", [{"format": "PNG"}, {"format": "TIFF"}, {"format": "TIFF", "compression": "tiff_lzw"}], ids=str
)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_one_orientation_for_check_and_reader(tmp_path, options, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "picture"
    Image.fromarray(ARROW).save(path, exif=exif, **options)
    upright = UPRIGHT[orientation](ARROW)
    header = look(path)
    assert np.array_equal(np.asarray(read_image(path)), upright)
    assert header.size == check_image(path) == upright.shape[::-1]
    assert (header.stored, header.orientation) == ((3, 2), orientation)
    ignore = Reading(exif="ignore")
    assert np.array_equal(np.asarray(read_image(path, reading=ignore)), ARROW)
    with open_pixels(path, ignore) as image:
        assert np.array_equal(np.asarray(image), ARROW)
    assert check_image(path, ignore) == (3, 2)


def test_an_orientation_behind_the_pixels_of_a_png_counts_for_neither(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(ARROW).save(file, "PNG", exif=exif)
    data = file.getvalue()
    start = data.index(b"eXIf") - 4
    chunk = data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]
    end = data.index(b"IEND") - 4
    path = tmp_path / "picture.png"
    path.write_bytes(data[:start] + data[start + len(chunk) : end] + chunk + data[end:])
    assert check_image(path) == read_image(path).size == (3, 2)


def tiff16(values, sample_format):
    """A TIFF of 16 bits, as scanners write it: the image library writes no signed one."""
    pixels = np.asarray(values, dtype="<i2" if sample_format == 2 else "<u2")
    height, width = pixels.shape
    entries = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries += [(279, pixels.nbytes), (339, sample_format)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHIHH", t, 3, 1, v, 0) for t, v in entries)
    return struct.pack("<2sHI", b"II", 42, 8 + pixels.nbytes) + pixels.tobytes() + directory + bytes(4)


def grey(content, **options):
    return np.asarray(read_image(content, reading=Reading(**options))).tolist()


def test_integers_are_scaled_by_the_range_of_their_type_unless_told_otherwise():
    computed = tiff16([[-32768, 0, 32767]], 2)
    assert grey(computed) == [[0, 128, 255]]
    assert grey(computed, value_range=(-1000, 2000)) == [[0, 85, 255]]
    microscope = tiff16([[0, 2048, 4095]], 1)
    assert grey(microscope) == [[0, 8, 16]]
    assert grey(microscope, value_range=(0, 4095)) == [[0, 128, 255]]
    # netpbm's own maximum is its type's range
    assert grey(b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes()) == [[0, 128, 255]]
    # 8 bits stay as they are
    assert grey(b"P5 2 1 255\n" + bytes([7, 200]), value_range=(0, 4095)) == [[7, 200]]


@pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "floats"), (np.int32, "32-bit integers")])
def test_types_without_a_range_want_one(tmp_path, dtype, kind):
    path = tmp_path / "picture.tif"
    Image.fromarray(np.array([[-1000, 500, 2000]], dtype)).save(path)
    for read in (read_image, check_image):
        with pytest.raises(ImageError, match=f"{kind} have no range of their own; .*--data.value_range LOW HIGH"):
            read(path)
    reading = Reading(value_range=(-1000, 2000))
    assert check_image(path, reading) == (3, 1)
    assert np.asarray(read_image(path, reading=reading)).tolist() == [[0, 128, 255]]


def test_pixels_that_are_no_numbers_are_refused(tmp_path):
    path = tmp_path / "picture.tif"
    Image.fromarray(np.array([[0, np.nan, np.inf]], np.float32)).save(path)
    with pytest.raises(ImageError, match=r"1 pixels are NaN"):
        read_image(path, reading=Reading(value_range=(0, 1)))


def test_wrong_settings():
    with pytest.raises(ValueError, match="exif must be apply or ignore, got 'maybe'"):
        Reading(exif="maybe")
    for wrong in ((1, 1), (5, 2), (float("nan"), 1)):
        with pytest.raises(ValueError, match="value_range must be two numbers, the lower one first"):
            Reading(value_range=wrong)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "JPEG2000", "BMP", "TIFF", "GIF", "PPM"])
def test_images_are_known_by_their_content(tmp_path, kind):
    path = tmp_path / "no suffix"
    Image.new("RGB", (8, 4), (200, 10, 10)).save(path, kind)
    assert is_image(path)
    assert read_image(path).size == check_image(path) == (8, 4)
    assert look(path).kind == kind


def test_heic_says_what_opens_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "picture.heic"
    path.write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(40))
    assert is_image(path)
    with pytest.raises(ImageError, match="an image in HEIC; `pip install pillow-heif` opens it, or save it as JPEG"):
        read_image(path)


def test_long_comments_of_a_gif_do_not_take_long(tmp_path):
    path = tmp_path / "picture.gif"
    Image.new("L", (4, 4)).save(path)
    data = path.read_bytes()
    start = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 128 else 0)

    def with_words(blocks):
        return data[:start] + b"!\xfe" + (b"\xff" + b"a" * 255) * blocks + b"\0" + data[start:]

    assert read_image(with_words(100)).size == (4, 4)
    start_time = time.perf_counter()
    with pytest.raises(ImageError, match="a GIF with more than 1,000,000 bytes of comments"):
        read_image(with_words(80_000))
    assert time.perf_counter() - start_time < 2


def strange(folder):
    """Paths that are no files to read, and why."""
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    return {
        folder / "pipe.jpg": "is a named pipe, not a file",
        folder / "loop.jpg": "can't be opened .*symbolic links",
        folder / "gone.jpg": "no such file",
        Path("/dev/null"): "is a device, not a file",
        folder / ("a" * 300): "can't be opened .*too long",
        folder / "a\0b.jpg": r"a\\x00b.jpg: can't be opened",
        folder / "clear\x1b[2J.jpg": r"clear\\x1b\[2J.jpg: no such file",
        Path(os.fsdecode(b"caf\xe9.jpg")): r"caf\\xe9.jpg: no such file",
    }


def test_what_is_no_file_is_told_in_one_line(tmp_path):
    for path, why in strange(tmp_path).items():
        for read in (read_image, check_image):
            with pytest.raises(ImageError, match=why) as caught:
                read(path)
            assert str(caught.value).isprintable()
        assert not is_image(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_black_and_white_change_places_where_zero_is_white(tmp_path, dtype):
    whole = np.iinfo(dtype).max
    pixels = np.array([[0, whole, whole // 5]], dtype)
    for photometric, wanted in ((0, [255, 0, 204]), (1, [0, 255, 51])):
        tiff(tmp_path / "scan.tif", pixels, photometric)
        assert look(tmp_path / "scan.tif").white_zero == (photometric == 0)
        assert np.asarray(read_image(tmp_path / "scan.tif")).tolist() == [wanted]
    reading = Reading(value_range=(0, whole // 5))
    if dtype == np.uint16:
        tiff(tmp_path / "scan.tif", pixels, 0)
        assert np.asarray(read_image(tmp_path / "scan.tif", reading=reading)).tolist() == [[255, 0, 0]]


@pytest.mark.parametrize(("dtype", "channels", "extra"), [(np.uint8, 4, 0), (np.uint16, 4, 0), (np.uint8, 3, None)])
def test_headers_know_what_is_not_read_of_colours(tmp_path, dtype, channels, extra):
    pixels = np.full((4, 5, channels), np.iinfo(dtype).max // 255 * 7, dtype)
    tiff(tmp_path / "field.tif", pixels, 2, extra)
    header = look(tmp_path / "field.tif")
    assert (header.mode, header.more, header.halved) == ("RGB", channels == 4, dtype == np.uint16)
    assert np.asarray(read_image(tmp_path / "field.tif")).tolist() == np.full((4, 5, 3), 7).tolist()


def test_previews_of_raw_files_are_no_images(tmp_path):
    tiff(tmp_path / "DSC_1.NEF", np.zeros((4, 5, 3), np.uint8), 2, kind=1)
    assert not is_image(tmp_path / "DSC_1.NEF")
    with pytest.raises(ImageError, match=r"DSC_1\.NEF: a camera's raw file, of which a preview alone could be read"):
        read_image(tmp_path / "DSC_1.NEF")
    whole = tmp_path / "DSC_1.tif"
    Image.new("RGB", (5, 4)).save(whole)
    assert is_image(whole)
    # Canon's first picture has no mark of its own, but the file has
    tiff(whole, np.zeros((4, 5, 3), np.uint8), 2)
    data = whole.read_bytes()
    # a second copy of the tags behind all makes room for the mark
    marked = data[:4] + len(data).to_bytes(4, "little") + b"CR\2\0" + data[12:] + data[8:]
    Path(tmp_path, "IMG_1.CR2").write_bytes(marked)
    assert not is_image(tmp_path / "IMG_1.CR2")


@pytest.mark.parametrize("source", [np.zeros((8, 8, 3), np.uint8), 7, None])
def test_what_is_neither_file_nor_image_says_what_is_wanted(source):
    with pytest.raises(ImageError, match=f"^image: wanted a path, .* got {type(source).__name__}; PIL.Image.fromarray"):
        read_image(source)


def test_bytes_with_a_sign_are_refused(tmp_path):
    tiff(tmp_path / "slope.tif", np.array([[-1, 1]], np.int8), 1)
    with pytest.raises(ImageError, match=r"slope\.tif: has values from -128 to 127, which are not read; save 16 bits"):
        read_image(tmp_path / "slope.tif")


def test_12_bits_have_a_range_of_their_own(tmp_path):
    values = np.array([[0, 4095], [2048, 1024]])
    packed = b"".join(((first << 12) | second).to_bytes(3, "big") for first, second in values.tolist())
    entries = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 200)]
    entries += [(277, 3, 1, 1), (278, 3, 1, 2), (279, 4, 1, len(packed))]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    (tmp_path / "a.tif").write_bytes(head.ljust(200, b"\0") + packed)
    noticed = Noticed()
    assert np.asarray(read_image(tmp_path / "a.tif", noticed=noticed)).tolist() == [[0, 255], [128, 64]]
    assert noticed.lines(Reading()) == []
    half = read_image(tmp_path / "a.tif", reading=Reading(value_range=(0, 2048)))
    assert np.asarray(half).tolist() == [[0, 255], [255, 128]]


@pytest.mark.parametrize(("index", "gamut"), [("R03", True), ("R98", False)])
def test_adobe_rgb_is_known_by_what_cameras_write(tmp_path, index, gamut):
    exif = Image.Exif()
    exif[0x8769] = {0xA005: {1: index}}
    Image.new("RGB", (4, 4)).save(tmp_path / "_DSC1.jpg", exif=exif)
    assert look(tmp_path / "_DSC1.jpg").gamut == gamut


def test_integers_of_32_bits_without_a_sign_keep_their_upper_half(tmp_path):
    tiff(tmp_path / "a.tif", np.array([[0, 3_000_000_000]], np.uint32), photometric=1)
    read = read_image(tmp_path / "a.tif", reading=Reading(value_range=(0, 4e9)))
    assert np.asarray(read).tolist() == [[0, 191]]


def test_a_value_for_pixels_without_data_is_told(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[42113] = "-9999"
    Image.new("L", (4, 4)).save(tmp_path / "a.tif", tiffinfo=tags)
    Image.new("L", (4, 4)).save(tmp_path / "b.tif")
    noticed = Noticed()
    for name in ("a.tif", "b.tif"):
        read_image(tmp_path / name, noticed=noticed)
    (line,) = noticed.lines(Reading())
    assert line == (
        "images that name a value for pixels without data (GDAL's nodata), which is read as any other: 1 (a.tif)"
    )


def test_a_tiff_of_many_channels_says_so_and_nothing_is_printed(tmp_path, capfd):
    tiff(tmp_path / "field.tif", np.zeros((4, 5, 13), np.uint16), 1)
    said = r"field\.tif: a TIFF of 13 channels of 16 bits, which is not read; save 1 channel, or 3, of 8 or 16 bits"
    for read in (look, read_image):
        with pytest.raises(ImageError, match=said):
            read(tmp_path / "field.tif")
    (tmp_path / "field.tif").write_bytes(b"II*\0" + bytes(100))
    with pytest.raises(ImageError, match="not an image in a known format"):
        look(tmp_path / "field.tif")
    assert capfd.readouterr() == ("", "")


def test_colours_in_lab_become_rgb(tmp_path):
    # lightness 0 to 255, and no colour; a, b with a sign
    tiff(tmp_path / "a.tif", np.array([[[255, 0, 0], [0, 0, 0], [136, 80, 67]]], np.uint8), 8)
    read = np.asarray(read_image(tmp_path / "a.tif")).astype(int)
    assert np.abs(read - [[[255, 255, 255], [0, 0, 0], [255, 0, 0]]]).max() <= 12


@pytest.mark.parametrize(
    ("chunks", "gamut"),
    [
        ({b"gAMA": (45455,)}, False),
        ({b"gAMA": (100000,)}, True),
        ({b"cHRM": (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)}, False),
        ({b"cHRM": (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)}, True),
        # sRGB's own chunk comes before the other
        ({b"sRGB": None, b"gAMA": (100000,)}, False),
    ],
)
def test_gamma_and_colours_of_png_are_known(tmp_path, chunks, gamut):
    file = tmp_path / "a.png"
    info = PngImagePlugin.PngInfo()
    for kind, values in chunks.items():
        info.add(kind, b"\0" if values is None else struct.pack(f">{len(values)}I", *values))
    Image.new("RGB", (4, 4)).save(file, pnginfo=info)
    assert look(file).gamut == gamut
