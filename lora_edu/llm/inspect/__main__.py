"""The command `python -m lora_edu.llm.inspect`.

It ends with 0, with 1 if something looks wrong, with 2 if there is no adapter to look at.
"""

import argparse
import sys
from collections.abc import Sequence

from lora_edu.llm.console import say
from lora_edu.llm.inspect.report import describe, inspect_adapter


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lora_edu.llm.inspect", description="Look into the two files of an adapter."
    )
    parser.add_argument("adapter", help="adapter in PEFT's format, or folder of a fine-tune")
    parser.add_argument("--base", help="also compare each update with its weight: smollm2-135m or a folder")
    settings = parser.parse_args(arguments)
    try:
        report = inspect_adapter(settings.adapter, settings.base)
    except (ValueError, TypeError, OSError) as error:
        say(f"error: {error}", sys.stderr)
        return 2
    say(describe(report))
    return 1 if report.warnings else 0


if __name__ == "__main__":
    sys.exit(main())
