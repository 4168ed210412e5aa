import io
import re
import shutil
import struct
import zlib

import numpy as np
import pytest
from generated import image_folder
from PIL import Image

from involution.data.errors import DataError
from involution.data.paths import RECORD
from involution.data.registry import Options, open_data


def sizes(data):
    return [len(part) for part in data.parts.values()]


def test_imagefolder_with_its_own_splits(tmp_path):
    data = open_data("classify", f"imagefolder:{image_folder(tmp_path)}")
    assert data.classes == ["ant", "bee", "cat"]
    assert sizes(data) == [24, 24, 24]
    image, label = data.val[23]
    assert (image.size, image.mode, label) == ((24, 20), "RGB", 2)


def test_imagefolder_without_splits_is_cut_60_20_20(tmp_path):
    image_folder(tmp_path, splits=(".",), per_class=10)
    data = open_data("classify", f"imagefolder:{tmp_path}", Options(split_by="draw"))
    assert sizes(data) == [18, 6, 6]
    files = [set(part.files) for part in (data.train, data.val, data.test)]
    assert len(set.union(*files)) == 30
    assert np.bincount(data.test.labels).tolist() == [2, 2, 2]


def test_an_added_image_moves_no_other(tmp_path):
    root = image_folder(tmp_path / "one", splits=(".",), per_class=10)

    def parts():
        data = open_data("classify", f"imagefolder:{root}")
        return [{str(file.relative_to(root)) for file in part.files} for part in (data.train, data.val, data.test)]

    before = parts()
    assert min(map(len, before)) >= 3
    (root / "ant" / "0000.jpg").write_bytes((root / "ant" / "000.jpg").read_bytes())
    after = parts()
    assert [part - {"ant/0000.jpg"} for part in after] == before
    # it may be moved, too
    root = root.rename(tmp_path / "two")
    assert parts() == after


@pytest.mark.parametrize("names", [("Train", "Val"), ("training", "validation"), ("TRAIN", "valid", "Testing")])
def test_usual_names_of_splits_in_any_case(tmp_path, names):
    image_folder(tmp_path, splits=names)
    data = open_data("classify", f"imagefolder:{tmp_path}")
    assert data.classes == ["ant", "bee", "cat"]
    assert data.findings.used == dict(zip(("train", "val", "test"), (24,) * len(names), strict=False))
    assert f"taken {names[0]}/ as train, {names[1]}/ as val" in data.findings.lines()[0]


@pytest.mark.parametrize(
    "names", [("trainset", "devset", "testset"), ("train2024", "val2024"), ("train_images", "Valid", "hold-out")]
)
def test_further_names_of_splits(tmp_path, names):
    image_folder(tmp_path, splits=names, per_class=2)
    data = open_data("classify", str(tmp_path))
    assert data.classes == ["ant", "bee", "cat"]
    assert list(data.findings.used) == ["train", "val", "test"][: len(names)]
    assert f"{names[0]}/ as train, {names[1]}/ as val" in data.findings.notes[0]


def test_splits_inside_the_class_folders(tmp_path):
    for split, count in (("Train", 3), ("val", 2), ("test", 1)):
        for label, name in enumerate(("ant", "bee")):
            image_folder(tmp_path / name, splits=(split,), classes=(".",), per_class=count + label)
    data = open_data("classify", str(tmp_path))
    assert data.classes == ["ant", "bee"]
    assert data.findings.used == {"train": 7, "val": 5, "test": 3}
    assert data.train.labels == [0] * 3 + [1] * 4
    assert data.findings.notes == [f"{tmp_path}: splits taken from Train/, test/, val/ inside the class folders"]
    assert open_data("classify", f"imagefolder:{tmp_path}", Options(only="test")).findings.used == {"test": 3}
    image_folder(tmp_path, splits=(".",), classes=("cat",))
    with pytest.raises(DataError, match=r"ant/ has Train/, val/, test/, but cat/ has no folders of splits"):
        open_data("classify", f"imagefolder:{tmp_path}")


def test_folders_of_operating_systems_are_no_classes(tmp_path):
    image_folder(tmp_path, splits=(".",), classes=("ant", "bee", "__MACOSX", "@eaDir"))
    data = open_data("classify", f"imagefolder:{tmp_path}")
    assert data.classes == ["ant", "bee"]
    assert data.findings.ignored == {"left by an operating system": ["@eaDir/ (8 files)", "__MACOSX/ (8 files)"]}


