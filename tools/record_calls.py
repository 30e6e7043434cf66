"""A pytest plugin that records which commands and public functions each passing test calls.

python -m pytest -p record_calls TESTS, with CALLS in the environment naming the file to write.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CALLED: set[str] = set()
PASSED: dict[str, list[str]] = {}  # test -> what it calls
OURS = re.compile(r"transformer_lib[' ,]+([a-z]+)")  # in a command line


def _record(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        CALLED.add(name)
        return function(*arguments, **options)

    return call


def pytest_configure() -> None:
    """Wrap the commands, the public functions, and what starts a process."""
    from faults_table import public_names

    for name, (owner, attribute) in public_names().items():
        function = vars(owner)[attribute]
        if isinstance(function, staticmethod | classmethod):
            wrapped: Any = type(function)(_record(function.__func__, name))
        elif callable(function):
            wrapped = _record(function, name)
        else:
            continue
        setattr(owner, attribute, wrapped)
        api = importlib.import_module("transformer_lib.api")
        if vars(api).get(attribute) is function:
            setattr(api, attribute, wrapped)
    cli, start = importlib.import_module("transformer_lib.cli"), subprocess.Popen.__init__
    real = cli.main

    def main(arguments: Any = None) -> int:
        CALLED.update(map(str, [*(sys.argv[1:] if arguments is None else arguments)][:1]))
        return real(arguments)

    def popen(self: Any, arguments: Any, *others: Any, **options: Any) -> None:
        CALLED.update(OURS.findall(str(arguments)))
        start(self, arguments, *others, **options)

    cli.main, subprocess.Popen.__init__ = main, popen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: Any) -> Iterator[None]:
    """Record what is called by the test itself, not by what prepares it."""
    CALLED.clear()
    result = yield
    name = f"{item.path.stem}.{item.originalname}"
    PASSED[name] = sorted({*PASSED.get(name, []), *CALLED})
    return result


def pytest_sessionfinish() -> None:
    """Write the record."""
    Path(os.environ["CALLS"]).write_text(json.dumps(PASSED))
