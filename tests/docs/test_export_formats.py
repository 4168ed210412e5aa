"""The deployment guide's tables of what formats and tasks take: they are there, whole, and what exports do."""

import importlib.util
import re
from pathlib import Path

import pytest
from app_checkpoints import save_detector, save_segmenter
from explain_checkpoint import save_checkpoint

from involution.engine.loading import load
from involution.export.metadata import WEIGHTS
from involution.export.registry import Settings, formats, get_task, tasks

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def export_formats():
    spec = importlib.util.spec_from_file_location("export_formats", DOCS / "export_formats.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(table):
    header, _, *rows = (re.split(r" \| ", line.strip("| ")) for line in table.splitlines())
    assert all(len(row) == len(header) for row in rows)
    return {row[0].strip("`"): dict(zip(header, row, strict=True)) for row in rows}


def test_the_guide_shows_them():
    guide = (DOCS / "guides/deployment.md").read_text(encoding="utf-8")
    conf = (DOCS / "conf.py").read_text(encoding="utf-8")
    for name in ("export_formats", "export_tasks"):
        assert f"{{{{ {name} }}}}" in guide
        assert f'"{name}": export_formats.' in conf


def test_each_format_has_a_row_of_what_it_takes(export_formats):
    rows = cells(export_formats.formats_table())
    assert list(rows) == list(formats())
    assert {name: (row["`--int8`"], row["`--weights`"]) for name, row in rows.items()} == {
        "pt2": ("no", "float32"),
        "aoti": ("no", "float32"),
        "onnx": ("yes", ", ".join(WEIGHTS)),
        "openvino": ("yes, with `involution[openvino]`", "float32, float16"),
    }
    assert rows["openvino"]["files"] == "`.xml` and `.bin`"
    assert rows["openvino"]["needs"] == "`involution[openvino]` and `involution[export]`"
    assert rows["onnx"]["other settings"] == "`--opset`, `--operators`"
    assert rows["pt2"]["needs"] == "PyTorch alone"


NETWORKS = {
    "classify": lambda file: save_checkpoint(file, channels=3, side=24),
    "detect": lambda file: save_detector(file, "faster_rcnn"),
    "segment": save_segmenter,
}


@pytest.mark.parametrize("task", tasks())
def test_a_tasks_row_is_what_its_graph_leaves_open(task, export_formats, tmp_path):
    row = cells(export_formats.tasks_table())[task]
    network, card = load(NETWORKS[task](tmp_path / "a.ckpt"))
    found = get_task(task)
    graph = found.graph(network, card, Settings())
    assert row["sizes that stay open"] == ", ".join(graph.inputs[0].open.values())
    if found.fixes:
        fixed = found.graph(network, card, Settings(size=(64, 96))).inputs[0].open.values()
        assert row["`--size` fixes"] == ", ".join(name for name in found.opens if name not in fixed)
    else:
        assert row["`--size` fixes"] == "nothing: it sees one size"
    steps = row["in the graph by `--with-preprocessing`, in this order"].replace(" ", "_").split(",_")
    # this segmenter was trained without a resize
    assert [step for step in steps if (task, step) != ("segment", "resize")] == list(found.inside(card))
    # what it is called with then are pictures of any size
    inside = found.graph(network, card, Settings(with_preprocessing=True)).inputs
    assert set(inside[0].open.values()) >= {"height", "width"}
    assert len(inside) == 1
