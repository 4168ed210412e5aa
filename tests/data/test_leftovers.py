"""Nothing of a data set is left out in silence: what was used and what is named is all that lies on the disk."""

import gzip
import json
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from generated import cifar_binary, image_folder, shards
from PIL import Image

from involution.data import leftovers
from involution.data.box_dataset import BoxDataset
from involution.data.findings import Findings
from involution.data.label_maps import LabelMaps
from involution.data.paths import RECORD
from involution.data.registry import Options, formats, open_data
from involution.data.scenes import make_digit_scenes

XML = (
    "<annotation><filename>{0}.png</filename><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
    "<xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)


def draw(path, seed=0, shape=(16, 16, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape, np.uint8)).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def coco(root):
    for split in ("train", "val"):
        for i in range(2):
            draw(root / split / f"{i}.png", i)
        images = [{"id": i, "file_name": f"{i}.png", "width": 16, "height": 16} for i in range(2)]
        boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81} for i in range(2)]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
        write(root / "annotations" / f"instances_{split}.json", json.dumps(content))
    return {root / "annotations" / f"instances_{split}.json" for split in ("train", "val")}


def yolo(root):
    for split in ("train", "val"):
        for i in range(2):
            draw(root / "images" / split / f"{i}.png", i)
            write(root / "labels" / split / f"{i}.txt", "0 0.5 0.5 0.2 0.2\n")
    write(root / "data.yaml", "names: [cat]\ntrain: images/train\nval: images/val\n")
    return {root / "data.yaml", *(root / "labels").rglob("*.txt")}


def voc(root):
    for i in range(4):
        draw(root / "JPEGImages" / f"{i}.png", i)
        write(root / "Annotations" / f"{i}.xml", XML.format(i))
    for split, names in (("train", "0\n1\n"), ("val", "2\n3\n")):
        write(root / "ImageSets" / "Main" / f"{split}.txt", names)
    return {*(root / "Annotations").iterdir(), *(root / "ImageSets" / "Main").iterdir()}


def masks(root):
    for split in ("train", "val"):
        for i in range(2):
            draw(root / "images" / split / f"{i}.png", i)
            (root / "labels" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.resize(np.array([0, 1], np.uint8), (16, 16))).save(root / "labels" / split / f"{i}.png")
    write(root / "classes.txt", "a\nb\n")
    return {root / "classes.txt"}


def cityscapes(root):
    for split in ("train", "val"):
        folder = root / "gtFine" / split / "bonn"
        folder.mkdir(parents=True)
        draw(root / "leftImg8bit" / split / "bonn" / "bonn_0_leftImg8bit.png")
        Image.fromarray(np.resize(np.arange(36, dtype=np.uint8), (16, 16))).save(folder / "bonn_0_gtFine_labelIds.png")
    return set()


def imagenet(root):
    image_folder(root, splits=("train", "val"), classes=("n01440764", "n01443537"), per_class=2)
    return set()


def imagefolder(root):
    image_folder(root, splits=("train", "val"), per_class=2)
    return set()


def webdataset(root):
    shards(root, names=("train-0", "val-0"))
    return {root / "classes.json", root / "train-0.tar", root / "val-0.tar"}


def cifar10(root):
    folder = cifar_binary(root) / "cifar-10-batches-bin"
    return set(folder.iterdir())


def cifar100(root):
    # 2,000 records: a tenth of them must hold 100 classes
    folder = cifar_binary(root, "cifar100") / "cifar-100-binary"
    (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes() * 10)
    return set(folder.iterdir())


def digit_scenes(root):
    make_digit_scenes(root, {"train": 6, "val": 3})
    return set()


SETS = {name.replace("_", "-"): make for name, make in globals().items() if name.isidentifier() and callable(make)}


def stray(folder):
    """One file of each kind that nobody meant to be in a data set."""
    draw(folder / "extra.png", 7)
    draw(folder / "EXTRA.JPG", 8)
    draw(folder / "new folder" / "a.png", 9)
    write(folder / "notes.txt", "words")
    write(folder / "page.xml", XML.format("nowhere"))
    write(folder / "boxes.json", "{}")
    write(folder / "labels.TXT", "0 0.5 0.5 0.1 0.1\n")
    write(folder / "data.csv", "a,b\n")
    write(folder / ".hidden", "x")
    write(folder / ".cache" / "y", "x")
    write(folder / "Thumbs.db", "x")
    write(folder / "__MACOSX" / "._extra.png", "x")
    write(folder / "@eaDir" / "extra.png" / "thumb.jpg", "x")
    write(folder / "empty", "")
    write(folder / "batch.bin", "x" * 3073)
    (folder / "gone.lnk").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe")
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("a.png", b"x")
    with gzip.open(folder / "train-9.tar.gz", "wb") as stream:
        stream.write(b"x")
    with tarfile.open(folder / "train-9.tgz", "w:gz"):
        pass
    shutil.copytree(folder / "new folder", folder / "New Folder (copy)")
    (folder / "circle").symlink_to(folder, target_is_directory=True)


