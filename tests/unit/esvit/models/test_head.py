import pytest
import torch
import torch.nn.functional as F

from esvit.models.head import HeadConfig, ProjectionHead

SMALL = HeadConfig(num_prototypes=12, hidden=16, bottleneck=6)


def test_published_size_and_state_names() -> None:
    with torch.device("meta"):
        head = ProjectionHead(768, HeadConfig())
    assert sum(p.numel() for p in head.parameters()) == 23_138_560
    assert set(head.state_dict()) == {
        *(f"mlp.{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")),
        "last_layer.weight_g",
        "last_layer.weight_v",
    }


def test_forward_equals_its_definition() -> None:
    head = ProjectionHead(8, SMALL)
    x = torch.randn(5, 8)
    hidden = F.gelu(head.mlp[2](F.gelu(head.mlp[0](x))))
    bottleneck = head.mlp[4](hidden)
    with torch.no_grad():
        head.last_layer.weight_g.uniform_(0.5, 2)
    reference = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(6, 12, bias=False))
    reference.parametrizations.weight.original0.data = head.last_layer.weight_g.data
    reference.parametrizations.weight.original1.data = head.last_layer.weight_v.data
    expected = reference(bottleneck / bottleneck.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(head(x), expected)


def test_logits_start_as_cosines() -> None:
    assert ProjectionHead(8, SMALL)(torch.randn(50, 8)).abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("batch_norm", [False, True])
def test_regions_are_rows(batch_norm: bool) -> None:
    head = ProjectionHead(8, SMALL.replace(batch_norm=batch_norm))
    regions = torch.randn(3, 5, 8)
    logits = head(regions)
    assert logits.shape == (3, 5, 12)
    torch.testing.assert_close(logits.flatten(0, 1), head(regions.flatten(0, 1)))


def test_norm_last_layer_freezes_the_length_only() -> None:
    last = ProjectionHead(8, SMALL.replace(norm_last_layer=True)).last_layer
    assert (last.weight_g.requires_grad, last.weight_v.requires_grad) == (False, True)


def test_normalisation_is_fp32_under_autocast() -> None:
    head = ProjectionHead(8, SMALL)
    rows = []
    head.last_layer.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        head(torch.randn(4, 8))
    assert rows[0].dtype == torch.float32
    torch.testing.assert_close(rows[0].norm(dim=-1), torch.ones(4))


def test_one_layer_is_a_plain_projection() -> None:
    head = ProjectionHead(8, SMALL.replace(num_layers=1))
    assert head(torch.randn(2, 8)).shape == (2, 12)
