"""What weights made from small data have to beat, and whether they do: computed from the results, not claimed.

The bar (set before the training): on the test part, protocols ``logistic`` and ``paper``, at least 10 points of
weighted F1 above the best of random initialisation and image statistics, for each band, the intervals apart.
"""

from collections.abc import Iterator, Sequence

from eo_backbones.result_tables import Row, markdown_table, scores
from eo_backbones.weights import Score

BASELINES = ("random", "random-bn", "stats")
PROTOCOLS = ("logistic", "paper")
POINTS = 10.0
UNTRAINED = "random-averaging"
"""What the weights were before training; no baseline of the bar, which names ``random`` as everybody knows it."""


def bar_section(own: Sequence[Row], results: Sequence[Row]) -> str:
    """Return a table of gains over the best baseline and a verdict, or ``""`` where no baseline was measured.

    Args:
        own: rows of the weights.
        results: all rows, those of baselines among them.
    """
    baselines = {name: _measured(name, results) for name in BASELINES}
    lines, missed = [], 0
    for score in scores(own):
        others = {name: found[_place(score)] for name, found in baselines.items() if _place(score) in found}
        if score.protocol not in PROTOCOLS or not others:
            continue
        name, best = max(others.items(), key=lambda item: item[1].f1)
        gain = round(100 * (score.f1 - best.f1), 2)  # figures have four decimals
        reached = gain >= POINTS and score.f1_low > best.f1_high
        missed += not reached
        verdict = "reached" if reached else "missed"
        lines.append([_setting(score), score.band, _shown(score), f"{name} {_shown(best)}", f"{gain:+.1f}", verdict])
    if not lines:
        return ""
    verdict = "Bar reached everywhere." if not missed else f"**Bar missed** in {missed} of {len(lines)} comparisons."
    unmeasured = [f"`{name}`" for name in BASELINES if not baselines[name]]
    if unmeasured:
        verdict += f" Not measured, so not compared with: {', '.join(unmeasured)}."
    return "\n\n".join(
        [
            "### Against the best baseline",
            f"The bar was set before the training: {POINTS:g} points of weighted F1 above the best of "
            f"{', '.join(BASELINES)}, intervals apart, for each band. {verdict}",
            markdown_table(["setting", "band", "these weights", "best baseline", "points", "bar"], lines),
            *_training_part(own, results),
        ]
    )


def _training_part(own: Sequence[Row], results: Sequence[Row]) -> Iterator[str]:
    """Yield what of the gain came from training, where the network before training was measured too."""
    before = _measured(UNTRAINED, results)
    pairs = [
        (score, before[_place(score)])
        for score in scores(own)
        if score.protocol in PROTOCOLS and _place(score) in before
    ]
    if not pairs:
        return
    yield (
        f"`{UNTRAINED}` is the network as its training began. It is no baseline of the bar; what these weights have on "
        "it is what training brought, the rest is the initialisation."
    )
    lines = [
        [_setting(own), own.band, _shown(own), _shown(untrained), f"{100 * (own.f1 - untrained.f1):+.1f}"]
        for own, untrained in pairs
    ]
    yield markdown_table(["setting", "band", "these weights", f"`{UNTRAINED}`", "points"], lines)


def _measured(model: str, results: Sequence[Row]) -> dict[tuple[object, ...], Score]:
    return {_place(score): score for score in scores([row for row in results if row["model"] == model])}


def _setting(score: Score) -> str:
    return f"{score.dataset}, {score.protocol}, {score.n_train:,} training images"


def _place(score: Score) -> tuple[object, ...]:
    return (score.dataset, score.band, score.protocol, score.split, score.fraction, score.size)


def _shown(score: Score) -> str:
    return f"{score.f1:.3f} [{score.f1_low:.3f}, {score.f1_high:.3f}]"
