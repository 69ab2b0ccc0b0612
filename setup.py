"""Additions to setup.cfg: the README for an index page, and a check of an editable install."""

import re
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = "https://github.com/ancestral-dev/ancestral/blob/main/"
FILE = "https://raw.githubusercontent.com/ancestral-dev/ancestral/main/"


def absolute(link: re.Match[str]) -> str:
    """Return a link into the repository from anywhere: to a page, or to the file of a picture."""
    return f"{link[1]}{FILE if link[1].startswith('!') else PAGE}{link[2]}"


def refuse_missing_links() -> None:
    """Raise where the links in ancestral/ are none, which an editable install imports through."""
    names = ("provenance", "trace", "estimators", "tools")
    missing = [name for name in names if not (ROOT / "ancestral" / name).is_dir()]
    if missing:
        raise SystemExit(
            f"an editable install needs symbolic links, and ancestral/{missing[0]} is none here: "
            "clone with them (git config core.symlinks true), or install without -e"
        )


if "editable_wheel" in sys.argv:
    refuse_missing_links()
setup(
    long_description=re.sub(r"(!?\[[^\]]*\]\()(?!\w+:|#)([^)]+)", absolute, README),
    long_description_content_type="text/markdown",
)
