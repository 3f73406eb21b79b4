"""The compiled loops give the bytes of ``methods.nf4``."""

import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_edu import accel
from lora_edu.methods import nf4
from lora_edu.methods.codebook import nf4_code

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def weights(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_same_bytes(W, blocksize, double_quant):
    packed, state = nf4.quantize_nf4(W, blocksize, double_quant)
    ours, our_state = accel.quantize_nf4(W, blocksize, double_quant)
    assert torch.equal(ours, packed)
    assert torch.equal(our_state.absmax, state.absmax)
    assert (our_state.shape, our_state.dtype, our_state.blocksize) == (state.shape, state.dtype, blocksize)
    assert torch.equal(nf4.scales(our_state), nf4.scales(state))
    restored = accel.dequantize_nf4(packed, state)
    assert restored.dtype == W.dtype
    assert torch.equal(restored, nf4.dequantize_nf4(packed, state))


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 130), min_size=1, max_size=3),
    st.sampled_from([64, 128, 1, 7, 100]),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.sampled_from([1e-39, 1e-30, 1.0, 1e30]),
    st.integers(0, 2**31),
)
def test_random_weights(shape, blocksize, dtype, double_quant, size, seed):
    W = (size * weights(shape, seed)).to(dtype)
    if W.isfinite().all():
        assert_same_bytes(W, blocksize, double_quant)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("blocksize", [64, 7])
def test_the_number_of_threads_changes_nothing(threads, blocksize):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same_bytes(weights((333, 217), 1), blocksize, double_quant=True)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 3])
def test_pytorch_keeps_its_number_of_threads(threads):
    # Another process, because numba sets the number of OpenMP's threads once, when it starts.
    program = f"""
import torch
from lora_edu import accel
torch.set_num_threads({threads})
accel.quantize_nf4(torch.ones(1000))
print(torch.get_num_threads())
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(found.stdout) == threads


def test_midpoints_and_zeros():
    code = nf4_code()
    midpoints = (code[:-1] + code[1:]) / 2
    up, down = (midpoints.nextafter(torch.tensor(end)) for end in (2.0, -2.0))
    W = torch.ones(15, 64)
    W[:, 1], W[:, 2], W[:, 3] = midpoints, up, down
    W[3] = 0
    assert_same_bytes(W, 64, double_quant=False)
    assert_same_bytes(torch.zeros(100), 64, double_quant=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", [0, 1])
def test_out_receives_the_weights_wherever_it_lies(dtype, start):
    packed, state = accel.quantize_nf4(weights((9, 57), 2, dtype))
    memory = torch.full((9 * 57 + 2,), 7.0, dtype=dtype)
    out = memory[start : start + 9 * 57].view(9, 57)
    assert accel.dequantize_nf4(packed, state, out=out) is out
    assert torch.equal(out, nf4.dequantize_nf4(packed, state))
    assert memory[start + 9 * 57] == 7 and (start == 0 or memory[0] == 7)


W = torch.ones(6, 8)
PACKED, STATE = nf4.quantize_nf4(W)
META = torch.empty(6, 8, device="meta")
BAD = [
    (accel.quantize_nf4, (None,), TypeError, "W must be a floating-point tensor, got NoneType"),
    (accel.quantize_nf4, (W * float("nan"),), ValueError, "W must be finite, got NaN or infinity"),
    (accel.quantize_nf4, (-W / 0,), ValueError, "W must be finite, got NaN or infinity"),
    (accel.quantize_nf4, (W, 0), ValueError, "blocksize must be an integer of at least 1, got 0"),
    (accel.quantize_nf4, (META,), ValueError, "W must be on the CPU, got meta"),
    (accel.dequantize_nf4, (PACKED, None), TypeError, "quant_state must be a QuantState, got NoneType"),
    (accel.dequantize_nf4, (PACKED.to("meta"), STATE), ValueError, "packed must be on the CPU, got meta"),
    (accel.dequantize_nf4, (PACKED, STATE, META), ValueError, "out must be on the CPU, got meta"),
    (
        accel.dequantize_nf4,
        (PACKED, STATE, W.T),
        ValueError,
        "out must be a contiguous tensor, (6, 8), torch.float32, got (8, 6), torch.float32",
    ),
]


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"), BAD, ids=[message for *_, message in BAD]
)
def test_bad_input_is_refused_by_name(function, arguments, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        function(*arguments)
