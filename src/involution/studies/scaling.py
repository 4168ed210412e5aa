"""The time of a training step on many devices, on paper: computing, the bytes on the links, and what overlaps.

Every device has its own images and the same number of them, so the time of computing stays and that of communication
is added. A ring of n devices moves a block of S bytes in rounds: each gives every device (n - 1)/n of the block, and
takes ::

    (n - 1)/n · S/B + (n - m)·a + (m - 1)·b

seconds, with the link's B bytes a second in one direction, m nodes, a seconds for a hop inside a node and b for one
between nodes. To gather a block, or to sum and scatter it, is one round; an all-reduce is two.

DDP computes forward for F seconds, backward for R, and all-reduces the gradients in K buckets meanwhile. FSDP keeps
a share of each layer: it gathers L groups of layers for forward, gathers them again for backward except the group of
the root, and scatters the gradients. Beside a phase of c seconds that has k equal parts, k communications of t seconds
in all are hidden but for one part: ``max(c + t/k, c/k + t)`` instead of ``c + t``.

Data loading, uneven batches, other traffic on the links and evaluations are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from involution.studies.errors import StudyError


@dataclass(frozen=True)
class Link:
    """What connects devices.

    Attributes:
        bytes_per_s: In one direction.
        hop_s: Seconds from one device to the next, however small the message.
    """

    bytes_per_s: float
    hop_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.bytes_per_s > 0:
            raise StudyError(f"a link must move more than 0 bytes a second, got {self.bytes_per_s:g}")
        if not 0 <= self.hop_s < math.inf:
            raise StudyError(f"a hop must take 0 seconds or more, got {self.hop_s:g}")


@dataclass(frozen=True)
class Cluster:
    """Nodes of devices.

    Attributes:
        inside: The link of a device to the next one in its node.
        between: The link of a node to the next node, all its adapters together.
        per_node: Devices in a node.
    """

    inside: Link
    between: Link
    per_node: int = 8

    def __post_init__(self) -> None:
        if self.per_node < 1:
            raise StudyError(f"a node must have 1 device or more, got {self.per_node}")

    def ring(self, devices: int, size: float, rounds: int = 1, blocks: int = 1) -> float:
        """Return the seconds that a ring takes.

        Args:
            devices: How many; the last node may be filled in part.
            size: Bytes of all blocks together.
            rounds: 1 to gather or to scatter, 2 for an all-reduce.
            blocks: In how many messages the bytes go: each pays for its hops.
        """
        nodes = -(-devices // self.per_node)
        speed = self.inside.bytes_per_s
        if nodes > 1:
            speed = min(speed, self.between.bytes_per_s)
        hops = (devices - nodes) * self.inside.hop_s + (nodes - 1) * self.between.hop_s
        return rounds * (ring_bytes(devices, size) / speed + blocks * hops)


def ring_bytes(devices: int, size: float, rounds: int = 1) -> float:
    """Return the bytes that each device of a ring sends."""
    return rounds * (devices - 1) / devices * size


@dataclass(frozen=True)
class Work:
    """A training step on one device, and what of its network is sent.

    Attributes:
        step_s: Seconds of computing.
        gradient_bytes: Of all gradients.
        parameter_bytes: Of all parameters.
        root_bytes: Of those that FSDP gathers only once, as they stand outside of its groups.
        groups: Groups of layers that FSDP gathers one by one, the root's included.
        backward: Share of the step that is backward.
    """

    step_s: float
    gradient_bytes: float
    parameter_bytes: float
    root_bytes: float = 0.0
    groups: int = 1
    backward: float = 2 / 3

    def __post_init__(self) -> None:
        if not 0 < self.step_s < math.inf:
            raise StudyError(f"a step must take more than 0 seconds, got {self.step_s:g}")
        if not 0 <= self.backward <= 1:
            raise StudyError(f"the share of the backward pass must be from 0 to 1, got {self.backward:g}")


@dataclass(frozen=True)
class Prediction:
    """A step on some devices.

    Attributes:
        step_s: Seconds of the step.
        communication_s: Seconds in which the links are busy.
        exposed_s: Those of them in which the device waits.
        sent_bytes: That each device sends.
    """

    step_s: float
    communication_s: float
    exposed_s: float
    sent_bytes: float


Strategy = Callable[..., Prediction]


def ddp(
    work: Work, devices: int, cluster: Cluster, *, overlap: float = 1.0, bucket_bytes: float = 25 * 2**20
) -> Prediction:
    """Predict a step of DistributedDataParallel, or of one device.

    Args:
        work: The step on one device.
        devices: How many.
        cluster: How they are connected.
        overlap: Which share of what can be hidden behind the backward pass is hidden; 0: communication begins after it.
        bucket_bytes: The most that is all-reduced at once.
    """
    _check(devices, overlap)
    size = work.gradient_bytes
    buckets = max(1, math.ceil(size / bucket_bytes))
    reduce = cluster.ring(devices, size, rounds=2, blocks=buckets)
    phases = [(work.backward * work.step_s, reduce, buckets)]
    return _predict(work, phases, overlap, ring_bytes(devices, size, 2))


def fsdp(
    work: Work,
    devices: int,
    cluster: Cluster,
    *,
    overlap: float = 1.0,
    scatter: Cluster | None = None,
    scatter_rounds: int = 1,
) -> Prediction:
    """Predict a step of FSDP2 whose groups are gathered for forward and once more for backward.

    Args:
        work: The step on one device.
        devices: How many.
        cluster: How they are connected.
        overlap: As in `ddp`.
        scatter: The same as it was measured for scattering, where it differs.
        scatter_rounds: 2 for gloo, which scatters by an all-reduce.
    """
    _check(devices, overlap)
    groups, forward = work.groups, (1 - work.backward) * work.step_s
    again = work.parameter_bytes - work.root_bytes
    gather = cluster.ring(devices, work.parameter_bytes, blocks=groups)
    back = cluster.ring(devices, again, blocks=groups - 1)
    back += (scatter or cluster).ring(devices, work.gradient_bytes, scatter_rounds, groups)
    sent = ring_bytes(devices, work.parameter_bytes + again) + ring_bytes(devices, work.gradient_bytes, scatter_rounds)
    phases = [(forward, gather, groups), (work.backward * work.step_s, back, groups)]
    return _predict(work, phases, overlap, sent)


STRATEGIES: dict[str, Strategy] = {"ddp": ddp, "fsdp": fsdp}
"""By the names that ``--strategy`` has."""


def _predict(work: Work, phases: list[tuple[float, float, int]], overlap: float, sent: float) -> Prediction:
    busy = sum(communication for _, communication, _ in phases)
    at_best = sum(_beside(*phase) for phase in phases)
    exposed = overlap * at_best + (1 - overlap) * busy
    return Prediction(work.step_s + exposed, busy, exposed, sent)


def _beside(computing: float, communication: float, parts: int) -> float:
    """Return the seconds by which communication in equal parts makes a phase of computing longer."""
    return max(computing + communication / parts, computing / parts + communication) - computing


def _check(devices: int, overlap: float) -> None:
    if devices < 1:
        raise StudyError(f"the number of devices must be 1 or more, got {devices}")
    if not 0 <= overlap <= 1:
        raise StudyError(f"the overlap must be from 0 to 1, got {overlap:g}")


def link_of(devices: int, size: float, rounds: int, tiny_s: float, full_s: float) -> Link:
    """Return the link that two measured collectives of a ring in one node show.

    Args:
        devices: In the ring.
        size: Bytes of the larger one.
        rounds: As in `Cluster.ring`.
        tiny_s: Seconds of one of a few bytes.
        full_s: Seconds of the larger one.
    """
    # noise can make the larger one seem the quicker one
    moving = max(full_s - tiny_s, 0.1 * full_s)
    return Link(ring_bytes(devices, size, rounds) / moving, tiny_s / (rounds * (devices - 1)))
