"""What the server answers: results of the predictor to the bit, and one line for every mistake."""

import asyncio
import base64
import io
import json
import logging
import time

import numpy as np
import pytest
from pictures import huge_png, picture
from PIL import Image
from pycocotools import mask as run_lengths
from serve_networks import Slow, ask, png, problem, service, talk

from involution.engine.predictor import Encoded
from involution.serve.answers import TASKS
from involution.serve.settings import read_tokens

RAW = {"content-type": "application/octet-stream"}


@pytest.fixture
def records(monkeypatch):
    """What the server logs, whatever handlers there are."""
    found = []
    logger = logging.getLogger("involution.serve")
    monkeypatch.setattr(logger, "handle", found.append)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield found
    logger.setLevel(level)


@pytest.fixture(scope="module")
def served(predictors):
    made = service(predictors, max_bytes=20_000, max_pixels=10_000, timeout=20.0)
    yield made
    assert made.close(10)


@pytest.fixture
def make():
    made = []

    def one(predictors, **changes):
        made.append(service(predictors, **changes))
        return made[-1]

    yield one
    for found in made:
        assert found.close(10)


def predict(served, model, content, **query):
    return ask(served, "POST", "/predict", params={"model": model, **query}, content=content, headers=RAW)


def expected(predictor, content, **options):
    (result,) = predictor.stream([Encoded("image", content)], batch_size=1, **options)
    return result


def test_classes_are_those_of_the_predictor_to_the_bit(served, predictors):
    for seed in range(3):
        found = predict(served, "classify", png(seed), topk=3)
        assert found.status_code == 200
        result = expected(predictors["classify"], png(seed), topk=3)
        classes = [{"label": label, "score": score} for label, score in zip(result.labels, result.scores, strict=True)]
        assert found.json() == {"task": "classify", "model": "classify", "classes": classes}
        assert len(classes) == 3


def test_objects_are_those_of_the_predictor_to_the_bit(served, predictors):
    found = predict(served, "detect", png(1), score=0.1)
    result = expected(predictors["detect"], png(1), score=0.1)
    answer = found.json()
    assert len(answer["objects"]) == result.found > 0
    assert (answer["height"], answer["width"]) == result.size == (30, 40)
    for place, one in enumerate(answer["objects"]):
        assert one["label"] == result.labels[place]
        assert one["category_id"] == result.category_ids[place]
        assert one["score"] == result.scores[place]
        assert tuple(one["box"]) == result.boxes[place]
        decoded = run_lengths.decode(one["mask"])
        np.testing.assert_array_equal(decoded, result.masks[place].numpy())


def test_label_maps_are_those_of_the_predictor_to_the_bit(served, predictors):
    answer = predict(served, "segment", png(2)).json()
    result = expected(predictors["segment"], png(2))
    map_ = Image.open(io.BytesIO(base64.b64decode(answer["label_map"])))
    np.testing.assert_array_equal(np.asarray(map_), result.labels.numpy())
    assert {one["label"]: one["share"] for one in answer["classes"]} == result.shares
    assert [result.classes[one["value"]] for one in answer["classes"]] == list(result.shares)


