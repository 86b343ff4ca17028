"""Batches of tiles on the compute device, by step number.

Two ways. If the tiles that a recipe uses fit the GPU, they are copied there once and gathered there. Else, and on the
CPU, a thread gathers each process's slice of the next batches from the memory-mapped store into a ring of reused
buffers, which on CUDA are pinned and copied on a stream of their own. There are no worker processes: sending batches
between processes costs more than gathering them (docs/decisions/0009).

A store that does not fit the GPUs' memory is therefore read by every process from the page cache or the disk, each
reading only the tiles of its own slice.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eo_backbones.contract import InputSpec
from eo_backbones.device import DEVICES
from eo_backbones.errors import UserError, unknown_name
from eo_backbones_train.data.plan import Plan, StepPlan, pairs_per_process
from eo_backbones_train.data.tiles import MappedTiles, ResidentTiles, codes_dtype, max_tile_px, resident_bytes
from eo_backbones_train.recipes.published import input_spec
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.store.codings import Array
from eo_backbones_train.store.store import Store

PREFETCH = 2  # batches that are prepared ahead
RESIDENT_SHARE = 0.6  # of the free GPU memory; the rest is for weights, activations and graphs

DECODE_COLUMNS = ("q0", "q1", "q2", "low", "high", "missing")
"""Model input = ``clamp(q0 + q1 c + q2 c ** 2, low, high)``; where ``c == 0`` it is ``missing``, unless that is NaN."""


def decode_table(store: Store, contract: InputSpec) -> Array:
    """Return the six numbers per band of every group that turn codes into model input.

    A coding says ``native = q0 + q1 c + q2 c ** 2``; the input contract says clip, then ``(native - mean) / std``. Both
    together are one quadratic and one clamp, which the device applies while it makes the views.

    A missing value becomes the low end of the clip range, in both sensors: SEN12MS users set missing backscatter to -25
    dB (schmitt-muc/SEN12MS ``classification/dataset.py``), and missing reflectance is 0 in the files.

    Args:
        store: the store.
        contract: a contract that normalises by ``"band"``.

    Returns:
        float32 ``(groups, max bands, 6)``, columns as :data:`DECODE_COLUMNS`; NaN for bands that the contract lacks.
    """
    assert contract.normalization == "band"
    table = np.full((len(store.groups), max(len(group.bands) for group in store.groups), len(DECODE_COLUMNS)), np.nan)
    for rows, group in zip(table, store.groups, strict=True):
        for row, name, coding in zip(rows, group.bands, group.codings, strict=False):
            if name not in contract.band_names:
                continue
            entry = contract.for_band(name)
            q0, q1, q2 = coding.coefficients(entry.display)
            low, high = ((bound - entry.mean) / entry.std for bound in entry.clip)
            row[:] = (
                (q0 - entry.mean) / entry.std,
                q1 / entry.std,
                q2 / entry.std,
                low,
                high,
                low if coding.has_missing else np.nan,
            )
    return table.astype(np.float32)


class Batch(NamedTuple):
    """One process's share of a step, on the compute device. Valid until the next batch is asked for.

    Attributes:
        codes: uint8 (int32 for 16-bit stores) ``(V, B, S, S)``; view 0 is the Sentinel-2 band, view 1 the Sentinel-1
            band (or another Sentinel-2 band, as the recipe's ``s2_s2_share`` says). ``V`` is 2, or 5 where a teacher
            sees colours: views 2 to 4 are its red, green and blue. ``S`` is the largest tile height or width in use;
            smaller tiles lie in the upper left corner, with 0 around them.
        extent: float32 ``(V, B, 2)``: height and width of each tile.
        decode: float32 ``(V, B, 6)``, columns :data:`DECODE_COLUMNS`.
        scene: int64 ``(B,)``: indices of the scenes in the store.
    """

    codes: Tensor
    extent: Tensor
    decode: Tensor
    scene: Tensor


class Loader:
    """Random access to the batches of a run.

    Attributes:
        plan: which scenes and bands each step holds.
        steps_per_epoch: full global batches in an epoch.
        geometry: for each view of a batch, which of a pair's two crops it shows; colours lie where view 0 does.
        data_device: where the tiles are: ``"cpu"`` or ``"cuda"``.
    """

    def __init__(
        self,
        store: Store,
        recipe: Recipe,
        *,
        device: torch.device | str,
        data_device: str = "auto",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Plan the run, and copy the tiles to the GPU if they are kept there.

        Args:
            store: the store; scenes without a band of either sensor are left out.
            recipe: its ``data``, ``seed`` and ``global_batch`` decide what is in a batch.
            device: where batches are needed.
            data_device: where the tiles are kept; ``"auto"``: on the GPU if they fit, else in the host's page cache.
            rank: this process.
            world_size: number of processes; each gets a contiguous slice of the global batch.

        Raises:
            UserError: the store has nothing for the recipe, is smaller than one batch, or the options do not fit.
        """
        self._device = torch.device(device)
        if data_device not in DEVICES:
            raise unknown_name("data device", data_device, DEVICES)
        if data_device == "cuda" and self._device.type != "cuda":
            raise UserError("--data-device cuda needs --device cuda; pass --data-device cpu")
        pairs = pairs_per_process(recipe.global_batch, world_size)
        self.plan = Plan.for_recipe(store, recipe)
        self.geometry = (0, 1, 0, 0, 0) if self.plan.colour else (0, 1)
        self.steps_per_epoch = self.plan.steps_per_epoch
        self._rank, self._world_size = rank, world_size
        self._store = store
        self._table = decode_table(store, input_spec(recipe))
        self._extent = np.array([(group.height, group.width) for group in store.groups], np.float32)
        usable, bands = np.unique(self.plan.usable), (*recipe.data.s2_bands, *recipe.data.s1_bands)
        self._tiles: MappedTiles | ResidentTiles
        if _keep_on_gpu(data_device, self._device, resident_bytes(store, usable, bands)):
            self._tiles = ResidentTiles(store, usable, bands, self._device)
        else:
            self._tiles = MappedTiles(store)
        self.data_device = "cuda" if isinstance(self._tiles, ResidentTiles) else "cpu"
        tile_px, dtype = max_tile_px(store, usable), codes_dtype(store, usable)
        self._slots = [
            _Slot(len(self.geometry), pairs, tile_px, dtype, self._device, resident=self.data_device == "cuda")
            for _ in range(PREFETCH + 1)
        ]
        self._upload_stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._upload_stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._ahead: dict[int, Future[None]] = {}
        self._in_use: _Slot | None = None

    def batch(self, step: int) -> Batch:
        """Return this process's share of a step; the steps that follow it are prepared ahead.

        Raises:
            OSError: the store cannot be read any more (raised in the thread, and passed on here).
        """
        slot = self._slots[step % len(self._slots)]
        if isinstance(self._tiles, ResidentTiles):
            self._gather_on_device(step, slot, self._tiles)
            return slot.out
        if self._in_use is not None:
            self._in_use.release()
        if step not in self._ahead:
            self._discard_prepared()
        for number in range(step, step + len(self._slots)):
            if number not in self._ahead:
                self._ahead[number] = self._thread.submit(self._prepare, number, self._tiles)
        self._ahead.pop(step).result()
        slot.await_upload()
        self._in_use = slot
        return slot.out

    def close(self) -> None:
        """End the thread; a batch that was returned stays valid."""
        self._discard_prepared()
        self._thread.shutdown()

    def _discard_prepared(self) -> None:
        for future in self._ahead.values():
            if not future.cancel():
                future.exception()  # waits until its buffers are free
        self._ahead.clear()

    def _stage_all_but_codes(self, step: int, slot: "_Slot") -> StepPlan:
        """Return this process's share of a step, of which everything but the codes is written to the slot."""
        share = self.plan.share(step, rank=self._rank, world_size=self._world_size)
        group = self._store.scene_group[share.scene]
        staged = slot.staged
        staged.extent.numpy()[:] = self._extent[group]
        for view, band in enumerate(share.bands):
            staged.decode.numpy()[view] = self._table[group, band]
        staged.scene.numpy()[:] = share.scene
        return share

    def _prepare(self, step: int, tiles: MappedTiles) -> None:
        """Fill the slot of a step from the memory maps; runs in the thread."""
        slot = self._slots[step % len(self._slots)]
        slot.await_staging()
        share = self._stage_all_but_codes(step, slot)
        views = tuple(enumerate(share.bands))
        for _, band in views:
            tiles.announce(share.scene, band)
        codes = slot.staged.codes.numpy()
        for view, band in views:
            tiles.gather(share.scene, band, codes[view])
        if self._upload_stream is not None:
            slot.upload(self._upload_stream)

    def _gather_on_device(self, step: int, slot: "_Slot", tiles: ResidentTiles) -> None:
        slot.await_staging()
        share = self._stage_all_but_codes(step, slot)
        for view, band in enumerate(share.bands):
            tiles.gather(share.scene, band, slot.out.codes[view])
        slot.upload(torch.cuda.current_stream(self._device))


class _Slot:
    """The buffers of one batch: ``staged`` is written by the CPU, ``out`` is returned (the same tensors on the CPU).

    Two events order their reuse on CUDA: staging buffers are written again only when their upload has ended, device
    buffers only when everything that was enqueued while the caller had them has been computed.
    """

    def __init__(
        self, views: int, pairs: int, tile_px: int, dtype: torch.dtype, device: torch.device, *, resident: bool
    ) -> None:
        self._device = device
        cuda = device.type == "cuda"
        on_device = {"device": device} if resident else {"pin_memory": cuda}
        self.staged = Batch(
            codes=torch.zeros((views, pairs, tile_px, tile_px), dtype=dtype, **on_device),
            extent=torch.zeros((views, pairs, 2), pin_memory=cuda),
            decode=torch.zeros((views, pairs, len(DECODE_COLUMNS)), pin_memory=cuda),
            scene=torch.zeros(pairs, dtype=torch.int64, pin_memory=cuda),
        )
        self.out = self.staged
        if cuda:
            self.out = Batch(*(t if t.is_cuda else torch.zeros_like(t, device=device) for t in self.staged))
            self._uploaded = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._released = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def await_staging(self) -> None:
        """Block the CPU until the staging buffers may be written."""
        if self._device.type == "cuda":
            self._uploaded.synchronize()

    def upload(self, stream: torch.cuda.Stream) -> None:
        """Copy what was staged to the device, on a stream, once the batch that was there before is no longer in use."""
        with torch.cuda.device(self._device), torch.cuda.stream(stream):
            stream.wait_event(self._released)
            for source, target in zip(self.staged, self.out, strict=True):
                if source is not target:
                    target.copy_(source, non_blocking=True)
            self._uploaded.record(stream)

    def await_upload(self) -> None:
        """Let the consumer's stream wait for the copy."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).wait_event(self._uploaded)

    def release(self) -> None:
        """Mark the point after which the consumer's stream no longer uses the batch."""
        if self._device.type == "cuda":
            self._released.record(torch.cuda.current_stream(self._device))


def _keep_on_gpu(data_device: str, device: torch.device, needed: int) -> bool:
    """Return whether the tiles are kept on the GPU.

    Raises:
        UserError: the GPU was asked for, and they do not fit into its free memory.
    """
    if device.type != "cuda" or data_device == "cpu":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    if data_device == "auto":
        return needed <= RESIDENT_SHARE * free
    if needed > free:
        raise UserError(
            f"the tiles need {needed / 2**30:.1f} GiB, the GPU has {free / 2**30:.1f} GiB free; pass --data-device cpu"
        )
    return True
