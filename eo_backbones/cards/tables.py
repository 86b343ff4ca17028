"""Results in a card and in the project's README: Markdown tables, the commands behind them, and ``model-index``."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from huggingface_hub import EvalResult

from eo_backbones.bands import BANDS
from eo_backbones.results import Estimate, Result, Score, grouped, mean_f1, scores

_SETTING = ("dataset", "protocol", "split", "fraction", "size")  # what two results must share to stand in one table
_TASK = "image-classification"

COMPARED_BASELINES = ("random", "random-bn", "stats")
COMPARED_PROTOCOLS = ("logistic", "paper")
REQUIRED_POINTS = 10.0
REQUIRED_POINTS_OVER_IMAGENET = {"s2": 1.0, "s1": 3.0}  # by sensor
UNTRAINED = "random-averaging"
"""What the mini weights were before training; ``random`` is the start that other encoders have."""


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def result_sections(rows: Sequence[Result]) -> str:
    """Return one section per setting, each with a table of bands by models, in the order of the rows."""
    sections = []
    for (dataset, protocol, split, fraction, size), group in grouped(rows, _SETTING).items():
        sections.append(
            f"### {dataset}, protocol `{protocol}`, split `{split}`\n\n"
            f"Fraction {fraction} of the training part ({group[0].n_train} images), {group[0].n_test} test "
            f"images, {size} px, {_seeds(group)}.\n\n{_bands_by_models(group)}"
        )
    return "\n\n".join(sections)


def summary_tables(rows: Sequence[Result], protocol: str) -> str:
    """Return one small table per image size: a line per model, a column per band and data set.

    Values as in :func:`result_sections`; the largest of a column is bold. Of several label budgets the smallest is
    shown, the one that most users have.

    Args:
        rows: of any number of models; they stand in the order of the rows.
        protocol: the one to show.
    """
    tables = []
    for (size,), of_size in grouped((row for row in rows if row.protocol == protocol), ("size",)).items():
        columns, notes = [], []
        for (dataset,), of_dataset in grouped(of_size, ("dataset",)).items():
            fewest = min(row.n_train for row in of_dataset)
            shown = [row for row in _with_scaling(of_dataset) if row.n_train == fewest]
            notes.append(f"`{dataset}`: {fewest:,} labelled and {shown[0].n_test:,} test images, {_seeds(shown)}")
            columns += [(f"{band}, `{dataset}`", group) for (band,), group in grouped(shown, ("band",)).items()]
        f1 = {
            (name, model): mean_f1(group)
            for name, of_column in columns
            for (model,), group in grouped(of_column, ("model",)).items()
        }
        best = {
            name: max((cell for cell in f1 if cell[0] == name), key=lambda cell: f1[cell].value) for name, _ in columns
        }
        lines = [
            [model, *(_cell(f1.get((name, model)), bold=best[name] == (name, model)) for name, _ in columns)]
            for model in dict.fromkeys(model for _, model in f1)
        ]
        tables.append(
            f"{size} px, protocol `{protocol}`. {'; '.join(notes)}:\n\n"
            + markdown_table(["model", *(name for name, _ in columns)], lines)
        )
    return "\n\n".join(tables)


def _cell(f1: Estimate | None, *, bold: bool) -> str:
    return "" if f1 is None else f"**{f1}**" if bold else str(f1)


def evaluation_commands(rows: Sequence[Result]) -> list[str]:
    """Return the commands that measure these rows again, one per data set, split, fraction and size."""
    commands = []
    for (dataset, split, fraction, size), group in grouped(rows, ("dataset", "split", "fraction", "size")).items():
        models, bands, protocols = (
            list(dict.fromkeys(getattr(row, column) for row in group)) for column in ("model", "band", "protocol")
        )
        protocols = list(dict.fromkeys("knn" if name.startswith("knn") else name for name in protocols))
        shots = re.fullmatch(r"(\d+)-shot", fraction)
        labels = f"--shots {shots[1]}" if shots else f"--fraction {fraction}"
        commands.append(
            f"eo-backbones evaluate --dataset {dataset} --root DIR --models {' '.join(models)} "
            f"--bands {' '.join(bands)} --protocol {' '.join(protocols)} --split {split} {labels} "
            f"--seeds {len({row.seed for row in group})} --size {size} --out RESULTS"
        )
    return commands


def baseline_comparison(own: Sequence[Result], results: Sequence[Result]) -> str:
    """Return a table of gains over the best baseline with a verdict, or ``""`` where no baseline was measured.

    The criterion was set before weights were made from small data: on the test images, with the protocols ``logistic``
    and ``paper``, at least 10 points of weighted F1 above the best of random initialisation and image statistics, for
    each band, with separate intervals. Where ImageNet weights were measured too, the best of them and of the other
    baselines at the same image size is what counts, by fewer points. Whether it is met is computed from the results.

    Args:
        own: rows of the weights.
        results: all rows, those of baselines among them.
    """
    if any(row.model.startswith("imagenet") for row in results):
        return _comparison_with_imagenet(own, results)
    baselines = {name: _scores_by_setting(name, results) for name in COMPARED_BASELINES}
    lines, missed = [], 0
    for score in scores(own):
        measured = {name: found[score.setting] for name, found in baselines.items() if score.setting in found}
        if score.protocol not in COMPARED_PROTOCOLS or not measured:
            continue
        name, best = max(measured.items(), key=lambda item: item[1].f1.value)
        gain = round(100 * (score.f1.value - best.f1.value), 2)  # scores have four decimals
        met = gain >= REQUIRED_POINTS and score.f1.low > best.f1.high
        missed += not met
        lines.append(
            [_setting(score), score.band, str(score.f1), f"{name} {best.f1}", f"{gain:+.1f}", "yes" if met else "no"]
        )
    if not lines:
        return ""
    verdict = (
        "It is met in every comparison."
        if not missed
        else f"It is **not met** in {missed} of {len(lines)} comparisons."
    )
    unmeasured = [f"`{name}`" for name in COMPARED_BASELINES if not baselines[name]]
    if unmeasured:
        verdict += f" Not measured, and therefore not compared: {', '.join(unmeasured)}."
    return "\n\n".join(
        [
            "### Compared with the best baseline",
            f"The criterion was set before the training: at least {REQUIRED_POINTS:g} points of weighted F1 above the "
            f"best of {', '.join(COMPARED_BASELINES)} for each band, with intervals that do not overlap. {verdict}",
            markdown_table(["setting", "band", "these weights", "best baseline", "points", "met"], lines),
            *_contribution_of_training(own, results),
        ]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gain:
    """One score of the weights beside the best baseline of the same setting.

    Attributes:
        score: of the weights.
        baseline: name of the best baseline, with its scaling.
        best: its score.
        required: points of weighted F1 above it that were asked for.
    """

    score: Score
    baseline: str
    best: Score
    required: float

    @property
    def points(self) -> float:
        """Difference in points of weighted F1; scores have four decimals."""
        return round(100 * (self.score.f1.value - self.best.f1.value), 2)

    @property
    def met(self) -> bool:
        """Whether the difference is as large as was asked for."""
        return self.points >= self.required


def _gains_over_imagenet(own: Sequence[Result], results: Sequence[Result]) -> list[_Gain]:
    """Return the gains over the best of ImageNet and the other baselines, where ImageNet was measured."""
    named = _with_scaling(row for row in results if row.model.startswith(("imagenet", "random", "stats", "raw")))
    baselines = {name: _scores_by_setting(name, named) for name in dict.fromkeys(row.model for row in named)}
    gains = []
    for score in scores(own):
        measured = {name: found[score.setting] for name, found in baselines.items() if score.setting in found}
        if score.protocol not in COMPARED_PROTOCOLS or not any(name.startswith("imagenet") for name in measured):
            continue
        name, best = max(measured.items(), key=lambda item: item[1].f1.value)
        required = REQUIRED_POINTS_OVER_IMAGENET[BANDS[score.band].sensor] if score.band in BANDS else 0.0
        gains.append(_Gain(score=score, baseline=name, best=best, required=required))
    return gains


def missed_aims(own: Sequence[Result], results: Sequence[Result]) -> str:
    """Return in one sentence each where the weights are not as far above ImageNet as they should be, or ``""``.

    Args:
        own: rows of the weights.
        results: all rows, those of baselines among them.
    """
    return " ".join(
        f"{gain.score.band} at {gain.score.size} px, protocol `{gain.score.protocol}`: {gain.score.f1.value:.3f}, "
        f"{gain.points:+.1f} points against the best baseline ({gain.baseline}, {gain.best.f1.value:.3f}), where "
        f"{gain.required:g} were the aim."
        for gain in _gains_over_imagenet(own, results)
        if not gain.met
    )


def _comparison_with_imagenet(own: Sequence[Result], results: Sequence[Result]) -> str:
    """Return the table of :func:`baseline_comparison` where ImageNet weights were measured beside these."""
    gains = _gains_over_imagenet(own, results)
    missed = [f"{gain.score.band} at {gain.score.size} px (`{gain.score.protocol}`)" for gain in gains if not gain.met]
    lines = [
        [
            f"{_setting(gain.score)}, {gain.score.size} px",
            gain.score.band,
            str(gain.score.f1),
            f"{gain.baseline} {gain.best.f1}",
            f"{gain.points:+.1f}",
            "yes" if gain.met else "no",
        ]
        for gain in gains
    ]
    points = REQUIRED_POINTS_OVER_IMAGENET
    verdict = f"It is **not met** for {', '.join(missed)}." if missed else "It is met in every comparison."
    return "\n\n".join(
        [
            "### Compared with ImageNet weights and the other baselines",
            f"The criterion was set before the training: for optical bands at least {points['s2']:g} point of weighted "
            f"F1 above the best baseline that was measured at the same size, for radar at least {points['s1']:g}. "
            f"{verdict} Paired intervals of the differences are in the `report.md` that the commands below write.",
            markdown_table(["setting", "band", "these weights", "best baseline", "points", "met"], lines),
        ]
    )


def _contribution_of_training(own: Sequence[Result], results: Sequence[Result]) -> Iterator[str]:
    """Yield how much of the gain is due to training, if the network before training was measured too."""
    before = _scores_by_setting(UNTRAINED, results)
    pairs = [
        (score, before[score.setting])
        for score in scores(own)
        if score.protocol in COMPARED_PROTOCOLS and score.setting in before
    ]
    if not pairs:
        return
    yield (
        f"`{UNTRAINED}` is the network in its state before training. It is not one of the baselines of the criterion: "
        "the gain over it is due to training, the rest to the initialisation."
    )
    lines = [
        [_setting(score), score.band, str(score.f1), str(start.f1), f"{100 * (score.f1.value - start.f1.value):+.1f}"]
        for score, start in pairs
    ]
    yield markdown_table(["setting", "band", "these weights", f"`{UNTRAINED}`", "points"], lines)


def _scores_by_setting(model: str, results: Sequence[Result]) -> dict[tuple[object, ...], Score]:
    return {score.setting: score for score in scores([row for row in results if row.model == model])}


def _setting(score: Score) -> str:
    return f"{score.dataset}, {score.protocol}, {score.n_train:,} training images"


def imagenet_note(rows: Iterable[Result]) -> str:
    """Return a note that ImageNet weights are missing from a table, or ``""`` if they are in it."""
    if any(row.model.startswith("imagenet") for row in rows):
        return ""
    return (
        "ImageNet weights (the channel copied to three) are not measured here because they could not be downloaded; "
        "add `imagenet` to `--models` to measure them."
    )


def eval_results(rows: Iterable[Result]) -> list[EvalResult]:
    """Return the rows of one model as ``model-index`` entries: one per data set and band, one metric per setting."""
    return [
        EvalResult(
            task_type=_TASK,
            dataset_type=re.sub(r"[^a-z0-9]+", "-", score.dataset.lower()),
            dataset_name=score.dataset,
            dataset_config=score.band,
            dataset_split="test",
            metric_type="f1",
            metric_name=f"weighted F1, {score.protocol}, fraction {score.fraction}",
            metric_value=score.f1.value,
            metric_args={
                "protocol": score.protocol,
                "split": score.split,
                "fraction": score.fraction,
                "size": str(score.size),
                "interval": [score.f1.low, score.f1.high],
            },
        )
        for score in scores(rows)
    ]


def _bands_by_models(rows: Sequence[Result]) -> str:
    named = _with_scaling(rows)
    models = list(dict.fromkeys(row.model for row in named))
    bands = list(dict.fromkeys(row.band for row in named))
    cells = {cell: str(mean_f1(group)) for cell, group in grouped(named, ("band", "model")).items()}
    return markdown_table(
        ["band", *models], [[band, *(cells.get((band, model), "") for model in models)] for band in bands]
    )


def _with_scaling(rows: Iterable[Result]) -> list[Result]:
    """Return rows whose models are named with their scaling, where they may have several: all but our encoders."""
    return [
        row if row.input_scaling == "contract" else replace(row, model=f"{row.model}, {row.input_scaling}")
        for row in rows
    ]


def _seeds(rows: Iterable[Result]) -> str:
    """Return how many seeds are behind each value: ``"5 seeds"``, or ``"3 to 5 seeds"`` where they differ."""
    groups = grouped(_with_scaling(rows), ("model", "dataset", "band", "protocol", "fraction", "size")).values()
    counts = [len({row.seed for row in group}) for group in groups]
    fewest = f"{min(counts)} to " if min(counts) < max(counts) else ""
    return f"{fewest}{max(counts)} seed{'s' if max(counts) > 1 else ''}"
