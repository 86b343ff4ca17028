"""Which store finds the nearest cells: LanceDB, usearch and faiss beside an exact scan.

    uv run --with lancedb --with usearch --with faiss-cpu python benchmarks/search_stores.py FEATURES.npy
        [--cells 1000000] [--queries 100] [--only "exact;faiss"] [--threads 1] [--folder DIR] [--out FILE]

FEATURES.npy holds features of real images, ``(n, features)``, such as ``eo-backbones evaluate`` keeps in its cache.
Cells are made from their first 64 principal components: each lies between an image and one of its ten nearest
neighbours, at a random place, with noise of a tenth of each component's deviation, as windows of a scene lie between
the places that they overlap. Queries are made likewise from images that no cell is made from. All vectors have length
1; the exact scan of float32 is the truth. A query is one vector, ten results; times are medians over the queries, one
after the other, on a warm page cache. Where a store has a setting of effort, the lowest one with a recall of 0.95
counts, or else the highest.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from eo_backbones.scenes.geotiff import write_geotiff
from eo_backbones.scenes.grid import Grid

COMPONENTS = 64
WANTED = 10
RECALL = 0.95
BATCH = 100_000
FILTERED = 0.01  # share of the cells that the filter leaves: a box of a hundredth of the region
EFFORTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

Search = Callable[[np.ndarray, int, np.ndarray | None], np.ndarray]
"""Query ``(64,)``, effort, allowed cells (sorted) or None for all -> numbers of the nearest cells, best first."""
Truth = dict[bool, list[np.ndarray]]
"""Whether the filter is on -> the nearest cells of each query."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """A store of all cells: how to ask it, at which efforts, and whether it can be asked for some cells only."""

    search: Search
    bytes: int
    efforts: tuple[int, ...] = (0,)
    filters: bool = True
    build_s: float | None = None  # where not all that the function did is building
    build_cpu_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A row of the table."""

    store: str
    build_s: float
    build_cpu_s: float
    mb: float
    effort: int
    recall: float
    ms: float
    cpu_ms: float
    filtered_recall: float | None
    filtered_ms: float | None


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length 1."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class Cells:
    """Vectors drawn from real features, in batches that depend on the seed alone."""

    def __init__(self, features: np.ndarray) -> None:
        features = features.astype(np.float32)
        rng = np.random.default_rng(0)
        centred = features - features.mean(axis=0)
        _, axes = np.linalg.eigh(centred.T @ centred)
        components = centred @ axes[:, ::-1][:, :COMPONENTS]
        asked = rng.permutation(len(components)) < len(components) // 10
        self._deviation = components.std(axis=0)
        self._parts = {"cells": components[~asked], "queries": components[asked]}
        self._near = {name: self._nearest(part) for name, part in self._parts.items()}

    @staticmethod
    def _nearest(part: np.ndarray) -> np.ndarray:
        squares = (part**2).sum(axis=1)
        blocks = [
            np.argpartition(squares - 2 * part[first : first + 1000] @ part.T, 10, axis=1)[:, :11]
            for first in range(0, len(part), 1000)
        ]
        return np.concatenate(blocks)

    def draw(self, part: str, count: int, seed: int) -> np.ndarray:
        """Return unit vectors of a part, ``"cells"`` or ``"queries"``."""
        rng = np.random.default_rng((seed, len(part)))
        images, near = self._parts[part], self._near[part]
        one = rng.integers(len(images), size=count)
        other = near[one, rng.integers(near.shape[1], size=count)]
        share = rng.random((count, 1), np.float32)
        noise = rng.standard_normal((count, COMPONENTS), np.float32) * self._deviation * 0.1
        return unit(images[one] * share + images[other] * (1 - share) + noise)


