"""Devices that share the weights out compute what one computes, and any number of them goes on from there."""

import ctypes
import errno
import functools
import os
import resource
import shutil
import signal
import subprocess
import warnings

import pytest
import timm
import torch
import torch.distributed.checkpoint.hf_storage
import torch.distributed.fsdp
from engine_runs import FAST
from generated import image_folder, shards
from processes import run_processes

import involution.engine.sharded_strategy
import involution.nn.involution
from involution.engine import evaluate, train
from involution.engine.callbacks import TrainingInterrupted
from involution.engine.checkpoint import read_checkpoint
from involution.engine.config import ConfigError
from involution.engine.faults import CannotWrite, TrainingDiverged
from involution.engine.run_folder import find_checkpoint
from involution.engine.tasks.classify.config import ClassifyConfig
from involution.engine.tasks.classify.module import ClassificationTask
from involution.models.readers import read_weights
from involution.ops import native

TRAIN, VAL, BATCH = 36, 13, 12
SAME = {
    **FAST,
    "data.batch_size": BATCH,
    "data.workers": 0,
    "trainer.accelerator": "cpu",
    "trainer.precision": "64-true",
    "optimizer.name": "sgd",
    "optimizer.lr": 0.05,
}
# in one run what could be done otherwise on parts of weights
RICH = {"trainer.ema_decay": 0.9, "trainer.clip_grad_norm": 0.5, "trainer.accumulate": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One shard of training images, fewer than processes; validation images whose number no number of them divides."""
    root = tmp_path_factory.mktemp("data")
    shards(root / "shards", ("train-000",), TRAIN)
    shards(root / "shards", ("val-000",), VAL)
    image_folder(root / "folders", ("train",), ("ant", "bee", "cat"), TRAIN // 3)
    image_folder(root / "folders", ("val",), ("ant", "bee", "cat"), VAL // 3)
    torch.manual_seed(3)
    torch.save(timm.create_model("test_resnet", in_chans=1).state_dict(), root / "start.pth")
    return root


def settings(data, folder, spec="webdataset:{}/shards", **changes):
    same = {"data.spec": spec.format(data), "output": str(folder), "model.weights": str(data / "start.pth")}
    return ClassifyConfig.load("digits", {**SAME, **same, **{key.replace("__", "."): changes[key] for key in changes}})


def work(rank, config, stop=None, resume=None, own_norms=False):
    """Train in one of several processes: images and gradients of each step, and what an evaluation finds."""
    seen, gradients = [], []
    step, before = ClassificationTask.training_step, ClassificationTask.on_before_optimizer_step

    def training_step(self, batch, batch_idx):
        if not own_norms:
            # batch norm by its running statistics: a device's share of the batch is then as good as all of it
            self.model.eval()
        # two images may have the same sum
        places = torch.arange(1.0, 1.0 + batch[0][0].numel(), dtype=torch.float64)
        seen.append([float(image.double().flatten() @ places) for image in batch[0]])
        if len(seen) == stop and rank == 0:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, batch_idx)

    def on_before_optimizer_step(self, optimizer):
        whole = [
            one.grad.full_tensor() if hasattr(one.grad, "full_tensor") else one.grad
            for one in self.parameters()
            if one.grad is not None
        ]
        gradients.append([one.clone() for one in whole])
        return before(self, optimizer)

    ClassificationTask.training_step = training_step
    ClassificationTask.on_before_optimizer_step = on_before_optimizer_step
    try:
        result = train(config, progress=False, resume=resume)
    except TrainingInterrupted:
        return seen, gradients, None
    found = evaluate(result.best, split="val", accelerator="cpu", batch_size=5)
    assert found.num_images == VAL - (VAL % 3 if "folders" in config.data.spec else 0)
    return seen, gradients, (found.confusion, found.loss)


def run(count, *args, **more):
    return run_processes(count, lambda rank: work(rank, *args, **more))


def assert_same_weights(one, other, part="state_dict", atol=1e-9):
    a, b = (read_checkpoint(path)[part] for path in (one, other))
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.allclose(value.double(), b[name].double(), rtol=0, atol=atol), name


def assert_same_steps(whole, parts):
    """Each step of some processes has the images of the same step of one."""
    for step, images in enumerate(whole):
        assert sorted(images) == sorted(image for part in parts for image in part[step])


def test_two_devices_with_parts_of_the_weights_compute_what_one_computes(data, tmp_path):
    one, two = (settings(data, tmp_path, name=name, **RICH) for name in ("one", "two"))
    two.trainer.strategy = "fsdp"
    ((seen, gradients, figures),) = run(1, one)
    parts = run(2, two)
    assert_same_steps(seen, [part[0] for part in parts])
    for _, others, found in parts:
        assert len(others) == len(gradients) == 6
        for step, values in zip(gradients, others, strict=True):
            assert all(torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in zip(step, values, strict=True))
        assert torch.equal(figures[0], found[0])
        assert figures[1] == pytest.approx(found[1], rel=1e-6)
    for name in ("last.ckpt", "best.ckpt"):
        assert_same_weights(one.run_dir / name, two.run_dir / name)
    # of the moving average, of the weights, of the optimizer
    assert_same_weights(one.run_dir / "last.ckpt", two.run_dir / "last.ckpt", "current_model_state")
    a, b = (read_checkpoint(c.run_dir / "last.ckpt")["optimizer_states"][0]["state"] for c in (one, two))
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[n]["momentum_buffer"], b[n]["momentum_buffer"], rtol=0, atol=1e-9) for n in a)
    # the best one is an ordinary file, the last one has its weights beside it, each device's in a file of its own
    assert "state_dict" in torch.load(two.run_dir / "best.ckpt", weights_only=True)
    folders = sorted(two.run_dir.glob("shards-*"))
    assert [folder.name[:11] for folder in folders] == ["shards-1-0-", "shards-2-0-"]
    assert [len(list(folder.iterdir())) for folder in folders] == [2, 2]
    last = read_weights(two.run_dir / "last.ckpt").tensors
    assert all(
        torch.equal(last[name], value)
        for name, value in read_checkpoint(two.run_dir / "last.ckpt")["state_dict"].items()
    )


# of sums in another order
ROUNDING = {"64-true": 1e-9, "32-true": 1e-6}


def fused(rank, config):
    """Train in one of several processes, and count the calls of the fused operator."""
    original, calls = involution.nn.involution.dynamic_involution2d, []

    def counted(x, *args, **more):
        calls.append(x.dtype)
        return original(x, *args, **more)

    involution.nn.involution.dynamic_involution2d = counted
    return work(rank, config), calls


@pytest.mark.parametrize("precision", ["32-true", pytest.param("64-true", marks=pytest.mark.slow)])
def test_involutions_on_two_devices_with_parts_of_the_weights(data, tmp_path, precision):
    """They run fused, as in a whole network, and compute what one device computes."""
    same = {"model__name": "rednet_nano", "model__weights": None, "trainer__precision": precision, **RICH}
    one, two = (settings(data, tmp_path, name=name, **same) for name in ("one", "two"))
    two.trainer.strategy = "fsdp"
    (((seen, gradients, _), calls),) = run_processes(1, fused, one)
    parts = run_processes(2, fused, two)
    assert_same_steps(seen, [part[0] for part, _ in parts])
    close = functools.partial(torch.allclose, rtol=0, atol=ROUNDING[precision])
    for (_, others, _), found in parts:
        assert len(others) == len(gradients) > 0
        assert all(
            close(a, b)
            for step, values in zip(gradients, others, strict=True)
            for a, b in zip(step, values, strict=True)
        )
        assert set(found) == set(calls)
        assert found or native.reason is not None
    for part in ("state_dict", "current_model_state"):
        assert_same_weights(one.run_dir / "last.ckpt", two.run_dir / "last.ckpt", part, ROUNDING[precision])


OTHERS = {
    "frozen": {"model__freeze": "stem,layer1"},
    "frozen at first": {"model__freeze": "layer1,norms", "model__freeze_epochs": 1},
}


@pytest.mark.parametrize("case", OTHERS)
def test_frozen_parts_and_adamw(data, tmp_path, case):
    """Two devices with parts of the weights compute what two with all of them compute."""
    ddp, fsdp = (
        settings(data, tmp_path, name=name, trainer__strategy=name, optimizer__name="adamw", **OTHERS[case])
        for name in ("ddp", "fsdp")
    )
    seen, others = (run(2, config, own_norms=True)[0][0] for config in (ddp, fsdp))
    assert seen == others
    assert_same_weights(ddp.run_dir / "last.ckpt", fsdp.run_dir / "last.ckpt")
    found = read_checkpoint(fsdp.run_dir / "last.ckpt")["state_dict"]
    start = read_weights(data / "start.pth").tensors
    for name in ("conv1.0.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight"):
        frozen = case == "frozen" and "layer2" not in name
        assert torch.equal(found[f"model.{name}"], start[name].double()) == frozen


@pytest.mark.slow
def test_involutions_in_bfloat16(data, tmp_path):
    same = {"model__name": "rednet_nano", "model__weights": None, "trainer__precision": "bf16-mixed"}
    ddp, fsdp = (settings(data, tmp_path, name=n, trainer__strategy=n, **same) for n in ("ddp", "fsdp"))
    for config in (ddp, fsdp):
        for _, calls in run_processes(2, fused, config):
            assert native.reason is not None or torch.bfloat16 in calls
    assert_same_weights(ddp.run_dir / "last.ckpt", fsdp.run_dir / "last.ckpt", atol=1e-6)


CHAINS = {
    "fsdp": ([("fsdp", 2), ("fsdp", 3), ("ddp", 1)], "webdataset:{}/shards"),
    "ddp": ([("ddp", 3), ("ddp", 2), ("fsdp", 4)], "imagefolder:{}/folders"),
}


@pytest.mark.parametrize("chain", ["fsdp", pytest.param("ddp", marks=pytest.mark.slow)])
def test_another_number_of_devices_goes_on_in_the_middle_of_an_epoch(data, tmp_path, chain):
    """No image is seen twice or lost, and the weights are those of a run that nothing happened to."""
    sessions, spec = CHAINS[chain]
    common = {"spec": spec, "trainer.epochs": 2, "trainer.ema_decay": 0.9, "data.workers": 2 * (chain == "ddp")}
    whole = settings(data, tmp_path, name="whole", **common)
    ((seen, _, figures),) = run(1, whole)
    for epoch in range(2):
        assert len({image for step in seen[3 * epoch : 3 * epoch + 3] for image in step}) == TRAIN
    done = 0
    for (strategy, count), stop in zip(sessions, (2, 2, None), strict=True):
        config = settings(data, tmp_path, name="parts", trainer__strategy=strategy, **common)
        parts = run(count, config, stop=stop, resume="auto")
        steps = len(parts[0][0])
        assert steps == (stop or 6 - done)
        assert_same_steps(seen[done : done + steps], [part[0] for part in parts])
        done += steps
    for _, _, found in parts:
        assert torch.equal(figures[0], found[0])
    assert_same_weights(whole.run_dir / "best.ckpt", config.run_dir / "best.ckpt")
    for part in ("state_dict", "current_model_state"):
        assert_same_weights(whole.run_dir / "last.ckpt", config.run_dir / "last.ckpt", part)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_statistics_of_batch_norms_survive_an_interruption(data, tmp_path, strategy):
    """Each device has its own in the middle of an epoch; what is saved is the mean of all."""
    whole, parts = (
        settings(data, tmp_path, name=name, trainer__strategy=strategy, trainer__ema_decay=0.9)
        for name in ("whole", "parts")
    )
    run(2, whole, own_norms=True)
    run(2, parts, stop=2, own_norms=True)
    assert read_checkpoint(parts.run_dir / "last.ckpt")["involution"]["position"] == [0, 2]
    run(2, parts, resume="auto", own_norms=True)
    for part in ("state_dict", "current_model_state"):
        assert_same_weights(whole.run_dir / "last.ckpt", parts.run_dir / "last.ckpt", part)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A sharded run of two epochs."""
    config = settings(data, tmp_path_factory.mktemp("trained"), name="run", trainer__strategy="fsdp")
    run(2, config)
    return config.run_dir


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_parts_that_are_damaged_missing_or_elsewhere(copy, tmp_path):
    last, before = copy / "last.ckpt", copy / "last.1.ckpt"
    part = next(copy.glob("shards-2-*")) / "shard-00002-model-00001-of-00001.safetensors"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    file, found, why = find_checkpoint(last)
    assert (file, found["involution"]["position"]) == (before, [1, 0])
    assert why == f"{part} is damaged: its checksum is wrong; going on from {before} (after 1 epoch)"
    part.unlink()
    assert f"{part.name} is missing from it; going on" in find_checkpoint(last)[2]
    part.write_bytes(whole)
    (part.parent / "more.safetensors").write_bytes(whole)
    assert "it holds more; going on" in find_checkpoint(last)[2]
    shutil.copy(last, tmp_path / "elsewhere.ckpt")
    with pytest.raises(
        ValueError, match=r"has its weights in the folder .*shards-2-0-\w+ beside it, and it is missing"
    ):
        evaluate(tmp_path / "elsewhere.ckpt")


def test_parts_that_no_checkpoint_needs_are_cleared(copy, data, tmp_path):
    (copy / "shards-0-3-0123abcd").mkdir()
    (copy / "shards-of-mine").mkdir()
    config = settings(data, tmp_path, name="run", trainer__epochs=3, trainer__keep=1)
    train(config, progress=False, resume="auto")
    # a run whose devices have all weights has no parts
    assert [folder.name for folder in copy.glob("shards*")] == ["shards-of-mine"]


def full(rank, config, limit):
    if rank == 1:
        original = ClassificationTask.on_validation_epoch_end

        def shrink(self):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            return original(self)

        ClassificationTask.on_validation_epoch_end = shrink
    with pytest.raises(CannotWrite, match="saved before") as told:
        train(config, progress=False)
    return told.value.errno, str(told.value)


def test_two_devices_that_compute_activations_again(data, tmp_path):
    """Of what two devices learn, and of the statistics of their batch norms, no bit changes."""
    plain, again = (
        settings(data, tmp_path, name=name, trainer__strategy="ddp", trainer__activation_checkpointing=how)
        for name, how in (("plain", False), ("again", "selective"))
    )
    for (seen, gradients, _), (images, others, _) in zip(
        run(2, plain, own_norms=True), run(2, again, own_norms=True), strict=True
    ):
        assert seen == images
        assert len(gradients) == len(others) > 1
        for step, values in zip(gradients, others, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(step, values, strict=True))
    assert_same_weights(plain.run_dir / "last.ckpt", again.run_dir / "last.ckpt", atol=0)


def test_a_disk_that_is_full_for_one_device_ends_all(data, tmp_path):
    config = settings(data, tmp_path, name="run", trainer__strategy="fsdp")
    for number, text in run_processes(2, full, config, 10_000):
        assert number == errno.EFBIG
        assert "File too large; nothing was saved before" in text
        assert f"{config.run_dir}/shards-1-0-" in text
    assert list(config.run_dir.glob("shards-*")) == []
    # the same folder can be used again
    assert len(run(1, settings(data, tmp_path, name="run"), resume="auto")[0][0]) == 6


def killed(rank, config):
    from involution.engine import sharded_strategy

    def kill(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    # between the parts and the file that needs them, at the second checkpoint
    write, calls = sharded_strategy.write_parts, []

    def written(*args):
        calls.append(1)
        found = write(*args)
        return kill() if len(calls) == 2 else found

    sharded_strategy.write_parts = written
    train(config, progress=False)


@pytest.mark.slow
def test_killed_between_the_parts_and_the_file(data, tmp_path):
    config = settings(data, tmp_path, name="run", trainer__strategy="fsdp")
    with pytest.raises(AssertionError, match="-9"):
        run_processes(2, killed, config)
    assert len(list(config.run_dir.glob("shards-*"))) == 2
    assert len(run(2, config, resume="auto", own_norms=True)[0][0]) == 3
    whole = settings(data, tmp_path, name="whole")
    run(2, whole, own_norms=True)
    assert_same_weights(whole.run_dir / "last.ckpt", config.run_dir / "last.ckpt")
    assert sorted(folder.name[:11] for folder in config.run_dir.glob("shards-*")) == ["shards-1-0-", "shards-2-0-"]


def diverging(rank, config):
    original, calls = ClassificationTask.training_step, []

    def training_step(self, batch, batch_idx):
        calls.append(1)
        if len(calls) == 2 and rank == 1:
            batch[0][3] = torch.nan
        return original(self, batch, batch_idx)

    ClassificationTask.training_step = training_step
    with pytest.raises(TrainingDiverged, match="epoch 1, step 2: an image of the batch has values"):
        train(config, progress=False)


def test_an_image_of_one_device_that_is_not_finite(data, tmp_path):
    run_processes(2, diverging, settings(data, tmp_path, name="run", trainer__strategy="fsdp"))


def refused(rank, config, message):
    with pytest.raises(ConfigError, match=message) as told:
        train(config, progress=False)
    assert "\n" not in str(told.value)


REFUSED = {
    "16-mixed": ({"trainer__precision": "16-mixed"}, "fsdp does not go with trainer.precision 16-mixed; choose bf16-m"),
    "batch": (
        {"data__batch_size": 9},
        r"batch_size \(9\) must be a multiple of processes x trainer.accumulate \(2 x 1",
    ),
    "norms": ({"trainer__sync_batchnorm": True}, "sync_batchnorm works on GPUs alone"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together(data, tmp_path, case):
    changes, message = REFUSED[case]
    config = settings(data, tmp_path, name="run", trainer__strategy="fsdp", **changes)
    run_processes(2, refused, config, message)


def test_one_device_has_nothing_to_share(data, tmp_path):
    refused(0, settings(data, tmp_path, name="run", trainer__strategy="fsdp"), "and there is one: set --devices to 2")


def scenes(rank, task, root, folder, strategy):
    """Train a detector or segmenter with involutions for a few steps."""
    from involution.engine.tasks.detect.config import DetectConfig
    from involution.engine.tasks.segment.config import SegmentConfig

    same = {
        "output": str(folder),
        "name": strategy,
        "trainer.strategy": strategy,
        "trainer.epochs": 1,
        "trainer.precision": "32-true",
        "trainer.accelerator": "cpu",
        "data.workers": 0,
        "data.batch_size": 4,
        "optimizer.name": "sgd",
        "model.neck": "involution",
    }
    kinds = {"detect": (DetectConfig, f"coco:{root[0]}"), "segment": (SegmentConfig, f"masks:{root[1]}")}
    kind, spec = kinds[task]
    result = train(kind.load("digit-scenes", {**same, "data.spec": spec}), progress=False)
    return evaluate(result.best, accelerator="cpu").num_images


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_detectors_and_segmenters(task, tmp_path):
    from involution.data.scenes import make_digit_scenes

    root = make_digit_scenes(tmp_path / "scenes", {"train": 8, "val": 5})
    for strategy in ("ddp", "fsdp"):
        assert run_processes(2, scenes, task, (root, root), tmp_path, strategy, seconds=400) == [5, 5]
    a, b = (read_checkpoint(tmp_path / name / "best.ckpt")["state_dict"] for name in ("ddp", "fsdp"))
    assert all(torch.allclose(a[name].double(), b[name].double(), rtol=0, atol=1e-5) for name in a)


@pytest.fixture
def two_machines():
    """Names of two network namespaces with a cable between them."""
    names = [f"inv{os.getpid()}{end}" for end in "ab"]
    steps = [f"ip netns add {name}" for name in names]
    steps.append(f"ip link add {names[0]} netns {names[0]} type veth peer name {names[1]} netns {names[1]}")
    for number, name in enumerate(names, 1):
        steps.append(f"ip -n {name} addr add 10.77.0.{number}/24 dev {name}")
        steps += [f"ip -n {name} link set {device} up" for device in (name, "lo")]
    try:
        for step in steps:
            try:
                done = subprocess.run(step.split(), capture_output=True, text=True, check=False)
            except FileNotFoundError:
                pytest.skip("there is no command ip")
            if done.returncode:
                pytest.skip(f"no network namespaces can be made here: {done.stderr.strip()}")
        yield names
    finally:
        for name in names:
            if os.path.exists(f"/run/netns/{name}"):
                subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_machines_that_share_a_folder(data, tmp_path, two_machines, strategy):
    """Each process has a network of its own, as on a machine of its own, and hears the other over the cable alone."""

    def enter(rank):
        with open(f"/run/netns/{two_machines[rank]}") as space:
            assert ctypes.CDLL(None, use_errno=True).setns(space.fileno(), 0) == 0
        os.environ["GLOO_SOCKET_IFNAME"] = two_machines[rank]

    one, two = (settings(data, tmp_path, name=name) for name in ("one", "two"))
    two.trainer.strategy = strategy
    run(1, one)
    run_processes(2, work, two, before=enter, address="10.77.0.1")
    assert_same_weights(one.run_dir / "best.ckpt", two.run_dir / "best.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "how"), [("ddp", True), ("ddp", "selective"), ("fsdp", True)])
def test_compiled_and_computed_twice(data, tmp_path, strategy, how):
    """torch.compile and activation checkpointing together change nothing, however the devices share the work."""

    def capture(rank):
        # what the graphs hold, without minutes of C++
        original = torch.nn.Module.compile
        torch.nn.Module.compile = lambda self, **kwargs: original(self, backend="aot_eager", **kwargs)
        # torch hides this one itself, but an error can't be hidden
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")

    same = {"trainer__strategy": strategy, "trainer__epochs": 1}
    plain = settings(data, tmp_path, name="plain", **same)
    both = settings(data, tmp_path, name="both", compile=True, trainer__activation_checkpointing=how, **same)
    for config in (plain, both):
        run_processes(2, work, config, None, None, True, before=capture, seconds=500)
    assert_same_weights(plain.run_dir / "best.ckpt", both.run_dir / "best.ckpt")
