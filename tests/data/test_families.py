"""Altered copies of one image are known by their names, series are not."""

import itertools
import shutil
import time

import pytest
from generated import image_folder, picture

from involution.data.families import families, plain_name
from involution.data.findings import Findings
from involution.data.registry import Options, open_data
from involution.data.splits import cut

UUIDS = ("0f3c9d1e-2b4a-4968-8786-95a4b3c2d1e0", "fedcba98-7654-4210-a0b1-c2d3e4f50617")
HASHES = ("0f3c9d1e2b4a5968778695a4b3c2d1e0", "fedcba9876543210fedcba9876543210")


def grouped(*names):
    return [[names[index] for index in group] for group in families(names)]


@pytest.mark.parametrize(
    "names",
    [
        ("7.jpg", "7_flip.jpg", "7_rot90.png", "7-aug-3.jpg", "7 rotated -15.jpg"),
        ("img.jpg", "img (1).jpg", "img - Copy.jpg", "img - Copy (2).jpg", "img copy.jpg", "Copy of img.jpg"),
        (f"a_jpg.rf.{HASHES[0]}.jpg", f"a_jpg.rf.{HASHES[1]}.jpg"),
        (f"a_jpg.rf.{HASHES[0]}.jpg", "a.jpg"),
        ("cat/7.jpg", *(f"cat/output/cat_original_7.jpg_{uuid}.jpg" for uuid in UUIDS)),
        ("cat.0.jpg", *(f"cat_original_cat.0.jpg_{uuid}.jpg" for uuid in UUIDS)),
        ("flip_7.jpg", "7.jpg", "aug_7.jpg"),
        ("aug_3_8123.jpeg", "aug_3_77.jpeg", "aug_3_0.jpeg"),
        ("out/_5_8123.png", "out/_5_77.png"),
        ("original/7.jpg", "augmented/7.jpg"),
        ("a - b.jpg", "a - b__flip.jpg"),
        ("cat/7_hflip.jpg", "cat/7_vflip.jpg"),
        ("7_flip_horizontal.jpg", "7_flip_h.jpg", "7_blurred_2.5.jpg"),
        ("IMG_1234.JPG", "IMG_E1234.JPG"),
        *(
            ("IMG_0003.jpg", f"IMG_0003-{word}.jpg")
            for word in ("edited", "edited(1)", "bearbeitet", "modifié", "modifie\u0301", "editado", "ha editado")
        ),
        *(("IMG_0003.jpg", f"IMG_0003-{word}.jpg") for word in ("modificato", "bewerkt", "edytowane", "編集済み")),
        ("a.jpg", "a.sync-conflict-20240131-093015-ABCDEFG.jpg", "a (Ann's conflicted copy 2024-01-31).jpg"),
        ("a.jpg", "a (conflicted copy 2024-01-31 093015).jpg", "a-DESKTOP-4F5T6G7.jpg"),
    ],
)
def test_altered_copies(names):
    others = ("70.jpg", "cat/8.jpg")
    assert grouped(*names, *others) == [list(names)]


@pytest.mark.parametrize(
    "names",
    [
        ("1.jpg", "10.jpg", "100.jpg", "2.jpg"),
        ("a.jpg", "a_b.jpg", "c.jpg"),
        ("frame_001.jpg", "frame_002.jpg", "frame_003.jpg"),
        ("2007_000027.jpg", "2007_000032.jpg"),
        ("IMG_20200101_120000.jpg", "IMG_20200101_120001.jpg"),
        ("image.jpg", *[f"image ({number}).jpg" for number in range(1, 9)]),
        ("cat_gray_001.jpg", "cat_gray_002.jpg", "dog.jpg"),
        tuple(f"crop_{number}.jpg" for number in range(40)),
        tuple(f"street_crop_{number}.jpg" for number in range(40)),
        ("train/cat/7.jpg", "train/dog/7_flip.jpg"),
        ("orange.jpg", "grayling.jpg", "darkroom.jpg"),
        ("IMG_1234.JPG", "IMG_E1235.JPG", "IMG_1236.JPG"),
        ("aug_3_8123.jpeg", "aug_4_77.jpeg", "aug_5_12.jpeg"),
        ("frame_3_8123.jpg", "frame_3_77.jpg"),
    ],
)
def test_series_are_none(names):
    assert grouped(*names) == []


def test_an_ending_that_several_images_have_means_something():
    assert grouped("1.jpg", "1_x.jpg", "2.jpg", "2_x.jpg") == []
    assert grouped("1.jpg", "1_x.jpg", "2.jpg", "2_x.jpg", "3.jpg", "3_x.jpg", "30.jpg") == [
        ["1.jpg", "1_x.jpg"],
        ["2.jpg", "2_x.jpg"],
        ["3.jpg", "3_x.jpg"],
    ]


