# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 11 · One base, many tasks: what are the choices?
#
# A sea captain, a robot and a gardener live in one language model. Each is an adapter, a file of 0.9 MB. You talk with
# them, put them into one batch, and count what a thousand of them would cost.
#
# **You will** switch adapters while the base stays loaded, build the layer that serves a mixed batch, find out when
# adapters weigh more than their base, and (in an optional part) compare LoRA with bottleneck adapters and prefix
# tuning.
#
# **You need** notebook 04: $y = W x + \frac{\alpha}{r} B A x$. The optional part explains keys and values.
#
# **Time:** {minutes}. The computer needs about two of them.

# %%
import torch
from torch import Tensor

from lora_edu.classroom import figures, records
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments.adapters import method_columns, milliseconds_a_token, style_rates, timed
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import chat, compare, explore, predict
from lora_edu.llm import surgery
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.checkpoint import load_adapter
from lora_edu.llm.data import DATA, PERSONAS, load_persona
from lora_edu.llm.data.extraction import generate_turns
from lora_edu.llm.data.personas import has_style

_ = torch.set_grad_enabled(False)  # nothing trains in this notebook

# %% [markdown]
# ## 1. How many models do three characters need?
#
# The course holds about 120 everyday questions for each character, with answers written by hand. Here is one of the
# robot's:

# %%
load_persona("robot")[41]

# %% [markdown]
# Each character keeps a rule of form. The captain ends with one of five sign-offs, such as "Fair winds!". The robot
# begins with "LOG" and three digits. The gardener names a plant. So a program can count whether the style is kept.
#
# The three adapters were trained once, on a GPU (`tools/record_personas.py`): LoRA of rank 8 on the query and value
# layers, 120 steps of 8 turns.

# %%
predict("11.1")

# %%
model, tokenizer = load_base_model(dtype="float32")
base_numbers = sum(p.numel() for p in model.parameters())
before = surgery.base_weights_hash(model)

# %%
for name in PERSONAS:
    load_adapter(model, DATA / "adapters" / name, adapter_name=name)
added = sum(p.numel() for p in surgery.adapter_parameters(model))
f"{added:,} numbers beside {base_numbers:,}: {added / base_numbers:.2%}"

# %% [markdown]
# Now talk with them. Choose who answers, write, press Send. The base stays where it is: a switch only changes which
# $B$ and $A$ stand beside $W$. Only your last message is sent, since the adapters were taught on single questions.


# %% tags=["nbval-ignore-output"]
def reply(speaker, messages):
    return generate_turns(model, tokenizer, [messages[-1:]], adapter_names=[speaker])[0]


talk = chat(reply, PERSONAS, opening=[(name, "What should I name my new kitten?") for name in PERSONAS])
talk

# %%
assert all(has_style(speaker, answer) for speaker, _, answer in talk.turns)
surgery.base_weights_hash(model) == before

# %% [markdown]
# One hash over all base weights: nothing moved. Is the style a matter of luck? After training, every character was
# asked 30 questions that occur in none of the three files.

# %%
record = records.read("personas")
rates = style_rates(record)
rates["base"]  # by the rules of captain, robot and gardener

# %%
rules = [f"{name}'s rule" for name in PERSONAS]
text = "; ".join(f"{name} {', '.join(f'{rate:.0%}' for rate in row)}" for name, row in rates.items())
text = f"Share of 30 replies that keep the rule of captain, robot and gardener: {text}."
figures.bars(rates, groups=rules, ylabel="share of replies", number_format="{:.0%}", alt=text)

# %% [markdown]
# No adapter keeps another's rule. The gardener keeps its own least, for it asks for a word that fits, not for a fixed
# form: "A nail is like a leaf" sounds like a garden and names no plant of our list. Was it trained badly? Here are the
# learning rates that were tried.

# %%
tried = [run for run in record["tuning"] if run["method"] == "lora"]
losses = [f"{run['development_loss']:.2f}" for run in tried]
plants = [f"{run['styles']['gardener']:.0%}" for run in tried]
compare(learning_rate=[run["learning_rate"] for run in tried], loss=losses, names_a_plant=plants)

# %% [markdown]
# The loss is that on 21 turns kept back from training; the rate with the lowest loss was taken. At twice that rate the
# gardener would name a plant in 60 % of its replies. The loss counts every token; the style hangs on one word. Decide
# which number you choose by, before you look.
#
# And the rule is form, not sense: many replies are wrong or go round in circles. A model of 135 million parameters
# learns a voice from 100 turns, not wisdom.
#
# Try the chat with `messages` in place of `messages[-1:]`: then a character reads what the others said. Does it keep
# its own voice?
#
# ## 2. Can one batch serve three of them at once?
#
# A server gets four questions at the same moment: one for each character, one for the plain base. It could set an
# adapter, answer, set the next. But most of the work is $W x$, and $W$ is the same for all four.

