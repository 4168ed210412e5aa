"""Batches whose order and augmentation depend only on the seed, the epoch and the image.

So a run is repeatable, a resumed run continues with exactly the batches it would have seen, and any number of
devices share the same batches.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from involution.data.images import ImageError
from involution.data.records import item_name

_MASK = 2**63 - 1
# seconds that a loader process which was told to end still serves its parent
_GRACE = 60
# from (image, target) to an item of a batch
Transform = Callable[..., tuple[Tensor, Any]]


def derive_seed(*parts: int) -> int:
    """A seed from whole numbers that changes if any of them does."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) & _MASK


class TrainBatches(Sampler[list[tuple[int, int]]]):
    """Shuffled batches of (epoch, image index); each image at most once an epoch, on one of the devices.

    With `weights`, images are drawn with replacement instead, as torch's WeightedRandomSampler does.

    The last incomplete optimiser step of an epoch is left out.

    Args:
        num_images: size of the training set.
        batch_size: images per optimiser step, over all devices and accumulation steps.
        accumulate: loader batches per optimiser step.
        seed: draws the order.
        rank: this device.
        world_size: number of devices.
        start: (epoch, batch) to start at, for a resumed run.
        weights: how often each image is drawn, in any unit [num_images]; None for every image alike.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        accumulate: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start: tuple[int, int] = (0, 0),
        weights: Any = None,
    ) -> None:
        self.chances = None if weights is None else np.asarray(weights, np.float64) / np.sum(weights)
        self.num_images = num_images
        self.size = batch_size // accumulate
        self.num_batches = num_images // batch_size * accumulate
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self.epoch = start[0]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass."""
        self.epoch = epoch

    @property
    def sampler(self) -> TrainBatches:
        """Itself: where Lightning looks for `set_epoch`."""
        return self

    def __len__(self) -> int:
        # the whole epoch, even if a resumed run starts in the middle of it: this is how Lightning counts
        return self.num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        random = np.random.default_rng([self.seed, self.epoch])
        if self.chances is None:
            order = random.permutation(self.num_images)
        else:
            order = random.choice(self.num_images, self.num_images, p=self.chances)
        first = self.start[1] if self.epoch == self.start[0] else 0
        for number in range(first, self.num_batches):
            batch = order[number * self.size : (number + 1) * self.size]
            yield [(self.epoch, int(index)) for index in batch[self.rank :: self.world_size]]


