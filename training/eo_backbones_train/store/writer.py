"""Changing a store on the disk so that it is valid at every moment: lists first, ``store.json`` last.

While a source is being added, a journal says which of its blocks are done, so that a killed job continues where it was.
A line is written after its shards have got their names. A line that was cut short by a crash is dropped, and its block
is converted again, with the same bytes.
"""

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eo_backbones.errors import UserError
from eo_backbones.files import UNFINISHED, refuse_occupied, write_atomically
from eo_backbones_train.store.codings import CODINGS, coding
from eo_backbones_train.store.convert import BlockResult
from eo_backbones_train.store.format import (
    FORMAT,
    SCENE_COLUMNS,
    SCENES_FILE,
    SKIPPED_COLUMNS,
    SKIPPED_FILE,
    STORE_FILE,
    VERSION,
    canonical_json,
    manifest_digest,
    read_manifest,
)


class Journal:
    """Lines of JSON: first what is being added, then one line per finished block.

    Attributes:
        done: block number -> result of the block.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        """Open or begin the journal of one source.

        Args:
            path: the file.
            identity: what is being added, as JSON values: the first line.

        Raises:
            UserError: the journal belongs to another source, or to the same one with other options or files.
        """
        self._path = path
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        if lines:
            recorded = json.loads(lines[0])
            if recorded != identity:
                different = ", ".join(key for key in identity if recorded.get(key) != identity[key])
                raise UserError(
                    f"{path.parent} holds an unfinished source ({recorded['layout']} {recorded['root']}) that differs "
                    f"from this one in {different}; finish that one first, or remove {path} to discard it"
                )
        self.done: dict[int, BlockResult] = {}
        for line in lines[1:]:
            result = BlockResult.from_dict(json.loads(line))
            if all(_has_size(path.parent / shard.file, shard.size) for shard in result.shards):
                self.done[result.number] = result
        kept = [canonical_json(identity), *(canonical_json(result.to_dict()) for result in self.done.values())]
        write_atomically(path, "".join(f"{line}\n" for line in kept))

    def add(self, result: BlockResult) -> None:
        """Record a finished block; it is on the disk when this returns."""
        with self._path.open("a") as stream:
            stream.write(canonical_json(result.to_dict()) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.done[result.number] = result

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def manifest_to_extend(out: Path, *, exact: bool) -> dict[str, Any]:
    """Return the manifest of the store in ``out``, or the manifest of an empty store.

    Raises:
        UserError: the folder holds something else, or a store with another setting of ``exact``.
    """
    if (out / STORE_FILE).is_file():
        manifest = read_manifest(out)
        if manifest["exact"] != exact:
            raise UserError(
                f"the store {out} was made {'with' if manifest['exact'] else 'without'} --exact, which holds for all "
                "its sources; do the same, or pass another --out"
            )
        return manifest
    refuse_occupied(out, earlier="a store", recognised=any(out.glob("journal-*.jsonl")))
    return {
        "format": FORMAT,
        "version": VERSION,
        "exact": exact,
        "codings": _coding_formulas(CODINGS),
        "next_block": 0,
        "groups": [],
        "sources": [],
        "scenes": {"count": 0, "bytes": 0, "sha256": ""},
        "skipped_bytes": 0,
    }


def add_source(
    out: Path,
    manifest: dict[str, Any],
    source: dict[str, Any],
    skipped: list[tuple[str, str]],
    results: list[BlockResult],
) -> dict[str, Any]:
    """Write the lists, then ``store.json``, and delete shards that no source refers to.

    Args:
        out: the store's folder, which already holds the shards.
        manifest: contents of ``store.json`` so far.
        source: what to record about the source.
        skipped: ``(scene, reason)`` of what the layout left out.
        results: the source's blocks, in order.

    Returns:
        The new contents of ``store.json``.
    """
    groups = {group["name"]: group for group in manifest["groups"]}
    for result in results:
        for shard in result.shards:
            key = result.groups[shard.group]
            group = groups.setdefault(shard.group, {"name": shard.group, **key.to_dict(), "count": 0, "shards": []})
            group["count"] += shard.scenes
            group["shards"].append(
                {"file": shard.file, "scenes": shard.scenes, "bytes": shard.size, "sha256": shard.sha256}
            )
    rows = [
        (scene, source["name"], roi, group, file, str(row), " ".join(groups[group]["bands"]))
        for result in results
        for scene, roi, group, file, row in result.rows
    ]
    left_out = skipped + [entry for result in results for entry in result.skipped]
    reasons = Counter(reason.split(":")[0] for _, reason in left_out)
    source = source | {"stored": len(rows), "skipped": len(left_out), "reasons": dict(reasons.most_common(10))}
    scenes_csv = _extend_list(out / SCENES_FILE, manifest["scenes"]["bytes"], SCENE_COLUMNS, rows)
    skipped_rows = [(source["name"], *entry) for entry in left_out]
    skipped_csv = _extend_list(out / SKIPPED_FILE, manifest["skipped_bytes"], SKIPPED_COLUMNS, skipped_rows)
    all_rows = list(csv.reader(io.StringIO(scenes_csv.decode())))[1:]
    ordered = [groups[name] for name in sorted(groups)]
    manifest = manifest | {
        "codings": _coding_formulas([*CODINGS, *(name for group in ordered for name in group["codings"])]),
        "next_block": manifest["next_block"] + len(results),
        "groups": ordered,
        "sources": [*manifest["sources"], source],
        "scenes": {
            "count": len(all_rows),
            "bytes": len(scenes_csv),
            "sha256": hashlib.sha256(scenes_csv).hexdigest(),
        },
        "skipped_bytes": len(skipped_csv),
        "digest": manifest_digest(ordered, all_rows),
    }
    write_atomically(out / STORE_FILE, json.dumps(manifest, indent=1) + "\n", shared=True, sync=True)
    shard_files = {shard["file"] for group in ordered for shard in group["shards"]}
    for path in out.glob("tiles-*.npy"):  # of a source that was discarded
        if path.name not in shard_files:
            path.unlink()
    return manifest


def remove_leftovers(out: Path, manifest: dict[str, Any]) -> None:
    """Remove what killed processes left behind: unfinished files, and journals of sources that are complete."""
    for path in out.glob(f"{UNFINISHED}*"):
        path.unlink(missing_ok=True)
    for number in range(len(manifest["sources"])):
        journal_file(out, number).unlink(missing_ok=True)


def journal_file(out: Path, source: int) -> Path:
    """Return the path of the journal of the store's source number ``source``."""
    return out / f"journal-{source}.jsonl"


def _coding_formulas(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the formulas of codings, for reading the store without this package."""
    return {one.name: {"q": list(one.q), "code_0_is_missing": one.has_missing} for one in map(coding, names)}


def _extend_list(path: Path, kept: int, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """Replace a list by its first ``kept`` bytes and new rows; return the new contents."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not kept:
        writer.writerow(columns)
    writer.writerows(rows)
    content = (path.read_bytes()[:kept] if kept else b"") + text.getvalue().encode()
    write_atomically(path, content, shared=True, sync=True)
    return content
