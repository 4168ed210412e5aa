import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace


@contextmanager
def serve(home, before=""):
    """The command itself; its temporary files go where the tests can look, and it may run some code before."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["app", "--port", str(port)]
    code = f"{before}\nimport sys\nsys.argv[1:] = {words}\nfrom involution.cli import main\nsys.exit(main())"
    with tempfile.TemporaryDirectory(dir=home) as temporary:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=home,
            env={**os.environ, "TMPDIR": temporary, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            server = SimpleNamespace(
                url=f"http://127.0.0.1:{port}/", runs=home / "runs", temporary=Path(temporary), printed=""
            )
            line = process.stdout.readline()
            assert line.startswith(server.url), line + process.stdout.read()
            try:
                yield server
            finally:
                process.send_signal(signal.SIGINT)
                server.printed, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        left = sorted(server.temporary.rglob("*"))
        assert not left, left
