"""The contract of an objective: how one JEPA method turns a batch into views, and views into a loss.

An objective is one `nn.Module` that owns the model (and any heads of its own). The trainer, DDP and `torch.compile`
see only `forward(views, hyper)`; everything that is scheduled or edited while training enters through `hyper` as 0-d
tensors, so nothing recompiles. A new method is one new file in this folder.
"""

from __future__ import annotations

import difflib
import inspect
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa.models.action_predictor import ActionPredictor
from jepa.models.jepa import JEPA, JEPAOutput
from jepa.models.mlp import MLPPredictor
from jepa.models.predictor import MaskedPredictor, Predictor
from jepa.regularizers import CovarianceNormalization, variance_and_covariance

Views = dict[str, Tensor]


class Losses(NamedTuple):
    """What an objective's forward returns.

    Attributes:
        loss: 0-d, what is minimised: the mean over this process's samples.
        terms: Unweighted parts of the loss, 0-d and detached, by name.
        embedding: (B, D) detached: one context embedding a sample, for diagnostics.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    embedding: Tensor


@dataclass(frozen=True, slots=True)
class HyperParameter:
    """A number that may be changed while training.

    Args:
        default: Value used unless configured otherwise.
        low: Smallest allowed value.
        high: Largest allowed value.
        unit: Unit or short explanation, shown beside its control.
        whole: Whether it counts something.
    """

    default: float
    low: float
    high: float
    unit: str = ""
    whole: bool = False

    def check(self, name: str, value: float) -> float:
        """Return `value` as a float, or raise a ValueError that names the allowed range."""
        if not isinstance(value, Real):
            raise ValueError(f"{name} must be a number in [{self.low:g}, {self.high:g}], got {value!r}")
        if not self.low <= value <= self.high:
            raise ValueError(f"{name} must lie in [{self.low:g}, {self.high:g}], got {value:g}")
        if self.whole and value != int(value):
            raise ValueError(f"{name} must be a whole number in [{self.low:g}, {self.high:g}], got {value:g}")
        return float(value)


class Draw(NamedTuple):
    """Where the randomness of one batch comes from: a pure function of seed and position, never of global state.

    Attributes:
        seed: The run's seed.
        batch: Number of batches (micro-batches, under accumulation) drawn in the run before this one.
        rank: This process.
        world_size: Number of processes.
    """

    seed: int
    batch: int
    rank: int = 0
    world_size: int = 1

    def generator(self, device: torch.device | str = "cpu", purpose: str = "") -> torch.Generator:
        """A fresh generator, the same on every rank: draw for the *global* batch, then keep `rows`.

        Args:
            device: Where it draws.
            purpose: What the numbers are for. Each purpose has numbers of its own: name one for whatever must not
                depend on the other draws of the batch.
        """
        key = self.seed * 0x9E3779B97F4A7C15 + self.batch * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB
        key += zlib.crc32(purpose.encode()) * 0xD6E8FEB86659FD93
        return torch.Generator(device=device).manual_seed(key % 2**63)

    def global_size(self, batch_size: int) -> int:
        """Samples in the global batch, given this process's `batch_size`."""
        return batch_size * self.world_size

    def rows(self, batch_size: int) -> slice:
        """This process's rows of the global batch."""
        return slice(self.rank * batch_size, (self.rank + 1) * batch_size)


