"""The trainings of an ablation study, several at once: each leaves a record, and a stopped study goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from involution.data import registry
from involution.data.registry import Options
from involution.engine.tasks.classify.config import ClassifyConfig
from involution.studies import records, workers
from involution.studies.ablation import Run, Study
from involution.studies.errors import StudyError
from involution.studies.moved_digits import NAME as EMBEDDED
from involution.studies.moved_digits import make_moved_digits
from involution.studies.origin import provenance
from involution.studies.workers import do_all

# a run is the same wherever it lies and on whatever it is done
_NOT_COMPARED = ("name", "output", "seed", "devices", "trainer.accelerator", "data.workers")


def claim_folder(study: Study, folder: Path) -> None:
    """Make a study's folder, or find that it is this study's already.

    Axes and seeds may be others than before: what was trained for them counts where the run is the same.

    Raises:
        StudyError: If the folder holds anything else.
    """
    records.claim_folder(folder, _compared(study.config({})))


def open_data(study: Study, folder: Path) -> str:
    """Make the embedded data where the study has it, and see that the data can be read.

    Returns:
        The split that is measured: ``test``, or ``val`` where the data has no labelled test images.

    Raises:
        DataError: For a data set that can't be used.
    """
    config = _placed(study.config({}), folder)
    if study.config({}).data.spec == EMBEDDED:
        make_moved_digits(folder / EMBEDDED)
    data = registry.open_data("classify", config.data.spec, Options.of(config.data))
    return "val" if data.test is None else "test"


def read_record(run: Run, folder: Path) -> dict[str, Any] | None:
    """Return what a run left when it ended, None where it did not end.

    Raises:
        StudyError: If the record is of other settings, or can't be read.
    """
    return records.read_record(_record(run, folder), _compared(run.config), seed=run.config.seed)


def run_all(study: Study, folder: Path, split: str, jobs: int) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Do the runs that have no record yet.

    Args:
        study: The study.
        folder: Its folder, claimed.
        split: Of which images the accuracy is measured.
        jobs: How many runs at once, each in a process of its own: one on each GPU, or with its share of the cores.

    Yields:
        Each run that ended, with its record.

    Raises:
        KeyboardInterrupt: After Ctrl-C, when the runs have left their checkpoints.
        StudyError: For more jobs than GPUs.
    """
    missing = [run for run in study.runs() if read_record(run, folder) is None]
    gpus = _gpus(study)
    if gpus and jobs > len(gpus):
        raise StudyError(f"--jobs must be at most {len(gpus)}, the number of GPUs, got {jobs}")
    yield from do_all(partial(do_run, folder=folder, split=split), missing, jobs, gpus)


def default_jobs(study: Study) -> int:
    """Return one for each GPU, or one for each core up to four."""
    if torch.backends.mps.is_available() and study.config({}).trainer.accelerator in ("auto", "gpu", "mps"):
        return 1
    return len(_gpus(study)) or workers.default_jobs()


def do_run(run: Run, folder: Path, split: str) -> dict[str, Any]:
    """Train, or go on with a training that was stopped, measure it, and write the record.

    Args:
        run: What is trained.
        folder: Of the study.
        split: Of which images the accuracy is measured.

    Returns:
        The record: settings, accuracy and loss on the split, figures of the training, device and versions. A training
        whose loss became NaN or infinite has ``diverged`` in place of the accuracy.

    Raises:
        KeyboardInterrupt: After Ctrl-C; the run has left its checkpoint.
    """
    from involution.engine.callbacks import TrainingDiverged, TrainingInterrupted
    from involution.engine.evaluation import evaluate
    from involution.engine.run import train

    config = replace(_placed(run.config, folder), name=run.name, output=str(folder / "runs"))
    record: dict[str, Any] = {"settings": _compared(run.config), "seed": run.config.seed, "title": run.title}
    try:
        result = train(config, progress=False, resume="auto")
    except TrainingDiverged as error:
        record["diverged"] = str(error)
    except TrainingInterrupted as stop:
        raise KeyboardInterrupt from stop
    else:
        data, accelerator = config.data, config.trainer.accelerator
        found = evaluate(
            result.best,
            config.data.spec,
            split,
            batch_size=data.batch_size,
            workers=data.workers,
            accelerator=accelerator,
            progress=False,
        )
        epochs = result.history
        record |= {
            "split": split,
            "images": found.num_images,
            "classes": len(found.classes),
            "top1": found.top1,
            "top5": found.top5,
            "loss": found.loss,
            "val_top1": result.score,
            "train_loss": epochs[-1]["train_loss"],
            "epochs": len(epochs),
            "train_seconds": result.seconds,
        }
    records.write(_record(run, folder), {**record, **provenance()})
    return record


def _placed(config: ClassifyConfig, folder: Path) -> ClassifyConfig:
    """The settings with the embedded data as the folder that it is."""
    if config.data.spec != EMBEDDED:
        return config
    return replace(config, data=replace(config.data, spec=f"imagefolder:{folder / EMBEDDED}"))


def _record(run: Run, folder: Path) -> Path:
    return folder / "results" / f"{run.name}.json"


def _gpus(study: Study) -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that the study may use."""
    if study.config({}).trainer.accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]


def _compared(config: ClassifyConfig) -> dict[str, Any]:
    """Settings by dotted names, as JSON keeps them, without those that make no other run."""
    flat = json.loads(json.dumps(_flat(config.to_dict())))
    return {key: value for key, value in flat.items() if key not in _NOT_COMPARED}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
