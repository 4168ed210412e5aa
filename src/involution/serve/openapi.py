"""The description of the interface, by OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from involution import __version__
from involution.serve.answers import TASKS, Problem

if TYPE_CHECKING:
    from involution.serve.network import Network
    from involution.serve.settings import Settings

_REF = "#/components/schemas/{model}"
_TYPES = {int: "integer", float: "number", str: "string"}
_REFUSALS = {
    400: "the request is malformed",
    401: "no token, or a wrong one",
    403: "another name than the server's, or a page of another origin",
    404: "no such network",
    405: "another method",
    408: "the request was not all there in time",
    413: "more bytes or pixels than are taken",
    415: "another type, or a format that is not read",
    422: "a broken image, one that the network can't take, or an option that is none",
    431: "a header of too many lines or bytes",
    503: "too much to do, or about to end: ask again after Retry-After seconds",
}


def describe(settings: Settings, networks: Sequence[Network]) -> dict[str, Any]:
    """The document.

    Args:
        settings: whether tokens are wanted, and limits.
        networks: what is served.
    """
    tasks = dict.fromkeys(network.task for network in networks)
    models: list[type[BaseModel]] = [*(TASKS[task] for task in tasks), Problem]
    _, schemas = models_json_schema([(model, "serialization") for model in models], ref_template=_REF)
    answers = [_ref(TASKS[task].__name__) for task in tasks]
    problem = {"content": _json(_ref("Problem"))}
    refusals = {str(code): {"description": text, **problem} for code, text in _REFUSALS.items()}
    refusals["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    binary = {"schema": {"type": "string", "format": "binary"}}
    predict: dict[str, Any] = {
        "operationId": "predict",
        "summary": "Use a network on an image",
        "parameters": _parameters(networks),
        "requestBody": {
            "required": True,
            "description": f"an image file of at most {settings.max_bytes:,} bytes and {settings.max_pixels:,} pixels",
            "content": {
                "application/octet-stream": binary,
                "image/*": binary,
                "multipart/form-data": {"schema": _object({"type": "string", "format": "binary"})},
                **_json(_object({"type": "string", "contentEncoding": "base64", "format": "byte"})),
            },
        },
        "responses": {
            "200": {
                "description": "what it says about the image",
                "content": _json(answers[0] if len(answers) == 1 else {"oneOf": answers}),
            },
            **refusals,
        },
    }
    text = {"description": "counters", "content": {"text/plain": {"schema": {"type": "string"}}}}
    paths = {
        "/predict": {"post": predict},
        "/health/live": {"get": _page("live", "Whether the server is alive", _status("live"), refusals)},
        "/health/ready": {"get": _page("ready", "Whether it takes requests", _status("ready"), refusals)},
        "/metrics": {"get": {**_page("metrics", "Counters for Prometheus", {}, refusals)}},
    }
    paths["/metrics"]["get"]["responses"]["200"] = text
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "involution serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas.get("$defs", {})},
    }
    if settings.tokens:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path in ("/predict", "/metrics"):
            for operation in paths[path].values():
                operation["security"] = [{"token": []}]
    return document


def _parameters(networks: Sequence[Network]) -> list[dict[str, Any]]:
    names = [network.name for network in networks]
    found = {
        "model": {
            "name": "model",
            "in": "query",
            "required": len(names) > 1,
            "description": "which network; needed if there are several",
            "schema": {"type": "string", "enum": names},
        }
    }
    for network in networks:
        for name, option in network.options.items():
            schema: dict[str, Any] = {"type": _TYPES[option.kind]}
            # clients send what is a default here, and a network without the option would refuse it
            if all(name in other.options for other in networks):
                schema["default"] = option.default
            if option.choices:
                schema["enum"] = list(option.choices)
            text = f"of {network.task}: {option.help} (default: {option.default})"
            found.setdefault(name, {"name": name, "in": "query", "description": text, "schema": schema})
    return list(found.values())


def _page(name: str, summary: str, content: dict[str, Any], refusals: dict[str, Any]) -> dict[str, Any]:
    some = {code: refusals[code] for code in ("401", "403", "431", "503")}
    answer = {"description": "yes", "content": _json(content)}
    return {"operationId": name, "summary": summary, "responses": {"200": answer, **some}}


def _status(word: str) -> dict[str, Any]:
    properties: dict[str, Any] = {"status": {"const": word}}
    if word == "ready":
        properties["models"] = {"type": "object", "additionalProperties": {"type": "string"}}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _object(image: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"image": image}, "required": ["image"], "additionalProperties": False}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(model=name)}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
