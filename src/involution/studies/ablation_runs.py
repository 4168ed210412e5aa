"""The trainings of an ablation study, several at once: each leaves a record, and a stopped study goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from involution.data import registry
from involution.data.registry import Options
from involution.engine.files import atomic_path, check_folder, make_folder
from involution.engine.tasks.classify.config import ClassifyConfig
from involution.studies.ablation import Run, Study
from involution.studies.errors import StudyError
from involution.studies.moved_digits import NAME as EMBEDDED
from involution.studies.moved_digits import make_moved_digits
from involution.studies.origin import provenance

MARKER = "study.json"
# a run is the same wherever it lies and on whatever it is done
_NOT_COMPARED = ("name", "output", "seed", "devices", "trainer.accelerator", "data.workers")
_MOST_PROCESSES = 4


def check_study_folder(folder: Path) -> None:
    """See that a folder is a study's or free, without making it.

    Raises:
        StudyError: If it holds anything else.
        OSError: If it can't be made or written to.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise StudyError(f"{folder} holds files that are not a study's; choose another folder with --output")
    check_folder(folder)


def claim_folder(study: Study, folder: Path) -> None:
    """Make a study's folder, or find that it is this study's already.

    Axes and seeds may be others than before: what was trained for them counts where the run is the same.

    Raises:
        StudyError: If the folder holds anything else.
    """
    base = _compared(study.config({}))
    marker = folder / MARKER
    if marker.is_file():
        difference = _difference(_read(marker), base)
        if difference:
            raise StudyError(f"{folder} holds another study ({difference}); choose another folder with --output")
        return
    check_study_folder(folder)
    make_folder(folder)
    _write(marker, base)


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
    path = _record(run, folder)
    if not path.is_file():
        return None
    found = _read(path)
    difference = _difference(found.get("settings", {}), _compared(run.config)) or (
        "" if found.get("seed") == run.config.seed else f"seed is {found.get('seed')} there"
    )
    if difference:
        raise StudyError(f"{path} belongs to another study ({difference}); choose another folder with --output")
    return found


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
    if jobs == 1 or len(missing) < 2:
        for run in missing:
            yield run, do_run(run, folder, split)
        return
    yield from _in_processes(missing, folder, split, min(jobs, len(missing)), gpus)


def default_jobs(study: Study) -> int:
    """Return one for each GPU, or one for each core up to four."""
    if torch.backends.mps.is_available() and study.config({}).trainer.accelerator in ("auto", "gpu", "mps"):
        return 1
    return len(_gpus(study)) or min(_cores(), _MOST_PROCESSES)


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
    from involution.engine.run import evaluate, train

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
    _write(_record(run, folder), {**record, **provenance()})
    return record


def _placed(config: ClassifyConfig, folder: Path) -> ClassifyConfig:
    """The settings with the embedded data as the folder that it is."""
    if config.data.spec != EMBEDDED:
        return config
    return replace(config, data=replace(config.data, spec=f"imagefolder:{folder / EMBEDDED}"))


def _record(run: Run, folder: Path) -> Path:
    return folder / "results" / f"{run.name}.json"


def _in_processes(
    runs: Sequence[Run], folder: Path, split: str, jobs: int, gpus: Sequence[str]
) -> Iterator[tuple[Run, dict[str, Any]]]:
    context = multiprocessing.get_context("spawn")
    devices = context.Queue()
    for place in range(jobs):
        devices.put(gpus[place] if gpus else None)
    threads = max(1, _cores() // jobs)
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (devices, threads))
    futures = {pool.submit(_work, run, folder, split): run for run in runs}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise StudyError("a process was killed, perhaps for lack of memory; try a smaller --jobs") from error
    except BaseException:
        for future in futures:
            future.cancel()
        workers = multiprocessing.active_children()
        for worker in workers:
            # once: a second one would not leave it the time for its checkpoint
            with suppress(ProcessLookupError):
                os.kill(worker.pid or 0, signal.SIGINT)
        try:
            pool.shutdown()
        except KeyboardInterrupt:
            for worker in workers:
                worker.kill()
        raise
    pool.shutdown()


def _start_worker(devices: Any, threads: int) -> None:
    device = devices.get()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    torch.set_num_threads(threads)
    # the terminal's Ctrl-C goes to the study alone, which tells its workers
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """End with a study that was killed: who starts it again must not find its old workers at work."""
    parent.join()
    os._exit(1)


def _work(run: Run, folder: Path, split: str) -> dict[str, Any]:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return do_run(run, folder, split)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _gpus(study: Study) -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that the study may use."""
    if study.config({}).trainer.accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compared(config: ClassifyConfig) -> dict[str, Any]:
    """Settings by dotted names, as JSON keeps them, without those that make no other run."""
    flat = json.loads(json.dumps(_flat(config.to_dict())))
    return {key: value for key, value in flat.items() if key not in _NOT_COMPARED}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first setting that differs, in words."""
    for key in sorted({*old, *new}):
        if key not in old or key not in new:
            return f"only one of the two has {key}"
        if old[key] != new[key]:
            return f"{key} is {old[key]} there, {new[key]} here"
    return ""


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path}: not valid JSON; remove it to repeat its run") from error
    if not isinstance(found, dict):
        raise StudyError(f"{path}: wanted the record of a run; remove it to repeat its run")
    return found


def _write(path: Path, found: Mapping[str, Any]) -> None:
    with atomic_path(path, replace=True) as temporary:
        temporary.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
