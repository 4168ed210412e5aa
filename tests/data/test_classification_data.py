import tarfile

import numpy as np
import pytest
import torch
from generated import add, cifar_binary, image_folder, picture, shards

from involution.data.classification import open_dataset
from involution.data.errors import DataError


def sizes(data):
    return [len(part) for part in (data.train, data.val, data.test)]


def test_digits_are_split_for_good_and_in_proportion():
    data = open_dataset("digits")
    assert sizes(data) == [1077, 360, 360]
    image, label = data.train[0]
    assert image.shape == (1, 8, 8)
    assert image.dtype == torch.uint8
    assert isinstance(label, int)
    assert max(int(image.max()) for image, _ in data.test) == 255
    for part in (data.train, data.val, data.test):
        counts = torch.bincount(part.labels, minlength=10)
        assert int(counts.max() - counts.min()) <= len(part) // 90 + 1
    # the parts hold each of the 1,797 digits once
    rows = torch.cat([part.images.flatten(1) for part in (data.train, data.val, data.test)]).sort(0).values
    everything = open_dataset("digits", split_seed=1)
    other = torch.cat([p.images.flatten(1) for p in (everything.train, everything.val, everything.test)])
    assert torch.equal(rows, other.sort(0).values)
    assert not torch.equal(data.test.images, everything.test.images)
    assert torch.equal(data.test.images, open_dataset("digits").test.images)


def test_imagefolder_with_its_own_splits(tmp_path):
    data = open_dataset(f"imagefolder:{image_folder(tmp_path)}")
    assert data.classes == ["ant", "bee", "cat"]
    assert sizes(data) == [24, 24, 24]
    image, label = data.val[23]
    assert (image.size, image.mode, label) == ((24, 20), "RGB", 2)


def test_imagefolder_without_splits_is_cut_60_20_20(tmp_path):
    image_folder(tmp_path, splits=(".",), per_class=10)
    data = open_dataset(f"imagefolder:{tmp_path}")
    assert sizes(data) == [18, 6, 6]
    files = [set(part.files) for part in (data.train, data.val, data.test)]
    assert len(set.union(*files)) == 30
    assert np.bincount(data.test.labels).tolist() == [2, 2, 2]