def test_runs_among_the_class_folders_are_no_classes(tmp_path):
    image_folder(tmp_path, splits=(".",), classes=("ant", "bee"))
    for folder in (tmp_path / "runs" / "birds", tmp_path / "runs" / "explain", tmp_path / "birds"):
        folder.mkdir(parents=True)
        (folder / RECORD).touch()
        (folder / "last.ckpt").touch()
        Image.new("L", (4, 4)).save(folder / "picture.png")
    # pictures of predictions may lie in a class
    (tmp_path / "bee" / RECORD).touch()
    data = open_data("classify", f"imagefolder:{tmp_path}")
    assert data.classes == ["ant", "bee"]
    assert data.findings.ignored["folders"] == ["birds/ (3 files)", "runs/ (6 files)"]


def test_folders_that_all_classes_have_are_told(tmp_path):
    image_folder(tmp_path, splits=("indoor", "outdoor"))
    data = open_data("classify", f"imagefolder:{tmp_path}")
    assert data.classes == ["indoor", "outdoor"]
    assert data.findings.notes[0] == (
        "the folders indoor, outdoor are the classes; their own folders ant, bee, cat are not told apart"
    )


def test_files_of_several_frames_are_told(tmp_path):
    image_folder(tmp_path, splits=("train", "val"), per_class=2)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    for name in ("a.gif", "b.tif", "c.webp", "d.png"):
        frames[0].save(tmp_path / "train" / "ant" / name, save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "val" / "ant" / "one.gif")
    data = open_data("classify", f"imagefolder:{tmp_path}")
    assert data.findings.notes == [
        "train: files with several frames or pages, of which the first is used: 4 (a.gif, b.tif, c.webp, …)"
    ]
    place = [file.name for file in data.train.files].index("b.tif")
    assert data.train[place][0].getpixel((0, 0)) == (255, 0, 0)


def test_images_with_an_alpha_channel_are_told(tmp_path):
    image_folder(tmp_path, splits=("train", "val"), per_class=2)
    # a fourth channel that is no transparency, as of near infrared, whitens the picture
    for number in range(2):
        Image.new("RGBA", (8, 8), (200, 0, 0, 10)).save(tmp_path / "train" / "ant" / f"infrared{number}.png")
    data = open_data("classify", f"imagefolder:{tmp_path}")
    assert data.findings.notes == [
        "train: images with an alpha channel, whose transparent parts are read as white: 2 (infrared0.png, "
        "infrared1.png)"
    ]
    place = [file.name for file in data.train.files].index("infrared0.png")
    assert min(data.train[place][0].getpixel((0, 0))) > 240


def test_colours_of_16_bits_are_told(tmp_path):
    image_folder(tmp_path, splits=("train", "val"), per_class=2)
    # a PNG of one pixel in RGB of 16 bits
    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    for name, content in (
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" * 7)),
        (b"IEND", b""),
    ):
        file.write(struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content)))
    (tmp_path / "train" / "ant" / "deep.png").write_bytes(file.getvalue())
    data = open_data("classify", f"imagefolder:{tmp_path}")
    assert data.findings.notes == ["train: images with colours of 16 bits, of which the upper 8 are read: 1 (deep.png)"]


@pytest.mark.parametrize("folders", ["images/train masks/train", "train/images train/masks", "images labels"])
def test_images_and_labels_are_no_classes(tmp_path, folders):
    for folder in folders.split():
        for also in {folder, folder.replace("train", "val")}:
            image_folder(tmp_path, splits=(also,), classes=(".",))
    with pytest.raises(DataError, match=r"are surely no classes but images and their labels; if so, say masks:PATH"):
        open_data("classify", f"imagefolder:{tmp_path}")
    with pytest.raises(DataError, match="is not in a recognised format"):
        open_data("classify", str(tmp_path))


@pytest.mark.parametrize(
    "folders", ["images stuffthingmaps", "original_images label_images_semantic RGB_masks", "images/train maps/train"]
)
def test_images_and_maps_of_the_same_names_are_no_classes(tmp_path, folders):
    for folder in folders.split():
        for also in {folder, folder.replace("train", "val")}:
            image_folder(tmp_path, splits=(also,), classes=(".",))
    told = "with files of the same names, are surely no classes but images and their label maps; if so, say masks:PATH"
    with pytest.raises(DataError, match=told):
        open_data("classify", f"imagefolder:{tmp_path}")


