import pytest
import timm
import torch

from involution.cli import main


@pytest.fixture
def checkpoint(tmp_path):
    model = timm.create_model("rednet_nano", num_classes=4)
    state = {f"backbone.{name}": value for name, value in model.state_dict().items() if not name.startswith("fc.")}
    torch.save({"state_dict": {**state, "neck.conv.weight": torch.zeros(1)}}, tmp_path / "in.pth")
    return tmp_path / "in.pth"


def test_convert(checkpoint, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    assert main(["convert", str(checkpoint), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "found     rednet_nano: stem kernel 3, no classifier, 193 entries" in printed
    assert "left out  1 entries: neck.conv.weight" in printed
    assert f'timm.create_model("rednet_nano", num_classes=0, checkpoint_path="{out}")' in printed
    timm.create_model("rednet_nano", num_classes=0, checkpoint_path=out)


def test_convert_does_not_overwrite(checkpoint, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    assert main(["convert", str(checkpoint), str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    assert out.read_text() == "precious"
    assert main(["convert", str(checkpoint), str(out), "--force"]) == 0
    assert out.stat().st_size > 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such checkpoint"), (b"<html>", "a web page saved in its place"), (b"\x80\x04.", "is damaged")],
    ids=["missing", "web page", "damaged"],
)
def test_convert_says_what_is_wrong(content, message, tmp_path, capsys):
    path = tmp_path / "in.pth"
    if content is not None:
        path.write_bytes(content)
    assert main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("involution: ")
    assert message in error
    assert "Traceback" not in error


def test_convert_that_cannot_write(checkpoint, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert main(["convert", str(checkpoint), str(tmp_path / "out.safetensors")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]
