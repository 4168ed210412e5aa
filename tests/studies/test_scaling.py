"""Predictions of steps on many devices: figures computed by hand, and limits that hold whatever the figures."""

import math

import pytest

from involution.studies.errors import StudyError
from involution.studies.scaling import STRATEGIES, Cluster, Link, Work, ddp, fsdp, link_of, ring_bytes

# 4 devices to a node; 10 GB/s and 1 µs inside, 5 GB/s and 10 µs between
CLUSTER = Cluster(Link(10e9, 1e-6), Link(5e9, 10e-6), per_node=4)
INFINITE = Cluster(Link(math.inf), Link(math.inf))
# 90 ms, a third of it forward; 40 MB of parameters, 8 MB of them outside of the 3 blocks
WORK = Work(0.09, 40e6, 40e6, 8e6, groups=4)


def test_rings_by_hand():
    # 3/4 of 40 MB at 10 GB/s are 3 ms, and 3 hops inside; all of it twice for an all-reduce
    assert CLUSTER.ring(4, 40e6) == pytest.approx(0.003 + 3e-6)
    assert CLUSTER.ring(4, 40e6, rounds=2) == pytest.approx(0.006 + 6e-6)
    # 7/8 of 40 MB at the slower 5 GB/s are 7 ms; 6 hops inside and 1 between, for each of 2 blocks
    assert CLUSTER.ring(8, 40e6, blocks=2) == pytest.approx(0.007 + 2 * (6e-6 + 10e-6))
    # a fifth device is alone in a node
    assert CLUSTER.ring(5, 0) == pytest.approx(3e-6 + 10e-6)
    assert [ring_bytes(n, 1000, 2) for n in (1, 2, 4, 1000)] == [0, 1000, 1500, 1998]


def test_ddp_by_hand():
    # 2 buckets, 2·7/8·40 MB at 5 GB/s = 14 ms, 2·2 times 16 µs of hops: 14.064 ms; without overlap all of it waits
    plain = ddp(WORK, 8, CLUSTER, overlap=0, bucket_bytes=20e6)
    assert plain.step_s == pytest.approx(0.09 + 0.014064)
    assert plain.communication_s == plain.exposed_s == pytest.approx(0.014064)
    assert plain.sent_bytes == pytest.approx(70e6)
    # behind 60 ms of backward the first bucket is hidden, the second is not
    hidden = ddp(WORK, 8, CLUSTER, bucket_bytes=20e6)
    assert hidden.step_s == pytest.approx(0.09 + 0.007032)
    assert ddp(WORK, 8, CLUSTER, overlap=0.5, bucket_bytes=20e6).step_s == pytest.approx(0.09 + 0.010548)
    # one bucket can't be hidden
    assert ddp(WORK, 8, CLUSTER, bucket_bytes=40e6).exposed_s == pytest.approx(0.014 + 2 * 16e-6)


def test_ddp_that_waits_for_the_links_by_hand():
    # 2·3/4·4 GB at 10 GB/s = 600 ms in 10 buckets; the links idle only until the first is ready, after 6 ms
    work = Work(0.09, 4e9, 4e9)
    cluster = Cluster(Link(10e9), Link(10e9), 4)
    assert ddp(work, 4, cluster, bucket_bytes=4e8).step_s == pytest.approx(0.03 + 0.006 + 0.6)


def test_fsdp_by_hand():
    # forward gathers 40 MB in 4 groups: 3 ms and 4·3 hops; backward 32 MB in 3: 2.4 ms and 9 hops, and scatters as
    # much as forward gathers
    forward, backward = 0.003 + 12e-6, 0.0024 + 9e-6 + 0.003 + 12e-6
    plain = fsdp(WORK, 4, CLUSTER, overlap=0)
    assert plain.step_s == pytest.approx(0.09 + forward + backward)
    assert plain.sent_bytes == pytest.approx(0.75 * (40e6 + 32e6 + 40e6))
    # one of four parts of each waits
    assert fsdp(WORK, 4, CLUSTER).exposed_s == pytest.approx((forward + backward) / 4)
    # gloo's scatter sends twice as much
    gloo = fsdp(WORK, 4, CLUSTER, overlap=0, scatter_rounds=2)
    assert gloo.step_s - plain.step_s == pytest.approx(0.003 + 12e-6)
    assert gloo.sent_bytes - plain.sent_bytes == pytest.approx(30e6)
    # and can be measured apart
    slow = Cluster(Link(1e9), Link(1e9), 4)
    assert fsdp(WORK, 4, CLUSTER, overlap=0, scatter=slow).step_s == pytest.approx(
        0.09 + forward + 0.0024 + 9e-6 + 0.03
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_limits(strategy):
    predict = STRATEGIES[strategy]
    alone = predict(WORK, 1, CLUSTER)
    assert (alone.step_s, alone.communication_s, alone.sent_bytes) == (0.09, 0, 0)
    assert predict(WORK, 512, INFINITE, overlap=0).step_s == 0.09
    times = [predict(WORK, 64, CLUSTER, overlap=share).step_s for share in (1, 0.7, 0.2, 0)]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(0.09 + predict(WORK, 64, CLUSTER).communication_s)
    more = [predict(WORK, number, CLUSTER).step_s for number in (1, 2, 4, 8, 64, 512)]
    assert more == sorted(more)
    # never quicker than computing, nor than the links
    for step in (1e-6, 1e-3, 1.0):
        made = predict(Work(step, 40e6, 40e6, 8e6, 4), 64, CLUSTER)
        assert made.step_s >= max(step, made.communication_s)
        assert made.step_s == pytest.approx(step + made.exposed_s)
    # of a ring, bytes tend to those of two rounds, or of three without the root's second gathering
    whole = {"ddp": 80e6, "fsdp": 112e6}[strategy]
    assert predict(WORK, 10**6, CLUSTER).sent_bytes == pytest.approx(whole, rel=1e-5)


def test_a_link_from_two_measurements():
    # 2·1/2·8 MB in 10 ms less the 2 ms of a tiny one; 2 rounds of 1 hop
    link = link_of(2, 8e6, 2, 0.002, 0.010)
    assert (link.bytes_per_s, link.hop_s) == (pytest.approx(1e9), pytest.approx(0.001))
    assert Cluster(link, link, 2).ring(2, 8e6, 2) == pytest.approx(0.010)
    # noise does not make a link that goes backward in time
    assert 0 < link_of(2, 8e6, 2, 0.011, 0.010).bytes_per_s < math.inf


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Link(0), "more than 0 bytes a second, got 0"),
        (lambda: Link(math.nan), "more than 0 bytes a second, got nan"),
        (lambda: Link(1, -1), "0 seconds or more, got -1"),
        (lambda: Cluster(Link(1), Link(1), 0), "1 device or more, got 0"),
        (lambda: Work(0, 1, 1), "more than 0 seconds, got 0"),
        (lambda: Work(1, 1, 1, backward=1.5), "from 0 to 1, got 1.5"),
        (lambda: ddp(WORK, 0, CLUSTER), "devices must be 1 or more, got 0"),
        (lambda: fsdp(WORK, 2, CLUSTER, overlap=2), "overlap must be from 0 to 1, got 2"),
    ],
)
def test_wrong_numbers(make, message):
    with pytest.raises(StudyError, match=message):
        make()