def test_answers_are_what_their_models_say(served):
    for task, model in TASKS.items():
        model.model_validate_json(predict(served, task, png()).content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP"])
def test_the_three_forms_of_a_request_give_the_same(served, kind):
    content = png(3, kind=kind)
    where = {"params": {"model": "classify"}}
    raw = ask(served, "POST", "/predict", content=content, headers={"content-type": f"image/{kind.lower()}"}, **where)
    form = ask(served, "POST", "/predict", files={"image": ("a.any", content)}, **where)
    encoded = ask(served, "POST", "/predict", json={"image": base64.b64encode(content).decode()}, **where)
    untyped = ask(served, "POST", "/predict", content=content, **where)
    assert raw.status_code == 200
    assert raw.content == form.content == encoded.content == untyped.content


BROKEN = png(0)[:200]
WRONG = [
    ({"path": "/"}, 404, "path", "nothing here; there are /predict, /health/live"),
    ({"path": "/predict/"}, 404, "path", "nothing here"),
    ({"path": "/../../etc/passwd"}, 404, "path", "nothing here"),
    ({"method": "GET"}, 405, "method", "wanted POST for /predict"),
    ({"method": "POST", "path": "/metrics"}, 405, "method", "wanted GET for /metrics"),
    ({"method": "OPTIONS"}, 405, "method", "wanted POST for /predict"),
    ({"params": {}}, 422, "option", "wanted ?model= with one of classify, detect, segment"),
    ({"params": {"model": "clasify"}}, 404, "model", "no network named 'clasify'; did you mean classify?"),
    ({"params": {"model": "../a"}}, 404, "model", "no network named '../a'; wanted classify or detect or segment"),
    ({"path": "/predict?model=classify&model=detect", "params": None}, 400, "query", "a parameter is there twice"),
    (
        {"path": "/predict?%ff=%fe", "params": None},
        400,
        "query",
        "the part behind the question mark can't be read",
    ),
    (
        {"params": None, "path": "/predict?" + "a=1&" * 20 + "b=1"},
        400,
        "query",
        "can't be read",
    ),
    ({"params": {"model": "classify", "topk": "0"}}, 422, "option", "wanted topk of 1 or more, got 0"),
    ({"params": {"model": "classify", "topk": "1_0"}}, 422, "option", "wanted a whole number for topk, got '1_0'"),
    ({"params": {"model": "classify", "topk": "٣"}}, 422, "option", "wanted a whole number for topk"),
    ({"params": {"model": "classify", "topk": "9" * 5000}}, 422, "option", "wanted a whole number for topk"),
    ({"params": {"model": "classify", "batch_size": "3"}}, 422, "option", "'batch_size'; wanted model or topk"),
    ({"params": {"model": "classify", "score": "1"}}, 422, "option", "no parameter of this network: 'score'"),
    ({"params": {"model": "detect", "score": "nan"}}, 422, "option", "wanted a number for score, got 'nan'"),
    ({"params": {"model": "detect", "score": "1.5"}}, 422, "option", "wanted a score from 0 to 1, got 1.5"),
    ({"headers": {"content-type": "text/plain"}}, 415, "type", "wanted multipart/form-data, application/json or"),
    ({"headers": {**RAW, "content-encoding": "gzip"}}, 415, "type", "a body can't be compressed"),
    ({"content": b""}, 400, "empty", "there is no image in the request"),
    ({"content": b"GIF89a"}, 415, "format", "not an image in a known format"),
    ({"content": b"no image at all"}, 415, "format", "not an image in a known format"),
    ({"content": BROKEN}, 422, "image", "broken or truncated image"),
    ({"content": b"\0" * 20_001}, 413, "bytes", "more than the 20,000 bytes that are taken"),
    ({"content": huge_png()}, 413, "pixels", "more than the 10,000 pixels that are taken"),
    ({"content": png(size=(200, 51))}, 413, "pixels", "200 x 51 pixels are more than the 10,000 that are taken"),
    ({"json": {}}, 400, "json", 'wanted {"image": "…"} with the image file in base64'),
    ({"json": {"image": "", "path": "/etc/passwd"}}, 400, "json", 'wanted {"image"'),
    (
        {"content": b'{"image": "AA==", "image": "AA=="}', "headers": {"content-type": "application/json"}},
        *(400, "json", "a name is there twice"),
    ),
    ({"json": {"image": 5}}, 400, "json", 'wanted {"image"'),
    ({"json": {"image": "a b"}}, 400, "json", "image is not base64"),
    ({"json": {"image": "data:image/png;base64,AA=="}}, 400, "json", 'and no "data:" before it'),
    ({"json": {"image": "é"}}, 400, "json", "image is not base64"),
    ({"json": {"image": ""}}, 400, "empty", "there is no image"),
    ({"json": {"image": "AAAA" * 9000}}, 413, "bytes", "more than the 20,000 bytes"),
    ({"content": b"[" * 15_000, "headers": {"content-type": "application/json"}}, 400, "json", "the body is not JSON"),
    ({"content": b"9" * 15_000, "headers": {"content-type": "application/json"}}, 400, "json", "the body is not JSON"),
    ({"content": b"\xff", "headers": {"content-type": "application/json"}}, 400, "json", "the body is not JSON"),
    ({"files": {"picture": b"x"}}, 400, "form", "wanted a form with one file, named image"),
    ({"files": [("image", b"x"), ("image", b"y")]}, 400, "form", "Too many files"),
    ({"data": {"image": "x"}, "files": {"image": b"x"}}, 400, "form", "wanted a form with one file"),
    ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "form", "Missing boundary"),
    ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=a"}}, 400, "form", "multipart"),
    ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary="}}, 400, "form", ""),
    ({"headers": {f"x-{number}": "a" for number in range(70)}}, 431, "header", "more than 64 lines in the header"),
    ({"headers": {"x-long": "a" * 20_000}}, 431, "header", "more than 16,384 bytes in the header"),
    ({"path": "/" + "a" * 20_000}, 431, "header", "more than 16,384 bytes in the header"),
    ({"headers": {"host": "evil.example"}}, 403, "host", "not served under this name"),
    ({"headers": {"host": "localhost.evil.example:80"}}, 403, "host", "not served under this name"),
    ({"headers": {**RAW, "origin": "https://evil.example"}}, 403, "origin", "not for pages of other origins"),
    ({"headers": {**RAW, "origin": "null"}}, 403, "origin", "not for pages of other origins"),
]


