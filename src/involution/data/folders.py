"""Images in folders, one folder a class."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.utils.data import Dataset

from involution.data.errors import DataError, one_spelling, printable
from involution.data.findings import Findings, listed
from involution.data.images import CHECK_LIMIT, Header, ImageError, Reading, look, read_image
from involution.data.noticed import tell_headers
from involution.data.paths import need_folder
from involution.data.splits import ORIGINALS, are_images_and_labels, words_of
from involution.data.text import nfc
from involution.data.walk import images_below, subfolders

if TYPE_CHECKING:
    from PIL.Image import Image

    from involution.data.registry import Options


# what label maps beside their images are called: 7_mask.png, 7_mask_1.png, 7_seg.png; how many there are at least, and
# how many colours cover how much of them, and how little of an image
_MAP = re.compile(r"(.+)_(?:masks?|seg|labels?|gt|parts|segmentation|ground_?truth)(?:_\d+)?", re.IGNORECASE)
_SEVERAL, _COLOURS, _MOST_OF_IT, _LESS_OF_IT = 3, 16, 0.95, 0.8
# more folders are no images beside maps of them; what part of the names agrees in two that are
_MOST_FOLDERS, _SHARED = 10, 0.8
# as many are looked at for an object
_MANY = 30


class FileDataset(Dataset[tuple[Any, int]]):
    """Image files with their labels, read when asked for.

    Args:
        files: the image files.
        labels: class index of each.
        reading: how they are read.
    """

    def __init__(self, files: Sequence[Path], labels: Sequence[int], reading: Reading | None = None) -> None:
        self.files = list(files)
        self.labels = list(labels)
        self.reading = reading or Reading()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return read_image(self.files[index], reading=self.reading), self.labels[index]

    def name_of(self, index: int) -> str:
        """What messages call an image."""
        return str(self.files[index])

    def subset(self, indices: Sequence[int]) -> FileDataset:
        """The samples of these indices, in their order."""
        return FileDataset([self.files[i] for i in indices], [self.labels[i] for i in indices], self.reading)


def class_folders(root: Path) -> list[str]:
    """Names of the class folders below a folder, sorted; two or more.

    Raises:
        DataError: for a missing folder, or one with fewer folders: then it is surely not the one that was meant.
    """
    need_folder(root)
    names = subfolders(root)
    if not names:
        raise DataError(f"{root} has no class folders; wanted one folder of images per class")
    words = [words_of(name) for name in names]
    splits = {None if item.rest else item.split for item in words}
    if len(splits) > 1 and None not in splits:
        raise DataError(
            f"{root}: {listed([f'{name}/' for name in names])} are surely splits and no classes, but have no folders; "
            "wanted one folder of images per class in each"
        )
    if len(names) == 1:
        deeper = subfolders(root / names[0])
        hint = f"; {names[0]}/ has {listed(deeper)}: is {root / names[0]} meant?" if deeper else ""
        raise DataError(f"{root} has one class folder only, {names[0]}/; wanted two classes or more{hint}")
    return names


def by_class(folders: Iterable[Path]) -> dict[str, Path]:
    """Class folders by their names with accents composed.

    Raises:
        DataError: for two names that differ in that alone.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        name = nfc(folder.name)
        if name in found:
            raise DataError(
                f"{folder.parent}: two folders are named {name}, with accents composed and apart; merge them"
            )
        found[name] = folder
    return found


