"""The site: it builds without a warning, its links lead somewhere, and it can be read anywhere.

The blocks of its pages are run by `tests/test_documents.py`; here they are not run again.
"""

import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("sphinx", reason="the site needs pip install 'ancestral[docs]'")
pytest.importorskip("furo", reason="the site needs pip install 'ancestral[docs]'")

ROOT = Path(__file__).parent.parent
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PAGES = ("index", "start", "idea", "questions", "tutorials/belief_net", "reference/estimators")


class Found(HTMLParser):
    """The ids of a page, its links, and what a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.ids.add(found.get("id", ""))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag in ("link", "script", "img", "iframe"):
            self.loaded += [found[key] for key in ("src", "href") if key in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"]
    options = ["-D", "nb_execution_mode=off", "-d", str(out / "doctrees")]
    done = subprocess.run(
        [*command, *options, str(ROOT / "docs"), str(out / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Found]:
    return {path: Found(path.read_text()) for path in site.rglob("*.html")}


def test_every_page_of_the_docs_is_in_the_site(site: Path) -> None:
    for path in (ROOT / "docs").rglob("*.md"):
        part = path.relative_to(ROOT / "docs")
        if "_build" not in part.parts:
            assert (site / part.with_suffix(".html")).is_file(), part


def test_every_file_beside_the_pages_belongs_to_one() -> None:
    docs = ROOT / "docs"
    files = [path for path in docs.rglob("*") if path.is_file() and "_build" not in path.parts]
    pages = [path for path in files if path.suffix in (".md", ".rst")]
    text = "".join(page.read_text() for page in pages) + (ROOT / "README.md").read_text()
    kept = {"conf.py", "results.json"}  # of the build, and what the gallery's page is made of
    beside = set(files) - set(pages)
    strays = [path for path in beside if path.name not in {*kept} and path.name not in text]
    assert {path.parent.name for path in strays} <= {"extensions", "static", "__pycache__"}


def test_every_link_leads_to_a_page_and_a_place_on_it(pages: dict[Path, Found]) -> None:
    broken = []
    for path, found in pages.items():
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or not (parts.path or parts.fragment):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target not in pages:
                broken += [] if target.is_file() else [(path.name, link)]
            elif parts.fragment and unquote(parts.fragment) not in pages[target].ids:
                broken.append((path.name, link))
    assert not broken


def test_nothing_is_loaded_from_a_network(pages: dict[Path, Found]) -> None:
    loaded = {each for found in pages.values() for each in found.loaded}
    assert not [each for each in loaded if urlsplit(each).netloc]


def test_pages_are_valid_html(site: Path) -> None:
    html5lib = pytest.importorskip("html5lib", reason="the checker is not installed")
    for page in PAGES:
        parser = html5lib.HTMLParser()
        parser.parse((site / f"{page}.html").read_text())
        # MathML has no entity names there; search results are empty lists.
        assert not [error for _, error, _ in parser.errors], page


def test_every_public_name_has_its_place_in_the_reference(pages: dict[Path, Found]) -> None:
    described = {each.rpartition(".")[2] for found in pages.values() for each in found.ids}
    for home in (
        "ancestral",
        *(f"ancestral.{n}" for n in "estimators infer handlers errors".split()),
    ):
        module = importlib.import_module(home)
        for name in module.__all__:
            if not isinstance(getattr(module, name), ModuleType):
                assert name in described, f"{home}.{name}"


QUESTIONS = {
    "How do I log the loss?": "loss.item()",
    "What does this warning mean?": "BlurredCreditWarning",
    "Which estimator?": "an.estimators.Optimal()",
    "Lightning": "an.surrogate(loss)",
    "DDP": "an.backward(loss)",
    "torch.compile": "an.compile(loss_fn)",
    "gymnasium": "an.external(envs.step)",
    "transformers": "an.wrap(model",
    "Pyro": "an.infer.TraceGraph_ELBO()",
    "What does it cost?": "times the estimator by hand",
    "When is it biased?": "straight-through",
    "Checkpoints": "an.save_checkpoint",
    "Choosing an estimator by a study": "an.study(",
}


@pytest.fixture(scope="module")
def answers(site: Path, pages: dict[Path, Found]) -> dict[str, str]:
    """Return what stands below each heading that two clicks from the start lead to."""
    bs4 = pytest.importorskip("bs4", reason="the site needs pip install 'ancestral[docs]'")

    def targets(path: Path) -> set[tuple[Path, str]]:
        links = (urlsplit(link) for link in pages[path].links)
        return {
            ((path.parent / each.path).resolve() if each.path else path, each.fragment)
            for each in links
            if not each.scheme
        }

    first = {path for path, _ in targets(site / "index.html") if path in pages}
    reached = {each for path in first for each in targets(path)}
    found: dict[str, str] = {}
    for path in {path for path, _ in reached} & pages.keys():
        for section in bs4.BeautifulSoup(path.read_text(), "html.parser").select("section[id]"):
            heading = section.find(re.compile("h[1-6]"), recursive=False)
            is_top = heading is not None and heading.name == "h1"
            if (path, section["id"]) in reached or (is_top and (path, "") in reached):
                name = heading.get_text().rstrip("#¶ ")
                found[name] = found.get(name, "") + section.get_text()
    return found


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_two_clicks_from_the_start(
    answers: dict[str, str], question: str
) -> None:
    assert QUESTIONS[question] in answers[question]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("no browser: install Debian's chromium, or Chrome")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        yield p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])


@pytest.mark.parametrize("width", [380, 1400])
def test_no_page_runs_off_the_side(site: Path, browser: Any, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, offline=True)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    for name in PAGES:
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    context.close()
    assert not wrong


CONTRASTS = """() => {
  const numbers = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const paint = e => getComputedStyle(e).backgroundColor;
  const behind = e => !e ? "rgb(255, 255, 255)"
    : (numbers(paint(e))[3] ?? 1) < 1 ? behind(e.parentElement) : paint(e);
  const light = text => numbers(text).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const says = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  return [...document.querySelectorAll("article *")]
    .filter(e => e.checkVisibility() && says(e) && !e.closest("svg"))
    .map(e => {
      const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), e.textContent.slice(0, 60)];
    })
    .filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_told_from_its_ground(site: Path, browser: Any, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, offline=True)
    page = context.new_page()
    for name in PAGES:
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate(CONTRASTS) == [], name
    context.close()