def maps(folder, count=8, size=(24, 20), ending=""):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        label_map = Image.new("L", size)
        # the first has no object
        label_map.paste(255, (2, 2, 2 + number, 2 + number))
        label_map.save(folder / f"{number:03}{ending}.png")


@pytest.mark.parametrize(
    "labels", ["Ground Truth", "Ground_Truth", "GroundTruth", "GT", "ground-truth", "manual", "segmentations"]
)
def test_originals_beside_their_ground_truth_are_no_classes(tmp_path, labels):
    image_folder(tmp_path, splits=(".",), classes=("Original",))
    maps(tmp_path / labels)
    with pytest.raises(DataError, match="are surely no classes but images and their labels; if so, say masks:PATH"):
        open_data("classify", f"imagefolder:{tmp_path}")
    with pytest.raises(DataError, match="is not in a recognised format"):
        open_data("classify", str(tmp_path))
    options = Options(values={0: "background", 255: "polyp"})
    assert open_data("segment", f"masks:{tmp_path}", options).classes == ["background", "polyp"]


@pytest.mark.parametrize(
    ("folders", "ending"), [("Original sketches", ""), ("a b", ""), ("train/a train/b val/a val/b", "_segmentation")]
)
def test_images_and_maps_are_known_by_content(tmp_path, folders, ending):
    for place, folder in enumerate(folders.split()):
        if place % 2:
            # one image has no map
            maps(tmp_path / folder, 7, ending=ending)
        else:
            image_folder(tmp_path, splits=(folder,), classes=(".",))
    with pytest.raises(DataError, match=r"/ and \w+/, with files of the same names, are surely no classes but images"):
        open_data("classify", f"imagefolder:{tmp_path}")


def test_dark_slices_and_maps_with_few_objects_are_known_by_content(tmp_path):
    image_folder(tmp_path, splits=(".",), classes=("mri",), per_class=12)
    maps(tmp_path / "tumour", 12)
    for number, file in enumerate(sorted((tmp_path / "mri").iterdir())):
        with Image.open(file) as image:
            slice_ = Image.new("RGB", image.size)
            slice_.paste(image.crop((0, 0, 10, 10)))
        slice_.save(file.with_suffix(".png"))
        file.unlink()
        if number != 7:
            Image.new("L", image.size).save(tmp_path / "tumour" / f"{number:03}.png")
    with pytest.raises(DataError, match="mri/ and tumour/, with files of the same names, are surely no classes"):
        open_data("classify", f"imagefolder:{tmp_path}")


@pytest.mark.parametrize("change", ["size", "names", "blank"])
def test_classes_of_few_colours_beside_photographs(tmp_path, change):
    image_folder(tmp_path, splits=(".",), classes=("photo",))
    maps(tmp_path / "sketch", size=(48, 40) if change == "size" else (24, 20))
    for file in (tmp_path / "sketch").iterdir():
        if change == "names":
            file.rename(file.with_stem(f"sketch{file.stem}"))
        elif change == "blank":
            Image.new("L", (24, 20), 255).save(file)
    assert open_data("classify", f"imagefolder:{tmp_path}").classes == ["photo", "sketch"]


def test_digits_of_the_same_names_are_classes(tmp_path):
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        for number, pixels in enumerate(digits.images[digits.target == label][:8]):
            Image.fromarray((pixels * 15).astype("uint8")).resize((28, 28)).save(tmp_path / f"{label}/{number}.png")
    assert len(open_data("classify", f"imagefolder:{tmp_path}").classes) == 10


@pytest.mark.parametrize("classes", [("original", "manipulated"), ("Originals", "edited"), ("before", "after")])
def test_versions_of_the_same_photographs_are_classes(tmp_path, classes):
    image_folder(tmp_path, splits=(".",), classes=classes)
    assert open_data("classify", f"imagefolder:{tmp_path}").classes == sorted(classes)


@pytest.mark.parametrize("classes", [("with_mask", "without_mask"), ("real_images", "fake_images"), ("photos", "art")])
def test_classes_may_be_called_like_images_and_masks(tmp_path, classes):
    image_folder(tmp_path, splits=(".",), classes=classes, per_class=10)
    if "art" in classes:
        # images of the same names would be pairs
        (tmp_path / "art" / "000.jpg").rename(tmp_path / "art" / "0.jpg")
    assert open_data("classify", f"imagefolder:{tmp_path}").classes == sorted(classes)


