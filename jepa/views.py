"""The several views of a sample that multi-view methods compare: what to make of a batch, as typed settings.

`ImageViews`, `SeriesViews` and `VectorViews` make views of whole batches on their device; `ReadyViews` says that a
batch holds them already. Each gives a tensor (V, B, ...) of global views and, where there are any, one of local views.

Axes: V views, B batch, C channels, H W rows and columns of an image, T time, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

from torch import Tensor

from jepa.augmentations import (
    BatchRandom,
    Range,
    blur,
    color_jitter,
    gaussian_noise,
    grayscale,
    horizontal_flip,
    mask_features,
    random_resized_crop,
    random_scaling,
    solarize,
    time_crop,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageViews:
    """Global and local crops of images, each with its own flip and colours (as in LeJEPA, arXiv 2511.08544).

    The paper's `hue=0.1`, `blur=0.5` and `solarize=0.2` are off by default: the first two need kornia, the last needs
    intensities in [0, 1].

    Args:
        num_global: Large crops.
        num_local: Small crops.
        global_scale: Share of the area of a large crop, smallest and largest.
        local_scale: Share of the area of a small crop.
        global_size: Height and width to which large crops are resized; those of the image by default.
        local_size: The same for small crops; by default those of the image, which suits every encoder. Half of them
            is cheaper, for encoders that take smaller images too.
        flip: Share of views that are mirrored.
        jitter: Share of views whose colours change.
        brightness: See `color_jitter`.
        contrast: See `color_jitter`.
        saturation: See `color_jitter`.
        hue: See `color_jitter`.
        grayscale: Share of views without colour.
        blur: Share of views that are smoothed.
        solarize: Share of views whose bright parts are inverted.
        noise: Deviation of the noise added.
    """

    num_global: int = 2
    num_local: int = 6
    global_scale: Range = (0.3, 1.0)
    local_scale: Range = (0.05, 0.3)
    global_size: int | tuple[int, int] | None = None
    local_size: int | tuple[int, int] | None = None
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.0
    grayscale: float = 0.2
    blur: float = 0.0
    solarize: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        _check_views(self)
        _check_shares(self, "flip", "jitter", "brightness", "contrast", "saturation", "grayscale", "blur", "solarize")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue must lie in [0, 0.5], got {self.hue}")
        wanted = [name for name in ("hue", "blur") if getattr(self, name)]
        if wanted and find_spec("kornia") is None:
            raise ImportError(f"{' and '.join(wanted)} need kornia: pip install 'jepa-lab[augment]', or set 0")

    def __call__(self, x: Tensor, random: BatchRandom) -> tuple[Tensor, ...]:
        """Images (B, C, H, W) to global views (V, B, C, H, W), and local ones where there are any."""
        return _crop_groups(self, self._crops, x, random)

    def _crops(self, x: Tensor, random: BatchRandom, scale: Range, size: Any) -> Tensor:
        crops = random_resized_crop(x, random, size=size, scale=scale)
        if self.flip:
            crops = horizontal_flip(crops, random, probability=self.flip)
        if self.jitter:
            strengths = {name: getattr(self, name) for name in ("brightness", "contrast", "saturation", "hue")}
            crops = color_jitter(crops, random, **strengths, probability=self.jitter)
        for change, share in ((grayscale, self.grayscale), (blur, self.blur), (solarize, self.solarize)):
            crops = change(crops, random, probability=share) if share else crops
        return gaussian_noise(crops, random, deviation=self.noise) if self.noise else crops


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesViews:
    """Long and short pieces of time series, scaled, with noise, and with some channels hidden.

    Args:
        num_global: Long pieces.
        num_local: Short pieces.
        global_scale: Share of the time of a long piece, smallest and largest.
        local_scale: Share of the time of a short piece.
        global_size: Length to which long pieces are resized; T by default.
        local_size: The same for short pieces; T by default, which suits every encoder.
        scaling: Deviation of the factor of each channel.
        noise: Deviation of the noise added, in the unit of the data (standardise them first).
        masking: Chance of each channel to be set to 0; leave it at 0 for one channel.
    """

    num_global: int = 2
    num_local: int = 6
    global_scale: Range = (0.5, 1.0)
    local_scale: Range = (0.2, 0.5)
    global_size: int | None = None
    local_size: int | None = None
    scaling: float = 0.1
    noise: float = 0.1
    masking: float = 0.0

    def __post_init__(self) -> None:
        _check_views(self)
        _check_shares(self, "masking")

    def __call__(self, x: Tensor, random: BatchRandom) -> tuple[Tensor, ...]:
        """Series (B, C, T) to global views (V, B, C, T), and local ones where there are any."""
        return _crop_groups(self, self._crops, x, random)

    def _crops(self, x: Tensor, random: BatchRandom, scale: Range, size: Any) -> Tensor:
        crops = time_crop(x, random, size=size, scale=scale)
        crops = random_scaling(crops, random, deviation=self.scaling) if self.scaling else crops
        crops = gaussian_noise(crops, random, deviation=self.noise) if self.noise else crops
        return mask_features(crops, random, probability=self.masking) if self.masking else crops


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorViews:
    """Vectors with noise, and with some features hidden.

    Args:
        num_global: Views; vectors have no parts that could be local ones.
        noise: Deviation of the noise added, in the unit of the data (standardise them first).
        masking: Chance of each feature to be set to 0.
    """

    num_local: ClassVar[int] = 0

    num_global: int = 2
    noise: float = 0.1
    masking: float = 0.2

    def __post_init__(self) -> None:
        _check_views(self)
        _check_shares(self, "masking")

    def __call__(self, x: Tensor, random: BatchRandom) -> tuple[Tensor, ...]:
        """Vectors (B, D) to views (V, B, D)."""
        random = random._replace(views=self.num_global)
        views = x.repeat(self.num_global, 1)
        views = gaussian_noise(views, random, deviation=self.noise) if self.noise else views
        views = mask_features(views, random, probability=self.masking) if self.masking else views
        return (views.unflatten(0, (self.num_global, len(x))),)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyViews:
    """The batch holds the views already: one tensor (B, V, ...), or a list of V tensors (B, ...), global ones first.

    A list that begins with such a list, e.g. (views, labels), is taken for its first part.

    Args:
        num_global: Large views, all of one size.
        num_local: Small views, all of one size.
    """

    num_global: int = 2
    num_local: int = 0

    def __post_init__(self) -> None:
        _check_views(self)


def _crop_groups(
    views: ImageViews | SeriesViews, crops: Callable[..., Tensor], x: Tensor, random: BatchRandom
) -> tuple[Tensor, ...]:
    groups = (
        (views.num_global, views.global_scale, views.global_size),
        (views.num_local, views.local_scale, views.local_size),
    )
    made = []
    for count, scale, size in groups:
        if count:
            repeated = x.repeat(count, *[1] * (x.ndim - 1))
            made.append(crops(repeated, random._replace(views=count), scale, size).unflatten(0, (count, len(x))))
    return tuple(made)


Augment = ImageViews | SeriesViews | VectorViews | ReadyViews
AUGMENTS: dict[str, type[Augment]] = {cls.__name__: cls for cls in (ImageViews, SeriesViews, VectorViews, ReadyViews)}


def describe_augment(augment: Augment) -> dict[str, Any]:
    """`{"type": name, **arguments}`, JSON-serializable."""
    arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(augment).items()}
    return {"type": type(augment).__name__, **arguments}


def build_augment(spec: Mapping[str, Any]) -> Augment:
    """What `describe_augment` described; lists stand for tuples.

    Raises:
        ValueError: The type is unknown, or the arguments do not fit it.
    """
    arguments: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in spec.items()}
    name = arguments.pop("type", None)
    if name not in AUGMENTS:
        raise ValueError(f"augment must have a type out of {', '.join(AUGMENTS)}, got {name!r}")
    try:
        return AUGMENTS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"the arguments of {name} do not fit: {error}") from error


def _check_views(views: Any) -> None:
    if views.num_global < 1 or views.num_local < 0:
        raise ValueError(
            f"num_global must be at least 1 and num_local at least 0, got {views.num_global} and {views.num_local}"
        )
    for name in ("global_scale", "local_scale"):
        low, high = getattr(views, name, (1, 1))
        if not 0 < low <= high <= 1:
            raise ValueError(f"{name} must satisfy 0 < low <= high <= 1, got {(low, high)}")
    for name in ("global_size", "local_size"):
        size = getattr(views, name, None)
        if size is not None and min(size if isinstance(size, tuple) else (size,)) < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    for name in ("noise", "scaling"):
        if getattr(views, name, 0) < 0:
            raise ValueError(f"{name} is a deviation, at least 0, got {getattr(views, name)}")


def _check_shares(views: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(views, name) <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {getattr(views, name)}")
