"""What multi-view methods share: batches they take, views they make of them, the projector, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa.augmentations import BatchRandom
from jepa.models import JEPA, Encoder, ImageTokenizer, MLPEncoder, Predictor, SeriesTokenizer
from jepa.objectives import Draw, LeJEPA, VICReg, as_objective, build_objective
from jepa.objectives.multi_view import GlobalBatchNorm, make_projector
from jepa.views import ImageViews, ReadyViews, SeriesViews, VectorViews

DRAW = Draw(seed=0, batch=3)
METHODS = [LeJEPA, VICReg]


def vectors(width: int = 8) -> JEPA:
    return JEPA(MLPEncoder(5, width), target="shared")


def hyper(objective: LeJEPA | VICReg) -> dict[str, Tensor]:
    return {name: torch.tensor(spec.default) for name, spec in objective.hyper_parameters.items()}


KINDS: list[tuple[nn.Module, Tensor]] = [
    (Encoder(8, depth=1, tokenizer=ImageTokenizer(8, 4, 3)), torch.rand(6, 3, 8, 8)),
    (Encoder(8, depth=1, tokenizer=SeriesTokenizer(12, 4, 2)), torch.rand(6, 2, 12)),
    (MLPEncoder(5, 8), torch.rand(6, 5)),
]


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize(("encoder", "x"), KINDS)
def test_images_series_and_vectors_are_taken_with_or_without_labels(cls: Any, encoder: nn.Module, x: Tensor) -> None:
    objective = cls(cls.model_for(encoder))
    views = objective.views(x, DRAW)
    assert views["global"].shape[1:] == x.shape
    assert len(views["global"]) == sum(getattr(cls.usual[x.ndim], name) for name in ("num_global", "num_local"))
    for batch in ((x, torch.arange(6)), [x]):
        assert torch.equal(objective.views(batch, DRAW)["global"], views["global"])
        assert objective.samples(batch) == 6
    assert not torch.equal(objective.views(x, DRAW._replace(batch=4))["global"], views["global"])
    losses = objective(views, hyper(objective))
    losses.loss.backward()
    assert losses.embedding.shape == (6, 8)


def test_views_are_those_of_the_settings_and_bytes_become_shares() -> None:
    augment = ImageViews(num_local=3, local_size=4)
    objective = LeJEPA(JEPA(Encoder(8, depth=1, tokenizer=ImageTokenizer(8, 4)), target="shared"), augment=augment)
    pixels = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    views = objective.views(pixels, DRAW)
    expected = augment(pixels / 255, BatchRandom(DRAW.generator(), 6))
    assert torch.equal(views["global"], expected[0])
    assert torch.equal(views["local"], expected[1])
    assert objective.num_global(views) == 2


def test_local_views_of_the_same_size_go_through_the_encoder_at_once() -> None:
    objective = LeJEPA(JEPA(Encoder(8, depth=1, tokenizer=ImageTokenizer(8, 4)), target="shared"))
    views = objective.views(torch.rand(6, 1, 8, 8), DRAW)
    assert set(views) == {"global", "directions"}
    assert views["global"].shape == (8, 6, 1, 8, 8)


class Pooling(nn.Module):
    """An encoder of images of any size."""

    hidden_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 3)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return self.layer(x.mean((-2, -1)))


@pytest.mark.parametrize("cls", METHODS)
def test_projections_come_view_by_view_and_the_embedding_is_that_of_the_first(cls: Any) -> None:
    augment = ImageViews(num_global=1, num_local=1, local_size=4)
    encoder = Pooling()
    objective = cls(JEPA(encoder, target="shared"), augment=augment, projection_dim=4)
    views = objective.views(torch.rand(6, 1, 8, 8), DRAW)
    projections, embedding = objective.project(views)
    assert encoder.seen == [(6, 1, 8, 8), (6, 1, 4, 4)]
    both = torch.cat([encoder(views["global"][0]), encoder(views["local"][0])])
    torch.testing.assert_close(embedding, both[:6])
    torch.testing.assert_close(projections.flatten(0, 1), objective.projector(both))


# Views that are there already


def ready(cls: Any, **counts: int) -> Any:
    return cls(vectors(), augment=ReadyViews(**counts))


@pytest.mark.parametrize("cls", METHODS)
def test_ready_views_are_taken_as_one_tensor_as_a_list_and_as_a_list_beside_labels(cls: Any) -> None:
    objective = ready(cls)
    first, second = torch.rand(2, 6, 5)
    labels = torch.arange(6)
    stacked = torch.stack([first, second], 1)
    lists = ([first, second], (first, second), [[first, second], labels])
    for batch in (stacked, [stacked], (stacked, labels), [stacked, labels], *lists):
        views = objective.views(batch, DRAW)
        assert torch.equal(views["global"], torch.stack([first, second]))
        assert objective.samples(batch) == 6


def test_a_list_of_views_is_that_even_where_their_second_axis_would_fit() -> None:
    series = torch.rand(2, 6, 2, 12)
    assert torch.equal(ready(VICReg).views([series[0], series[1]], DRAW)["global"], series)


def test_ready_views_of_two_sizes_are_kept_apart() -> None:
    objective = LeJEPA(JEPA(Pooling(), target="shared"), augment=ReadyViews(num_global=1, num_local=2))
    batch = [torch.rand(6, 1, 8, 8), torch.rand(6, 1, 4, 4), torch.rand(6, 1, 4, 4)]
    views = objective.views(batch, DRAW)
    assert views["global"].shape == (1, 6, 1, 8, 8)
    assert views["local"].shape == (2, 6, 1, 4, 4)
    assert objective.num_global(views) == 1


@pytest.mark.parametrize(
    "batch",
    [
        torch.rand(6, 5),
        torch.rand(6, 3, 5),
        [torch.rand(6, 5)],
        [torch.rand(6, 5), torch.rand(5, 5)],
        [torch.rand(6, 5), torch.rand(6, 4)],
        [torch.rand(6, 3, 5), torch.arange(6)],
        [],
        None,
    ],
)
def test_ready_views_that_do_not_fit_are_refused(batch: Any) -> None:
    message = r"takes batches .* and was built with ReadyViews\(num_global=2, num_local=0\); got "
    with pytest.raises(TypeError, match=message):
        ready(LeJEPA).views(batch, DRAW)


@pytest.mark.parametrize("batch", [torch.rand(6), torch.rand(6, 1, 2, 8, 8), "images", [], ([torch.rand(6, 5)], 1)])
def test_a_batch_of_no_known_kind_is_refused(batch: Any) -> None:
    with pytest.raises(TypeError, match=r"objective 'vicreg' takes batches images \(B, C, H, W\), .*; got a"):
        VICReg(vectors()).views(batch, DRAW)


def test_a_batch_of_another_kind_than_the_settings_is_refused() -> None:
    objective = LeJEPA(vectors(), augment=SeriesViews())
    with pytest.raises(TypeError, match=r"was built with SeriesViews\(.*\); got a tensor of shape \(6, 5\)"):
        objective.views(torch.rand(6, 5), DRAW)


# Construction


@pytest.mark.parametrize("cls", METHODS)
def test_a_predictor_or_another_target_is_refused(cls: Any) -> None:
    encoder = Encoder(8, 5, depth=1)
    message = (
        rf"objective '{cls.name}' compares embeddings without a predictor, got a model with a Predictor; "
        r"build it with JEPA\(encoder, target='shared'\)"
    )
    with pytest.raises(ValueError, match=message):
        cls(JEPA(encoder, Predictor(8, depth=1), target="shared"))
    cls(JEPA(encoder, nn.Identity(), target="shared"))
    with pytest.raises(ValueError, match=rf"'{cls.name}' trains with target 'shared', got a model with target='ema'"):
        cls(JEPA(encoder))


@pytest.mark.parametrize("cls", METHODS)
def test_too_few_views_are_refused_at_construction(cls: Any) -> None:
    with pytest.raises(ValueError, match="compares at least 2 views of a sample, got VectorViews"):
        cls(vectors(), augment=VectorViews(num_global=1))
    with pytest.raises(ValueError, match="compares at least 2 views of a sample, got ReadyViews"):
        cls(vectors(), augment={"type": "ReadyViews", "num_global": 1})


def test_settings_of_no_known_type_and_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(TypeError, match=r"augment must be one of ImageViews, .*, got a str"):
        LeJEPA(vectors(), augment="strong")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="projector_depth at least 0, got 0, 32 and 2"):
        LeJEPA(vectors(), projection_dim=0)
    with pytest.raises(ValueError, match="projector_depth at least 0, got 64, 32 and -1"):
        LeJEPA(vectors(), projector_depth=-1)
    with pytest.raises(ValueError, match="Linear does not say how wide its embeddings are"):
        LeJEPA(JEPA(nn.Linear(5, 8), target="shared"))


@pytest.mark.parametrize("cls", METHODS)
def test_an_encoder_alone_is_enough(cls: Any) -> None:
    objective = as_objective(MLPEncoder(5, 8), cls.name, {"projection_dim": 7})
    assert isinstance(objective, cls)
    assert objective.model.predictor is None
    assert objective.config()["projection_dim"] == 7
    assert objective.config()["projector_width"] == 32


@pytest.mark.parametrize("cls", METHODS)
def test_settings_as_files_have_them_rebuild_the_objective(cls: Any) -> None:
    augment = ImageViews(num_local=0, global_scale=(0.2, 0.9), global_size=(8, 4))
    first = cls(vectors(), augment=augment, projector_depth=1)
    again = build_objective(cls.name, vectors(), first.config())
    assert again.augment == augment  # type: ignore[attr-defined]
    assert again.config() == first.config()


# The projector


def test_rows_are_normalised_by_the_statistics_of_all_of_them_also_in_evaluation() -> None:
    x = 3 * torch.randn(50, 4, dtype=torch.float64) + 5
    found = GlobalBatchNorm().eval()(x)
    torch.testing.assert_close(found, (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt())
    half = GlobalBatchNorm()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, GlobalBatchNorm()(x.bfloat16().float()).bfloat16())
    one = GlobalBatchNorm()(x[:1])
    assert not one.any()


def test_a_projector_has_the_depth_and_the_widths_asked_for() -> None:
    shapes = [tuple(layer.weight.shape) for layer in make_projector(3, 5, 7, 2) if isinstance(layer, nn.Linear)]
    assert shapes == [(7, 3), (7, 7), (5, 7)]
    assert [type(layer) for layer in make_projector(3, 5, 7, 0)] == [nn.Linear]


def test_projections_are_spread_however_small_the_differences_of_embeddings_are() -> None:
    torch.manual_seed(0)
    embeddings = torch.ones(64, 8) + 0.02 * torch.randn(64, 8)
    projector = make_projector(8, 16, 32, 2)
    assert projector(embeddings).std(0).mean() > 0.3
