r"""The bytes of a fine-tune, term by term, as transformers, peft and PyTorch hold them.

The peak comes at one of a few moments, and the ledger is that of the moment that holds most:

loading
    The weights before they are quantized; on a CPU also the pages of the file that they are read from.
loss
    All that the forward kept, and of each logit three float32 numbers: the log-probability, and in backward the
    gradients of both sides of the softmax. Steps replayed from CUDA graphs compute the loss of the scored tokens alone,
    by parts of at most `TOKENS_AT_ONCE`, and its gradient at once (`lora_edu.llm.finetune.scored_loss`): two float32
    numbers of each logit of a part, the logit and what ``logsumexp`` makes of it. Beside them lie the last hidden
    states of all tokens (``sh``), and of each scored token a copy (``sh``), that copy in the head's dtype (``eh``, if
    it is another) and the gradient (``eh``). Autocast still holds its copies of the adapters. A head that trains has
    whole logits even so.
a layer's backward
    All that the forward kept (with gradient checkpointing: that layer's share, computed again), the gradients that
    travel through its MLP, and the widest 4-bit weight made wide. Or the same in its attention, where a GPU without
    a fused kernel holds every score.
the end of backward
    All gradients. Of a head that shares the embedding's weight there are three: its own, the embedding's, their sum.
validating
    The whole logits of one row without gradients: as the head gives them, in float32, and their log-probabilities.
    Where the loss of training has whole logits too, that is never more. (Should this not fit beside what graphs keep
    reserved, the trainer gives them up, unless they were asked for.)
answering
    No gradients, but the keys and values of every token so far, for each conversation that is answered at once. The
    fine-tune asks before and after it trains, and its optimizer is still there.

Graphs add gradients up in memory that stays theirs, so with them all gradients are there from first step to last.

Let ``h, q, k, m`` be the features of the residual stream, the queries, the keys, the MLP; ``H`` the query heads;
``e`` the bytes of a number that a product gives; ``s`` in the stream (4 in QLoRA, whose norms are float32, else
``e``); ``a`` in an adapter. With autocast, on a GPU, ``a = e``. On a CPU a layer answers in the dtype of its input,
so ``e = s``, and ``a = 4``. For one token a layer keeps for backward:

=============  =====================================================================================================
two norms      ``2 * 4h`` (float32 inside); with trained norms ``2 * sh`` more
layer inputs   ``ah`` each time an adapter reads one. q, k and v share theirs, as gate and up do, unless a copy is made
               for each: by autocast, or where ``a`` is not ``e``. (``eh`` where the weight itself trains)
attention      ``e (2q + 2k) + 4H``: queries, output, keys, values, and the normalizers of a fused kernel. Without
               one: ``e (4q)`` and ``4H`` for every other token of the row
MLP            ``3sm + am``: gate, silu(gate), up, and their product for the adapter of down
adapters       ``ar`` for each
=============  =====================================================================================================

References
----------
Attention: Dao et al. 2022, FlashAttention (arXiv 2205.14135), section 3.1. Checkpointing: Chen et al. 2016
(arXiv 1604.06174). QLoRA: Dettmers et al. 2023 (arXiv 2305.14314), section 3. 8-bit AdamW: Dettmers et al. 2021
(arXiv 2110.02861). Each share was read off PyTorch's saved tensors (tests/llm/test_budget.py) and compared with
GPU peaks (tools/record_gpu_memory.py).
"""

from collections.abc import Iterator
from typing import Any

import torch

from lora_edu.llm.budget.count import meta_model, parameters_by_kind
from lora_edu.llm.surgery import choose_layers, linear_layers
from lora_edu.methods.quant_state import block_count, packed_bytes

TERMS = (
    "weights",
    "quantization constants",
    "adapters",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "workspace",
    "process",
    "key-value cache",
)
"""``workspace``: what lives for a moment. ``process``: Python and the libraries, in memory that a CPU shares."""