# %%
predict("11.2")

# %% [markdown]
# For row $i$ with adapter $k(i)$, of rank $r_k$:
#
# $$y_i = W x_i + \frac{\alpha_k}{r_k} B_k A_k x_i, \qquad k = k(i)$$
#
# ([Chen et al. 2023](https://arxiv.org/abs/2310.18547) wrote a GPU kernel for the second term.)
#
# ### Exercise 11.1 · A layer for a mixed batch (three stars, 12 minutes)
#
# Write `mixed_layer(X, W, adapters, names)`. `X` holds one input a row. `adapters` maps a name to `(lora_A, lora_B,
# scaling)`. `names` has one entry a row; a name that is no adapter means: the base alone.


# %% tags=["exercise"]
def mixed_layer(X: Tensor, W: Tensor, adapters: dict[str, tuple], names: list[str]) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# First `Y = X @ W.T`, for all rows. Then walk over `enumerate(names)` and add to `Y[row]` where the name is known.
# `lora_A` has shape (r, in), `lora_B` (out, r).


# %% tags=["solution"]
def mixed_layer(X: Tensor, W: Tensor, adapters: dict[str, tuple], names: list[str]) -> Tensor:
    Y = X @ W.T
    for row, name in enumerate(names):
        if name in adapters:
            lora_A, lora_B, scaling = adapters[name]
            Y[row] += scaling * lora_B @ (lora_A @ X[row])
    return Y


# %%
check("11.1", mixed_layer)

# %% [markdown]
# All adapted layers of our model do this when it is told a name for each row. peft takes the same argument,
# `adapter_names`, and calls the base `"__base__"` too. Does every row get what it would get alone?

# %%
names = [*PERSONAS, "__base__"]
tokens = tokenizer(["I cannot find my keys."] * 4, return_tensors="pt").input_ids.to(model.device)

# %%
mixed = model(tokens, adapter_names=names).logits
alone = [model(tokens[:1], adapter_names=[name]).logits[0] for name in names]
[torch.allclose(row, single, atol=1e-3) for row, single in zip(mixed, alone, strict=True)]

# %% [markdown]
# Equal to rounding. And is it faster than one after the other? The same question four times, each time to another
# character:

# %% tags=["measured"]
asked = [[{"role": "user", "content": "What is a good gift for my grandmother?"}]] * 4
_, apart = timed(lambda: [reply(name, asked[0]) for name in names])
replies, together = timed(lambda: generate_turns(model, tokenizer, asked, adapter_names=names))
print(f"one by one {apart:.1f} s, in one batch {together:.1f} s")
compare(who=names, reply=replies)

# %%
assert all(has_style(name, answer) for name, answer in zip(PERSONAS, replies, strict=False))

# %% [markdown]
# A batch of four takes less time than four batches of one: to make one token, the machine reads every weight of the
# base from memory, and a batch shares that reading. Merged models could not share it: each is a base of its own, and
# if you threw B and A away after merging, there is no way back.
#
# ## 3. What does a thousand adapters cost?
#
# Let us load more customers. Twenty are enough to measure; a thousand we compute. (These seventeen are copies of the
# robot. Their size is what counts.)

# %%
for number in range(17):
    load_adapter(model, DATA / "adapters" / "robot", adapter_name=f"customer_{number}")
len(surgery.adapter_names(model))

# %%
base_bytes = 4 * base_numbers
adapter_bytes = sum(p.nbytes for p in surgery.adapter_parameters(model)) // 20
f"{adapter_bytes / 1e6:.2f} MB each, the base {base_bytes / 1e6:.0f} MB"

# %%
predict("11.3")


# %%
def draw_storage(ax, r):
    customers = torch.linspace(0, 1000, 11)
    GB = {"adapters": customers * adapter_bytes * r / 8e9, "the base": torch.full((11,), base_bytes / 1e9)}
    text = f"Rank {r}: 1,000 adapters take {GB['adapters'][-1]:.2f} GB, the base {base_bytes / 1e9:.2f} GB. "
    text += f"{8 * base_bytes / adapter_bytes / r:,.0f} adapters weigh as much as the base."
    options = {"xlabel": "customers", "ylabel": "GB in 32 bits", "title": f"rank {r}"}
    figures.lines(GB, x=customers, ylim=(0, 2.5), alt=text, ax=ax, **options)


explore(draw_storage, r=[1, 2, 4, 8, 16, 64], start={"r": 8})

