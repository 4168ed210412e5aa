"""The server's suite: what is read of wrk's words, and a real server that a stand-in for wrk asks."""

import stat
import sys
from dataclasses import replace

import pytest
from explain_checkpoint import save_checkpoint
from serve_networks import png

from involution.predict import load_predictor
from involution.studies import harness
from involution.studies.errors import StudyError
from involution.studies.harness import Options
from involution.studies.servers import SERVERS
from involution.studies.suites import serving

SAID = """Running 2s test @ http://127.0.0.1:8080/predict
  1 threads and 4 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   101.53ms   12.01ms   1.02s    80.00%
    Req/Sec    40.00      8.16    50.00     75.00%
  Latency Distribution
     50%   99.50ms
     75%  104.00ms
     90%  111.00ms
     99%    1.02s
  78 requests in 2.00s, 40.10KB read
  Socket errors: connect 0, read 1, write 0, timeout 2
  Non-2xx or 3xx responses: 4
Requests/sec:     38.93
Transfer/sec:     20.03KB
"""


# wrk fills a unit of one letter up with a space
@pytest.mark.parametrize("text", [SAID, SAID.replace("1.02s", "1.02s ")])
def test_what_wrk_says_is_read(text):
    wanted = {"requests": 78, "requests_s": 38.93, "p50_ms": 99.5, "p99_ms": 1020.0, "refused": 7}
    assert serving.read_wrk(text) == wanted


@pytest.mark.parametrize("text", ["", SAID.replace("78 requests", "0 requests"), SAID.replace("99%", "98%")])
def test_nothing_answered_is_no_figure(text):
    with pytest.raises(StudyError, match="no request was answered"):
        serving.read_wrk(text)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Something named wrk that asks once."""
    code = f"""#!{sys.executable}
import re, sys, urllib.request
body = open(re.search(r'io.open."(.*?)"', open(sys.argv[-2]).read())[1], "rb").read()
kind = re.search(r'content-type"] = "(.*?)"', open(sys.argv[-2]).read())[1]
with urllib.request.urlopen(urllib.request.Request(sys.argv[-1], body, {{"content-type": kind}})) as answer:
    assert answer.status == 200
print({SAID.replace("78 requests", "500 requests")!r})
"""
    (tmp_path / "wrk").write_text(code)
    (tmp_path / "wrk").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def run(*parts):
    return list(harness.run(serving.SUITE.measurements(Options(dry_run=True, parts=parts, seconds=0.1))))


def test_a_server_is_asked_and_compared_with_its_predictor(stand_in, monkeypatch):
    pytest.importorskip("onnxscript")
    # milliseconds by batch; the best batch gives 200, 400 and 100 images a second
    turns = iter([{1: [10.0], 4: [40.0], 16: [80.0]}, {1: [30.0], 4: [10.0], 16: [80.0]}, {1: [10.0], 4: [80.0]}])
    monkeypatch.setattr(serving, "_alone", lambda *given: next(turns))
    monkeypatch.setattr(serving, "_in_process", lambda alone: [{"turns": len(alone)}])
    rows = run("involution")
    assert "note" not in rows[0], rows[0]["note"]
    assert rows.pop() == {"turns": 3}
    assert [(row["measure"], row["batch"]) for row in rows] == [("served", 1), ("served", 2)]
    assert [row["of_predictor"] for row in rows] == pytest.approx([38.93 / 300, 38.93 / 250], abs=1e-3)
    assert [row["p99_over_predictor"] for row in rows] == pytest.approx([1020 / 20, 1020 / 20])
    # supervisor, worker, and what multiprocessing starts beside it
    assert 2 <= rows[0]["processes"] <= 4


def test_the_predictor_is_measured_alone(tmp_path):
    predictor = load_predictor(save_checkpoint(tmp_path / "a.ckpt", channels=3, side=24), "cpu")
    found = serving._alone(predictor, png(), 0.1)
    assert set(found) == {1, 4, 16}
    rows = list(serving._in_process([found, found]))
    assert [row["batch"] for row in rows] == [1, 4, 16]
    for row in rows:
        assert 0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"] <= row["p99_ms"]
        assert row["requests_s"] == pytest.approx(1e3 * row["batch"] / row["p50_ms"], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["json", "litserve", "bentoml"])
def test_the_other_servers_answer_the_same(stand_in, part):
    pytest.importorskip("onnxscript")
    pytest.importorskip(SERVERS[part].package)
    rows = run(part)
    assert "note" not in rows[0], rows[0]["note"]
    assert {row["candidate"] for row in rows} == {SERVERS[part].name}


@pytest.mark.slow
def test_a_server_of_another_network_is_not_measured(stand_in, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setitem(SERVERS, "involution", replace(SERVERS["involution"], labels=lambda answer: ["another"]))
    with pytest.raises(AssertionError, match="involution serve finds other classes: \\['another'\\]"):
        run("involution")


@pytest.mark.slow
def test_the_memory_of_a_server_is_measured(stand_in):
    (row,) = run("memory")
    assert row["requests"] >= 200
    assert 50 < row["before_mb"] < 2000
    assert abs(row["growth"]) < 0.2


def test_what_is_missing_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "")
    (row,) = run("involution")
    assert "wrk is not installed; in Debian apt-get install wrk" in row["note"]


def test_targets():
    served = {"candidate": "involution serve", "refused": 0}
    rows = [
        {**served, "batch": 1, "of_predictor": 0.7, "p99_over_predictor": 1.3},
        {**served, "batch": 32, "of_predictor": 0.95, "p99_over_predictor": 30.0},
        {"candidate": "LitServe", "refused": 0, "batch": 32, "of_predictor": 0.5, "p99_over_predictor": 9.0},
        {"candidate": "involution serve", "batch": 8, "growth": -0.01},
    ]
    found = [(target.measured, target.met) for target in serving.SUITE.targets(rows)]
    assert found == [(0.95, True), (1.3, False), (0.01, True)]
