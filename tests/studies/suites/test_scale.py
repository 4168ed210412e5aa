"""The suite of several processes: what it plans, and what it says of measured rows."""

import json
import socket

import pytest
import torch

from involution.studies import harness
from involution.studies.suites import scale


def row(candidate, p50_ms, **more):
    kind = "link" if "-" in candidate else "step"
    ratio = {"p50_ratio": p50_ms / 100} if kind == "step" else {}
    return {
        "measure": f"{kind}, 4 processes",
        "layer": "RedNet-26, 64×64",
        "candidate": candidate,
        "p50_ms": p50_ms,
        **ratio,
        **more,
    }


@pytest.fixture
def measured(monkeypatch):
    """The rows of four processes on two cores that measured these."""
    megabyte = {"message_bytes": 1_000_000}
    found = [
        row("one process", 100.0),
        row("no communication", 220.0),
        row("DDP", 300.0, sent_bytes=55_400_000),
        row("FSDP2", 400.0),
        # 2·3/4 MB in 15 ms, 3/4 MB in 15 ms, 2·3/4 MB in 30 ms, beside 1 ms of hops
        *(row("all-reduce", 16.0, **megabyte), row("all-reduce, tiny", 1.0)),
        *(row("all-gather", 16.0, **megabyte), row("all-gather, tiny", 1.0)),
        *(row("reduce-scatter", 31.0, **megabyte), row("reduce-scatter, tiny", 1.0)),
    ]
    monkeypatch.setattr(scale, "cores", lambda: 2)
    case = scale._Case("rednet26", "RedNet-26", 64)
    costs = {"DDP": 1.1, "FSDP2": 1.5}
    return scale._complete(scale._Setting(case, 8, 2, ("ddp", "fsdp")), 4, found, costs)


def test_speed_and_efficiency(measured):
    alone, apart, ddp, fsdp = measured[:4]
    # 8 images in 100 ms; 4·8 in 300 ms
    assert [step["images_per_s"] for step in (alone, ddp)] == [80, 106.67]
    # of four processes on four devices a third would be left, of what two cores allow two thirds
    assert [step["efficiency"] for step in (alone, ddp, fsdp)] == [1, 0.333, 0.25]
    assert [step["core_efficiency"] for step in (alone, apart, ddp)] == [1, 0.909, 0.667]
    assert all(step["oversubscribed"] for step in measured)


def test_predictions(measured):
    size = 36.932664
    _, _, ddp, fsdp = measured[:4]
    # by DDP a step of one process takes 1.1 times as long; 10 ms a megabyte and round, two rounds of 3/4; two buckets
    # with their hops
    reduce = 15 * size + 2 * 1
    assert ddp["predicted_ms"] == pytest.approx(1.1 * 220 + reduce, rel=1e-4)
    # four processes take turns on two cores
    assert ddp["predicted_from_one_ms"] == pytest.approx(1.1 * 200 + reduce, rel=1e-4)
    assert ddp["predicted_ratio"] == pytest.approx((1.1 * 220 + reduce) / 300, abs=1e-3)
    assert ddp["counted_bytes"] == pytest.approx(1.5e6 * size, rel=1e-6)
    # all that is outside of the blocks is gathered once
    root = fsdp["counted_bytes"] / 0.75e6
    root = size * 4 - root
    gather = 15 * (2 * size - root) + 10 + 9
    assert fsdp["predicted_ms"] == pytest.approx(1.5 * 220 + gather + 30 * size + 10, rel=1e-4)
    names = [target.name for target in scale.SUITE.targets(measured)]
    assert names == [
        "predicted ÷ measured step, DDP, 4 processes, RedNet-26, 64×64",
        "sent ÷ counted bytes, DDP, 4 processes, RedNet-26, 64×64",
        "predicted ÷ measured step, FSDP2, 4 processes, RedNet-26, 64×64",
    ]
    assert not scale.SUITE.targets(measured)[0].met
    assert scale.SUITE.targets(measured)[1].met


def test_one_process_by_itself(tmp_path, monkeypatch):
    # this process is to keep its own
    monkeypatch.setattr(scale.signal, "signal", lambda *args: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    setting = scale._Setting(scale._TINY[0], 2, 2, ("ddp", "fsdp"))
    scale._process(0, setting, 1, str(tmp_path))
    costs = {}
    rows = scale._complete(setting, 1, json.loads((tmp_path / "rows").read_text()), costs)
    assert [step["candidate"] for step in rows] == ["one process", "no communication", "DDP", "FSDP2"]
    assert {step["measure"] for step in rows} == {"step, 1 process"}
    for step in rows[2:]:
        assert step["own_cost"] == costs[step["candidate"]] == step["p50_ratio"]
        assert "predicted_ms" not in step
        assert step["core_efficiency"] == step["efficiency"]


@pytest.mark.slow
def test_two_processes_send_what_is_counted():
    plan = scale.SUITE.measurements(harness.Options(dry_run=True, rounds=2))
    rows = [found for found in harness.run(plan) if "note" not in found]
    sent = {(found["processes"], found["candidate"]): found for found in rows if "counted_bytes" in found}
    assert set(sent) == {(2, name) for name in ("DDP", "FSDP2")}
    for name in ("DDP", "FSDP2"):
        found = sent[2, name]
        assert found["threads"] == 1
        # and the handshakes of each message and of the barrier
        if "sent_bytes" in found:
            assert found["counted_bytes"] <= found["sent_bytes"] <= found["counted_bytes"] * 1.01 + 20_000


@pytest.mark.skipif(scale.sent_bytes() is None, reason="the system does not say what a socket sent")
def test_what_a_socket_sent():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        other, _ = server.accept()
        with other:
            before = scale.sent_bytes()
            client.sendall(bytes(12345))
            assert other.recv(12345, socket.MSG_WAITALL) == bytes(12345)
            assert scale.sent_bytes() - before == 12345
