"""WebDataset: tar files whose members of one name belong together, ``0001.jpg`` beside ``0001.cls``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.records import SPLITS, DataSet
from involution.data.registry import Format, Options, register
from involution.data.text import read_names


def _open(spec: str, path: str, options: Options) -> DataSet[Any]:
    from torch.utils.data import Subset

    from involution.data.labelled import VAL_SHARE, classification_data
    from involution.data.shards import ShardDataset
    from involution.data.splits import stratified_split

    splits = expand_shards(path, options.only)
    findings = Findings()
    folder = next(files[0] for files in splits.values() if files).parent
    beside = [folder / name for name in ("classes.txt", "classes.json") if (folder / name).is_file()]
    if options.classes is None and not beside:
        raise DataError(f"{spec}: no class names; put classes.txt (one per line) next to the shards or name a file")
    classes = read_names(Path(options.classes) if options.classes else beside[0])
    parts: dict[str, Any] = {
        split: ShardDataset(files, len(classes), findings, options.reading) for split, files in splits.items() if files
    }
    for split, part in parts.items():
        missing = [name for label, name in enumerate(classes) if label not in set(part.labels)]
        if missing and split == "train" and not options.allow_empty:
            raise DataError(
                f"{spec}: no training images of {', '.join(missing[:5])}; fix the class names, or allow it: "
                "--data.allow_empty true"
            )
        if missing:
            findings.note(f"{split}: no images of {', '.join(missing[:5])}")
    if "val" not in parts and not options.only:
        findings.note(f"{spec}: no val shards; a tenth of the training images becomes val")
        train = parts["train"]
        keep, val = stratified_split(train.labels, VAL_SHARE, options.split_seed)
        parts = {**parts, "train": Subset(train, keep.tolist()), "val": Subset(train, val.tolist())}
    return classification_data(spec, classes, parts, findings, replace(options, classes=None))


def expand_shards(pattern: str, only: str | None = None) -> dict[str, list[Path]]:
    """Shards per split, told apart by file names that begin with train, val or test.

    Args:
        pattern: a folder of tar files, or a brace pattern such as `data/{train,val}-{000..031}.tar`.
        only: the one split that is wanted.

    Raises:
        DataError: for missing shards, addresses that are no local files, or names of no split.
    """
    from webdataset.shardlists import expand_urls

    if Path(pattern).is_dir():
        files = sorted(Path(pattern).glob("*.tar"))
    elif pattern.startswith("pipe:") or "://" in pattern:
        raise DataError(f"webdataset:{pattern}: only local tar files are read; download the shards first")
    else:
        files = [Path(name) for name in expand_urls(pattern)]
    missing = [str(file) for file in files if not file.is_file()]
    if not files or missing:
        raise DataError(f"webdataset:{pattern}: no such shards: {', '.join(missing[:3]) or 'no *.tar found'}")
    splits = {split: [file for file in files if file.name.lower().startswith(split)] for split in SPLITS}
    strange = [file.name for file in files if not file.name.lower().startswith(SPLITS)]
    wanted = only or "train"
    if strange or not splits[wanted]:
        raise DataError(
            f"webdataset:{pattern}: shard names must begin with train, val or test (found "
            f"{', '.join(strange[:3]) or f'no {wanted} shards'})"
        )
    return {only: splits[only]} if only else splits


register(
    Format(
        name="webdataset",
        task="classify",
        syntax="webdataset:SHARDS",
        description="a folder or brace pattern of train*, val* and optionally test* tar files, with classes.txt",
        open=_open,
        recognises=lambda folder: any(folder.glob("*.tar")),
    )
)
