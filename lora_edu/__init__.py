"""LoRA and QLoRA from scratch, proved equal to the libraries that professionals use.

The map of the course, in the order in which you meet the parts:

``lora_edu.methods``: the mathematics and the layers, in plain PyTorch.
    ``lowrank``    how much of a matrix is really there: the SVD, exact and randomized
    ``codebook``   the 16 numbers that 4 bits can name
    ``blockwise``  a scale for each block of weights
    ``packing``    two 4-bit codes in one byte
    ``nf4``        the three together, as bitsandbytes stores them
    ``lora``       y = W x + (alpha / r) B A x
    ``qlora``      the same over a frozen 4-bit W
    ``bottleneck`` another adapter: a small network after a layer
    ``prefix``     another: trained keys and values that every token can attend to

``lora_edu.accel``: the same as ``nf4`` and ``qlora``, faster, by numba on a CPU and Triton on a GPU; optional.

``lora_edu.llm``: a real language model.
    ``base_model`` fetch, convert and load it, without a model hub
    ``data``       event sentences, personas, your own conversations; how they are asked, answered and counted
    ``surgery``    put adapters into the model
    ``checkpoint`` save and load adapters in PEFT's own files
    ``budget``     parameters and bytes, from a configuration alone
    ``finetune``   train, evaluate, record: a function and a command
    ``files``      write whole or not at all
    ``provenance`` versions, device and commit, for every record

``lora_edu.classroom``: what a learner touches.
    ``widgets``, ``figures``, ``exercises`` with ``checks`` and ``written_tests``, ``experiments``, ``records``,
    ``doctor``, ``grade``

Start with ``notebooks/00_start_here.ipynb``; the capstone is ``notebooks/10_qlora_finetune.ipynb``.
"""
