"""A live run: talked to from another thread, waited for, and never harmed by either."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jepa.data import MemoryLoader
from jepa.files import read_lines
from jepa.trainer import Callback, JEPATrainer, RunHandle, events
from jepa.trainer.checkpoint import read_checkpoint

MakeTrainer = Callable[..., JEPATrainer]
WaitUntil = Callable[..., None]
LONG = 10**6


def test_start_returns_at_once_and_trains_in_one_daemon_thread(
    make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any
) -> None:
    gate, threads = make_gate(1), set()

    class Where(Callback):
        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            threads.add(threading.current_thread())

    trainer = make_trainer(run="here", callbacks=[Where(), gate])
    run = trainer.start(loader, num_epochs=2, wait=False)
    assert gate.reached.wait(30)
    assert (run.state, trainer.step) == ("running", 1)
    assert "<run here: running, step 1 of 12>" in repr(run)
    gate.opened.set()
    assert run.wait(30)["loss"]
    assert (run.state, trainer.step) == ("finished", 12)
    (thread,) = threads
    assert thread is not threading.main_thread()
    assert thread.daemon
    assert "here" in thread.name


def test_start_without_a_front_end_waits_for_the_end(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer()
    run = trainer.start(loader, num_epochs=2)
    assert (run.state, trainer.step) == ("finished", 12)
    assert run.result is trainer.history


def test_pause_step_and_resume(make_trainer: MakeTrainer, loader: MemoryLoader, wait_until: WaitUntil) -> None:
    trainer = make_trainer()
    run = trainer.start(loader, max_steps=LONG, wait=False)
    ticket = run.pause()
    ticket.result(30)
    assert ticket.done
    held = trainer.step
    assert ticket.step == held
    assert run.state == "paused"
    for count in (1, 3):
        run.step(count).result(30)
        wait_until(lambda: run.state == "paused")
        held += count
        assert trainer.step == held
    run.resume().result(30)
    wait_until(lambda: trainer.step > held + 5)
    assert run.state == "running"
    run.stop().result(30)
    run.wait(30)
    assert run.state == "stopped"


def test_a_step_asked_for_while_running_does_exactly_that_many(
    make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any, wait_until: WaitUntil
) -> None:
    gate = make_gate(2)
    trainer = make_trainer(callbacks=[gate])
    run = trainer.start(loader, max_steps=LONG, wait=False)
    assert gate.reached.wait(30)
    run.step(3)
    gate.opened.set()
    wait_until(lambda: run.state == "paused")
    assert trainer.step == 5


def test_a_pause_and_a_step_asked_for_together_do_the_step(
    make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any, wait_until: WaitUntil
) -> None:
    gate = make_gate(2)
    trainer = make_trainer(callbacks=[gate])
    run = trainer.start(loader, max_steps=LONG, wait=False)
    assert gate.reached.wait(30)
    tickets = [run.pause(), run.step()]
    gate.opened.set()
    assert [ticket.result(30) for ticket in tickets] == [{}, {}]
    wait_until(lambda: run.state == "paused" and trainer.step == 3)
    run.pause().result(30)
    assert trainer.step == 3


def test_a_pause_forgets_steps_that_were_still_allowed(
    make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any, wait_until: WaitUntil
) -> None:
    gate = make_gate(4)
    trainer = make_trainer(callbacks=[gate])
    run = trainer.start(loader, max_steps=LONG, wait=False)
    run.pause().result(30)
    run.step(100)
    assert gate.reached.wait(30)
    pause = run.pause()
    gate.opened.set()
    pause.result(30)
    run.resume().result(30)
    wait_until(lambda: trainer.step > 150)


@pytest.mark.parametrize("mode", ["scale", "hold"])
def test_set_takes_effect_with_the_next_step(
    mode: Any, make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any
) -> None:
    gate = make_gate(3)
    trainer = make_trainer(callbacks=[gate], log_every=1, warmup_fraction=0.0)
    run = trainer.start(loader, max_steps=24, wait=False)
    assert gate.reached.wait(30)
    ticket = run.set("learning_rate", 0.25, mode)
    weight = run.set("variance_weight", 0.0)
    gate.opened.set()
    result = dict(ticket.result(30))
    assert ticket.step == 3
    assert result.pop("old") == pytest.approx(planned_rate(3))
    course = result.pop("course")
    assert course == "held" if mode == "hold" else course.startswith("rescaled x ")
    assert result == {"name": "learning_rate", "new": 0.25, "mode": mode}
    assert weight.result(30)["new"] == 0.0
    rates = run.wait(30)["learning_rate"]
    assert rates[2] < 1.001e-3
    assert rates[3] == pytest.approx(0.25)
    assert rates[-1] == pytest.approx(0.25 if mode == "hold" else 0.25 * 1e-5 / planned_rate(3))
    last = trainer.history.records[-1]
    assert last["loss"] == pytest.approx(last["prediction"] + 2.5 * last["covariance"], rel=1e-5)


def planned_rate(step: int) -> float:
    return 1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + math.cos(math.pi * step / 23))


def test_a_bad_set_is_refused_and_the_run_goes_on(
    make_trainer: MakeTrainer, loader: MemoryLoader, wait_until: WaitUntil
) -> None:
    trainer = make_trainer()
    refused: list[events.CommandApplied] = []
    trainer.subscribe(lambda event: refused.append(event) if isinstance(event, events.CommandApplied) else None)
    run = trainer.start(loader, max_steps=LONG, wait=False)
    with pytest.raises(ValueError, match=r"ema_momentum must lie in \[0, 1\], got 2"):
        run.set("ema_momentum", 2.0).result(30)
    with pytest.raises(ValueError, match="unknown hyper-parameter 'variance_wieght'; did you mean 'variance_weight'"):
        run.set("variance_wieght", 2.0).result(30)
    with pytest.raises(ValueError, match=r"ema_momentum must be a number in \[0, 1\], got 'high'"):
        run.set("ema_momentum", "high").result(30)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        run.step(0)
    with pytest.raises(ValueError, match="there is no validation data"):
        run.evaluate().result(30)
    with pytest.raises(ValueError, match="no run folder"):
        run.checkpoint().result(30)
    step = trainer.step
    wait_until(lambda: trainer.step > step)
    assert [event.error is None for event in refused] == [False] * 5


def test_checkpoint_evaluate_and_inspect_while_it_trains(
    make_trainer: MakeTrainer, loader: MemoryLoader, tmp_path: Path, pairs: Any
) -> None:
    seldom = {"eval_every": LONG, "checkpoint_every": LONG, "keep_checkpoints": LONG}
    trainer = make_trainer(run="live", val_loader=MemoryLoader(*pairs, batch_size=16, shuffle=False), **seldom)
    run = trainer.start(loader, max_steps=LONG, wait=False)
    ticket = run.checkpoint()
    kept = Path(ticket.result(30)["path"])
    assert read_checkpoint(kept)["position"]["step"] == ticket.step
    elsewhere = run.checkpoint(tmp_path / "mine.pt").result(30)
    assert elsewhere == {"path": str(tmp_path / "mine.pt")}
    assert (tmp_path / "mine.pt").is_file()
    saved = trainer.save_checkpoint(tmp_path / "other.pt")
    assert read_checkpoint(saved)["position"]["step"] >= (ticket.step or 0)
    evaluation = run.evaluate()
    evaluation.result(30)
    assert evaluation.value["val_loss"] > 0
    assert trainer.history.steps("val_loss") == [evaluation.step]
    assert set(trainer.evaluate()) == set(evaluation.value)
    look = run.inspect()
    look.result(30)
    assert look.value.step == look.step
    assert look.value.views["context"].shape == (8, 4)


def test_commands_are_in_the_journal_before_they_take_effect(
    make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any
) -> None:
    journals: list[list[str]] = []

    class Look(Callback):
        def on_checkpoint_saved(self, trainer: JEPATrainer, event: events.CheckpointSaved) -> None:
            lines = read_lines(trainer.run.journal_path)  # type: ignore[union-attr]
            journals.append([line["event"] for line in lines])

    gate = make_gate(2)
    trainer = make_trainer(run="journal", callbacks=[gate, Look()])
    started = time.time()
    run = trainer.start(loader, num_epochs=1, wait=False)
    assert gate.reached.wait(30)
    tickets = [run.set("learning_rate", 0.5, "hold"), run.checkpoint()]
    gate.opened.set()
    run.wait(30)
    assert journals[0] == ["RunStarted", "CommandApplied", "CommandApplied"]
    lines = read_lines(trainer.run.journal_path)  # type: ignore[union-attr]
    setting, saving = (line for line in lines if line["event"] == "CommandApplied")
    assert (setting["step"], setting["source"], setting["segment"]) == (2, "handle", 0)
    assert setting["command"] == {"type": "Set", "name": "learning_rate", "value": 0.5, "mode": "hold"}
    assert setting["result"] == dict(tickets[0].result())
    assert started <= setting["time"] <= time.time()
    assert saving["command"] == {"type": "SaveCheckpoint", "path": None}
    assert [line["tick"] for line in lines] == list(range(len(lines)))
    saved, *_, ended = [line for line in lines if line["event"] in ("CheckpointSaved", "RunEnded")]
    assert (saved["path"], ended) == ("checkpoints/step-00000002.pt", lines[-1])


def test_after_the_end_commands_are_refused_at_once(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer()
    run = trainer.start(loader, num_epochs=1, wait=False)
    run.wait(30)
    with pytest.raises(RuntimeError, match=r"Pause\(\) came too late: the run is finished"):
        run.pause().result(5)


def test_commands_that_wait_when_the_run_ends_are_refused(
    make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any
) -> None:
    gate = make_gate(6)
    trainer = make_trainer(callbacks=[gate])
    run = trainer.start(loader, num_epochs=1, wait=False)
    assert gate.reached.wait(30)
    ticket = run.pause()
    gate.opened.set()
    with pytest.raises(RuntimeError, match="came too late: the run is finished"):
        ticket.result(30)


def test_nobody_waits_for_ever_when_a_command_ends_the_run(
    make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any
) -> None:
    class Refuse(Callback):
        def on_command_applied(self, trainer: JEPATrainer, event: events.CommandApplied) -> None:
            raise KeyError("the callback broke")

    gate = make_gate(2)
    trainer = make_trainer(callbacks=[gate, Refuse()])
    run = trainer.start(loader, num_epochs=1, wait=False)
    assert gate.reached.wait(30)
    tickets = [run.set("learning_rate", 0.1), run.inspect(), run.pause()]
    gate.opened.set()
    for ticket in tickets:
        with pytest.raises(KeyError, match="the callback broke"):
            ticket.result(30)
    with pytest.raises(KeyError, match="the callback broke"):
        run.wait(30)


def test_a_command_that_waits_too_long_says_so(make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any) -> None:
    gate = make_gate(1)
    run = make_trainer(callbacks=[gate]).start(loader, num_epochs=1, wait=False)
    assert gate.reached.wait(30)
    with pytest.raises(TimeoutError, match=r"Pause\(\) was not applied within 0.01 s"):
        run.pause().result(0.01)
    with pytest.raises(TimeoutError, match=r"still running at step 1 after 0.01 s"):
        run.wait(0.01)


def test_a_second_start_while_it_runs_is_an_error(
    make_trainer: MakeTrainer, loader: MemoryLoader, tmp_path: Path
) -> None:
    trainer = make_trainer(run="twice")
    run = trainer.start(loader, max_steps=LONG, wait=False)
    sentence = r"run 'twice' is running at step \d+: cannot start it again. Stop it first"
    with pytest.raises(RuntimeError, match=sentence):
        trainer.start(loader, num_epochs=1, wait=False)
    with pytest.raises(RuntimeError, match=sentence):
        trainer.train(loader, num_epochs=1)
    with pytest.raises(RuntimeError, match="cannot load a checkpoint into it"):
        trainer.load_checkpoint(tmp_path / "any.pt")
    assert run.state == "running"


def test_what_ends_the_thread_surfaces_at_the_handle(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    class Fail(Callback):
        def on_step_ended(self, trainer: JEPATrainer, event: events.StepEnded) -> None:
            raise ZeroDivisionError("in the thread")

    trainer = make_trainer(callbacks=[Fail()])
    run = trainer.start(loader, num_epochs=1, wait=False)
    with pytest.raises(ZeroDivisionError, match="in the thread") as caught:
        run.wait(30)
    assert any(entry.name == "on_step_ended" for entry in caught.traceback)
    assert run.state == "failed"
    assert run.status().error == "ZeroDivisionError: in the thread"
    assert 'raise ZeroDivisionError("in the thread")' in trainer.traceback
    for ask in (run.pause, run.stop, lambda: run.result, lambda: asyncio.run(wait_for(run))):
        with pytest.raises(ZeroDivisionError, match="in the thread"):
            ask()


async def wait_for(run: RunHandle) -> Any:
    return await run


def test_awaiting_a_run_gives_its_history_and_leaves_the_loop_free(
    make_trainer: MakeTrainer, loader: MemoryLoader
) -> None:
    trainer = make_trainer()

    async def cell() -> tuple[Any, int, int]:
        ticks = 0

        async def clock() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        other = asyncio.create_task(clock())
        run = trainer.start(loader, max_steps=400, wait=False)
        reached = await run.until(step=20)
        history = await run
        other.cancel()
        return history, reached, ticks

    history, reached, ticks = asyncio.run(cell())
    assert history is trainer.history
    assert 20 <= reached <= 400
    assert trainer.step == 400
    assert ticks > 10


def test_interrupting_the_wait_leaves_the_training_alone(
    make_trainer: MakeTrainer, loader: MemoryLoader, wait_until: WaitUntil
) -> None:
    trainer = make_trainer()

    async def cell() -> RunHandle:
        run = trainer.start(loader, max_steps=LONG, wait=False)
        waiting = asyncio.ensure_future(wait_for(run))
        await run.until(step=3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return run

    run = asyncio.run(cell())
    step = trainer.step
    wait_until(lambda: trainer.step > step + 3)
    assert run.state == "running"


def test_until_ends_with_a_pause_with_the_run_and_with_its_timeout(
    make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any
) -> None:
    gate = make_gate(2)
    trainer = make_trainer(callbacks=[gate])
    run = trainer.start(loader, num_epochs=1, wait=False)
    assert gate.reached.wait(30)
    with pytest.raises(TimeoutError, match=r"still at step 2 of 99 after 0.05 s"):
        asyncio.run(run.until(step=99, timeout=0.05))
    run.pause()
    gate.opened.set()
    assert asyncio.run(run.until(step=99)) == 2
    run.resume().result(30)
    run.wait(30)
    assert asyncio.run(run.until(step=99)) == 6


def test_a_new_trainer_on_a_model_that_trains_stops_the_old_run_with_a_checkpoint(
    make_trainer: MakeTrainer, make_model: Callable[..., Any], loader: MemoryLoader, wait_until: WaitUntil
) -> None:
    model = make_model()
    old = make_trainer(model, run="old")
    run = old.start(loader, max_steps=LONG, wait=False)
    wait_until(lambda: old.step > 2)
    with pytest.warns(UserWarning, match=r"stopped the run that trained this model, at step \d+ \(checkpoint: .*step-"):
        make_trainer(model, run="new")
    assert run.state == "stopped"
    assert old.last_checkpoint is not None
    assert read_checkpoint(old.last_checkpoint)["position"]["step"] == old.step


def test_a_start_on_a_model_that_trains_stops_the_old_run(
    make_trainer: MakeTrainer, make_model: Callable[..., Any], loader: MemoryLoader, wait_until: WaitUntil
) -> None:
    model = make_model()
    first, second = make_trainer(model, run="one"), make_trainer(model, run="two")
    first.start(loader, max_steps=LONG, wait=False)
    wait_until(lambda: first.step > 2)
    with pytest.warns(UserWarning, match="stopped the run that trained this model"):
        second.train(loader, num_epochs=1)
    assert (first.state, second.state) == ("stopped", "finished")


def test_running_the_cell_again_on_a_named_run_continues_it(
    make_trainer: MakeTrainer, make_model: Callable[..., Any], loader: MemoryLoader, wait_until: WaitUntil
) -> None:
    first = make_trainer(run="cell")
    first.start(loader, num_epochs=10**5, wait=False)
    wait_until(lambda: first.step > 2)
    with pytest.warns(UserWarning, match="stopped the run that wrote to the same run folder"):
        second = make_trainer(make_model(seed=1), run="cell")
    run = second.start(loader, num_epochs=10**5, wait=False)
    assert second.step >= first.step > 2
    run.stop()
    run.wait(30)


def test_another_run_beside_it_is_left_alone_and_mentioned(
    make_trainer: MakeTrainer, make_model: Callable[..., Any], loader: MemoryLoader, wait_until: WaitUntil
) -> None:
    first = make_trainer(run="beside")
    first.start(loader, max_steps=LONG, wait=False)
    wait_until(lambda: first.step > 2)
    with pytest.warns(UserWarning, match=r"another run of this process is running at step \d+ .*share the processor"):
        second = make_trainer(make_model(), run="other")
    second.train(loader, num_epochs=1)
    assert (first.state, second.state) == ("running", "finished")


def test_restart_goes_on_with_the_same_data_and_total(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer()
    with pytest.raises(RuntimeError, match="nothing was trained yet: call train"):
        trainer.restart()
    run = trainer.start(loader, num_epochs=50, wait=False)
    run.stop()
    run.wait(30)
    assert trainer.step < 300
    trainer.restart().wait(30)
    assert (trainer.step, trainer.state) == (300, "finished")


def test_a_stopped_background_run_goes_on_like_one_that_was_not(
    make_trainer: MakeTrainer, make_model: Callable[..., Any], loader: MemoryLoader
) -> None:
    whole = make_trainer()
    whole.train(loader, num_epochs=20)
    part = make_trainer(make_model(), run="part")
    for _ in range(3):
        run = part.start(loader, num_epochs=20, wait=False)
        run.pause()
        run.step(7)
        run.stop()
        run.wait(30)
    part.train(loader, num_epochs=20) if part.step < 120 else None
    for name, weight in whole.objective.state_dict().items():
        assert torch.equal(weight, part.objective.state_dict()[name]), name


def test_a_finished_handle_keeps_no_thread(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    before = threading.active_count()
    run = make_trainer().start(loader, num_epochs=1, wait=False)
    run.wait(30)
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        gc.collect()
    assert threading.active_count() <= before


def test_showing_needs_a_view(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    shown: list[int] = []

    class Panel:
        def show(self) -> None:
            shown.append(1)

    with pytest.raises(RuntimeError, match="there is nothing to show: pass live_plot=True or control_panel=True"):
        RunHandle(trainer).show()
    trainer.view = Panel()
    RunHandle(trainer).show()
    assert shown == [1]


def test_status_tells_speed_time_left_and_rate(make_trainer: MakeTrainer, loader: MemoryLoader, make_gate: Any) -> None:
    gate = make_gate(20)
    trainer = make_trainer(callbacks=[gate], log_every=5)
    idle = trainer.status()
    assert (idle.state, idle.step, idle.total_steps, idle.seconds_left) == ("idle", 0, 0, None)
    run = trainer.start(loader, num_epochs=10, wait=False)
    assert gate.reached.wait(30)
    status = run.status()
    assert (status.state, status.step, status.total_steps, status.epoch) == ("running", 20, 60, 3)
    assert status.steps_per_second > 0
    assert status.seconds_left == pytest.approx(40 / status.steps_per_second)
    assert status.learning_rate == trainer.rates.learning_rate(20)
    gate.opened.set()
    run.wait(30)
    assert run.status().seconds_left is None


def test_weights_changed_by_hand_while_paused_are_trained_on(
    make_trainer: MakeTrainer, loader: MemoryLoader, wait_until: WaitUntil
) -> None:
    trainer = make_trainer(learning_rate=1e-9)
    run = trainer.start(loader, max_steps=LONG, wait=False)
    run.pause().result(30)
    encoder = trainer.model.encoder
    assert isinstance(encoder.embed, nn.Linear)
    with torch.no_grad():
        encoder.embed.bias.fill_(7.0)
    run.step(2).result(30)
    wait_until(lambda: run.state == "paused")
    torch.testing.assert_close(encoder.embed.bias, torch.full((8,), 7.0))


def test_until_waits_for_what_was_asked_before_it(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    trainer = make_trainer()

    async def cell() -> None:
        run = trainer.start(loader, max_steps=LONG, wait=False)
        for _ in range(20):
            run.pause().result(30)
            before = trainer.step
            run.resume()
            assert await run.until(step=before + 2, timeout=30) >= before + 2
            run.pause().result(30)
            before = trainer.step
            run.step(3)
            assert await run.until(step=before + 3, timeout=30) == before + 3

    asyncio.run(cell())


def test_a_process_that_ends_ends_its_run_with_a_checkpoint(tmp_path: Path) -> None:
    code = """
