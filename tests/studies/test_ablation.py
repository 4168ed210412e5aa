"""Ablation studies: the paper's costs, study files, and what is said of an axis."""

import csv

import pytest
from scipy.stats import f_oneway

from involution.studies import ablation_table, plots
from involution.studies.ablation import load_study, parse_settings, study_path
from involution.studies.ablation_table import separation
from involution.studies.errors import StudyError
from involution.studies.origin import write_csv

# millions of parameters and thousand millions of multiply-adds of RedNet-50, counted by running the authors' code
COSTS = {
    "kernel size": {"3": (14.745, 2.463), "5": (15.064, 2.536), "7": (15.541, 2.646), "9": (16.177, 2.793)},
    "group channels": {"1": (30.158, 5.034), "4": (18.464, 3.124), "16": (15.541, 2.646), "C": (14.613, 2.505)},
    "generator": {
        "linear": (18.113, 3.069),
        "r=1": (19.379, 3.288),
        "r=2": (16.820, 2.860),
        "r=4": (15.541, 2.646),
        "r=8": (14.901, 2.540),
        "r=16": (14.581, 2.486),
    },
}
TINY = """
title: tiny
recipe: digits
settings:
  model.name: rednet_nano
  model.args.layers: [1, 1]
  model.args.kernel_size: 3
  data.image_size: 8
axes:
  kernel: {model.args.kernel_size: [3, 5]}
"""


def study_of(tmp_path, text=TINY):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return load_study(path)


@pytest.fixture(scope="module")
def paper():
    return load_study("paper")


def test_costs_of_the_paper(paper):
    found = {}
    for row in ablation_table.rows(paper, {}):
        cost = round(row["cost_parameters"] / 1e6, 3), round(row["cost_macs"] / 1e9, 3)
        found.setdefault(row["axis"], {})[row["setting"]] = cost
        # published is the network as it is, and no other
        assert ("published_top1" in row) == row["base"]
    # more than the paper has
    assert found["kernel size"].pop("11") > (16.177, 2.793)
    assert found == COSTS


def test_what_several_axes_share_is_trained_once(paper):
    runs = paper.runs()
    assert len({run.name for run in runs}) == len(runs) == 3 * (5 + 3 + 5)
    assert [run.name for run in runs if run.name.startswith("base")] == ["base-seed0", "base-seed1", "base-seed2"]
    # a study that is stopped has something of each setting
    assert {run.config.seed for run in runs[:13]} == {0}
    args = {run.name: run.config.model.args for run in runs}
    assert args["kernel_size=11-seed1"]["kernel_size"] == 11
    assert args["groups=1-seed0"] == {**args["base-seed0"], "groups": 1}


def test_an_axis_takes_all_combinations(tmp_path):
    text = TINY.replace("[3, 5]}", "[3, 5], optimizer.lr: {low: 0.001, high: 0.01}}")
    points = study_of(tmp_path, text).axes["kernel"]
    assert [point.label for point in points] == [
        "kernel_size 3, lr low",
        "kernel_size 3, lr high",
        "kernel_size 5, lr low",
        "kernel_size 5, lr high",
    ]
    assert points[3].settings == {"model.args.kernel_size": 5, "optimizer.lr": 0.01}


