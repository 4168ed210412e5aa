import os
import signal

import torch

from involution.data.arrays import digits
from involution.engine.loader import EvalBatches, EvalItems, TrainBatches, TrainItems, derive_seed, make_loader


def indices(batches):
    return [[index for _, index in batch] for batch in batches]


def test_each_image_at_most_once_an_epoch_and_another_order_in_the_next():
    batches = TrainBatches(50, 16, seed=3)
    first = indices(batches)
    assert [len(batch) for batch in first] == [16, 16, 16]
    assert len({index for batch in first for index in batch}) == 48
    assert indices(TrainBatches(50, 16, seed=3)) == first
    assert indices(TrainBatches(50, 16, seed=4)) != first
    batches.set_epoch(1)
    assert indices(batches) != first
    assert {epoch for batch in batches for epoch, _ in batch} == {1}


def test_devices_and_accumulation_share_the_same_batches():
    whole = indices(TrainBatches(50, 16))
    parts = [indices(TrainBatches(50, 16, rank=rank, world_size=2)) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(batch) for batch in whole]
    small = indices(TrainBatches(50, 16, accumulate=4))
    assert [[index for batch in small[i : i + 4] for index in batch] for i in range(0, 12, 4)] == whole


def test_a_resumed_epoch_gives_the_rest_and_the_next_one_all():
    whole = TrainBatches(50, 10)
    whole.set_epoch(2)
    resumed = TrainBatches(50, 10, start=(2, 3))
    assert list(resumed) == list(whole)[3:]
    assert len(resumed) == 5
    resumed.set_epoch(3)
    assert len(list(resumed)) == 5


def test_evaluation_sees_each_image_once_without_padding():
    parts = [list(EvalBatches(23, 5, rank, 3)) for rank in range(3)]
    assert sorted(index for part in parts for batch in part for index in batch) == list(range(23))
    assert [len(EvalBatches(23, 5, rank, 3)) for rank in range(3)] == [len(part) for part in parts]


def noise(image, target):
    return image.float() + torch.rand(1), target


def as_float(image, target):
    return image.float(), target


def test_augmentation_depends_on_seed_epoch_and_image_alone():
    def images(seed, cache=False):
        return TrainItems(digits(), noise, seed, as_float, cache)

    one = images(0)[0, 5][0]
    torch.rand(7)
    assert torch.equal(images(0)[0, 5][0], one)
    assert not torch.equal(images(0)[1, 5][0], one)
    assert not torch.equal(images(1)[0, 5][0], one)
    cached = images(0, cache=True)
    assert [torch.equal(cached[0, 5][0], one) for _ in range(2)] == [True, True]
    assert torch.equal(cached[1, 5][0], images(0)[1, 5][0])


def test_worker_processes_change_nothing():
    def first(workers):
        loader = make_loader(TrainItems(digits(), noise, 0, as_float), TrainBatches(32, 16), workers, pin_memory=False)
        return [image for image, _ in loader]

    assert all(torch.equal(a, b) for a, b in zip(first(0), first(1), strict=True))


def test_cached_evaluation_reads_once():
    seen = []

    class Source:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            seen.append(index)
            return torch.zeros(1), index

    for cache, reads in ((True, 1), (False, 2)):
        seen.clear()
        images = EvalItems(Source(), as_float, cache)
        assert images[2][1] == images[2][1] == 2
        assert len(seen) == reads


def test_seeds_differ_by_every_part():
    assert len({derive_seed(a, b, c) for a in range(4) for b in range(4) for c in range(4)}) == 64


class SignalHandlers(torch.utils.data.Dataset):
    """How many of the signals that ask for an end leave a loader process at work."""

    def __getitem__(self, index):
        asking = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM)
        for number in asking:
            signal.raise_signal(number)
        return signal.alarm(0) + len(asking)


def test_loader_processes_leave_signals_to_the_parent():
    # a minute is left after SIGTERM
    assert next(iter(make_loader(SignalHandlers(), [[0]], 1, pin_memory=False))).item() in (63, 64)


def test_no_more_loader_processes_than_cores():
    assert make_loader(SignalHandlers(), [[0]], 10_000, pin_memory=False).num_workers == len(os.sched_getaffinity(0))
