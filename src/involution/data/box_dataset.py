"""Images with boxes and masks as torchvision's detectors and transforms want them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from involution.data.boxes import Box, BoxRecord, Scene
from involution.data.contents import Stored
from involution.data.errors import DataError
from involution.data.findings import Findings, some
from involution.data.images import CHECK_LIMIT, ImageError, Reading, read_image
from involution.data.labelled import tell_alike
from involution.data.leftovers import tell_leftovers
from involution.data.records import SPLITS, DataSet
from involution.data.registry import Options
from involution.data.run_lengths import decode_mask, has_filled_hole, mask_bounds
from involution.data.splits import cut, cut_by, no_split, val_of_train, words_of

# of images that come without val
_SHARE = 0.2
# of an image's area: a box that covers more of it is the whole image
_WHOLE = 0.98
# intersection over union from which two boxes have one place
_SAME = 0.95
# objects that detectors find in an image by default, and that COCO's figures count
_MOST = 100


class BoxDataset(Dataset[Any]):
    """The images of a record with their targets.

    An item is an image (``tv_tensors.Image``, uint8, [3, H, W]) and a dict: ``boxes`` (``BoundingBoxes`` [n, 4],
    x1 y1 x2 y2 in pixels), ``labels`` [n] from 0, ``image_id``, and with ``masks`` ``tv_tensors.Mask`` [n, H, W].
    Regions marked as crowds are left out.

    Args:
        record: the images.
        masks: decode the masks, too.
        reading: how images are read.
    """

    def __init__(self, record: BoxRecord, masks: bool = False, reading: Reading | None = None) -> None:
        if not record.scenes:
            raise DataError(f"{record.source}: no images")
        self.record = record
        self.masks = masks
        self.reading = reading or Reading()

    def __len__(self) -> int:
        return len(self.record.scenes)

    def name_of(self, index: int) -> str:
        """What messages call an image."""
        return str(self.record.scenes[index].file)

    def with_objects(self) -> BoxDataset:
        """The images that have objects, crowds not counted."""
        scenes = [scene for scene in self.record.scenes if _objects(scene)]
        if not scenes:
            raise DataError(f"{self.record.source}: no images with annotations")
        return BoxDataset(replace(self.record, scenes=scenes), self.masks, self.reading)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional as F

        scene = self.record.scenes[index]
        image = tv_tensors.Image(F.pil_to_tensor(read_image(scene.file, reading=self.reading).convert("RGB")))
        size = (scene.height, scene.width)
        if tuple(image.shape[1:]) != size:
            raise ImageError(
                f"{scene.file}: {image.shape[2]} x {image.shape[1]} pixels, but its annotations are for "
                f"{size[1]} x {size[0]}"
            )
        found = _objects(scene)
        boxes = torch.tensor([box.xywh for box in found], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2] = boxes[:, 0::2].clamp(0, size[1])
        boxes[:, 1::2] = boxes[:, 1::2].clamp(0, size[0])
        target: dict[str, Any] = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.tensor([box.label for box in found], dtype=torch.int64),
            "image_id": scene.id,
        }
        if self.masks:
            masks = [decode_mask(box.mask, *size) for box in found]
            stacked = np.stack(masks) if masks else np.zeros((0, *size), np.uint8)
            target["masks"] = tv_tensors.Mask(torch.from_numpy(stacked))
        return image, target


def _objects(scene: Scene) -> list[Box]:
    return [box for box in scene.boxes if not box.crowd]


class DetectionData(DataSet[BoxDataset]):
    """A detection data set."""

    @property
    def category_ids(self) -> list[int]:
        """The source's id of each class: what a result is told by."""
        return self.train.record.category_ids


