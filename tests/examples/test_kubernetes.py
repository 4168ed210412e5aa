"""The manifest of a server in a cluster: its command is one, and what it asks is answered."""

import re
from pathlib import Path

import pytest
import yaml
from command_lines import parser_of

from involution.serve.service import _OPEN

FILE = Path(__file__).parents[2] / "examples/kubernetes/serve.yaml"


@pytest.fixture(scope="module")
def manifests():
    return {found["kind"]: found for found in yaml.safe_load_all(FILE.read_text(encoding="utf-8"))}


@pytest.fixture(scope="module")
def pod(manifests):
    return manifests["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    (found,) = pod["containers"]
    return found


@pytest.fixture(scope="module")
def args(container):
    words = [*container["command"], *container["args"]]
    assert words[:2] == ["involution", "serve"]
    parser, _ = parser_of(("serve",))
    return parser.parse_args(words[2:])


def test_the_command_listens_where_it_is_asked(manifests, container, args):
    (port,) = container["ports"]
    assert (args.host, args.port) == ("0.0.0.0", port["containerPort"])
    (asked,) = manifests["Service"]["spec"]["ports"]
    assert asked["targetPort"] == port["name"]
    name = manifests["Service"]["metadata"]["name"]
    assert args.name == [name, f"{name}.default.svc.cluster.local"]
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert (
        manifests["Service"]["spec"]["selector"] == labels == manifests["Deployment"]["spec"]["selector"]["matchLabels"]
    )


def test_probes_ask_what_needs_no_token(container):
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {probe["path"] for probe in probes.values()} == set(_OPEN)
    assert {probe["port"] for probe in probes.values()} == {"http"}


def test_there_is_time_for_a_good_end(pod, args):
    assert pod["terminationGracePeriodSeconds"] > args.drain + args.timeout + args.head_timeout


def test_it_may_do_nothing_but_serve(pod, container, args):
    assert pod["securityContext"]["runAsNonRoot"]
    rights = container["securityContext"]
    assert (rights["readOnlyRootFilesystem"], rights["allowPrivilegeEscalation"]) == (True, False)
    assert rights["capabilities"] == {"drop": ["ALL"]}
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounted) == {volume["name"] for volume in pod["volumes"]}
    assert args.token_file.startswith(mounted["tokens"] + "/")
    # all workers' counters and what libraries set up
    assert mounted["tmp"] == "/tmp"
    assert args.threads == int(re.fullmatch(r"\d+", container["resources"]["limits"]["cpu"])[0])
