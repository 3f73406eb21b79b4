"""Real language models: transformers, peft, bitsandbytes."""

import logging

# bitsandbytes warns at import, on some CPUs only, about an optional package that the course does not use.
# Here, since peft imports bitsandbytes, and this runs before any module of this folder does.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "pip install kernels" not in record.getMessage()
)
