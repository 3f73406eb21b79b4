"""The command `python -m lora_edu.llm.finetune`.

It ends with 0 when the run is complete, 2 when it was refused, 3 when it diverged, 130 when it was stopped from the
keyboard.
"""

import sys
from typing import Any, cast

from transformers import HfArgumentParser

from lora_edu.llm.console import say
from lora_edu.llm.finetune.config import FinetuneConfig
from lora_edu.llm.finetune.record import summary
from lora_edu.llm.finetune.run import finetune
from lora_edu.llm.finetune.trainer import DivergedError


def main() -> int:
    """Run the command; return its exit status."""
    parser = HfArgumentParser(
        cast(Any, FinetuneConfig),
        prog="python -m lora_edu.llm.finetune",
        description="Fine-tune a language model on event sentences or on your own data.",
    )
    try:
        (config,) = parser.parse_args_into_dataclasses()
        run = finetune(config)
    except (ValueError, OSError, MemoryError) as error:
        say(f"error: {error}", sys.stderr)
        return 2
    except DivergedError as error:
        say(f"error: {error}. The checkpoints before it are kept.", sys.stderr)
        return 3
    except KeyboardInterrupt:
        say("\nStopped. The same command with --resume goes on from the last checkpoint.", sys.stderr)
        return 130
    if run.record:
        say(summary(run.record))
        say(f"Record: {run.folder / 'run.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
