"""Put adapters into a model, choose between them, and take them out of the way.

Surgery replaces linear layers in place, so that the rest of the model does not know::

    (q_proj): Linear        ->   (q_proj): AdapterSwitch
                                     (base_layer): Linear           frozen
                                     (adapters): {"default": LoRALinear}

A layer's weights are never copied: every adapter of a switch stands over the one base layer. A bottleneck adapter
goes behind the last linear layer of each sublayer in the same way. A prefix touches no layer: it stands in the
key-value cache before the first token.

The model takes one more argument then: ``model(..., adapter_names=["first", "second", "__base__"])`` sends each row of
the batch through an adapter of its own, and so does ``model.generate``.

``add`` puts adapters in, ``choose`` switches them, ``switch`` is the layer, ``forward`` what happens around a forward.
"""

from lora_edu.llm.surgery.add import (
    SUBLAYER_OUTPUTS,
    add_bottleneck,
    add_lora,
    add_prefix,
    add_qlora,
    key_shape,
    quantize_linear_layers,
)
from lora_edu.llm.surgery.choose import (
    adapter_names,
    adapter_parameters,
    base_weights_hash,
    disable_adapter,
    lora_parameters,
    set_adapter,
)
from lora_edu.llm.surgery.forward import BASE
from lora_edu.llm.surgery.switch import (
    ALL_LINEAR,
    AdapterSwitch,
    PrefixSwitch,
    Switch,
    base_layer,
    choose_layers,
    linear_layers,
    module_paths,
    switches,
)

__all__ = [
    "ALL_LINEAR",
    "BASE",
    "SUBLAYER_OUTPUTS",
    "AdapterSwitch",
    "PrefixSwitch",
    "Switch",
    "adapter_names",
    "adapter_parameters",
    "add_bottleneck",
    "add_lora",
    "add_prefix",
    "add_qlora",
    "base_layer",
    "base_weights_hash",
    "choose_layers",
    "disable_adapter",
    "key_shape",
    "linear_layers",
    "lora_parameters",
    "module_paths",
    "quantize_linear_layers",
    "set_adapter",
    "switches",
]
