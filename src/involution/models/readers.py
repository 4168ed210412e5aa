"""The one reader of checkpoint files: a file is data, none of it is ever executed.

What is checked: a ``torch.save`` archive by the checksums of all its parts, and a safetensors file that this package
wrote by the one in its metadata, so that a flipped bit is refused. PyTorch's older format, other safetensors and
PaddlePaddle's pickles have no checksums: they are checked for what they must hold, and every file for weights that are
numbers.
"""

import argparse
import hashlib
import io
import json
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from involution.models.errors import CheckpointError, in_one_line
from involution.models.paddle import read_paddle
from involution.models.shards import Shards, fill_from_parts
from involution.plain import shown

# the pickled magic number that opens torch.save's format before PyTorch 1.6
_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# where a safetensors file of ours has its checksum
CHECKSUM = "sha256"
# bytes of the index of a file: some 40,000 tensors, ten times as many as a large training keeps
_LARGEST_INDEX = 3_000_000
_LONGEST_NAME, _MOST_ENTRIES = 500, 50_000
# where a training keeps its weights; like timm, a moving average is preferred
_ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model")
# where trainings keep the names of their classes, in the order of the labels
_NAMES = ("class_names", "classes", "CLASSES")
# what timm's and torchvision's training scripts keep of how they prepared images
_IMAGES = ("mean", "std", "img_size", "input_size", "crop_pct", "interpolation", "val_resize_size", "val_crop_size")
# where that is, in files of timm, torchvision and Lightning
_ARGUMENTS = ("args", "hyper_parameters")
# names of weights beside a config.json
_OF_HUBS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth")
# what the settings of an OpenMMLab training say of that, which they hold as text, and the usual values
_SETTINGS = {
    "mean": (r"\bmean=(\[[^\[\]]{1,80}\])", "[123.675, 116.28, 103.53]"),
    "std": (r"\bstd=(\[[^\[\]]{1,80}\])", "[58.395, 57.12, 57.375]"),
    "to_rgb": (r"\b(?:bgr_)?to_rgb=(True|False)", "True"),
    "crop_size": (r"CenterCrop['\"],\s*crop_size=\(?(\d{1,5})", "224"),
}
_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_DTYPES |= {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


@dataclass(frozen=True)
class Weights:
    """What a checkpoint file holds for a network.

    Attributes:
        tensors: Entries by the file's names.
        entry: The part of the file that they come from, such as ``state_dict_ema``; empty where they are all of it.
        average: Whether a moving average was preferred to the plain weights beside it.
        unused: Other parts of the file with weights of the same names, such as ``ema``.
        classes: Class names, where the file has them.
        doubt: What to say of class names that are not used; empty for nothing.
        images: How the training prepared images, as far as the file tells; it is not followed.
        model: Name of the network, where the file tells it.
        card: What a training by this package says of its network.
    """

    tensors: dict[str, torch.Tensor]
    entry: str = ""
    average: bool = False
    unused: tuple[str, ...] = ()
    classes: list[str] | None = None
    doubt: str = ""
    images: str = ""
    model: str | None = None
    card: dict[str, Any] | None = None


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint file by name, as `read_weights` does."""
    return read_weights(path).tensors


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Read the weights in a checkpoint file.

    Reads safetensors, ``torch.save`` files (a state dict, or one under ``state_dict`` or ``model``, as this package,
    timm, torchvision and mmcv write them; a moving average under ``state_dict_ema`` or ``model_ema`` goes first, as in
    timm) and PaddlePaddle's pickles of NumPy arrays.

    Args:
        path: The file.

    Raises:
        CheckpointError: As `read_file`, and where the file holds anything but numbers by name.
    """
    file = Path(path)
    content, metadata = read_file(file)
    card = content.get("involution") if isinstance(content, Mapping) else None
    named = [card.get("model")] if isinstance(card, Mapping) else [metadata.get("model")]
    named += [content.get("arch")] if isinstance(content, Mapping) else []
    if card is None and "card" in metadata:
        card = _json(metadata["card"])
    beside = _config_beside(file)
    (classes, doubt), entry, average = _classes(content, metadata), "", False
    classes = classes or (None if doubt else _listed(beside))
    unused: tuple[str, ...] = ()
    images = _images(content, beside)
    shards = Shards.of(content, file)
    if isinstance(content, Mapping):
        found = [name for name in _ENTRIES if isinstance(content.get(name), Mapping)]
        if found:
            entry, average = found[0], len(found) > 1 and found[0].endswith("_ema")
            others = {name: part for name, part in content.items() if name != entry}
            content = content[entry]
            # that a moving average was taken says the same of the plain weights
            unused = tuple(
                str(name) for name, part in others.items() if _alike(content, part) and not (average and name in found)
            )
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{file} holds no state dict: wanted tensors by name, got {type(content).__name__}")
    return Weights(
        tensors=check_tensors(content, file, shards),
        entry=entry,
        average=average,
        unused=unused,
        classes=classes,
        doubt=doubt,
        images=images,
        model=next((name for name in named if isinstance(name, str)), None),
        card=card if isinstance(card, dict) else None,
    )


def _alike(taken: Mapping[Any, Any], part: Any) -> bool:
    """Whether a part of a file, or one inside it, holds weights by names of those that are taken."""
    if not isinstance(part, Mapping):
        return False
    names = {str(name).removeprefix("module.") for name in taken}
    parts = (part, *(inner for inner in part.values() if isinstance(inner, Mapping)))
    # of an average without names, as torch_ema keeps it
    shapes = {value.shape for value in taken.values() if isinstance(value, torch.Tensor)}
    lists = [inner for inner in part.values() if isinstance(inner, list | tuple) and len(inner) > 1]
    tensors = [inner for inner in lists if all(isinstance(one, torch.Tensor) for one in inner)]
    if any({one.shape for one in inner} <= shapes for inner in tensors):
        return True
    return any(not names.isdisjoint(str(name).removeprefix("module.") for name in each) for each in parts)


def read_file(
    path: str | os.PathLike[str], device: str | torch.device = "cpu", *, whole: bool = True
) -> tuple[Any, dict[str, str]]:
    """Read a checkpoint file as it is: a mapping as a rule, and the metadata of a safetensors file.

    A checkpoint whose tensors are in files beside it (`involution.models.shards`) is put together.

    PyTorch's files go through ``torch.load(weights_only=True)``, which rebuilds tensors, NumPy's arrays and an inert
    ``argparse.Namespace``, and nothing else; PaddlePaddle's through an unpickler for NumPy arrays.

    Args:
        path: The file.
        device: Where PyTorch's tensors go.
        whole: Of tensors in files beside it, read more than the shapes.

    Raises:
        CheckpointError: No such file, one that can't be read, is no checkpoint or damaged, or a pickle that asks for
            code to be run.
    """
    file = Path(path)
    if file.is_dir():
        raise CheckpointError(f"{file} is a folder; wanted a checkpoint, such as best.ckpt in the folder of a run")
    if not file.is_file():
        raise CheckpointError(f"no such checkpoint: {file}")
    try:
        with file.open("rb") as stream:
            head = stream.read(64)
        if file.suffix == ".safetensors" or head[8:9] == b"{":
            return _read_safetensors(file)
        if head.startswith(b"PK\x03\x04"):
            check_archive(file)
            content = _read_torch(file, device)
            fill_from_parts(content, file, whole=whole, device=device)
            return content, {}
        if head.startswith(_LEGACY_TORCH):
            _check_legacy(file)
            return _read_torch(file, device), {}
        if head.startswith(b"\x80"):
            return read_paddle(file), {}
    except OSError as error:
        raise CheckpointError(f"can't read {file}: {error.strerror or error}") from error
    hint = ", a web page saved in its place" if head.lstrip().startswith(b"<") else ""
    raise CheckpointError(
        f"{file} is not a checkpoint{hint}: wanted a torch.save file, safetensors or PaddlePaddle's .pdparams, "
        f"got a file that begins with {head[:16]!r}"
    )


def read_metadata(file: Path) -> dict[str, str]:
    """What a safetensors file says of itself, without its tensors.

    Raises:
        CheckpointError: It is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as content:
            return dict(content.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged: {in_one_line(error)}") from error


def check_archive(file: Path) -> None:
    """Raise `CheckpointError` unless all parts of a ``torch.save`` archive have the checksums that they came with."""
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            index = max((part.file_size for part in parts if part.filename.endswith("data.pkl")), default=0)
            stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
            whole = stored and sum(part.file_size for part in parts) <= file.stat().st_size
            wrong = archive.testzip() if whole and index <= _LARGEST_INDEX else None
    # Python's reader fails in every way on bytes that are something else
    except Exception as error:
        if isinstance(error, OSError):
            raise
        raise CheckpointError(f"{file} is damaged: {in_one_line(error)}") from error
    if not whole:
        raise CheckpointError(f"{file} is compressed or claims more than it holds, which no checkpoint does")
    if index > _LARGEST_INDEX:
        raise CheckpointError(
            f"{file}: its index has {index / 1e6:.1f} MB, which no checkpoint needs ({_LARGEST_INDEX / 1e6:.0f} MB)"
        )
    if wrong:
        raise CheckpointError(f"{file} is damaged: the checksum of its part {wrong!r} is wrong; get the file again")


def _check_legacy(file: Path) -> None:
    """Raise `CheckpointError` for a file of PyTorch before 1.6 with a larger index than an archive may have."""
    with file.open("rb") as stream:
        head = stream.read(_LARGEST_INDEX)
    try:
        # a mark, a version, a system, and the index; the numbers follow
        index = io.BytesIO(head)
        for _ in range(4):
            for _ in pickletools.genops(index):
                pass
    # what is no pickle fails in every way
    except Exception as error:
        if len(head) == _LARGEST_INDEX:
            limit = f"{_LARGEST_INDEX / 1e6:.0f} MB"
            raise CheckpointError(f"{file}: its index has more than {limit}, which no checkpoint needs") from error
        raise CheckpointError(f"{file} is damaged: {in_one_line(error)}") from error


def checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of all that a safetensors file holds, in no matter which order."""
    total = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def check_tensors(
    content: Mapping[Any, Any], file: str | os.PathLike[str], shards: Shards | None = None
) -> dict[str, torch.Tensor]:
    """Return a state dict's entries as tensors, if each is an ordinary tensor of finite numbers by a name.

    NumPy's arrays become tensors.

    Args:
        content: The state dict.
        file: Where it comes from.
        shards: The files beside it; a tensor in these may have a shape alone.

    Raises:
        CheckpointError: Another entry, or more numbers than the file has room for.
    """
    import numpy as np

    if len(content) > _MOST_ENTRIES:
        raise CheckpointError(f"{file} holds {len(content)} entries, wanted at most {_MOST_ENTRIES}")
    tensors: dict[str, torch.Tensor] = {}
    # what stands for a file at an address has this method, too
    found: Any = file if hasattr(file, "stat") else Path(file)
    room = 4 * (found.stat().st_size + (shards.size if shards else 0)) + 2**20
    for name, value in content.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.dtype.itemsize <= 8:
            # a copy: arrays from a pickle can be read-only or big-endian
            value = torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
            raise CheckpointError(f"{file} holds more than tensors by name: {shown(name)} is of type {kind}")
        if len(name) > _LONGEST_NAME:
            raise CheckpointError(f"{file} holds an entry whose name has {len(name)} characters: {shown(name)}")
        if shards is not None and value.is_meta:
            tensors[name] = value
            continue
        complaint = _complaint(value)
        # tensors that share their numbers may look like any amount of them
        room -= value.numel() * value.element_size() if complaint is None else 0
        if complaint is None and room < 0:
            complaint = "has more numbers than the file has room for"
        if complaint is None and not bool(torch.isfinite(value).all()):
            complaint = "has values that are infinite or NaN: the training it comes from had diverged"
        if complaint:
            raise CheckpointError(f"{file}: {shown(name)} {complaint}")
        tensors[name] = value
    return tensors


def _complaint(tensor: torch.Tensor) -> str | None:
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.is_nested or tensor.is_quantized:
        return "is not a plain tensor"
    if tensor.layout != torch.strided or tensor.is_meta:
        return "is a tensor without numbers or a sparse one, wanted a dense one"
    if tensor.dtype not in _DTYPES:
        return f"is of type {str(tensor.dtype).removeprefix('torch.')}, wanted floats or integers"
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        return "repeats its numbers, wanted each of them in the file"
    return None


def _images(content: Any, beside: Mapping[str, Any]) -> str:
    """How a training prepared images, in words, by the arguments that it kept; empty where nothing was chosen."""
    given: dict[Any, Any] = {}
    for args in (content.get(key) for key in _ARGUMENTS) if isinstance(content, Mapping) else ():
        given |= vars(args) if isinstance(args, argparse.Namespace) else args if isinstance(args, Mapping) else {}
    images = beside.get("pretrained_cfg")
    given |= images if isinstance(images, Mapping) else {}
    said = [f"{name} {shown(given[name])}" for name in _IMAGES if given.get(name) not in (None, "", [], ())]
    meta = _meta(content)
    text = next((meta[key] for key in ("config", "cfg") if isinstance(meta.get(key), str)), "")
    for name, (pattern, usual) in _SETTINGS.items():
        match = re.search(pattern, text)
        if match and " ".join(match[1].split()) != usual:
            said.append(f"{name} {' '.join(match[1].split())}")
    return ", ".join(said)


def _config_beside(file: Path) -> Mapping[str, Any]:
    """What config.json says beside a file that timm or Hugging Face named."""
    config = file.with_name("config.json")
    if file.name not in _OF_HUBS or not config.is_file() or config.stat().st_size > _LARGEST_INDEX:
        return {}
    found = _json(config.read_text(encoding="utf-8", errors="replace"))
    return found if isinstance(found, Mapping) else {}


def _listed(config: Mapping[str, Any]) -> list[str] | None:
    """Class names in such a config.json: timm's list, or Hugging Face's names by number."""
    names, by_number = config.get("label_names"), config.get("id2label")
    if isinstance(by_number, Mapping) and set(by_number) == {str(place) for place in range(len(by_number))}:
        names = names or [by_number[str(place)] for place in range(len(by_number))]
    right = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    return names if right else None


def _meta(content: Any) -> Mapping[Any, Any]:
    """What OpenMMLab's trainings say of themselves."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    return meta if isinstance(meta, Mapping) else {}


def _classes(content: Any, metadata: Mapping[str, str]) -> tuple[list[str] | None, str]:
    """The class names in a file, and what to say of those that contradict each other and are not used."""
    plain: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    meta = _meta(content)
    listed = {"meta": meta.get("CLASSES") if meta else _json(metadata.get("classes", "null"))}
    if isinstance(of_data := meta.get("dataset_meta"), Mapping):
        listed["dataset_meta"] = of_data.get("classes", of_data.get("CLASSES"))
    listed |= {key: plain.get(key) for key in _NAMES}
    places = plain.get("class_to_idx")
    if isinstance(places, Mapping) and all(type(place) is int for place in places.values()):
        # of torchvision's folders, from name to label
        by_place = sorted(places, key=places.__getitem__)
        listed["class_to_idx"] = by_place if sorted(places.values()) == list(range(len(places))) else None
    found = {
        key: list(names)
        for key, names in listed.items()
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names)
    }
    if any(names != next(iter(found.values())) for names in found.values()):
        return None, f"the class names in the file are not used: {', '.join(found)} differ"
    return next(iter(found.values()), None), ""


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read_safetensors(file: Path) -> tuple[Any, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as content:
            names: list[str] = content.keys()
            if len(names) > _MOST_ENTRIES:
                raise CheckpointError(f"{file} holds {len(names)} entries, wanted at most {_MOST_ENTRIES}")
            tensors = {name: content.get_tensor(name) for name in names}
            metadata = dict(content.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged: {in_one_line(error)}") from error
    if metadata.pop(CHECKSUM, None) not in (None, checksum(tensors, metadata)):
        raise CheckpointError(f"{file} is damaged: its checksum is wrong; get the file again")
    return tensors, metadata


def _read_torch(file: Path, device: str | torch.device) -> Any:
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            # what torch has to say about odd tensors is said by `check_tensors`
            warnings.simplefilter("ignore")
            return torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|global|class|function) `?([\w.]+)", str(error))
        reason = f"its pickle asks for {wanted[1]}" if wanted else "its pickle holds more than tensors"
        raise CheckpointError(
            f"{file} is refused, nothing of it was run: {reason}, which a checkpoint does not need"
        ) from error
    # the restricted reader fails in every way on bytes that are something else
    except Exception as error:
        if isinstance(error, OSError):
            raise
        raise CheckpointError(f"{file} is damaged: {in_one_line(error)}") from error


def _harmless() -> list[Any]:
    # the training log in the authors' files holds NumPy scalars, named differently before NumPy 2; timm's and
    # torchvision's trainings keep their options, a record without any code
    import numpy as np

    reconstruct, scalar = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    named = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for function, name in ((reconstruct, "_reconstruct"), (scalar, "scalar"))
    ]
    dtypes = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")]
    # MMEngine's log of a training, read as a record without any code
    log = (argparse.Namespace, "mmengine.logging.history_buffer.HistoryBuffer")
    return [*named, np.ndarray, np.dtype, *dtypes, argparse.Namespace, log]