def complete_splits(records: dict[str, BoxRecord], findings: Findings, options: Options) -> dict[str, BoxRecord]:
    """The splits of a data set that brings one set of images, or none for val: these are cut, 80 / 20.

    Where one split alone is wanted, a set without splits is it as a whole. Images that say their split are in it.

    Raises:
        DataError: for images whose splits can't be told, or too few.
    """
    records = {split: _without_spoiled(split, record, findings) for split, record in records.items()}
    records = _by_own_splits(records, findings, options)
    if options.only and "all" in records:
        findings.take_whole(records["all"].source)
        return {options.only: records["all"]}
    if options.only:
        return records
    if "val" in records:
        return records
    record = records["all"] if "all" in records else records["train"]
    findings.settle(record.source, options.on_problem)
    if len(record.scenes) < 2:
        lost = f"{findings.lines()[-1]}: " if findings.problems else ""
        raise DataError(f"{record.source}: {lost}{len(record.scenes)} images are too few for train and val")
    if "all" in records:
        how = cut_by(options.split_by, options.split_seed)
        findings.note(f"{record.source}: one set of images, split 80 / 20 into train and val {how}")
    else:
        findings.note(val_of_train(record.source, _SHARE, options))
    names = [_below(scene.file, record.source) for scene in record.scenes]
    stored = [Stored(scene.file) for scene in record.scenes]
    pieces = zip(("train", "val"), cut(names, (_SHARE,), options, findings, stored=stored), strict=True)
    whole = {split: replace(record, scenes=[record.scenes[i] for i in places]) for split, places in pieces}
    return {**whole, **{split: found for split, found in records.items() if split not in ("all", "train")}}


def _without_spoiled(split: str, record: BoxRecord, findings: Findings) -> BoxRecord:
    """The record without images whose objects are all malformed: they are left out, not learnt as background."""
    spoiled = [scene for scene in record.scenes if scene.spoiled]
    lost = [scene.file.name for scene in spoiled if not _objects(scene)]
    some_left = [scene.file.name for scene in spoiled if _objects(scene)]
    prefix = "" if split == "all" else f"{split}: "
    if lost:
        findings.ignore("images whose objects are all malformed", *[f"{prefix}{name}" for name in lost])
    if some_left:
        findings.note(
            f"{prefix}images of which some objects are malformed, left out as if there were nothing in their places: "
            f"{some(some_left)}"
        )
    return replace(record, scenes=[scene for scene in record.scenes if not scene.spoiled or _objects(scene)])


def _by_own_splits(records: dict[str, BoxRecord], findings: Findings, options: Options) -> dict[str, BoxRecord]:
    """One set of images in the splits that they say themselves; of sets with names these that say another are told."""
    for split, record in records.items():
        others = [scene.file.name for scene in record.scenes if scene.split and words_of(scene.split).split != split]
        if others and split != "all":
            findings.note(f"{split}: images that say they are of another split, taken all the same: {some(others)}")
    if "all" not in records or not any(scene.split for scene in records["all"].scenes):
        return records
    record = records["all"]
    splits = [words_of(scene.split).split for scene in record.scenes]
    strange = [
        f"{scene.file.name}: {scene.split or 'none'}"
        for scene, own in zip(record.scenes, splits, strict=True)
        if not own
    ]
    if strange:
        raise DataError(
            f"{record.source}: wanted train, val or test as split of every image, got others for {some(strange)}; "
            "correct them, or remove all to have the images split by chance"
        )
    counts = {split: splits.count(split) for split in SPLITS if split in splits}
    if options.only and options.only not in counts:
        raise no_split(record.source, options.only, counts)
    if not options.only and "train" not in counts:
        raise DataError(f"{record.source}: none of its images says it is of train, but of {' and '.join(counts)}")
    findings.note(f"{record.source}: splits as its images say")
    whole = {
        split: replace(record, scenes=[scene for scene, own in zip(record.scenes, splits, strict=True) if own == split])
        for split in counts
    }
    return {options.only: whole[options.only]} if options.only else whole


def _below(file: Path, source: Path) -> str:
    """The name of an image within its data set, which may have been moved."""
    for folder in (source, *list(source.parents)[:2]):
        if folder in file.parents:
            return file.relative_to(folder).as_posix()
    return file.name


