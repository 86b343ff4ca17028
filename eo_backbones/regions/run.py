"""Embed many scenes: look at all, fit the components that they share, embed those that are not there yet.

What is finished is on the disk at once, so a run that ended for any reason goes on when it is started again.
"""

import logging
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eo_backbones.errors import UserError
from eo_backbones.files import sha256_of
from eo_backbones.progress import SILENT, Progress
from eo_backbones.rasters.reader import is_gdal_name, tell_sources
from eo_backbones.regions.catalog import write_catalog
from eo_backbones.regions.engines import Engine, Task, open_engine
from eo_backbones.regions.folder import open_region
from eo_backbones.regions.job import RegionJob, ScenePlan, forget_encoder, load_encoder, source_identity, writing
from eo_backbones.regions.journal import Entry, Journal
from eo_backbones.regions.layout import CATALOG_FILE, COMPONENTS_FILE, FAILED_FILE, PARTS_FOLDER, embedding_path
from eo_backbones.regions.picture import draw_region
from eo_backbones.regions.request import RegionRequest
from eo_backbones.regions.settled import Settled, locked, settle
from eo_backbones.regions.shared_components import choose_cells, fit, sample_features
from eo_backbones.regions.sources import SceneSource, find_scenes
from eo_backbones.regions.tasks import Made, bytes_of, embed_blocks, embed_small, finish, look
from eo_backbones.scenes.components import Components
from eo_backbones.scenes.compute import CELLS_PER_BLOCK
from eo_backbones.scenes.embed import given_components

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

_TASKS_A_SLOT = 8  # so that no process waits long for another one at the end
_MOST_BLOCKS = 16  # of a task, so that progress is seen


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionSummary:
    """What became of the scenes.

    Attributes:
        out: the folder.
        scenes: how many were named.
        embedded: how many of them were embedded by this run.
        earlier: how many an earlier run had finished.
        failed: the others: ``scene``, ``path`` and ``reason`` of each.
        failed_file: table of those; ``None`` if there are none.
        cells: of all embeddings of these scenes.
        nodata_cells: how many of them have no value.
        numbers: values of a cell: features, or components.
        km2: area of the embeddings that have a coordinate system, overlaps counted twice.
        preview: the picture, if asked for.
        catalog: the STAC catalogue; ``None`` if nothing is embedded.
        components_file: mean and axes of the components, if there are any.
        explained: share of the variance of the sample that all components keep together.
        seconds: of this run, without loading the model.
        computed_cells: cells of this run.
        km2_per_s: area computed by this run over its seconds; ``None`` if nothing was.
    """

    out: str
    scenes: int
    embedded: int
    earlier: int
    failed: tuple[dict[str, str], ...]
    failed_file: str | None
    cells: int
    nodata_cells: int
    numbers: int
    km2: float
    preview: str | None
    catalog: str | None
    components_file: str | None
    explained: float | None
    seconds: float
    computed_cells: int
    km2_per_s: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)


def embed_region(
    request: RegionRequest,
    *,
    sources: Sequence[SceneSource] | None = None,
    device: str = "auto",
    workers: int | None = None,
    scheduler: "str | Client | None" = None,
    progress: Progress = SILENT,
    cells_per_block: int = CELLS_PER_BLOCK,
    pixels_per_batch: int | None = None,
) -> RegionSummary:
    """Write the embeddings of many scenes into a folder; a scene that cannot be embedded does not stop the others.

    Args:
        request: what to embed.
        sources: of :func:`eo_backbones.regions.find_scenes` for its scenes and bands; default: they are looked for.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``; each process chooses its own.
        workers: start so many processes on this machine; default: all is done in this one.
        scheduler: address of a Dask scheduler (``tcp://HOST:PORT``), or a client of one, whose workers do the work
            instead. All its machines need the same folders.
        progress: where progress is reported.
        cells_per_block: see :data:`eo_backbones.scenes.compute.CELLS_PER_BLOCK`.
        pixels_per_batch: see :func:`eo_backbones.scenes.compute.compute_blocks`.

    Raises:
        UserError: anything about the request, the model, the folder or the scheduler that the caller can correct.
    """
    file_format, file_dtype = request.checked()
    found = find_scenes(request.scenes, request.bands) if sources is None else sources
    sources = _outside(found, request)
    try:
        encoder = load_encoder(request)
        features = encoder.network.num_features
        request.check_width(features, file_format)
        given = given_components(request.components_from, features, encoder.meaning)
        decisive = request.decisive(encoder.weights, encoder.meaning)
        with open_engine(workers=workers, scheduler=scheduler, progress=progress) as engine, locked(request.out):
            settled = settle(request, decisive, engine.number_format(device), progress)
            job = RegionJob(
                request=request,
                folder=request.out.resolve(),
                weights=encoder.weights,
                meaning=encoder.meaning,
                device=device,
                dtype=settled.number_format,
                file_format=file_format,
                file_dtype=file_dtype,
                numbers=features,
                components_sha256=None,
                cells_per_block=cells_per_block,
                pixels_per_batch=pixels_per_batch,
            )
            engine.check(job)
            return _Run(job, sources, engine, progress).embed(given, settled)
    finally:
        forget_encoder()


