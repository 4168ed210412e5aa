"""The tables of measured figures that README and the site show, from the files of results."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from involution.studies import (
    ablation,
    ablation_table,
    bench_table,
    cost_table,
    growth_table,
    harness,
    origin,
    scaling_table,
    suites,
)
from involution.studies.envelope import table as envelope_table
from involution.studies.photo import table as photo_table
from involution.studies.scaling import Cluster, Link
from involution.studies.tables import Table, spread

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
# whose results are shown
MACHINE = "amd-epyc-avx512_torch2.14.1"
GPU = "nvidia-h100-80gb-hbm3-cuda_torch2.11.0"
# from whose step a cluster's is predicted
CLUSTER_GPU = "nvidia-h200-cuda_torch2.11.0"
OTHER_CPU = "intel-xeon-avx512_torch2.11.0"
WITHOUT_AVX512 = "amd-epyc-avx2_torch2.14.1"
FAMILIES = {"retinanet": "RetinaNet", "faster_rcnn": "Faster R-CNN", "mask_rcnn": "Mask R-CNN"}


def tables() -> dict[str, str]:
    """Return each table of the page of measured figures, in Markdown, by the name that it has there."""
    operator = rows("cpu")
    cost = cost_table.table(rows("cost"))
    targets = suites.load("cpu").targets(operator)
    found = {
        "measured_short": short(),
        "measured_ratios": bench_table.ratio_table(operator),
        "measured_limits": bench_table.limit_table(bench_table.limits(operator)),
        "measured_layers": _layers(operator),
        "measured_targets": bench_table.target_table(targets),
        "measured_count": _columns(cost, "Counted and published", range(7)),
        "measured_time": _columns(cost, "Measured", (0, 8, 9, 10, 11)),
        "measured_neck": _detection("neck", "The neck's finest level"),
        **{f"measured_{family}": _detection(family, title) for family, title in FAMILIES.items()},
        "measured_gpu_layers": _gpu_layers(),
        "measured_gpu_networks": _networks(
            rows("gpu", GPU), "Networks on an NVIDIA H100, bfloat16", _GPU_MEASURES, ",.2f"
        ),
        "measured_gpu_targets": bench_table.target_table(suites.load("gpu").targets(rows("gpu", GPU))),
        "measured_intel": _networks(rows("cpu", OTHER_CPU), "Networks on an Intel Xeon (model 207), 2 threads"),
        "measured_avx2": _networks(rows("cpu", WITHOUT_AVX512), "Networks on an AMD EPYC of Zen 3, 2 threads"),
        "measured_avx2_limits": bench_table.limit_table(bench_table.limits(rows("cpu", WITHOUT_AVX512))),
        "measured_avx2_targets": bench_table.target_table(suites.load("cpu").targets(rows("cpu", WITHOUT_AVX512))),
        "measured_deployment_avx2": _deployment(_with_detectors(WITHOUT_AVX512)),
        "measured_deployment_avx2_targets": bench_table.target_table(
            suites.load("deployment").targets(rows("deployment", WITHOUT_AVX512))
        ),
        "measured_deployment": _deployment(_with_detectors(MACHINE)),
        "measured_deployment_targets": bench_table.target_table(suites.load("deployment").targets(rows("deployment"))),
        "measured_serving": _serving(rows("serving", WITHOUT_AVX512)),
        "measured_serving_targets": bench_table.target_table(
            suites.load("serving").targets(rows("serving", WITHOUT_AVX512))
        ),
        "measured_growth": _growth(),
        "measured_scale": _scale(rows("scale")),
        "measured_scale_links": _scale_links(rows("scale")),
        "measured_scale_check": _scale_check(rows("scale")),
        "measured_scale_predicted": _scale_predicted(),
        "measured_photo_time": photo_table.time_table(rows("photo")),
        "measured_photo": photo_table.psnr_table(rows("photo")),
        "measured_envelope": envelope_table.accuracy_table(rows("envelope")),
        "measured_envelope_gains": envelope_table.gain_table(rows("envelope")),
        "measured_training": training(),
        "measured_ablate": ablation_table.table(ablation.load_study("paper"), rows("ablate")),
    }
    notes = "\n".join(f"- {line}" for line in photo_table.leads(rows("photo")))
    return {name: table.markdown() for name, table in found.items()} | {"measured_photo_leads": notes}


def rows(study: str, machine: str = MACHINE) -> list[dict[str, Any]]:
    """Return the rows of a study's results on a machine."""
    return origin.read_csv(RESULTS / f"{study}_{machine}.csv")


