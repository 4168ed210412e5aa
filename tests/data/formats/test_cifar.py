import numpy as np
import pytest
from generated import cifar_binary

from involution.data.errors import DataError
from involution.data.formats.cifar import read_cifar
from involution.data.registry import Options, open_data


def sizes(data):
    return [len(part) for part in data.parts.values()]


@pytest.mark.parametrize(("kind", "train", "val", "test"), [("cifar10", 135, 15, 30), ("cifar100", 180, 20, 200)])
def test_cifar_binary(tmp_path, kind, train, val, test):
    spec = f"{kind}:{cifar_binary(tmp_path, kind, records=30)}"
    if kind == "cifar100":
        # 20 validation images can't hold 100 classes
        with pytest.raises(DataError, match="can't split 200 images of 100 classes"):
            open_data("classify", spec)
        return
    data = open_data("classify", spec)
    assert sizes(data) == [train, val, test]
    assert data.classes[3] == "class3"
    raw = np.fromfile(tmp_path / "cifar-10-batches-bin" / "test_batch.bin", np.uint8).reshape(-1, 3073)
    image, label = data.test[4]
    assert label == raw[4, 0] == 4
    assert np.array_equal(image.numpy(), raw[4, 1:].reshape(3, 32, 32))


def test_cifar100_reads_the_fine_label(tmp_path):
    train, _, names = read_cifar("cifar100", cifar_binary(tmp_path, "cifar100"))
    assert len(names) == 100
    assert train.labels[:3].tolist() == [0, 1, 2]


def test_cifar_faults(tmp_path):
    with pytest.raises(DataError, match=r"missing data_batch_1\.bin.*wanted the binary version"):
        open_data("classify", f"cifar10:{tmp_path}")
    cifar_binary(tmp_path)
    batch = tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_2\.bin.*not a whole number of 3073-byte records"):
        open_data("classify", f"cifar10:{tmp_path}")
    np.full((10, 3073), 77, np.uint8).tofile(batch)
    with pytest.raises(DataError, match="label 77 found, but there are 10 class names"):
        open_data("classify", f"cifar10:{tmp_path}")


def test_a_batch_too_many_is_told(tmp_path):
    folder = cifar_binary(tmp_path) / "cifar-10-batches-bin"
    (folder / "data_batch_6.bin").write_bytes((folder / "data_batch_1.bin").read_bytes())
    findings = open_data("classify", f"cifar10:{tmp_path}").findings
    assert findings.ignored == {"other files": ["cifar-10-batches-bin/data_batch_6.bin"]}


def test_classes_without_images_are_refused_or_allowed(tmp_path):
    folder = cifar_binary(tmp_path, records=30) / "cifar-10-batches-bin"
    names = folder / "batches.meta.txt"
    names.write_text(f"{names.read_text().strip()}\nunicorn\n")
    with pytest.raises(DataError, match="no training images of unicorn; fix the class names, or allow it"):
        open_data("classify", f"cifar10:{tmp_path}")
    findings = open_data("classify", f"cifar10:{tmp_path}", Options(allow_empty=True)).findings
    assert findings.notes == [f"{split}: no images of unicorn" for split in ("train", "val", "test")]
