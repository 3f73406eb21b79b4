"""Look into an adapter's two files before you run them: `python -m lora_edu.llm.inspect ADAPTER`.

The files say what was asked for (rank, alpha, layers) and what came of it: how large the update of each layer is, how
many directions it really uses, and whether something is wrong with it, such as a layer that never moved. No weight of
the base is needed for that. With ``base`` each update is compared with the weight that it is added to.

``update`` measures one layer's update, ``report`` the whole adapter, ``suspect`` names what looks wrong.
"""

from lora_edu.llm.inspect.report import Report, describe, inspect_adapter
from lora_edu.llm.inspect.update import Update, singular_values

__all__ = ["Report", "Update", "describe", "inspect_adapter", "singular_values"]