def test_names_of_runs_stay_apart(tmp_path):
    text = TINY.replace("{model.args.kernel_size: [3, 5]}", '{data.spec: ["imagefolder:a/b", "imagefolder:ab"]}')
    first, second = (run.name for run in study_of(tmp_path, text).changed(seeds=1).runs())
    assert first != second
    assert "/" not in first + second


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{model.args.kernel_size: [3, 5]}", "{model.arg.kernel_size: [3, 5]}", "did you mean model.args.kernel_size"),
        ("{model.args.kernel_size: [3, 5]}", "{kernel: [3, 5]}", "axis 'kernel': no setting named 'kernel'"),
        ("[3, 5]}", "[3, five]}", "axis 'kernel', five: kernel_size must be an int .* got 'five'"),
        ("kernel_size: [3, 5]}", "kernl_size: [3, 5]}", "unexpected keyword argument 'kernl_size'"),
        ("kernel_size: [3, 5]}", "group_channels: [16, 7]}", "16 channels can't be divided by group_channels=7"),
        (
            "{model.args.kernel_size: [3, 5]}",
            "{trainer.epochs: [1, 0]}",
            "0: trainer.epochs must be from 1 to 1000000, got 0",
        ),
        ("{model.args.kernel_size: [3, 5]}", "{seed: [1, 2]}", "seed is set by the study itself"),
        ("[3, 5]}", "[3]}", "two values or more to compare, got 1"),
        ("[3, 5]}", "[3, 3]}", r"axis 'kernel', model.args.kernel_size: wanted each value once, got \[3, 3\]"),
        ("{model.args.kernel_size: [3, 5]}", "[{optimizer.lr: [0.1]}, {optimizer.momentum: [0.1]}]", "has '0.1' twice"),
        ("[3, 5]}", "3}", "wanted a list of values, or values by their labels, got 3"),
        ("axes:", "axis:", "unknown entry 'axis'; did you mean axes"),
        ("  kernel: {model.args.kernel_size: [3, 5]}", "  {}", "no axes"),
        ("recipe: digits", "recipe: digit", "no recipe named 'digit'"),
        ("title: tiny", "seeds: 0", "seeds must be from 1 to 1000, got 0"),
        ("title: tiny", "cost: {size: 3}", "cost: wanted model and optionally image_size, got size"),
        ("title: tiny", "title: [", "not valid YAML: .*study.yaml: line"),
        ("title: tiny", "title: !!python/name:os.system", "no values of the kind os.system"),
        ("title: tiny", f"title: {'[' * 40}{']' * 40}", "nested deeper than 32 levels"),
        ("title: tiny", "title: a\ntitle: b", "title appears twice"),
        ("title: tiny", "title: a\0b", "not valid YAML: .*control characters are not allowed"),
        ("title: tiny", "seeds: .nan", "not a finite number"),
        ("title: tiny", "seeds: [1]", r"seeds must be from 1 to 1000, got \[1\]"),
        ("title: tiny", "seeds: 1000000000", "seeds must be from 1 to 1000, got 1000000000"),
        ("recipe: digits", "recipe: [digits]", "recipe: wanted the name of a recipe, got \\['digits'\\]"),
        ("{model.args.kernel_size: [3, 5]}", "{3: [3, 5]}", "no setting named '3'"),
        ("{model.args.kernel_size: [3, 5]}", "3", "axis 'kernel': wanted names with values, got 3"),
        (
            "{model.args.kernel_size: [3, 5]}",
            f"{{{', '.join(f'model.args.a{i}: {list(range(99))}' for i in range(5))}}}",
            "axis 'kernel' has more than 1000 combinations",
        ),
        ("data.image_size: 8", "data.image_sise: 8", "settings: no setting named .*; did you mean data.image_size"),
    ],
)
def test_wrong_studies(tmp_path, old, new, message):
    assert old in TINY
    with pytest.raises(StudyError, match=message):
        study_of(tmp_path, TINY.replace(old, new))


def test_a_study_that_is_not_there():
    with pytest.raises(
        StudyError, match=r"no study file papers \(packaged studies: paper, envelope\); did you mean paper"
    ):
        study_path("papers")


def test_a_cost_model_is_one_network(tmp_path):
    text = TINY.replace("{model.args.kernel_size: [3, 5]}", "{model.name: [rednet_nano, rednet_micro]}")
    assert [run.config.model.name for run in study_of(tmp_path, text).runs()[:2]] == ["rednet_nano", "rednet_micro"]
    with pytest.raises(StudyError, match=r"varies model.name: remove cost"):
        study_of(tmp_path, text + "cost: {model: rednet26}\n")


def test_changed(tmp_path):
    study = study_of(tmp_path)
    other = study.changed(
        data="imagefolder:x", settings=parse_settings(["trainer.epochs=2", "data.mean=[0.4]"]), seeds=5
    )
    config = other.runs()[0].config
    assert (config.data.spec, config.trainer.epochs, config.data.mean, other.seeds) == ("imagefolder:x", 2, (0.4,), 5)
    assert config.data.image_size == 8
    # another recipe takes the study's settings with it, save those that are varied
    config = study.changed(recipe="finetune").runs()[0].config
    assert (config.model.name, config.data.image_size, config.model.args) == ("rednet50", 224, {"kernel_size": 3})
    with pytest.raises(StudyError, match=r"no setting named 'trainer.epoch'; did you mean trainer.epochs"):
        study.changed(settings={"trainer.epoch": 2})
    with pytest.raises(StudyError, match=r"wanted KEY=VALUE .* got 'epochs'"):
        parse_settings(["epochs"])


