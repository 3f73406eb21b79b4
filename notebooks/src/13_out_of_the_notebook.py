# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 13 · Out of the notebook: how do I run my adapter elsewhere?
#
# An adapter is two files. Other programs want other files: llama.cpp, a browser tab, Ollama, a server. You look into
# yours, write it in their format, and ask both sides the same question.
#
# **You will** read an adapter tensor by tensor, meet the two places where an export goes wrong without a word, and
# count what each conversion costs.
#
# **You need** the layer $y = W x + \frac{\alpha}{r} B A x$ of notebook [04](04_lora_from_scratch.ipynb). The adapter
# reads events, as that of notebook [10](10_qlora_finetune.ipynb) does.
#
# **Time:** {minutes}. The computer needs about two of them. **Memory:** about 1.3 GiB.

# %%
import tempfile
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from lora_edu.classroom import figures, records
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments import adapters, outside
from lora_edu.classroom.experiments.update_maps import updates_by_kind
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, predict
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.checkpoint import load_adapter
from lora_edu.llm.data import DATA, PERSONAS, load_events
from lora_edu.llm.data.extraction import generate_answers, generate_turns, parse_event
from lora_edu.llm.export import export_gguf_adapter, read_adapter
from lora_edu.llm.gguf_layout import gguf_name, interleave_rows
from lora_edu.llm.inspect import describe, inspect_adapter

_ = torch.set_grad_enabled(False)  # nothing trains in this notebook

# %% [markdown]
# ## 1. What is in the file?
#
# The course's own adapter for events has rank 8 on the query and value layers (`data/README.md`). Its
# folder holds a short text, `adapter_config.json`, and the numbers:

# %%
events = DATA / "adapters" / "events"
peft_file = events / "adapter_model.safetensors"
f"{peft_file.stat().st_size:,} bytes"

# %%
predict("13.1")

# %%
out = Path(tempfile.mkdtemp())
gguf_file = export_gguf_adapter(events, out / "events.gguf")
files = {"safetensors, 16 bits": outside.parts_of_peft(peft_file)}
files["GGUF, 32 bits"] = outside.parts_of_gguf(gguf_file)

# %%
figures.adapter_files(files, title="Both files are A and B, layer after layer, behind a short text")

# %% [markdown]
# The first file is peft's. The second is the same adapter in GGUF, the format of llama.cpp. The grey text is names and
# shapes. Neither file holds a weight of the base. $\alpha$ is no tensor: peft keeps it in `adapter_config.json`, and
# GGUF in the grey text.
#
# The update of a layer is $\frac{\alpha}{r} BA$. How large it is, and how many of its 8 directions it uses, follows
# from two small matrices. Write $B = Q_1 R_1$ and $A^\top = Q_2 R_2$ (`torch.linalg.qr`). The Qs turn and do not
# stretch, so the singular values of $BA$ are those of $R_1 R_2^\top$, which is 8 x 8. Printed below: how many of them
# hold 99 % of the energy, as a median over the blocks.

# %%
report = inspect_adapter(events)
print(describe(report))

# %%
figures.update_map(
    *updates_by_kind(report, blocks=30), r=8, title="Every query and value layer has an update"
)

# %% [markdown]
# `python -m lora_edu.llm.inspect FOLDER` prints this for any adapter. Look before you run somebody else's: zeros,
# numbers that are not finite, and layers left out are named there.
#
# ### Exercise 13.1 · Which tensors are missing? (two stars, 6 minutes)
#
# A wrong `target_modules`, or an export that skips a layer, leaves layers out, and few programs say so. `layers` lists
# what a file holds as (block, kind). Write `left_out(layers, blocks)`: what some block has and another of the `blocks`
# has not, by block, then by kind.


# %% tags=["exercise"]
def left_out(layers: list[tuple[int, str]], blocks: int) -> list[tuple[int, str]]:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# First the kinds that occur at all: `sorted({kind for _, kind in layers})`. Then walk over `range(blocks)` and over
# them, and keep the pairs that are not in `layers`.


# %% tags=["solution"]
def left_out(layers: list[tuple[int, str]], blocks: int) -> list[tuple[int, str]]:
    kinds = sorted({kind for _, kind in layers})
    return [(block, kind) for block in range(blocks) for kind in kinds if (block, kind) not in layers]


# %%
check("13.1", left_out)

