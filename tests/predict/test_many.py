"""Large predictions by one process: rows, parts, their record, and going on."""

import base64
import io
import json
import os
import re

import numpy as np
import PIL.Image
import pytest
from many_images import checkpoint, lines, png, rows, shard, table
from pictures import huge_png, picture
from pycocotools import mask as run_lengths

from involution.engine.folder_lock import FolderInUse, FolderLock
from involution.engine.predictor import PredictError
from involution.models import CheckpointError
from involution.predict import Progress, Workers, load_predictor, predict_many
from involution.predict.inputs import find_inputs
from involution.predict.parts import PartRunner

TASKS = ("classify", "detect", "segment")


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return {task: checkpoint(task, folder / f"{task}.ckpt") for task in TASKS}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(10):
        picture(seed).save(folder / f"{seed}.png")
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_what_the_predictor_says_in_both_formats(task, networks, photos, tmp_path):
    for format in ("parquet", "jsonl"):
        done = predict_many(photos, networks[task], tmp_path / format, format=format, part_rows=4)
        assert (done.images, done.parts, done.done, done.errors) == (10, 3, 10, {})
    one, other = rows(tmp_path / "parquet"), rows(tmp_path / "jsonl")
    if task == "segment":
        for row in other:
            row["label_map"] = base64.b64decode(row["label_map"])
    assert one == other
    predictor = load_predictor(networks[task]).optimize()
    for row, seed in zip(one, range(10), strict=True):
        found = predictor.predict(photos / f"{seed}.png")
        assert (row["file"], row["error"], row["error_kind"]) == (str(photos / f"{seed}.png"), None, None)
        assert list(row) == ["index", "file", *predictor.row_types, "error_kind", "error"]
        if task == "segment":
            with PIL.Image.open(io.BytesIO(row["label_map"])) as label_map:
                assert np.array_equal(np.asarray(label_map), found.labels.numpy())
            assert dict(zip(row["labels"], row["shares"], strict=True)) == found.shares
            continue
        assert tuple(row["labels"]) == found.labels
        # of a batch and of one image
        assert row["scores"] == pytest.approx(found.scores, abs=1e-6)
        if task == "detect":
            size = [row["height"], row["width"]]
            masks = run_lengths.decode([{"size": size, "counts": counts.encode()} for counts in row["masks"]])
            assert np.array_equal(masks.transpose(2, 0, 1), found.masks.numpy())
            assert np.allclose(row["boxes"], found.boxes, atol=1e-3)
            assert row["category_ids"] == list(found.category_ids)


def test_a_table_of_the_parts_is_read_as_one(networks, photos, tmp_path):
    predict_many(photos, networks["classify"], tmp_path / "out", part_rows=3, topk=2)
    import pyarrow.dataset

    found = pyarrow.dataset.dataset(tmp_path / "out").to_table()
    assert found.num_rows == 10
    assert found.schema.field("scores").type == pyarrow.list_(pyarrow.float64())


def test_the_same_images_from_everywhere_have_the_same_rows(networks, photos, tmp_path):
    contents = [(photos / f"{seed}.png").read_bytes() for seed in range(10)]
    table(tmp_path / "paths.parquet", {"path": [f"photos/{seed}.png" for seed in range(10)]})
    table(tmp_path / "bytes.parquet", {"bytes": contents}, row_group_size=3)
    shard(tmp_path / "a.tar", {f"deep/{'n' * 150}{seed}.PNG": content for seed, content in enumerate(contents)})
    found = {}
    for name in ("photos", "paths.parquet", "bytes.parquet", "a.tar"):
        predict_many(tmp_path / name, networks["classify"], tmp_path / f"{name}.rows", part_rows=4)
        found[name] = rows(tmp_path / f"{name}.rows")
    assert found["paths.parquet"] == found["photos"]
    assert found["bytes.parquet"][3]["file"] == f"{tmp_path}/bytes.parquet:3"
    assert found["a.tar"][3]["file"] == f"{tmp_path}/a.tar:deep/{'n' * 150}3.PNG"
    for one, other in (("bytes.parquet", "photos"), ("a.tar", "photos")):
        assert [row | {"file": ""} for row in found[one]] == [row | {"file": ""} for row in found[other]]


