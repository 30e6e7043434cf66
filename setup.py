"""Only what pyproject.toml cannot say: the models of data/pretrained travel inside the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

MODELS = Path(__file__).parent / "data" / "pretrained"


class BuildWithModels(build_py):
    """A wheel holds the models; an editable install reads them from the repository."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "transformer_lib" / "pretrained"
            shutil.copytree(MODELS, target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithModels})
