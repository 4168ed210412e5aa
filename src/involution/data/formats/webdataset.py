"""WebDataset: tar files whose members of one name belong together, ``0001.jpg`` beside ``0001.cls``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from involution.data.addresses import is_remote, path_of
from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.numbering import tell_holes
from involution.data.paths import ARCHIVES
from involution.data.records import SPLITS, DataSet
from involution.data.registry import Format, Options, register
from involution.data.splits import cut_by, no_split, val_of_train, words_of
from involution.data.text import one_list, read_names
from involution.data.walk import is_rubbish


def _open(spec: str, path: str, options: Options) -> DataSet[Any]:
    from torch.utils.data import Subset

    from involution.data.labelled import VAL_SHARE, classification_data, tell_missing, tell_numbered
    from involution.data.parts import stored_of
    from involution.data.shards import ShardDataset
    from involution.data.splits import cut

    findings = Findings()
    splits = expand_shards(path, options.only, findings)
    shards = [file for files in splits.values() for file in files]
    findings.saw(*map(str, shards))
    tell_holes(shards, findings)
    local = not is_remote(shards[0])
    listed = path_of(path) if path_of(path).is_dir() else None
    folder = listed or shards[0].parent
    beside = [folder / name for name in ("classes.txt", "classes.json") if (folder / name).is_file()]
    if options.classes is None and not beside:
        raise DataError(f"{spec}: no class names; put classes.txt (one per line) next to the shards or name a file")
    findings.saw(*map(str, beside))
    classes = one_list(beside or [Path(str(options.classes))], read_names)
    parts: dict[str, Any] = {
        split: ShardDataset(files, len(classes), findings, options.reading) for split, files in splits.items() if files
    }
    findings.settle(spec, options.on_problem)
    for split, part in parts.items():
        tell_missing(part.labels, classes, "train" if split == "all" else split, spec, findings, options)
    tell_numbered(classes, findings)
    if "val" not in parts and not options.only:
        how = cut_by(options.split_by, options.split_seed)
        whole = f"{spec}: shards without splits, split {1 - VAL_SHARE:.0%} / {VAL_SHARE:.0%} into train and val {how}"
        findings.note(whole if "all" in parts else val_of_train(spec, VAL_SHARE, options))
        train = parts.pop("all") if "all" in parts else parts["train"]
        names = [f"{train.shards[number].name}/{key}" for number, _, _, key in train.entries]
        keys = [key for *_, key in train.entries]
        # keys may begin anew in each shard
        called = keys if len(set(keys)) == len(keys) else None
        keep, val = cut(names, (VAL_SHARE,), options, findings, train.labels, stored_of(train), called, classes)
        test = {"test": parts["test"]} if "test" in parts else {}
        parts = {"train": Subset(train, keep), "val": Subset(train, val), **test}
    # a pattern names its files: what it leaves out is meant so
    root = listed if local else None
    if root:
        _tell_compressed(root, findings)
    # a file of names takes the place of the shards' own by name, and is their own where they have none
    own = options if beside else replace(options, classes=None)
    return classification_data(spec, classes, parts, findings, own, root)


def expand_shards(pattern: str, only: str | None = None, findings: Findings | None = None) -> dict[str, list[Path]]:
    """Shards per split, told apart by train, val or test in their names, or in those of their folders; else ``all``.

    Args:
        pattern: a folder of tar files, or a brace pattern such as `data/{train,val}-{000..031}.tar`; either may be an
            address.
        only: the one split that is wanted.
        findings: told of hidden ones at an address; those in a folder are found with the rest.

    Raises:
        DataError: for missing shards, commands in place of files, or names of no split.
    """
    from webdataset.shardlists import expand_urls

    if pattern.startswith("pipe:"):
        raise DataError(f"webdataset:{pattern}: commands are not run; wanted tar files, or addresses of some")
    root = path_of(pattern)
    if root.is_dir():
        there = sorted(file for file in root.rglob("*") if file.suffix.lower() == ".tar")
        files = [file for file in there if _is_shard(file, root)]
        if findings is not None and is_remote(root) and len(files) < len(there):
            findings.ignore(
                "names that begin with . or _", *(file.relative_to(root) for file in there if not _is_shard(file, root))
            )
    else:
        files = [path_of(name, named=pattern) for name in expand_urls(pattern)]
        root = files[0].parent if files else root
    packed = [file.name for file in files if file.suffix.lower() in ARCHIVES and file.suffix.lower() != ".tar"]
    if packed:
        raise DataError(f"webdataset:{pattern}: {packed[0]} is compressed; wanted a folder of .tar files, or a pattern")
    # one at an address is asked for once, when it is read
    missing = [str(file) for file in files if not is_remote(file) and not file.is_file()]
    if not files or missing:
        raise DataError(f"webdataset:{pattern}: no such shards: {', '.join(missing[:3]) or 'no *.tar found'}")
    split_of = {file: _split_of(file, root) for file in files}
    if not any(split_of.values()):
        # one set, which is split later, or measured whole
        if only and findings is not None:
            findings.take_whole(f"webdataset:{pattern}")
        return {only or "all": files}
    splits = {split: [file for file in files if split_of[file] == split] for split in SPLITS}
    strange = [file.name for file in files if split_of[file] is None]
    if only and not strange and not splits[only]:
        raise no_split(f"webdataset:{pattern}", only, [split for split, found in splits.items() if found])
    if strange or not splits[only or "train"]:
        raise DataError(
            f"webdataset:{pattern}: shard names must have train, val or test in them, or be in folders of these names "
            f"(found {', '.join(strange[:3]) or 'no train shards'})"
        )
    return {only: splits[only]} if only else splits


def _tell_compressed(root: Path, findings: Findings) -> None:
    """Say which files are surely shards, but can't be read at any place."""
    packed = [file for file in sorted(root.rglob("*")) if file.suffix.lower() in ARCHIVES and _is_shard(file, root)]
    shards = [file for file in packed if file.suffix.lower() != ".tar" and _split_of(file, root)]
    if shards:
        findings.ignore(
            "compressed shards, which must be unpacked to .tar", *[file.relative_to(root) for file in shards]
        )
        findings.saw(*shards)


def _is_shard(file: Path, root: Path) -> bool:
    # as Spark names what is not yet, or no more, part of the data
    return not any(part.startswith((".", "_")) or is_rubbish(part) for part in file.relative_to(root).parts)


def _split_of(file: Path, root: Path) -> str | None:
    """The split in a shard's name, such as train-000.tar or pets-validation-7.tar, else in that of a folder above."""
    folders = file.relative_to(root).parts[-2::-1] if file.is_relative_to(root) else ()
    return next((split for name in (file.stem, *folders) if (split := words_of(name).split)), None)


def _recognises(folder: Path) -> bool:
    return any(file.suffix.lower() == ".tar" for pattern in ("*", "*/*") for file in folder.glob(pattern))


register(
    Format(
        name="webdataset",
        task="classify",
        syntax="webdataset:SHARDS",
        description="a folder, brace pattern or address of tar files named train*, val* and optionally test*, with "
        "classes.txt",
        open=_open,
        recognises=_recognises,
    )
)