# %% [markdown]
# A thousand models would take 538 GB. One base with a thousand adapters takes 2.4 GB. (In memory our adapters are
# float32. Their files hold 16 bits a number, so 0.9 MB each.)
#
# What surprises: of these, 1.8 GB are adapters. "An adapter weighs next to nothing" is true of one. Beyond 292 of
# them the base is the smaller part, and at rank 64 beyond 36. So servers keep most adapters in the host's memory and
# bring to the GPU those that the current batch needs ([Sheng et al. 2023](https://arxiv.org/abs/2311.03285)).
#
# ### Exercise 11.2 · How many fit? (one star, 4 minutes)
#
# Write `adapters_that_fit(memory, base, adapter)`: how many adapters fit beside one base. All sizes are in bytes. If
# the base itself does not fit, the answer is 0.


# %% tags=["exercise"]
def adapters_that_fit(memory: int, base: int, adapter: int) -> int:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `//` divides and rounds down, below zero too: `-1 // 7` is -1. `max(0, n)` keeps a count from falling below zero.


# %% tags=["solution"]
def adapters_that_fit(memory: int, base: int, adapter: int) -> int:
    return max(0, (memory - base) // adapter)


# %%
check("11.2", adapters_that_fit)

# %% [markdown]
# For a GPU with 16 GB and our adapters the answer is 8,388, if nothing else needed memory. A batch does: activations,
# and the keys and values of section 5.
#
# ## 4. Optional: what if the adapter stands behind the layer?
#
# In 2019, two years before LoRA, adapters were small networks *in series*: down to $m$ numbers, a bend $f$, up again,
# and the input added ([Houlsby et al. 2019](https://arxiv.org/abs/1902.00751), section 2.1):
#
# $$y = h + U f(D h)$$

# %%
from lora_edu.methods.bottleneck import BottleneckAdapter

torch.manual_seed(0)
behind, W = BottleneckAdapter(features=8, bottleneck=2, activation="relu"), torch.randn(8, 8)
_ = behind.up.weight.normal_()  # as if trained; it starts at zero

# %%
predict("11.4")

# %%
sizes = torch.linspace(-2, 2, 81)
inputs = sizes[:, None] * torch.randn(8)
curves = {"a matrix": (inputs @ W.T)[:, 0], "a bottleneck": behind(inputs)[:, 0]}
text = "Any matrix, W or W + BA, draws a straight line through zero. The line of the bottleneck bends."
figures.lines(curves, x=sizes, xlabel="the input times ...", ylabel="first output", alt=text)

# %% [markdown]
# What bends cannot be added to a matrix. So a bottleneck adapter stays in the way for ever, and the model waits for it
# twice in each block, after attention and after the MLP. LoRA was made to avoid this wait: its paper measures up
# to 30 % more time for adapters with one short text at a time, 2 to 3 % with large batches
# ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), table 1). "LoRA has no
# latency" holds for merged LoRA alone. You will measure below.
#
# ### Exercise 11.3 · A bottleneck (one star, 5 minutes)
#
# Write `bottleneck_adapter(h, down, up)` with a ReLU as its bend and no biases. `h` holds one vector a row, `down` has
# shape (m, d), `up` (d, m).


# %% tags=["exercise"]
def bottleneck_adapter(h: Tensor, down: Tensor, up: Tensor) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Rows go through a matrix as `h @ down.T`. `torch.relu` acts on the narrow part. With `up` = 0 the result must be `h`.


# %% tags=["solution"]
def bottleneck_adapter(h: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return h + torch.relu(h @ down.T) @ up.T


# %%
check("11.3", bottleneck_adapter)

# %% [markdown]
# ## 5. Optional: can words that nobody wrote steer a model?
#
# **Keys and values, in short.** In attention every token makes three vectors: a query $q$, a key $k$, a value $v$. A
# token reads itself and those before it. The scores $q \cdot k / \sqrt{d}$ go through softmax and become weights that
# sum to 1; the result is that mix of the values. Keys decide how much is read, values are what is read.
#
# **Prefix tuning** puts extra keys and values before the first token, in each layer. They come from no word: they are
# trained numbers ([Li and Liang 2021](https://arxiv.org/abs/2101.00190), section 4.2).
#
# $$\mathrm{softmax}\!\left(\frac{q\,[P_K; K]^\top}{\sqrt d}\right) [P_V; V]$$

# %%
generator = torch.Generator().manual_seed(1)
query, *keys = torch.randn(13, 16, generator=generator, dtype=torch.float64)


def draw_attention(ax, prefix):
    chosen = keys[4 : 4 + prefix] + keys[:4]  # the prefix, then four tokens
    weights = torch.softmax(torch.stack(chosen) @ query / 4, dim=0)
    labels = [f"P{i + 1}" for i in range(prefix)] + ["t1", "t2", "t3", "t4"]
    shares = weights[:prefix].sum(), weights[prefix:].sum()
    text = f"A prefix of length {prefix} before 4 tokens. "
    text += f"The prefix gets {shares[0]:.0%} of the attention, the tokens {shares[1]:.0%}."
    options = {"ylabel": "weight", "number_format": "{:.2f}", "top": 0.42}
    figures.bars({"weight": weights}, groups=labels, **options, alt=text, ax=ax)


explore(draw_attention, prefix=range(9), start={"prefix": 2})

# %% [markdown]
# These keys are random. The more there are, the less is left for the tokens: what a token reads changes, though no
# weight does. One reads that prefix tuning "leaves the representations unchanged". It leaves the *weights* unchanged;
# the activations are what it works through.
#
# One also reads that it needs fewer parameters than LoRA. That depends on its length. In this model every prefix token
# costs $2 \cdot 30 \cdot 192 = 11{,}520$ numbers: a key and a value of 192 numbers in each of 30 layers.

# %%
predict("11.5")

# %% [markdown]
# ### Exercise 11.4 · Attention with a prefix (two stars, 8 minutes)
#
# Write `attend(q, K, V, prefix_K, prefix_V)` for one query `q` of `d` numbers. Keys and values stand in rows.


# %% tags=["exercise"]
def attend(q: Tensor, K: Tensor, V: Tensor, prefix_K: Tensor, prefix_V: Tensor) -> Tensor:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `torch.cat((prefix_K, K))` puts rows above rows. One softmax runs over all of them: the weights of prefix and tokens
# together sum to 1. `q.numel() ** 0.5` is the square root of d.


# %% tags=["solution"]
def attend(q: Tensor, K: Tensor, V: Tensor, prefix_K: Tensor, prefix_V: Tensor) -> Tensor:
    keys, values = torch.cat((prefix_K, K)), torch.cat((prefix_V, V))
    return torch.softmax(keys @ q / q.numel() ** 0.5, dim=0) @ values


# %%
check("11.4", attend)

# %% [markdown]
# Now all three in the same model, with about equally many numbers: LoRA of rank 8 (the gardener), a bottleneck of 6
# behind each sublayer, a prefix of 40. The two new ones are untrained: they cost as much time as trained ones. How well
# trained ones do was recorded, for the gardener, with three seeds: the share of the 30 new questions whose reply names
# a plant.

# %%
surgery.add_bottleneck(model, bottleneck=6, adapter_name="bottleneck")
surgery.add_prefix(model, num_virtual_tokens=40, adapter_name="prefix")
kinds = {"lora": "gardener", "bottleneck": "bottleneck", "prefix": "prefix"}
{k: sum(p.numel() for p in surgery.adapter_parameters(model, name)) for k, name in kinds.items()}

# %% tags=["measured"]
times = milliseconds_a_token(model, tokens[:1], list(kinds.values()))
milliseconds = {key: times[name] for key, name in kinds.items()} | {"full": times["base"]}
compare(**method_columns(record, milliseconds))

# %%
assert [run["persona"] for run in record["methods"]] == ["gardener"] * 12

# %% [markdown]
# The last row is the base's own time. LoRA and bottleneck add small products to many layers: up to a tenth on a CPU,
# a quarter on a GPU, if the machine is not busy. But LoRA can be merged when one adapter is enough. A prefix adds no
# product; each row of a batch carries it in its cache, 40 tokens more to remember and to attend to.
#
# Style is one task on one model, and the rate with the lowest loss was for each method the lowest one tried. At higher
# rates all but the bottleneck keep the style better, as LoRA did in section 1. So read no ranking out of the table.
#
# ### When not to use it
#
# One task only: merge, and forget about switching. Many tasks that a good prompt solves: no adapter at all. Tasks that
# need much new knowledge: small adapters may not hold it (notebook 02). And an adapter fits its base alone: change the
# base, and a thousand adapters must be trained anew.

# %%
progress("11")

# %% [markdown]
# ## Summary
#
# - A switch of adapters moves no weight of the base. Three characters cost 1 % of it.
# - In a mixed batch, W acts once on all rows; each row adds the update of its own adapter.
# - A thousand adapters and one base: 2.4 GB in place of 538. Beyond 292, the adapters outweigh the base.
# - Bottleneck adapters bend and cannot be merged. A prefix changes activations, not weights, and its length sets its
#   cost.
# - Limit: the style rule counts form. A reply can keep it and be wrong.
#
# **Next question:** all this has worked. What goes wrong in practice, and how do you see it? (Notebook 12.)