# %% [markdown]
# ## 2. Is it enough to give the tensors new names?
#
# *Deeper: the export does it for you.*
#
# peft names a tensor by where its layer is in the model. GGUF has names of its own:

# %%
adapter = read_adapter(events)
paths = list(adapter.layers)[:4]
compare(peft=paths, gguf=[gguf_name(path) for path in paths])

# %%
predict("13.2")

# %% [markdown]
# A rotary position turns the numbers of a query in pairs, and those of a key ([Su et al.
# 2021](https://arxiv.org/abs/2104.09864), section 3.2). Which two make a pair is a convention. In transformers row $i$
# of a head of $d$ rows turns with row $i + d/2$. In llama.cpp neighbours turn together, in models of Llama's kind as
# ours is. (Qwen2's rows stay as they are.) So its files hold the rows of queries and keys in another order.

# %%
figures.woven_rows(8, title="llama.cpp holds the two rows of a pair side by side")

# %% [markdown]
# Attention does not notice: it takes products of queries and keys, and both are reordered alike. But the update of a
# query row must follow its row. $B$ makes the rows, so $B$ is reordered. $A$ only reads the input. What if nobody does?

# %%
queries = [layer for path, layer in adapter.layers.items() if path.endswith("q_proj")]
pairs = [(interleave_rows(B.float(), 9) @ A.float(), B.float() @ A.float()) for A, B in queries]  # 9 heads
off = median(((renamed - right).norm() / right.norm()).item() for right, renamed in pairs)
f"with new names alone, an update is off by {off:.0%} of its size"

# %% [markdown]
# Two unrelated updates of the same size differ by $\sqrt 2$ of it, 141 %. No program can see that: names and shapes
# fit.
#
# ### Exercise 13.2 · The alpha that goes into the file (two stars, 5 minutes)
#
# llama.cpp multiplies by $\alpha / r$ ([`llama-adapter.h`][scale]) and knows no other rule. rsLoRA trains with
# $\alpha / \sqrt r$ ([Kalajdzievski 2023](https://arxiv.org/abs/2312.03732)). Write `gguf_alpha(r, lora_alpha,
# use_rslora)`: the $\alpha$ that the file must hold.
#
# [scale]: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-adapter.h


# %% tags=["exercise"]
def gguf_alpha(r: int, lora_alpha: float, use_rslora: bool) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Call the unknown $a$. The reader makes $a / r$ of it, and that must be the scaling of training. `r**0.5` is the root.


# %% tags=["solution"]
def gguf_alpha(r: int, lora_alpha: float, use_rslora: bool) -> float:
    return lora_alpha * r**0.5 if use_rslora else lora_alpha


# %%
check("13.2", gguf_alpha)

# %% [markdown]
# ### Exercise 13.3 · Weave the rows (three stars, 9 minutes)
#
# Write `interleave(rows, heads)`. `rows` (heads x d, n) holds head after head in transformers' order. Return them in
# llama.cpp's: in each head row 0, row d/2, row 1, row d/2 + 1, and so on.


# %% tags=["exercise"]
def interleave(rows: Tensor, heads: int) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `rows.reshape(heads, 2, half, n)` has the halves of a head in its second axis. `.transpose(1, 2)` exchanges two axes,
# and a second `reshape` makes rows of them again.


