"""The tables of the guides: what settings and networks cost, and what was published of them.

``python docs/guides.py`` counts the published detectors and segmenters again.
"""

from typing import Any

import results

from involution.models import weights
from involution.studies import origin
from involution.studies.cost import published_networks
from involution.studies.published import DETECTORS, RESNET50, SEGMENTERS
from involution.studies.tables import Table

_FAMILIES = {"coco-retinanet": "RetinaNet", "coco-faster-rcnn": "Faster R-CNN", "coco-mask-rcnn": "Mask R-CNN"}
_NECKS = {"": "convolution neck", "-involution-neck": "involution neck"}
_NECKS_AND_HEAD = {**_NECKS, "-involution-neck-head": "involution neck and head"}
_SEGMENTERS = {"cityscapes-semantic-fpn": "Semantic FPN", "cityscapes-upernet": "UPerNet"}


def tables() -> dict[str, str]:
    """Return each table of the guides, in Markdown, by the name that it has there."""
    found = {
        f"operator_{axis.replace(' ', '_')}": _setting(axis) for axis in ("kernel size", "group channels", "generator")
    }
    found |= {
        "weights": _weights(),
        "deployment_expand": _expanded(),
        "detection_published": _published(_FAMILIES, _NECKS_AND_HEAD, DETECTORS),
        "detection_parameters": _parameters(),
        "detection_macs": _macs(),
        "segmentation_published": _published(_SEGMENTERS, _NECKS, SEGMENTERS),
        "segmentation_counted": _segmenters(),
    }
    return {name: results.bare(table) for name, table in found.items()}


def _setting(axis: str) -> Table:
    rows = [row for row in results.rows("ablate") if row["axis"] == axis]
    cells = [
        [name, *(f"{row[key] / scale:.3f}" for row in rows)]
        for name, key, scale in (("parameters", "cost_parameters", 1e6), ("multiply-adds", "cost_macs", 1e9))
    ]
    return Table(axis, [axis, *(row["setting"] for row in rows)], cells)


def _weights() -> Table:
    cells = [
        [
            f"`{entry.model}`",
            f"{entry.parameters / 1e6:.1f} million",
            *(", ".join(f"{figure:.2f}" for figure in entry.figures[who]) for who in ("authors", "PaddleClas")),
        ]
        for entry in weights.PUBLISHED
    ]
    header = ["name", "parameters", "top-1, top-5 by the authors (%)", "by PaddleClas, of these files (%)"]
    return Table("Weights", header, cells)


def _expanded() -> Table:
    rows = results.rows("expand")
    runtimes = list(dict.fromkeys(row["runtime"] for row in rows))
    by = {(row["form"], row["runtime"]): row for row in rows}
    cells = [
        [form, *(_range(by[form, runtime]) if (form, runtime) in by else "–" for runtime in runtimes)]
        for form in dict.fromkeys(row["form"] for row in rows)
    ]
    return Table("Standard operators", ["", *runtimes], cells)


def _range(row: dict[str, Any]) -> str:
    ends = dict.fromkeys(f"{row[key]:.{row['digits']}f}" for key in ("least_ratio", "most_ratio"))
    return " to ".join(ends)


def _published(networks: dict[str, str], necks: dict[str, str], found: dict[str, Any]) -> Table:
    cells = [
        [
            title,
            *(_scores(found[name + neck].scores) if name + neck in found else "" for neck in necks),
            _scores(RESNET50[name]),
        ]
        for name, title in networks.items()
    ]
    return Table("Published", ["", *necks.values(), "ResNet-50"], cells)


def _scores(scores: dict[str, float]) -> str:
    first, *others = (f"{value:.1f}" for value in scores.values())
    return f"{first} ({', '.join(others)})" if others else first


def _parameters() -> Table:
    rows = {row["model"]: row["parameters"] for row in results.rows("cost-tasks")}
    cells = [
        [title, *(f"{rows[name + neck]:,}" if name + neck in rows else "" for neck in _NECKS_AND_HEAD)]
        for name, title in _FAMILIES.items()
    ]
    return Table("Parameters", ["", *_NECKS_AND_HEAD.values()], cells)


def _macs() -> Table:
    rows = {row["network"]: row for row in results.rows("cost-published")}
    cells = []
    for title in _FAMILIES.values():
        some = [rows.get(f"{title}, {neck}") for neck in _NECKS_AND_HEAD.values()]
        cells.append(
            [
                title,
                *(
                    f"{row['multiply_adds_g']:.1f} ({row['explained_g']:.1f}; {row['published_g']:.1f})" if row else ""
                    for row in some
                ),
            ]
        )
    return Table("Multiply-adds", ["", *_NECKS_AND_HEAD.values()], cells)


def _segmenters() -> Table:
    parameters = [row["parameters"] for row in results.rows("cost-tasks") if row["model"] in SEGMENTERS]
    counted = [row for row in results.rows("cost-published") if row["network"].startswith(tuple(_SEGMENTERS.values()))]
    cells = [
        [row["network"], f"{number:,}", f"{row['multiply_adds_g']:.1f}", f"{row['published_g']:.1f}"]
        for number, row in zip(parameters, counted, strict=True)
    ]
    return Table("Counted", ["", "parameters", "multiply-adds at 1024×2048, G", "published, G"], cells)


def _count() -> None:
    rows = [
        {
            "network": found.name,
            "height": found.size[0],
            "width": found.size[1],
            "multiply_adds_g": round(found.multiply_adds, 3),
            "authors_g": round(found.authors.total / 1e9, 3),
            "explained_g": round(found.explained, 3),
            "published_g": found.published,
            "left_out": found.left_out,
        }
        for found in published_networks()
    ]
    origin.write_csv(results.RESULTS / f"{origin.file_name('cost', 'published')}.csv", rows, replace=True)


if __name__ == "__main__":
    _count()
