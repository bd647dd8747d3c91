"""What a file from elsewhere may try: run code, take all memory, lead out of the run's folder."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa import JEPA, Encoder, JEPAEvaluator, Predictor
from jepa.data import MemoryLoader
from jepa.trainer import CheckpointError, JEPATrainer
from jepa.trainer.checkpoint import CheckpointFolder, read_checkpoint, write_checkpoint
from jepa.trainer.checkpoint.archive import PLAIN_BYTES

MakeTrainer = Callable[..., JEPATrainer]


class Payload:
    """Unpickled carelessly, it leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes], **options: Any) -> Path:
    """A copy of an archive with other contents, and with right checksums."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for record in old.infolist():
            new.writestr(record.filename, change(record.filename, old.read(record)))
    return target


def test_code_in_a_pickle_is_never_run(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    trace, path = tmp_path / "ran", tmp_path / "step-00000001.pt"
    torch.save({"format": 1, "position": Payload(trace)}, path)
    for read in (
        lambda: read_checkpoint(path),
        lambda: make_trainer().load_checkpoint(path),
        lambda: JEPAEvaluator.from_checkpoint(path),
    ):
        with pytest.raises(CheckpointError, match="not a checkpoint that can be loaded safely"):
            read()
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the payload is a real one"


def test_a_model_that_is_not_built_in_is_asked_for_and_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    trainer = make_trainer()
    trainer.train(loader, num_epochs=1)
    state = read_checkpoint(trainer.save_checkpoint(tmp_path / "a.pt"))
    for kind in ("evil.Encoder", "evil:Encoder", "os.system"):
        state["architecture"]["encoder"] = {"type": kind}
        path = write_checkpoint({key: value for key, value in state.items() if key != "format"}, tmp_path / "b.pt")
        with pytest.raises(ValueError, match=r"unknown|model="):
            JEPAEvaluator.from_checkpoint(path)
    model = JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1))
    assert JEPAEvaluator.from_checkpoint(path, model=model).model is model


def test_a_file_that_is_larger_inside_than_outside_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint({"x": torch.zeros(100_000)}, tmp_path / "a.pt")
    packed = rewritten(path, tmp_path / "b.pt", lambda name, data: data, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"'.*' is compressed, which no trainer does"):
        read_checkpoint(packed)


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint({"x": torch.zeros(1000)}, tmp_path / "a.pt")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry, record = archive.start_dir, archive.infolist()[0]
    assert data[entry : entry + 4] == b"PK\x01\x02"
    data[entry + 20 : entry + 28] = struct.pack("<2I", 0xFFFFFFF0, 0xFFFFFFF0)  # both sizes of its first record
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"its parts claim 4,294,97\d,\d{3} bytes, more than there are"):
        read_checkpoint(path)
    assert record.file_size < PLAIN_BYTES


def test_a_tensor_that_claims_more_than_its_bytes_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint({"x": torch.zeros(1000)}, tmp_path / "a.pt")
    with zipfile.ZipFile(path) as archive:
        name = next(record.filename for record in archive.infolist() if record.filename.endswith("data.pkl"))
        pickled = archive.read(name)
    claim = pickled.replace(b"M\xe8\x03", b"J\x00\x00\x00\x10")  # 1,000 becomes 268,435,456
    assert claim != pickled
    cut = rewritten(path, tmp_path / "b.pt", lambda name, data: claim if name.endswith("data.pkl") else data)
    with pytest.raises(CheckpointError, match="not a checkpoint that can be loaded safely"):
        read_checkpoint(cut)


@pytest.mark.parametrize("size", [2**62, 2**40, 10**9])
def test_a_giant_safetensors_header_is_refused(size: int, tmp_path: Path) -> None:
    encoder = Encoder(8, 4, depth=1)
    encoder.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(struct.pack("<Q", size) + path.read_bytes()[8:])
    with pytest.raises(ValueError, match="truncated or damaged"):
        Encoder.from_pretrained(tmp_path / "model")


def test_links_out_of_the_folder_are_not_followed(
    make_trainer: MakeTrainer, loader: MemoryLoader, tmp_path: Path
) -> None:
    trainer = make_trainer(run="a")
    trainer.train(loader, num_epochs=1)
    assert trainer.run is not None
    folder = trainer.run.checkpoints
    outside = tmp_path / "outside.pt"
    folder.file(6).rename(outside)
    folder.file(6).symlink_to(outside)
    with pytest.warns(RuntimeWarning, match="step-00000006.pt is a symbolic link"):
        newest = CheckpointFolder(folder.path).newest_valid()
    assert newest is not None
    assert newest[0] == folder.initial
    assert outside.is_file()
    for name in ("journal.jsonl", "metrics/train.jsonl"):
        path = trainer.run.path / name
        kept = path.read_bytes()
        target = tmp_path / "other.txt"
        target.write_text("untouched")
        path.unlink()
        path.symlink_to(target)
        with pytest.raises(OSError, match="symbolic link"):
            trainer.train(loader, num_epochs=2)
        assert target.read_text() == "untouched"
        path.unlink()
        path.write_bytes(kept)
