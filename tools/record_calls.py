"""A pytest plugin that records which commands and public functions each passing test calls.

python -m pytest -p record_calls TESTS, with CALLS in the environment naming the file to write.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

CALLED: set[str] = set()
PASSED: dict[str, list[str]] = {}  # test -> what it calls
OURS = re.compile(r"transformer_lib[' ,]+([a-z]+)")  # in a command line


@functools.cache
def _codes() -> dict[CodeType, str]:
    """Map the code of each public function to its name."""
    from faults_table import public_names

    codes = {}
    for name, (owner, attribute) in public_names().items():
        function = inspect.unwrap(
            getattr(vars(owner)[attribute], "__func__", vars(owner)[attribute])
        )
        if isinstance(function, type):
            function = function.__init__
        if code := getattr(function, "__code__", None):
            codes[code] = name
    return codes


def pytest_configure() -> None:
    """Watch the commands, and what starts a process.

    Functions are watched by `sys.setprofile`: a wrapped one would be a changed one, and decoding
    does not take its fast path then.
    """
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
    codes = _codes()

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (name := codes.get(frame.f_code)):
            CALLED.add(name)

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        result = yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    name = f"{item.path.stem}.{item.originalname}"
    PASSED[name] = sorted({*PASSED.get(name, []), *CALLED})
    return result


def pytest_sessionfinish() -> None:
    """Write the record."""
    Path(os.environ["CALLS"]).write_text(json.dumps(PASSED))