def bare(table: Table) -> str:
    """Return a table in Markdown without its title."""
    text = table.markdown()
    return text[text.index("|") :].strip()


def training() -> Table:
    """Return what trainings on the built-in data came to, RedNets beside their twins."""
    found = rows("training")
    cells = []
    for what, command in dict.fromkeys((row["what"], row["command"]) for row in found):
        some = [row for row in found if row["what"] == what]
        seeds = some[0]["seeds"]
        line = [what, f"`{command}`" if command.startswith("involution") else command, str(seeds)]
        for twin in (False, True):
            line.append(", ".join(_figure(row) for row in some if row["twin"] == twin))
        cells.append(line)
    return Table("Training runs", ["what", "command", "seeds", "RedNet", "convolution twin"], cells, labels=5)


def _figure(row: dict[str, Any]) -> str:
    spread = f" ± {row['deviation']:{row['form']}}" if "deviation" in row else ""
    return f"{row['measure']} {row['value']:{row['form']}}{spread}{row.get('unit', '')}"


def _columns(table: Table, title: str, chosen: Sequence[int]) -> Table:
    """Return some columns of a table that is too wide for a page."""
    header, *cells = ([row[column] for column in chosen] for row in (table.header, *table.rows))
    return Table(title, header, cells, table.labels)


_SHORT = {
    "RedNet-50 ÷ ResNet-50, inference, batch norms folded": ("inference", "RedNet-50, folded", "ResNet-50, folded"),
    "RedNet-50 ÷ ResNet-50, training step": ("training", "RedNet-50", "ResNet-50"),
    "RedNet-50 by unfold ÷ ResNet-50, inference": ("inference", "RedNet-50 by unfold", "ResNet-50, folded"),
    "unfold ÷ involution, forward": ("forward", "unfold", "involution"),
    "unfold ÷ involution, forward and backward": ("forward+backward", "unfold", "involution"),
    "depthwise 7×7 convolution ÷ involution, forward": ("forward", "depthwise 7×7", "involution"),
}
_SHORT_MEMORY = {
    "peak memory of unfold ÷ involution, forward": ("forward", "unfold", "involution"),
    "peak memory of unfold ÷ involution, forward and backward": ("forward+backward", "unfold", "involution"),
}


def short() -> Table:
    """Return the figures that matter most: networks and the operator over their bases."""
    timed = rows("cpu")
    held = [row for row in rows("operator") if row["memory_format"] == "channels_last"]
    batches = sorted({row["batch"] for row in timed})
    cells = []
    for chosen, found, key in ((_SHORT, timed, "p50_ratio"), (_SHORT_MEMORY, held, "peak_bytes")):
        for title, which in chosen.items():
            at = [harness.ratios([row for row in found if row["batch"] == n], *which, key) for n in batches]
            cells.append([title, *(f"{statistics.median(ratios):.2f}" if ratios else "" for ratios in at)])
    return Table("Time ÷ time, and memory ÷ memory", ["", *(f"batch {batch}" for batch in batches)], cells)


def _growth() -> Table:
    if not (RESULTS / f"growth_{WITHOUT_AVX512}.csv").exists():
        return Table("Growth", ["not measured on this machine yet"], [])
    return growth_table.growth_table(rows("growth", WITHOUT_AVX512))


def _layers(found: list[dict[str, Any]]) -> Table:
    names = ("involution", "depthwise 7×7", "unfold")
    times = {
        (row["layer"], row["batch"], row["measure"], row["candidate"]): f"{row['p50_ms']:.2f}"
        for row in found
        if row["measure"] in ("forward", "forward+backward")
    }
    keys = dict.fromkeys((layer, batch) for layer, batch, *_ in times)
    cells = [
        [
            layer,
            str(batch),
            *(times[layer, batch, mode, name] for mode in ("forward", "forward+backward") for name in names),
        ]
        for layer, batch in sorted(keys, key=lambda key: key[1])
    ]
    header = ["layer", "batch", *(f"{mode}: {name}" for mode in ("forward", "with backward") for name in names)]
    return Table("RedNet-50's different involution layers, ms (median)", header, cells)


