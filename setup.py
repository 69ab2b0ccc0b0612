"""What setup.cfg cannot say: the README for an index page, where relative links lead nowhere."""

import re
from pathlib import Path

from setuptools import setup

README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
PAGE = "https://github.com/ancestral-dev/ancestral/blob/main/"
FILE = "https://raw.githubusercontent.com/ancestral-dev/ancestral/main/"


def absolute(link: re.Match[str]) -> str:
    """Return a link into the repository from anywhere: to a page, or to the file of a picture."""
    return f"{link[1]}{FILE if link[1].startswith('!') else PAGE}{link[2]}"


setup(
    long_description=re.sub(r"(!?\[[^\]]*\]\()(?!\w+:|#)([^)]+)", absolute, README),
    long_description_content_type="text/markdown",
)