class _Run:
    """A run in progress.

    Args:
        job: what all tasks have in common.
        sources: the scenes.
        engine: where tasks run.
        progress: where progress is reported.
    """

    def __init__(self, job: RegionJob, sources: Sequence[SceneSource], engine: Engine, progress: Progress) -> None:
        self._job, self._engine, self._progress = job, engine, progress
        self._sources = {source.id: source for source in sources}
        self._journal = Journal(job.folder)
        self._began = time.monotonic()
        self._embedded = 0
        self._computed_cells = 0
        self._computed_km2 = 0.0

    def embed(self, given: Components | None, settled: Settled) -> RegionSummary:
        """Do all that is not done yet."""
        earlier = [source.id for source in self._sources.values() if self._is_done(source)]
        plans = self._look([source for source in self._sources.values() if source.id not in set(earlier)])
        components = self._components(plans, given, earlier)
        self._embed_all(plans, earlier)
        entries = [self._journal.entries[scene] for scene in self._sources if self._is_embedded(scene)]
        preview = self._describe() if entries else None
        with writing(self._job):
            failed = self._journal.write_failed(self._sources)
            shutil.rmtree(self._job.folder / PARTS_FOLDER, ignore_errors=True)
            replace(settled, whole=True).write(self._job.folder)
        seconds = time.monotonic() - self._began
        return RegionSummary(
            out=str(self._job.request.out),
            scenes=len(self._sources),
            embedded=self._embedded,
            earlier=len(earlier),
            failed=tuple({"scene": one.scene, "path": one.typed, "reason": one.reason or ""} for one in failed),
            failed_file=str(self._job.request.out / FAILED_FILE) if failed else None,
            cells=sum(entry.cells for entry in entries),
            nodata_cells=sum(entry.nodata_cells for entry in entries),
            numbers=self._job.numbers,
            km2=sum(entry.km2 or 0.0 for entry in entries),
            preview=None if preview is None else str(preview),
            catalog=str(self._job.request.out / CATALOG_FILE) if entries else None,
            components_file=None if components is None else str(self._job.request.out / COMPONENTS_FILE),
            explained=None if components is None else float(components.explained.sum()),
            seconds=seconds,
            computed_cells=self._computed_cells,
            km2_per_s=self._computed_km2 / seconds if self._computed_km2 else None,
        )

    def _describe(self) -> Path | None:
        """Write the catalogue, and the picture if asked for; return the picture."""
        region = open_region(self._job.request.out)
        with writing(self._job):
            write_catalog(self._job.request.out, region)
            return draw_region(region) if self._job.request.preview else None

    def _is_embedded(self, scene: str) -> bool:
        entry = self._journal.entries.get(scene)
        return entry is not None and entry.state == "done"

    def _is_done(self, source: SceneSource) -> bool:
        """Return whether the embedding of a scene is there and of its files as they are."""
        if not self._is_embedded(source.id):
            return False
        entry = self._journal.entries[source.id]
        path = embedding_path(self._job.folder, source.id, self._job.file_format)
        if bytes_of(path) != entry.bytes:
            self._progress.note(f"{path} is missing or was changed; {source.typed} is embedded again")
            return False
        if source_identity(source, self._job.folder) != entry.identity:
            self._progress.note(f"{source.typed} has changed since it was embedded; it is embedded again")
            return False
        return True

    def _look(self, sources: Sequence[SceneSource]) -> dict[str, ScenePlan]:
        """Return what those scenes look like that can be embedded."""
        plans: dict[str, ScenePlan] = {}
        said: set[str] = set()
        tasks = deque[Task]()
        for source in sources:
            if source.problem is not None:
                self._fail(source.id, source.problem)
            else:
                tasks.append(Task(scene=source.id, function=look, arguments=(self._job, source)))
        if not tasks:
            return plans
        with self._progress.stage(f"look at {len(tasks)} scenes", len(tasks)) as tick:
            for task, outcome in self._engine.run(tasks, lambda task, cells: None):
                if outcome.failure is not None:
                    self._fail(task.scene, outcome.failure)
                else:
                    plans[task.scene] = outcome.value
                    tell_sources(outcome.value.readings, said)
                tick(1)
        unplaced = [plan.source.typed for plan in plans.values() if plan.grid.crs is None]
        if unplaced:
            several = f" and {len(unplaced) - 1} more have" if len(unplaced) > 1 else " has"
            logger.warning("%s%s no coordinate system, so the embeddings have none either", unplaced[0], several)
        return {source.id: plans[source.id] for source in sources if source.id in plans}  # in the order of the names

    def _components(
        self, plans: dict[str, ScenePlan], given: Components | None, earlier: Sequence[str]
    ) -> Components | None:
        """Return the components that all scenes share, if asked for; from now on the job has them."""
        count = self._job.request.components
        if count is None and given is None:
            return None
        path = self._job.folder / COMPONENTS_FILE
        projected = {self._journal.entries[scene].components_sha256 for scene in earlier}
        if projected and (not path.is_file() or {sha256_of(path)} != projected):
            raise UserError(
                f"{path} is missing or was changed, and {len(earlier)} finished scenes hold its components; put it "
                "back, or pass --overwrite to begin again"
            )
        if path.is_file() and not projected and Components.load(path).belongs_to != self._job.meaning:
            path.unlink()
        if not path.is_file() and plans:
            components = given or self._fit(plans, count or 0)
            with writing(self._job):
                components.save(path)
        if not path.is_file():
            return None  # no scene is left
        components = Components.load(path)
        self._job = replace(self._job, components_sha256=sha256_of(path), numbers=len(components.axes))
        return components

    def _fit(self, plans: dict[str, ScenePlan], count: int) -> Components:
        """Compute the components; scenes that turn out to be damaged are left out."""
        chosen = choose_cells(list(plans.values()), count)
        tasks = deque(
            Task(scene=scene, function=sample_features, arguments=(self._job, plans[scene], cells))
            for scene, cells in chosen.items()
        )
        total = sum(map(len, chosen.values()))
        with self._progress.stage(f"sample {total} cells for the components", total) as tick:
            for task, outcome in self._engine.run(tasks, lambda task, cells: None):
                if outcome.failure is not None:
                    self._fail(task.scene, outcome.failure)
                    del plans[task.scene]
                tick(len(chosen[task.scene]))
        return fit(self._job, plans, {scene: cells for scene, cells in chosen.items() if scene in plans}, count)

    def _embed_all(self, plans: Mapping[str, ScenePlan], earlier: Sequence[str]) -> None:
        """Embed the scenes."""
        tasks = self._tasks_of(plans.values())
        waiting = Counter(task.scene for task in tasks)
        left = Counter[str]()  # cells
        for task in tasks:
            left[task.scene] += task.cells
        complete = len(self._sources) - sum(1 for cells in left.values() if cells)
        seconds = dict.fromkeys(plans, 0.0)
        total = sum(plan.cells for plan in plans.values()) + sum(self._journal.entries[one].cells for one in earlier)
        began = time.monotonic()
        with self._progress.stage(f"embed {len(plans)} scenes", total, total - sum(left.values())) as tick:

            def count(scene: str, cells: int) -> None:
                nonlocal complete
                left[scene] -= cells
                complete += not left[scene]
                self._computed_cells += cells
                self._computed_km2 += cells * (plans[scene].grid.cell_km2 or 0.0)
                speed = self._computed_km2 / max(time.monotonic() - began, 1e-9)
                scenes = f"{complete}/{len(self._sources)} scenes"
                tick(cells, f"{scenes}, {speed:.3g} km2/s" if speed else scenes)

            for task, outcome in self._engine.run(tasks, lambda task, cells: count(task.scene, cells)):
                scene, plan = task.scene, plans[task.scene]
                if scene not in waiting:
                    continue  # another task of the scene has failed
                seconds[scene] += outcome.seconds
                if outcome.failure is not None:
                    del waiting[scene]
                    _drop(tasks, scene)
                    self._fail(scene, outcome.failure)
                    tick(left[scene])
                elif isinstance(outcome.value, Made):
                    del waiting[scene]
                    self._done(plan, outcome.value, seconds[scene])
                else:
                    waiting[scene] -= 1
                    if not waiting[scene]:
                        tasks.appendleft(self._task(plan, finish))

    def _tasks_of(self, plans: Iterable[ScenePlan]) -> deque[Task]:
        """Return what there is to compute."""
        tasks = deque[Task]()
        blocks = {plan.source.id: plan.parts(self._job).blocks for plan in plans}
        slots = self._engine.slots
        balanced = min(-(-sum(blocks.values()) // (_TASKS_A_SLOT * slots)), _MOST_BLOCKS)
        for plan in plans:
            several, parts = blocks[plan.source.id], plan.parts(self._job)
            if several == 1:
                tasks.append(self._task(plan, embed_small, cells=plan.cells))
                continue
            with writing(self._job):
                parts.begin()
            missing = parts.missing()
            whole_tiles = -(-plan.rows_a_tile // plan.rows_a_block)  # fewer would decode a tile several times
            step = several if slots == 1 else max(balanced, min(whole_tiles, several // slots), 1)
            for first in range(0, several, step):
                last = min(first + step, several)
                cells = sum(parts.cells_of(block) for block in missing if first <= block < last)
                if cells:
                    tasks.append(self._task(plan, embed_blocks, first, last, cells=cells))
            if not missing:
                tasks.append(self._task(plan, finish))
        return tasks

    def _task(self, plan: ScenePlan, function: Callable[..., Any], *more: int, cells: int = 0) -> Task:
        return Task(scene=plan.source.id, function=function, arguments=(self._job, plan, *more), cells=cells)

    def _done(self, plan: ScenePlan, made: Made, seconds: float) -> None:
        """Write down that an embedding is there; only then its blocks may go."""
        self._embedded += 1
        self._add(
            Entry(
                scene=plan.source.id,
                state="done",
                typed=plan.source.typed,
                identity=plan.identity,
                cells=plan.cells,
                nodata_cells=made.nodata_cells,
                km2=plan.km2,
                bytes=made.bytes,
                components_sha256=self._job.components_sha256,
                seconds=seconds,
            )
        )
        plan.parts(self._job).remove()

    def _fail(self, scene: str, reason: str) -> None:
        source = self._sources[scene]
        self._add(Entry(scene=scene, state="failed", typed=source.typed, identity="", reason=reason))
        shown = reason if source.typed in reason else f"{source.typed}: {reason}"
        logger.warning("left out: %s", shown)

    def _add(self, entry: Entry) -> None:
        with writing(self._job):
            self._journal.add(entry)


def _drop(tasks: deque[Task], scene: str) -> None:
    """Take the tasks of a scene out of the queue."""
    kept = [task for task in tasks if task.scene != scene]
    tasks.clear()
    tasks.extend(kept)


def _outside(sources: Sequence[SceneSource], request: RegionRequest) -> tuple[SceneSource, ...]:
    """Return the scenes that do not lie in the output folder, which may be inside a folder of scenes; paths absolute.

    Raises:
        UserError: none is left, or one in it was named.
    """
    out = request.out.resolve()
    named = [text for text in request.scenes if out in (path := Path(text).resolve()).parents or path == out]
    if named:
        raise UserError(f"{named[0]} is in the folder of --out {request.out}; name another folder")
    kept = tuple(one for one in sources if not any(out in Path(path).resolve().parents for path in one.paths))
    if not kept:
        raise UserError(f"all scenes are in the folder of --out {request.out}; name another folder")
    return tuple(replace(one, paths=tuple(map(_absolute, one.paths))) for one in kept)


def _absolute(path: str) -> str:
    """Return the path of a file of this machine so that a process in another folder finds it."""
    return path if is_gdal_name(path) else str(Path(path).absolute())