_GPU_CANDIDATES = (
    *("involution", "involution, Triton", "fused", "fused, Triton", "span, then involution"),
    *("unfold", "depthwise 7×7", "dense 3×3"),
)


def _gpu_layers() -> Table:
    found = {
        (row["measure"], row["layer"], row["candidate"]): row["p50_ms"]
        for row in rows("gpu", GPU)
        if row.get("dtype") == "bfloat16" and row["measure"] in ("forward", "backward")
    }
    cells = []
    for measure, layer in dict.fromkeys((measure, layer) for measure, layer, _ in found):
        of = {candidate: ms for (a, b, candidate), ms in found.items() if (a, b) == (measure, layer)}
        if measure == "backward":
            of["involution, Triton"] = of["of input, Triton"] + of["of map, Triton"]
        cells.append([measure, layer, *(f"{of[name]:.2f}" for name in _GPU_CANDIDATES)])
    header = ["", "layer", *_GPU_CANDIDATES]
    return Table("bfloat16 on an NVIDIA H100, batch 256 (FPN level: 2), ms (median)", header, cells, labels=2)


_GPU_MEASURES = (
    *("inference", "inference, compiled", "inference, optimised", "inference, CUDA graph"),
    *("training", "training, compiled"),
)


def _networks(
    found: list[dict[str, Any]],
    title: str,
    measures: Sequence[str] = ("inference", "training"),
    digits: str = ",.1f",
) -> Table:
    some = [row for row in found if row["measure"] in measures]
    cells = [
        [row["measure"], row["candidate"], str(row["batch"]), spread(row, "ms", digits), spread(row, "ratio", ".2f")]
        for row in some
    ]
    header = ["measure", "candidate", "batch", "ms (p20–p80)", f"÷ {some[0]['base'].split(',')[0]} (p20–p80)"]
    return Table(title, header, cells, labels=2)


def detectors(family: str) -> list[dict[str, Any]]:
    """Return the rows of a family of detectors, or of the neck: all of one run on one machine."""
    return [row for row in rows("detection", WITHOUT_AVX512) if row["family"] == family]


def _detection(family: str, title: str) -> Table:
    found = detectors(family)
    cells = [
        [
            row["measure"],
            row["candidate"],
            spread(row, "ms", ",.0f"),
            spread(row, "ratio", ".2f"),
            f"{row['peak_bytes'] / 1e6:,.0f}",
        ]
        for row in found
    ]
    header = ["measure", "candidate", "ms (p20–p80)", f"÷ {found[0]['base']} (p20–p80)", "peak memory, MB"]
    return Table(f"{title}, one image of 800×1344 pixels", header, cells, labels=2)


def _with_detectors(machine: str) -> list[dict[str, Any]]:
    """Return a machine's rows with the detectors' of a run of their own, which the whole suite hurries."""
    others = [row for row in rows("deployment", machine) if not row["measure"].startswith("Faster R-CNN")]
    return others + rows("deployment-detection", machine)


def _deployment(found: list[dict[str, Any]]) -> Table:
    measured = [row for row in found if "p50_ms" in row]
    ours = {
        (row["measure"], row["batch"], row["candidate"]): row["p50_ratio"] for row in measured if "p50_ratio" in row
    }
    cells = []
    for row in measured:
        name = row["candidate"].split(",")[0]
        library = ours.get((row["measure"], row["batch"], name)) if name != row["candidate"] else None
        # measures are such as "OpenVINO, 8 bits" and "Faster R-CNN, OpenVINO"; a runtime says its version instead
        bits = ", 8 bits" if row["measure"].endswith(", 8 bits") else ""
        detector = "Faster R-CNN, " if row["measure"].startswith("Faster R-CNN, ") else ""
        runtime = row["runtime"] + bits if "runtime" in row else row["measure"]
        cells.append(
            [
                *(runtime, detector + row["candidate"], str(row["batch"])),
                *(spread(row, "ms", ",.1f"), spread(row, "ratio", ".2f")),
                f"{row['p50_ratio'] / library:.2f}" if library else "",
                *(f"{row[key]:,.0f}" if key in row else "" for key in ("made_s", "megabytes")),
            ]
        )
    header = ["runtime", "network", "batch", "ms (p20–p80)", f"÷ {measured[0]['base']} (p20–p80)"]
    header += ["÷ this package's kernels", "s to write or compile", "MB"]
    return Table(f"Networks in their runtimes, {measured[0]['threads']} threads", header, cells, labels=3)