def test_what_lies_beside_the_images_of_a_shard_is_left(networks, tmp_path):
    members = {"a.png": png(0), "a.cls": b"1", "a.seg.png": png(1), "._b.png": png(2), "c.txt": b"no", "d.jpg": b""}
    predict_many(shard(tmp_path / "a.tar", members), networks["classify"], tmp_path / "out")
    assert [(row["file"].partition(":")[2], row["error_kind"]) for row in rows(tmp_path / "out")] == [
        ("a.png", None),
        ("d.jpg", "empty"),
    ]


def test_broken_images_are_rows_with_an_error(networks, photos, tmp_path):
    (photos / "broken.png").write_bytes(png(0)[:-30])
    (photos / "empty.png").touch()
    (photos / "huge.png").write_bytes(huge_png())
    (photos / "text.png").write_text("no image")
    os.mkfifo(photos / "pipe.png")
    PIL.Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(photos / "float.tif")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    picture(0).save(os.fsencode(str(photos)) + b"/caf\xe9.png")
    done = predict_many(photos, networks["classify"], tmp_path / "out", part_rows=4)
    kinds = {os.path.basename(row["file"]): row["error_kind"] for row in rows(tmp_path / "out") if row["error"]}
    assert kinds == {
        "broken.png": "broken",
        "empty.png": "empty",
        "huge.png": "large",
        "text.png": "format",
        "pipe.png": "unreadable",
        "float.tif": "values",
        "gone.png": "missing",
    }
    assert done.errors == dict.fromkeys(kinds.values(), 1)
    odd = [row for row in rows(tmp_path / "out") if "caf" in row["file"]]
    assert odd[0]["file"].endswith("caf\\udce9.png")
    assert odd[0]["labels"]
    large = next(row["error"] for row in rows(tmp_path / "out") if row["error_kind"] == "large")
    assert large.startswith("too large to decode")


def test_an_image_that_the_network_refuses_costs_no_other(networks, photos, tmp_path, monkeypatch):
    predictor = load_predictor(networks["classify"])
    original = type(predictor).run

    def run(self, names, images, **options):
        if any(name.endswith("3.png") for name in names):
            raise RuntimeError("too strange")
        return original(self, names, images, **options)

    monkeypatch.setattr(type(predictor), "run", run)
    assert predict_many(photos, networks["classify"], tmp_path / "out").errors == {"network": 1}
    assert rows(tmp_path / "out")[3]["error"] == "the network can't take its 20 x 24 pixels (too strange)"


class Stopped(BaseException):
    pass


def interrupted(monkeypatch, after, **call):
    """Begin a prediction that is stopped when so many parts are finished."""
    said = []

    def advance(done, count):
        if done >= after * call["part_rows"]:
            raise Stopped

    with pytest.raises(Stopped):
        predict_many(**call, progress=Progress(said.append, advance))
    return said