class Objective(nn.Module, ABC):
    """One JEPA method around any encoder and predictor.

    Args:
        model: The model to train.
        **weights: Other values for the declared hyper-parameters to begin with.

    Attributes:
        name: The name `create_trainer(objective=...)` knows it by.
        layout: The batch it takes, in words, e.g. `"(state_t, state_t1)"`; shown when a batch does not fit.
        targets: Kinds of `model.target` it can train with.
        hyper_parameters: What may be changed while training, by name: numbers of the loss.
        view_parameters: The same for numbers that decide what the views are, such as the scales of masks. What they are
            to begin with is decided by other arguments of the constructor.
        batch_statistics: Whether the loss holds statistics of a whole batch, so that accumulating the gradients of
            several batches is not the same as training with one larger batch; or the names of the hyper-parameters that
            weigh such terms: it does not while these are 0.
        paper: Training options (fields of `TrainerConfig`) of the paper, as shares of a run of any length;
            `create_trainer` starts from them.
        sample_term: Name of the term that `sample_losses` tells apart by sample.
    """

    name: ClassVar[str]
    layout: ClassVar[str]
    targets: ClassVar[tuple[str, ...]] = ("ema",)
    hyper_parameters: dict[str, HyperParameter] = {}
    view_parameters: dict[str, HyperParameter] = {}
    batch_statistics: ClassVar[bool | tuple[str, ...]] = False
    paper: ClassVar[Mapping[str, Any]] = {}
    sample_term: ClassVar[str] = "prediction"

    def __init__(self, model: JEPA, **weights: float) -> None:
        super().__init__()
        if unknown := sorted(set(weights) - set(self.hyper_parameters)):
            known = [*self.hyper_parameters, *_options_of(type(self))]
            nearest = difflib.get_close_matches(unknown[0], known, n=1)
            raise TypeError(
                f"objective {self.name!r} has no {', '.join(unknown)}; it declares {', '.join(known) or 'no options'}"
                + (f"; did you mean {nearest[0]!r}?" if nearest else "")
            )
        self.hyper_parameters = {
            name: replace(spec, default=spec.check(name, weights.get(name, spec.default)))
            for name, spec in self.hyper_parameters.items()
        }
        if model.target.kind not in self.targets:
            raise ValueError(
                f"objective {self.name!r} trains with target {' or '.join(map(repr, self.targets))}, "
                f"got a model with target={model.target.kind!r}; build it with JEPA(..., target={self.targets[0]!r})"
            )
        self.model = model
        # Found once, not in every step; in a list, so that nn.Module does not register it a second time.
        self._first = [next((own for own in model.parameters() if own.is_floating_point()), None)]

    @abstractmethod
    def views(self, batch: Any, draw: Draw) -> Views:
        """Turn a batch (on the training device) into named tensors: what is context, what is target.

        Raises:
            TypeError: The batch does not have the declared layout.
        """

    @abstractmethod
    def forward(self, views: Views, hyper: Mapping[str, Tensor]) -> Losses:
        """Encode, predict and compare."""

    def check_view_parameters(self, now: Mapping[str, float], end: Mapping[str, float]) -> None:
        """Raise a ValueError unless views can be drawn all the way from these values of `view_parameters` to those."""

    def set_view_parameters(self, values: Mapping[str, float]) -> None:
        """Draw views with these values of `view_parameters` from now on."""

    def sample_losses(self, views: Views) -> Tensor | None:
        """What each sample has of the term `sample_term`: (B,), whose mean is that term.

        Terms that are statistics of the whole batch are nobody's own, so they are not part of it. `None`, the default,
        says that a method cannot tell.
        """
        return None

    @classmethod
    @abstractmethod
    def model_for(cls, encoder: nn.Module, options: Mapping[str, Any] | None = None) -> JEPA:
        """The usual model of this method around an encoder: its predictor, and the target it trains with.

        Args:
            encoder: The encoder.
            options: Of the objective, where the model depends on them.

        Raises:
            ValueError: The encoder does not say what the predictor has to be told, such as its width.
        """

    def as_float(self, x: Tensor) -> Tensor:
        """Bytes to [0, 1]; these and floating-point numbers in the model's precision; anything else as it is."""
        dtype, first = x.dtype, self._first[0]
        if dtype == torch.uint8:
            return x.to(torch.float32 if first is None else first.dtype) / 255
        return x if first is None or dtype is first.dtype or not dtype.is_floating_point else x.to(first.dtype)

    def samples(self, batch: Any) -> int:
        """Number of samples in a batch of the declared layout."""
        first = batch[0] if isinstance(batch, tuple | list) else batch
        return len(first)

    def config(self) -> dict[str, Any]:
        """JSON-serializable constructor arguments besides the model, as a checkpoint keeps them."""
        return {name: spec.default for name, spec in self.hyper_parameters.items()}

    @classmethod
    @abstractmethod
    def example(cls) -> tuple[Objective, Any]:
        """A tiny objective and a small real `Dataset` it must not collapse on; the contract test trains it."""


# Parts that several methods share.


def width_of(encoder: nn.Module) -> int:
    """Number of features of an encoder's embeddings.

    Raises:
        ValueError: It has no `hidden_dim`.
    """
    width = getattr(encoder, "hidden_dim", None)
    if not isinstance(width, int):
        raise ValueError(
            f"{type(encoder).__name__} does not say how wide its embeddings are: pass "
            "as_encoder(module, example) of jepa.models, which finds out, or build JEPA(encoder=..., predictor=...) "
            "yourself"
        )
    return width


def grid_of(encoder: nn.Module) -> tuple[int, ...]:
    """Sizes of the token grid of an encoder: of its tokenizer, or of itself.

    Raises:
        ValueError: It has none, so there is nothing to mask, or says itself why tokens cannot be hidden from it.
    """
    if why := getattr(encoder, "no_masks", ""):
        raise ValueError(why)
    grid = getattr(getattr(encoder, "tokenizer", None) or encoder, "grid", None)
    if grid is None:
        raise ValueError(
            f"masks need a grid of tokens, which {type(encoder).__name__} does not have: take an Encoder with a "
            "tokenizer, e.g. ImageTokenizer(28, 4), or as_encoder(module, example, grid=...) for a module that returns "
            "tokens; objectives 'lejepa' and 'vicreg' take any encoder"
        )
    return tuple(grid)


def precision_of(module: nn.Module, otherwise: torch.dtype) -> torch.dtype:
    """That of a module's first floating-point parameter, for what goes into it; `otherwise` if it has none."""
    return next((own.dtype for own in module.parameters() if own.is_floating_point()), otherwise)


