"""`predict --parts`: its options, its lines, its exit codes."""

import pytest
from many_images import checkpoint, lines, png, rows, table
from pictures import picture

from involution.cli import main, predict_many
from involution.predict import ManyResult


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return checkpoint("classify", tmp_path_factory.mktemp("network") / "c.ckpt")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for seed in range(5):
        picture(seed).save(tmp_path / "photos" / f"{seed}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def test_rows_of_files_and_tables(network, photos, capsys):
    (photos / "broken.png").write_text("no image")
    table("more.parquet", {"bytes": [png(0), b""]})
    words = ["classify", "predict", "photos", "more.parquet", "--checkpoint", str(network), "--parts", "rows"]
    words += ["--parts-format", "jsonl", "--part-rows", "3", "--topk", "2", "--batch-size", "2"]
    # broken images are told in the rows and at the end
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    said = "6 classified, 2 with an error (1 empty, 1 format); 3 parts in rows"
    assert printed.out.startswith(f"{said}, ")
    assert printed.out.endswith(" images/s\n")
    assert [len(row["labels"] or ()) for row in rows(photos.parent / "rows")] == [2, 2, 2, 2, 2, 0, 2, 0]
    assert lines(photos.parent / "rows")[0]["settings"] == {"topk": 2, "format": "jsonl", "part_rows": 3}
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.err == "rows: 3 of 3 parts are finished\n"
    assert printed.out == f"{said}\n"
    words[words.index("--topk") + 1] = "3"
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds parts of another prediction (topk 2 there, 3 here); choose another folder for --parts" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "ray"], "--engine ray can only be used with --parts FOLDER"),
        (["--workers", "2"], "--workers can only be used with --parts FOLDER"),
        (["--ray-address", "auto"], "--ray-address can only be used with --parts FOLDER"),
        (["--column", "a"], "--column can only be used with --parts FOLDER"),
        (["*.tar"], "Parquet tables and tar files can only be used with --parts FOLDER"),
        (["--parts", "rows", "--output", "a.csv"], "wanted --parts or --output, got both"),
        (["--parts", "s3://a/rows"], "files and folders of this machine or a shared drive, got s3://a/rows"),
        (["--parts", "rows", "--runtime", "onnx"], "wanted --runtime torch, got onnx"),
        (["--parts", "rows", "--workers", "2"], "a number of workers and the address of a cluster are for engine ray"),
        (["--parts", "rows", "--part-rows", "0"], "wanted part_rows from 1 to 1000000, got 0"),
        (["--parts", "photos"], "photos already has files; choose another folder for --parts"),
        (["none.png", "--parts", "rows"], "none.png: no such file or folder"),
        (["--parts", "rows", "--topk", "0"], "wanted topk of 1 or more, got 0"),
    ],
)
def test_what_can_not_be_done_is_one_line(words, said, network, photos, capsys):
    assert main(["classify", "predict", "photos", *words, "--checkpoint", str(network)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("involution: ")
    assert line.endswith(said)
    assert not (photos.parent / "rows").exists()


def test_a_wrong_column_tells_which_there_are(network, photos, capsys):
    table("a.parquet", {"id": [1], "picture": [png(0)]})
    words = ["classify", "predict", "a.parquet", "--checkpoint", str(network), "--parts", "rows"]
    assert main([*words, "--column", "pictures"]) == 2
    said = "a.parquet: no column 'pictures'; did you mean picture? (it has id, picture)\n"
    assert capsys.readouterr().err.endswith(said)
    assert main([*words, "--column", "picture"]) == 0
    assert lines(photos.parent / "rows")[0]["inputs"]["images"] == 1


def test_an_interruption_says_how_to_go_on(network, photos, capsys, monkeypatch):
    original = predict_many.Progress

    def stopping(say, advance):
        def stop(done, count):
            advance(done, count)
            if done == 4:
                raise KeyboardInterrupt

        return original(say, stop)

    monkeypatch.setattr(predict_many, "Progress", stopping)
    words = ["classify", "predict", "photos", "--checkpoint", str(network), "--parts", "rows [v2]", "--part-rows", "2"]
    assert main(words) == 130
    assert capsys.readouterr().err == "rows [v2]: 2 of 3 parts are finished; the same command goes on\ninterrupted\n"
    monkeypatch.setattr(predict_many, "Progress", original)
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.err == "rows [v2]: 2 of 3 parts are finished; going on\n"
    assert printed.out.startswith("5 classified, 0 with an error; 3 parts in rows [v2], ")


def test_summary_of_a_million():
    found = ManyResult("rows", 1_000_000, 1000, {"broken": 1200, "large": 1}, 500_000, 1000.0)
    said = "998,799 segmented, 1,201 with an error (1,200 broken, 1 large); 1,000 parts in rows, 500 images/s"
    assert predict_many.summary(found, "segmented") == said