def test_going_on_repeats_and_loses_nothing(networks, photos, tmp_path, monkeypatch):
    call = {"images": photos, "checkpoint": networks["classify"], "part_rows": 2}
    predict_many(**call, folder=tmp_path / "whole")
    out = tmp_path / "out"
    said = interrupted(monkeypatch, 2, **call, folder=out)
    assert said == [f"{out}: 2 of 5 parts are finished; the same command goes on"]
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("part-*")}
    assert list(before) == ["part-000000.parquet", "part-000001.parquet"] or len(before) == 2
    # what a process leaves that is killed: half a part, half a line
    (out / ".part-000002.parquet.1.tmp").write_bytes(b"half")
    with (out / "_manifest.jsonl").open("a") as file:
        file.write('{"part": 2, "file": "part-0000')
    said = []
    done = predict_many(**call, folder=out, progress=Progress(said.append))
    assert said == [f"{out}: 2 of 5 parts are finished; going on"]
    assert (done.done, done.images, done.parts) == (6, 10, 5)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert rows(out) == rows(tmp_path / "whole")
    (job, parts), (other, others) = lines(out), lines(tmp_path / "whole")
    assert job == other
    assert [{**part, "modified": 0} for part in parts] == [{**part, "modified": 0} for part in others]
    assert [file.name for file in out.glob(".*")] == []
    done = predict_many(**call, folder=out)
    assert (done.done, done.images) == (0, 10)


def test_what_is_noticed_of_the_images_is_told_once_of_all_parts(networks, photos, tmp_path, monkeypatch):
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    for seed in (1, 5, 6, 9):
        picture(seed).save(photos / f"{seed}.png", exif=exif)
    call = {"images": photos, "checkpoint": networks["classify"], "folder": tmp_path / "rows", "part_rows": 2}
    interrupted(monkeypatch, 2, **call)
    told = (
        "turned upright by their EXIF orientation: 4 (1.png, 5.png, 6.png, …); --data.exif ignore in the training "
        "reads the pixels as stored"
    )
    for _ in range(2):
        said = []
        done = predict_many(**call, progress=Progress(said.append))
        assert list(done.notes) == said[-1:] == [told]


def test_parts_that_are_gone_or_empty_are_made_again(networks, photos, tmp_path):
    call = {"images": photos, "checkpoint": networks["classify"], "folder": tmp_path / "out", "part_rows": 2}
    predict_many(**call)
    whole = rows(tmp_path / "out")
    (tmp_path / "out" / "part-000001.parquet").unlink()
    (tmp_path / "out" / "part-000003.parquet").write_bytes(b"")
    assert predict_many(**call).done == 4
    assert rows(tmp_path / "out") == whole


def test_parts_that_somebody_changed_are_left_alone(networks, photos, tmp_path):
    call = {"images": photos, "checkpoint": networks["classify"], "folder": tmp_path / "out", "format": "jsonl"}
    predict_many(**call)
    part = tmp_path / "out" / "part-000000.jsonl"
    written = part.read_text()
    for changed in (written + "mine\n", written.partition("\n")[2]):
        part.write_text(changed)
        with pytest.raises(
            PredictError, match=r"part-000000\.jsonl was changed since it was written \([\d,]+ bytes then"
        ):
            predict_many(**call)
        assert part.read_text() == changed
    part.write_text(written.replace("0.png", "X.png"))
    with pytest.raises(PredictError, match=rf"changed since it was written \({part.stat().st_size:,} other bytes then"):
        predict_many(**call)
    # a copy is what it was
    part.write_text(written)
    assert predict_many(**call).done == 0
    part.rename(tmp_path / "mine.jsonl")
    assert predict_many(**call).done > 0
    assert part.read_text() == written


def test_parts_of_an_earlier_version_are_gone_on_with(networks, photos, tmp_path):
    call = {"images": photos, "checkpoint": networks["classify"], "folder": tmp_path / "out", "format": "jsonl"}
    predict_many(**call)
    job, (line,) = lines(tmp_path / "out")
    del line["modified"], line["crc32"]
    (tmp_path / "out" / "_manifest.jsonl").write_text(f"{json.dumps(job)}\n{json.dumps(line)}\n")
    assert predict_many(**call).done == 0


