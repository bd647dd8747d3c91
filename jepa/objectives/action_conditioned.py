"""Action conditioned: predict the embeddings of coming frames from frames and actions; a world model to plan with.

Two papers are settings of one loss: a teacher-forced prediction plus `rollout_weight` times one of several steps.

- LeWorldModel (Maes et al. 2026, arXiv 2603.19312) is the default, but for its `rollout_weight=0`: mean squared error,
  gradients through the targets (`target="shared"`) and SIGReg against collapse. Its weight .09 comes with
  `normalization="paper"`, where the term grows with the batch; at its batch of 128 that is a weight of 4.6 in the
  default normalization, which does not depend on the batch.
- V-JEPA 2-AC (Assran et al. 2025, arXiv 2506.09985) is `distance="l1"`, a two-step rollout of weight 1, and an encoder
  that is trained already: freeze it, take `target="stop_gradient"` and `sigreg_weight=0`.

Deviations: a rollout begins with a whole history, at every place of the trajectory that leaves room for it, and all its
steps count. V-JEPA 2-AC begins with one frame, which is `history=1`. Embeddings are compared as they are; V-JEPA 2-AC
normalises them first. Variance and covariance (VICReg, arXiv 2105.04906) and inverse dynamics (tell the action from two
frames; Pathak et al. 2017, arXiv 1705.05363) may be added, as PLDM does (Sobal et al. 2025, arXiv 2502.14819).

Axes: B batch, T frames, A numbers in an action, D features, N tokens of a frame, K steps of a rollout, S windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa.models.action_predictor import ActionPredictor, roll_out
from jepa.models.jepa import JEPA
from jepa.models.mlp import MLPEncoder, MLPPredictor
from jepa.objectives.base import (
    Draw,
    HyperParameter,
    Losses,
    Objective,
    Views,
    by_sample,
    check_count,
    check_predictor,
    describe_batch,
    widen,
    width_of,
)
from jepa.regularizers import (
    SigregNormalization,
    check_normalization,
    random_directions,
    sigreg,
    variance_and_covariance,
)

Distance = Literal["mse", "l1", "smooth_l1"]
Pair = tuple[Tensor, Tensor]  # prediction and target, (B S, frames, ..., D)
DISTANCES = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}


class ActionConditioned(Objective):
    """Teacher-forced and multi-step prediction of embeddings under actions, plus terms against collapse.

    A trajectory is cut into all windows of `history + rollout_steps` frames. In each, every frame of the history is
    followed by a prediction from the true frames up to it, and the last by `rollout_steps` that build on each other.

    Args:
        model: Its encoder takes one frame, its predictor is an `ActionPredictor`, or any causal module called as
            `predictor(context, actions)` with (B, T, D) embeddings and (B, T, A) actions that returns (B, T, D).
        distance: Between prediction and target: `"mse"`, `"l1"` or `"smooth_l1"`.
        rollout_steps: Steps predicted from predictions, K.
        history: Frames that the predictor sees; as many as it can by default, or 3 if it does not say.
        num_slices: Directions along which SIGReg looks.
        normalization: Of SIGReg: `"unit"`, or `"paper"`, whose weight is .09 unless given; see
            `jepa.regularizers.sigreg`.
        action_dim: Numbers in an action; the predictor's by default.
        **weights: Of the other terms.
    """

    name = "action_conditioned"
    layout = "(observations (B, T, ...), actions (B, T - 1, A)), or a mapping with these two names"
    targets = ("shared", "stop_gradient", "ema")
    hyper_parameters = {
        "rollout_weight": HyperParameter(1.0, 0.0, 1e3, "prediction of several steps"),
        "sigreg_weight": HyperParameter(5.0, 0.0, 1e3, "SIGReg of the frames' embeddings, step by step"),
        "variance_weight": HyperParameter(0.0, 0.0, 1e3, "VICReg variance term, deviation 1"),
        "covariance_weight": HyperParameter(0.0, 0.0, 1e3, "VICReg covariance term, mean over pairs"),
        "inverse_weight": HyperParameter(0.0, 0.0, 1e3, "squared error of the action told from two frames"),
    }
    batch_statistics = ("sigreg_weight", "variance_weight", "covariance_weight")
    paper = {
        "learning_rate": 5e-5,
        "weight_decay": 1e-3,
        "betas": (0.9, 0.999),
        "clip_grad_norm": 1.0,
    }

    def __init__(
        self,
        model: JEPA,
        *,
        distance: Distance = "mse",
        rollout_steps: int = 2,
        history: int | None = None,
        num_slices: int = 1024,
        normalization: SigregNormalization = "unit",
        action_dim: int | None = None,
        **weights: float,
    ) -> None:
        check_normalization(normalization, SigregNormalization)
        if normalization == "paper":
            weights = {"sigreg_weight": 0.09, **weights}
        super().__init__(model, **weights)
        if distance not in get_args(Distance):
            raise ValueError(f"distance must be one of {', '.join(map(repr, DISTANCES))}, got {distance!r}")
        if model.predictor is None:
            raise ValueError(
                f"objective {self.name!r} needs a predictor: JEPA(encoder, ActionPredictor(hidden_dim, action_dim), "
                "target='shared')"
            )
        check_predictor(self.name, model.predictor, "ActionPredictor(hidden_dim, action_dim)", ActionPredictor)
        longest = getattr(model.predictor, "history", None)
        self.history: int = (longest or 3) if history is None else history
        for name, size in (("rollout_steps", rollout_steps), ("history", self.history), ("num_slices", num_slices)):
            check_count(name, size)
        if longest is not None and self.history > longest:
            raise ValueError(
                f"history={self.history} is longer than the predictor's {longest}; build "
                f"ActionPredictor(..., history={self.history})"
            )
        self.action_dim = _action_dim(model.predictor, action_dim)
        self.distance = distance
        self.rollout_steps = rollout_steps
        self.num_slices = num_slices
        self.normalization: SigregNormalization = normalization
        self.width = width_of(model.encoder if hasattr(model.encoder, "hidden_dim") else model.predictor)
        self.inverse = MLPPredictor(2 * self.width, self.action_dim, width=self.width, depth=1)
        self._seen_finite = False

    @classmethod
    def model_for(cls, encoder: nn.Module, options: Mapping[str, Any] | None = None) -> JEPA:
        """An `ActionPredictor` for actions of `options["action_dim"]` numbers, and the encoder itself as target."""
        wanted = options or {}
        if "action_dim" not in wanted:
            raise ValueError(
                f"objective {cls.name!r} has to know how many numbers an action has: pass "
                "objective_options={'action_dim': ...}, or build JEPA(encoder, "
                f"ActionPredictor({getattr(encoder, 'hidden_dim', 'hidden_dim')}, action_dim), target='shared')"
            )
        seen = {name: wanted[name] for name in ("history",) if name in wanted}
        return JEPA(encoder, ActionPredictor(width_of(encoder), wanted["action_dim"], **seen), target="shared")

    def config(self) -> dict[str, Any]:
        """Constructor arguments besides the model."""
        return {
            "distance": self.distance,
            "rollout_steps": self.rollout_steps,
            "history": self.history,
            "num_slices": self.num_slices,
            "normalization": self.normalization,
            "action_dim": self.action_dim,
            **super().config(),
        }

    def samples(self, batch: Any) -> int:
        """Number of trajectories in a batch."""
        return len(batch["observations"] if isinstance(batch, Mapping) else batch[0])

    def views(self, batch: Any, draw: Draw) -> Views:
        """A batch to `observations` (B, T, ...), `actions` (B, T - 1, A) and SIGReg's `directions` (D, slices).

        Raises:
            TypeError: The batch does not have the declared layout.
            ValueError: Numbers of frames, actions or their width do not fit, or the first batch holds NaN or infinity.
        """
        observations, actions = self._parts(batch)
        self._check(observations, actions)
        directions = random_directions(self.width, self.num_slices, draw.generator(observations.device))
        frames, actions = self.as_float(observations), self.as_float(actions)
        return {"observations": frames, "actions": actions, "directions": directions}

    def forward(self, views: Views, hyper: Mapping[str, Tensor]) -> Losses:
        """The loss of one batch. A term of weight 0 is computed all the same: it is shown, and may be turned up."""
        context = self._encode(self.model.encoder, views["observations"])
        target = self._targets(context, views["observations"])
        pairs = self._predict(context, target, views["actions"])
        forced, rolled = (DISTANCES[self.distance](*pair) for pair in pairs)
        frames = context if context.ndim == 3 else context.mean(dim=2)
        told = widen(self.inverse(torch.cat([frames[:, :-1], frames[:, 1:]], dim=-1)))
        pooled = widen(frames)
        spread, redundancy = variance_and_covariance(pooled.flatten(0, 1))
        terms = {
            "rollout": rolled,
            "sigreg": sigreg(pooled.transpose(0, 1), views["directions"], normalization=self.normalization),
            "variance": spread,
            "covariance": redundancy,
            "inverse": F.mse_loss(told, views["actions"].to(told.dtype)),
        }
        loss = forced + sum(hyper[f"{name}_weight"] * term for name, term in terms.items())
        detached = {name: term.detach() for name, term in {"prediction": forced, **terms}.items()}
        return Losses(loss, detached, pooled[:, 0].detach())

    def sample_losses(self, views: Views) -> Tensor:
        """The teacher-forced prediction term of each trajectory, over all its windows."""
        context = self._encode(self.model.encoder, views["observations"])
        target = self._targets(context, views["observations"])
        forced, _ = self._predict(context, target, views["actions"])
        return by_sample(DISTANCES[self.distance](*forced, reduction="none"), len(context))

    def _encode(self, encoder: nn.Module, observations: Tensor) -> Tensor:
        """Frame by frame: (B, T, D) or (B, T, N, D)."""
        return encoder(observations.flatten(0, 1)).unflatten(0, observations.shape[:2])

    def _targets(self, context: Tensor, observations: Tensor) -> Tensor:
        """What predictions are compared with; the encoder itself need not run twice."""
        if self.model.target.kind == "ema":
            return self._encode(self.model.target, observations)
        return context if self.model.target.kind == "shared" else context.detach()

    def _predict(self, context: Tensor, target: Tensor, actions: Tensor) -> tuple[Pair, Pair]:
        """Teacher-forced and multi-step predictions, and what they are compared with, of all windows."""
        history, steps = self.history, self.rollout_steps
        known = windows(context, history + steps)[:, :history]
        wanted = windows(target, history + steps)[:, 1:]
        actions = windows(actions, history + steps - 1)
        predictor: Any = self.model.predictor
        forced = predictor(known, actions[:, :history])
        if forced.shape != known.shape:
            raise ValueError(
                f"the predictor returned {tuple(forced.shape)} for a context {tuple(known.shape)}; it must return one "
                "prediction a frame"
            )
        rolled = forced[:, -1:]  # the first step is known from above
        if steps > 1:
            later = roll_out(predictor, torch.cat([known, rolled], dim=1), actions, history)
            rolled = torch.cat([rolled, later], dim=1)
        wanted = widen(wanted)
        return (widen(forced), wanted[:, :history]), (widen(rolled), wanted[:, history - 1 :])

    def _parts(self, batch: Any) -> tuple[Tensor, Tensor]:
        observations, actions = None, None
        if isinstance(batch, Mapping):
            observations, actions = batch.get("observations"), batch.get("actions")
        elif isinstance(batch, tuple | list) and len(batch) == 2:
            observations, actions = batch
        if (
            isinstance(observations, Tensor)
            and isinstance(actions, Tensor)
            and observations.ndim >= 3
            and actions.ndim == 3
            and actions.is_floating_point()
        ):
            return observations, actions
        raise TypeError(
            f"objective {self.name!r} takes batches {self.layout}, actions as floating-point numbers; got "
            f"{describe_batch(batch)}"
        )

    def _check(self, observations: Tensor, actions: Tensor) -> None:
        frames, needed = observations.shape[1], self.history + self.rollout_steps
        if frames < needed:
            raise ValueError(
                f"a trajectory of {frames} frames is shorter than history={self.history} + rollout_steps="
                f"{self.rollout_steps} = {needed}; use longer ones, or smaller numbers"
            )
        wanted = (len(observations), frames - 1, self.action_dim)
        if tuple(actions.shape) != wanted:
            raise ValueError(
                f"{len(observations)} trajectories of {frames} frames take actions of shape {wanted}: one between two "
                f"frames, action_dim={self.action_dim} numbers each; got {tuple(actions.shape)}"
            )
        if not self._seen_finite:  # on the first batch only: this waits for the device
            for name, part in (("observations", observations), ("actions", actions)):
                if bad := int((~torch.isfinite(part)).sum()):
                    raise ValueError(f"{name} of the first batch hold {bad} numbers of {part.numel()} not finite")
            self._seen_finite = True

    @classmethod
    def example(cls) -> tuple[Objective, Any]:
        """A small model of a pendulum under random torques, seen as (cos, sin, angular velocity)."""
        from torch.utils.data import TensorDataset

        predictor = ActionPredictor(32, 1, depth=1, num_heads=2)
        for name, parameter in predictor.named_parameters():
            if name.endswith("modulation.weight"):  # as soon after the beginning: gates at 0 let no gradient through
                nn.init.trunc_normal_(parameter, std=0.02)
        model = JEPA(MLPEncoder(3, 32, depth=1), predictor, target="shared")
        return cls(model, num_slices=64), TensorDataset(*_pendulum(512, 5))


def _action_dim(predictor: nn.Module, wanted: int | None) -> int:
    """Numbers in an action: what the predictor says, or what was asked for where it says nothing."""
    own = getattr(predictor, "action_dim", None)
    if own is None and wanted is None:
        raise ValueError(
            f"{type(predictor).__name__} does not say how many numbers an action has: pass action_dim=, or give it an "
            "attribute action_dim"
        )
    if None not in (own, wanted) and own != wanted:
        raise ValueError(f"action_dim={wanted} contradicts the predictor, whose actions have {own} numbers")
    return wanted if own is None else own  # type: ignore[return-value]


def windows(x: Tensor, size: int) -> Tensor:
    """All runs of `size` neighbours along the second axis: (B, T, ...) to (B S, size, ...) with S = T - size + 1."""
    return x.unfold(1, size, 1).movedim(-1, 2).flatten(0, 1)


def _pendulum(count: int, frames: int) -> tuple[Tensor, Tensor]:
    """Swings of a pendulum of 1 m and 1 kg in steps of .1 s: states (count, frames, 3) and the torques between them."""
    generator = torch.Generator().manual_seed(0)
    angle, speed = (torch.rand(2, count, generator=generator) * 2 - 1) * torch.tensor([[3.1416], [2.0]])
    torque = torch.rand(count, frames - 1, 1, generator=generator) * 4 - 2
    states = [torch.stack([angle.cos(), angle.sin(), speed], dim=1)]
    for step in range(frames - 1):
        speed = speed + 0.1 * (15 * angle.sin() + 3 * torque[:, step, 0])
        angle = angle + 0.1 * speed
        states.append(torch.stack([angle.cos(), angle.sin(), speed], dim=1))
    return torch.stack(states, dim=1), torque