# %% tags=["solution"]
def interleave(rows: Tensor, heads: int) -> Tensor:
    total, columns = rows.shape
    return rows.reshape(heads, 2, total // heads // 2, columns).transpose(1, 2).reshape(total, columns)


# %%
check("13.3", interleave)

# %% [markdown]
# ## 3. Does llama.cpp say what PyTorch says?
#
# The same question to both. A model reads token ids. This cell counts ours. Where llama.cpp is installed, the folded
# cell below compares its ids with them, one by one.

# %%
lines = load_events("test")[:3]
sentences = [line["sentence"] for line in lines]
asked = outside.prompts(sentences)
[len(ids) for ids in asked.values()]

# %% [markdown]
# Now llama.cpp, over the very file from which our base was made. (It runs in Node. Where it is not installed, the cell
# says how to get it, and shows recorded answers.)

# %% tags=["measured"]
record = records.read("events_adapter")
recorded = record["ways"]["llama.cpp, Q4_1 file"]["answers"]
llama_cpp = outside.ask_llama_cpp(list(asked), gguf_file, recorded)
compare(sentence=sentences, llama_cpp=[answer["text"] for answer in llama_cpp])

# %% tags=["claim"]
read = [answer["prompt"] for answer in llama_cpp]
assert all(ids is None for ids in read) or read == list(asked.values())
right = [parse_event(a["text"]) == line["event"] for a, line in zip(llama_cpp, lines, strict=True)]
assert abs(sum(right) - sum(record["ways"]["llama.cpp, Q4_1 file"]["right"][:3])) <= 1
assert sum(answer["text"] == text for answer, text in zip(llama_cpp, recorded[:3], strict=True)) >= 2

# %%
model, tokenizer = load_base_model(dtype="float32")
load_adapter(model, events, adapter_name="events")
pytorch = generate_answers(model, tokenizer, sentences)
right = [parse_event(answer) == line["event"] for answer, line in zip(pytorch, lines, strict=True)]
compare(pytorch=pytorch, right=right)

# %%
predict("13.3")

# %%
ways = {"pytorch, Q4_1": "PyTorch", "llama.cpp, Q4_1 file": "llama.cpp"}
ways["llama.cpp, Q4_1 file, rows not woven"] = "llama.cpp,\nnew names alone"
same = outside.same_text(record, "pytorch, Q4_1", "llama.cpp, Q4_1 file")
f"the same text for {same} of {record['sentences']} sentences"

# %%
exact = outside.scores(record, ways)
options = {"groups": list(exact), "ylabel": "events exactly right", "number_format": "{:.1%}"}
title = "llama.cpp reads as PyTorch does, and 39 fewer with new names alone"
figures.bars({"sentences": list(exact.values())}, **options, title=title)

# %% [markdown]
# The third bar is the file of section 2 with new names alone. llama.cpp loaded it without a word: 50 sentences lost, 11
# won. 122 texts are PyTorch's, where the right file has 196. So a mistake in an export looks like a poor adapter.
#
# PyTorch multiplies in 32 bits, with the weights made wide. llama.cpp multiplies 4-bit blocks, and rounds what comes in
# to 8 bits ([its kernels][ggml]). Where two tokens are nearly as likely, that decides. Over a merged file in 16 bits
# both write the same text for 199.
#
# [ggml]: https://github.com/ggml-org/llama.cpp/tree/master/ggml/src/ggml-cpu
#
# **How sure is this?** One adapter and 200 sentences, 66 of them built in ways that training never showed. One sentence
# is half a point.
#
# ## 4. What does each conversion lose?
#
# Our base lies in Q4_1: 4 bits a weight, and two constants for each 32. The adapter may stay apart, over that file. Or
# it is merged into the weights, and the sum is stored anew: in 16 bits, in 8, or in 4 again (Q4_0: one constant for
# each 32).
#
# And the base itself can be another copy. QLoRA trains over NF4 weights (notebook [09](09_qlora_from_scratch.ipynb)).
# This adapter was trained over the Q4_1 weights. What if NF4 copies of them lie under it?

# %%
predict("13.4")

# %%
converted = {
    "llama.cpp, Q4_1 file": "apart,\nQ4_1",
    "llama.cpp, merged, f16": "merged,\n16 bits",
    "llama.cpp, merged, q8_0": "merged,\nQ8_0",
    "llama.cpp, merged, q4_0": "merged,\nQ4_0",
    "pytorch, NF4": "NF4, in\nPyTorch",
    "llama.cpp, NF4 merged, f16": "NF4,\nmerged",
}

# %%
exact = outside.scores(record, converted)
options = {"groups": list(exact), "ylabel": "events exactly right", "number_format": "{:.1%}"}
title = "A base rounded anew costs sentences, even with the sum in 16 bits"
figures.bars({"sentences": list(exact.values())}, **options, title=title)

# %% [markdown]
# 170 of 200 are read with the adapter apart. Merged and stored in 16 or 8 bits, one or two fewer: that may be chance.
# In Q4_0 every linear layer is rounded a second time, those without an adapter too, and 10 fewer are read.
#
# Over NF4 it is 153, apart (in PyTorch, which reads 168 over Q4_1) as well as merged. 16 bits hold the sum; but under
# the update lies a base that it was not trained over. (Whether NF4 or Q4_0 costs more, 200 sentences do not tell.) So
# keep an adapter over the base of its training, or merge it into that one and store at least 8 bits. Then count again
# (notebook [10](10_qlora_finetune.ipynb), section 5).
#
# ## 5. Who else runs it, and many of them at once?
#
# *Deeper: recipes, for the day when you need one.*

# %%
files = {
    ("PEFT's folder", "0.94 MB"): {"peft": True, "vLLM": False},
    ("GGUF adapter", "1.9 MB, over a base"): {"llama.cpp": True, "browser": True, "Ollama": False},
    ("merged folder", "16 bits, 269 MB"): {"transformers": True, "vLLM": False},
    ("merged GGUF", "16 bits, 271 MB"): {"llama.cpp": True, "Ollama": False},
}
figures.routes(("events", "0.94 MB"), files, title="An adapter becomes four files")

# %% [markdown]
# "Run here" means: by this page, by a test of the course, or by `make chat`. The others are recipes by their makers'
# pages, and were not run.
#
# | program | files | commands |
# |---|---|---|
# | transformers, peft: run here | PEFT's folder | `PeftModel.from_pretrained(base, FOLDER)` |
# | transformers: run here | merged | `python -m lora_edu.llm.export merged FOLDER OUT` |
# | llama.cpp, from Node: run here | GGUF adapter | `web/llama/answer.mjs` |
# | its own server: not run | GGUF adapter | `llama-server -m base.gguf --lora events.gguf` |
# | browser: run here with the personas | GGUF adapter | `make chat` |
# | [Ollama][ollama]: not run | merged GGUF | `python -m lora_edu.llm.export modelfile Modelfile --model X.gguf` |
# | [vLLM][vllm]: not run | PEFT's folder | `vllm serve BASE --enable-lora --lora-modules events=FOLDER` |
#
# [ollama]: https://docs.ollama.com/import
# [vllm]: https://docs.vllm.ai/en/latest/features/lora.html
#
# `python -m lora_edu.llm.export model smollm2-135m base.gguf` writes a base, and `... model OUT X.gguf` a merged GGUF.
#
# A server of many customers keeps the base once and their adapters beside it.

# %%
predict("13.5")

# %%
for name in PERSONAS:
    load_adapter(model, DATA / "adapters" / name, adapter_name=name)
names = [*PERSONAS, "events"] * 2
turns = [[{"role": "user", "content": sentence}] for sentence in [*sentences, sentences[0]] * 2]


# %%
def answers(rows):
    chosen = {"adapter_names": [names[row] for row in rows], "max_new_tokens": 8}
    return generate_turns(model, tokenizer, [turns[row] for row in rows], **chosen)


# %% tags=["measured"]
apart, one_by_one = adapters.timed(lambda: [answers([row])[0] for row in range(8)])
together, in_a_batch = adapters.timed(lambda: answers(range(8)))
print(f"eight rows, four adapters: one by one {one_by_one:.1f} s, in one batch {in_a_batch:.1f} s")

# %% tags=["claim"]
assert sum(a == b for a, b in zip(apart, together, strict=True)) >= 7

# %% [markdown]
# Both ways gave the same replies, to at least 7 of 8 rows. The product $W x$ is made once for all rows, whoever they
# belong to; each row adds its own $\frac{\alpha}{r} BA x$ (notebook [11](11_many_adapters.ipynb), section 2). Servers
# gather the second term for the whole batch in one kernel ([Chen et al. 2023](https://arxiv.org/abs/2310.18547)), keep
# adapters in the host's memory and bring those of the moment to the GPU ([Sheng et al.
# 2023](https://arxiv.org/abs/2311.03285)). In vLLM `--max-loras` says how many one batch may mix, and `--max-lora-rank`
# how large they are.
#
# ### When not to use it
#
# One adapter for everybody: merge, and serve a plain model. An adapter over another base than its own: only after you
# have counted, even if the shapes fit.

# %%
progress("13")

# %% [markdown]
# ## Summary
#
# - An adapter's file is $A$ and $B$ and nothing of the base. Its $\alpha$ stands in a text, not in a tensor.
# - To GGUF: new names, in a Llama the rows of $B$ of queries and keys woven, and an $\alpha$ that fits $\alpha / r$.
# - Compare token ids first, then how many texts agree, then scores. A few texts part where two tokens are close.
# - To round the base anew cost 15 to 17 of 200 sentences in NF4, and 10 in Q4_0. Keep the base of the training.
# - Limit: one model, one adapter, 200 sentences. Ollama and vLLM were not run.
#
# **Next question:** what will you fine-tune, and where will it run?
