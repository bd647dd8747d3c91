"""Pictures of a pendulum: what they show is the state that comes with them, in every layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from jepa.data import pendulum_pixels, trajectories

STEPS = 200


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered once for all tests."""
    return tmp_path_factory.mktemp("pendulum") / "pictures.npz"


def data(cache: Path, layout: str, **options: int) -> tuple[Tensor, ...]:
    return pendulum_pixels(STEPS, layout=layout, cache=cache, **options).tensors  # type: ignore[arg-type]


def angle_in(picture: Tensor) -> float:
    """Of the rod, from where its pixels lie around the middle: 0 is up, counted counterclockwise as in the state."""
    size = picture.shape[-1]
    rows, columns = torch.meshgrid(*2 * [torch.arange(size) - (size - 1) / 2], indexing="ij")
    weight = picture.double() * ((rows.square() + columns.square()).sqrt() > size * 0.3)  # beyond the torque's arrow
    return float(torch.atan2(-(weight * columns).sum(), -(weight * rows).sum()))


def test_the_picture_shows_the_angle_of_the_state(cache: Path) -> None:
    pictures, states = data(cache, "states")
    assert (pictures.shape, pictures.dtype) == ((STEPS, 2, 32, 32), torch.uint8)
    assert (states.shape, states.dtype) == ((STEPS, 3), torch.float32)
    for row in range(0, STEPS, 10):
        shown = angle_in(pictures[row, 1])
        cosine, sine = float(states[row, 0]), float(states[row, 1])
        assert torch.cos(torch.tensor(shown)) == pytest.approx(cosine, abs=0.12)
        assert torch.sin(torch.tensor(shown)) == pytest.approx(sine, abs=0.12)


def test_the_speed_is_the_difference_of_the_two_pictures_of_an_observation(cache: Path) -> None:
    _, states = data(cache, "states")
    angles = torch.atan2(states[:, 1], states[:, 0])
    turned = torch.remainder(angles[1:] - angles[:-1] + torch.pi, 2 * torch.pi) - torch.pi
    torch.testing.assert_close(turned / 0.05, states[1:, 2], atol=1e-2, rtol=1e-3)


def test_nothing_is_cut_off_and_the_background_is_zero(cache: Path) -> None:
    pictures = data(cache, "states")[0]
    assert int(pictures[:, :, 0].max()) == 0 or int(pictures[:, :, :, 0].max()) < 100
    assert float((pictures == 0).float().mean()) > 0.7
    assert int(pictures.max()) > 100


def test_pairs_are_successive_observations(cache: Path) -> None:
    observations = data(cache, "states")[0]
    now, then = data(cache, "pairs")
    assert torch.equal(now, observations[:-1])
    assert torch.equal(then, observations[1:])


@pytest.mark.parametrize("length", [2, 5])
def test_trajectories_hold_the_torque_that_leads_from_each_observation_to_the_next(cache: Path, length: int) -> None:
    observations, states = data(cache, "states")
    seen, torques = data(cache, "trajectories", length=length)
    count = STEPS - length + 1
    assert (seen.shape[:2], torques.shape) == ((count, length), (count, length - 1, 1))
    for start in (0, 7, count - 1):
        assert torch.equal(seen[start], observations[start : start + length])
    # the equation of motion of the environment, from each state under its torque
    start = torch.arange(count)
    speed = states[start, 2] + 0.05 * (15 * states[start, 1] + 3 * torques[:, 0, 0])
    torch.testing.assert_close(speed.clamp(-8, 8), states[start + 1, 2], atol=1e-4, rtol=1e-4)


def test_a_video_ends_with_its_state(cache: Path) -> None:
    observations, states = data(cache, "states")
    videos, ends = data(cache, "video", length=4)
    assert (videos.shape, ends.shape) == ((STEPS - 2, 1, 4, 32, 32), (STEPS - 2, 3))
    assert torch.equal(videos[:, 0, -2:], observations[2:])
    assert torch.equal(ends, states[2:])


def test_another_seed_swings_otherwise(cache: Path) -> None:
    states = [trajectories(num_episodes=1, length=201, seed=seed).tensors[0] for seed in (0, 1)]
    assert torch.equal(states[0][0, 1:], data(cache, "states")[1])
    assert not torch.equal(states[0], states[1])


def test_steps_are_rounded_up_to_whole_episodes(tmp_path: Path) -> None:
    pictures, _ = pendulum_pixels(1, size=8, cache=tmp_path / "small.npz").tensors
    assert pictures.shape == (STEPS, 2, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "clips"}, "layout must be one of 'states', 'pairs', 'trajectories', 'video', got 'clips'"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"length": 1}, r"length must lie in \[2, 200\], got 1"),
        ({"length": 201}, r"length must lie in \[2, 200\], got 201"),
        ({"size": 0}, "size must be at least 1, got 0"),
    ],
)
def test_bad_numbers_are_refused_before_anything_is_simulated(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pendulum_pixels(**options)  # type: ignore[arg-type]
