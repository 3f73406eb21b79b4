import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_edu.methods.bottleneck import BottleneckAdapter


def trained(features=8, bottleneck=3, activation="gelu"):
    """An adapter whose every parameter is random, as after training."""
    adapter = BottleneckAdapter(features, bottleneck, activation)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    return adapter


def test_it_starts_as_the_identity():
    h = torch.randn(2, 5, 8)
    assert torch.equal(BottleneckAdapter(8, 3)(h), h)


@pytest.mark.parametrize(
    ("activation", "f"),
    [
        ("gelu", lambda z: z * 0.5 * (1 + torch.erf(z / 2**0.5))),
        ("relu", lambda z: z.clamp(min=0)),
        ("silu", lambda z: z / (1 + torch.exp(-z))),
        ("tanh", lambda z: (torch.exp(2 * z) - 1) / (torch.exp(2 * z) + 1)),
    ],
)
def test_it_is_the_equation(activation, f):
    adapter = trained(activation=activation).double()
    h = torch.randn(8, dtype=torch.float64)
    squeezed = f(adapter.down.weight @ h + adapter.down.bias)
    assert torch.allclose(adapter(h), h + adapter.up.weight @ squeezed + adapter.up.bias)


@given(st.integers(1, 40), st.data())
def test_the_parameter_count_is_the_papers(features, data):
    bottleneck = data.draw(st.integers(1, features))
    count = sum(p.numel() for p in BottleneckAdapter(features, bottleneck).parameters())
    assert count == 2 * features * bottleneck + features + bottleneck


def test_only_the_way_up_receives_gradients_at_the_first_step():
    adapter = BottleneckAdapter(8, 3)
    adapter(torch.randn(4, 8)).square().sum().backward()
    assert adapter.up.weight.grad.abs().sum() > 0
    assert adapter.down.weight.grad.abs().sum() == 0


def test_no_matrix_does_what_it_does():
    """A linear map would keep sums: this is why the adapter cannot be merged."""
    adapter = trained()
    a, b, nothing = torch.randn(8), torch.randn(8), torch.zeros(8)
    sums = adapter(a) + adapter(b) - adapter(nothing)
    assert not torch.allclose(adapter(a + b), sums, atol=1e-2)


def test_half_precision_goes_in_and_comes_out_and_is_computed_wide():
    adapter, h = trained(), torch.randn(4, 8).bfloat16()
    assert adapter(h).dtype == torch.bfloat16
    assert torch.equal(adapter(h), adapter(h.float()).bfloat16())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"features": 0}, ValueError, "features must be an integer of at least 1, got 0"),
        ({"features": 8.0}, TypeError, "features must be an integer of at least 1, got 8.0"),
        ({"bottleneck": 0}, ValueError, "bottleneck must be an integer in 1 … 8, got 0"),
        ({"bottleneck": 9}, ValueError, "bottleneck must be an integer in 1 … 8, got 9"),
        ({"bottleneck": True}, TypeError, "bottleneck must be an integer in 1 … 8, got True"),
        (
            {"activation": "swish"},
            ValueError,
            "activation must be one of gelu, relu, silu, tanh, got 'swish'",
        ),
        (
            {"activation": torch.tanh},
            TypeError,
            "activation must be one of gelu, relu, silu, tanh, got <built-in",
        ),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        BottleneckAdapter(**({"features": 8, "bottleneck": 3} | arguments))
