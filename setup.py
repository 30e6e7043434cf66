"""What pyproject.toml cannot express: data inside the wheel, absolute links in its README."""

import re
import shutil
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
LINK = re.compile(r'(\]\(|src="|href=")(?!https?:|#)([^)"\s]+)')
PICTURE = re.compile(r"\.(png|svg|gif|jpg)$")


class BuildWithData(build_py):
    """Copy models, data and explorer into a wheel; an editable install has the repository's."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for folder in ("pretrained", "grammar", "digits"):
                target = Path(self.build_lib) / "transformer_lib" / folder
                shutil.copytree(ROOT / "data" / folder, target, dirs_exist_ok=True)
            page = Path(self.build_lib) / "transformer_lib" / "explorer"
            shutil.copytree(ROOT / "explorer", page, dirs_exist_ok=True)


def absolute_readme():
    """Return the README for a package index, where relative links and pictures lead nowhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    repository, tag = project["urls"]["Repository"], f"v{project['version']}"
    pictures = repository.replace("//github.com/", "//raw.githubusercontent.com/")

    def absolute(link):
        start, path = link.groups()
        site = f"{pictures}/{tag}" if PICTURE.search(path) else f"{repository}/blob/{tag}"
        return f"{start}{site}/{path}"

    return LINK.sub(absolute, (ROOT / "README.md").read_text("utf-8"))


setup(
    cmdclass={"build_py": BuildWithData},
    long_description=absolute_readme(),
    long_description_content_type="text/markdown",
)
