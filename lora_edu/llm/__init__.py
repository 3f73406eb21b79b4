"""Real language models: transformers, peft, bitsandbytes."""

import logging
import sys
import warnings
from importlib import metadata

# bitsandbytes warns at import, on some CPUs only, about an optional package that the course does not use.
# Here, since peft imports bitsandbytes, and this runs before any module of this folder does.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "pip install kernels" not in record.getMessage()
)
# peft reads an attribute that transformers has renamed; both are right for now, and the learner can do nothing.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def hide_old_torchao() -> None:
    """Let peft work beside a torchao that is too old for it.

    Since 0.19, peft raises ImportError for any layer that is not quantized when it finds torchao below 0.16.
    Colab preinstalls 0.10. The course does not use torchao, so peft need not find it.
    """
    try:
        major, minor = metadata.version("torchao").split(".")[:2]
    except metadata.PackageNotFoundError:
        return
    if (int(major), int(minor)) < (0, 16):
        sys.modules["torchao"] = None  # type: ignore[assignment]  # to Python: cannot be imported


hide_old_torchao()
