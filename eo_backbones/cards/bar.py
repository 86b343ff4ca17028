"""What weights made from small data have to beat, and whether they do: computed from the results, not claimed.

The bar (set before the training): on the test part, protocols ``logistic`` and ``paper``, at least 10 points of
weighted F1 above the best of random initialisation and image statistics, for each band, the intervals apart.
"""

from collections.abc import Sequence

from eo_backbones.result_tables import Row, markdown_table, scores
from eo_backbones.weights import Score

BASELINES = ("random", "random-bn", "stats")
PROTOCOLS = ("logistic", "paper")
POINTS = 10.0


def bar_section(own: Sequence[Row], results: Sequence[Row]) -> str:
    """Return a table of gains over the best baseline and a verdict, or ``""`` where no baseline was measured.

    Args:
        own: rows of the weights.
        results: all rows, those of baselines among them.
    """
    baselines = {name: {_place(s): s for s in scores([r for r in results if r["model"] == name])} for name in BASELINES}
    lines, missed = [], 0
    for score in scores(own):
        others = {name: found[_place(score)] for name, found in baselines.items() if _place(score) in found}
        if score.protocol not in PROTOCOLS or not others:
            continue
        name, best = max(others.items(), key=lambda item: item[1].f1)
        gain = round(100 * (score.f1 - best.f1), 2)  # figures have four decimals
        reached = gain >= POINTS and score.f1_low > best.f1_high
        missed += not reached
        what = f"{score.dataset}, {score.protocol}, {score.n_train:,} training images"
        verdict = "reached" if reached else "missed"
        lines.append([what, score.band, _shown(score), f"{name} {_shown(best)}", f"{gain:+.1f}", verdict])
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
        ]
    )


def _place(score: Score) -> tuple[object, ...]:
    return (score.dataset, score.band, score.protocol, score.split, score.fraction, score.size)


def _shown(score: Score) -> str:
    return f"{score.f1:.3f} [{score.f1_low:.3f}, {score.f1_high:.3f}]"
