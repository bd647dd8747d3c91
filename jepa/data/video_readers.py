"""Frames of video files by their number: with PyAV, or with torchcodec where it is installed and asked for.

Axes: T frames, C channels (3), H height, W width.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jepa.data.optional import optional


class VideoReader(Protocol):
    """Counts and reads frames."""

    def count(self, file: Path) -> int:
        """Frames of the video."""
        ...

    def read(self, file: Path, wanted: range, size: tuple[int, int] | None) -> Tensor:
        """These frames, uint8 (T, C, H, W), resized to `size` (H, W) if given."""
        ...


class PyAVReader:
    """Decodes from the key frame before the first wanted frame on.

    The frames of a file are numbered by their time stamps, so that frame rates that vary and frames that are stored
    out of order do no harm; the stamps are collected, without decoding, when a file is first read from.
    """

    def __init__(self) -> None:
        self._times: dict[Path, np.ndarray] = {}
        self._av = optional("av", "videos", "data")

    def __getstate__(self) -> dict[str, Any]:
        return {"_times": self._times}  # a module cannot be sent to a worker process

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._times = state["_times"]
        self._av = optional("av", "videos", "data")

    def count(self, file: Path) -> int:
        """Frames of the video: as its header has it, or counted where it does not say."""
        with self._open(file) as container:
            in_header = container.streams.video[0].frames
        return in_header or len(self._time_stamps(file))

    def read(self, file: Path, wanted: range, size: tuple[int, int] | None) -> Tensor:
        """These frames.

        Raises:
            ValueError: The file is damaged there.
        """
        times = self._time_stamps(file)
        if wanted[-1] >= len(times):
            raise _unreadable(file, f"its header promises more frames than the {len(times)} that it holds")
        stamps = [int(times[number]) for number in wanted]
        try:
            # Where a jump lands behind the first frame, as broken indices make it, all is decoded from the start.
            found = self._decode(file, stamps, size, jump=True) or self._decode(file, stamps, size, jump=False)
        except (self._av.FFmpegError, OSError) as error:
            raise _unreadable(file, error) from error
        if not found:
            raise _unreadable(file, f"not all of its frames {wanted[0]} to {wanted[-1]} can be decoded")
        return torch.stack(found).movedim(-1, 1)

    def _decode(self, file: Path, stamps: list[int], size: tuple[int, int] | None, *, jump: bool) -> list[Tensor]:
        """The frames (H, W, C) with these time stamps, or none where one is missing."""
        target = {} if size is None else {"height": size[0], "width": size[1]}
        missing, found = set(stamps), []
        with self._open(file) as container:
            stream = container.streams.video[0]
            if jump:
                container.seek(stamps[0], stream=stream)
            for frame in container.decode(stream):
                if frame.pts in missing:
                    missing.remove(frame.pts)
                    found.append(torch.from_numpy(frame.reformat(format="rgb24", **target).to_ndarray()))
                if not missing:
                    return found
        return []

    def _time_stamps(self, file: Path) -> np.ndarray:
        """Time stamps of all frames in the order in which they are shown."""
        if file not in self._times:
            with self._open(file) as container:
                try:
                    packets = container.demux(container.streams.video[0])
                    times = [packet.pts for packet in packets if packet.size and not packet.is_discard]
                except (self._av.FFmpegError, OSError) as error:
                    raise _unreadable(file, error) from error
            if not times or None in times:
                raise ValueError(
                    f"{file} has no time stamps, so its frames cannot be found; put the video into another container: "
                    f"ffmpeg -fflags +genpts -i {file.name} -c copy {file.stem}.mp4"
                )
            self._times[file] = np.sort(np.array(times, np.int64))
        return self._times[file]

    def _open(self, file: Path) -> Any:
        try:
            container = self._av.open(os.fspath(file))
        except (self._av.FFmpegError, OSError) as error:
            raise _unreadable(file, error) from error
        if not container.streams.video:
            container.close()
            raise ValueError(f"{file} has no video in it; remove it, or name the videos in a list")
        return container


class TorchcodecReader:
    """torchcodec's `VideoDecoder`, which finds frames exactly by scanning the file first."""

    def count(self, file: Path) -> int:
        """Frames of the video."""
        return self._open(file).metadata.num_frames

    def read(self, file: Path, wanted: range, size: tuple[int, int] | None) -> Tensor:
        """These frames.

        Raises:
            ValueError: The file is damaged there.
        """
        decoder = self._open(file)
        try:
            frames = decoder.get_frames_at(indices=list(wanted)).data
        except (RuntimeError, IndexError) as error:
            raise _unreadable(file, error) from error
        return frames if size is None else F.interpolate(frames, size, mode="bilinear", antialias=True)

    def _open(self, file: Path) -> Any:
        try:
            decoders = importlib.import_module("torchcodec.decoders")
        except ImportError as error:
            raise ImportError(
                "decoder='torchcodec' needs torchcodec: pip install torchcodec, or leave decoder out to use PyAV"
            ) from error
        try:
            return decoders.VideoDecoder(os.fspath(file), seek_mode="exact")
        except (RuntimeError, ValueError) as error:
            raise _unreadable(file, error) from error


READERS: dict[str, Callable[[], VideoReader]] = {"pyav": PyAVReader, "torchcodec": TorchcodecReader}


def _unreadable(file: Path, why: object) -> ValueError:
    return ValueError(f"{file} is not a video that can be read ({why}); repair or remove it")
