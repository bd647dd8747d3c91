"""Tiny videos of which every frame shows its number, as eight black or white stripes."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from torch import Tensor


def write_video(
    path: Path,
    num_frames: int,
    *,
    codec: str = "mpeg4",
    between_key_frames: int = 12,
    height: int = 32,
    times: list[int] | None = None,
    **options: Any,
) -> None:
    """Write frames `height` high and 48 wide, at 25 a second or at the given times in milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(os.fspath(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.gop_size = 48, height, between_key_frames
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for name, value in options.items():
            setattr(stream, name, value)
        for number in range(num_frames):
            bits = np.array([number >> bit & 1 for bit in range(8)], np.uint8)
            picture = np.broadcast_to(bits.repeat(6)[None, :, None] * 255, (height, 48, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def numbers_of(clip: Tensor) -> list[int]:
    """The numbers that the frames of a clip (3, T, H, W) show."""
    stripes = clip.float().mean(dim=(0, 2)).unflatten(1, (8, -1)).mean(dim=2) > 128  # (T, 8)
    return [sum(1 << bit for bit in range(8) if row[bit]) for row in stripes.tolist()]
