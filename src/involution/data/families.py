"""Images that are surely altered copies of one another by their names: 7.jpg, 7_flip.jpg and 7_rot90.png."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from involution.data.text import nfc

# what changes an image, as the names of altered copies tell it
_WORD = (
    r"(?:h?flip(?:ped|lr|ud)?|vflip|mirror(?:ed)?|rot(?:ated?|ation)?|aug(?:ment(?:ed|ation)?)?|crop(?:ped)?|"
    r"blur(?:red)?|nois[ey]|bright(?:ness|er)?|dark(?:er)?|contrast|hue|sat(?:uration)?|gr[ae]y(?:scale)?|scaled?|"
    r"zoom(?:ed)?|shear(?:ed)?|translated?|shift(?:ed)?|jitter|cutout|elastic|distort(?:ed)?|clahe|gamma|"
    r"sharp(?:en(?:ed)?)?|invert(?:ed)?|equalized?|posterized?|solarized?|perspective|affine|warp(?:ed)?|horizontal|"
    r"vertical|orig(?:inal)?|copy|kopie|copie|copia|"
    # what Google Photos adds to a photo that was edited, in the language of its user
    r"edited|effects|bearbeitet|modifi[ée]|(?:ha )?editado|modificato|bewerkt|edytowane|editat|編集済み)"
)
# a direction, or a number that is no place in a series, which would have zeros before it
_MORE = r"(?:[\s_.-]*(?:h|v|x|y|lr|ud|left|right|ccw|cw|clockwise|deg)|[\s_.-]*\(?-?(?:0|[1-9]\d{0,2})(?:\.\d+)?\)?)"
_ENDING = re.compile(rf"(.+?)(?:[\s_.-]+{_WORD}{_MORE}{{0,2}})+", re.IGNORECASE)
_BEGINNING = re.compile(rf"(?:copy of |kopie von |{_WORD}{_MORE}?[\s_.-]+)+(.+)", re.IGNORECASE)
_WHOLE = re.compile(rf"{_WORD}s?", re.IGNORECASE)
# Roboflow's: name_jpg.rf.HASH
_EXPORTED = re.compile(r"(.+?)(?:[_.](?:jpe?g|png|bmp|webp|tiff?))?\.rf\.[0-9A-Za-z]{16,}", re.IGNORECASE)
# Augmentor's: CLASS_original_name.jpg_UUID, in a folder of its own
_AUGMENTED = re.compile(
    r".*?_original_(.+)\.(?:jpe?g|png|bmp|gif|webp|tiff?)_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE
)
# Keras': PREFIX_INDEX_NUMBER, where the index is that of an image and the number is drawn; the prefix may be empty
_INDEXED = re.compile(rf"((?:{_WORD})?)_(\d+)_(?:0|[1-9]\d{{0,7}})", re.IGNORECASE)
# what iPhones call an edited photo beside IMG_1234, and what programs that share folders call a second version
_EDITED = re.compile(r"IMG_E(\d{4})", re.IGNORECASE)
_CONFLICT = re.compile(
    r"(.+?)(?:\.sync-conflict-\d{8}-\d{6}-\w{7}| \([^()]*(?:conflicted copy|case conflict)[^()]*\)|"
    r"-(?:DESKTOP|LAPTOP)-[0-9A-Z]{7})",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(.+?) ?\(\d+\)")
_RUNS = re.compile(r"([\s_.-])[\s_.-]+")
_SEPARATOR = re.compile(r"[\s_.(-]+")
# more images than this with one beginning are rather a series of their own
_MOST = 20
# numbered copies, img (1).jpg, of one image; more are a series
_FEW = 4
# as many images must have the same ending of unknown meaning
_SEVERAL = 3


def is_plain(name: str) -> bool:
    """Whether a name has no word for an alteration."""
    return plain_name(name)[1] == _tight(PurePosixPath(name).stem)


def _tight(stem: str) -> str:
    """A stem with one separator in each place: long runs of them would take the patterns quadratic time."""
    return _RUNS.sub(r"\1", nfc(stem))


def plain_name(name: str) -> tuple[str, str]:
    """The folder and stem that a name has without words for an alteration.

    Example:
        >>> plain_name("cat/7_flip_rot90.jpg"), plain_name("augmented/cat/7.jpg")
        (('cat', '7'), ('cat', '7'))
        >>> plain_name("x_jpg.rf.0123456789abcdef.jpg")
        ('', 'x')
    """
    path = PurePosixPath(name)
    folder = "/".join(nfc(part) for part in path.parts[:-1] if not _WHOLE.fullmatch(part))
    stem = _tight(path.stem)
    if augmented := _AUGMENTED.fullmatch(stem):
        folder, stem = folder.removesuffix("output").removesuffix("/"), augmented[1]
    if exported := _EXPORTED.fullmatch(stem) or _CONFLICT.fullmatch(stem):
        stem = exported[1]
    if edited := _EDITED.fullmatch(stem):
        stem = f"IMG_{edited[1]}"
    for pattern in (_ENDING, _BEGINNING):
        if match := pattern.fullmatch(stem):
            stem = match[1]
    return folder, stem


def families(names: Sequence[str]) -> list[list[int]]:
    """The images that are altered copies of one another: their indices, those of one image together.

    Words for an alteration tell them, such as flip, rot90 and copy; the hash that Roboflow adds; a few numbers in
    brackets beside the image without one; and any ending that follows the names of three images or more. Series, such
    as frame_001 and frame_002, are none, nor a and a_b.

    Args:
        names: of the images within the data set, with /.

    Example:
        >>> families(["7.jpg", "7_flip.jpg", "70.jpg", "frame_001.jpg", "frame_002.jpg", "7 (1).jpg"])
        [[0, 1, 5]]
    """
    plain = [plain_name(name) for name in names]
    folders = Counter(folder for folder, _ in plain)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, key in enumerate(plain):
        groups[key].append(index)
    found = [
        # a series may have such a word in its name
        group
        for (folder, _), group in groups.items()
        if len(group) < folders[folder] and len(group) <= max(_MOST, folders[folder] // 5)
    ]
    found += [*_numbered(plain, groups), *_with_an_ending(plain, groups), *_indexed(names, plain)]
    return [group for group in joined(len(names), found) if len(group) > 1]


def joined(count: int, groups: Iterable[Sequence[int]]) -> list[list[int]]:
    """So many indices in sets, those of each group in one set.

    Example:
        >>> joined(5, [[0, 2], [2, 4]])
        [[0, 2, 4], [1], [3]]
    """
    first = list(range(count))

    def root(index: int) -> int:
        while first[index] != index:
            first[index] = first[first[index]]
            index = first[index]
        return index

    for group in groups:
        for index in group[1:]:
            one, other = sorted((root(index), root(group[0])))
            first[other] = one
    found: dict[int, list[int]] = defaultdict(list)
    for index in range(count):
        found[root(index)].append(index)
    return list(found.values())


def _numbered(plain: Sequence[tuple[str, str]], groups: dict[tuple[str, str], list[int]]) -> Iterable[list[int]]:
    """Images with their few numbered copies: img.jpg, img (1).jpg."""
    copies: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, (folder, stem) in enumerate(plain):
        match = _NUMBERED.fullmatch(stem)
        if match and (folder, match[1]) in groups:
            copies[folder, match[1]].append(index)
    return [[*groups[key], *found] for key, found in copies.items() if len(found) <= _FEW]


def _indexed(names: Sequence[str], plain: Sequence[tuple[str, str]]) -> Iterable[list[int]]:
    """Images that Keras made of the same one: aug_3_8123.jpeg, aug_3_77.jpeg."""
    copies: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for number, name in enumerate(names):
        if match := _INDEXED.fullmatch(_tight(PurePosixPath(name).stem)):
            copies[plain[number][0], match[1].lower(), match[2]].append(number)
    return [found for found in copies.values() if len(found) <= _MOST]


def _with_an_ending(plain: Sequence[tuple[str, str]], groups: dict[tuple[str, str], list[int]]) -> Iterable[list[int]]:
    """Images with those of the same name and an ending that several images have: 7 and 7_b, 8 and 8_b, 9 and 9_b."""
    pairs: dict[str, set[tuple[tuple[str, str], int]]] = defaultdict(set)
    for index, (folder, stem) in enumerate(plain):
        for match in _SEPARATOR.finditer(stem):
            base = (folder, stem[: match.start()])
            if match.start() and base in groups:
                pairs[stem[match.start() :]].add((base, index))
    return [
        [*groups[base], index]
        for found in pairs.values()
        if len({base for base, _ in found}) >= _SEVERAL
        for base, index in sorted(found)
    ]
