"""Data sets of other tools, and what an error says of them."""

import json

import pytest
from PIL import Image

from involution.data.errors import DataError
from involution.data.foreign import foreign
from involution.data.registry import Options, open_data

LABELME = {"version": "5.0.1", "flags": {}, "shapes": [{"label": "cat", "points": [[1, 2], [20, 30]]}]}
VIA = {"a.jpg12": {"filename": "a.jpg", "regions": [{"shape_attributes": {"name": "rect"}}]}}
COCO = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []}
KITTI = "Car 0.00 0 1.85 3.63 8.54 42.81 30.12 1.67 1.87 3.69 -16.53 2.39 58.49 1.57\n"
DOTA = "imagesource:GoogleEarth\ngsd:0.1\n2.0 3.0 20.0 3.0 20.0 30.0 2.0 30.0 plane 0\n"
BOXES = "convert its boxes to COCO's, Pascal VOC's or YOLO's format"
FOLDERS = "sort the images into a folder for each class"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"0.json": json.dumps(LABELME)}, f"0.json is LabelMe's; {BOXES}"),
        ({"via.json": json.dumps(VIA)}, "via.json is the VGG Image Annotator's; export COCO from there"),
        ({"via.json": '{"_via_settings": {}}'}, "via.json is the VGG Image Annotator's; export COCO from there"),
        ({"via.csv": "filename,region_shape_attributes\n"}, f"via.csv is the VGG Image Annotator's; {BOXES}"),
        ({"meta.json": "{}", "ds/ann/0.jpg.json": '{"objects": [{"classTitle": "a"}]}'}, "ds/ann/0.jpg.json is Super"),
        ({"a.odgt": "{}"}, f"it looks like CrowdHuman's (.odgt); {BOXES}"),
        ({"s/wider_face_train_bbx_gt.txt": "0/a.jpg\n1\n"}, f"it looks like WIDER FACE; {BOXES}"),
        ({"training/label_2/0.txt": KITTI * 2}, f"training/label_2/0.txt has KITTI's boxes; {BOXES}"),
        ({"train/labelTxt/P0.txt": DOTA}, "train/labelTxt/P0.txt has four corners of turned boxes, as DOTA has them"),
        ({"b.csv": "ImageID,Source,LabelName,XMin,XMax\n"}, f"b.csv is Open Images'; {BOXES}"),
        ({"b.csv": "ImageID,Source,LabelName,Confidence\n"}, f"b.csv is Open Images'; {FOLDERS}"),
        ({"train.csv": "image_id,width,height,bbox\n"}, f"train.csv is a table of boxes; {BOXES}"),
        ({"train.csv": "ImageId,EncodedPixels\n"}, "train.csv is a table of run lengths; make a label map in PNG"),
        (
            {"sample_submission.csv": "id,label\n", "train.csv": "id;breed\n"},
            f"train.csv is a table of labels; {FOLDERS}",
        ),
        ({"train/metadata.csv": "file_name,label\n"}, f"train/metadata.csv is a table of labels; {FOLDERS}"),
        ({"a.csv": "Id,healthy,rust\n", "train.csv": "filename,healthy,rust\n"}, "train.csv is a table of labels"),
        ({"class_dict.csv": "name,r,g,b\n"}, "class_dict.csv has the colours of classes; put them into classes.txt"),
        ({"metadata.jsonl": '{"file_name": "0.png"}\n'}, "metadata.jsonl is metadata of Hugging Face's imagefolder"),
        ({"data/train-0.parquet": "x"}, "it looks like tables in Parquet; write their images into folders"),
        ({"x-train.tfrecord-00000-of-00001": "x"}, "it looks like a data set of TensorFlow (TFRecord)"),
        ({"imagesTr/la_1.nii.gz": "x"}, "it looks like medical volumes (NIfTI, DICOM); save their slices as PNG"),
        ({"t/v2.0/labels/0.png": "x"}, "it looks like Mapillary Vistas; make a label map in PNG of each image"),
        ({"train/Annotations/a.json": json.dumps(COCO)}, "train/Annotations/a.json is in COCO's format; move it to"),
        ({f"train/{i}{end}": "x" for i in (0, 1) for end in ("_sat.jpg", "_mask.png")}, "train/0_mask.png is a label"),
        ({"bottle/ground_truth/hole/000_mask.png": "x"}, "it looks like MVTec AD, where training has the class good"),
        # nothing known, or what is read here
        ({"notes.txt": "a\n", "a.json": "[]", "a.csv": "id,name\n", "classes.txt": "cat\ndog\n"}, ""),
        ({"labels/0.txt": "0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6\n", "annotations/a.json": json.dumps(COCO)}, ""),
    ],
)
def test_formats_of_others(tmp_path, files, said):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert foreign(tmp_path).startswith(said) if said else foreign(tmp_path) == ""


@pytest.mark.parametrize(("task", "kinds"), [("classify", ("", "imagefolder:")), ("detect", ("", "coco:", "yolo:"))])
def test_an_error_says_what_the_folder_holds(tmp_path, task, kinds):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / "0.json").write_text(json.dumps(LABELME))
    for kind in kinds:
        with pytest.raises(DataError, match=f"; 0.json is LabelMe's; {BOXES}"):
            open_data(task, f"{kind}{tmp_path}", Options())


def test_malformed_entries_say_nothing_of_the_format(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_text("x")
    (tmp_path / "train.csv").write_text("id,label\n")
    with pytest.raises(DataError, match="2 problems") as caught:
        open_data("classify", f"imagefolder:{tmp_path}", Options())
    assert "train.csv" not in str(caught.value)
