"""Clips from video files, decoded where they lie.

Frames come as they are stored; a rotation that a file asks of its player is not applied.

Axes: C channels (3), T frames of a clip, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from jepa.data.images import files_with
from jepa.data.lazy import LazyDataset, Size, height_and_width, position
from jepa.data.sampler import mixed_seed
from jepa.data.video_readers import READERS

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".ts", ".wmv")


class VideoClips(LazyDataset):
    """Clips of some videos. A sample is uint8 (3, T, H, W), and the same clip each time.

    Args:
        source: A video file, a folder (its subfolders included), or a list of files.
        num_frames: Frames of a clip, T.
        stride: A clip holds every `stride`-th frame.
        size: Height and width to which frames are resized, one number or (H, W); without it all videos must have one
            size.
        clips_per_video: `None` cuts each video into clips from its first frame on, one behind the other; a number
            places that many anywhere, by `seed`.
        seed: Places the clips; not used where they follow each other.
        decoder: `"pyav"` or `"torchcodec"`.

    Attributes:
        files: The videos.
        clips: (video, first frame) of each sample.

    Raises:
        FileNotFoundError: There is no such file or folder, or no video in it.
        ValueError: A file cannot be read, has no video, or is shorter than a clip; when a clip is read: a file is
            damaged there, or its frames have another size than the others.
        ImportError: The decoder is not installed.
    """

    deterministic: ClassVar[bool] = True

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        num_frames: int = 16,
        stride: int = 1,
        *,
        size: Size | None = None,
        clips_per_video: int | None = None,
        seed: int = 0,
        decoder: Literal["pyav", "torchcodec"] = "pyav",
    ) -> None:
        if num_frames < 1 or stride < 1:
            raise ValueError(f"num_frames and stride must be at least 1, got {num_frames} and {stride}")
        if clips_per_video is not None and clips_per_video < 1:
            raise ValueError(f"clips_per_video must be at least 1, or None, got {clips_per_video}")
        if decoder not in READERS:
            raise ValueError(f"decoder must be {' or '.join(map(repr, READERS))}, got {decoder!r}")
        self._reader = READERS[decoder]()
        self.files = _video_files(source)
        self.num_frames = num_frames
        self.stride = stride
        self.size = height_and_width(size)
        self.clips: list[tuple[int, int]] = []
        for number, file in enumerate(self.files):
            frames = self._reader.count(file)
            starts = _starts(frames, self.span, clips_per_video, mixed_seed(seed, number))
            if not starts:
                raise ValueError(
                    f"{file} has {frames} frames, and a clip of num_frames={num_frames} with "
                    f"stride={stride} needs {self.span}; use fewer frames, a smaller stride, or leave the file out"
                )
            self.clips += [(number, start) for start in starts]
        self._shape: tuple[int, ...] | None = None

    @property
    def span(self) -> int:
        """Frames of a video from the first to the last of a clip."""
        return (self.num_frames - 1) * self.stride + 1

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Tensor:
        index = position(index, len(self))
        number, start = self.clips[index]
        frames = self._reader.read(self.files[number], range(start, start + self.span, self.stride), self.size)
        clip = frames.movedim(0, 1)
        shape = tuple(clip.shape)
        if self._shape is None:
            self._shape = shape if index == 0 else tuple(self[0].shape)
        if shape != self._shape:
            raise ValueError(
                f"{self.files[number]} gives clips of shape {shape}, {self.files[0]} of {self._shape} "
                "(C, T, H, W); pass size=(H, W) to resize"
            )
        return clip

    @property
    def nbytes(self) -> int:
        """Bytes of all clips once they are decoded."""
        return len(self) * self[0].numel()


def _video_files(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    if not isinstance(source, str | os.PathLike):
        files = [Path(file) for file in source]
    elif Path(source).is_dir():
        files = files_with(Path(source), VIDEO_SUFFIXES)
    else:
        files = [Path(source)]
    if not files:
        raise FileNotFoundError(f"no video in {source}; known suffixes: {', '.join(VIDEO_SUFFIXES)}")
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"no file or folder {file} (looked from {Path.cwd()})")
    return files


def _starts(frames: int, span: int, clips: int | None, seed: int) -> list[int]:
    last = frames - span
    if last < 0:
        return []
    if clips is None:
        return list(range(0, last + 1, span))
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randint(last + 1, (clips,), generator=generator).tolist())
