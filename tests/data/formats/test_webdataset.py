import tarfile

import numpy as np
import pytest
from generated import add, picture, shards

from involution.data.errors import DataError
from involution.data.registry import open_data


def test_webdataset_by_brace_pattern_and_folder(tmp_path):
    shards(tmp_path)
    data = open_data("classify", f"webdataset:{tmp_path}/{{train-{{000..001}},val-000}}.tar")
    assert data.classes == ["ant", "bee", "cat"]
    assert [len(data.train), len(data.val), data.test] == [24, 12, None]
    image, label = data.train[13]
    assert label == 1
    # JPEG loses a little
    wanted = np.asarray(picture(1, 101)).astype(int)
    assert abs(np.asarray(image).astype(int) - wanted).mean() < 20
    assert len(open_data("classify", f"webdataset:{tmp_path}").train) == 24


def test_webdataset_without_val_sets_some_aside(tmp_path):
    shards(tmp_path, names=("train-0",), per_shard=30)
    data = open_data("classify", f"webdataset:{tmp_path}/train-0.tar")
    assert [len(data.train), len(data.val)] == [27, 3]


def test_webdataset_faults(tmp_path):
    with pytest.raises(DataError, match="only local tar files"):
        open_data("classify", "webdataset:pipe:touch /tmp/x")
    with pytest.raises(DataError, match="only local tar files"):
        open_data("classify", "webdataset:https://example.com/train-0.tar")
    with pytest.raises(DataError, match="no such shards"):
        open_data("classify", f"webdataset:{tmp_path}/train-{{0..3}}.tar")
    shards(tmp_path, names=("train-0",))
    with tarfile.open(tmp_path / "train-1.tar", "w") as archive:
        add(archive, "a.cls", b"3")
    with pytest.raises(DataError, match=r"a\.cls holds '3'; wanted a class number from 0 to 2"):
        open_data("classify", f"webdataset:{tmp_path}")
    with tarfile.open(tmp_path / "train-1.tar", "w") as archive:
        add(archive, "a.cls", b"1")
    with pytest.raises(DataError, match="1 samples lack their image"):
        open_data("classify", f"webdataset:{tmp_path}")
    (tmp_path / "train-1.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(DataError, match="not a readable, uncompressed tar"):
        open_data("classify", f"webdataset:{tmp_path}")
    (tmp_path / "train-1.tar").rename(tmp_path / "other.tar")
    with pytest.raises(DataError, match="must begin with train, val or test"):
        open_data("classify", f"webdataset:{tmp_path}")
    (tmp_path / "other.tar").unlink()
    (tmp_path / "classes.json").unlink()
    with pytest.raises(DataError, match="no class names"):
        open_data("classify", f"webdataset:{tmp_path}")