FLOAT32 = 4
MIB = 2**20
PROCESS_BYTES = 530 * MIB
"""Resident after the imports of `lora_edu.llm.finetune` (torch 2.13 for CPUs)."""
HEAP_FACTOR = 1.0
"""glibc's heap keeps holes between the tensors that a forward leaves: about as many bytes again."""
CUBLAS_BYTES = 32 * MIB
"""A workspace of cuBLAS on a Hopper GPU, the largest. Forward and backward have one each. Steps in CUDA graphs run on a
stream of their own, and what ran before them keeps a third."""
TOKENS_AT_ONCE = 256
"""Tokens whose logits are in memory at a time, where the loss is computed by parts."""
FILE_BYTES_PER_WEIGHT = 2
PANEL_WEIGHTS = 2**24
PANEL_BYTES_PER_WEIGHT = 6
"""lora_edu's NF4Linear on a GPU: float32 values, and 4-byte indices for each pair of codes."""
SCORE_COPIES = 4
"""float32 attention scores in a backward without a fused kernel."""


class FineTune:
    """The sizes that the formulas of this module speak of."""

    def __init__(
        self,
        config: Any,
        method: str,
        batch: int,
        seq: int,
        r: int,
        target_modules: list[str] | str,
        dtype: torch.dtype,
        optimizer: str,
        gradient_checkpointing: bool,
        backend: str,
        device: str,
        micro_batches: int,
        flash_attention: bool,
        answers: int,
        prompt: int,
        new_tokens: int,
        cuda_graphs: bool,
        scored: int | None,
        validation: int,
    ):
        self.full, self.quantized = method == "full", method == "qlora"
        self.peft, self.on_gpu = backend == "peft", device == "cuda"
        self.eight_bit = optimizer == "paged_adamw_8bit"
        self.checkpointing, self.accumulates = gradient_checkpointing, micro_batches > 1
        self.seq, self.tokens, self.r = seq, batch * seq, r
        self.answers, self.prompt, self.written = answers, prompt, prompt + new_tokens
        self.graphs, self.validation = cuda_graphs, validation
        self.scored = batch * (seq if scored is None else min(scored, seq))
        self.wide = dtype.itemsize
        self.stream = FLOAT32 if self.quantized else self.wide
        self.autocast = self.on_gpu and self.wide < FLOAT32
        # Without autocast a layer answers in the dtype of its input, and an adapter works in its own.
        self.product, self.adapter = (self.wide, self.wide) if self.autocast else (self.stream, FLOAT32)
        self.copies = self.autocast or self.adapter != self.product
        self.shape_from(config)
        # The math kernel repeats keys and values for every head, and keeps the scores.
        grouped = self.key < self.query
        self.fused = not (self.on_gpu and grouped and (self.wide == FLOAT32 or not flash_attention))

        model = meta_model(config)
        self.kinds = parameters_by_kind(model)
        self.matrices = [layer.get_parameter("weight").numel() for layer in linear_layers(model).values()]
        chosen = {} if self.full else choose_layers(model, target_modules, r)
        self.targets = {path.rpartition(".")[2] for path in chosen}
        adapters = [r * side for layer in chosen.values() for side in layer.get_parameter("weight").shape]
        self.trained = [p.numel() for p in model.parameters()] if self.full else adapters

    def shape_from(self, config: Any) -> None:
        self.hidden, self.mlp = config.hidden_size, config.intermediate_size
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or self.hidden // self.heads
        self.query, self.key = self.heads * head_dim, config.num_key_value_heads * head_dim
        self.vocabulary, self.tied = config.vocab_size, config.tie_word_embeddings

    def moments(self) -> Iterator[dict[str, int]]:
        """The ledger of each moment of this module's docstring."""
        trained_size = self.wide if self.full else FLOAT32
        gradients = trained_size * sum(self.trained)
        waiting = gradients if self.accumulates or self.graphs else 0
        head_gradient = trained_size * self.vocabulary * self.hidden if self.full else 0
        logits = FLOAT32 * self.tokens * self.vocabulary
        kept = {"activations": self.kept()}
        # Autocast's 16-bit copies of the adapters live as long as a backward needs them.
        casts = self.wide * sum(self.trained) if self.autocast and not self.full else 0
        held_casts = 0 if self.checkpointing else casts
        library = (3 if self.graphs else 2) * CUBLAS_BYTES if self.on_gpu else 0
        by_parts = self.graphs and not self.full
        loss = self.loss_by_parts() if by_parts else {"logits": 3 * logits, "workspace": 0}
        casts_at_the_loss = casts if by_parts else held_casts  # autocast keeps them until it ends

        yield self.loading()
        yield (
            self.standing()
            | kept
            | loss
            | {"gradients": waiting, "workspace": loss["workspace"] + casts_at_the_loss + library}
        )
        # In full fine-tuning the head's gradient comes first, from what is left of the logits.
        yield (
            self.standing()
            | kept
            | {
                "logits": logits if self.full else 0,
                "gradients": max(waiting, head_gradient),
                "workspace": max(self.mlp_backward(), self.attention_backward()) + held_casts + library,
            }
        )
        # A head that shares the embedding's weight: its gradient, the embedding's, and the sum that is kept of them.
        yield self.standing() | {"gradients": gradients, "workspace": 2 * head_gradient * self.tied + library}
        if self.validation:
            rest = {"gradients": waiting, "workspace": casts + library}
            yield self.standing() | rest | {"logits": self.validation_logits()}
        if self.answers:
            logits = self.answers * self.vocabulary * (self.wide + FLOAT32)  # of each prompt's last token
            read, write = self.cache(self.prompt), self.cache(self.written)
            rest = {"logits": logits, "workspace": self.reading() + library}
            yield self.standing() | rest | {"key-value cache": read}
            rest = {"logits": logits, "workspace": self.writing() + library}
            yield self.standing() | rest | {"key-value cache": write}

    def loss_by_parts(self) -> dict[str, int]:
        """A part of the scored tokens' logits, and hidden states of all that are scored."""
        part = min(TOKENS_AT_ONCE, self.scored)
        narrow = 0 if self.wide == self.stream else self.wide
        states = self.stream * self.tokens + (self.stream + narrow + self.wide) * self.scored
        return {"logits": 2 * FLOAT32 * part * self.vocabulary, "workspace": states * self.hidden}

    def validation_logits(self) -> int:
        as_given = self.wide if self.wide < FLOAT32 else 0
        return (as_given + 2 * FLOAT32) * self.validation * self.vocabulary

    def cache(self, tokens: int) -> int:
        """Keys and values of so many tokens in each conversation. Asked without autocast, they are as the stream."""
        return 2 * self.layers * self.key * self.stream * self.answers * tokens

    def reading(self) -> int:
        """A layer's MLP over all prompts at once."""
        stream = self.stream * (3 * self.mlp + 2 * self.hidden)
        return self.answers * self.prompt * stream + self.dequantized()

    def writing(self) -> int:
        """A layer's keys and values copied: to append a token, and for every query head that shares them."""
        layer = self.cache(self.written) // self.layers
        repeated = layer * (self.query // self.key) if self.key < self.query else 0
        return layer // 2 + repeated + self.dequantized()

    def standing(self) -> dict[str, int]:
        """What is there from the first step to the last."""
        return dict.fromkeys(TERMS, 0) | {
            "weights": self.weights(),
            "quantization constants": self.constants(),
            "adapters": 0 if self.full else FLOAT32 * sum(self.trained),
            "optimizer": self.optimizer(),
            "process": 0 if self.on_gpu else PROCESS_BYTES,
        }

    def loading(self) -> dict[str, int]:
        parameters = sum(self.kinds.values())
        whole = not self.on_gpu or not self.quantized or not self.peft
        return dict.fromkeys(TERMS, 0) | {
            "weights": parameters * self.wide if whole else self.weights(),
            "quantization constants": 0 if whole else self.constants(),
            "workspace": 0 if self.on_gpu else parameters * FILE_BYTES_PER_WEIGHT,
            "process": 0 if self.on_gpu else PROCESS_BYTES,
        }

    def weights(self) -> int:
        packed = self.matrices if self.quantized else []
        norms = self.kinds["norms"]
        rest = sum(self.kinds.values()) - sum(packed) - norms
        return sum(packed_bytes(n) for n in packed) + norms * self.stream + rest * self.wide

    def constants(self) -> int:
        """An 8-bit scale for 64 weights, a float32 scale for 256 of those and their mean, and two code tables."""
        if not self.quantized:
            return 0
        scales = [block_count(n, 64) for n in self.matrices]
        return sum(n + FLOAT32 * (block_count(n, 256) + 1 + 16 + 256) for n in scales)

    def optimizer(self) -> int:
        """Adam's two moments. In 8 bits: a byte each, a float32 scale for 256, and small tensors left as they are."""
        if not self.eight_bit:
            return 2 * (self.wide if self.full else FLOAT32) * sum(self.trained)
        return sum(
            2 * FLOAT32 * n if n < 4096 else 2 * (n + FLOAT32 * block_count(n, 256)) for n in self.trained
        )

    def kept(self) -> int:
        """What a forward leaves for backward."""
        layer = self.stream * self.hidden * self.tokens if self.checkpointing else self.layer()
        ends = FLOAT32 * self.hidden + (self.product * self.hidden if self.full else 0)
        kept = self.layers * layer + self.tokens * ends
        return kept if self.on_gpu else int(kept * (1 + HEAP_FACTOR))

    def layer(self) -> int:
        return self.attention_share() + self.mlp_share()

    def attention_share(self) -> int:
        e, q, k = self.product, self.query, self.key
        fused = e * (2 * q + 2 * k) + FLOAT32 * self.heads
        scores = e * 4 * q + FLOAT32 * self.heads * self.seq
        # The kernel's output is what o's adapter reads, unless the adapter casts it to float32 (and autocast back).
        cast = (
            "o_proj" in self.targets and self.copies and not (self.autocast and self.peft and self.quantized)
        )
        inputs = self.inputs(self.hidden, "q_proj", "k_proj", "v_proj") + (self.adapter * q if cast else 0)
        return self.tokens * (
            self.norm() + inputs + (fused if self.fused else scores) + self.adapted("q k v o")
        )

    def mlp_share(self) -> int:
        inputs = self.inputs(self.hidden, "gate_proj", "up_proj")
        inner = 3 * self.stream * self.mlp + self.inputs(self.mlp, "down_proj")
        return self.tokens * (self.norm() + inputs + inner + self.adapted("gate up down"))

    def norm(self) -> int:
        return FLOAT32 * self.hidden + (self.stream * self.hidden if self.full else 0)

    def inputs(self, width: int, *names: str) -> int:
        if self.full:
            return self.product * width
        readers = len(self.targets.intersection(names))
        return self.adapter * width * (readers if self.copies else min(readers, 1))

    def adapted(self, names: str) -> int:
        return self.adapter * self.r * sum(f"{name}_proj" in self.targets for name in names.split())

    def mlp_backward(self) -> int:
        """The layer computed again, and the most that its MLP's backward holds for a moment."""
        m, e, s = self.mlp, self.product, self.stream
        gradients = self.tokens * m * (2 * s + FLOAT32 - e)
        through_weight = self.tokens * m * (s + e) + self.dequantized()
        again = self.layer() if self.checkpointing else 0
        return again + max(gradients, through_weight)

    def attention_backward(self) -> int:
        if self.fused:
            return 0
        again = self.attention_share() if self.checkpointing else 0
        copies = SCORE_COPIES - 1  # one of them is in the layer's share
        return again + copies * FLOAT32 * self.heads * self.seq * self.tokens

    def dequantized(self) -> int:
        """The widest 4-bit weight, made wide: whole by bitsandbytes, in panels by lora_edu."""
        if not self.quantized:
            return 0
        widest = max(self.matrices)
        return widest * self.wide if self.peft else min(widest, PANEL_WEIGHTS) * PANEL_BYTES_PER_WEIGHT