import torch
from jepa import JEPA, Encoder, Predictor, create_trainer
from jepa.data import make_loader

states = torch.randn(64, 4)
trainer = create_trainer(JEPA(Encoder(8, 4, depth=1), Predictor(8, depth=1)), run="a", control_panel=False)
run = trainer.start(make_loader((states, states.roll(1, 1)), batch_size=8), num_epochs=100_000, wait=False)
run.set("learning_rate", 1e-5).result(30)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    status = json.loads((tmp_path / "runs" / "a" / "status.json").read_text(encoding="utf-8"))
    assert status["state"] == "stopped"
    newest = sorted((tmp_path / "runs" / "a" / "checkpoints").glob("step-*.pt"))[-1]
    assert newest.name == f"step-{status['step']:08d}.pt"


def test_a_start_waits_until_the_last_run_is_put_away(
    make_trainer: MakeTrainer, loader: MemoryLoader, monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil
) -> None:
    trainer = make_trainer(run="again")
    slow, close = threading.Event(), trainer.saver.close

    def close_slowly() -> None:
        slow.wait(30)
        close()

    monkeypatch.setattr(trainer.saver, "close", close_slowly)
    trainer.start(loader, max_steps=2, wait=False)
    wait_until(lambda: trainer.state == "finished")
    threading.Timer(0.2, slow.set).start()
    run = trainer.start(loader, max_steps=10**6, wait=False)  # as a click does that comes with the word "finished"
    assert slow.is_set(), "it did not wait"
    run.pause().result(30)
    assert not trainer.ended.is_set()
    assert trainer.run is not None
    assert trainer.run.is_open
    assert (trainer.run.path / "control" / "session.json").exists()
    run.stop().result(30)


def test_a_callback_cannot_start_the_run_that_it_is_the_end_of(make_trainer: MakeTrainer, loader: MemoryLoader) -> None:
    said: list[str] = []

    class Again(Callback):
        def on_run_ended(self, trainer: JEPATrainer, event: events.RunEnded) -> None:
            with pytest.raises(RuntimeError, match="a callback cannot start the run") as raised:
                trainer.start(loader, max_steps=4, wait=False)
            said.append(str(raised.value))

    make_trainer(callbacks=[Again()]).start(loader, max_steps=2, wait=False).wait(30)
    assert said
