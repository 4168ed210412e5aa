import os
import signal

import pytest
import torch

# before anything imports triton: its interpreter runs the GPU kernels where there is no GPU
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_configure(config):
    # one worker for each core: more threads would only be in each other's way
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    # PyTorch's own: its forward-mode decompositions are scripted on first use
    config.addinivalue_line("filterwarnings", r"ignore:`torch\.jit\.script.*` is deprecated:FutureWarning")


# a shell that starts the tests in the background has Ctrl-C ignored in all of them
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def _weights26(tmp_path_factory):
    """A folder with RedNet-26 as PaddlePaddle publishes it, and a folder for downloads."""
    from published_files import network, paddle_state, pdparams

    folder = tmp_path_factory.mktemp("published")
    (folder / "RedNet26_pretrained.pdparams").write_bytes(pdparams(paddle_state(network("rednet26").state_dict())))
    return folder, tmp_path_factory.mktemp("torch")


@pytest.fixture
def published26(_weights26, monkeypatch):
    """Weights `rednet26` are there by name; the folder of the file."""
    folder, home = _weights26
    monkeypatch.setenv("INVOLUTION_WEIGHTS", str(folder))
    monkeypatch.setenv("TORCH_HOME", str(home))
    return folder


@pytest.fixture
def memory(monkeypatch):
    """fsspec's file system in memory, empty; no address is allowed, and what was interrupted is tried again at once."""
    from fsspec.implementations.memory import MemoryFileSystem

    from involution.data import addresses

    monkeypatch.setattr(addresses, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(addresses, "_ALLOWED", set())
    monkeypatch.setattr(addresses, "_TOLD", set())
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    return MemoryFileSystem()


@pytest.fixture
def deterministic():
    """Deterministic algorithms, which also fill fresh memory with NaN: an element that nobody writes shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
