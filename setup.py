"""Only what pyproject.toml cannot say: models and grammar corpus travel inside the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

DATA = Path(__file__).parent / "data"


class BuildWithData(build_py):
    """A wheel contains the data; an editable install reads it from the repository."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for folder in ("pretrained", "grammar"):
                target = Path(self.build_lib) / "transformer_lib" / folder
                shutil.copytree(DATA / folder, target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithData})