def read_folders(
    root: Path,
    folders: Mapping[str, Path],
    classes: Sequence[str],
    findings: Findings,
    options: Options,
    where: str,
    split: str = "",
) -> FileDataset:
    """The images of class folders, their headers checked.

    Args:
        root: what names are told from.
        folders: the folder of each class.
        classes: the known class names; their places are the labels.
        findings: told of what can't be read.
        options: how it is opened.
        where: the split's folder, for messages; "" for the root.
        split: the split; "" for all images.

    Raises:
        DataError: for a folder of another name, no images at all or, unless allowed, of a class in training.
    """
    place = root / where
    unknown = sorted(set(folders) - set(classes))
    if unknown:
        raise DataError(
            f"{place}: class folders unknown to the training images: {listed(unknown)}{_alike(unknown, classes)}"
        )
    if are_images_and_labels(folders):
        raise DataError(
            f"{place}: {listed(list(folders))} are surely no classes but images and their labels; if so, say "
            "masks:PATH, yolo:PATH or voc:PATH, else rename the folders"
        )
    owners: dict[tuple[int, int], str] = {}
    for name, folder in folders.items():
        other = owners.setdefault(_identity(folder), name)
        if other != name:
            raise DataError(
                f"{place}: {other}/ and {name}/ are one folder by a link; wanted a folder of its own per class"
            )
    inside = {name: _without_maps(images_below(folder), root, findings) for name, folder in folders.items()}
    if pair := _images_and_maps(folders, inside):
        raise DataError(
            f"{place}: {' and '.join(pair)}, with files of the same names, are surely no classes but images and their "
            "label maps; if so, say masks:PATH, else rename the folders, or the files of one class"
        )
    files = [file for name in folders for file in inside[name]]
    labels = [classes.index(name) for name in folders for _ in inside[name]]
    if not files:
        raise DataError(f"{place}: no images in its class folders")
    empty = sorted(set(classes) - {classes[label] for label in labels})
    if empty and not options.allow_empty:
        raise DataError(
            f"{place}: no images of {listed(empty)}; put some there, remove the folder, or allow it by "
            "--data.allow_empty true"
        )
    if empty:
        findings.lack(split or str(root), f"no images of {listed(empty)}")
    images = _whole(FileDataset(files, labels, options.reading), root, findings, where or str(root))
    lost = [name for label, name in enumerate(classes) if label in set(labels) - set(images.labels)]
    if options.on_problem == "skip" and (not images.files or (lost and not options.allow_empty)):
        raise DataError(
            f"{place}: no image of {listed(lost)} can be read: {findings.problems[-1]}; put some there, remove the "
            "folder, or allow it by --data.allow_empty true"
        )
    return images


def _without_maps(files: list[Path], root: Path, findings: Findings) -> list[Path]:
    """The images of a class without the label maps that lie beside them, by name and a look at the first ones."""
    named = {file: file.with_name(match[1]) for file in files if (match := _MAP.fullmatch(file.stem))}
    stems = {file.with_suffix("") for file in files} if len(named) >= _SEVERAL else set()
    maps = [file for file, image in named.items() if image in stems]
    if len(maps) < _SEVERAL or not all(map(_has_few_colours, maps[:_SEVERAL])):
        return files
    findings.ignore("label maps beside their images", *[file.relative_to(root) for file in maps])
    findings.saw(*maps)
    left_out = set(maps)
    return [file for file in files if file not in left_out]


def _has_few_colours(file: Path) -> bool:
    """Whether nearly all of an image is of a few colours, as label maps are."""
    found = _sight(file)
    return found is not None and found.of_few_colours >= _MOST_OF_IT


class _Sight(NamedTuple):
    size: tuple[int, int]
    # how many colours there are, and the part of the image that a few of them cover
    colours: int
    of_few_colours: float


def _sight(file: Path) -> _Sight | None:
    """The colours of an image, None for one that can't be read."""
    try:
        image = read_image(file, reading=Reading(value_range=(0, 255)))
    except ImageError:
        return None
    pixels = image.width * image.height
    counts = sorted((count for count, _ in image.getcolors(pixels) or ()), reverse=True)
    return _Sight(image.size, len(counts), sum(counts[:_COLOURS]) / pixels)


def _images_and_maps(folders: Mapping[str, Path], inside: Mapping[str, Sequence[Path]]) -> list[str]:
    """Two folders with files of the same names that have images and label maps, by theirs or a look; [] for none."""
    return _by_their_names(folders, inside) or _by_content(folders, inside)


