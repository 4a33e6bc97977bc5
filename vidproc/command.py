"""A job's command line: its flags and `--config FILE.yaml` as one checked, frozen model; its log; its exit code.

No line of the log holds a URL with a query, a user name or a password.

Flags win over the file; unknown keys are errors. argparse reads the flags because values are URLs and file names, and
those may hold commas and brackets: pydantic-settings' own command line would split `--archive "a,b.mp4"`.
"""

import argparse
import json
import logging
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NoReturn, TextIO, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from vidproc.errors import UsageError, VidprocError


class Options(BaseModel):
    """Base of all option groups. A field's description is its help; its type says how its flag looks."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Positional:
    """Marks the field that is given without its flag's name: `Annotated[str, Positional()]`."""


Chosen = TypeVar("Chosen", bound=Options)


def parse(model: type[Chosen], description: str | None, argv: Sequence[str] | None = None) -> Chosen:
    """Read flags (and the YAML file of `--config`). Ends the process at `--help`; raises `UsageError` for the rest."""
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE.yaml", help="options by name, in YAML; flags win over it")
    for name, field in model.model_fields.items():
        if any(isinstance(mark, Positional) for mark in field.metadata):
            parser.add_argument(name, nargs=None if field.is_required() else "?", help=field.description)
        else:
            parser.add_argument(f"--{name.replace('_', '-')}", dest=name, **_argument(field))
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    try:
        return model.model_validate(_from_yaml(given.pop("config", None)) | given)
    except ValidationError as error:
        raise UsageError(f"{_explain(error, model)} (see --help)") from None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UsageError(f"{message} (see --help)")


def _argument(field: Any) -> dict[str, Any]:
    """How one field looks as a flag. Nothing is converted here: pydantic does that."""
    kind = field.annotation
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    described = field.description or ""
    if not field.is_required() and field.default not in (None, (), False) and not field.default_factory:
        described += f" (default: {field.default})"
    known: dict[str, Any] = {"default": None, "help": described.replace("%", "%%")}
    if kind is bool:
        return known | {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is Literal:
        return known | {"choices": get_args(kind)}
    if get_origin(kind) in (tuple, list, dict):
        return known | {"nargs": "+", "action": "extend"}
    return known


def _from_yaml(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--config {path} cannot be read as YAML: {error}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UsageError(f"--config {path} must hold options by name, such as `limit: 10`, not {type(found).__name__}")
    return {str(name).replace("-", "_"): value for name, value in found.items()}


def _explain(error: ValidationError, model: type[Options]) -> str:
    said = []
    for problem in error.errors():
        name = str(problem["loc"][0]) if problem["loc"] else ""
        flag = f"--{name.replace('_', '-')}"
        if problem["type"] == "extra_forbidden":
            allowed = ", ".join(sorted(model.model_fields))
            said.append(f"{name!r} is no option; options are: {allowed}")
        elif problem["type"] == "missing":
            said.append(f"{flag} is required")
        else:
            said.append(f"{flag}: {problem['msg'].removeprefix('Value error, ')}" if name else problem["msg"])
    return "; ".join(said)


_always: dict[str, Any] = {}
_URL = re.compile(r"""([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/?#'"<>]*@)?([^\s?'"<>]*)(?:\?[^\s'"<>]*)?""")


def log_always(**fields: Any) -> None:
    """Fields of every event from here on, where a log shipper reads it."""
    _always.update(fields)


def redacted(text: str) -> str:
    """The text with its URLs less user names, passwords and queries, which hold tokens and signatures."""
    return _URL.sub(r"\1\2", text)


def log(event: str, *, stream: TextIO | None = None, **fields: Any) -> None:
    """One event: readable on a terminal, a JSON object on one line elsewhere (a log shipper reads it)."""
    stream = stream or sys.stderr
    told: dict[str, Any] = _redacted(fields)
    if stream.isatty():
        text = "  ".join(f"{name} {value}" for name, value in told.items())
        print(f"\r\033[K{event}: {text}", file=stream, flush=True)
    else:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        print(json.dumps({"at": at, "event": event, **_always, **told}), file=stream, flush=True)


def _redacted(value: Any) -> Any:
    """As JSON takes it."""
    if isinstance(value, dict):
        return {redacted(str(name)): _redacted(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float) else redacted(str(value))


class _AsEvents(logging.Handler):
    """What goes to Python's `logging`, from libraries too, as events."""

    def emit(self, record: logging.LogRecord) -> None:
        error: dict[str, Any] = {"error": repr(record.exc_info[1])} if record.exc_info else {}
        log(record.levelname.lower(), logger=record.name, message=record.getMessage(), **error)


def log_as_events() -> None:
    """From here on, what this process logs by Python's `logging` looks like all else: warnings, and of ours more."""
    logging.basicConfig(handlers=[_AsEvents()], level=logging.WARNING)
    logging.getLogger("vidproc").setLevel(logging.INFO)


def end_with(main: Callable[[], int]) -> NoReturn:
    """Run a job's `main` and end the process with its exit code, or with that of the typed error that it raised.

    Ends without the interpreter's clean-up: a process that has read a Delta table sometimes aborts there, with another
    code (2 of 13 runs).
    """
    log_as_events()
    try:
        code = main()
    except VidprocError as error:
        code = error.exit_code
        log("failed", error=type(error).__name__, message=str(error), exit_code=code)
    except KeyboardInterrupt as error:
        code = getattr(error, "exit_code", 130)
        log("stopped", message="committed work is kept; run the same command to go on", exit_code=code)
    except SystemExit as error:  # argparse, after --help
        code = error.code if isinstance(error.code, int) else 0
    except BaseException as error:
        code = 1
        log("crashed", error=type(error).__name__, message=str(error), exit_code=code, traceback=traceback.format_exc())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