def test_images_that_changed_meanwhile_are_predicted_again(networks, photos, tmp_path):
    table(tmp_path / "paths.parquet", {"path": [f"photos/{seed}.png" for seed in range(3)]})
    shard(tmp_path / "s.tar", {"0.png": png(0), "1.png": png(1)})
    sources = [photos, tmp_path / "paths.parquet", tmp_path / "s.tar"]
    call = {"images": sources, "checkpoint": networks["classify"], "folder": tmp_path / "out", "part_rows": 5}
    before = predict_many(**call)
    assert before.done == 15
    picture(77).save(photos / "1.png")
    shard(tmp_path / "s.tar", {"0.png": png(0), "1.png": png(78)})
    for said, done in (
        # by name, and by the path in the table; and both members
        (f"{tmp_path}/out: 4 of the images changed since they were predicted; parts that are made again: 2", 10),
        (None, 0),
    ):
        told = []
        assert predict_many(**call, progress=Progress(told.append)).done == done
        assert [line for line in told if "of the images changed" in line] == ([said] if said else [])
    predictor = load_predictor(networks["classify"])
    found = rows(tmp_path / "out")
    for index, file in ((1, photos / "1.png"), (11, photos / "1.png")):
        assert found[index]["scores"] == pytest.approx(predictor.predict(file).scores, abs=1e-6)


def test_another_prediction_is_refused(networks, photos, tmp_path):
    call = {"images": photos, "checkpoint": networks["classify"], "folder": tmp_path / "out", "part_rows": 4}
    predict_many(**call)
    other = checkpoint("classify", tmp_path / "other.ckpt")
    other.write_bytes(networks["classify"].read_bytes() + b" ")
    same = tmp_path / "same.ckpt"
    same.write_bytes(networks["classify"].read_bytes())
    for change, said in [
        ({"topk": 2}, "topk 5 there, 2 here"),
        ({"part_rows": 5}, "part_rows 4 there, 5 here"),
        ({"format": "jsonl"}, "format parquet there, jsonl here"),
        ({"images": photos / "1.png"}, "images 10 there, 1 here"),
        ({"images": [photos / "1.png", photos]}, "other images: inputs with SHA-256 .* there, .* here"),
        ({"checkpoint": networks["detect"]}, "command classify predict there, detect predict here"),
    ]:
        with pytest.raises(
            PredictError, match=rf"^{tmp_path}/out holds parts of another prediction \({said}\); choose"
        ):
            predict_many(**{**call, **change})
    # neither the file's place nor who computes matters
    assert predict_many(**{**call, "checkpoint": same}, batch_size=3, workers=Workers(device="cpu")).done == 0
    # what has no finished part can be anything
    record = tmp_path / "out" / "_manifest.jsonl"
    record.write_text(record.read_text().splitlines()[0] + "\n")
    assert predict_many(**call, topk=1).done == 10
    assert len(rows(tmp_path / "out")[0]["labels"]) == 1


def test_other_weights_are_refused(networks, photos, tmp_path):
    call = {"images": photos, "folder": tmp_path / "out"}
    predict_many(**call, checkpoint=networks["classify"])
    other = tmp_path / "other.ckpt"
    from explain_checkpoint import save_checkpoint

    save_checkpoint(other, channels=3, steps=6)
    with pytest.raises(PredictError, match=r"\(other weights: checkpoint with SHA-256 \w{8}… there, \w{8}… here\)"):
        predict_many(**call, checkpoint=other)


@pytest.mark.parametrize(
    "content", ["", "nonsense\n", "[]\n", '{"parts": 1}\n{"part": "x"}\n', '{"parts": 1}\n{"part": 0}\n']
)
def test_a_record_that_is_none_is_refused(content, networks, photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "_manifest.jsonl").write_text(content)
    with pytest.raises(PredictError, match=r"_manifest\.jsonl is not the record of a prediction"):
        predict_many(photos, networks["classify"], out)


def test_a_folder_with_anything_else_is_refused(networks, photos):
    with pytest.raises(PredictError, match="photos already has files; choose another folder for --parts"):
        predict_many(photos, networks["classify"], photos)
    assert not (photos / "_manifest.jsonl").exists()


