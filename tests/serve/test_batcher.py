"""Images are taken together where they wait together, and none waits for nobody."""

import asyncio
import threading
import time

import pytest

from involution.serve.batcher import Batcher, Full, Job

WAIT = 0.6


class Recorder:
    def __init__(self):
        self.batches, self.free = [], threading.Event()
        self.free.set()

    def __call__(self, images, options):
        self.batches.append(list(images))
        self.free.wait(10)
        return [image.upper() for image in images]


@pytest.fixture
def made():
    batchers = []

    def make(run, sizes=range(1, 5), wait=WAIT, most_pixels=1000, most_waiting=8):
        batchers.append(Batcher(run, tuple(sizes), wait, most_pixels, most_waiting))
        return batchers[-1]

    yield make
    for batcher in batchers:
        assert batcher.close(10)


def job(image, pixels=1, **options):
    return Job(image, pixels, options, asyncio.get_running_loop().create_future())


def put(batcher, *images, **options):
    jobs = [job(image, **options) for image in images]
    for one in jobs:
        batcher.put(one)
    return jobs


async def outcomes(jobs):
    return await asyncio.wait_for(asyncio.gather(*(one.outcome for one in jobs)), 10)


def test_one_image_does_not_wait(made):
    recorder = Recorder()
    batcher = made(recorder, wait=60)

    async def run():
        return [await outcomes(put(batcher, b"a")) for _ in range(3)]

    assert asyncio.run(run()) == [[b"A"]] * 3


def test_what_came_meanwhile_is_taken_together(made):
    recorder = Recorder()
    batcher = made(recorder)

    async def run():
        recorder.free.clear()
        first = put(batcher, b"a")
        while batcher.working is None:
            await asyncio.sleep(0.001)
        rest = put(batcher, *(b"%d" % number for number in range(6)))
        recorder.free.set()
        found = await outcomes(first + rest)
        assert [one.batch for one in rest] == [4, 4, 4, 4, 2, 2]
        assert all(one.since <= one.taken <= one.done for one in rest)
        return found

    assert asyncio.run(run()) == [b"A", b"0", b"1", b"2", b"3", b"4", b"5"]
    assert list(map(len, recorder.batches)) == [1, 4, 2]


def test_after_several_a_single_one_waits_for_others_no_longer_than_allowed(made):
    recorder = Recorder()
    batcher = made(recorder, sizes=range(1, 9))

    async def run():
        recorder.free.clear()
        jobs = put(batcher, b"a")
        while batcher.working is None:
            await asyncio.sleep(0.001)
        jobs += put(batcher, *b"bcd".split(), b"e", b"f")
        recorder.free.set()
        await outcomes(jobs)
        # three waited last time: two of them are waited for, and when they are there nobody waits any longer
        again = put(batcher, b"x", b"y")
        await asyncio.sleep(WAIT / 4)
        again += put(batcher, b"z")
        await outcomes(again)
        assert [one.batch for one in again] == [3, 3, 3]
        start = time.monotonic()
        await outcomes(put(batcher, b"q"))
        alone = time.monotonic() - start
        assert alone >= WAIT * 0.9
        start = time.monotonic()
        await outcomes(put(batcher, b"q"))
        assert time.monotonic() - start < WAIT * 0.9

    asyncio.run(run())


def test_images_of_other_options_and_too_many_pixels_are_taken_apart(made):
    recorder = Recorder()
    batcher = made(recorder)

    async def run():
        recorder.free.clear()
        jobs = put(batcher, b"first")
        while batcher.working is None:
            await asyncio.sleep(0.001)
        jobs += put(batcher, b"a", b"b", topk=1) + put(batcher, b"c", topk=2) + put(batcher, b"d", topk=1)
        jobs += [job(b"e", 600), job(b"f", 600), job(b"g", 5000)]
        for one in jobs[-3:]:
            batcher.put(one)
        recorder.free.set()
        await outcomes(jobs)

    asyncio.run(run())
    assert recorder.batches == [[b"first"], [b"a", b"b", b"d"], [b"c"], [b"e"], [b"f"], [b"g"]]


def test_only_sizes_that_are_there_are_taken(made):
    recorder = Recorder()
    batcher = made(recorder, sizes=(1, 4))

    async def run():
        recorder.free.clear()
        jobs = put(batcher, b"first")
        while batcher.working is None:
            await asyncio.sleep(0.001)
        jobs += put(batcher, *(b"x" for _ in range(7)))
        recorder.free.set()
        await outcomes(jobs)

    asyncio.run(run())
    assert list(map(len, recorder.batches)) == [1, 4, 1, 1, 1]


def test_when_it_is_full_nothing_more_may_wait_and_what_is_dropped_makes_room(made):
    recorder = Recorder()
    batcher = made(recorder, most_waiting=2)

    async def run():
        recorder.free.clear()
        first = put(batcher, b"first")
        while batcher.working is None:
            await asyncio.sleep(0.001)
        dropped, kept = put(batcher, b"a", b"b")
        with pytest.raises(Full):
            put(batcher, b"c")
        batcher.drop(dropped)
        assert len(batcher) == 1
        more = put(batcher, b"c")
        # not there any more, which is no mistake
        batcher.drop(dropped)
        recorder.free.set()
        await outcomes([*first, kept, *more])
        assert not dropped.outcome.done()

    asyncio.run(run())
    assert recorder.batches == [[b"first"], [b"b", b"c"]]


def test_whoever_waits_hears_of_anything(made):
    def run(images, options):
        raise (SystemExit, StopIteration)[images[0] == b"b"]("end")

    batcher = made(run)

    async def ask():
        for image, kind in ((b"a", "SystemExit"), (b"b", "StopIteration")):
            (one,) = put(batcher, image)
            with pytest.raises(RuntimeError, match=f"^{kind}: end "):
                await one.outcome

    asyncio.run(ask())


def test_what_waits_is_worked_off_before_the_end(made):
    recorder = Recorder()
    batcher = made(recorder, wait=60)

    async def run():
        recorder.free.clear()
        jobs = put(batcher, b"first")
        while batcher.working is None:
            await asyncio.sleep(0.001)
        jobs += put(batcher, b"a", b"b")
        assert not batcher.close(0.05)
        with pytest.raises(Full):
            put(batcher, b"c")
        recorder.free.set()
        return await outcomes(jobs)

    assert asyncio.run(run()) == [b"FIRST", b"A", b"B"]