def batches(cells: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of the first cell, and the vectors, of batches."""
    for first in range(0, len(cells), BATCH):
        yield first, np.asarray(cells[first : first + BATCH])


def best(scores: np.ndarray) -> np.ndarray:
    """Return the positions of the highest scores, best first."""
    found = np.argpartition(-scores, WANTED)[:WANTED]
    return found[np.argsort(-scores[found])]


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def numpy_exact(cells: np.ndarray, folder: Path) -> Built:
    """A file of float32 that is mapped into memory, and one matrix product."""
    path = folder / "vectors.npy"
    stored = np.lib.format.open_memmap(path, "w+", np.float32, cells.shape)
    for first, batch in batches(cells):
        stored[first : first + len(batch)] = batch
    stored.flush()
    mapped = np.load(path, mmap_mode="r")

    def search(query: np.ndarray, _: int, allowed: np.ndarray | None) -> np.ndarray:
        if allowed is None:
            return best(mapped @ query)
        return allowed[best(mapped[allowed] @ query)]

    return Built(search=search, bytes=path.stat().st_size)


def torch_half(cells: np.ndarray, folder: Path) -> Built:
    """The same with half precision, as torch multiplies it."""
    import torch  # noqa: PLC0415

    path = folder / "half.npy"
    stored = np.lib.format.open_memmap(path, "w+", np.float16, cells.shape)
    for first, batch in batches(cells):
        stored[first : first + len(batch)] = batch
    stored.flush()
    mapped = torch.from_numpy(np.load(path, mmap_mode="r+"))

    def search(query: np.ndarray, _: int, allowed: np.ndarray | None) -> np.ndarray:
        asked = torch.from_numpy(query).half()
        if allowed is None:
            return best((mapped @ asked).float().numpy())
        return allowed[best((mapped[torch.from_numpy(allowed)] @ asked).float().numpy())]

    return Built(search=search, bytes=path.stat().st_size)


def _lists(cells: int) -> int:
    """Number of inverted lists: four times the root of the number of cells, as faiss advises, as a power of two."""
    return 2 ** round(np.log2(4 * np.sqrt(cells)))


def faiss_lists(kind: str) -> Callable[[np.ndarray, Path], Built]:
    """Inverted lists of faiss with vectors as float32 (Flat), float16 (SQfp16) or one byte a component (SQ8)."""

    def build(cells: np.ndarray, folder: Path) -> Built:
        import faiss  # noqa: PLC0415

        lists = _lists(len(cells))
        index = faiss.index_factory(COMPONENTS, f"IVF{lists},{kind}", faiss.METRIC_INNER_PRODUCT)
        step = max(len(cells) // (64 * lists), 1)
        index.cp.niter = 10
        index.train(np.ascontiguousarray(cells[::step]))
        for _, batch in batches(cells):
            index.add(batch)
        path = folder / f"{kind}.faiss"
        faiss.write_index(index, str(path))
        del index
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)

        def search(query: np.ndarray, effort: int, allowed: np.ndarray | None) -> np.ndarray:
            options: dict[str, Any] = {"nprobe": effort}
            if allowed is not None:
                options["sel"] = faiss.IDSelectorBatch(allowed)
            return index.search(query[None], WANTED, params=faiss.SearchParametersIVF(**options))[1][0]

        return Built(search=search, bytes=path.stat().st_size, efforts=EFFORTS)

    return build


def usearch_graph(kind: str) -> Callable[[np.ndarray, Path], Built]:
    """The graph (HNSW) of usearch with its default settings."""

    def build(cells: np.ndarray, folder: Path) -> Built:
        from usearch.index import Index  # noqa: PLC0415

        path = folder / f"{kind}.usearch"
        index = Index(ndim=COMPONENTS, metric="ip", dtype=kind)
        for first, batch in batches(cells):
            index.add(np.arange(first, first + len(batch)), batch, threads=THREADS)
        index.save(str(path))
        del index
        index = Index.restore(str(path), view=True)

        def search(query: np.ndarray, effort: int, _: np.ndarray | None) -> np.ndarray:
            index.expansion_search = effort
            return index.search(query, WANTED, threads=1).keys.astype(np.int64)

        return Built(search=search, bytes=path.stat().st_size, efforts=EFFORTS[3:], filters=False)

    return build


def lancedb_table(kind: str) -> Callable[[np.ndarray, Path], Built]:
    """A table of LanceDB without an index (FLAT) or with one of its kinds, parameters as it chooses them."""

    def build(cells: np.ndarray, folder: Path) -> Built:
        import lancedb  # noqa: PLC0415
        import pyarrow as pa  # noqa: PLC0415

        schema = pa.schema([("cell", pa.int64()), ("vector", pa.list_(pa.float32(), COMPONENTS))])

        def rows() -> Iterator[Any]:
            for first, batch in batches(cells):
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.ravel()), COMPONENTS)
                yield pa.RecordBatch.from_arrays(
                    [pa.array(np.arange(first, first + len(batch))), vectors], schema=schema
                )

        table = lancedb.connect(folder / "lance").create_table("cells", rows(), schema=schema)
        if kind != "FLAT":
            table.create_index(
                metric="dot", index_type=kind, vector_column_name="vector", num_partitions=_lists(len(cells)) // 2
            )

        def search(query: np.ndarray, effort: int, allowed: np.ndarray | None) -> np.ndarray:
            asked = table.search(query).distance_type("dot").select(["cell", "_distance"]).limit(WANTED)
            if kind != "FLAT":
                asked = asked.nprobes(effort)
                if kind == "IVF_PQ":
                    asked = asked.refine_factor(10)
            if allowed is not None:
                asked = asked.where(f"cell >= {allowed[0]} AND cell <= {allowed[-1]}", prefilter=True)
            return asked.to_arrow().column("cell").to_numpy()

        return Built(search=search, bytes=folder_bytes(folder / "lance"), efforts=(0,) if kind == "FLAT" else EFFORTS)

    return build


def eo_backbones_index(exact: bool) -> Callable[[np.ndarray, Path], Built]:
    """The index of this package, from ten scenes in GeoTIFF (which are not counted) to an index that can be opened."""

    def build(cells: np.ndarray, folder: Path) -> Built:
        from eo_backbones.search import SearchIndex, build_index, nearest  # noqa: PLC0415

        scenes = 10
        for number, part in enumerate(np.array_split(cells, scenes)):
            write_scene(folder / "region" / f"scene{number}.tif", part)
        started, worked = time.perf_counter(), time.process_time()
        made = build_index(folder / "region", folder / "index")
        build_s, build_cpu_s = time.perf_counter() - started, time.process_time() - worked
        index = SearchIndex.open(folder / "index")

        def search(query: np.ndarray, _: int, allowed: np.ndarray | None) -> np.ndarray:
            mask = None
            if allowed is not None:
                mask = np.zeros(len(cells), bool)
                mask[allowed] = True
            return nearest(index, query[None], WANTED, allowed=mask, exact=exact)[0]

        return Built(search=search, bytes=made.bytes, build_s=build_s, build_cpu_s=build_cpu_s)

    return build


def write_scene(path: Path, vectors: np.ndarray) -> None:
    """Write cells as a row of an embedding of one scene, or several rows where their number allows it."""
    cols = max(number for number in range(1, 501) if len(vectors) % number == 0)
    path.parent.mkdir(exist_ok=True)
    facts = {
        "model": "stand-in",
        "weights_sha256": "0" * 64,
        "bands": ["B04"],
        "units": ["dn"],
        "fuse": "concat",
        "size": 64,
        "stride": 32,
    }
    grid = Grid(
        height=32 * (len(vectors) // cols + 1), width=32 * (cols + 1), size=64, stride=32, crs=CRS.from_epsg(32632),
        scene_transform=Affine(10, 0, 500_000, 0, -10, 5_000_000),
    )  # fmt: skip
    rows = vectors.reshape(-1, cols, vectors.shape[1])
    write_geotiff(path, lambda: iter(rows), grid=grid, bands=vectors.shape[1], dtype="float32", facts=facts)


STORES: dict[str, Callable[[np.ndarray, Path], Built]] = {
    "this package, exact": eo_backbones_index(exact=True),
    "this package, approximate": eo_backbones_index(exact=False),
    "exact scan, numpy float32": numpy_exact,
    "exact scan, torch float16": torch_half,
    "faiss IVF, float32": faiss_lists("Flat"),
    "faiss IVF, float16": faiss_lists("SQfp16"),
    "faiss IVF, 8 bits": faiss_lists("SQ8"),
    "LanceDB, no index": lancedb_table("FLAT"),
    "LanceDB IVF_FLAT": lancedb_table("IVF_FLAT"),
    "LanceDB IVF_PQ": lancedb_table("IVF_PQ"),
    "usearch HNSW, float16": usearch_graph("f16"),
    "usearch HNSW, 8 bits": usearch_graph("i8"),
}


def shares(found: list[np.ndarray], truth: list[np.ndarray]) -> float:
    """Return the mean share of the true cells that were found."""
    return float(np.mean([len(np.intersect1d(one, other)) / WANTED for one, other in zip(found, truth, strict=True)]))


def asked(
    built: Built, queries: np.ndarray, effort: int, allowed: np.ndarray | None
) -> tuple[list[np.ndarray], float, float]:
    """Return what each query finds, and median milliseconds: on the clock, and of the processor."""
    for query in queries[:3]:
        built.search(query, effort, allowed)
    found, times, cpu = [], [], []
    for query in queries:
        started, worked = time.perf_counter(), time.process_time()
        found.append(built.search(query, effort, allowed))
        times.append(time.perf_counter() - started)
        cpu.append(time.process_time() - worked)
    return found, statistics.median(times) * 1000, statistics.median(cpu) * 1000


def measure(
    name: str, cells: np.ndarray, queries: np.ndarray, truth: Truth, allowed: np.ndarray, folder: Path
) -> Measured:
    """Return the row of one store."""
    started, worked = time.perf_counter(), time.process_time()
    built = STORES[name](cells, folder)
    build_s, build_cpu_s = time.perf_counter() - started, time.process_time() - worked
    for effort in built.efforts:
        found, ms, cpu_ms = asked(built, queries, effort, None)
        recall = shares(found, truth[False])
        if recall >= RECALL:
            break
    filtered = asked(built, queries, effort, allowed) if built.filters else None
    return Measured(
        store=name,
        build_s=built.build_s or build_s,
        build_cpu_s=built.build_cpu_s or build_cpu_s,
        mb=built.bytes / 1e6,
        effort=effort,
        recall=recall,
        ms=ms,
        cpu_ms=cpu_ms,
        filtered_recall=None if filtered is None else shares(filtered[0], truth[True]),
        filtered_ms=None if filtered is None else filtered[1],
    )


def line(row: Measured) -> str:
    """Return a row of the table."""
    filtered = "- | -" if row.filtered_ms is None else f"{row.filtered_recall:.3f} | {row.filtered_ms:.2f}"
    return (
        f"| {row.store} | {row.build_s:.1f} | {row.build_cpu_s:.1f} | {row.mb:.0f} | {row.effort or '-'} | "
        f"{row.recall:.3f} | {row.ms:.2f} | {row.cpu_ms:.2f} | {filtered} |"
    )


def main() -> None:
    """Measure the stores one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--only", default="", help="parts of the stores' names, with semicolons")
    parser.add_argument(
        "--threads", type=int, default=1, help="of usearch; the others take OMP_NUM_THREADS and the like"
    )
    parser.add_argument("--folder", type=Path, help="where the stores are built; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="append the rows to this file, as JSON lines")
    options = parser.parse_args()
    global THREADS  # noqa: PLW0603 -- one setting of the whole run
    THREADS = options.threads
    drawn = Cells(np.load(options.features))
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        cells = np.lib.format.open_memmap(folder / "cells.npy", "w+", np.float32, (options.cells, COMPONENTS))
        for number, (first, batch) in enumerate(batches(cells)):
            cells[first : first + len(batch)] = drawn.draw("cells", len(batch), number)
        cells.flush()
        queries = drawn.draw("queries", options.queries, 0)
        first = options.cells // 3
        allowed = np.arange(first, first + int(options.cells * FILTERED))
        truth: Truth = {
            False: [best(cells @ query) for query in queries],
            True: [allowed[best(cells[allowed] @ query)] for query in queries],
        }
        names = [name for name in STORES if any(part in name for part in options.only.split(";"))]
        packages = ", ".join(
            f"{package} {version(package)}" for package in ("numpy", "faiss-cpu", "usearch", "lancedb")
        )
        print(
            f"{date.today()}, {os.cpu_count()} cores, {options.cells:,} cells of {COMPONENTS} components; {packages}\n"
        )
        print("| store | build s | CPU s | MB | effort | recall@10 | ms a query | CPU ms | filtered: recall | ms |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        for name in names:
            place = folder / "store"
            place.mkdir()
            row = measure(name, cells, queries, truth, allowed, place)
            shutil.rmtree(place)
            print(line(row), flush=True)
            if options.out:
                with options.out.open("a") as file:
                    file.write(json.dumps({"cells": options.cells, **asdict(row)}) + "\n")


THREADS = 1

if __name__ == "__main__":
    main()
