"""How fast, and how exact, against the libraries that professionals use: one script a question.

nf4
    Quantize and dequantize a matrix: bitsandbytes, torchao.
qlora_linear
    Forward and backward of a 4-bit layer: bitsandbytes.
lora_step
    A training step and greedy generation: peft.
svd
    The 64 largest singular values of a large matrix: torch.svd_lowrank, scipy.
qlora_step
    Whole steps of QLoRA training at the sizes people fine-tune, on a GPU: peft over bitsandbytes.
four_bit_layer
    One linear layer of a 7B at one token and at many, on a GPU: bitsandbytes, and the weight in 16 bits.
busy_machine
    The base model's answers with as many threads as there are free cores, beside others who compute: PyTorch's own.
decode_step
    One token in 4 bits and in 16, launched one by one and from a CUDA graph.

``python -m benchmarks.nf4 [--device cuda] [--json FILE] [--quick]`` runs one, ``python -m benchmarks`` the first four.
"""
