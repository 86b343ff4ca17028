"""All generated text of the repository: written, or compared with what is there.

Generated are the files in ``model_cards/<name>`` of each declared row, which are pushed beside its weights, the table
of weights in the README, and the results of the default row there and on their page. For published weights a row's
files follow from ``recipe.json`` and ``results.csv`` in the same folder, which ``install`` puts there; for others from
the recipe and from speeds that ``eo-train bench`` measured.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eo_backbones.cards import CardFacts, Plan, folder_texts
from eo_backbones.cards.tables import evaluation_commands, imagenet_note, markdown_table, missed_aims, summary_tables
from eo_backbones.errors import UserError
from eo_backbones.files import read_json
from eo_backbones.hub.folder import DIGEST_KEY, GOLDEN_FILE, LOG_FILE, RECIPE_FILE
from eo_backbones.networks.initialisation import STAGES
from eo_backbones.results import RESULTS_FILE, Result, read_results, rows_of
from eo_backbones.weights import DEFAULT, WEIGHTS, Weights
from eo_backbones_train.pretraining.runlog import LOSS_FILE
from eo_backbones_train.recipes.published import get_recipe
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.recipes.serialise import digest, to_dict

CARDS_FOLDER = "model_cards"

INSTALLED_FILES = (RECIPE_FILE, RESULTS_FILE, GOLDEN_FILE, LOG_FILE, LOSS_FILE)
"""Files of a published row that are copied from the exported folder and the measurement, not generated."""

_PREPARE_OMBRIA = (
    # display values of OMBRIA's optical bands stand for reflectance 0 to 1 (benchmarks/2026-11-23-mini-recipe.md)
    "eo-train prepare --layout pairs --root ombria --unit B03=uint8:0:1 --unit B08=uint8:0:1 --unit B11=uint8:0:1 "
    "--unit VV=uint8 --out STORE"
)
_PREPARE = {
    "dfc2020": ("eo-train prepare --layout dfc2020 --root DFC2020 --out STORE",),
    "sen12ms-90k": ("eo-train prepare --layout sen12ms --root SEN12MS --subset 90k --out STORE",),
    "s1s2-mini": (
        _PREPARE_OMBRIA,
        "eo-train prepare --layout pairs --root multiband_pairs --out STORE",
        "eo-train prepare --layout sen12ms --root sen12ms_layout --out STORE",
    ),
    "s1s2-mini-all": (
        _PREPARE_OMBRIA,
        # the grey pictures of this sample of SEN1-2 are a mix of the visible bands, closest to B03
        "eo-train prepare --layout pairs --root sen12_five_pretrain --unit uint8 --bands B03=1 VV=1 --out STORE",
        "eo-train prepare --layout pairs --root sen12_rgb_pairs --unit uint8 --out STORE",
        "eo-train prepare --layout pairs --root multiband_pretrain --out STORE",
        "eo-train prepare --layout sen12ms --root sen12ms_layout --out STORE",
    ),
}

README_FILE = "README.md"
RESULTS_PAGE = "docs/results.md"
WEIGHTS_PART = "weights"
RESULTS_PART = "results"
SHOWN_PROTOCOL = "logistic"
"""The one on the page of results; the card has all."""

_CPU_STEPS = {
    ("byol", "one-directional", "separate"): ("step_ms_one_directional", "BYOL, one-directional"),
    ("byol", "symmetric", "joint"): ("step_ms", "BYOL, symmetric, joint BatchNorm"),
    ("byol", "symmetric", "separate"): ("step_ms_separate", "BYOL, symmetric, separate BatchNorm"),
    ("simsiam", "symmetric", "joint"): ("step_ms_simsiam", "SimSiam, symmetric, joint BatchNorm"),
    # not measured as such; the symmetric step does more, so this is rather too much
    ("simsiam", "one-directional", "separate"): ("step_ms_simsiam", "SimSiam, symmetric, joint BatchNorm"),
}
_GPU_PAIRS = 32  # of gpu_graph_ms_paper, at 112 px (benchmarks/README.md)
_GPU_SIZE_PX = 112


# The checkout


def require_checkout(folder: Path) -> Path:
    """Return the folder, if it is a checkout of this project.

    Raises:
        UserError: it is not.
    """
    if not ((folder / CARDS_FOLDER).is_dir() and (folder / "eo_backbones" / "weights.py").is_file()):
        raise UserError(f"{folder.resolve()} is not a checkout of eo_backbones; change to its root, or pass --checkout")
    return folder


def generated(checkout: Path) -> dict[Path, str]:
    """Return path -> content of everything that is generated."""
    texts = {
        row_folder(checkout, row) / name: text
        for row in WEIGHTS.values()
        for name, text in row_texts(checkout, row).items()
    }
    return {**texts, checkout / README_FILE: readme_text(checkout), checkout / RESULTS_PAGE: results_page(checkout)}


def left_over(checkout: Path) -> list[Path]:
    """Return files in the folders of the rows that are neither generated nor installed."""
    made = generated(checkout).keys()
    installed = {
        row_folder(checkout, row) / name for row in WEIGHTS.values() if row.published for name in INSTALLED_FILES
    }
    found = {path for path in (checkout / CARDS_FOLDER).rglob("*") if path.is_file()}
    return sorted(found - made - installed - {checkout / CARDS_FOLDER / "README.md"})


def differences(checkout: Path) -> list[str]:
    """Return what writing would change, one line per file, relative to the checkout."""
    lines = []
    for path, text in generated(checkout).items():
        there = path.read_text(encoding="utf-8") if path.is_file() else None
        if there != text:
            lines.append(f"{'differs' if there is not None else 'is missing'}: {path.relative_to(checkout)}")
    return lines + [f"is left over: {path.relative_to(checkout)}" for path in left_over(checkout)]


def write(checkout: Path) -> list[Path]:
    """Write everything, remove what is left over, and return what changed."""
    changed = []
    for path in left_over(checkout):
        path.unlink()
        changed.append(path)
    for path, text in generated(checkout).items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        changed.append(path)
    return changed


# The folder of a row


def row_folder(checkout: Path, row: Weights) -> Path:
    """Return the folder of a row."""
    return checkout / CARDS_FOLDER / row.name


def row_texts(checkout: Path, row: Weights) -> dict[str, str]:
    """Return name -> content of the generated files of a row's folder.

    Raises:
        UserError: a published row without its record or results, or with a record of other weights.
    """
    if row.published:
        return _published_texts(row_folder(checkout, row), row)
    recipe = get_recipe(row.recipe)
    record = {"name": row.name, "recipe": to_dict(recipe), "recipe_digest": digest(recipe)}
    planned = CardFacts(name=row.name, input=row.input, record=record, license=row.license, row=row)
    lines, basis = cost(recipe, sum(source.scenes for source in planned.sources), checkout)
    if recipe.data.sources not in _PREPARE:
        raise UserError(
            f"data.sources {recipe.data.sources!r} has no commands that prepare it; add them to _PREPARE in "
            "training/publish/generated.py"
        )
    commands = (
        *_PREPARE[recipe.data.sources],
        f"eo-train pretrain {recipe.name} --store STORE --out RUN --resume",
        "eo-train export RUN --out FOLDER",
    )
    plan = Plan(commands=commands, cost=lines, basis=basis)
    facts = CardFacts(name=row.name, input=row.input, record=record, license=row.license, row=row, plan=plan)
    return {**folder_texts(facts), RECIPE_FILE: json.dumps(record, indent=2) + "\n"}


def _published_texts(folder: Path, row: Weights) -> dict[str, str]:
    record = read_json(folder / RECIPE_FILE)
    if record[DIGEST_KEY] != row.sha256:
        raise UserError(
            f"{folder / RECIPE_FILE} is of weights {record[DIGEST_KEY][:12]}…, the row {row.name} of "
            f"{str(row.sha256)[:12]}…; install the exported folder again"
        )
    facts = CardFacts(name=row.name, input=row.input, record=record, license=row.license, row=row)
    return folder_texts(facts, read_results(folder), size_bytes=row.size_bytes)


# What a training would cost


@dataclass(frozen=True, slots=True)
class Report:
    """One report of ``eo-train bench``: its path inside the repository, and its values by name."""

    path: str
    values: Mapping[str, Any]


def newest_report(checkout: Path, device: str) -> Report | None:
    """Return the newest report of a device (``"cpu"``, ``"cuda"``), or ``None`` if there is none."""
    paths = sorted((checkout / "benchmarks").glob(f"????-??-??-{device}*.md"))
    if not paths:
        return None
    block = re.search(r"```json\n(.*?)\n```", paths[-1].read_text(encoding="utf-8"), flags=re.DOTALL)
    if block is None:
        raise UserError(f"{paths[-1]} holds no values as JSON; measure again with eo-train bench")
    return Report(paths[-1].relative_to(checkout).as_posix(), json.loads(block[1]))


def pairs_seen(recipe: Recipe, scenes: int) -> int:
    """Return how many pairs a whole training sees: whole batches only, each epoch."""
    return scenes // recipe.global_batch * recipe.global_batch * recipe.epochs


def cost(recipe: Recipe, scenes: int, checkout: Path) -> tuple[list[tuple[str, str]], str]:
    """Return lines of what and how much, and a sentence on where the numbers come from.

    The newest report of each device in ``benchmarks/`` counts. A step whose kind was not measured is estimated by the
    nearest one that was, and the sentence says which; another size of views is scaled by its number of pixels, which
    suits a convolutional network.

    Args:
        recipe: whose training is estimated.
        scenes: pairs of images in the store.
        checkout: root of the repository.

    Raises:
        UserError: no report of a CPU.
    """
    pairs = pairs_seen(recipe, scenes)
    steps = pairs // recipe.global_batch
    lines = [
        ("pairs of images", f"{scenes:,}"),
        ("pairs seen", f"{pairs:,} ({recipe.epochs} epochs, {steps:,} steps of {recipe.global_batch})"),
    ]
    cpu = newest_report(checkout, "cpu")
    if cpu is None:
        raise UserError("benchmarks/ holds no report of a CPU; write one with eo-train bench --device cpu")
    bench = cpu.values
    if (recipe.method, recipe.loss, recipe.model.batch_norm) not in _CPU_STEPS:
        return [*lines, ("time", "not measured")], f"`eo-train bench` times no step of {recipe.method}."
    field, kind = _CPU_STEPS[recipe.method, recipe.loss, recipe.model.batch_norm]
    measured_speed = bench["step_batch"] / (bench[field] / 1000)
    speed = measured_speed * (bench["step_size_px"] / recipe.views.size_px) ** 2
    lines.append((f"on {bench['threads']} CPU threads ({bench['device_name']})", _duration(pairs / speed)))
    basis = (
        f"Measured: {measured_speed:.1f} pairs/s of a step of {kind}, at {bench['step_size_px']} px, on "
        f"{bench['threads']} threads of an {bench['device_name']} (`{cpu.path}`, `{field}`)"
    )
    if recipe.views.size_px != bench["step_size_px"]:
        basis += f"; scaled by the number of pixels to {recipe.views.size_px} px: {speed:.1f} pairs/s"
    if recipe.model.trained_stages < STAGES:
        basis += f"; that step trains all {STAGES} stages, this recipe {recipe.model.trained_stages}: rather too much"
    gpu = newest_report(checkout, "cuda")
    milliseconds = gpu.values["gpu_graph_ms_paper"] if gpu else None
    if gpu is not None and milliseconds and (recipe.views.size_px, recipe.loss) == (_GPU_SIZE_PX, "one-directional"):
        gpu_speed = _GPU_PAIRS / (milliseconds / 1000)
        lines.append((f"on one {gpu.values['device_name']}", _duration(pairs / gpu_speed)))
        basis += (
            f". On the GPU: {gpu_speed:,.0f} pairs/s of the paper's BYOL step at {_GPU_SIZE_PX} px, {_GPU_PAIRS} "
            f"pairs, as a CUDA graph (`{gpu.path}`, `gpu_graph_ms_paper`)"
        )
    else:
        lines.append(("on a GPU", "not measured yet: `eo-train bench --device cuda`"))
    return lines, f"{basis}."


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    if hours < 1:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {hours:.1f} hours" if hours < 48 else f"about {hours / 24:.0f} days"


# Parts of the README, and the page of results


def weights_part(rows: list[Weights]) -> str:
    """Return the table of weights, with a sentence on how many there are."""
    published = [row.name for row in rows if row.published]
    are = "is" if len(published) == 1 else "are"
    count = f"{len(published)} of the {len(rows)} declared weights {are}" if published else "No declared weights are"
    state = (
        f"{count} published. Asking for one that is not raises an error that names the recipe which makes it; there is "
        "never a silent fallback to random values."
    )
    table = markdown_table(
        ["name", "trained on", "recipe", "licence", "weights"],
        [
            [
                f"[`{row.name}`]({CARDS_FOLDER}/{row.name}/README.md)",
                row.data,
                f"`{row.recipe}`",
                f"`{row.license}`",
                _where(row),
            ]
            for row in rows
        ],
    )
    return f"{state}\n\n{table}"


def _where(row: Weights) -> str:
    if not row.published:
        return "not published"
    assert row.size_bytes is not None
    return f"{'in the package' if row.embedded else 'on the Hub'}, {row.size_bytes / 2**20:.0f} MiB"


def _below_aim(row: Weights, rows: list[Result]) -> str:
    """Return what the weights do less well than they should, or ``""``."""
    own = rows_of(rows, row.name, str(row.sha256))
    below = " ".join(part for part in (missed_aims(own, rows), row.shortfall) if part)
    return f"**Below its aim.** {below}" if below else ""


def summary_part(rows: list[Result], row: Weights) -> str:
    """Return what the README says of a row's results: beside the baselines, what is below its aim, where more is."""
    legend = (
        "Weighted F1 of a classifier on frozen features of one band, with the 95 % bootstrap interval of the test "
        f"images. Protocols, paired differences and commands: [results]({RESULTS_PAGE})."
    )
    parts = (legend, summary_tables(rows, SHOWN_PROTOCOL), _below_aim(row, rows))
    return "\n\n".join(part for part in parts if part)