def files_of(part):
    """The files behind a part of any task."""
    part = getattr(part, "dataset", part)
    if isinstance(part, BoxDataset):
        return {scene.file for scene in part.record.scenes}
    if isinstance(part, LabelMaps):
        return {file for pair in part.pairs for file in pair}
    return set(getattr(part, "files", []))


def on_disk(folder):
    """Every file below a folder; links are not entered, but are entries themselves."""
    return {
        os.path.join(above, name)
        for above, folders, files in os.walk(folder)
        for name in [*files, *(item for item in folders if os.path.islink(os.path.join(above, item)))]
    }


def named(findings, root):
    """Names of what is told as not used; a folder stands for all that is in it."""
    names = {name for names in findings.ignored.values() for name in names}
    names |= {problem.entry for problem in findings.problems}
    return {os.path.join(root, name.rpartition("/ (")[0] or name.removesuffix("/")) for name in names}


FOUND = [found for found in formats() if ":" in found.syntax]


@pytest.mark.parametrize("found", FOUND, ids=[f"{found.task}-{found.name}" for found in FOUND])
@pytest.mark.parametrize("where", ["", "inside"])
def test_used_and_named_is_all_there_is(tmp_path, found, where):
    root = tmp_path / "set"
    root.mkdir()
    also = SETS[found.name](root)
    before = on_disk(root)
    folders = [path for path in sorted(root.rglob("*")) if path.is_dir()] if where else []
    # the deepest folder: of a class, of a split
    stray(max([root, *folders], key=lambda path: len(path.parts)))
    strays = on_disk(root) - before
    options = Options(on_problem="skip", allow_empty=True)
    data = open_data(found.task, f"{found.name}:{root}", options)
    used = {str(file) for part in data.parts.values() for file in files_of(part)} | {str(file) for file in also}
    told = named(data.findings, root)
    by_name = {os.path.basename(name) for name in told}
    missing = {
        file
        for file in on_disk(root) - used
        if not any(file == name or file.startswith(f"{name}/") for name in told)
        and os.path.basename(file) not in by_name
    }
    if found.name == "digit-scenes":
        missing &= strays
    assert missing == set()


def test_one_split_alone_names_the_others(tmp_path):
    imagefolder(tmp_path)
    (tmp_path / "more").mkdir()
    findings = open_data("classify", f"imagefolder:{tmp_path}", Options(only="val")).findings
    assert findings.used == {"val": 6}
    assert findings.ignored == {"folders": ["more/ (empty)"], "of other splits than val": ["train/ (6 files)"]}


def test_folders_are_counted_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "_LIMIT", 3)
    for number in range(5):
        write(tmp_path / "many" / f"{number}.txt", "x")
        write(tmp_path / f"{number}.txt", "x")
    write(tmp_path / "used" / "a.txt", "x")
    findings = Findings()
    findings.saw(tmp_path / "used" / "a.txt")
    leftovers.tell_leftovers(tmp_path, findings, "images")
    assert findings.ignored == {"other files": ["0.txt", "1.txt", "2.txt"]}
    assert findings.notes == [f"{tmp_path}: more than 3 files are not used; the others are not counted"]
    for number in range(5):
        (tmp_path / f"{number}.txt").unlink()
    findings = Findings()
    findings.saw(tmp_path / "used" / "a.txt")
    leftovers.tell_leftovers(tmp_path, findings, "images")
    assert findings.ignored == {"folders": ["many/ (more than 3 files)"]}


def test_results_of_commands_among_the_data_are_told(tmp_path):
    for name in ("cat", "dog", "explained"):
        for i in range(5):
            draw(tmp_path / name / f"{i}.png", i)
    folder = tmp_path / "explained"
    lines = [
        json.dumps([name, (folder / name).stat().st_size + more, 0]) for name, more in (("0.png", 0), ("1.png", 9))
    ]
    (folder / RECORD).write_text("\n".join([*lines, json.dumps(["gone.png", 7, 0]), "cut off", "7"]))
    said = "among the data are files that commands of involution made, 1 (explained/0.png): move them away if they are"
    assert any(note.startswith(said) for note in open_data("classify", f"imagefolder:{tmp_path}").findings.notes)
    (folder / RECORD).unlink()
    (folder / RECORD).symlink_to(tmp_path / "nowhere")
    assert not any("among the data" in note for note in open_data("classify", f"imagefolder:{tmp_path}").findings.notes)