def test_separation():
    seeds = {"3": [70.0, 71.0, 72.0], "5": [75.0, 77.0, 76.0, 74.0], "7": [80.0, 79.0, 81.0]}
    apart = separation(seeds)
    assert apart.separates
    assert (apart.best, apart.worst) == (("7", 80.0), ("3", 71.0))
    # deviations from the means squared: 2 + 5 + 2, of 10 values in 3 groups
    assert apart.deviation == pytest.approx((9 / 7) ** 0.5)
    assert apart.p == pytest.approx(f_oneway(*seeds.values()).pvalue)
    assert str(apart).startswith("separates: best 7 (80.0 %), worst 3 (71.0 %), 9.0 points apart; standard deviation")
    noise = separation({"3": [70.0, 74.0, 72.0], "5": [73.0, 75.0, 74.0]})
    assert noise.separates is False
    # the means are further apart than the seeds, but of two seeds and four settings chance gives that
    assert noise.best[1] - noise.worst[1] > noise.deviation
    assert "does not separate" in str(noise)
    assert separation({"3": [70.0], "5": [80.0]}).separates is None
    assert separation({"3": [70.0, 71.0], "5": []}).separates is None
    # all at their ceiling
    assert separation({"3": [99.0, 99.0], "5": [99.0, 99.0]}).separates is False
    assert separation({"3": [98.0, 98.0], "5": [99.0, 99.0]}).separates is True


def record(top1, **more):
    return {"top1": top1, "classes": 10, "images": 1197, "split": "test", "train_seconds": 10.0, **more}


@pytest.fixture
def measured(tmp_path):
    study = study_of(tmp_path).changed(seeds=2)
    records = {
        "base-seed0": record(0.70),
        "base-seed1": record(0.72),
        "kernel_size=5-seed0": record(0.80),
        "kernel_size=5-seed1": {"diverged": "the loss became nan"},
    }
    return study, ablation_table.rows(study, records)


def test_table_of_what_was_measured(measured, tmp_path):
    study, rows = measured
    assert [row["accuracy_mean"] for row in rows] == [71.0, 80.0]
    assert rows[0]["accuracy_std"] == pytest.approx(2**0.5, abs=1e-3)
    assert rows[0]["parameters"] < rows[1]["parameters"]
    text = ablation_table.markdown(study, rows)
    assert "| kernel | 3 (base) |" in text
    assert "| 71.0 ± 1.4 | 2 |" in text
    assert "| 80.0 (1 diverged) | 1 |" in text
    assert "- kernel: separates: best 5 (80.0 %), worst 3 (71.0 %)" in text or "- kernel: does not separate" in text
    write_csv(tmp_path / "ablate.csv", rows)
    with (tmp_path / "ablate.csv").open(encoding="utf-8") as file:
        assert [row["accuracies"] for row in csv.DictReader(file)] == ["70.000 72.000", "80.000"]


def test_plot_of_what_was_measured(measured, tmp_path):
    study, rows = measured
    figure = plots.ablation_figure(rows, ablation_table.separations(rows))
    assert len(figure.axes) == 2
    assert [axis.get_xlabel() for axis in figure.axes] == ["parameters, thousand", "multiply-adds of an image, M"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["3", "5"]
    assert figure.axes[0].get_title(loc="left").startswith("kernel: ")
    plots.save(figure, tmp_path / "ablate.png")
    assert plots.ablation_figure(ablation_table.rows(study, {}), {}) is None


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(StudyError, match="more than 20,000 values"):
        study_of(tmp_path, "\n".join(lines))


def test_settings_from_words():
    assert parse_settings(["trainer.epochs=3", "model.args.layers=[1, 1]"]) == {
        "trainer.epochs": 3,
        "model.args.layers": [1, 1],
    }
    for word in ("a=[", "a=.nan", "a=!!python/name:os.system"):
        with pytest.raises(StudyError, match="the value is not valid YAML"):
            parse_settings([word])