def test_two_at_once_are_refused(networks, photos, tmp_path):
    (tmp_path / "out").mkdir()
    with FolderLock(tmp_path / "out"), pytest.raises(FolderInUse, match=r"process \d+ on .* predicts there; wait for"):
        predict_many(photos, networks["classify"], tmp_path / "out")


def test_nothing_is_made_for_what_can_not_be_done(networks, photos, tmp_path):
    out = tmp_path / "out"
    for wrong, error, said in [
        ({"topk": 0}, PredictError, "topk of 1 or more"),
        ({"format": "csv"}, PredictError, "parts as parquet or jsonl, got 'csv'"),
        ({"part_rows": 0}, PredictError, "part_rows from 1"),
        ({"task": "detect"}, CheckpointError, "made for the task 'classify'"),
    ]:
        with pytest.raises(error, match=said):
            predict_many(photos, networks["classify"], out, **wrong)
    for specs in ("s3://a/b.parquet", "webdataset:https://host/{0..3}.tar"):
        with pytest.raises(PredictError, match=r"files and folders of this machine .*, got (s3|https)://"):
            predict_many([photos, specs], networks["classify"], out)
    assert not out.exists()
    for wrong, said in [
        ({"engine": "dask"}, "wanted engine process or ray"),
        ({"count": 2}, "for engine ray"),
        ({"engine": "ray", "count": -1}, "workers from 0"),
        ({"engine": "ray", "device": "mps"}, "wanted device auto, cpu or cuda for engine ray"),
    ]:
        with pytest.raises(PredictError, match=said):
            Workers(**wrong)


def test_a_full_disk_names_the_part_and_keeps_the_others(networks, photos, tmp_path, monkeypatch):
    original, written = PartRunner._row, []

    def row(self, index, result, types):
        written.append(index)
        if index == 5:
            raise OSError(28, "No space left on device")
        return original(self, index, result, types)

    monkeypatch.setattr(PartRunner, "_row", row)
    out, said = tmp_path / "out", []
    with pytest.raises(OSError, match=re.escape(str(out / "part-000001.parquet"))):
        predict_many(photos, networks["classify"], out, part_rows=4, progress=Progress(said.append))
    assert said == [f"{out}: 1 of 3 parts are finished; the same command goes on"]
    monkeypatch.setattr(PartRunner, "_row", original)
    assert predict_many(photos, networks["classify"], out, part_rows=4).done == 6
    assert len(rows(out)) == 10


def test_a_shard_that_is_damaged_meanwhile_costs_the_images_that_are_gone(networks, tmp_path):
    file = shard(tmp_path / "a.tar", {f"{seed}.png": png(seed) for seed in range(6)})
    parts = find_inputs([file]).parts(3)
    content = bytearray(file.read_bytes())
    # the header of the sixth
    content[5 * 1536 : 5 * 1536 + 512] = b"x" * 512
    assert len(png(0)) <= 1024
    file.write_bytes(content)
    runner = PartRunner(load_predictor(networks["classify"]), tmp_path, "jsonl", {})
    assert runner.run(parts[0])["errors"] == {}
    assert runner.run(parts[1])["errors"] == {"unreadable": 1}
    last = rows(tmp_path)[5]
    assert last["file"] == f"{file}:5"
    assert last["error"].startswith("its shard can't be read (")


def test_the_record_says_what_the_parts_are_of(networks, photos, tmp_path):
    predict_many(photos, networks["classify"], tmp_path / "out", part_rows=4, format="jsonl")
    job, parts = lines(tmp_path / "out")
    assert (job["command"], job["specs"], job["network"]) == (
        "classify predict",
        [str(photos)],
        str(networks["classify"]),
    )
    assert job["settings"] == {"topk": 5, "format": "jsonl", "part_rows": 4}
    assert job["inputs"]["images"] == sum(line["rows"] for line in parts) == 10
    assert [line["file"] for line in parts] == [f"part-{number:06}.jsonl" for number in range(3)]
