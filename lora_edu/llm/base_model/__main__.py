"""The command `python -m lora_edu.llm.base_model`: fetch the base model, print its folder."""

import sys

from lora_edu.llm.base_model.fetch import fetch_base_model
from lora_edu.llm.console import say


def main() -> None:
    """Fetch the base model and print its folder, or one clear line of what went wrong."""
    try:
        say(str(fetch_base_model()))
    except (OSError, ValueError, ModuleNotFoundError) as error:
        sys.exit(f"The base model could not be fetched: {error}")


if __name__ == "__main__":
    main()