class EvalBatches(Sampler[list[int]]):
    """Every image once, over all devices together, without padding.

    Args:
        num_images: size of the split.
        batch_size: images per batch on one device.
        rank: this device.
        world_size: number of devices.

    Attributes:
        common: number of batches that every device has.
    """

    def __init__(self, num_images: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, num_images, world_size)
        self.batch_size = batch_size
        self.common = -(-(num_images // world_size) // batch_size)

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for first in range(0, len(self.indices), self.batch_size):
            yield list(self.indices[first : first + self.batch_size])


class TrainItems(Dataset[tuple[Tensor, Any]]):
    """Training images with their targets, each augmented with its own random numbers.

    Args:
        source: yields (image, target).
        random: the part of the transform (of both) that is drawn anew each time.
        seed: seed of the augmentation.
        fixed: the part that is the same every time, or None.
        cache: keep the results of `fixed`.
        weights: how often each image is drawn, None for every image alike.
    """

    def __init__(
        self,
        source: Dataset[Any],
        random: Transform,
        seed: int,
        fixed: Transform | None = None,
        cache: bool = False,
        weights: Any = None,
    ) -> None:
        self.weights = weights
        self.source = source
        self.random = random
        self.seed = seed
        self.fixed = fixed
        self.cached: dict[int, Any] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Any]:
        epoch, index = key
        item = _item(self.source, self.fixed, self.cached, index)
        torch.default_generator.manual_seed(derive_seed(self.seed, epoch, index))
        return _transformed(self.random, item, self.source, index)


class EvalItems(Dataset[tuple[Tensor, Any]]):
    """Images and targets as evaluation sees them.

    Args:
        source: yields (image, target).
        transform: transform of both.
        cache: keep its results.
    """

    def __init__(self, source: Dataset[Any], transform: Transform, cache: bool = False) -> None:
        self.source = source
        self.transform = transform
        self.cached: dict[int, Any] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        image, target = _item(self.source, self.transform, self.cached, index)
        return image, target


def _item(source: Dataset[Any], transform: Transform | None, cached: dict[int, Any] | None, index: int) -> Any:
    if cached is not None and index in cached:
        return cached[index]
    item = source[index]
    if transform is not None:
        item = _transformed(transform, item, source, index)
    if cached is not None:
        cached[index] = item
    return item


def _transformed(transform: Transform, item: Any, source: Dataset[Any], index: int) -> Any:
    try:
        return transform(*item)
    except ImageError as error:
        # a transform does not know which file it was given
        raise ImageError(f"{item_name(source, index)}: {error}") from error


class ImageOnly:
    """A transform of an image that leaves its target unchanged.

    Args:
        transform: transform of the image.
    """

    def __init__(self, transform: Callable[[Any], Tensor]) -> None:
        self.transform = transform

    def __call__(self, image: Any, target: Any) -> tuple[Tensor, Any]:
        """Transform the image alone."""
        return self.transform(image), target


class _Tolerant(Dataset[tuple[Any, list[str]]]):
    """Items, each with the complaints about what could not be read.

    A training batch keeps its size, on every device: for a broken image another one, drawn by seed, epoch and image,
    is taken. Of an evaluation its item is None.

    Args:
        items: training items by (epoch, index), or others by index.
    """

    def __init__(self, items: Dataset[Any]) -> None:
        self.items = items

    def __getitem__(self, key: Any) -> tuple[Any, list[str]]:
        complaints: list[str] = []
        for one in self._keys(key):
            try:
                return self.items[one], complaints
            except ImageError as error:
                complaints.append(str(error))
        if isinstance(key, tuple):
            raise ImageError(f"none of the {len(self.items)} training images can be read: {complaints[0]}")  # type: ignore[arg-type]
        return None, complaints

    def _keys(self, key: Any) -> Iterator[Any]:
        yield key
        if isinstance(key, tuple):
            epoch, index = key
            others = np.random.default_rng([epoch, index]).permutation(len(self.items))  # type: ignore[arg-type]
            yield from ((epoch, int(other)) for other in others if other != index)


class _TolerantCollate:
    """A batch of the items that are there, or None, and all complaints."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[tuple[Any, list[str]]]) -> tuple[Any, list[str]]:
        whole = [item for item, _ in items if item is not None]
        return self.collate(whole) if whole else None, [text for _, texts in items for text in texts]


class _TolerantLoader(DataLoader[Any]):
    """Yields the batches that are not empty, and notes the complaints in the process that trains or measures."""

    def __init__(self, dataset: Dataset[Any], complaints: list[str], collate: Any, **settings: Any) -> None:
        super().__init__(_Tolerant(dataset), collate_fn=_TolerantCollate(collate or default_collate), **settings)
        self.complaints = complaints
        self.on_empty: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch, complaints in super().__iter__():
            self.complaints.extend(complaints)
            if batch is not None:
                yield batch
            else:
                self.on_empty()


def make_loader(
    dataset: Dataset[Any],
    batches: Sampler[Any],
    workers: int,
    pin_memory: bool,
    collate: Any = None,
    complaints: list[str] | None = None,
) -> DataLoader[Any]:
    """A loader of ready-made batches with persistent workers, at most one per CPU core.

    Args:
        dataset: items by what `batches` yields.
        batches: the keys of each batch.
        workers: loader processes.
        pin_memory: for a CUDA device.
        collate: makes a batch of items; None for stacked tensors.
        complaints: images that can't be read are left out and told to this list; None to raise their `ImageError`.
    """
    workers = min(workers, _cores())
    settings: dict[str, Any] = {
        "batch_sampler": batches,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": pin_memory,
        "worker_init_fn": _leave_signals_to_the_parent,
    }
    if complaints is not None:
        return _TolerantLoader(dataset, complaints, collate, **settings)
    return DataLoader(dataset, collate_fn=collate, **settings)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _leave_signals_to_the_parent(worker: int) -> None:
    # a terminal and SLURM send them to every process, but the parent needs batches to finish its step
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        # the parent sends this one, too, to a worker that hangs
        signal.signal(signal.SIGTERM, _end_later)


def _end_later(number: int, frame: object) -> None:
    signal.alarm(_GRACE)
