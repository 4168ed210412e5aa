"""What is told of images as they are read."""

import json
import re
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from involution.data.contents import Stored
from involution.data.images import Reading, read_image
from involution.data.noticed import Noticed
from involution.data.survey import range_warnings

TURNED = Image.Exif()
TURNED[0x0112] = 6


def noticed(*files, reading=None):
    found = Noticed()
    for file in files:
        read_image(file, reading=reading, noticed=found)
    return found


def deep(path, *values):
    Image.fromarray(np.array([values], np.uint16)).save(path)
    return path


def deep_colours(path, value):
    # the library writes none
    pixels = struct.pack("<H", value) * 12
    entries = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 208)]
    entries += [(277, 3, 1, 3), (278, 3, 1, 2), (279, 4, 1, 24)]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path.write_bytes((head + bytes(4)).ljust(200, b"\0") + struct.pack("<HHHH", 16, 16, 16, 0) + pixels)
    return path


@pytest.mark.parametrize("kind", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize(
    ("exif", "said"),
    [("apply", "turned upright by their EXIF orientation: 5"), ("ignore", "EXIF orientation ignored: 5")],
)
def test_turned_images_are_told_once(tmp_path, kind, exif, said):
    file = tmp_path / kind
    Image.new("RGB", (4, 2)).save(file, exif=TURNED)
    reading = Reading(exif=exif)
    content = file.read_bytes()
    with Image.open(file) as opened:
        found = noticed(file, file, file, content, opened, reading=reading)
    (line,) = found.lines(reading)
    assert line.startswith(f"{said} ({kind}, {kind}, {kind}, …)")
    assert read_image(file, reading=reading).size == ((2, 4) if exif == "apply" else (4, 2))


def test_every_image_that_uses_little_of_its_range_is_told(tmp_path):
    files = [deep(tmp_path / f"{number:02}.png", 0, 65535) for number in range(20)]
    files += [deep(tmp_path / "twelve.png", 16, 4095), deep(tmp_path / "low.png", 3, 3000)]
    (line,) = noticed(*files).lines(Reading())
    assert line.startswith(
        "warning: images that use less than a tenth of the range of their type: 2 (twelve.png, low.png); nearly all "
        "values are 3 to 4095, and --data.value_range in the training"
    )
    ranged = Reading(value_range=(0, 4095))
    (line,) = noticed(files[-2], deep(tmp_path / "white.png", *[60000] * 20), reading=ranged).lines(ranged)
    assert line.startswith("warning: images with more than nine tenths of their pixels outside of 0 to 4095")
    assert line.endswith(": 1 (white.png)")


def test_a_few_broken_pixels_do_not_hide_that_a_range_is_hardly_used(tmp_path):
    values = np.random.default_rng(0).integers(100, 4000, (64, 64)).astype(np.uint16)
    values[5, 5:9] = 65535
    values[9, 9] = 0
    Image.fromarray(values).save(tmp_path / "hot.png")
    (line,) = noticed(tmp_path / "hot.png").lines(Reading())
    assert line.startswith("warning: images that use less than a tenth of the range of their type: 1 (hot.png); nearly")
    low, high = map(int, re.search(r"values are (\d+) to (\d+),", line).groups())
    assert 100 <= low < 200
    assert 3900 < high < 4000
    (warning,) = range_warnings([Stored(tmp_path / "hot.png")], Reading(), "images", "--data.value_range")
    assert warning == (
        f"the first 1 images of values from 0 to 65535 use {low} to {high} alone, a few pixels apart; "
        f"--data.value_range {low} {high} would use it"
    )
    # a small bright object is content
    values[:8, :8] = 65535
    Image.fromarray(values).save(tmp_path / "bright.png")
    assert noticed(tmp_path / "bright.png").lines(Reading()) == []


def test_colours_of_16_bits_are_told_whatever_the_setting(tmp_path):
    files = [deep_colours(tmp_path / "dark.tif", 4095)]
    Image.new("L", (3, 3)).save(tmp_path / "plain.png")
    ranged = Reading(value_range=(0, 4095))
    lines = noticed(*files, tmp_path / "plain.png", reading=ranged).lines(ranged)
    assert lines[0] == (
        "images with colours of 16 bits, of which the upper 8 are read; data.value_range does not apply: 1 (dark.tif)"
    )
    assert lines[1] == "data.value_range does not apply: no image is read with more than 8 bits"
    assert lines[2].startswith("warning: images with colours of 16 bits that use less than a tenth of them")
    assert lines[2].endswith(": 1 (dark.tif)")


def test_what_several_processes_noticed_is_one(tmp_path):
    files = [deep(tmp_path / f"{number}.png", number, 9) for number in range(4)]
    parts = [noticed(*files[:1]), Noticed(), noticed(*files[1:])]
    whole = Noticed()
    for part in parts:
        whole.merge(Noticed.from_dict(json.loads(json.dumps(part.to_dict()))))
    assert whole == noticed(*files)
    assert "4 (0.png, 1.png, 2.png, …); nearly all values are 0 to 9" in whole.lines(Reading())[0]


@pytest.mark.parametrize(
    "plain", [None, [], {}, {"counts": 1, "names": {}, "values": []}, {"counts": {"a": "b"}, "names": {}, "values": []}]
)
def test_what_is_no_record_is_refused(plain):
    with pytest.raises(ValueError, match=r"wanted counts|invalid literal"):
        Noticed.from_dict(plain)


@pytest.mark.parametrize("kind", ["mpo", "gif", "png", "tiff", "webp", "avif"])
def test_of_several_pictures_in_a_file_the_first_is_used_and_told(tmp_path, kind):
    first, second = Image.new("RGB", (8, 8), "black"), Image.new("RGB", (8, 8), "white")
    first.save(tmp_path / "a", format=kind, save_all=True, append_images=[second])
    first.save(tmp_path / "b", format="jpeg" if kind == "mpo" else kind)
    found = noticed(tmp_path / "a", tmp_path / "b")
    assert found.lines(Reading()) == ["files with several frames or pages, of which the first is used: 1 (a)"]
    assert read_image(tmp_path / "a").convert("L").getextrema()[1] < 20


def test_what_results_and_annotations_leave_out_is_told():
    found = Noticed()
    for kind in ("full", "unpredicted"):
        found.count(kind, "x/a.png")
    full, unpredicted = Noticed.from_dict(found.to_dict()).lines(Reading())
    assert full.startswith("images with as many objects as the detector finds in one at most, so that others may be")
    assert full.endswith(": 1 (a.png)")
    assert unpredicted == "images of --annotations that are not predicted: 1 (a.png)"


def test_inks_of_print_are_told(tmp_path):
    Image.new("RGB", (8, 8), "red").convert("CMYK").save(tmp_path / "a.jpg")
    (line,) = noticed(tmp_path / "a.jpg").lines(Reading())
    assert line == "images in the inks of print (CMYK), read as RGB without their profile: 1 (a.jpg)"


def test_colours_of_another_profile_are_told(tmp_path):
    plain = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    wide = bytearray(plain)
    place = wide.index(b"rXYZ")
    (offset,) = struct.unpack_from(">I", wide, place + 4)
    # the red of Display P3
    struct.pack_into(">3i", wide, offset + 8, *(round(value * 65536) for value in (0.5151, 0.2412, -0.0011)))
    for name, profile in (("plain.jpg", plain), ("wide.jpg", wide), ("cut.jpg", wide[:150])):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name, icc_profile=bytes(profile))
    assert noticed(tmp_path / "plain.jpg").lines(Reading()) == []
    assert noticed(tmp_path / "cut.jpg").lines(Reading()) == []
    (line,) = noticed(tmp_path / "wide.jpg").lines(Reading())
    assert line == (
        "images with the colours of another profile or gamma than sRGB's, such as Display P3, which is not applied: 1 "
        "(wide.jpg)"
    )
