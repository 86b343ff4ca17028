"""What ``eo-backbones evaluate`` is asked for, as a value, and the evaluation from there to the written reports."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eo_backbones.datasets import DATASETS, FOLDER, WITHOUT_LABELS, LabelledImages, open_dataset
from eo_backbones.datasets.splits import subset_of
from eo_backbones.device import pick_device
from eo_backbones.errors import UserError
from eo_backbones.evaluation import plots, report
from eo_backbones.evaluation.budgets import SEEDED, SHOT_SUFFIX, STANDARD, Budget, make_splits
from eo_backbones.evaluation.columns import choose_columns, named_positions
from eo_backbones.evaluation.encoders import IMAGENET
from eo_backbones.evaluation.probes.protocols import RETRIEVAL, SEGMENTATION, protocol_names
from eo_backbones.evaluation.run import Outcome, Plan, evaluate
from eo_backbones.files import refuse_unwritable, write_atomically
from eo_backbones.progress import Progress
from eo_backbones.rasters.options import Numbers, ReadingOptions
from eo_backbones.results import RESULTS_FILE, Result, ResultsFile, Section

COMMANDS_FILE = "commands.txt"
SMALLEST_SIZE_PX = 32  # one cell of the last feature map of a ResNet50 or EfficientNet


def default_sizes(protocols: Sequence[str]) -> tuple[int, ...]:
    """Return the default image size in pixels: EuroSAT's, or with class maps DFC2020's."""
    return (256,) if SEGMENTATION in protocols else (64,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options of the command, as typed; only those that decide the results.

    Attributes:
        dataset: kind of data set.
        models: names.
        bands: names, several at once joined by ``+``, each with its index in the file for ``folder`` (``B04=4``); empty
            for those of the paper's bands that the data has.
        units: of the values of ``folder``: one for all bands, or ``BAND=UNIT``.
        scale, offset, nodata: of the values of ``folder``, see :class:`eo_backbones.rasters.options.ReadingOptions`.
        fuses: how several bands at once become one column.
        protocols: names.
        split: ``seeded``, ``standard`` or ``spatial``; ``None``: ``standard`` for ``folder`` where its folders are a
            split, else ``seeded``.
        fractions: shares of the labels.
        shots: numbers of labelled images a class; if any, instead of ``fractions``.
        seeds: number of seeds, 0 to seeds - 1.
        sizes: height and width in pixels of the images that networks get.
        limit: use about this many images only, drawn by class.
    """

    dataset: str
    models: tuple[str, ...]
    bands: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    scale: Numbers = None
    offset: Numbers = None
    nodata: Numbers = None
    fuses: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ("logistic",)
    split: str | None = None
    fractions: tuple[float, ...] = (1.0,)
    shots: tuple[int, ...] = ()
    seeds: int = 1
    sizes: tuple[int, ...] = (64,)
    limit: int | None = None

    def command(self) -> str:
        """Return the command line; folders are left open, because the digest says what was read."""
        words = ["eo-backbones", "evaluate", "--dataset", self.dataset, "--root", "DIR", "--models", *self.models]
        words += ["--bands", *self.bands] if self.bands else []
        words += self.reading.words()
        words += ["--fuse", *self.fuses] if self.fuses else []
        words += ["--protocol", *self.protocols, *(["--split", self.split] if self.split else [])]
        if self.shots:
            words += ["--shots", *map(str, self.shots)]
        elif self.fractions != (1.0,):
            words += ["--fraction", *(f"{fraction:g}" for fraction in self.fractions)]
        words += ["--seeds", str(self.seeds), "--size", *map(str, self.sizes)]
        words += ["--limit", str(self.limit)] if self.limit else []
        return shlex.join([*words, "--out", "OUT"])

    def imagenet_command(self, section: Section) -> str:
        """Return the command line that measures ImageNet's weights with the split and labels of a section."""
        shots = section.fraction.removesuffix(SHOT_SUFFIX)
        budget: dict[str, Any] = (
            {"shots": (), "fractions": (float(section.fraction),)}
            if shots == section.fraction
            else {"shots": (int(shots),)}
        )
        return replace(self, models=(IMAGENET,), sizes=(64, 224), split=section.split, **budget).command()

    @property
    def reading(self) -> ReadingOptions:
        """What is declared about the stored values."""
        return ReadingOptions.of(self.units, scale=self.scale, offset=self.offset, nodata=self.nodata)

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The label budgets that were asked for."""
        if self.shots:
            return tuple(Budget(shots=shots) for shots in self.shots)
        return tuple(Budget(fraction=fraction) for fraction in self.fractions)


@dataclass(frozen=True, slots=True)
class Written:
    """Where the reports and the chart are."""

    report: Path
    html: Path
    chart: Path


def run_evaluation(
    request: Request,
    *,
    root: Path,
    out: Path,
    cache: Path,
    device: str,
    progress: Progress,
    memory_bytes: int | None = None,
) -> tuple[Outcome, Written]:
    """Measure what is missing, then write reports and chart from all rows.

    Args:
        request: what to measure.
        root: folder or archive of the data set; also searched for the lists of a published split.
        out: folder for results; what is in it is kept and completed.
        cache: folder for features.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: told how far it is.
        memory_bytes: as for :func:`eo_backbones.evaluation.run.evaluate`.

    Raises:
        UserError: anything about the request that the user can correct.
    """
    compute = pick_device(device)
    refuse_unwritable(out, folder=True)
    refuse_unwritable(cache, option="--cache", folder=True)
    data, plan = _prepare(request, root)
    request = replace(request, split=plan.splits[0].name)
    with progress.stage(f"reading {len(data)} files for their digest", 1):
        digest = data.digest
    results = ResultsFile(out / RESULTS_FILE, data_digest=digest)
    outcome = evaluate(data, plan, results, cache=cache, device=compute, memory_bytes=memory_bytes, progress=progress)
    if not results.rows:
        raise UserError(f"nothing was measured: {'; '.join(outcome.notes)}")
    commands = remember_command(out, request.command())
    with progress.stage("report", 1):
        written = write_reports(out, data, results.rows, commands=commands, imagenet_command=request.imagenet_command)
    return outcome, written


def _prepare(request: Request, root: Path) -> tuple[LabelledImages, Plan]:
    """Open the data and check the whole request, before any work."""
    if request.seeds < 1:
        raise UserError(f"--seeds {request.seeds}: at least 1 is needed")
    check_sizes(request.sizes)
    if RETRIEVAL in request.protocols:
        raise UserError(f"protocol {RETRIEVAL} uses no labels and is measured alone; leave the other protocols out")
    if request.dataset in WITHOUT_LABELS and request.dataset not in DATASETS:
        raise UserError(f"{request.dataset} has no labels; measure it with --protocol {RETRIEVAL}")
    protocols, budgets = protocol_names(request.protocols), request.budgets
    names, positions = named_positions(request.bands)
    whole = open_dataset(request.dataset, root, positions=positions, reading=request.reading)
    columns = choose_columns(whole, names, request.fuses)
    if whole.multilabel and request.shots:
        raise UserError(
            f"--shots counts images of each class, but {whole.name} has several labels an image; use --fraction"
        )
    data = limited(whole, request.limit)
    lists = root if root.is_dir() else root.parent
    name = request.split or (STANDARD if request.dataset == FOLDER and data.official else SEEDED)
    splits = make_splits(data, name, range(request.seeds), lists=lists, allow_missing=request.limit is not None)
    for seed, split in splits.items():
        for budget in budgets:
            budget.apply(split, data.strata, seed)  # there may be too few images
    return data, Plan(
        models=request.models,
        columns=columns,
        protocols=protocols,
        splits=splits,
        budgets=budgets,
        sizes=request.sizes,
    )


def check_sizes(sizes: Sequence[int]) -> None:
    """Refuse an image size that networks cannot take.

    Raises:
        UserError: it is below :data:`SMALLEST_SIZE_PX`.
    """
    for size in sizes:
        if size < SMALLEST_SIZE_PX:
            raise UserError(f"--size {size}: networks need at least {SMALLEST_SIZE_PX} pixels")


def limited(data: LabelledImages, limit: int | None) -> LabelledImages:
    """Return the data set with about ``limit`` images, the same share of every class (always the same ones).

    Raises:
        UserError: the limit is below 1.
    """
    if limit is None or limit >= len(data):
        return data
    if limit < 1:
        raise UserError(f"--limit {limit}: at least 1 image is needed")
    return data.take(subset_of(data.strata, np.arange(len(data)), fraction=limit / len(data), seed=0))


def write_reports(
    out: Path,
    data: LabelledImages,
    rows: Sequence[Result],
    *,
    commands: Sequence[str],
    imagenet_command: Callable[[Section], str],
) -> Written:
    """Write ``bands.png``, ``report.md`` and ``report.html`` from all rows."""
    contents = report.gather_report(out, data, rows, commands=commands, imagenet_command=imagenet_command)
    written = Written(out / report.MARKDOWN_FILE, out / report.HTML_FILE, out / report.CHART_FILE)
    plots.write_band_chart(written.chart, rows)
    write_atomically(written.report, report.markdown_report(contents))
    write_atomically(written.html, report.html_report(contents, out, written.chart.read_bytes()))
    return written


def remember_command(out: Path, command: str) -> Sequence[str]:
    """Add a command to those that made the results in a folder, and return all of them."""
    path = out / COMMANDS_FILE
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    commands = list(dict.fromkeys([*known, command]))
    write_atomically(path, "\n".join(commands) + "\n")
    return commands