def _difference(one: tuple[str, BoxRecord], other: tuple[str, BoxRecord]) -> str:
    """The first category that two splits do not share; empty where they share all, in the same order."""
    ids = [dict(zip(record.classes, record.category_ids, strict=True)) for _, record in (one, other)]
    for name in dict.fromkeys([*ids[0], *ids[1]]):
        if ids[0].get(name) != ids[1].get(name):
            said = [f"has the id {found[name]}" if name in found else "is missing" for found in ids]
            return f"{name} {said[0]} in {one[0]} and {said[1]} in {other[0]}"
    return "" if list(ids[0]) == list(ids[1]) else "they have another order"


def _tell_objects(split: str, record: BoxRecord, findings: Findings, allow_empty: bool) -> None:
    """Say which objects are not trained on, and which classes have none, in training unless that is meant so."""
    crowds, thin, twice, whole, several = [], [], [], [], []
    count = 0
    missing = set(range(len(record.classes)))
    for scene in record.scenes:
        known: set[tuple[int, tuple[float, ...]]] = set()
        for box in scene.boxes:
            name = f"{split} {scene.file.name}"
            if (box.label, box.xywh) in known:
                twice.append(name)
            known.add((box.label, box.xywh))
            if box.crowd:
                crowds.append(name)
                continue
            count += 1
            missing.discard(box.label)
            thin += [] if _is_learnable(scene, box) else [name]
            width, height = _inside(scene, box)
            whole += [name] if width * height >= _WHOLE * scene.width * scene.height else []
        several += [f"{split} {scene.file.name}"] * _of_several_classes(scene)
    if crowds:
        findings.ignore("crowds and difficult objects, not trained on and not counted as misses", *crowds)
    if thin and len(thin) == count:
        raise DataError(
            f"{record.source}: none of the {count} boxes of {split} is as large as a pixel; are they fractions of the "
            "image's sides? Wanted pixels in COCO's and Pascal VOC's files"
        )
    if thin:
        findings.ignore("boxes smaller than a pixel, not trained on", *thin)
    if whole and len(whole) == count:
        findings.note(f"{split}: all boxes cover their whole images, so no place can be learnt: {some(whole)}")
    if twice:
        findings.note(f"{split}: boxes given twice, of one class and place, which count twice: {some(twice)}")
    if several:
        findings.note(
            f"{split}: boxes that have the place of one of another class, which may be right: {some(several)}"
        )
    # a mean over classes, in an evaluation, does not go over these
    if missing and not (allow_empty and split == "train"):
        findings.lack(split, f"no objects of {', '.join(record.classes[label] for label in sorted(missing))}")


def _of_several_classes(scene: Scene) -> int:
    """How many objects of an image have the place of one of another class, each counted once."""
    found = sorted(_objects(scene), key=lambda box: box.xywh[0])
    count = 0
    for place, box in enumerate(found):
        x, y, width, height = box.xywh
        for other in found[place + 1 :]:
            # too far right to cover enough, and so is every later one
            if other.xywh[0] > x + (1 - _SAME) * width:
                break
            if other.label == box.label:
                continue
            across = min(x + width, other.xywh[0] + other.xywh[2]) - other.xywh[0]
            down = min(y + height, other.xywh[1] + other.xywh[3]) - max(y, other.xywh[1])
            both = max(across, 0) * max(down, 0)
            if both and both >= _SAME * (width * height + other.xywh[2] * other.xywh[3] - both):
                count += 1
                break
    return count


def _is_learnable(scene: Scene, box: Box) -> bool:
    """Whether an object is trained on: no crowd, and as large as a pixel."""
    return not box.crowd and min(_inside(scene, box)) >= 1


def _inside(scene: Scene, box: Box) -> tuple[float, float]:
    """Width and height of what is left of a box when it is cut at the border."""
    x, y, width, height = box.xywh
    return min(x + width, scene.width) - max(x, 0), min(y + height, scene.height) - max(y, 0)