def test_imagefolder_faults(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_dataset(f"imagefolder:{tmp_path / 'none'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        open_dataset(f"imagefolder:{tmp_path / 'empty'}")
    root = image_folder(tmp_path / "full")
    (root / "val" / "dog").mkdir()
    with pytest.raises(DataError, match="unknown to the training images: dog"):
        open_dataset(f"imagefolder:{root}")
    (root / "val" / "dog").rmdir()
    (root / "train" / "ant" / "000.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 24 images.*000\.jpg.*empty"):
        open_dataset(f"imagefolder:{root}")
    few = image_folder(tmp_path / "few", splits=(".",), per_class=1)
    with pytest.raises(DataError, match="can't split 3 images of 3 classes"):
        open_dataset(f"imagefolder:{few}")


def test_imagenet_uses_meta_names_but_never_unpickles(tmp_path):
    root = image_folder(tmp_path, splits=("train", "val"), classes=("n01", "n02"))
    assert open_dataset(f"imagenet:{root}").classes == ["n01", "n02"]
    torch.save(({"n01": ("tench", "Tinca tinca"), "n02": ("goldfish",)}, ["n01"]), root / "meta.bin")
    data = open_dataset(f"imagenet:{root}")
    assert data.classes == ["tench", "goldfish"]
    with pytest.raises(DataError, match="has no test split; use val"):
        data.split("test")

    torch.save(Evil(str(tmp_path / "ran")), root / "meta.bin")
    with pytest.raises(DataError, match=r"meta\.bin: not torchvision's class list"):
        open_dataset(f"imagenet:{root}")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(DataError, match="wanted train/ and val/"):
        open_dataset(f"imagenet:{root / 'train'}")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(("kind", "train", "val", "test"), [("cifar10", 135, 15, 30), ("cifar100", 180, 20, 200)])
def test_cifar_binary(tmp_path, kind, train, val, test):
    spec = f"{kind}:{cifar_binary(tmp_path, kind, records=30)}"
    if kind == "cifar100":
        # 20 validation images can't hold 100 classes
        with pytest.raises(DataError, match="can't split 200 images of 100 classes"):
            open_dataset(spec)
        return
    data = open_dataset(spec)
    assert sizes(data) == [train, val, test]
    assert data.classes[3] == "class3"
    raw = np.fromfile(tmp_path / "cifar-10-batches-bin" / "test_batch.bin", np.uint8).reshape(-1, 3073)
    image, label = data.test[4]
    assert label == raw[4, 0] == 4
    assert np.array_equal(image.numpy(), raw[4, 1:].reshape(3, 32, 32))


def test_cifar100_reads_the_fine_label(tmp_path):
    from involution.data.arrays import cifar

    train, _, names = cifar("cifar100", cifar_binary(tmp_path, "cifar100"))
    assert len(names) == 100
    assert train.labels[:3].tolist() == [0, 1, 2]


def test_cifar_faults(tmp_path):
    with pytest.raises(DataError, match=r"missing data_batch_1\.bin.*wanted the binary version"):
        open_dataset(f"cifar10:{tmp_path}")
    cifar_binary(tmp_path)
    batch = tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_2\.bin.*not a whole number of 3073-byte records"):
        open_dataset(f"cifar10:{tmp_path}")
    np.full((10, 3073), 77, np.uint8).tofile(batch)
    with pytest.raises(DataError, match="label 77 found, but there are 10 class names"):
        open_dataset(f"cifar10:{tmp_path}")


def test_webdataset_by_brace_pattern_and_folder(tmp_path):
    shards(tmp_path)
    data = open_dataset(f"webdataset:{tmp_path}/{{train-{{000..001}},val-000}}.tar")
    assert data.classes == ["ant", "bee", "cat"]
    assert [len(data.train), len(data.val), data.test] == [24, 12, None]
    image, label = data.train[13]
    assert label == 1
    # JPEG loses a little
    wanted = np.asarray(picture(1, 101)).astype(int)
    assert abs(np.asarray(image).astype(int) - wanted).mean() < 20
    assert len(open_dataset(f"webdataset:{tmp_path}").train) == 24


def test_webdataset_without_val_sets_some_aside(tmp_path):
    shards(tmp_path, names=("train-0",), per_shard=30)
    data = open_dataset(f"webdataset:{tmp_path}/train-0.tar")
    assert [len(data.train), len(data.val)] == [27, 3]


def test_webdataset_faults(tmp_path):
    with pytest.raises(DataError, match="only local tar files"):
        open_dataset("webdataset:pipe:touch /tmp/x")
    with pytest.raises(DataError, match="only local tar files"):
        open_dataset("webdataset:https://example.com/train-0.tar")
    with pytest.raises(DataError, match="no such shards"):
        open_dataset(f"webdataset:{tmp_path}/train-{{0..3}}.tar")
    shards(tmp_path, names=("train-0",))
    with tarfile.open(tmp_path / "train-1.tar", "w") as archive:
        add(archive, "a.cls", b"3")
    with pytest.raises(DataError, match=r"a\.cls holds '3'; wanted a class number from 0 to 2"):
        open_dataset(f"webdataset:{tmp_path}")
    with tarfile.open(tmp_path / "train-1.tar", "w") as archive:
        add(archive, "a.cls", b"1")
    with pytest.raises(DataError, match="1 samples lack their image"):
        open_dataset(f"webdataset:{tmp_path}")
    (tmp_path / "train-1.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(DataError, match="not a readable, uncompressed tar"):
        open_dataset(f"webdataset:{tmp_path}")
    (tmp_path / "train-1.tar").rename(tmp_path / "other.tar")
    with pytest.raises(DataError, match="must begin with train, val or test"):
        open_dataset(f"webdataset:{tmp_path}")
    (tmp_path / "other.tar").unlink()
    (tmp_path / "classes.json").unlink()
    with pytest.raises(DataError, match="no class names"):
        open_dataset(f"webdataset:{tmp_path}")


def test_class_names_from_a_file(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]))
    assert open_dataset("digits", classes=str(names)).classes[3] == "three"
    names.write_text("one\ntwo\n")
    with pytest.raises(DataError, match="names 2 classes, but digits has 10"):
        open_dataset("digits", classes=str(names))
    names.write_text("one\none\n")
    with pytest.raises(DataError, match="at least two different class names"):
        open_dataset("digits", classes=str(names))
    with pytest.raises(DataError, match="can't read class names"):
        open_dataset("digits", classes=str(tmp_path / "none.txt"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "no data set named 'digit'.*did you mean digits"),
        ("imagefolder", "imagefolder needs a path"),
        ("digits:here", "digits takes no path"),
    ],
)
def test_wrong_specs(spec, message):
    with pytest.raises(DataError, match=message):
        open_dataset(spec)