@pytest.mark.parametrize("splits", [("train", "val"), ("Training", "test", "dev")])
def test_splits_without_class_folders_are_no_classes(tmp_path, splits):
    image_folder(tmp_path, splits=(".",), classes=splits)
    with pytest.raises(DataError, match=f"{splits[0]}/.* are surely splits and no classes, but have no folders"):
        open_data("classify", f"imagefolder:{tmp_path}")


@pytest.mark.parametrize(("train", "val"), [("cat", "Cat"), ("cat ", "cat")])
def test_class_folders_that_look_the_same_say_how_they_differ(tmp_path, train, val):
    for split, name in (("train", train), ("val", val)):
        image_folder(tmp_path, splits=(split,), classes=(name, "zebra"))
    with pytest.raises(DataError, match=r"differs from .* in case, spaces, marks or look-alike letters: rename one"):
        open_data("classify", f"imagefolder:{tmp_path}")


def test_two_classes_in_one_folder_are_refused(tmp_path):
    image_folder(tmp_path, splits=(".",), classes=("ant", "bee"))
    (tmp_path / "cat").symlink_to(tmp_path / "ant")
    with pytest.raises(DataError, match="ant/ and cat/ are one folder by a link"):
        open_data("classify", f"imagefolder:{tmp_path}")


def test_classes_may_be_called_like_splits_of_something(tmp_path):
    image_folder(tmp_path, splits=(".",), classes=("test tube", "train station"), per_class=10)
    assert open_data("classify", f"imagefolder:{tmp_path}").classes == ["test tube", "train station"]


def test_a_class_may_be_called_train(tmp_path):
    image_folder(tmp_path, splits=(".",), classes=("car", "plane", "train"), per_class=10)
    assert open_data("classify", f"imagefolder:{tmp_path}").classes == ["car", "plane", "train"]


def test_folders_that_are_surely_not_meant(tmp_path):
    image_folder(tmp_path / "deep" / "images", splits=(".",))
    with pytest.raises(DataError, match=r"only, images/; .*images/ has ant, bee, cat: is .*images meant"):
        open_data("classify", f"imagefolder:{tmp_path / 'deep'}")
    image_folder(tmp_path / "deeper" / "pets")
    with pytest.raises(DataError, match=r"pets/ has test, train, val: is .*pets meant"):
        open_data("classify", f"imagefolder:{tmp_path / 'deeper'}")
    image_folder(tmp_path / "split", splits=("train/images", "val/images"))
    with pytest.raises(DataError, match="one class folder only, images/"):
        open_data("classify", f"imagefolder:{tmp_path / 'split'}")
    image_folder(tmp_path / "two", splits=("train", "Train", "val"))
    with pytest.raises(DataError, match="rain both stand for train; keep one"):
        open_data("classify", f"imagefolder:{tmp_path / 'two'}")
    image_folder(tmp_path / "no", splits=("train", "test"))
    (tmp_path / "no" / "valid").mkdir()
    with pytest.raises(DataError, match="has train/, test/ but no val/"):
        open_data("classify", f"imagefolder:{tmp_path / 'no'}")
    image_folder(tmp_path / "only", splits=("val", "test"))
    with pytest.raises(DataError, match="has val/, test/ but no train/"):
        open_data("classify", f"imagefolder:{tmp_path / 'only'}")


@pytest.mark.parametrize("splits", [("train", "test"), ("train",)])
def test_val_is_cut_from_train_where_there_is_none(tmp_path, splits):
    image_folder(tmp_path, splits=splits, per_class=10)
    data = open_data("classify", f"imagefolder:{tmp_path}", Options(split_by="draw"))
    assert data.findings.used == {"train": 24, "val": 6, **({"test": 30} if "test" in splits else {})}
    assert data.findings.notes == [f"{tmp_path}: no images of val; 20% of train become val by split_seed 0"]
    assert {name.parent.parent.name for name in data.val.files} == {"train"}
    with pytest.raises(DataError, match="has no val split; it has train"):
        open_data("classify", f"imagefolder:{tmp_path}", Options(only="val"))


