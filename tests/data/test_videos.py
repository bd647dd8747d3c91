"""Clips from videos: the frames that were asked for, found without decoding what lies before."""

from __future__ import annotations

import pickle
import sys
import types
import wave
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from jepa.data import VideoClips, as_source
from tests.data.videos import numbers_of, write_video


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """60 frames, every twelfth a key frame."""
    write_video(tmp_path / "1.mp4", 60)
    return tmp_path / "1.mp4"


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("mp4", "mpeg4", {}),
        ("mp4", "libx264", {"max_b_frames": 2}),
        ("mkv", "libx264", {"max_b_frames": 3}),  # no number of frames in the header
        ("avi", "mpeg4", {"max_b_frames": 2}),
        ("avi", "mjpeg", {}),
        ("webm", "libvpx-vp9", {}),
        ("mpg", "mpeg2video", {"max_b_frames": 2}),
        ("ts", "libx264", {"max_b_frames": 2}),
    ],
)
def test_clips_hold_the_frames_of_their_place_in_every_container(
    tmp_path: Path, suffix: str, codec: str, options: dict[str, int]
) -> None:
    write_video(tmp_path / f"1.{suffix}", 60, codec=codec, **options)
    clips = VideoClips(tmp_path / f"1.{suffix}", num_frames=5, stride=3)
    assert clips.clips == [(0, 0), (0, 13), (0, 26), (0, 39)]
    for clip, start in zip(clips, (0, 13, 26, 39), strict=False):
        assert clip.dtype == torch.uint8
        assert clip.shape == (3, 5, 32, 48)
        assert numbers_of(clip) == [start + 3 * step for step in range(5)]


def test_frames_are_found_where_the_frame_rate_varies(tmp_path: Path) -> None:
    times = [number * number for number in range(40)]  # each frame is shown for longer than the last
    write_video(tmp_path / "1.mkv", 40, times=times)
    clips = VideoClips(tmp_path / "1.mkv", num_frames=4, stride=2)
    assert [numbers_of(clip) for clip in [clips[1], clips[4]]] == [[7, 9, 11, 13], [28, 30, 32, 34]]


def test_only_the_frames_from_the_key_frame_before_a_clip_are_decoded(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = VideoClips(video, num_frames=2)
    reader: Any = clips._reader
    decoded = []
    opened = reader._open

    class Counting:
        def __init__(self, container: Any) -> None:
            self.container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self.container, name)

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *_: object) -> None:
            self.container.close()

        def decode(self, stream: Any) -> Any:
            for frame in self.container.decode(stream):
                decoded.append(frame.pts)
                yield frame

    assert numbers_of(clips[0]) == [0, 1]  # all others are compared with its shape
    monkeypatch.setattr(reader, "_open", lambda file: Counting(opened(file)))
    assert numbers_of(clips[25]) == [50, 51]
    assert 2 <= len(decoded) <= 12, "from the key frame before"
    assert min(decoded) >= (50 - 12) * reader._times[video][1]


def test_placed_clips_depend_on_the_seed_and_the_video_only(tmp_path: Path, video: Path) -> None:
    write_video(tmp_path / "2.mp4", 60)

    def placed(seed: int) -> list[tuple[int, int]]:
        return VideoClips(tmp_path, 8, 2, clips_per_video=6, seed=seed).clips

    assert placed(1) == placed(1) != placed(2)
    assert [number for number, _ in placed(1)] == [0] * 6 + [1] * 6
    starts = [start for _, start in placed(1)]
    assert starts[:6] != starts[6:]
    assert all(0 <= start <= 60 - 15 for start in starts)
    clips = VideoClips(video, 8, 2, clips_per_video=6, seed=1)
    assert [numbers_of(clips[n])[0] for n in range(6)] == starts[:6]


def test_folders_are_searched_in_the_order_of_their_paths_and_files_may_be_listed(tmp_path: Path) -> None:
    for number, name in enumerate(["b/1.mp4", "a/2.MKV", "a/1.avi"]):
        write_video(tmp_path / name, 4 + number)
    (tmp_path / "a" / "notes.txt").write_text("no video")
    assert [path.name for path in VideoClips(tmp_path, 2).files] == ["1.avi", "2.MKV", "1.mp4"]
    assert len(VideoClips(tmp_path, 2)) == 3 + 2 + 2
    listed = VideoClips([tmp_path / "b" / "1.mp4", str(tmp_path / "a" / "2.MKV")], 2)
    assert listed.clips == [(0, 0), (0, 2), (1, 0), (1, 2)]


def test_frames_are_resized_and_must_be_of_one_size_otherwise(tmp_path: Path, video: Path) -> None:
    write_video(tmp_path / "2.mp4", 8, height=64)
    clips = VideoClips(tmp_path, 4)
    with pytest.raises(ValueError, match=r"2.mp4 gives clips of shape \(3, 4, 64, 48\), .*1.mp4 of \(3, 4, 32, 48\)"):
        clips[-1]
    clips = VideoClips(tmp_path, 4, size=(16, 24))
    assert clips[0].shape == clips[-1].shape == (3, 4, 16, 24)
    assert numbers_of(clips[-1]) == [4, 5, 6, 7]
    assert VideoClips(video, 4, size=16)[0].shape == (3, 4, 16, 16)


