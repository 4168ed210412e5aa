"""What a process knows about the others of its job."""

import os

from involution.engine.process import alone, is_main_process


def test_alone_a_process_is_the_main_one(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with alone():
        assert is_main_process()
        assert not {"TORCHELASTIC_RUN_ID", "SLURM_NTASKS"} & set(os.environ)
    assert (is_main_process(), os.environ["TORCHELASTIC_RUN_ID"]) == (False, "x")
