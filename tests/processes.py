"""Several processes of one job, as torchrun starts them, forked from this one: nothing is imported anew."""

import contextlib
import os
import pickle
import signal
import socket
import tempfile
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run_processes(count, work, *args, before=lambda rank: None, address="127.0.0.1", seconds=120):
    """Call work(rank, *args) in each of some processes; what each of them returned.

    Args:
        count: how many.
        work: the function.
        args: its further arguments.
        before: is called with the rank first.
        address: of the process that the others meet at.
        seconds: before they are killed.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        children = [_fork(rank, count, work, args, before, address, port, Path(folder)) for rank in range(count)]
        end = time.monotonic() + seconds
        codes = {}
        while len(codes) < count and time.monotonic() < end:
            for rank, child in enumerate(children):
                if rank not in codes:
                    found, status = os.waitpid(child, os.WNOHANG)
                    if found:
                        codes[rank] = os.waitstatus_to_exitcode(status)
            if any(codes.values()):
                # the others may wait for it for ever
                end = min(end, time.monotonic() + 10)
            time.sleep(0.01)
        for rank in set(range(count)) - set(codes):
            os.kill(children[rank], signal.SIGKILL)
            os.waitpid(children[rank], 0)
            codes[rank] = "still at work"
        told = [path.read_text() for path in sorted(Path(folder).glob("*.txt"))]
        assert not any(codes.values()), "\n".join([str(codes), *told])
        return [pickle.loads((Path(folder) / f"{rank}.pickle").read_bytes()) for rank in range(count)]


def _fork(rank, count, work, args, before, address, port, folder):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        os.environ |= {
            "TORCHELASTIC_RUN_ID": "test",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
        }
        before(rank)
        result = work(rank, *args)
        if dist.is_initialized():
            dist.destroy_process_group()
        (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))
        code = 0
    except BaseException:
        with contextlib.suppress(OSError):
            (folder / f"{rank}.txt").write_text(f"process {rank}\n{traceback.format_exc()}")
    finally:
        os._exit(code)


def descendants(pid):
    """The process, its children, theirs, and so on (by /proc)."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found
