"""The kernels give the bytes of ``methods.nf4``, and a layer that trains as ``NF4Linear`` does."""

import re

import pytest
import torch
from torch import nn

from lora_edu import accel
from lora_edu.accel.layer import kernels_for
from lora_edu.methods import nf4
from lora_edu.methods.codebook import nf4_code
from lora_edu.methods.lora import LoRALinear
from lora_edu.methods.qlora import NF4Linear

if torch.cuda.is_available():  # elsewhere there is no Triton
    from lora_edu.accel import cuda

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def weights(shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to("cuda", dtype)


def assert_same_bytes(W, blocksize, double_quant):
    packed, state = nf4.quantize_nf4(W, blocksize, double_quant)
    ours, our_state = accel.quantize_nf4(W, blocksize, double_quant)
    assert torch.equal(ours, packed)
    assert torch.equal(our_state.absmax, state.absmax)
    assert (our_state.shape, our_state.dtype, our_state.blocksize) == (state.shape, state.dtype, blocksize)
    restored = accel.dequantize_nf4(packed, state)
    assert restored.dtype == W.dtype
    assert torch.equal(restored, nf4.dequantize_nf4(packed, state))


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blocksize", [2, 64, 256, 4096])
@pytest.mark.parametrize("shape", [(1,), (130,), (37, 53), (100, 96), (2048, 4096)])
def test_random_weights(shape, blocksize, dtype, double_quant):
    assert_same_bytes(weights(shape, 1, dtype), blocksize, double_quant)


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("shape,pitch", [((96, 576), 592), ((37, 53), 64), ((33, 128), 129)])
def test_rows_with_room_behind_them(shape, pitch, double_quant):
    packed, state = nf4.quantize_nf4(weights(shape, 2, torch.bfloat16), 64, double_quant)
    out = torch.full((shape[0], pitch), 7.0, device="cuda", dtype=torch.bfloat16)
    cuda.write_weights(packed, state, out[:, : shape[1]])
    assert torch.equal(out[:, : shape[1]], nf4.dequantize_nf4(packed, state))
    assert (out[:, shape[1] :] == 7).all(), "what lies behind a row is not its own"


@pytest.mark.parametrize("shape,more", [((96, 576), 16), ((37, 53), 3), ((33, 128), 1)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_matrix_is_copied_beside_the_weights(shape, more, transposed):
    packed, state = nf4.quantize_nf4(weights(shape, 2, torch.bfloat16), 64, True)
    beside = weights((shape[0], more), 3)
    beside = beside.T.contiguous().T if transposed else beside
    out = torch.full((shape[0], shape[1] + more + 5), 7.0, device="cuda", dtype=torch.bfloat16)
    cuda.write_weights(packed, state, out[:, : shape[1]], (beside, out[:, shape[1] : -5]))
    assert torch.equal(out[:, : shape[1]], nf4.dequantize_nf4(packed, state))
    assert torch.equal(out[:, shape[1] : -5], beside.bfloat16()) and (out[:, -5:] == 7).all()


@pytest.mark.parametrize("width,more", [(576, 16), (1500, 3), (2048, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_joined_with_rows(dtype, width, more):
    x, behind = weights((width, 7), 4, dtype).T, weights((7, more), 5, torch.bfloat16)
    out = torch.full((7, width + more + 5), 7.0, device="cuda", dtype=torch.bfloat16)
    cuda.join(x, behind if more else None, out)
    assert torch.equal(out[:, :width], x.bfloat16()) and (out[:, width + more :] == 7).all()
    assert torch.equal(out[:, width : width + more], behind)


@pytest.mark.parametrize("size", [1e-39, 1e-30, 1e30])
def test_very_small_and_very_large_weights(size):
    assert_same_bytes(size * weights((64, 96)), 64, double_quant=False)


def test_midpoints_and_zeros():
    code = nf4_code()
    midpoints = (code[:-1] + code[1:]) / 2
    up, down = (midpoints.nextafter(torch.tensor(end)) for end in (2.0, -2.0))
    W = torch.ones(15, 64)
    W[:, 1], W[:, 2], W[:, 3] = midpoints, up, down
    W[3] = 0
    assert_same_bytes(W.cuda(), 64, double_quant=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", [0, 1])
def test_out_receives_the_weights_wherever_it_lies(dtype, start):
    packed, state = accel.quantize_nf4(weights((9, 57), 2, dtype))
    memory = torch.full((9 * 57 + 2,), 7.0, dtype=dtype, device="cuda")
    out = memory[start : start + 9 * 57].view(9, 57)
    assert accel.dequantize_nf4(packed, state, out=out) is out
    assert torch.equal(out, nf4.dequantize_nf4(packed, state))
    assert memory[start + 9 * 57] == 7 and (start == 0 or memory[0] == 7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_layer_computes_and_trains_as_the_plain_one(dtype):
    torch.manual_seed(0)
    plain = NF4Linear.from_linear(nn.Linear(512, 256, device="cuda", dtype=dtype))
    fast = NF4Linear.from_linear(nn.Linear(512, 256, device="cuda", dtype=dtype))
    fast.load_state_dict(plain.state_dict())
    model = accel.use_kernels(LoRALinear(fast, r=2, lora_alpha=4))
    assert model.base_layer is fast
    x, grad_y = weights((3, 40, 512), 1, dtype), weights((3, 40, 256), 2, dtype)
    results = []
    for layer in (plain, fast):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        results.append((y, *torch.autograd.grad(y, leaf, grad_y)))
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    for ours, theirs in zip(*results, strict=True):
        difference = (ours - theirs).abs().max() / theirs.abs().max()
        assert difference <= tolerance
    with torch.no_grad():
        torch.testing.assert_close(fast(x), results[1][0].detach())


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "blocksize"), [((3, 64), 64), ((576, 1536), 64), ((130, 4096), 128), ((4096, 64), 2)]
)
def test_one_token_goes_from_4_bits_to_the_product(shape, blocksize, dtype, double_quant):
    """Against float64, no worse than a product with weights rounded to the dtype of the input."""
    packed, state = accel.quantize_nf4(weights(shape, 3), blocksize, double_quant)
    W, x = accel.dequantize_nf4(packed, state), weights((1, shape[1]), 4, dtype)
    exact = x.double() @ W.double().T
    ours = kernels_for(packed).matmul(x, packed, state)
    assert ours.dtype == dtype and ours.shape == (1, shape[0])
    rounded = x @ W.to(dtype).T
    error, theirs = ((y.double() - exact).norm() / exact.norm() for y in (ours, rounded))
    assert error <= theirs + 2 * torch.finfo(dtype).eps


def test_nothing_as_large_as_the_weight_outlives_a_forward():
    layer = accel.use_kernels(NF4Linear.from_linear(nn.Linear(512, 512, device="cuda")))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(weights((4, 512)).requires_grad_())
    assert sum(t.nbytes for t in kept) <= 512 * 512 // 2


BAD = [
    (
        lambda W: accel.use_kernels(NF4Linear.from_linear(nn.Linear(8, 8), 7)).cuda()(W[:, :8]),
        "quant_state.blocksize must be a power of two for the kernels, got 7",
    ),
    (
        lambda W: accel.use_kernels(NF4Linear.from_linear(nn.Linear(8, 8), 48).cuda()),
        "blocksize of the model must be a power of two for the kernels, got 48",
    ),
    (lambda W: accel.quantize_nf4(W * float("nan")), "W must be finite, got NaN or infinity"),
    (lambda W: accel.quantize_nf4(-W / 0), "W must be finite, got NaN or infinity"),
    (lambda W: accel.quantize_nf4(W, 48), "blocksize must be a power of two for the kernels, got 48"),
    (
        lambda W: accel.dequantize_nf4(*nf4.quantize_nf4(W, 48)),
        "quant_state.blocksize must be a power of two for the kernels, got 48",
    ),
    (
        lambda W: accel.use_kernels(nn.Linear(2, 2)),
        "model must be a model with NF4Linear layers, got Linear",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(torch.ones(6, 16, device="cuda"))
