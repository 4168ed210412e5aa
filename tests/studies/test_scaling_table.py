"""What of a network goes into predictions, and the table of them."""

from pathlib import Path

import pytest
import timm

from involution.studies import scaling_table
from involution.studies.errors import StudyError
from involution.studies.origin import write_csv
from involution.studies.scaling import Cluster, Link

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_what_rednet_sends():
    model = timm.create_model("rednet26")
    parts = {name: sum(parameter.numel() for parameter in child.parameters()) for name, child in model.named_children()}
    stages = sum(parts.pop(name) for name in ("layer1", "layer2", "layer3", "layer4"))
    # of the stem only the involution is a block
    parts["conv1"] -= (stem := sum(parameter.numel() for parameter in model.conv1[3].parameters()))
    stages += stem
    work = scaling_table.work_of("rednet26", 0.5)
    # RedNet-26 has stages of 1, 2, 4 and 1 blocks
    assert work.groups == 1 + 8 + 1
    assert work.parameter_bytes == work.gradient_bytes == 4 * (stages + sum(parts.values()))
    assert work.root_bytes == 4 * sum(parts.values())
    assert scaling_table.work_of("rednet26", 0.5, sent_as="bfloat16").parameter_bytes == work.parameter_bytes / 2


def test_what_is_frozen_has_no_gradient():
    work = scaling_table.work_of("coco-retinanet", 1.0)
    assert 0 < work.gradient_bytes <= work.parameter_bytes
    assert work.groups == 1 + 16 + 1


def test_a_step_from_results():
    file = RESULTS / "gpu_nvidia-h200-cuda_torch2.11.0.csv"
    # the faster of the two ways that were measured
    assert scaling_table.measured_step(file, "rednet50", 256)[:2] == (pytest.approx(0.07530563), 256)
    seconds, batch, where = scaling_table.measured_step(file, "resnet50", None)
    assert (seconds, batch) == (pytest.approx(0.05440922), 256)
    assert where == f"measured: ResNet-50, NVIDIA H200, bfloat16 autocast ({file.name})"


@pytest.mark.parametrize(
    ("content", "batch", "message"),
    [
        (None, None, r"can't read .*steps\.csv: No such file"),
        ("measure,candidate\nforward,RedNet-50\n", None, "no training step of rednet50 .it has those of no network"),
        ("measure,candidate,batch,p50_ms\ntraining,ResNet-50,8,5\n", None, "it has those of resnet50.; give --step-ms"),
        ("measure,candidate,batch,p50_ms\ntraining,RedNet-50,8,5\n", 4, "rednet50 at batch 8, not 4"),
        ("measure,candidate,batch,p50_ms\ntraining,RedNet-50,8,fast\n", 8, "those of no network"),
        ("# a page\n\nmore, than, one, cell\n", None, "those of no network"),
        ("\0", None, "no network|can't read"),
    ],
)
def test_results_that_do_not_help(tmp_path, content, batch, message):
    file = tmp_path / "steps.csv"
    if content is not None:
        file.write_text(content)
    with pytest.raises(StudyError, match=message):
        scaling_table.measured_step(file, "rednet50", batch)


def test_rows_and_table(tmp_path):
    cluster = Cluster(Link(1e9), Link(1e9), 2)
    work = scaling_table.work_of("rednet26", 0.1)
    rows = scaling_table.rows("rednet26", work, 8, [1, 4], ["ddp"], cluster, overlap=0.0, bucket_bytes=25 * 2**20)
    one, four = rows
    assert (one["images_per_s"], one["efficiency"], one["nodes"]) == (80, 1, 1)
    # 2·3/4 of 36.932664 MB at 1 GB/s
    assert four["exposed_ms"] == pytest.approx(55.399, abs=1e-3)
    assert four["images_per_s"] == pytest.approx(4 * 8 / 0.155399, abs=0.1)
    assert four["efficiency"] == pytest.approx(0.1 / 0.155399, abs=1e-4)
    assert four["nodes"] == 2
    notes = scaling_table.notes(cluster, 0.0, ["rednet26, 100 ms for 8 images, as given"])
    text = scaling_table.markdown(rows, notes)
    assert "| rednet26 | DDP | 4 | 2 | 155.40 | 55.40 | 55.40 | 55.4 | 206 | 64.3% |" in text
    assert "- Step on one device: rednet26, 100 ms for 8 images, as given." in text
    assert "Predicted, not measured" in text
    write_csv(tmp_path / "scale.csv", rows)
