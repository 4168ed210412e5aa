"""The log: a line of JSON for each request, and for what else happens."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from involution.data.errors import printable


class JsonLines(logging.Formatter):
    """Makes a line of JSON of a record and its `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in the record."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "process": record.process,
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["fault"] = told(record.exc_info[1])
        return json.dumps(line, default=str)


class _Errors(logging.StreamHandler[Any]):
    """Writes to whatever the error output is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def set_up(level: str = "info") -> None:
    """Let this process log in lines of JSON to its error output; libraries too, of those that serve what goes wrong."""
    handler = _Errors()
    handler.setFormatter(JsonLines())
    logging.getLogger().handlers[:] = [handler]
    logging.captureWarnings(True)
    levels = {"involution.serve": level.upper(), "uvicorn": "ERROR", "asyncio": "ERROR"}
    # what they call an error is a client's fault, which its answer tells
    levels |= {"python_multipart": "CRITICAL", "PIL": "CRITICAL"}
    for name, least in levels.items():
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(least)


def told(error: BaseException) -> str:
    """What went wrong and where, in a line."""
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(where[-1].filename).name}, line {where[-1].lineno})" if where else ""
    return printable(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}")
