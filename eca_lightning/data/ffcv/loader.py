"""Batches from a .beton, with guards against the faults of FFCV's loader.

| FFCV | here |
| --- | --- |
| a batch is a view of a ring of slots, overwritten later | copied before the next is taken |
| an exception in its thread leaves the consumer waiting forever | raised; also a timeout |
| an early ``break`` leaves the thread running | closed and joined, also at exit |
| a corrupt JPEG is a black or an old image | an error names the file and the sample |
| a compiled operation after one that is not loops forever | all operations are compiled |
| its orders skip, repeat or cannot be resumed | `data.sampler` |
| augmentations ignore the seed | `data.transforms.crop` |
"""

import atexit
import threading
import time
import weakref
from collections.abc import Generator
from contextlib import suppress
from functools import cache
from queue import Empty, Full
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from eca_lightning.data.epoch_loader import Batch, EpochLoader
from eca_lightning.data.ffcv import crop_decode, ffcv_api
from eca_lightning.data.ffcv.augment_op import StepApplier
from eca_lightning.data.ffcv.crop_decode import How
from eca_lightning.data.ffcv.decode_op import CropDecoder, DecoderName, SlotMemory
from eca_lightning.data.ffcv.format import BetonInfo
from eca_lightning.data.ffcv.packed import native
from eca_lightning.data.ffcv.samples import PackedField
from eca_lightning.data.sampler import PADDING, DistributedBatchSampler
from eca_lightning.data.transforms.crop import Crop
from eca_lightning.utils.checks import require

_RUNNING_CODE = threading.Lock()
"""Numba's fallback thread pool aborts the process if two threads enter it at once."""

_OPEN: "weakref.WeakSet[EpochStream]" = weakref.WeakSet()


class BetonLoader(EpochLoader):
    """Batches of one .beton for one rank, decoded by FFCV in threads.

    Args:
        info: The .beton, as :func:`~eca_lightning.data.ffcv.format.check_beton` returns it.
        crop: The crop of each sample.
        index_sampler: The samples of each batch.
        decoder, os_cache, batches_ahead: See
            :class:`~eca_lightning.data.ffcv.datamodule.FFCVDataModule`.
        num_workers: Threads, at most numba's (``NUMBA_NUM_THREADS``).
        device: Device of the batches; to a CUDA device they are copied while it computes.
        timeout: Seconds without a batch after which an iteration raises TimeoutError.

    Raises:
        ValueError: If the file has another number of samples than the sampler.
    """

    def __init__(
        self,
        info: BetonInfo,
        crop: Crop,
        index_sampler: DistributedBatchSampler,
        *,
        decoder: DecoderName = "crop",
        num_workers: int = 1,
        os_cache: bool = True,
        batches_ahead: int = 3,
        device: torch.device | None = None,
        timeout: float = 300.0,
    ) -> None:
        super().__init__(index_sampler)
        if info.samples != index_sampler.samples:
            raise ValueError(
                f"{info.path} holds {info.samples} samples, not {index_sampler.samples}"
            )
        self.crop = crop
        self.timeout = timeout
        self._info = info
        on_gpu = device is not None and device.type == "cuda"
        self._copies = torch.cuda.Stream(device) if on_gpu else None
        self._device = self._copies.device if self._copies else None  # with its number
        self._decoder = CropDecoder(crop.height, crop.width, _decode_image(info, crop, decoder))
        self._augmenter = StepApplier(crop.steps([0], 0).shape[1:]) if crop.augment else None
        with ffcv_api.torch_threads_kept():
            self._loader = ffcv_api.Loader(
                str(info.path),
                batch_size=index_sampler.batch_size,
                num_workers=min(max(num_workers, 1), ffcv_api.numba.config.NUMBA_NUM_THREADS),
                os_cache=os_cache,
                order=ffcv_api.OrderOption.SEQUENTIAL,
                seed=0,
                drop_last=False,
                custom_fields={"image": PackedField} if info.is_packed else {},
                batches_ahead=batches_ahead,
                pipelines={
                    "image": [self._decoder, *([self._augmenter] if self._augmenter else [])],
                    "label": None,
                },
            )

    def set_image_size(self, size: int) -> None:
        """See :meth:`~eca_lightning.data.epoch_loader.ResizableLoader.set_image_size`."""
        self.crop = self.crop.resized(size)

    def _open(self, epoch: int, batches: list[NDArray[np.int64]]) -> Generator[Batch]:
        """Stream the batches with these sample indices through FFCV."""
        if not batches:
            return
        announce_compilation()
        self._decoder.height, self._decoder.width = self.crop.height, self.crop.width
        if self._augmenter:
            self._augmenter.shape = self.crop.steps([0], 0).shape[1:]
        indices = np.concatenate(batches)
        stream = EpochStream(self._loader, self._info, self.crop, epoch, indices, self._device)
        try:
            for indices in batches:
                slot = torch.from_numpy(stream.take(self.timeout))
                known = self._info.labels[indices % self._info.samples]
                labels = torch.from_numpy(np.where(indices == PADDING, PADDING, known))
                if self._copies is None:
                    yield slot.clone().permute(0, 3, 1, 2), labels
                    continue
                images, labels, copied = self._copy(slot, labels, self._copies)
                try:
                    yield images.permute(0, 3, 1, 2), labels
                finally:
                    copied.synchronize()  # long since; from here on the slot may be filled again
        finally:
            stream.close()

    def _copy(
        self, slot: Tensor, labels: Tensor, copies: torch.cuda.Stream
    ) -> tuple[Tensor, Tensor, torch.cuda.Event]:
        """Start to copy a batch to the device, and return it with the end of the copying.

        The host does not wait, nor do the copies for the computation; that waits for them.
        """
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(copies):
            images = slot.to(self._device, non_blocking=True)
            labels = labels.pin_memory().to(self._device, non_blocking=True)
            copied = copies.record_event()
        compute.wait_event(copied)
        for tensor in (images, labels):
            tensor.record_stream(compute)
        return images, labels, copied