def _by_content(folders: Mapping[str, Path], inside: Mapping[str, Sequence[Path]]) -> list[str]:
    """Two folders of which one surely has label maps of the other's images by a look at a few of them; [] for none."""
    if len(folders) > _MOST_FOLDERS:
        return []
    stems: dict[str, dict[str, Path]] = {}
    for name, files in inside.items():
        below = [file.relative_to(folders[name]).with_suffix("") for file in files]
        plain = [match[1] if (match := _MAP.fullmatch(path.name)) else path.name for path in below]
        stems[name] = {
            path.with_name(stem).as_posix(): file for path, stem, file in zip(below, plain, files, strict=True)
        }
    # each file is looked at once
    sight = functools.cache(_sight)
    for first, second in itertools.permutations(folders, 2):
        shared = sorted(stems[first].keys() & stems[second].keys())
        if len(shared) < 2 or len(shared) < _SHARED * max(len(inside[first]), len(inside[second])):
            continue
        some = shared[:: -(-len(shared) // _SEVERAL)]
        pairs = [(sight(stems[first][stem]), sight(stems[second][stem])) for stem in some]
        # maps without any object are of one colour, but not all of them
        many = (sight(stems[second][stem]) for stem in some + shared[:: -(-len(shared) // _MANY)])
        if all(map(_is_map_of, pairs)) and any(found.colours > 1 for found in many if found):
            return [f"{first}/", f"{second}/"]
    return []


def _is_map_of(pair: tuple[_Sight | None, _Sight | None]) -> bool:
    image, label = pair
    if image is None or label is None or image.size != label.size:
        return False
    # written digits and drawings have more colours than a map, but for JPEG's
    most = _MOST_OF_IT if label.colours <= _COLOURS else _LESS_OF_IT
    return image.of_few_colours < most and label.of_few_colours >= _MOST_OF_IT


def _by_their_names(folders: Mapping[str, Path], inside: Mapping[str, Sequence[Path]]) -> list[str]:
    """Two folders with files of the same names that by their own names have images and label maps; [] for none."""
    words = {name: words_of(name) for name in folders}
    for first in (name for name, found in words.items() if found.images and not found.labels):
        stems = [file.relative_to(folders[first]).with_suffix("") for file in inside[first]]
        for second in (name for name in folders if name != first and len(inside[name]) == len(stems) > 1):
            # such as images beside stuffthingmaps, original_images beside label_images
            named = words[second].labels or not (words[first].rest or words[first].images in ORIGINALS)
            if named and stems == [file.relative_to(folders[second]).with_suffix("") for file in inside[second]]:
                return [f"{first}/", f"{second}/"]
    return []


def _whole(images: FileDataset, root: Path, findings: Findings, where: str) -> FileDataset:
    """The images whose headers can be read, so that a broken file shows before the training and not in its midst."""
    findings.saw(*images.files)
    if len(images) > CHECK_LIMIT:
        findings.note(f"{where}: {len(images):,} images, which are not checked beforehand")
        return images

    def header(file: Path) -> Header | str:
        try:
            return look(file, images.reading)
        except ImageError as error:
            return str(error).removeprefix(printable(f"{file}: "))

    with ThreadPoolExecutor(8) as pool:
        headers = list(pool.map(header, images.files))
    for file, found in zip(images.files, headers, strict=True):
        if isinstance(found, str):
            findings.problem(file.relative_to(root), found)
    tell_headers(zip(images.files, headers, strict=True), images.reading, findings, where)
    return images.subset([index for index, found in enumerate(headers) if not isinstance(found, str)])


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _alike(unknown: Sequence[str], classes: Sequence[str]) -> str:
    """What to do about folders of unknown classes, whose names may look the same."""
    plain = {one_spelling(name): name for name in classes}
    for name in unknown:
        if one_spelling(name) in plain:
            known = plain[one_spelling(name)]
            return f"; {name!r} differs from {known!r} in case, spaces, marks or look-alike letters: rename one"
    return f"; rename or remove {'them' if len(unknown) > 1 else 'it'}, or add training images"
