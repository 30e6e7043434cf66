"""Say whether this machine is ready for the notebooks, and how to mend what is not.

    python tools/check_env.py        # or: make check-env

Runs on any Python 3 and needs nothing installed. One line for each thing that is looked at;
exit status 1 if something keeps the notebooks from running.
"""

import importlib
import os
import platform
import shutil
import sys
import time
from importlib import metadata

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST, NEWEST = (3, 11), (3, 14)
# What the notebooks import: the name to import, the name to install, the oldest version.
PACKAGES = [
    ("torch", "torch", (2, 10)),
    ("numpy", "numpy", (2, 0)),
    ("jaxtyping", "jaxtyping", (0, 3)),
    ("safetensors", "safetensors", (0, 5)),
    ("sentencepiece", "sentencepiece", (0, 2)),
    ("pooch", "pooch", (1, 8)),
    ("matplotlib", "matplotlib", (3, 10)),
    ("seaborn", "seaborn", (0, 13)),
    ("sacrebleu", "sacrebleu", (2, 5)),
    ("spacy", "spacy", (3, 8)),
    ("jupyterlab", "jupyterlab", (4, 4)),
    ("transformer_lib", "transformer-lib", (0, 1)),
]
INSTALL = 'python -m pip install -c constraints.txt -e ".[lessons,cli,test]"'
GIB = 1 << 30


def check_python():
    """Compare the version of Python with the oldest and newest that are tested."""
    found = sys.version_info[:2]
    name = "Python " + platform.python_version()
    if found < OLDEST:
        return (
            False,
            name + " is too old",
            "install Python 3.11 to 3.14, then make PYTHON=python3.12",
        )
    if found > NEWEST:
        return (
            None,
            name + " is newer than what is tested (3.14)",
            "if something fails: make PYTHON=python3.14",
        )
    return True, name, ""


def check_packages():
    """Import every package; name those that are missing, too old or broken."""
    wrong, versions = [], []
    for module, package, oldest in PACKAGES:
        try:
            importlib.import_module(module)
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            version = ""  # it runs from the folder of the repository
        except Exception as error:  # a broken package raises whatever it likes
            missing = isinstance(error, ImportError) and module in str(error)
            wrong.append(package + (" is missing" if missing else " is broken: " + str(error)[:80]))
            continue
        if version and numbers(version) < oldest:
            wrong.append(f"{package} {version} is too old")
        if module in ("torch", "numpy", "jupyterlab"):
            versions.append(f"{package} {version}")
    if wrong:
        return False, "packages: " + "; ".join(wrong), "make lab, or without make: " + INSTALL
    return True, "packages: " + ", ".join(versions), ""


def numbers(version):
    """Return the first two numbers of a version."""
    parts = version.split("+")[0].split(".")[:2]
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in parts)


def check_device():
    """Multiply two matrices on the device that the notebooks would choose."""
    try:
        import torch

        from transformer_lib import lessons

        device = lessons.choose_device()
        start = time.perf_counter()
        value = torch.ones(256, 256, device=device) @ torch.ones(256, 256, device=device)
        right = value.sum().item() == 256.0**3
        seconds = time.perf_counter() - start
    except Exception as error:
        return False, "device: " + str(error).split("\n")[0][:100], INSTALL
    line = f"device: {device}, first product after {seconds:.1f} s"
    return right, line, "" if right else "its product is wrong: install another build of torch"


def check_disk():
    """Compare the free space with what an environment and its trainings take."""
    free = shutil.disk_usage(ROOT).free
    line = f"disk: {free / GIB:.0f} GiB free"
    if free < GIB:
        return False, line, "free at least 1 GiB here: checkpoints and pages need it"
    return True, line, ""


def check_files():
    """Look for the corpus and the models that ship, and try to write beside them."""
    needed = ["data/grammar/train.de", "data/pretrained/multi30k-de-en/model.safetensors"]
    missing = [name for name in needed if not os.path.isfile(os.path.join(ROOT, name))]
    if missing:
        return False, f"files: {missing[0]} is missing", "git checkout -- data"
    if not os.access(ROOT, os.W_OK):
        return (
            False,
            "files: this folder cannot be written",
            "clone the repository where you may write",
        )
    return True, "files: grammar corpus and trained models are here", ""


def check_captions():
    """Look for Multi30k, which only notebook 07 uses."""
    try:
        from transformer_lib.data.multi30k import multi30k

        n = len(multi30k("train").source)
    except Exception:
        return None, "Multi30k: not here (only the last part of notebook 07 uses it)", "make data"
    return True, f"Multi30k: {n:,} captions", ""


CHECKS = [check_python, check_packages, check_device, check_disk, check_files, check_captions]


def main():
    """Print a line per check; return 1 if one of them keeps the notebooks from running."""
    marks = {True: "ok  ", None: "note", False: "MEND"}
    sys.path.insert(0, ROOT)
    passed = True
    for check in CHECKS:
        if check is check_device and not passed:
            continue  # without its packages it can only fail
        ok, line, remedy = check()
        print(marks[ok], line + (": " + remedy if remedy else ""))
        passed = passed and ok is not False
    print("This machine is ready." if passed else "Mend what is marked MEND, then run this again.")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