def _serving(found: list[dict[str, Any]]) -> Table:
    cells = [
        [
            row["candidate"],
            str(row["batch"]),
            *(f"{row[key]:,.1f}" for key in ("requests_s", "p50_ms", "p99_ms")),
            *(f"{row[key]:.2f}" if key in row else "" for key in ("of_predictor", "p99_over_predictor")),
            str(row.get("processes", "")),
        ]
        for row in found
        if row["measure"] != "memory"
    ]
    header = ["server, or the predictor in this process", "clients, or images in a batch", "answers a second"]
    header += ["p50, ms", "p99, ms", "÷ the predictor's best throughput", "p99 ÷ the predictor's time for one"]
    return Table("RedNet-50 served, 2 threads", [*header, "processes"], cells, labels=1)


def _scale(found: list[dict[str, Any]]) -> Table:
    cells = [
        [
            row["layer"],
            str(row["processes"]),
            row["candidate"],
            spread(row, "ms", ",.0f"),
            f"{row['images_per_s']:.2f}",
            f"{row['efficiency']:.0%}",
            f"{row['core_efficiency']:.0%}",
            f"{row['counted_bytes'] / 1e6:.2f}" if "counted_bytes" in row else "",
            f"{row['sent_bytes'] / 1e6:.2f}" if "counted_bytes" in row else "",
        ]
        for row in found
        if row["measure"].startswith("step")
    ]
    header = ["network", "processes", "", "step, ms (p20–p80)", "images/s", "efficiency", "of what cores allow"]
    header += ["counted, MB a process", "sent, MB a process"]
    return Table(f"Training steps, {found[0]['batch']} images a process, {found[0]['cores']} cores", header, cells, 3)


def _scale_links(found: list[dict[str, Any]]) -> Table:
    links = [row for row in found if row["measure"].startswith("link")]
    of = {(row["layer"], row["processes"], row["candidate"]): row["p50_ms"] for row in links}
    cells = []
    for row in links:
        least = of.get((row["layer"], row["processes"], f"{row['candidate']}, tiny"))
        if least is not None:
            cells.append(
                [
                    *(row["layer"], str(row["processes"]), row["candidate"]),
                    *(f"{row['message_bytes'] / 1e6:.1f}", spread(row, "ms", ".1f"), f"{least:.1f}"),
                ]
            )
    header = ["beside", "processes", "collective", "MB", "ms (p20–p80)", "ms of a few bytes"]
    return Table("Links: gloo on this machine", header, cells, labels=3)


def _scale_check(found: list[dict[str, Any]]) -> Table:
    cells = []
    for row in found:
        if "predicted_ms" in row:
            cells.append(
                [
                    *(row["layer"], str(row["processes"]), row["candidate"]),
                    *(f"{row['own_cost']:.2f}", f"{row['p50_ms']:,.0f}"),
                    *(f"{row['predicted_ms']:,.0f}", f"{row['predicted_ratio'] - 1:+.0%}"),
                    *(f"{row['predicted_from_one_ms']:,.0f}", f"{row['predicted_from_one_ratio'] - 1:+.0%}"),
                ]
            )
    header = [
        "network",
        "processes",
        "",
        "own cost",
        "measured, ms",
        "predicted, ms",
        "error",
        "from one process, ms",
        "error",
    ]
    return Table("The formula against what was measured", header, cells, labels=3)


def _scale_predicted() -> Table:
    file = RESULTS / f"gpu_{CLUSTER_GPU}.csv"
    seconds, batch, _ = scaling_table.measured_step(file, "rednet50", None)
    # what `involution cost --scale` has as defaults
    cluster = Cluster(Link(450e9, 2e-6), Link(50e9, 10e-6), 8)
    work = scaling_table.work_of("rednet50", seconds, backward=0.67)
    options = {"overlap": 1.0, "bucket_bytes": 25 * 2**20}
    found = scaling_table.rows("rednet50", work, batch, scaling_table.DEVICES, ["ddp", "fsdp"], cluster, **options)
    return scaling_table.table(found)
