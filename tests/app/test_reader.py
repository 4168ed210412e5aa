import os
import time

import numpy as np
import pytest
from PIL import Image

from involution.app import limits, reader
from involution.app.errors import AppError
from involution.data.images import Reading


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "I;16", "RGBA", "P", "1"])
def test_an_upload_is_read_as_the_page_shows_it(tmp_path, mode):
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (30, 20)).save(file)
    found = reader.read_apart(file, [Reading()]).seen(Reading())
    assert found.size == (30, 20)
    assert (found.mode, found.tobytes()) == ((expected := limits.read_upload(file)).mode, expected.tobytes())


def test_what_is_no_picture_is_told(tmp_path):
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(AppError, match=r"a\.png: not an image in a known format"):
        reader.read_apart(tmp_path / "a.png", [Reading()])


def test_it_is_read_as_each_network_wants_it(tmp_path):
    file = tmp_path / "a.tif"
    Image.fromarray(np.linspace(0, 2, 6, dtype=np.float32).reshape(2, 3)).save(file)
    scaled = Reading(value_range=(0, 2))
    upload = reader.read_apart(file, [Reading(), scaled])
    with pytest.raises(AppError, match=r"^a\.tif: floats have no range of their own"):
        upload.seen(Reading())
    assert upload.seen(scaled).tobytes() == bytes([0, 51, 102, 153, 204, 255])
    assert upload.note == ""


def test_what_is_scaled_down_is_told(tmp_path):
    Image.new("L", (2000, 10)).save(tmp_path / "a.png")
    upload = reader.read_apart(tmp_path / "a.png", [Reading()])
    assert upload.note == "2000 × 10 pixels, scaled down to 1600 on this page"
    assert upload.seen(Reading()).size == (1600, 8)


def test_what_is_not_shown_of_an_upload_is_told(tmp_path):
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (2000, 10)).save(tmp_path / "a.png")
    assert reader.read_apart(tmp_path / "a.gif", [Reading()]).note == "of several frames or pages the first is used"
    scaled = "2000 × 10 pixels, scaled down to 1600 on this page; "
    assert reader.read_apart(tmp_path / "a.png", [Reading()]).note == scaled + "transparent parts are read as white"


def test_a_turned_upload_is_told_by_the_way_of_each_network(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2)).save(tmp_path / "a.jpg", exif=exif)
    stored = Reading(exif="ignore")
    upload = reader.read_apart(tmp_path / "a.jpg", [Reading(), stored])
    assert upload.note == (
        "turned upright by its EXIF orientation; its EXIF orientation is ignored, as in the network's training"
    )
    assert (upload.seen(Reading()).size, upload.seen(stored).size) == ((2, 4), (4, 2))
    Image.fromarray(np.array([[7, 4095]], np.uint16)).save(tmp_path / "b.png")
    assert reader.read_apart(tmp_path / "b.png", [Reading()]).note.startswith(
        "nearly all values are 7 to 4095, less than"
    )


def test_reading_ends_when_its_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "READ_SECONDS", 0.01)
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    start = time.monotonic()
    with pytest.raises(AppError, match=r"a\.png: takes more than 0\.01 seconds to read"):
        reader.read_apart(tmp_path / "a.png", [Reading()])
    assert time.monotonic() - start < 5


def _dies(pipe, path, readings):
    os._exit(3)


def test_a_reader_that_dies_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_read", _dies)
    with pytest.raises(AppError, match=r"a\.png: can't be read; it takes too much memory or breaks the reader"):
        reader.read_apart(tmp_path / "a.png", [Reading()])
