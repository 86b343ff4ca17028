"""Several bands through one encoder: each as if it came alone, fused as said, trainable, compilable, exportable."""

import pytest
import timm
import torch
from torch import Tensor, nn

import eo_backbones
from eo_backbones import MultiBand, UserError
from eo_backbones.contract import standardized, unit_range
from eo_backbones.networks.multi_band import BandAttention
from support.tiny_networks import TinyResidual

BANDS = ("B02", "B03", "VV")
FUSES = ("concat", "mean", "attention")


def images(batch: int = 2, bands: int = 3, *, size: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(batch, bands, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def encoder() -> nn.Module:
    """Twelve features; a contract that standardises every band by its own figures."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = TinyResidual()
    network.eo_input = standardized()  # type: ignore[assignment]
    return network.eval()


def band_by_band(encoder: nn.Module, batch: Tensor) -> list[Tensor]:
    """The plain way: one call for every band."""
    return [encoder(batch[:, [channel]]) for channel in range(batch.shape[1])]


@pytest.mark.parametrize("fuse", FUSES)
def test_features_are_those_of_each_band_alone(encoder: nn.Module, fuse: str) -> None:
    model = MultiBand(encoder, BANDS, fuse).eval()
    alone = band_by_band(encoder, images())
    expected = torch.cat(alone, dim=1) if fuse == "concat" else torch.stack(alone).mean(0)
    torch.testing.assert_close(model(images()), expected)
    assert model.num_features == expected.shape[1] == (36 if fuse == "concat" else 12)


def test_the_real_encoder() -> None:
    """ResNet50 of a declared row: 3 x 2048 features, the same bits as one band at a time give (up to rounding)."""
    encoder = eo_backbones.create_model("eo_resnet50.byol_s1s2_mini", pretrained=False).eval()
    model = MultiBand(encoder, BANDS).eval()
    batch = images(size=32)
    with torch.inference_mode():
        torch.testing.assert_close(model(batch), torch.cat(band_by_band(encoder, batch), dim=1), atol=1e-4, rtol=1e-4)
    assert model.num_features == 6144
    assert model.encoder is encoder


def test_raw_values_to_features_by_band_and_unit(encoder: nn.Module) -> None:
    """The transform of the model treats every channel as that of the band alone does, units and all."""
    model = MultiBand(encoder, ["blue", "green", "vv"]).eval()
    assert model.bands == BANDS
    assert model.eo_input is not None
    assert model.eo_input.band_names == BANDS
    raw = torch.stack([torch.full((16, 16), 1200.0), torch.full((16, 16), 900.0), torch.full((16, 16), -11.0)])
    units = ("dn", "dn", "db")
    prepare = eo_backbones.create_transform(model, band=model.bands, unit=units)
    expected = [
        encoder(eo_backbones.create_transform(encoder, band=band, unit=unit)(raw[number])[None])  # type: ignore[arg-type]
        for number, (band, unit) in enumerate(zip(BANDS, units, strict=True))
    ]
    torch.testing.assert_close(model(prepare(raw)[None]), torch.cat(expected, dim=1))
    with pytest.raises(UserError, match="no input statistics for band B04; it takes B02, B03, VV"):
        eo_backbones.create_transform(model, band="B04", unit="dn")


def test_attention_learns_which_band_counts(encoder: nn.Module) -> None:
    """Only the second band says which class an image has: training turns to it, and the encoder learns too."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(32) % 2
    batch = torch.randn(32, 3, 8, 8, generator=generator)
    batch[:, 1] += 2 * labels[:, None, None]
    model = MultiBand(encoder, BANDS, "attention")
    assert isinstance(model.attention, BandAttention)
    head = nn.Linear(12, 2)
    start = encoder.stem[0].weight.detach().clone()  # type: ignore[index, union-attr]
    optimiser = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(model(batch)), labels).backward()
        optimiser.step()
    weights = model.attention.weights(encoder(batch.flatten(0, 1).unsqueeze(1)).unflatten(0, (32, 3)))
    torch.testing.assert_close(weights.sum(1), torch.ones(32))
    assert weights[:, 1].mean() > 0.5
    assert (encoder.stem[0].weight - start).abs().max() > 0.01  # type: ignore[index, union-attr]


@pytest.mark.parametrize("fuse", FUSES)
def test_gradients_reach_every_parameter(encoder: nn.Module, fuse: str) -> None:
    model = MultiBand(encoder, BANDS, fuse).train()
    model(images()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_training_takes_batch_statistics_over_all_bands(encoder: nn.Module) -> None:
    """One pass over B x C images: BatchNorm sees the mean of all of them, and moves once."""
    model = MultiBand(encoder, BANDS).train()
    norm = encoder.stem[1]  # type: ignore[index]
    activations = encoder.stem[0](images().flatten(0, 1).unsqueeze(1))  # type: ignore[index, operator]
    model(images())
    torch.testing.assert_close(norm.running_mean, 0.1 * activations.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert norm.num_batches_tracked == 1
    model.eval()
    before = norm.running_mean.clone()
    model(images(seed=3))
    assert torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("fuse", FUSES)
@pytest.mark.parametrize("training", [False, True])
def test_compiles_as_one_graph(encoder: nn.Module, fuse: str, training: bool) -> None:
    model = MultiBand(encoder, BANDS, fuse).train(training)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for batch in (2, 5):
        torch.testing.assert_close(compiled(images(batch)), model(images(batch)))


@pytest.mark.parametrize("fuse", FUSES)
def test_exports_with_any_batch_size(encoder: nn.Module, fuse: str) -> None:
    model = MultiBand(encoder, BANDS, fuse).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (images(4),), dynamic_shapes=({0: batch},))
    for size in (1, 4, 7):
        torch.testing.assert_close(program.module()(images(size)), model(images(size)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_layout_changes_nothing(encoder: nn.Module, layout: torch.memory_format) -> None:
    model = MultiBand(encoder, BANDS).eval()
    torch.testing.assert_close(model(images().contiguous(memory_format=layout)), model(images()))


def test_state_holds_the_encoder_and_comes_back(encoder: nn.Module) -> None:
    model = MultiBand(encoder, BANDS, "attention")
    nn.init.normal_(model.attention.query)
    other = MultiBand(TinyResidual(), BANDS, "attention").eval()
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(images()), model.eval()(images()))
    assert other.eo_input is None


def test_what_cannot_work_is_refused(encoder: nn.Module) -> None:
    with pytest.raises(UserError, match="fuse='max' is unknown; pass one of concat, mean, attention"):
        MultiBand(encoder, BANDS, "max")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least one band"):
        MultiBand(encoder, [])
    with pytest.raises(UserError, match="band B02 is named more than once"):
        MultiBand(encoder, ["B02", "blue"])
    with pytest.raises(UserError, match="unknown band 'B99'"):
        MultiBand(encoder, ["B99"])
    with pytest.raises(UserError, match=r"input of shape \(2, 2, 16, 16\) for 3 band\(s\) \(B02, B03, VV\)"):
        MultiBand(encoder, BANDS)(images(bands=2))
    with pytest.raises(UserError, match=r"input of shape \(3, 16, 16\)"):
        MultiBand(encoder, BANDS)(images()[0])
    encoder.eo_input = unit_range(["B02"])  # type: ignore[assignment]
    with pytest.raises(UserError, match="no input statistics for band B03; it takes B02"):
        MultiBand(encoder, BANDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_chans": 3, "num_classes": 0}, "takes 3 channels at once; create it with in_chans=1"),
        ({"in_chans": 1, "num_classes": 5}, "ends in a classifier; create it with num_classes=0"),
        ({"in_chans": 1, "features_only": True}, "does not give pooled features"),
    ],
)
def test_encoders_of_another_kind_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MultiBand(timm.create_model("test_resnet", **options), BANDS)
