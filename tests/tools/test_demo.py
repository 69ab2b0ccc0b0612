import ast
import csv
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ancestral.tools.demo import belief_net
from ancestral.tools.demo.demo import aligned, run, smoothed
from ancestral.trace.serialize.file import replacing

LAYERS = ["prior_h2", "infer_h1", "infer_h2", "generate_h1", "generate_x", "total"]
Rows = list[dict[str, str]]
PROMISED = {"belief_net.svg", "variance.csv", "elbo.png"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("demo") / "out"
    run(folder, steps=5, seed=0, repeats=20)
    return folder


@pytest.fixture(scope="module")
def table(out: Path) -> Rows:
    with (out / "variance.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_folder_holds_exactly_the_promised_files(out: Path) -> None:
    assert {path.name for path in out.iterdir()} == PROMISED
    root = ElementTree.fromstring((out / "belief_net.svg").read_text(encoding="utf-8"))
    assert root.tag.endswith("svg")
    assert {"h1", "h2"} <= set(" ".join(root.itertext()).split())
    assert (out / "elbo.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_every_layer_has_a_finite_positive_variance_for_each_method(table: Rows) -> None:
    expected = [(letter, layer) for letter in "abcde" for layer in LAYERS]
    assert sorted((row["estimator"], row["layer"]) for row in table) == sorted(expected)
    variances = [float(row["variance"]) for row in table]
    assert all(math.isfinite(v) and v > 0 for v in variances)


def test_the_total_is_the_sum_of_the_layers(table: Rows) -> None:
    for letter in "abcde":
        own = {row["layer"]: float(row["variance"]) for row in table if row["estimator"] == letter}
        total = own.pop("total")
        assert sum(own.values()) == pytest.approx(total, rel=1e-4)


def test_the_default_has_less_variance_than_what_is_written_by_hand(table: Rows) -> None:
    fold = {
        row["estimator"]: float(row["fold_below_a"]) for row in table if row["layer"] == "total"
    }
    assert fold["a"] == 1
    assert fold["c"] > 1.3 * fold["b"] > 30
    assert fold["d"] > 0.9 * fold["c"]
    assert fold["e"] < 1 / 30


def test_the_generative_net_has_the_same_variance_under_every_method(table: Rows) -> None:
    """Its gradient has no score-function term, and the draws are the same."""
    for layer in ("prior_h2", "generate_h1", "generate_x"):
        found = [float(row["variance"]) for row in table if row["layer"] == layer]
        assert found == pytest.approx([found[0]] * 5, rel=1e-3)


def test_the_same_seed_gives_the_same_table_and_another_gives_another(
    out: Path, tmp_path: Path
) -> None:
    for folder, seed in ((tmp_path / "same", 0), (tmp_path / "other", 1)):
        run(folder, steps=5, seed=seed, repeats=20)
    first, same, other = (
        (folder / "variance.csv").read_bytes()
        for folder in (out, tmp_path / "same", tmp_path / "other")
    )
    assert first == same
    assert first != other


def test_the_screen_shows_the_table_and_the_ratios_and_the_bar_stays_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, steps=2, repeats=2)
    shown = capsys.readouterr()
    for words in (
        "infer_h1",
        *(f"total variance, {letter} / c: " for letter in "abde"),
        *(f"held-out ELBO after 2 steps of ({letter})" for letter in "abc"),
    ):
        assert words in shown.out
    assert "step/s" in shown.err
    assert "step/s" not in shown.out


@pytest.mark.parametrize(
    ("steps", "repeats", "words"),
    [
        (0, 2, "at least one optimizer step, got steps=0"),
        (1, 1, "at least two repeats, got repeats=1"),
    ],
)
def test_too_little_work_is_refused_before_anything_is_written(
    tmp_path: Path, steps: int, repeats: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run(tmp_path / "out", steps=steps, repeats=repeats)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def break_off() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_smoothing_keeps_a_straight_line() -> None:
    line = [2.0 * step for step in range(150)]  # a window of three
    steps, means = smoothed(line)
    assert steps == list(range(1, 149))
    assert means == pytest.approx(line[1:149])


def test_columns_are_aligned() -> None:
    assert aligned([["a", "bc"], ["def", "g"]]) == "a    bc\ndef   g"


def test_the_model_knows_nothing_of_this_library() -> None:
    source = Path(belief_net.__file__).read_text(encoding="utf-8")
    roots = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").partition(".")[0])
    assert roots == {"torch"}
