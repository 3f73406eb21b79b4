"""NF4 by compiled code: the bytes of ``lora_edu.methods.nf4``, for those who ask for them, and QLoRA's layer.

Nothing in the course imports this folder but a fine-tune that asks for it (``--fused on``). On a GPU it needs Triton,
which comes with PyTorch, on a CPU numba:
``.venv/bin/python -m pip install -c constraints.txt -e ".[accel]"``, in the repository's folder. The first call of each
function compiles it, which takes seconds; the result is kept on disk.

``use_kernels`` gives a model from ``lora_edu.llm.surgery.add_qlora`` matrix products that dequantize by it, and
``fuse`` whole forwards with few copies between dtypes, on a GPU.
"""

from jaxtyping import Float, UInt8
from torch import Tensor

from lora_edu.accel.fused import fuse
from lora_edu.accel.layer import kernels_for, use_kernels
from lora_edu.methods import _validate
from lora_edu.methods.nf4 import QuantState

__all__ = ["dequantize_nf4", "fuse", "quantize_nf4", "use_kernels"]


def quantize_nf4(
    W: Float[Tensor, "*shape"], blocksize: int = 64, double_quant: bool = False
) -> tuple[UInt8[Tensor, "bytes"], QuantState]:
    """``lora_edu.methods.nf4.quantize_nf4``, bit for bit.

    Raises
    ------
    TypeError, ValueError
        ``W`` is no floating-point tensor on the CPU or a GPU, is empty or not finite; ``blocksize`` is no integer
        above 0, or on a GPU no power of two above 1.
    """
    _validate.tensor("W", W)
    return kernels_for(W).quantize_nf4(W, blocksize, double_quant)


def dequantize_nf4(
    packed: UInt8[Tensor, "bytes"], quant_state: QuantState, out: Float[Tensor, "*shape"] | None = None
) -> Float[Tensor, "*shape"]:
    """``lora_edu.methods.nf4.dequantize_nf4``, bit for bit.

    On the CPU an ``out`` that is not float32 is rounded from a float32 copy of the whole weight.

    Raises
    ------
    TypeError, ValueError
        ``packed``, ``quant_state`` and ``out`` do not belong together, or lie elsewhere than on the CPU or a GPU.
    """
    return kernels_for(packed).dequantize_nf4(packed, quant_state, out)