@pytest.mark.parametrize(("changes", "status", "kind", "message"), WRONG)
def test_every_mistake_is_one_line(served, changes, status, kind, message):
    changes = {"method": "POST", "path": "/predict", "params": {"model": "classify"}, **changes}
    if not {"json", "files", "content"} & set(changes):
        changes["content"] = png()
    changes.setdefault("headers", RAW if "content" in changes else {})
    if changes["method"] == "GET":
        del changes["content"]
    response = ask(served, changes.pop("method"), changes.pop("path"), **changes)
    found = problem(response)
    assert found[:2] == (status, kind), found
    assert message in found[2]
    if status == 405:
        assert response.headers["allow"] in ("POST", "GET, HEAD")


def test_the_words_of_libraries_are_left_out_where_they_name_places(served, monkeypatch, predictors):
    def stream(images, **options):
        raise OSError("/home/somebody/secret.so: can't be opened")

    monkeypatch.setattr(predictors["segment"], "stream", stream)
    status, kind, message = problem(predict(served, "segment", png()))
    assert (status, kind, message) == (503, "fault", "this image could not be worked on; the log says why")


def test_an_image_that_a_network_can_not_take_is_told_without_the_runtimes_words(served, monkeypatch, predictors):
    def run(*args, **options):
        raise RuntimeError("/onnxruntime_src/core.cc:12 shapes")

    monkeypatch.setattr(predictors["segment"], "run", run)
    assert problem(predict(served, "segment", png())) == (422, "size", "the network can't take its 40 x 30 pixels")


def test_a_fault_of_the_program_is_told_without_its_words(served, monkeypatch, records):
    async def fault(incoming):
        raise KeyError("/secret")

    monkeypatch.setattr(served, "_predict", fault)
    found = predict(served, "classify", png())
    assert problem(found)[:2] == (503, "fault")
    assert b"secret" not in found.content
    assert "KeyError" in records[0].fields["fault"]