def test_long_runs_of_separators_take_no_time():
    names = ["_" * 200 + str(number) + "_flip" * 10 for number in range(500)]
    start = time.perf_counter()
    assert families(names) == []
    assert time.perf_counter() - start < 5


def test_plain_names():
    assert plain_name("a/b/IMG_1.jpg") == ("a/b", "IMG_1")
    assert plain_name("flip.jpg") == ("", "flip")


@pytest.mark.parametrize("by", ["name", "draw"])
def test_a_cut_keeps_families_together_or_not(by):
    names = [f"{number}{end}.jpg" for number in range(60) for end in ("", "_flip", "_rot90")]
    findings = Findings()
    pieces = cut(names, (0.2,), Options(split_by=by), findings)
    assert sorted(itertools.chain(*pieces)) == list(range(180))
    assert not {index // 3 for index in pieces[0]} & {index // 3 for index in pieces[1]}
    assert len(pieces[1]) / 180 == pytest.approx(0.2, abs=0.1 if by == "name" else 0.001)
    assert findings.notes == [
        "altered copies of one image by their names: 180 images, kept in one split each: 60 (0.jpg with 0_flip.jpg, "
        "1.jpg with 1_flip.jpg, 2.jpg with 2_flip.jpg, …); --data.split_copies apart draws them one by one"
    ]
    findings = Findings()
    pieces = cut(names, (0.2,), Options(split_by=by, split_copies="apart"), findings)
    assert {index // 3 for index in pieces[0]} & {index // 3 for index in pieces[1]}
    assert findings.notes == []


def test_an_added_copy_moves_no_image():
    names = [f"{number}.jpg" for number in range(50)]
    before, after = (cut(found, (0.2,), Options(), Findings()) for found in (names, [*names, "7_flip.jpg"]))
    assert [[index for index in piece if index < 50] for piece in after] == before
    assert [50 in piece for piece in after] == [7 in piece for piece in before]


def test_equal_files_stay_together_in_each_class_and_too_few_are_told(tmp_path):
    image_folder(tmp_path, splits=(".",), per_class=10)
    for number in range(8):
        shutil.copy(tmp_path / "ant" / "003.jpg", tmp_path / "ant" / f"extra{number}.jpg")
    shutil.copy(tmp_path / "ant" / "003.jpg", tmp_path / "bee" / "stray.jpg")
    data = open_data("classify", f"imagefolder:{tmp_path}")
    parts = [part for part in data.parts.values() if any("extra" in file.name for file in part.files)]
    assert len(parts) == 1
    assert tmp_path / "ant" / "003.jpg" in parts[0].files
    assert data.findings.notes[0].startswith("files of equal content: 9 images, kept in one split each: 1 (")
    for file in sorted((tmp_path / "cat").iterdir())[2:]:
        file.unlink()
    for number in range(4):
        shutil.copy(tmp_path / "cat" / "000.jpg", tmp_path / "cat" / f"{number}.jpg")
    notes = open_data("classify", f"imagefolder:{tmp_path}").findings.notes
    assert "copies of one image may be in several splits: there are too few other images of their class" in notes


def test_every_task_keeps_copies_together(tmp_path):
    maps, boxes = tmp_path / "maps", tmp_path / "boxes"
    for folder in (maps / "images", maps / "masks", boxes / "images", boxes / "labels"):
        folder.mkdir(parents=True)
    for number in range(12):
        for place, end in enumerate(("", "_flip")):
            image = picture(0, 2 * number + place)
            image.save(maps / "images" / f"{number}{end}.jpg")
            image.save(boxes / "images" / f"{number}{end}.jpg")
            (boxes / "labels" / f"{number}{end}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
            image.convert("L").point(lambda value: int(value > 30)).save(maps / "masks" / f"{number}{end}.png")
    for folder in (maps, boxes):
        (folder / "classes.txt").write_text("sky\nroad\n")
    for task, spec in (("segment", f"masks:{maps}"), ("detect", f"yolo:{boxes}")):
        data = open_data(task, spec, Options(allow_empty=True))
        assert any("24 images, kept in one split each: 12" in line for line in data.findings.notes)
        found = [
            {data.parts[split].name_of(i).rpartition("/")[2].split("_")[0].split(".")[0] for i in range(len(part))}
            for split, part in data.parts.items()
        ]
        assert not found[0] & found[1]
