"""Small data sets made on the spot, in the formats that real ones come in."""

import io
import json
import tarfile

import numpy as np
from PIL import Image, TiffImagePlugin


def picture(label, number, size=(20, 24)):
    """Noise around a grey level that tells the class."""
    rng = np.random.default_rng([label, number])
    return Image.fromarray((60 * label + rng.integers(0, 60, (*size, 3))).astype(np.uint8))


def image_folder(root, splits=("train", "val", "test"), classes=("ant", "bee", "cat"), per_class=8):
    for place, split in enumerate(splits):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                picture(label, number + 1000 * place).save(folder / f"{number:03}.jpg")
    return root


def cifar_binary(root, kind="cifar10", records=30):
    ten = kind == "cifar10"
    folder = root / ("cifar-10-batches-bin" if ten else "cifar-100-binary")
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    files = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"] if ten else ["train.bin", "test.bin"]
    num_classes = 10 if ten else 100
    for file in files:
        count = records if ten else 200
        labels = np.arange(count)[:, None] % num_classes
        coarse = np.zeros_like(labels) if not ten else labels[:, :0]
        pixels = rng.integers(0, 256, (count, 3072))
        np.concatenate([coarse, labels, pixels], axis=1).astype(np.uint8).tofile(folder / file)
    names = "batches.meta.txt" if ten else "fine_label_names.txt"
    (folder / names).write_text("\n".join(f"class{i}" for i in range(num_classes)) + "\n\n")
    return root


def shards(root, names=("train-000", "train-001", "val-000"), per_shard=12, classes=("ant", "bee", "cat")):
    root.mkdir(parents=True, exist_ok=True)
    for shard, name in enumerate(names):
        with tarfile.open(root / f"{name}.tar", "w") as archive:
            for number in range(per_shard):
                label = number % len(classes)
                file = io.BytesIO()
                picture(label, number + 100 * shard).save(file, "JPEG")
                add(archive, f"{shard}{number:04}.jpg", file.getvalue())
                add(archive, f"{shard}{number:04}.cls", str(label).encode())
    (root / "classes.json").write_text(json.dumps(list(classes)))
    return root


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def tiff(file, pixels, photometric, extra=None, kind=0):
    """A TIFF file of uint8 or uint16 [H, W] or [H, W, C] with the tags that the image library does not write."""
    height, width, channels = (*pixels.shape, 1)[:3]
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    tags[254], tags[256], tags[257] = kind, width, height
    tags[258], tags[259], tags[262] = (8 * pixels.itemsize,) * channels, 1, photometric
    tags[277], tags[278], tags[279], tags[284] = channels, height, pixels.nbytes, 1
    if extra is not None:
        tags[338] = extra
    if pixels.dtype.kind == "i":
        tags[339] = (2,) * channels
    # pixels follow the tags, and are counted from their end
    tags[273] = 0
    file.write_bytes(b"II*\0" + (8).to_bytes(4, "little") + tags.tobytes(8) + pixels.tobytes())
