"""Every figure in the sentences of README and of the site is traced to a file; those of results are compared."""

import csv
import importlib
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = {str(page.relative_to(ROOT)): page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
# tables are generated (test_tables.py); code, addresses, formulas and versions are no figures
VERSION = (
    r"\b(?:Python|PyTorch|[Tt]orch(?: from)?|ONNX Runtime|onnxruntime|OpenVINO|glibc|version|Apache)[ -]\d[\d.]*\d"
)
OTHERS = r"<!-- table: .*?<!-- end -->|^```.*?^```|^    .*?$|^\|.*?$|\(http[^)]*\)|`[^`\n]*`|\{\{.*?\}\}"
UNITS = "%|ms|s|MB|GB|GB/s|dB|points|times|images/s|µs|hours|minutes|seconds|million"
FIGURE = rf"(?<![\w./])\d[\d,]*(?:\.\d+)?\s?(?:{UNITS})(?!\w)|(?<![\w.])\d[\d,]*\.\d+(?!\w)"


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# what was measured once, by hand, is in files of results of its own
NOTES = [row for path in sorted(RESULTS.glob("notes_*.csv")) for row in rows(path)]
TRACED = rows(ROOT / "docs" / "figures.csv")


def sentences(page):
    text = " ".join(re.sub(OTHERS, " ", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE).split())
    return re.sub(VERSION, "", text)


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_is_traced(name):
    text = sentences(PAGES[name])
    known = [row["text"] for row in (*TRACED, *NOTES) if row["page"] == name]
    assert [part for part in known if part not in text] == [], "these are no longer there: remove or change their rows"
    for part in known:
        text = text.replace(part, " … ")
    where = "say where it comes from in docs/figures.csv, or add it to benchmarks/results/notes_*.csv"
    assert [text[max(0, found.start() - 40) : found.end() + 20] for found in re.finditer(FIGURE, text)] == [], where


def test_every_source_is_there():
    assert [row["source"] for row in TRACED if not (ROOT / row["source"]).exists()] == []
    assert all(row["how"] and row["date"] and row["device"] for row in NOTES)
    assert {row["page"] for row in (*TRACED, *NOTES)} <= set(PAGES)


@pytest.fixture(scope="module")
def results():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        yield importlib.import_module("results")


def figures(page, start):
    """The numbers of the traced sentence of a page that begins so."""
    (text,) = (row["text"] for row in TRACED if row["page"] == page and row["text"].startswith(start))
    return [float(number) for number in re.findall(r"(?<![-\w])\d+(?:\.\d+)?", text)]


def test_whole_networks(results):
    cpu = {(row["measure"], row.get("candidate"), row.get("batch")): row for row in results.rows("cpu")}
    ratios = [round(cpu["inference", name, 1]["p50_ratio"], 2) for name in ("RedNet-50", "RedNet-50, folded")]
    assert figures("docs/guides/deployment.md", "from 0.84 to") == ratios
    gpu = {(row["measure"], row.get("candidate"), row.get("batch")): row for row in results.rows("gpu", results.GPU)}
    found = [round(gpu[measure, "RedNet-50, fused", 256]["p50_ratio"], 1) for measure in ("inference", "training")]
    assert figures("docs/faq.md", "it takes 1.2 times") == found


def test_what_the_loops_allow():
    shares = {"14": [], "7": [], "": []}
    for row in rows(RESULTS / "mca_skylake-avx512.csv"):
        of_forward = row["kernel"] == "forward, taps innermost" and row["tile"].startswith("7 taps, stride 1, ")
        if of_forward or row["kernel"] == "generation":
            targets = row["tile"].split(", ")[2].split()[0] if of_forward else ""
            shares[targets].append(round(float(row["share_of_peak"]), 2))
    wanted = [*(bound(shares[size]) for size in ("14", "7") for bound in (min, max)), *shares[""]]
    assert [one for one in figures("docs/kernels.md", "reaches 0.77") if one < 1] == wanted


def test_memory_of_a_training_step(results):
    rows = {r["candidate"]: r for r in results.rows("cpu", results.WITHOUT_AVX512) if r["measure"] == "training memory"}
    names = "RedNet-50, selective checkpointing", "ResNet-50", "RedNet-50"
    selective, resnet, rednet = (rows[name] for name in names)
    held = [round(row["peak_bytes"] / 1e6, 1) for row in (selective, resnet)]
    ratios = [round(row["p50_ratio"], 2) for row in (selective, rednet)]
    text = figures("docs/measured.md", "1,920.6 MB")
    assert [1000 * text[0] + text[1], 1000 * text[2] + text[3]] == held
    assert text[4:] == ratios


def test_the_neck(results):
    neck = {(row["measure"], row["candidate"]): row for row in results.detectors("neck")}
    assert figures("docs/faq.md", "this takes") == [round(neck["forward", "map, then unfold"]["peak_bytes"] / 1e9)]
    assert figures("docs/faq.md", "here it takes") == [round(neck["forward", "involution"]["peak_bytes"] / 1e6)]
    both = [round(neck["forward+backward", name]["p50_ms"]) for name in ("involution", "map, then involution")]
    assert figures("docs/kernels.md", "466 ms") == both


def test_the_first_stage_on_a_gpu(results):
    found = {
        (row["measure"], row["candidate"]): round(row["p50_ms"], 2)
        for row in results.rows("gpu", results.GPU)
        if row.get("dtype") == "bfloat16" and row["layer"] == "stage 1" and row["batch"] == 256 and "p50_ms" in row
    }
    names = ("fused", "fused, Triton")
    wanted = [found[measure, name] for name in names for measure in ("forward", "backward")]
    assert figures("docs/kernels.md", "take 0.19 and") == wanted
    unfold = [round(found[measure, "unfold"], 1) for measure in ("forward", "backward")]
    assert figures("docs/kernels.md", "26.2 and") == unfold


def test_trainings(results):
    found = {
        (row["what"].split(",")[0], row["twin"], row["measure"]): row["value"]
        for row in results.rows("training")
        if "DETR" not in row["what"]
    }
    detect = [found["detect digits", False, measure] for measure in ("in all", "AP50")]
    assert figures("docs/guides/detection.md", "Faster R-CNN")[1:] == detect
    segment = [found["segment digits", False, measure] for measure in ("mean IoU", "training")]
    assert figures("docs/guides/segmentation.md", "81.1 %") == [segment[0], 17, segment[1]]
    twin = [found["segment digits", True, measure] for measure in ("mean IoU", "training")]
    assert figures("docs/guides/segmentation.md", "82.6 %") == twin


def test_ablations(results):
    from involution.studies.ablation_table import separations

    found = separations(results.rows("ablate")).values()
    spans = [round(axis.best[1] - axis.worst[1], 1) for axis in found]
    assert figures("docs/measured.md", "18.4, 14.2") == spans + [round(axis.deviation, 1) for axis in found]


def test_noisy_photographs(results):
    given = {row["test"]: (round(row["noisy_psnr"], 2), round(row["noisy_ssim"], 3)) for row in results.rows("photo")}
    assert figures("docs/measured.md", "21.05 dB") == [*given["flower"], *given["china"]]


def test_predictions_of_steps(results):
    found = [row for row in results.rows("scale") if "predicted_ms" in row]
    fsdp = [row for row in found if "FSDP" in row["candidate"]]
    with_cost = [round(100 * (1 - row["predicted_ratio"])) for row in fsdp]
    without = [round(100 * (1 - row["predicted_ratio"] / row["own_cost"])) for row in fsdp]
    ddp = max(abs(round(100 * (1 - row["predicted_ratio"]))) for row in found if row not in fsdp)
    assert figures("docs/measured.md", "21 to 43") == [min(without), max(without)]
    assert figures("docs/measured.md", "8 to 21") == [min(with_cost), max(with_cost), ddp]


def test_published_accuracies():
    from involution.studies.published import CLASSIFIERS

    red, twin = CLASSIFIERS["rednet50"], CLASSIFIERS["rednet50_conv"]
    wanted = [red.scores["top1_paper"], round(red.parameters, 1), twin.scores["top1"], twin.parameters]
    assert figures("docs/index.md", "78.4 %") == wanted
    red, twin = CLASSIFIERS["rednet152"], CLASSIFIERS["rednet152_conv"]
    wanted = [round(red.scores["top1"], 1), red.scores["top1_paper"], twin.scores["top1"]]
    assert figures("docs/index.md", "79.1 %") == wanted


def test_kernels_on_a_cpu(results):
    cpu = results.rows("cpu")

    def medians(measure, over, under, key="p50_ratio"):
        """Least and largest of the batches' medians over the layers."""
        found = [
            statistics.median(
                results.harness.ratios([row for row in cpu if row["batch"] == batch], measure, over, under, key)
            )
            for batch in (1, 8, 16)
        ]
        return [min(found), max(found)]

    fused, map_first = "fused", "span, then involution"
    wanted = [
        *medians("generation", fused, map_first),
        *medians("generation training", fused, map_first),
        *medians("generation training", fused, map_first, "peak_bytes"),
    ]
    assert figures("docs/kernels.md", "inference takes") == [round(value, 2) for value in wanted]
    half = [round(value, 2) for value in medians("forward", "bfloat16", "involution")]
    assert figures("docs/guides/deployment.md", "took 1.") == half
    of_map = [round(value, 1) for value in medians("gradients", "of map", "forward")]
    assert figures("docs/kernels.md", "takes 2.") == of_map
