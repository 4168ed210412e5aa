"""Loggers beside metrics.csv, by fakes: Weights & Biases and MLflow need not be installed."""

import sys
from types import ModuleType, SimpleNamespace

import lightning.pytorch.loggers
import pytest
from lightning.pytorch.loggers import CSVLogger

from involution.cli import main
from involution.engine import loggers, train
from involution.engine.callbacks import TrainingInterrupted
from involution.engine.checks import check_config
from involution.engine.config import ConfigError


@pytest.fixture
def service(monkeypatch):
    """What was asked of a service: its runs, their settings and their rows."""
    seen = SimpleNamespace(runs=[], settings=[], rows=[], finished=0)

    class Fake(CSVLogger):
        def __init__(self, *args, **options):
            super().__init__(".")
            self.run = options.get("version") or options.get("run_id") or f"run{len(seen.runs)}"
            seen.runs.append((self.run, args, options))

        @property
        def version(self):
            return self.run

        def log_hyperparams(self, params):
            seen.settings.append(params)

        def log_metrics(self, metrics, step=None):
            seen.rows.append((self.run, step, metrics))

        def save(self):
            pass

    wandb = ModuleType("wandb")
    wandb.__spec__ = SimpleNamespace()

    def finish():
        seen.finished += 1

    wandb.finish = finish
    mlflow = ModuleType("mlflow")
    mlflow.__spec__ = SimpleNamespace()
    mlflow.get_tracking_uri = lambda: "http://localhost:5000"
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setattr(loggers, "require", lambda *packages: None)
    monkeypatch.setattr(lightning.pytorch.loggers, "WandbLogger", Fake)
    monkeypatch.setattr(lightning.pytorch.loggers, "MLFlowLogger", Fake)
    return seen


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_service_gets_settings_and_a_row_an_epoch_also_of_a_resumed_run(make_config, service, press_ctrl_c, name):
    press_ctrl_c("training_step", 6)
    config = make_config(logger=name)
    with pytest.raises(TrainingInterrupted, match="interrupted") as stop:
        train(config, progress=False)
    result = train(config, progress=False, resume=stop.value.checkpoint)
    assert [run for run, _, _ in service.runs] == ["run0", "run0"]
    assert [(run, step, row["epoch"]) for run, step, row in service.rows] == [("run0", 4, 1), ("run0", 8, 2)]
    assert service.rows[1][2] == result.history[1]
    assert [settings["trainer"]["epochs"] for settings in service.settings] == [2]
    assert service.finished == (2 if name == "wandb" else 0)
    assert not (result.log_dir / "tensorboard").exists()
    assert (result.log_dir / "metrics.csv").is_file()


def test_services_are_told_where_by_their_environment(make_config, service, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_PROJECT", "trees")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "forest")
    loggers.make_logger(make_config(logger="wandb"), tmp_path, "mlflow:abc")
    assert service.runs[0][1:] == (("run", tmp_path), {"version": None, "project": "trees"})
    loggers.make_logger(make_config(logger="mlflow"), tmp_path, None)
    assert service.runs[1][1:] == (("forest", "run"), {"tracking_uri": "http://localhost:5000", "run_id": None})
    loggers.make_logger(make_config(logger="mlflow"), tmp_path, "mlflow:abc")
    assert service.runs[2][2] == {"tracking_uri": "http://localhost:5000", "run_id": "abc"}


def test_a_service_that_does_not_answer_is_told_in_one_line(make_config, service, monkeypatch):
    refusal = type("UsageError", (Exception,), {"__module__": "wandb.errors"})

    def refuse(self, params):
        raise refusal("api_key not configured (no-tty).\ncall wandb.login()")

    monkeypatch.setattr(lightning.pytorch.loggers.WandbLogger, "log_hyperparams", refuse)
    with pytest.raises(ConfigError, match=r"^--logger wandb can't be used: api_key not configured \(no-tty\)\. call"):
        train(make_config(logger="wandb"), progress=False)


def test_no_logger(make_config):
    result = train(make_config(logger="none", trainer__epochs=1), progress=False)
    files = {"best.ckpt", "last.ckpt", "metrics.csv", "data.json", ".involution-files.jsonl"}
    assert {file.name for file in result.log_dir.iterdir()} == files


def test_a_logger_that_is_unknown_or_missing(make_config, monkeypatch, capsys, tmp_path):
    config = make_config()
    config.logger = "neptune"
    with pytest.raises(ConfigError, match="logger must be one of tensorboard, wandb, mlflow, none, got 'neptune'"):
        check_config(config)
    monkeypatch.setitem(sys.modules, "wandb", None)
    words = ["classify", "train", "--recipe", "digits", "--output", str(tmp_path), "--logger", "wandb"]
    assert main(words) == 2
    assert capsys.readouterr().err == 'involution: wandb is not installed; pip install "involution[wandb]"\n'
    assert list(tmp_path.iterdir()) == []
