"""The files in examples/: their commands parse, and two of them run on digits, are disturbed, and lose nothing."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from command_lines import ROOT, parse
from engine_runs import FAST

EXAMPLES = ROOT / "examples"
SCRIPTS = {name: EXAMPLES / name for name in ("slurm/train.sbatch", "torchrun/train.sh")}
JOB = EXAMPLES / "kubernetes" / "job.yaml"
# in place of the recipe for ImageNet; the port is nobody else's
DIGITS = {
    **FAST,
    "data.spec": "digits",
    "trainer.epochs": 3,
    "trainer.accelerator": "cpu",
    "trainer.checkpoint_every": 1,
    "logger": "none",
    "data.workers": 0,
}


def command_of(text):
    """The `involution ...` line of a script, without what its caller adds."""
    (line,) = re.findall(r"\binvolution classify train .*$", text.replace("\\\n", " "), re.MULTILINE)
    assert line.endswith(' "$@"')
    return line.removesuffix(' "$@"')


def job():
    found = {document["kind"]: document for document in yaml.safe_load_all(JOB.read_text(encoding="utf-8"))}
    assert set(found) == {"Service", "PersistentVolumeClaim", "Job"}
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_shell_whose_command_parses(name):
    subprocess.run(["bash", "-n", str(SCRIPTS[name])], check=True)
    line = command_of(SCRIPTS[name].read_text(encoding="utf-8"))
    parse(line)
    with pytest.raises(Exception, match=r"--dada"):
        parse(line.replace("--data ", "--dada "))
    words = shlex.split(line)
    assert words[words.index("--resume") + 1] == "auto"


def test_the_job_of_kubernetes_fits_together():
    found = job()
    spec, name = found["Job"]["spec"], found["Job"]["metadata"]["name"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    options = dict(word.removeprefix("--").split("=", 1) for word in container["args"] if "=" in word)
    parse(shlex.join(container["args"][container["args"].index("-m") :]))
    assert (found["Job"]["apiVersion"], found["Service"]["apiVersion"]) == ("batch/v1", "v1")
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(options["nnodes"]) == 2
    # the pods find each other by names that the service gives them
    service = found["Service"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert options["rdzv-endpoint"].partition(":")[0] == f"{name}-0.{pod['subdomain']}"
    # the first process hears SIGTERM, and has time to save
    assert container["command"] == ["torchrun"]
    assert int(options["shutdown-timeout"]) < pod["terminationGracePeriodSeconds"]
    # an exit by a disruption needs pods that are made anew, not restarted
    assert (pod["restartPolicy"], spec["podFailurePolicy"]["rules"][0]["action"]) == ("Never", "Ignore")
    assert options["resume"] == "auto"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == set(volumes)
    claim = found["PersistentVolumeClaim"]
    assert volumes[mounts[options["output"]]]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert options["data"].partition(":")[2].startswith("/data/")


def test_the_options_of_torchrun_exist():
    from torch.distributed.run import get_args_parser

    text = SCRIPTS["torchrun/train.sh"].read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^exec torchrun (.*) -m involution", text, re.MULTILINE)
    line = re.sub(r'"\$\{\w+:-([\w-]+)\}(?::\$\{\w+:-(\d+)\})?"', r"\1:\2", line).replace(": ", " ")
    for words in (shlex.split(line), job()["Job"]["spec"]["template"]["spec"]["containers"][0]["args"]):
        before = words[: words.index("-m")] if "-m" in words else words
        parsed = get_args_parser().parse_args([*before, "-m", "involution"])
        assert (parsed.max_restarts, parsed.rdzv_backend, parsed.shutdown_timeout) == (3, "c10d", 100)


@pytest.fixture
def environment(tmp_path):
    """An environment with `involution` on its path, and this process's packages."""
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin" / "involution", 'exec "$PYTHON" -m involution "$@"')
    path = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "TORCHELASTIC_", "RANK"))}
    more = {"PATH": os.pathsep.join(path), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return {**kept, **more}


def script(path, text):
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def settings(folder, name="run"):
    changes = {**DIGITS, "output": folder, "name": name}
    return [word for key, value in changes.items() for word in (f"--{key}", str(value))]


def torchrun(folder, environment, port, name="run"):
    more = {"GPUS": "2", "PORT": str(port), "RUN": f"{name}-{port}"}
    command = ["bash", str(SCRIPTS["torchrun/train.sh"]), "--recipe", "digits", *settings(folder, name)]
    return subprocess.Popen(
        command, env={**environment, **more}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(what, seconds=120.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.01)
    pytest.fail("nothing came of it")


def of_rank(rank, folder):
    """The process of a rank that trains into a folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "environ").read_bytes().split(b"\0")
            ours = str(folder).encode() in (process / "cmdline").read_bytes()
        except OSError:
            continue
        if ours and f"LOCAL_RANK={rank}".encode() in words:
            return int(process.name)
    return 0


def weights(folder, name="run"):
    found = torch.load(folder / name / "last.ckpt", weights_only=True)
    assert found["involution"]["position"] == [3, 0]
    return found["state_dict"]


def assert_same(one, other):
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
def test_torchrun_goes_on_after_a_killed_process(tmp_path, environment):
    whole = torchrun(tmp_path, environment, 29671, "whole")
    said, _ = whole.communicate(timeout=200)
    assert whole.returncode == 0, said[-2000:]
    run = torchrun(tmp_path, environment, 29672)
    try:
        wait_for((tmp_path / "run" / "last.ckpt").exists)
        os.kill(of_rank(1, tmp_path), signal.SIGKILL)
        said, _ = run.communicate(timeout=200)
    finally:
        run.kill()
    assert run.returncode == 0, said[-2000:]
    assert "SIGKILL" in said or "exitcode: -9" in said
    assert_same(weights(tmp_path), weights(tmp_path, "whole"))


STUB = """
import os, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
started = []
for rank in range(2):
    place = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0", "SLURM_NODEID": str(rank)}
    started.append(subprocess.Popen(words, env={**os.environ, **place}))
with open(os.environ["PIDS"], "w") as file:
    print(*(process.pid for process in started), file=file)
sys.exit(max(process.wait() for process in started))
"""


@pytest.mark.slow
def test_a_slurm_job_saves_and_puts_itself_back(tmp_path, environment):
    (tmp_path / "srun.py").write_text(STUB)
    script(tmp_path / "bin" / "srun", f'exec "$PYTHON" {tmp_path}/srun.py "$@"')
    asked = tmp_path / "asked"
    script(tmp_path / "bin" / "scontrol", f'[ "$1" = show ] && echo localhost || echo "$@" >> {asked}')
    job = {"SLURM_JOB_ID": "9673", "SLURM_JOB_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_NNODES": "2"}
    environment = {**environment, **job, "PIDS": str(tmp_path / "pids")}
    command = ["bash", str(SCRIPTS["slurm/train.sbatch"]), "--recipe", "digits", *settings(tmp_path)]

    def start():
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    first = start()
    try:
        wait_for((tmp_path / "run" / "last.ckpt").exists)
        for pid in (tmp_path / "pids").read_text().split():
            os.kill(int(pid), signal.SIGUSR1)
        said, _ = first.communicate(timeout=200)
    finally:
        first.kill()
    assert first.returncode == 130, said[-2000:]
    assert "Stopping after this step." in said
    assert asked.read_text() == "requeue 9673\n"
    position = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["involution"]["position"]
    assert position < [3, 0]
    # back from the queue
    second = start()
    said, _ = second.communicate(timeout=200)
    assert second.returncode == 0, said[-2000:]
    assert asked.read_text() == "requeue 9673\n"
    weights(tmp_path)
