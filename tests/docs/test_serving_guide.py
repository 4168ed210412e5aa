"""The serving guide: its clients run against a server, and its tables are what the command has."""

import os
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
from explain_checkpoint import save_checkpoint
from pictures import picture
from serve_networks import listening, service

from involution.predict import load_predictor
from involution.serve.openapi import _REFUSALS
from involution.serve.settings import Settings

GUIDE = (Path(__file__).parents[2] / "docs/guides/serving.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    picture(1, (40, 30)).save(folder / "picture.jpg")
    return folder


@pytest.fixture(scope="module")
def address(place):
    predictor = load_predictor(save_checkpoint(place / "photos.ckpt", channels=3, side=24), "cpu")
    with listening(service({"photos": predictor}, drain=0.0)) as port:
        yield f"http://127.0.0.1:{port}"


def block(language):
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    return found


def test_curl_asks_in_three_forms(place, address):
    words = ["bash", "-euo", "pipefail", "-c", block("bash").replace(ADDRESS, address)]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    raw, form, encoded = done.stdout.splitlines()
    assert raw == encoded
    assert raw.startswith('{"task":"classify","model":"photos","classes":[{"label":')
    assert form == raw.partition("},")[0] + "}]}"


def test_the_client_in_python_asks(place, address, monkeypatch, capsys):
    monkeypatch.chdir(place)
    names = {}
    exec(block("python").replace(ADDRESS, address), names)
    assert re.fullmatch(r"(ant|bee|cat|dog) \d+\.\d%\n", capsys.readouterr().out)
    with names["httpx"].Client(base_url=address) as session, pytest.raises(ValueError, match=r"format: not an image"):
        names["predict"](session, b"none")


def test_the_limits_are_those_of_the_command():
    listed = dict(re.findall(r"^\| `--([\w-]+)` \| ([\d.]+) \|", GUIDE, re.MULTILINE))
    have = {
        field.name.replace("_", "-"): str(field.default)
        for field in fields(Settings)
        if field.name.startswith(("max_", "batch_")) or field.name in ("timeout", "head_timeout", "drain")
    }
    assert listed == have


def test_the_statuses_are_those_of_the_interface():
    table = GUIDE.partition("| status | why |")[2].partition("\n\n")[0]
    listed = {
        int(status) for cell in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for status in cell.split(",")
    }
    assert listed == set(_REFUSALS)
