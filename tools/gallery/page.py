"""Page: the gallery as text, made of stored results alone.

python -m ancestral.tools.gallery.page  # writes it anew, without running a model
"""

from collections.abc import Iterable

from ancestral.tools.gallery.result import PAGE, RESULTS, Estimate, Result, Results, from_json

CLOSE = 1.05

_HEAD = """# Gallery

Packages that sample, each with a small model in plain torch, recorded as it is: no package knows
of this library, and no model declares anything for its gradient. `make gallery` makes this page:
each package has an environment apart, where its model runs, and what is found goes into
`docs/gallery/results.json`, which the page is made of (`make gallery ONLY="zuko pfrl"` runs some
anew). No figure on it is written by hand.

The yardstick is the estimator that one writes by hand in plain torch, outside of any recording:
the log-probability of each draw is multiplied with the costs of its own example from then on,
less the mean of the other examples' (leave-one-out).

- *Per example* (by hand without that mean), *leave-one-out* and `an.backward(loss)`: the variance
  of the gradient in total over its parameters, at fresh parameters, from {draws} runs. All draw
  the same values from the same seeds.
- *Times below*: how many times the variance of `an.backward(loss)` is below that of
  leave-one-out, with its standard error where that is a thousandth or more.
- *Step*: the time for loss and gradient, without a compiler, to that by hand with leave-one-out;
  the fastest of interleaved rounds in one process, with one thread.
- *Whole*: whether `an.compile` (`backend="aot_eager"`) captures the loss as one graph and finds
  it equal to a recording. Of the rest, the section names the line that the compiler cannot
  follow; they run eagerly, with the same gradient.

"""


def page(results: Results) -> str:
    """Return the gallery as Markdown."""
    found = list(results.models.values())
    draws = sorted({result.draws for result in found})
    parts = [
        _HEAD.format(draws=" or ".join(map(str, draws))),
        _table(found),
        _shared(results),
        *map(_section, found),
    ]
    return "".join(parts)


def is_close(result: Result) -> bool:
    """Return whether the variance is at most 5 % above that by hand."""
    return result.ours.times_below * CLOSE >= 1


def figure(number: float) -> str:
    """Return a number with three digits that count.

    >>> figure(26566.5), figure(0.02228), figure(1.0)
    ('26,600', '0.0223', '1')
    """
    rounded = float(f"{number:.3g}")
    return f"{rounded:,.0f}" if 1000 <= rounded < 1e6 else f"{rounded:.3g}"


def times_below(estimate: Estimate) -> str:
    """Return a ratio of variances with its standard error.

    >>> times_below(Estimate(2.0, 1.25, 0.05)), times_below(Estimate(2.0, 1.0, 1e-9))
    ('1.25 ± 0.05', '1')
    """
    shown = figure(estimate.times_below)
    is_exact = estimate.error < 1e-3 * estimate.times_below
    return shown if is_exact else f"{shown} ± {float(f'{estimate.error:.2g}'):g}"


def _table(found: list[Result]) -> str:
    close = sum(map(is_close, found))
    short = ", ".join(f"[{_title(r)}](#{_title(r)})" for r in found if not is_close(r))
    why = f" The others, whose sections say what mixes the credit: {short}." if short else ""
    lines = [
        "| package | per example | leave-one-out | `an.backward(loss)` | times below | step "
        "| whole |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *map(_row, found),
    ]
    count = f"{close} of {len(found)} have at most {CLOSE - 1:.0%} more variance than leave-one-out"
    return "\n".join(lines) + f"\n\n{count}.{why}\n\n"


def _row(result: Result) -> str:
    cells = [
        f"[{_title(result)}](#{_title(result)}) {result.version}",
        figure(result.per_example),
        figure(result.leave_one_out),
        figure(result.ours.variance),
        times_below(result.ours),
        f"{result.step:.1f}",
        "yes" if result.is_whole else "no",
    ]
    return f"| {' | '.join(cells)} |"


def _shared(results: Results) -> str:
    code = "\n\n".join(results.shared.values())
    return (
        "## What the models share\n\nThe estimator by hand, and the programs that several models "
        f"are an instance of:\n\n```py\n{code}```\n"
    )


def _section(result: Result) -> str:
    return "\n".join(
        [
            "",
            f"## {_title(result)}",
            "",
            f"`{result.package}` {result.version}, torch {result.torch}, Python {result.python}; "
            f"{result.parameters:,} parameters, {result.draws} runs.",
            "",
            f"```py\n{result.code}```",
            "",
            f"![The dependency graph of the model of {_title(result)}](gallery/{result.name}.svg)",
            "",
            "`print(trace.explain(loss))`:",
            "",
            f"```text\n{result.explanation}\n```",
            "",
            "| estimator | variance | times below |",
            "| --- | --- | --- |",
            *_variances(result),
            "",
            _last_words(result),
            "",
        ]
    )


def _variances(result: Result) -> Iterable[str]:
    yield f"| by hand, per example | {figure(result.per_example)} | |"
    yield f"| by hand, leave-one-out | {figure(result.leave_one_out)} | 1 |"
    yield f"| `an.backward(loss)` | {figure(result.ours.variance)} | {times_below(result.ours)} |"
    if result.trusting is not None:
        variance, ratio = figure(result.trusting.variance), times_below(result.trusting)
        yield f"| the same, within `an.record(trust={result.trust!r})` | {variance} | {ratio} |"


def _last_words(result: Result) -> str:
    by_hand = f"the {figure(result.milliseconds)} ms that it takes by hand"
    step = f"A step takes {result.step:.1f} times {by_hand}."
    whole = f"`an.compile`: {result.compiled}."
    warned = "".join(f" It warns: `an.errors.{name}`." for name in result.warned)
    return f"{step} {whole}{warned}"


def _title(result: Result) -> str:
    return result.package.partition("[")[0]


if __name__ == "__main__":
    PAGE.write_text(page(from_json(RESULTS.read_text())))