def test_one_bad_image_of_a_batch_never_costs_the_others(make, predictors):
    slow = Slow(predictors["classify"])
    served = make({"a": slow}, batch_wait=500.0)
    # a header that is good and pixels that are not
    images = [png(seed) for seed in range(3)] + [png(4)[:-60]] + [png(5)]

    async def conversation(session):
        slow.free.clear()
        tasks = [asyncio.create_task(session.post("/predict", content=png(9), headers=RAW))]
        while not slow.batches:
            await asyncio.sleep(0.001)
        tasks += [asyncio.create_task(session.post("/predict", content=image, headers=RAW)) for image in images]
        while len(served._batchers["a"]) < 5:
            await asyncio.sleep(0.001)
        slow.free.set()
        return await asyncio.gather(*tasks)

    _, *found = talk(served, conversation)
    assert slow.batches[-2:] == [1, 5] or slow.batches[-1] == 5
    assert [one.status_code for one in found] == [200, 200, 200, 422, 200]
    for seed, answer in zip((0, 1, 2, None, 5), found, strict=True):
        if seed is not None:
            result = expected(predictors["classify"], png(seed))
            assert [one["label"] for one in answer.json()["classes"]] == list(result.labels)
            np.testing.assert_allclose([one["score"] for one in answer.json()["classes"]], result.scores, rtol=1e-4)


def test_when_it_has_too_much_to_do_it_says_when_to_ask_again(make, predictors):
    slow = Slow(predictors["classify"])
    served = make({"a": slow}, max_queue=2, max_requests=4)

    async def conversation(session):
        slow.free.clear()
        tasks = []
        # one is worked on, and two wait
        for waiting in range(3):
            tasks.append(asyncio.create_task(session.post("/predict", content=png(), headers=RAW)))
            while len(served._batchers["a"]) < waiting or not slow.batches:
                await asyncio.sleep(0.001)
        full = await session.post("/predict", content=png(), headers=RAW)
        slow.free.set()
        return full, await asyncio.gather(*tasks)

    full, answered = talk(served, conversation)
    assert problem(full) == (503, "busy", "too many images wait for this network")
    assert full.headers["retry-after"] == "1"
    assert [one.status_code for one in answered] == [200] * 3
    assert served.active == 0


def test_too_many_requests_are_refused_before_they_are_read(make, predictors):
    served = make({"a": predictors["classify"]}, max_requests=1)

    async def conversation(session):
        ended = asyncio.Event()

        async def body():
            yield png()[:100]
            await ended.wait()
            yield png()[100:]

        first = asyncio.create_task(session.post("/predict", content=body(), headers=RAW))
        while not served.active:
            await asyncio.sleep(0.001)
        second = await session.post("/predict", content=png(), headers=RAW)
        ended.set()
        return await first, second

    first, second = talk(served, conversation)
    assert first.status_code == 200
    assert problem(second) == (503, "busy", "too many requests at once")


def test_an_image_that_takes_too_long_is_given_up_and_the_log_says_how_large_it_was(make, predictors, records):
    slow = Slow(predictors["classify"])
    served = make({"a": slow}, timeout=0.3)
    slow.free.clear()
    found = ask(served, "POST", "/predict", content=png(), headers=RAW)
    assert problem(found)[:2] == (503, "late")
    (line,) = [record.fields for record in records if record.getMessage() == "late"]
    assert (line["model"], line["pixels"], line["stage"]) == ("a", 40 * 30, "run")
    while not served.hung:
        time.sleep(0.01)
    assert problem(ask(served, "GET", "/health/live"))[:2] == (503, "hung")
    slow.free.set()
    while served.hung:
        time.sleep(0.01)
    assert ask(served, "GET", "/health/live").json() == {"status": "live"}


def test_a_body_that_comes_too_slowly_is_given_up(make, predictors):
    served = make({"a": predictors["classify"]}, timeout=0.3)

    async def body():
        for place in range(100):
            yield png()[place : place + 1]
            await asyncio.sleep(0.05)

    found = ask(served, "POST", "/predict", content=body(), headers=RAW)
    assert problem(found) == (408, "slow", "the request was not all there in time")
    assert found.headers["connection"] == "close"


def test_a_body_without_end_is_given_up(make, predictors):
    served = make({"a": predictors["classify"]}, max_bytes=1000)
    sent = 0

    async def body():
        nonlocal sent
        while True:
            sent += 65536
            yield b"\0" * 65536

    found = ask(served, "POST", "/predict", content=body(), headers=RAW)
    assert problem(found)[:2] == (413, "bytes")
    # the rest of it passes by for a while
    assert 2**26 <= sent <= 2**27