def test_clips_in_memory_equal_those_that_are_read(video: Path) -> None:
    clips = VideoClips(video, 10, 2, size=16)
    (loaded,) = clips.load().tensors
    assert loaded.nbytes == clips.nbytes
    assert all(torch.equal(kept, clips[number]) for number, kept in enumerate(loaded))


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_clips_are_read_by_number_through_a_loader(video: Path, num_workers: int) -> None:
    loader = DataLoader(VideoClips(video, 4, size=(16, 24)), batch_size=5, shuffle=True, num_workers=num_workers)
    first, second = (list(as_source(loader, seed=3).batches(epoch=1, start=start)) for start in (0, 2))
    assert [batch.shape for batch in first] == [(5, 3, 4, 16, 24)] * 3
    assert torch.equal(first[2], second[0])
    assert sorted(numbers_of(clip)[0] for batch in first for clip in batch) == list(range(0, 60, 4))


def test_clips_can_be_sent_to_a_process_that_is_not_a_copy(video: Path) -> None:
    clips = VideoClips(video, 4)
    assert torch.equal(pickle.loads(pickle.dumps(clips))[3], clips[3])


def test_a_video_shorter_than_a_clip_is_named_with_what_is_needed(tmp_path: Path) -> None:
    for name in ("1.mp4", "1.mkv"):
        write_video(tmp_path / name, 9)
        with pytest.raises(
            ValueError, match=rf"{name} has 9 frames, and a clip of num_frames=4 with stride=3 needs 10"
        ):
            VideoClips(tmp_path / name, 4, 3)
        assert len(VideoClips(tmp_path / name, 3, 4)) == 1


def test_a_file_without_video_is_named(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "1.mp4"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    with pytest.raises(ValueError, match=r"1.mp4 has no video in it; remove it"):
        VideoClips(tmp_path, 4)


@pytest.mark.parametrize("kept", [0, 100, -200])
def test_an_unreadable_video_is_named(video: Path, kept: int) -> None:
    video.write_bytes(video.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"1.mp4 is not a video that can be read \(.*\); repair or remove it"):
        VideoClips(video, 4)


def test_a_video_that_ends_too_early_is_named_when_that_part_is_read(tmp_path: Path) -> None:
    write_video(tmp_path / "1.avi", 60, codec="mjpeg")
    whole = (tmp_path / "1.avi").read_bytes()
    (tmp_path / "1.avi").write_bytes(whole[: len(whole) // 2])
    clips = VideoClips(tmp_path / "1.avi", 4)
    assert numbers_of(clips[0]) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"1.avi is not a video that can be read \(.*\); repair or remove it"):
        clips[-1]


def test_missing_files_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*none.mp4 \(looked from"):
        VideoClips(tmp_path / "none.mp4")
    with pytest.raises(FileNotFoundError, match=r"no video in .*; known suffixes: .mp4"):
        VideoClips(tmp_path)
    write_video(tmp_path / "1.mp4", 20)
    clips = VideoClips(tmp_path, 4)
    with pytest.raises(IndexError, match="sample 5 of 5"):
        clips[5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "num_frames and stride must be at least 1, got 0 and 1"),
        ({"stride": 0}, "num_frames and stride must be at least 1, got 16 and 0"),
        ({"clips_per_video": 0}, "clips_per_video must be at least 1, or None, got 0"),
        ({"size": (0, 3)}, r"size must be one positive number or \(H, W\), got \(0, 3\)"),
        ({"decoder": "opencv"}, "decoder must be 'pyav' or 'torchcodec', got 'opencv'"),
    ],
)
def test_bad_options_are_refused(video: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoClips(video, **options)


def test_torchcodec_is_named_where_it_is_asked_for_and_missing(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ImportError, match="decoder='torchcodec' needs torchcodec: pip install torchcodec"):
        VideoClips(video, decoder="torchcodec")


def test_torchcodec_is_asked_for_the_same_frames(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its interface, served by PyAV: torchcodec itself need not be installed.
    whole = VideoClips(video, 60)[0].movedim(1, 0)

    class VideoDecoder:
        def __init__(self, source: str, *, seek_mode: str) -> None:
            assert (source, seek_mode) == (str(video), "exact")
            self.metadata = types.SimpleNamespace(num_frames=60)

        def get_frames_at(self, indices: list[int]) -> Any:
            return types.SimpleNamespace(data=whole[indices])

    module: Any = types.ModuleType("torchcodec.decoders")
    module.VideoDecoder = VideoDecoder
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    ours, theirs = VideoClips(video, 5, 3), VideoClips(video, 5, 3, decoder="torchcodec")
    assert theirs.clips == ours.clips
    assert torch.equal(theirs[2], ours[2])
    small: Tensor = VideoClips(video, 5, 3, decoder="torchcodec", size=(16, 24))[2]
    expected = F.interpolate(whole[26:39:3].float(), (16, 24), mode="bilinear", antialias=True).movedim(0, 1)
    assert (small.float() - expected).abs().max() <= 1


@pytest.mark.slow
def test_torchcodec_gives_the_same_frames(video: Path) -> None:
    pytest.importorskip("torchcodec")
    assert numbers_of(VideoClips(video, 5, 3, decoder="torchcodec")[2]) == [26, 29, 32, 35, 38]