@pytest.mark.parametrize("splits", [(".",), ("train", "val")])
def test_a_class_without_images_is_refused_by_name_or_allowed(tmp_path, splits):
    image_folder(tmp_path, splits=splits, per_class=10)
    (tmp_path / splits[0] / "unicorn").mkdir()
    (tmp_path / splits[0] / "unicorn" / "readme.txt").write_text("none yet")
    with pytest.raises(DataError, match=r"no images of unicorn; .*--data\.allow_empty true"):
        open_data("classify", f"imagefolder:{tmp_path}")
    data = open_data("classify", f"imagefolder:{tmp_path}", Options(allow_empty=True))
    assert data.classes == ["ant", "bee", "cat", "unicorn"]
    assert any("no images of unicorn" in line for line in data.findings.lines())


def test_what_is_not_used_is_counted_and_named(tmp_path):
    image_folder(tmp_path, splits=("train", "val"))
    (tmp_path / "other").mkdir()
    (tmp_path / "train" / "ant" / "000.jpg").rename(tmp_path / "train" / "ant" / "000.jfif")
    (tmp_path / "train" / "ant" / "001.jpg").rename(tmp_path / "train" / "ant" / "001")
    shutil.copy(tmp_path / "val" / "ant" / "000.jpg", tmp_path / "train" / "loose.jpg")
    (tmp_path / "train" / "ant" / "notes.txt").write_text("words")
    shutil.rmtree(tmp_path / "val" / "cat")
    data = open_data("classify", f"imagefolder:{tmp_path}")
    assert data.findings.used == {"train": 24, "val": 16}
    assert data.findings.notes == ["val: no images of cat"]
    assert data.findings.ignored == {
        "folders": ["other/ (empty)"],
        "other files": ["train/ant/notes.txt"],
        "images outside the class folders": ["train/loose.jpg"],
    }


def test_broken_images_are_left_out_where_allowed(tmp_path):
    image_folder(tmp_path, splits=("train", "val"))
    (tmp_path / "train" / "ant" / "000.jpg").write_bytes(b"words")
    data = open_data("classify", f"imagefolder:{tmp_path}", Options(on_problem="skip"))
    assert data.findings.used == {"train": 23, "val": 24}
    assert data.problems == ["train/ant/000.jpg: not an image in a known format"]


def test_one_split_alone(tmp_path):
    image_folder(tmp_path / "flat", splits=(".",))
    data = open_data("classify", f"imagefolder:{tmp_path / 'flat'}", Options(only="test"))
    assert {name: len(part) for name, part in data.parts.items()} == {"test": 24}
    image_folder(tmp_path / "split", splits=("test",))
    assert len(open_data("classify", f"imagefolder:{tmp_path / 'split'}", Options(only="test")).test) == 24
    with pytest.raises(DataError, match="has no val split; it has test: choose with --split test"):
        open_data("classify", f"imagefolder:{tmp_path / 'split'}", Options(only="val"))


def test_readings_reach_the_images(tmp_path):
    image_folder(tmp_path, splits=("train", "val"))
    file = tmp_path / "train" / "ant" / "000.png"
    Image.fromarray(np.array([[0, 4095]], np.uint16)).save(file)
    part = open_data("classify", f"imagefolder:{tmp_path}", Options(value_range=(0, 4095))).train
    assert np.asarray(part[part.files.index(file)][0]).tolist() == [[0, 255]]