def test_a_token_is_wanted_for_all_but_health(make, predictors, tmp_path):
    (tmp_path / "tokens").write_text("0123456789abcdef\nfedcba9876543210\n")
    served = make({"a": predictors["classify"]}, tokens=read_tokens(tmp_path / "tokens"))
    for token in ("0123456789abcdef", "fedcba9876543210"):
        headers = {**RAW, "authorization": f"Bearer {token}"}
        assert ask(served, "POST", "/predict", content=png(), headers=headers).status_code == 200
        assert ask(served, "GET", "/metrics", headers=headers).status_code == 200
    wrong = [
        "",
        "Bearer",
        "Bearer ",
        "Bearer 0123456789abcdeg",
        "Basic 0123456789abcdef",
        "0123456789abcdef",
        "Bearer é",
    ]
    for header in wrong:
        for path in ("/predict", "/metrics", "/openapi.json", "/nothing"):
            found = ask(
                served,
                "POST" if path == "/predict" else "GET",
                path,
                headers={"authorization": header.encode("latin-1")},
            )
            assert problem(found)[:2] == (401, "token")
            assert found.headers["www-authenticate"] == "Bearer"
    for path in ("/health/live", "/health/ready"):
        assert ask(served, "GET", path).status_code == 200


def test_names_are_those_that_were_given(make, predictors):
    served = make({"a": predictors["classify"]}, names=("Pictures.example.org",))
    for host in (
        "pictures.example.org",
        "PICTURES.example.org:8080",
        "127.0.0.1:8080",
        "[::1]:80",
        "10.1.2.3",
        "localhost",
    ):
        assert ask(served, "GET", "/health/ready", headers={"host": host}).status_code == 200
    for host in ("example.org", "a.pictures.example.org", "127.0.0.1.example.org"):
        assert problem(ask(served, "GET", "/health/ready", headers={"host": host}))[:2] == (403, "host")


def test_pages_of_given_origins_may_ask(make, predictors):
    served = make({"a": predictors["classify"]}, origins=("https://pages.example.org",))
    origin = {"origin": "https://pages.example.org"}
    found = ask(served, "POST", "/predict", content=png(), headers={**RAW, **origin})
    assert found.status_code == 200
    assert found.headers["access-control-allow-origin"] == "https://pages.example.org"
    before = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    assert ask(served, "OPTIONS", "/predict", headers=before).status_code == 200
    found = ask(served, "POST", "/predict", content=png(), headers={**RAW, "origin": "https://evil.example"})
    assert problem(found)[:2] == (403, "origin")
    assert "access-control-allow-origin" not in found.headers
    # the page's own address needs no permission
    assert ask(served, "GET", "/health/ready", headers={"origin": "http://localhost"}).status_code == 200


def test_without_origins_no_page_may_ask(served):
    found = ask(served, "GET", "/health/ready")
    assert not [name for name in found.headers if name.startswith("access-control")]


def test_it_is_not_ready_once_it_was_asked_to_end(make, predictors):
    served = make({"a": predictors["classify"]})
    assert ask(served, "GET", "/health/ready").json() == {"status": "ready", "models": {"a": "classify"}}
    served.drain()
    assert problem(ask(served, "GET", "/health/ready"))[:2] == (503, "ending")
    found = ask(served, "POST", "/predict", content=png(), headers=RAW)
    assert problem(found)[:2] == (503, "ending")
    assert found.headers["connection"] == "close"
    assert ask(served, "GET", "/health/live").status_code == 200


