"""Real language models: transformers, peft, bitsandbytes."""

import logging
import sys
import warnings

# bitsandbytes warns at import, on some CPUs only, about an optional package that the course does not use.
# Here, since peft imports bitsandbytes, and this runs before any module of this folder does.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "pip install kernels" not in record.getMessage()
)
# peft reads an attribute that transformers has renamed; both are right for now, and the learner can do nothing.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def hide_torchao() -> None:
    """Keep peft and transformers from importing torchao, which the course does not use.

    Since 0.19, peft raises ImportError for any layer that is not quantized when it finds torchao below 0.16; Colab
    preinstalls 0.10. A newer one logs what it could not load, which a notebook would show.
    """
    sys.modules["torchao"] = None  # type: ignore[assignment]  # to Python: cannot be imported


hide_torchao()