def test_imagefolder_faults(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_data("classify", f"imagefolder:{tmp_path / 'none'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        open_data("classify", f"imagefolder:{tmp_path / 'empty'}")
    root = image_folder(tmp_path / "full")
    (root / "val" / "dog").mkdir()
    with pytest.raises(DataError, match="unknown to the training images: dog"):
        open_data("classify", f"imagefolder:{root}")
    (root / "val" / "dog").rmdir()
    (root / "train" / "ant" / "000.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 problem: train/ant/000\.jpg: the file is empty"):
        open_data("classify", f"imagefolder:{root}")
    few = image_folder(tmp_path / "few", splits=(".",), per_class=1)
    with pytest.raises(DataError, match=r"can't split 3 images of 3 classes: .* got ant 1, bee 1, cat 1; add images"):
        open_data("classify", f"imagefolder:{few}")


def test_numbered_folders_beside_a_table_that_names_their_images_are_warned_of(tmp_path):
    for number in (1, 2):
        (tmp_path / f"HAM_part_{number}").mkdir()
        for place in range(5):
            name = f"HAM_part_{number}/ISIC_{number}{place}.png"
            Image.fromarray(np.full((8, 8), 50 * number + place, np.uint8)).save(tmp_path / name)
    spec = f"imagefolder:{tmp_path}"

    def warned():
        return [line for line in open_data("classify", spec).findings.notes if "parts of one set" in line]

    # they may be meant as stages
    assert warned() == []
    (tmp_path / "people.csv").write_text("person,age\n7,41\n8,42\n")
    assert warned() == []
    rows = [f"HAM_{place},ISIC_{number}{place},nv" for number in (1, 2) for place in range(5)]
    (tmp_path / "table.csv").write_text("\n".join(["lesion_id,image_id,dx", *rows]))
    assert warned() == [
        "warning: HAM_part_1/, HAM_part_2/ look like parts of one set and are taken for classes; table.csv names their "
        "images: if it has the labels, sort them into a folder for each"
    ]


def test_turned_images_and_depths_beside_each_other_are_told(tmp_path):
    image_folder(tmp_path, splits=("train", "val"), per_class=2)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "train" / "ant" / "turned.jpg", exif=exif)
    Image.new("I;16", (8, 4)).save(tmp_path / "train" / "ant" / "deep.png")
    data = open_data("classify", f"imagefolder:{tmp_path}", Options(value_range=(0, 4095)))
    (first, second, third) = data.findings.notes
    assert third == "val: data.value_range does not apply: no image is read with more than 8 bits"
    assert first == (
        "train: turned upright by their EXIF orientation: 1 (turned.jpg); --data.exif ignore reads the pixels as stored"
    )
    assert re.fullmatch(
        r"train: images of different depths: more than 8 bits in 1 \(deep\.png\), 8 in 7 \(000\.jpg, .*\), to "
        r"which data\.value_range does not apply",
        second,
    )
    assert data.train[data.train.files.index(tmp_path / "train" / "ant" / "turned.jpg")][0].size == (4, 8)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_of_which_nothing_can_be_read_is_no_class(tmp_path, split):
    image_folder(tmp_path, splits=("train", "val"), per_class=2)
    for file in (tmp_path / split / "bee").iterdir():
        file.write_bytes(b"words")

    def opened(**options):
        return open_data("classify", f"imagefolder:{tmp_path}", Options(on_problem="skip", **options))

    if split == "train":
        with pytest.raises(DataError, match=r"train: no image of bee can be read: train/bee/001\.jpg: not an image in"):
            opened()
    else:
        # what is not in val can't be measured there, but is learnt
        assert len(opened().val) == 4
    assert len(opened(allow_empty=True).split(split)) == 4
    for file in (tmp_path / split).rglob("*.jpg"):
        file.write_bytes(b"words")
    with pytest.raises(DataError, match=f"{split}: no image of ant, bee, cat can be read"):
        opened(allow_empty=True)


def test_folders_inside_those_of_the_classes_are_told(tmp_path):
    image_folder(tmp_path, splits=("train", "val"))
    (tmp_path / "train" / "ant" / "red").mkdir()
    (tmp_path / "train" / "ant" / "000.jpg").rename(tmp_path / "train" / "ant" / "red" / "000.jpg")
    assert open_data("classify", f"imagefolder:{tmp_path}").findings.notes == [
        "folders inside those of the classes, not told apart from these: 1 (ant/red)"
    ]


@pytest.mark.parametrize("few", [True, False])
def test_label_maps_beside_images_are_no_images(tmp_path, few):
    """As in sets of ultrasound pictures, where they would tell the classes apart."""
    image_folder(tmp_path, splits=("train", "val"), classes=("benign", "malignant"))
    for name in ("benign", "malignant"):
        for number in range(3):
            size = (24, 20)
            noise = np.random.default_rng(number).integers(0, 2 if few else 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(noise * (255 if few else 1)).save(tmp_path / "train" / name / f"{number:03}_mask.png")
    findings = open_data("classify", f"imagefolder:{tmp_path}").findings
    assert findings.used == {"train": 16 if few else 22, "val": 16}
    assert findings.ignored.get("label maps beside their images", []) == (
        [f"train/{name}/{number:03}_mask.png" for name in ("benign", "malignant") for number in range(3)] if few else []
    )