def _with_background(train: BoxDataset, findings: Findings, options: Options) -> BoxDataset:
    scenes = train.record.scenes
    hidden = [scene for scene in scenes if scene.boxes and not any(_is_learnable(scene, box) for box in scene.boxes)]
    if hidden and len(hidden) < len(scenes):
        # as background, they would teach that there is nothing
        findings.ignore("images of which no object is trained on", *[scene.file.name for scene in hidden])
        keys = {scene.id for scene in hidden}
        kept = [scene for scene in scenes if scene.id not in keys]
        train = BoxDataset(replace(train.record, scenes=kept), train.masks, train.reading)
    empty = [scene.file.name for scene in train.record.scenes if not _objects(scene)]
    if not empty:
        return train
    if len(empty) == len(train):
        first = f": {findings.problems[0]}" if findings.problems else ""
        crowds = any(scene.boxes for scene in scenes)
        why = " but crowds and difficult objects (iscrowd, ignore or difficult is 1)" if crowds else ""
        raise DataError(f"{train.record.source}: no images with annotations{why}{first}")
    if options.background:
        findings.note(f"train: images without objects, trained on as background: {some(empty)}")
        return train
    findings.ignore("images without objects", *empty)
    return train.with_objects()


def _tell_many(split: str, record: BoxRecord, findings: Findings) -> None:
    """Say which images have more objects than are found in one."""
    many = [scene.file.name for scene in record.scenes if sum(not box.crowd for box in scene.boxes) > _MOST]
    if many:
        findings.note(
            f"{split}: images with more than {_MOST} objects, while detectors find {_MOST} in an image by default, and "
            f"COCO's figures count no more: {some(many)}"
        )


def _tell_masks(split: str, record: BoxRecord, findings: Findings) -> None:
    """Say which masks have no pixel, and which have holes that are filled."""
    void: list[str] = []
    filled: list[str] = []
    for scene in record.scenes:
        for box in _objects(scene):
            name = f"{split} {scene.file.name}"
            filled += [name] * has_filled_hole(box.mask)
            void += [name] * (mask_bounds(box.mask, scene.height, scene.width) is None)
    if void:
        findings.note(f"{split}: objects whose mask has no pixel, which are learnt as such: {some(void)}")
    if filled:
        findings.note(
            f"{split}: masks with a polygon inside another, which is filled; holes want run lengths: {some(filled)}"
        )


def detection_data(
    spec: str,
    where: Path,
    records: dict[str, BoxRecord],
    findings: Findings,
    options: Options,
    stray: str,
    elsewhere: Iterable[Path] = (),
) -> DetectionData:
    """A detection data set from the records of its splits, which must have the same classes.

    Args:
        spec: what it was opened by.
        where: its folder.
        records: the images and boxes of each split.
        findings: what the format found.
        options: how it is opened.
        stray: the reason why images of the folder are not used: "images without an XML file".
        elsewhere: folders of its images that are outside of its own.

    Raises:
        DataError: for problems that are not to be skipped, splits without images, or of other classes.
    """
    findings.settle(where, options.on_problem)
    for split, record in records.items():
        if not record.scenes and findings.problems:
            raise DataError(f"{record.source}: no usable images in {split}: {findings.problems[0]}")
    parts = {split: BoxDataset(record, options.masks, options.reading) for split, record in records.items()}
    first, *others = records.items()
    for split, record in others:
        if difference := _difference(first, (split, record)):
            raise DataError(
                f"{where}: {first[0]} and {split} have different categories: {difference}; give each the same "
                "name and id in both"
            )
    for split, record in records.items():
        _tell_objects(split, record, findings, options.allow_empty)
        _tell_many(split, record, findings)
        if options.masks and len(record.scenes) <= CHECK_LIMIT:
            _tell_masks(split, record, findings)
        shared = {scene.file for scene in record.scenes} & {scene.file for scene in first[1].scenes}
        if split != first[0] and shared:
            findings.note(f"{split}: images that are also in {first[0]}: {some(sorted(file.name for file in shared))}")
    if "train" in parts:
        parts["train"] = _with_background(parts["train"], findings, options)
    tell_alike(first[1].classes, findings)
    tell_leftovers(where, findings, stray, options.only, elsewhere)
    findings.used.update({split: len(part) for split, part in parts.items()})
    return DetectionData(spec, first[1].classes, parts, findings)
