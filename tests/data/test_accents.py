"""Names with accents: composed (é) on one side and apart (e and its accent) on the other."""

import json
import unicodedata

import pytest
from generated import image_folder, picture
from PIL import Image

from involution.data.errors import DataError
from involution.data.registry import Options, open_data

COMPOSED, APART = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("stored", "told"), [(COMPOSED, APART), (APART, COMPOSED)])
class TestAccents:
    def test_class_folders(self, tmp_path, stored, told):
        image_folder(tmp_path, splits=("train",), classes=(stored, "bee"), per_class=2)
        image_folder(tmp_path, splits=("val",), classes=(told, "bee"), per_class=2)
        data = open_data("classify", f"imagefolder:{tmp_path}")
        assert data.classes == ["bee", COMPOSED]
        assert [len(data.train), len(data.val)] == [4, 4]
        (tmp_path / "names.txt").write_text(f"{told}\nbee\n", encoding="utf-8")
        named = open_data("classify", f"imagefolder:{tmp_path}", Options(classes=str(tmp_path / "names.txt")))
        assert named.classes == ["bee", COMPOSED]
        (tmp_path / "names.json").write_text(json.dumps({told: "summer", "bee": "fly"}), encoding="utf-8")
        named = open_data("classify", f"imagefolder:{tmp_path}", Options(classes=str(tmp_path / "names.json")))
        assert named.classes == ["fly", "summer"]

    def test_coco(self, tmp_path, stored, told):
        for split in ("train", "val"):
            (tmp_path / split).mkdir()
            picture(0, 0).save(tmp_path / split / f"{stored}.png")
            content = {
                "images": [{"id": 1, "file_name": f"{told}.png", "width": 24, "height": 20}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25}],
                "categories": [{"id": 1, "name": stored if split == "train" else told}],
            }
            (tmp_path / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
        data = open_data("detect", f"coco:{tmp_path}")
        assert (data.classes, data.findings.used) == ([COMPOSED], {"train": 1, "val": 1})
        assert not data.findings.notes

    def test_yolo(self, tmp_path, stored, told):
        for split in ("train", "val"):
            for kind in ("images", "labels"):
                (tmp_path / kind / split).mkdir(parents=True)
            picture(0, 0).save(tmp_path / "images" / split / f"{stored}.png")
            (tmp_path / "labels" / split / f"{told}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
        (tmp_path / "classes.txt").write_text(f"{APART}\n", encoding="utf-8")
        data = open_data("detect", f"yolo:{tmp_path}")
        assert data.classes == [COMPOSED]
        assert len(data.train[0][1]["boxes"]) == 1
        assert not data.findings.notes

    def test_voc(self, tmp_path, stored, told):
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (tmp_path / name).mkdir(parents=True)
        picture(0, 0).save(tmp_path / "JPEGImages" / f"{stored} 1.png")
        page = (
            f"<annotation><filename>{told} 1.png</filename><object><name>{told}</name>"
            "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>"
        )
        (tmp_path / "Annotations" / f"{stored} 1.xml").write_text(page, encoding="utf-8")
        (tmp_path / "ImageSets" / "Main" / "val.txt").write_text(f"{told} 1\n", encoding="utf-8")
        data = open_data("detect", f"voc:{tmp_path}", Options(only="val"))
        assert (data.classes, data.findings.used) == ([COMPOSED], {"val": 1})

    def test_label_maps(self, tmp_path, stored, told):
        for split in ("train", "val"):
            for folder in (tmp_path / split, tmp_path / "labels" / split):
                folder.mkdir(parents=True)
            picture(0, 0).save(tmp_path / split / f"{stored}.jpg")
            labels = Image.new("L", (24, 20))
            labels.paste(1, (0, 0, 9, 9))
            labels.save(tmp_path / "labels" / split / f"{told}.png")
        (tmp_path / "classes.txt").write_text(f"sky\n{APART}\n", encoding="utf-8")
        data = open_data("segment", f"masks:{tmp_path}")
        assert (data.classes, len(data.train)) == (["sky", COMPOSED], 1)


def test_two_folders_that_differ_in_this_alone_are_refused(tmp_path):
    image_folder(tmp_path, splits=("train", "val"), classes=(COMPOSED, APART, "bee"), per_class=2)
    with pytest.raises(DataError, match="two folders are named été, with accents composed and apart"):
        open_data("classify", f"imagefolder:{tmp_path}")