class Limits:
    """Ranges among `view_parameters`: `scale_min` and `scale_max` are the ends of the range `scale`."""

    @staticmethod
    def parameters(name: str, limits: tuple[float, float], unit: str, high: float = 1.0) -> dict[str, HyperParameter]:
        """Both ends of a range; what they are now, in which unit, and how high they may go."""
        return {
            f"{name}_{end}": HyperParameter(limit, 0.0, high, f"{unit}, {word}")
            for end, word, limit in zip(("min", "max"), ("smallest", "largest"), limits, strict=True)
        }

    @staticmethod
    def of(values: Mapping[str, float]) -> dict[str, tuple[float, float]]:
        """The ranges among some values. Where both ends move, the lower one never passes the other."""
        names = [name.removesuffix("_min") for name in values if name.endswith("_min")]
        return {name: (min(values[f"{name}_min"], high := values[f"{name}_max"]), high) for name in names}

    @staticmethod
    def check_order(*courses: Mapping[str, float]) -> None:
        """Raise a ValueError where a lower end lies above its upper one."""
        for values in courses:
            for name, (_, high) in Limits.of(values).items():
                if (low := values[f"{name}_min"]) > high:
                    raise ValueError(
                        f"{name}_min must not lie above {name}_max, got {low:g} and {high:g}; set the other one first"
                    )

    @staticmethod
    def widest(now: Mapping[str, float], end: Mapping[str, float]) -> dict[str, float]:
        """What bounds all values from `now` to `end`: of each the larger one, of lower ends the smaller."""
        return {name: (min if name.endswith("_min") else max)(now[name], end[name]) for name in now}


def check_count(name: str, value: Any) -> None:
    """Raise a ValueError unless `value` is a whole number, at least 1."""
    if not isinstance(value, Integral):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def check_predictor(name: str, predictor: nn.Module | None, needed: str, *fitting: type[nn.Module]) -> None:
    """Raise a ValueError for a built-in predictor that objective `name` cannot call; modules of one's own pass.

    Args:
        name: Of the objective.
        predictor: The model's.
        needed: How to build one that fits.
        *fitting: The built-in kinds that fit.
    """
    built_in = {Predictor, MLPPredictor, MaskedPredictor, ActionPredictor}
    if type(predictor) in built_in.difference(fitting):
        got = type(predictor).__name__
        raise ValueError(f"objective {name!r} needs {needed}, got {'an' if got.startswith(('A', 'ML')) else 'a'} {got}")


def _options_of(cls: type[Objective]) -> list[str]:
    """Keyword arguments of the constructors of a method and of what it inherits from."""
    constructors = [vars(part)["__init__"] for part in cls.__mro__ if "__init__" in vars(part) and part is not object]
    parameters = [one for made in constructors for one in inspect.signature(made).parameters.values()]
    return [one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]


def describe_batch(batch: Any) -> str:
    """What a batch is, in words, for error messages."""
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {len(batch)}: " + ", ".join(describe_batch(part) for part in batch)
    if isinstance(batch, Mapping):
        return f"a mapping with keys {', '.join(map(repr, batch))}"
    return f"a {type(batch).__name__}"


def smooth_l1_losses(
    out: JEPAOutput, hyper: Mapping[str, Tensor], normalization: CovarianceNormalization = "mean"
) -> Losses:
    """Smooth-L1 (beta 1) between prediction and layer-normalised target, plus variance and covariance terms.

    Args:
        out: Of the model; prediction and target (..., D), context (B, D) or (B, N, D), which is averaged over tokens.
        hyper: Holds `variance_weight` and `covariance_weight`.
        normalization: Of the covariance term, see `jepa.regularizers.covariance`.
    """
    embedding = pooled(out.context)
    prediction = F.smooth_l1_loss(widen(out.prediction), widen(F.layer_norm(out.target, out.target.shape[-1:])))
    return with_spread(prediction, embedding, hyper, normalization)


def smooth_l1_by_sample(out: JEPAOutput) -> Tensor:
    """The prediction term of `smooth_l1_losses`, sample by sample: (B,)."""
    target = widen(F.layer_norm(out.target, out.target.shape[-1:]))
    return by_sample(F.smooth_l1_loss(widen(out.prediction), target, reduction="none"), len(out.context))


def by_sample(errors: Tensor, samples: int) -> Tensor:
    """(samples,) means of errors whose first axis goes through the samples one after the other."""
    return errors.reshape(samples, -1).mean(1)


def with_spread(
    error: Tensor, embedding: Tensor, hyper: Mapping[str, Tensor], normalization: CovarianceNormalization
) -> Losses:
    """A prediction error plus the variance and covariance terms of embeddings (B, D), as `hyper` weighs them."""
    spread, redundancy = variance_and_covariance(embedding, normalization=normalization)
    loss = error + hyper["variance_weight"] * spread + hyper["covariance_weight"] * redundancy
    terms = {"prediction": error, "variance": spread, "covariance": redundancy}
    return Losses(loss, {name: term.detach() for name, term in terms.items()}, embedding.detach())


def pooled(embedding: Tensor) -> Tensor:
    """One vector a sample, (B, D), in at least float32: of (B, N, D) the mean over tokens."""
    return widen(embedding if embedding.ndim == 2 else embedding.mean(dim=1))


def widen(x: Tensor) -> Tensor:
    """Half precision to float32; anything else as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
