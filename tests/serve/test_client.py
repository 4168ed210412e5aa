"""A client that is generated from the description of the interface: all endpoints and bodies, and typed answers."""

import base64
import importlib
import io
import json
import subprocess
import sys
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image
from serve_networks import listening, png, service

from involution.serve.settings import read_tokens

pytest.importorskip("openapi_python_client")

TOKEN = "0123456789abcdef"


def generated(port, folder, name, **headers):
    """The package that the generator makes of the description, its endpoints and models."""
    document = folder / "openapi.json"
    document.write_bytes(httpx.get(f"http://127.0.0.1:{port}/openapi.json", headers=headers).content)
    settings = folder / "settings.json"
    # a list of types can't be sent; formatting is of no use here
    settings.write_text(
        json.dumps({"content_type_overrides": {"image/*": "application/octet-stream"}, "post_hooks": []})
    )
    words = ["generate", "--path", document, "--config", settings, "--meta", "none", "--output-path", folder / name]
    done = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", *map(str, words), "--fail-on-warning"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    try:
        package = importlib.import_module(name)
        endpoints = {
            page: importlib.import_module(f"{name}.api.default.{page}")
            for page in ("predict", "live", "ready", "metrics")
        }
        models = importlib.import_module(f"{name}.models")
        types = importlib.import_module(f"{name}.types")
    finally:
        sys.path.remove(str(folder))
    return SimpleNamespace(package=package, models=models, file=types.File, **endpoints)


@pytest.fixture(scope="module")
def port(predictors):
    with listening(service(predictors, timeout=20.0, drain=0.0)) as found:
        yield found


@pytest.fixture(scope="module")
def made(port, tmp_path_factory):
    return generated(port, tmp_path_factory.mktemp("client"), "served_client")


@pytest.fixture
def client(made, port):
    with made.package.Client(f"http://127.0.0.1:{port}") as found:
        yield found


def raw(made, content):
    return made.file(payload=io.BytesIO(content))


def ask(made, client, body, **options):
    return made.predict.sync_detailed(client=client, body=body, **options)


def test_each_task_has_its_type(made, client, predictors):
    models = made.models
    answers = {}
    for task in predictors:
        found = ask(made, client, raw(made, png(1)), model=models.PredictModel(task))
        assert found.status_code == 200, found.content
        # what the types leave out would be lost
        assert found.parsed.to_dict() == json.loads(found.content)
        answers[task] = found.parsed
    assert {task: type(answer) for task, answer in answers.items()} == {
        "classify": models.Classes,
        "detect": models.Objects,
        "segment": models.LabelMap,
    }
    best = answers["classify"].classes[0]
    assert isinstance(best, models.Label)
    assert 0 < best.score <= 1
    for one in answers["detect"].objects:
        assert len(one.box) == 4
    map_ = Image.open(io.BytesIO(base64.b64decode(answers["segment"].label_map)))
    assert np.asarray(map_).shape == (answers["segment"].height, answers["segment"].width)


def test_masks_are_run_lengths_or_polygons(made, client):
    models = made.models
    for masks, wanted in ((models.PredictMasks.RLE, models.Mask), (models.PredictMasks.POLYGONS, models.Outline)):
        found = ask(made, client, raw(made, png(1)), model=models.PredictModel.DETECT, masks=masks, score=0.1)
        assert found.parsed.objects
        assert {type(one.mask) for one in found.parsed.objects} == {wanted}


def test_every_kind_of_body_gives_the_same(made, client):
    models, content = made.models, png(3)
    bodies = [
        raw(made, content),
        models.PredictFilesBody(image=made.file(payload=io.BytesIO(content), file_name="a.png")),
        models.PredictJsonBody(image=base64.b64encode(content).decode()),
    ]
    found = [ask(made, client, body, model=models.PredictModel.CLASSIFY, topk=2).parsed for body in bodies]
    assert len(found[0].classes) == 2
    assert found[0] == found[1] == found[2]


def test_mistakes_are_typed(made, client):
    for content, status, kind in ((b"no image", 415, "format"), (png()[:60], 422, "image")):
        found = ask(made, client, raw(made, content), model=made.models.PredictModel.CLASSIFY)
        assert (found.status_code, type(found.parsed)) == (status, made.models.Problem)
        assert found.parsed.error == kind
        assert found.parsed.request_id == found.headers["x-request-id"]


def test_health_and_counters(made, client):
    assert made.live.sync(client=client).status == "live"
    ready = made.ready.sync(client=client)
    assert ready.status == "ready"
    assert ready.models.additional_properties == {task: task for task in ("classify", "detect", "segment")}
    assert "involution_serve_requests_total" in made.metrics.sync(client=client)


def test_a_token_is_part_of_the_description(predictors, tmp_path):
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    one = {"a": predictors["classify"]}
    with listening(service(one, timeout=20.0, drain=0.0, tokens=read_tokens(str(file)))) as port:
        made = generated(port, tmp_path, "token_client", authorization=f"Bearer {TOKEN}")
        address = f"http://127.0.0.1:{port}"
        with made.package.AuthenticatedClient(address, token=TOKEN) as client:
            assert type(ask(made, client, raw(made, png())).parsed) is made.models.Classes
        with made.package.AuthenticatedClient(address, token="wrong") as client:
            found = ask(made, client, raw(made, png()))
            assert (found.status_code, found.parsed.error) == (401, "token")