def results_part(rows: list[Result], row: Weights) -> str:
    """Return the results of a row for their own page."""
    card = f"../{CARDS_FOLDER}/{row.name}"
    commands = "\n".join(["```bash", *evaluation_commands(rows), "```"])
    text = (
        f"Weighted F1 of a classifier on frozen features of one band, mean over the seeds with the 95 % bootstrap "
        f"interval of the test images. More in [the card]({card}/README.md#results); every row: "
        f"[{RESULTS_FILE}]({card}/{RESULTS_FILE})."
    )
    tables = summary_tables(rows, SHOWN_PROTOCOL)
    parts = [_below_aim(row, rows), text, tables, imagenet_note(rows), "Measured by:", commands]
    return "\n\n".join(part for part in parts if part)


def readme_text(checkout: Path) -> str:
    """Return the README with its generated parts made anew.

    Raises:
        UserError: a marker of a part is missing.
    """
    text = (checkout / README_FILE).read_text(encoding="utf-8")
    text = _replaced(README_FILE, text, WEIGHTS_PART, weights_part(list(WEIGHTS.values())))
    if not DEFAULT.published:
        return text
    rows = read_results(row_folder(checkout, DEFAULT))
    return _replaced(README_FILE, text, RESULTS_PART, summary_part(rows, DEFAULT))


def results_page(checkout: Path) -> str:
    """Return the page of results with its generated part made anew, once the default row is published.

    Raises:
        UserError: a marker of the part is missing.
    """
    text = (checkout / RESULTS_PAGE).read_text(encoding="utf-8")
    if not DEFAULT.published:
        return text
    rows = read_results(row_folder(checkout, DEFAULT))
    return _replaced(RESULTS_PAGE, text, RESULTS_PART, results_part(rows, DEFAULT))


def _replaced(name: str, text: str, part: str, content: str) -> str:
    begin, end = f"<!-- {part}: generated, see CONTRIBUTING.md -->", f"<!-- /{part} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", flags=re.DOTALL)
    if not pattern.search(text):
        raise UserError(f"{name} lacks the lines {begin} and {end}; put them where the part belongs")
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text)
