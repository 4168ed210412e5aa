import threading

import pytest
import torch
from PIL import Image

from involution.app import limits
from involution.app.errors import AppError
from involution.data.images import ImageError


def save(path, width, height, mode="L"):
    Image.new(mode, (width, height)).save(path)
    return path


def test_large_photos_are_shrunk(tmp_path):
    assert limits.read_upload(save(tmp_path / "a.png", 4000, 1000, "RGB")).size == (1600, 400)
    small = limits.read_upload(save(tmp_path / "b.png", 30, 20))
    assert (small.size, small.mode) == ((30, 20), "L")


def test_what_is_too_large_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    files = [save(tmp_path / f"{name}.png", *size) for name, size in (("a", (30, 20)), ("b", (4, 4)))]
    with files[1].open("ab") as stream:
        stream.truncate(limits.MAX_BYTES + 1)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    # as many pixels as the command line reads
    monkeypatch.setattr("involution.data.images.MAX_PIXELS", 500)
    with pytest.raises(ImageError, match=r"a\.png: 30 x 20 pixels are more than the 500 that are decoded"):
        limits.read_upload(files[0])
    with pytest.raises(AppError, match=r"b\.png: the file is larger than 20 MB"):
        limits.read_upload(files[1])


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(ImageError, match=r"a\.png: not an image in a known format"):
        limits.read_upload(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"b\.png: no such file"):
        limits.read_upload(tmp_path / "b.png")


def test_networks_stop_when_the_time_is_over():
    network = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity())
    x = torch.zeros(1)
    with limits.time_limit(60):
        assert network(x) is x
    with pytest.raises(AppError, match="stopped after 0 seconds"), limits.time_limit(0):
        network(x)
    # nothing is left of it
    assert network(x) is x


def test_other_threads_go_on():
    network, x, got = torch.nn.Identity(), torch.zeros(1), []
    with limits.time_limit(0):
        other = threading.Thread(target=lambda: got.append(network(x)))
        other.start()
        other.join()
    assert got[0] is x
