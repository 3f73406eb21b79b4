import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_edu.methods.prefix import PrefixEncoder

SIZES = {"num_virtual_tokens": 5, "num_layers": 3, "num_kv_heads": 2, "head_dim": 4}


def test_a_layers_keys_and_values_are_the_same_for_each_row():
    prefix = PrefixEncoder(**SIZES)
    layers = prefix(7)
    assert len(layers) == 3
    for i, (keys, values) in enumerate(layers):
        assert keys.shape == values.shape == (7, 2, 5, 4)
        assert all(torch.equal(row, prefix.keys[i]) for row in keys)
        assert all(torch.equal(row, prefix.values[i]) for row in values)


@settings(deadline=None)
@given(st.integers(0, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 8))
def test_the_parameter_count(num_virtual_tokens, num_layers, num_kv_heads, head_dim):
    prefix = PrefixEncoder(num_virtual_tokens, num_layers, num_kv_heads, head_dim)
    assert (
        sum(p.numel() for p in prefix.parameters())
        == num_layers * 2 * num_virtual_tokens * num_kv_heads * head_dim
    )


def test_a_gradient_is_the_sum_over_the_rows():
    prefix = PrefixEncoder(**SIZES)
    weights = torch.randn(7, 2, 5, 4)
    keys, _ = prefix(7)[1]
    (keys * weights).sum().backward()
    assert torch.allclose(prefix.keys.grad[1], weights.sum(0))
    assert prefix.keys.grad[0].abs().sum() == prefix.keys.grad[2].abs().sum() == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"num_virtual_tokens": -1},
            ValueError,
            "num_virtual_tokens must be an integer of at least 0, got -1",
        ),
        (
            {"num_virtual_tokens": 2.5},
            TypeError,
            "num_virtual_tokens must be an integer of at least 0, got 2.5",
        ),
        ({"num_layers": 0}, ValueError, "num_layers must be an integer of at least 1, got 0"),
        ({"num_kv_heads": 0}, ValueError, "num_kv_heads must be an integer of at least 1, got 0"),
        ({"head_dim": "64"}, TypeError, "head_dim must be an integer of at least 1, got '64'"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        PrefixEncoder(**(SIZES | arguments))


def test_a_batch_of_no_rows_is_refused():
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, got 0"):
        PrefixEncoder(**SIZES)(0)