def _filter(crop: Crop) -> How:
    """Return how the decoders resize the images of a crop."""
    if crop.interpolation == "area":
        return How(0)
    return How.BILINEAR | (How.WHOLE_IMAGE if crop.name == "center_crop" else How(0))


def _decode_image(info: BetonInfo, crop: Crop, decoder: DecoderName) -> Any:
    """Return the function of ours that decodes the images of a .beton; None to let FFCV do it."""
    if info.is_packed:
        if decoder == "ffcv":
            raise ValueError(
                f"data.decoder: FFCV cannot decode the packed images of {info.path}; use crop"
            )
        return native.library().packed_decode_image
    if decoder == "crop" and (reason := crop_decode.unavailable_reason()):
        rank_zero_warn(f"Decoding with FFCV, which is slower: {reason}")
        decoder = "ffcv"
    if decoder == "ffcv":
        require(
            crop.interpolation == "area",
            "data.interpolation",
            "area where FFCV decodes",
            repr(crop.interpolation),
        )
        return None
    crop_decode.require_version(_filter(crop))
    return crop_decode.library().crop_decode_image


class EpochStream(ffcv_api.EpochIterator):
    """One epoch of a loader: a thread that fills slots, and a queue of full ones.

    ``indices`` are those of `DistributedBatchSampler.indices`; padding is read as sample 0.
    """

    def __init__(
        self,
        loader: Any,
        info: BetonInfo,
        crop: Crop,
        epoch: int,
        indices: NDArray[np.int64],
        device: torch.device | None,
    ) -> None:
        self._info, self._device = info, device
        self._crop = crop
        self._epoch = epoch
        self._indices = np.where(indices == PADDING, 0, indices)
        self._opened = False
        # FFCV starts the thread at the end of its constructor.
        super().__init__(loader, self._indices % info.samples)

    def start(self) -> None:
        """Start the thread, once FFCV has allocated the slots."""
        decoder, *steps = self.memory_allocations["operation"].values()
        self._memory = SlotMemory(*decoder)
        self._steps = steps[0] if steps else None
        self._opened = True
        _OPEN.add(self)
        super().start()

    def run(self) -> None:
        """Fill slots until the samples end or the consumer closes; the thread's main function."""
        try:
            ffcv_api.numba.set_num_threads(self.loader.num_workers)
            if self._device is not None:  # or FFCV would start a context on the first one
                torch.cuda.set_device(self._device)
            for number, samples in enumerate(self.iter_ixes):
                if not self._put(self._fill(number, samples)):
                    return
        except Exception as error:  # raised in the consumer
            self._put(error)

    def _fill(self, number: int, samples: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode a batch into the next slot of the ring."""
        slot = number % len(self._memory.images)
        images = self._info.images[samples]
        first = number * self.loader.batch_size
        indices = self._indices[first : first + len(samples)]
        boxes = self._memory.boxes[slot, : len(indices)]
        boxes[:] = self._crop.boxes(indices, images["height"], images["width"], self._epoch)
        boxes[:, 4] += _filter(self._crop)
        if self._steps is not None:
            self._steps[slot, : len(indices)] = self._crop.steps(indices, self._epoch)
        with _RUNNING_CODE:
            (pixels,) = self.run_pipeline(number, samples, slot, None)
        failed = np.flatnonzero(self._memory.status[slot, : len(indices), 0])
        if failed.size:
            raise ValueError(
                f"{self._info.path}: the JPEG data of sample {samples[failed[0]]} are damaged; "
                "'eca-lightning data verify' lists all damaged samples"
            )
        return pixels

    def _put(self, item: NDArray[np.uint8] | Exception) -> bool:
        """Pass an item to the consumer; return False if it has closed."""
        while not self.terminate_event.is_set():
            with suppress(Full):
                self.output_queue.put(item, timeout=0.1)
                return True
        return False

    def take(self, timeout: float) -> NDArray[np.uint8]:
        """Wait for the pixels of the next batch, in a slot that is valid until the next call.

        Raises:
            TimeoutError: If no batch came in ``timeout`` seconds.
            Exception: If the thread raised it.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() <= deadline:
            with suppress(Empty):
                item = self.output_queue.get(timeout=0.5)
                if isinstance(item, Exception):
                    raise item
                return item
        raise TimeoutError(
            f"{self._info.path}: no batch for {timeout:g} s; is its storage reachable?"
        )

    def close(self) -> None:
        """Stop the threads and join them; may be called again."""
        if not self._opened:
            return
        self._opened = False
        self.terminate_event.set()
        # A thread that hangs in a read cannot be stopped: it is a daemon and abandoned.
        self.join(timeout=10.0)
        self.memory_context.__exit__(None, None, None)
        for reader in getattr(getattr(self.memory_context, "executor", None), "threads", ()):
            reader.join(timeout=10.0)


@cache
def announce_compilation() -> None:
    """Log, once per process, why the first batch takes longer."""
    rank_zero_info("Compiling the FFCV pipeline: the first batch takes a few seconds")


@atexit.register
def _close_all() -> None:
    """Join all threads before the interpreter exits: numba's finalizers fail beside them."""
    for stream in list(_OPEN):
        stream.close()
