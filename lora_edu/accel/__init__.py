"""NF4 on a CPU as compiled loops: the bytes of ``lora_edu.methods.nf4``, for those who ask for them.

Nothing in the course imports this folder. It needs numba: ``pip install "lora_edu[accel]"``. The first call of each
function compiles it, which takes seconds; the result is kept on disk.
"""

from lora_edu.accel.nf4 import dequantize_nf4, quantize_nf4

__all__ = ["dequantize_nf4", "quantize_nf4"]
