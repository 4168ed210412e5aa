"""What shows a run's figures besides its metrics.csv: TensorBoard, Weights & Biases or MLflow."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from involution.data.addresses import is_remote
from involution.engine.config import RunConfig
from involution.engine.settings import ConfigError
from involution.extras import require

# a project of Weights & Biases, an experiment of MLflow
_PROJECT = "involution"


def check_logger(config: RunConfig) -> None:
    """Raise `MissingExtra` for a logger that is not installed."""
    if config.logger in ("wandb", "mlflow"):
        require(config.logger)


def make_logger(config: RunConfig, run_dir: Path, logged_as: str | None) -> Any:
    """Lightning's logger of a run; False for none.

    Args:
        config: the settings.
        run_dir: the run's folder.
        logged_as: what `name_run` returned for the run that is resumed.
    """
    kind, _, key = (logged_as or "").partition(":")
    before = key if kind == config.logger else None
    if config.logger == "tensorboard":
        from lightning.pytorch.loggers import TensorBoardLogger

        return TensorBoardLogger(str(run_dir), name="", version="tensorboard")
    if config.logger == "wandb":
        from lightning.pytorch.loggers import WandbLogger

        project = os.environ.get("WANDB_PROJECT", _PROJECT)
        # at an address it keeps nothing but what its own service has
        folder = tempfile.gettempdir() if is_remote(run_dir) else run_dir
        return WandbLogger(config.name, folder, version=before, project=project)
    if config.logger == "mlflow":
        import mlflow
        from lightning.pytorch.loggers import MLFlowLogger

        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        with _told("mlflow"):
            # where MLflow itself would keep it, not in Lightning's old place
            return MLFlowLogger(experiment, config.name, tracking_uri=mlflow.get_tracking_uri(), run_id=before)
    return False


def name_run(config: RunConfig, logger: Any, logged_as: str | None) -> str | None:
    """What a logger calls the run, to resume it there; a new run gets the settings."""
    if config.logger not in ("wandb", "mlflow"):
        return None
    with _told(config.logger):
        name = f"{config.logger}:{logger.version}"
        if name != logged_as:
            # a run keeps the settings that it began with
            logger.log_hyperparams(config.to_dict())
        # of a run that begins it is known by now
        return f"{config.logger}:{logger.version}"


def close_logger(config: RunConfig) -> None:
    """End the run of a logger that would add the next training of this process to it."""
    if config.logger == "wandb":
        import wandb

        wandb.finish()


@contextmanager
def _told(name: str) -> Iterator[None]:
    """A service that can't be used, because nobody is logged in or no server answers, is a setting that is wrong."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] != name:
            raise
        raise ConfigError(f"--logger {name} can't be used: {' '.join(str(error).split())[:300]}") from error