def test_what_happens_is_counted_and_logged(make, predictors, records):
    served = make({"a": predictors["classify"]})
    found = ask(served, "POST", "/predict", content=png(), headers={**RAW, "x-request-id": "mine-1"})
    assert found.headers["x-request-id"] == "mine-1"
    wrong = ask(served, "POST", "/predict", content=b"x", headers={**RAW, "x-request-id": "not an id\r"[:9]})
    assert len(wrong.headers["x-request-id"]) == 16
    good, bad = (record.fields for record in records)
    assert (good["request_id"], good["status"], good["model"], good["batch"]) == ("mine-1", 200, "a", 1)
    assert good["bytes"] == len(png())
    assert 0 <= good["read"] + good["queue"] + good["run"] <= good["seconds"]
    assert (bad["request_id"], bad["status"], bad["error"]) == (wrong.headers["x-request-id"], 415, "format")
    text = ask(served, "GET", "/metrics").text
    for line in (
        'involution_serve_requests_total{status="200"} 1.0',
        'involution_serve_requests_total{status="415"} 1.0',
        'involution_serve_errors_total{kind="format"} 1.0',
        'involution_serve_batch_images_count{model="a"} 1.0',
        'involution_serve_stage_seconds_count{stage="run"} 1.0',
        "involution_serve_active_requests 0.0",
        'involution_serve_waiting_images{model="a"} 0.0',
    ):
        assert line in text.splitlines()


def test_head_is_answered_as_get_is(served):
    assert ask(served, "HEAD", "/health/ready").headers["content-length"] == str(
        len(ask(served, "GET", "/health/ready").content)
    )


def test_the_description_has_what_is_answered(served):
    document = ask(served, "GET", "/openapi.json").json()
    operation = document["paths"]["/predict"]["post"]
    assert {one["name"] for one in operation["parameters"]} == {"model", "topk", "score", "masks"}
    assert operation["parameters"][0]["schema"]["enum"] == ["classify", "detect", "segment"]
    statuses = {str(status) for _, status, _, _ in WRONG} | {"200", "401", "408", "503"}
    assert set(operation["responses"]) == statuses
    references = json.dumps(document).split('"#/components/schemas/')[1:]
    assert {text.partition('"')[0] for text in references} <= set(document["components"]["schemas"])


def test_a_client_that_leaves_takes_its_image_along(make, predictors):
    slow = Slow(predictors["classify"])
    served = make({"a": slow})

    async def conversation(session):
        slow.free.clear()
        slow.batches.clear()
        first = asyncio.create_task(session.post("/predict", content=png(), headers=RAW))
        while not slow.batches:
            await asyncio.sleep(0.001)
        messages = [{"type": "http.request", "body": png(), "more_body": False}, {"type": "http.disconnect"}]
        sent = []

        async def receive():
            # it leaves while its image waits
            while len(messages) == 1 and not len(served._batchers["a"]):
                await asyncio.sleep(0.001)
            return messages.pop(0)

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b""}
        await served({**scope, "headers": [(b"content-length", b"1")]}, receive, send)
        assert sent == []
        assert len(served._batchers["a"]) == 0
        slow.free.set()
        return await first

    assert talk(served, conversation).status_code == 200
    assert slow.batches == [1]
    assert 'requests_total{status="499"} 1.0' in ask(served, "GET", "/metrics").text


def test_grey_images_and_turned_ones_are_read_as_for_predict(served, predictors):
    for image, options in ((picture(1).convert("L"), {}), (picture(2), {"exif": _turned()})):
        file = io.BytesIO()
        image.save(file, "JPEG", **options)
        found = predict(served, "classify", file.getvalue())
        assert [one["score"] for one in found.json()["classes"]] == list(
            expected(predictors["classify"], file.getvalue()).scores
        )


def test_what_predict_tells_of_an_image_is_in_its_answer(served):
    file = io.BytesIO()
    picture(2).save(file, "GIF", save_all=True, append_images=[picture(3)])
    notes = predict(served, "classify", file.getvalue()).json()["notes"]
    assert notes == ["of several frames or pages the first is used"]
    file = io.BytesIO()
    picture(2, (400, 20)).save(file, "JPEG", exif=_turned())
    for task, said in (("classify", 2), ("segment", 1)):
        notes = predict(served, task, file.getvalue()).json()["notes"]
        assert len(notes) == said
        assert notes[0] == "turned upright by its EXIF orientation"
        TASKS[task].model_validate_json(predict(served, task, file.getvalue()).content)
    assert "notes" not in predict(served, "classify", png()).json()


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif
