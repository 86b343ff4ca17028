"""Batches of tiles on the compute device, by step number (PERFORMANCE A6, A7).

Two ways. If the tiles that a recipe uses fit the GPU, they are copied there once and gathered there. Else, and on the
CPU, a thread gathers each process's slice of the next batches from the memory-mapped store into a ring of reused
buffers, which on CUDA are pinned and copied on a stream of their own. There are no worker processes: sending batches
between processes costs more than gathering them.

A store that does not fit the GPUs' memory is therefore read by every process from the page cache or the disk, each
reading only the tiles of its own slice.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eo_backbones.errors import UserError, unknown_name
from eo_backbones_train.decode_table import COLUMNS, decode_table
from eo_backbones_train.plan import Plan, StepPlan
from eo_backbones_train.recipe import Recipe
from eo_backbones_train.recipes import input_spec
from eo_backbones_train.store import Store
from eo_backbones_train.tiles import MappedTiles, ResidentTiles, codes_dtype, resident_bytes, tile_side

DATA_DEVICES = ("auto", "cpu", "cuda")
PREFETCH = 2  # batches that are made ready ahead
RESIDENT_SHARE = 0.6  # of the free GPU memory; the rest is for weights, activations and graphs


class Batch(NamedTuple):
    """One process's share of a step, on the compute device. Valid until the next batch is asked for.

    Attributes:
        codes: uint8 (int32 for 16-bit stores) ``(V, B, S, S)``; view 0 is the Sentinel-2 band, view 1 the Sentinel-1
            band (or another Sentinel-2 band, as the recipe's ``s2_s2_share`` says). ``V`` is 2, or 5 where a teacher
            sees colours: views 2 to 4 are its red, green and blue. ``S`` is the largest tile side in
            use; smaller tiles lie in the upper left corner, with 0 around them.
        extent: float32 ``(V, B, 2)``: height and width of each tile.
        decode: float32 ``(V, B, 6)``, columns :data:`eo_backbones_train.decode_table.COLUMNS`.
        scene: int64 ``(B,)``: scene numbers in the store.
    """

    codes: Tensor
    extent: Tensor
    decode: Tensor
    scene: Tensor


class Loader:
    """Random access to the batches of a run.

    Attributes:
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
        """Plan the run, and copy the tiles to the GPU if they are to be there.

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
        if data_device not in DATA_DEVICES:
            raise unknown_name("data device", data_device, DATA_DEVICES)
        if data_device == "cuda" and self._device.type != "cuda":
            raise UserError("--data-device cuda needs --device cuda; pass --data-device cpu")
        if recipe.global_batch % world_size:
            fitting = [n for n in range(1, recipe.global_batch + 1) if recipe.global_batch % n == 0]
            raise UserError(
                f"{world_size} processes cannot share a global batch of {recipe.global_batch}; "
                f"start one of {', '.join(map(str, fitting))} processes"
            )
        data = recipe.data
        colour = recipe.teacher is not None and recipe.teacher.sees == "colour"
        self._plan = Plan(
            store,
            s2_bands=data.s2_bands,
            s1_bands=data.s1_bands,
            seed=recipe.seed,
            global_batch=recipe.global_batch,
            s2_s2_share=data.s2_s2_share,
            colour=colour,
        )
        self.geometry = (0, 1, 0, 0, 0) if colour else (0, 1)
        self.steps_per_epoch = self._plan.steps_per_epoch
        self._rank, self._world_size = rank, world_size
        self._store = store
        self._table = decode_table(store, input_spec(recipe))
        self._extent = np.array([(group.height, group.width) for group in store.groups], np.float32)
        usable, bands = self._plan.usable, (*data.s2_bands, *data.s1_bands)
        self._tiles: MappedTiles | ResidentTiles
        if _keep_on_gpu(data_device, self._device, resident_bytes(store, usable, bands)):
            self._tiles = ResidentTiles(store, usable, bands, self._device)
        else:
            self._tiles = MappedTiles(store)
        self.data_device = "cuda" if isinstance(self._tiles, ResidentTiles) else "cpu"
        pairs, side, dtype = recipe.global_batch // world_size, tile_side(store, usable), codes_dtype(store, usable)
        self._slots = [
            _Slot(len(self.geometry), pairs, side, dtype, self._device, resident=self.data_device == "cuda")
            for _ in range(PREFETCH + 1)
        ]
        self._upload_stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._upload_stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._ahead: dict[int, Future[None]] = {}
        self._in_use: _Slot | None = None

    def batch(self, step: int) -> Batch:
        """Return this process's share of a step; steps in ascending order are prepared ahead.

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
            self._drop_prepared()
        for number in range(step, step + len(self._slots)):
            if number not in self._ahead:
                self._ahead[number] = self._thread.submit(self._prepare, number, self._tiles)
        self._ahead.pop(step).result()
        slot.await_upload()
        self._in_use = slot
        return slot.out

    def close(self) -> None:
        """End the thread; a batch handed out stays valid."""
        self._drop_prepared()
        self._thread.shutdown()

    def _drop_prepared(self) -> None:
        for future in self._ahead.values():
            if not future.cancel():
                future.exception()  # waits until its buffers are free
        self._ahead.clear()

    def _share(self, step: int, slot: "_Slot") -> StepPlan:
        """Plan a step and write all but its codes."""
        share = self._plan.share(step, rank=self._rank, world_size=self._world_size)
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
        share = self._share(step, slot)
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
        share = self._share(step, slot)
        for view, band in enumerate(share.bands):
            tiles.gather(share.scene, band, slot.out.codes[view])
        slot.upload(torch.cuda.current_stream(self._device))


class _Slot:
    """The buffers of one batch: ``staged`` is written by the CPU, ``out`` is handed out (the same tensors on the CPU).

    Two events order their reuse on CUDA: staging buffers are written again only when their upload has ended, device
    buffers only when what was enqueued while they were handed out has been computed.
    """

    def __init__(
        self, views: int, pairs: int, side: int, dtype: torch.dtype, device: torch.device, *, resident: bool
    ) -> None:
        self._device = device
        cuda = device.type == "cuda"
        on_device = {"device": device} if resident else {"pin_memory": cuda}
        self.staged = Batch(
            codes=torch.zeros((views, pairs, side, side), dtype=dtype, **on_device),
            extent=torch.zeros((views, pairs, 2), pin_memory=cuda),
            decode=torch.zeros((views, pairs, len(COLUMNS)), pin_memory=cuda),
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
        """Copy what was staged to the device, on a stream, once the batch that was there is no longer in use."""
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
        """Mark the end of what the consumer's stream does with the batch."""
        if self._device.type == "cuda":
            self._released.record(torch.cuda.current_stream(self._device))


def _keep_on_gpu(data_device: str, device: torch.device, needed: int) -> bool:
    """Decide where the tiles are kept.

    Raises:
        UserError: they were asked to be on a GPU that they do not fit.
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
