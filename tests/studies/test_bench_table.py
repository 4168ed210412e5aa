"""The tables and the plot of a suite's rows."""

from involution.studies import bench_table, plots
from involution.studies.harness import Target, not_measured


def row(candidate, ratios, layer="stage 1", **more):
    p20, p50, p80 = ratios
    names = {"measure": "forward", "layer": layer, "batch": 8, "candidate": candidate, "base": "involution"}
    return {**names, "p20_ratio": p20, "p50_ratio": p50, "p80_ratio": p80, **more}


def test_ratios_are_medians_over_the_layers():
    rows = [
        row("involution", (1, 1, 1)),
        row("unfold", (1, 2, 3)),
        row("unfold", (4, 5, 9), "stage 2"),
        row("unfold", (5, 6, 7), "stage 3"),
        row("forward", (1, 1, 1), limit_fraction=0.5),
    ]
    assert bench_table.ratio_table(rows).rows == [
        ["forward", "unfold", "involution", "8", "5.00 (4.00–7.00)", "2.00–6.00"]
    ]


def test_rows_of_a_gpu():
    rows = [
        {"measure": "copy", "layer": "", "candidate": "copy", "gb_per_s": 4000.0},
        row("involution", (1, 1, 1), dtype="bfloat16", copy_fraction=0.7),
        row("unfold", (30, 31, 32), dtype="bfloat16"),
        row("unfold", (10, 11, 12), dtype="float32"),
        {"measure": "forward", "layer": "stage 1", "batch": 8, "dtype": "float32", "candidate": "x", "note": "failed"},
        not_measured("networks", "no time left"),
    ]
    assert bench_table.limits(rows) == [
        bench_table.Limit("a copy's memory bandwidth, forward", "stage 1", "involution", 0.7)
    ]
    assert [cells[0] for cells in bench_table.ratio_table(rows).rows] == ["forward bfloat16", "forward float32"]
    assert "- networks: not measured, no time left" in bench_table.markdown(rows, "gpu")
    assert plots.limits_figure([], "") is None


def test_measurements_that_differ_in_more_than_the_layer_are_told_apart():
    rows = [row("unfold", (1, 2, 3), memory_format=order) for order in ("channels_last", "contiguous")]
    rows += [row("unfold", (1, 2, 3), "", family=family) for family in ("retinanet", "neck")]
    names = ["forward channels_last", "forward contiguous", "retinanet forward", "neck forward"]
    assert [cells[0] for cells in bench_table.ratio_table(rows).rows] == names


def test_shares_of_a_cpus_limits(tmp_path):
    of = {"limit_fraction": 0.5, "layer": "stage 1"}
    rows = [
        {**of, "measure": "one thread", "batch": 1, "candidate": "matrix product"},
        {**of, "measure": "one thread", "batch": 1, "candidate": "of map", "limit_fraction": 0.25},
        {**of, "measure": "memory", "batch": 8, "candidate": "copy"},
        {**of, "measure": "memory", "batch": 8, "candidate": "forward"},
    ]
    matrix, copy = "one core's matrix product, batch 1", "a copy's memory bandwidth, batch 8"
    some = bench_table.limits(rows)
    assert some == [
        bench_table.Limit(matrix, "stage 1", "gradient of kernels", 0.25),
        bench_table.Limit(copy, "stage 1", "forward", 0.5),
    ]
    assert bench_table.limit_table(some).rows == [
        [matrix, "gradient of kernels", "25%"],
        [copy, "forward", "50%"],
    ]
    figure = plots.limits_figure(some, "a machine")
    assert [axis.get_title(loc="left") for axis in figure.axes] == [f"share of {matrix}", f"share of {copy}"]
    assert [[bar.get_width() for bar in axis.patches] for axis in figure.axes] == [[0.25], [0.5]]
    plots.save(figure, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_targets():
    table = bench_table.target_table([Target("a ÷ b", "≥ 2", 1.5, False), Target("b", "≤ 1", 0.5, True)])
    assert table.rows == [["a ÷ b", "≥ 2", "1.5", "missed"], ["b", "≤ 1", "0.5", "met"]]
