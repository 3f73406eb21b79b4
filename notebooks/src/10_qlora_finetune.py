# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 10 · A real QLoRA fine-tune
#
# We take a language model of 134.5 million parameters (a download of 93 MB, once). It chats, but it cannot do the job
# below. After about ten minutes of computing on two CPU cores it does most of it.
#
# **You will** quantize a real model to 4 bits, train a small adapter over it, count what it gets right on sentences it
# has never seen, and check that the base model did not change.
#
# **You need** Python. Notebooks 04 and 09 will give the reasons. Until then: a *token* is a piece of text with a
# number. The *base* is the model as it came. An *adapter* is two thin matrices B and A beside a weight; only they
# train. *NF4* stores a weight as one of 16 values.
#
# **Time:** 45 minutes, of which the computer works about ten. **Memory:** about 2 GB.

# %%
ensure_packages("bitsandbytes")

from lora_edu.classroom import figures
from lora_edu.classroom.checks import check
from lora_edu.classroom.widgets import compare, predict
from lora_edu.llm import extraction
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.datasets import load_events

# %% [markdown]
# ## 1. What can the base model do before we train it?
#
# The job: read a sentence about an event, write the event as JSON. Here is one line of the data.

# %%
test = load_events("test")
test[0]

# %% [markdown]
# The values are copied from the sentence, letter by letter. A program that follows can rely on that. The people,
# activities and places of the test sentences occur in no training sentence, so a model cannot know them by heart.
# (Most days and times do occur there.)
#
# The base model is SmolLM2-135M-Instruct ([Allal et al. 2025](https://arxiv.org/abs/2502.02737)), trained to follow
# instructions. The course's copy of its weights was rounded to 4 bits once before, so this notebook is no test of
# what NF4 loses. This is the instruction it gets:

# %%
extraction.INSTRUCTION

# %%
predict(
    "The base model is asked about 25 test sentences. How many events does it get exactly right?",
    ["none", "about 5", "about 12", "nearly all"],
    answer="none",
    why="It answers in the style of a chat. Below you see what that looks like.",
)

# %% [markdown]
# `quantization="nf4"` stores the linear layers of all 30 blocks in 4 bits, with double quantization (notebook 08).
# The embedding, which is also the output layer, and the norms keep 16 or 32 bits.
#
# The libraries are those of professionals: [transformers](https://huggingface.co/docs/transformers) for model and
# training loop, [bitsandbytes](https://huggingface.co/docs/bitsandbytes) for 4-bit weights,
# [peft](https://huggingface.co/docs/peft) for the adapter.

# %%
base, tokenizer = load_base_model(quantization="nf4")
sentences = [line["sentence"] for line in test[:3]]

# %% tags=["nbval-ignore-output"]
answers = extraction.generate_answers(base, tokenizer, sentences)
compare(sentence=sentences, base_model=answers)

# %%
assert extraction.exact_match(answers, [line["event"] for line in test[:3]]) == 0

# %% [markdown]
# Here it is 0 of 3; section 3 asks 25. The model can write, but it does not know our form. Two cures are possible.
# One is to show worked examples in the prompt, which costs tokens at every question. The other is to change the
# model. We shall measure both.
#
# ### Exercise 10.1 · Count what is right (two stars, 8 minutes)
#
# Write `exact_match(answers, references)`: the share, between 0 and 1, of answers that are JSON and equal their
# reference. An answer that is no JSON at all is wrong, and must not stop the count.

# %% tags=["exercise"]
import json


def exact_match(answers: list[str], references: list[dict]) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `json.loads(answer)` raises `json.JSONDecodeError` when the text is no JSON. Two dicts are equal when they have the
# same keys and values, in any order.

# %% tags=["solution"]
import json


def exact_match(answers: list[str], references: list[dict]) -> float:
    def is_right(answer: str, reference: dict) -> bool:
        try:
            return json.loads(answer) == reference
        except json.JSONDecodeError:
            return False

    return sum(map(is_right, answers, references)) / len(references)


# %%
check("10.1", exact_match)

# %% [markdown]
# The scores below are a little kinder: they read the first JSON object in an answer and forgive words around it. So a
# base model that says "Here is the event:" first is not called wrong for its manners.
#
# ## 2. How much of the model will train?
#
# LoRA freezes the base and adds $B A$ beside each chosen weight: $y = W x + \frac{\alpha}{r} B A x$, with rank
# $r = 8$ and $\alpha = 16$ ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.1). QLoRA puts it beside
# **all** linear layers of the blocks, which it found necessary to match 16-bit training
# ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314), section 4).

# %%
predict(
    "The model has 134.5 million parameters. What share will train?",
    ["0.02 %", "2 %", "20 %"],
    answer="2 %",
    why="Each layer adds r x (in + out) numbers: 2.4 million in all.",
)

# %%
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
model = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
model = get_peft_model(model, config)
model.print_trainable_parameters()

# %% [markdown]
# ### Exercise 10.2 · Count it yourself (one star, 5 minutes)
#
# Write `trainable_fraction(model)`: the share of all parameters that training will change, between 0 and 1. Every
# parameter has `.numel()` and `.requires_grad`.

# %% tags=["exercise"]
from torch import nn


def trainable_fraction(model: nn.Module) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Sum `p.numel()` over `model.parameters()` twice: once over those with `p.requires_grad`, once over all.

# %% tags=["solution"]
from torch import nn


def trainable_fraction(model: nn.Module) -> float:
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable / sum(p.numel() for p in model.parameters())


# %%
check("10.2", trainable_fraction)

# %% [markdown]
# Your function is right, and yet for *this* model it would say 2.9 %, where peft says 1.8 %. Look at one 4-bit
# weight:

# %%
query = model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight
query.shape, query.dtype, query.quant_state.shape

# %% [markdown]
# The layer maps 576 numbers to 576, so $W$ has $576 \times 576 = 331{,}776$ of them. Stored are 165,888 **bytes**,
# two 4-bit codes in each. Whoever counts `numel()` over a 4-bit model counts half of each such layer. peft
# recognizes 4-bit weights by their class and counts each byte as two numbers. Count numbers, not bytes.

# %%
import gc

trainable, total = model.get_nb_trainable_parameters()
del base, model, query
_ = gc.collect()  # the fine-tune below loads its own copy
trainable, total

# %% [markdown]
# ## 3. 120 steps: how far does the loss fall?
#
# An optimizer step sees two sentences. Only the answer is scored: the prompt's tokens carry the label -100, which the
# loss passes over. The last label is the end-of-turn token. Leave it out and the model never learns to stop.

# %%
example = extraction.encode_example(tokenizer, load_events("train")[0])
scored = [label for label in example["labels"] if label != extraction.IGNORE]
len(example["labels"]), len(scored), tokenizer.decode(scored)

# %% [markdown]
# Tokens in all, tokens scored, and what they say. The loss is the mean of -log(probability of the right token) over
# the scored ones. With the natural logarithm its unit is the nat: 1 nat means a probability of 37 %, 0.15 nat means
# 86 %.

# %%
predict(
    "The loss starts above 1 nat a token. The model sees 240 sentences, once each. Where does it end?",
    ["near 1", "near 0.5", "below 0.15"],
    answer="below 0.15",
    why="To copy from a sentence into a fixed form is easy once the form is known.",
)

# %% [markdown]
# One call trains, asks, counts and records. The loop inside is transformers' `Trainer`. If the kernel dies, run the
# cells with imports, then this one with `resume=True` in place of `overwrite=True`: it goes on from the last
# checkpoint, one every 40 steps.

# %% tags=["measured"]
import os

from lora_edu.llm.finetune import FinetuneConfig, finetune, summary

runs = os.environ.get("LORA_EDU_RUNS", "runs")
config = FinetuneConfig(
    output=f"{runs}/qlora",
    method="qlora",
    r=8,
    steps=120,
    learning_rate=1e-3,  # at its peak, after 5 steps of warm-up
    before_events=25,  # questions to the base
    test_events=100,  # questions of each kind afterwards
    overwrite=True,
)
run = finetune(config)
print(summary(run.record))

# %%
losses = run.record["losses"]
assert sum(losses[-10:]) / 10 < 0.15 and losses[0] > 1

# %%
figures.loss_curve(
    {"QLoRA, r = 8": losses}, alt="The loss of each step. It falls steeply at first, then slowly."
)

# %% [markdown]
# The first steps probably teach the form: braces, the five keys and the quotes are the same in each answer. What
# remains is the copying. The curve is bumpy also because each step sees only two sentences. A low loss is a mean
# over tokens: one wrong letter in a name costs the loss little and the event everything. So the loss is not the
# score.

# %% [markdown]
# ## 4. Did it learn the task, or the patterns?
#
# Of the 300 test sentences, 200 follow patterns of the training set, with new names and places; the run asked 100 of
# them. The other 100 are built in ways that no training sentence is, for instance: "As the game room is closed, Frank
# Jackson found a spot in the Red Room for the reading hour, now this Saturday at quarter to one."

# %%
predict(
    "A program of regular expressions, written from the training patterns, gets 100 % of the seen patterns. "
    "How many of the unseen ones?",
    ["0 %", "about 30 %", "about 70 %"],
    answer="0 %",
    why="A pattern matches or it does not. data/README.md has the command that measures it.",
)

# %%
record = run.record
scores = [record[f"exact_match{part}"] for part in ("_before", "_before_few_shot", "", "_unseen")]
groups = ["base", "base, three\nexamples", "tuned,\nseen patterns", "tuned,\nunseen patterns"]
figures.bars(
    {"exact match": scores},
    groups=groups,
    ylabel="share of events",
    number_format="{:.0%}",
    alt="Exact match: the base, without and with examples; the tuned model, on seen and on unseen patterns.",
)

# %% [markdown]
# The bars do not rest on equally many questions: 25 each for the base, 100 each for the tuned model. Three worked
# examples help, and every question then carries their tokens. The adapter does better on patterns that it has met. A
# caveat: the unseen patterns are also harder. They are longer, and many name a second person, day or place.
#
# This is one seed after 240 sentences. Notebook 00 shows three. After all 1,600 sentences, on a GPU, the median of
# three seeds was 95.5 % and 66 % (`data/README.md`): more data helps both.
#
# Below are one answer that is right and two that are wrong. Compare letter by letter: exact match forgives none.

# %% tags=["nbval-ignore-output"]
wrong = [entry for entry in record["answers"] if not entry["correct"]]
shown = [record["answers"][0], *wrong[:2]]
compare(
    sentence=[entry["sentence"] for entry in shown],
    before=[entry.get("before", "(not asked)") for entry in shown],
    after=[entry["answer"] for entry in shown],
)

# %%
assert scores[0] <= 0.1 and scores[2] >= 0.7 and scores[2] > scores[1] + 0.3

# %% [markdown]
# ## 5. Is the base model still there?
#
# The training loop could have touched anything. Did it?

# %%
predict(
    "How many of the base model's 134.5 million weights changed?",
    ["none", "about 2 %", "all, a little"],
    answer="none",
    why="They are frozen. The adapter is added beside them.",
)

# %%
before, after = (record["base"][f"weights_sha256_{when}"] for when in ("before", "after"))
before == after, record["base"]["adapter_off_difference"]

# %% [markdown]
# One hash over all base weights, 4-bit codes and their scales, is the same before and after. With the adapter
# switched off, the logits of one sentence differ by 0.0: not nearly, exactly. So one base serves many tasks, and an
# adapter is all you hand on:

# %%
adapter = run.folder / "adapter"
{file.name: f"{file.stat().st_size / 1e6:.1f} MB" for file in sorted(adapter.iterdir())}

# %% [markdown]
# 2.4 million float32 numbers are 9.8 MB. The base on disk is 269 MB in 16 bits. The folder is in peft's own format:
# any program that knows peft can load it, over the same base: the course's copy, in 4 bits.

# %%
from peft import PeftModel

del run
again = PeftModel.from_pretrained(load_base_model(quantization="nf4")[0], adapter)
entry = next(entry for entry in record["answers"] if entry["correct"])
assert extraction.generate_answers(again, tokenizer, [entry["sentence"]]) == [entry["answer"]]

# %% [markdown]
# Base and adapter, loaded from disk, give the same answer. (On a GPU a letter may differ: some weights were 32-bit in
# training and are 16-bit here.) Now write a sentence of your own between the quotes, and run the cell:

# %%
mine = ""
if mine:
    print(extraction.generate_answers(again, tokenizer, [mine])[0])

# %% [markdown]
# Try to break it: two people, two days, no time. Does it leave a value out, or invent one? Every sentence that it
# learned from had five values, so it has never seen one missing.
#
# ### When not to use it
#
# On a model this small, 4 bits save little: a fifth of it is the embedding, which stays wide, and the activations of
# training do not shrink at all. Dequantizing costs time at every step. The 4 bits pay on a model of billions of
# weights, where they decide whether it fits. And if three examples in the prompt had been enough, no training would
# have been the better answer.
#
# ## Summary
#
# - QLoRA here: a frozen NF4 base, float32 adapters beside all linear layers of its blocks, 2.4 million trained
#   numbers.
# - Labels stand on the answer only, and the answer's last label is the end of turn.
# - Exact match on held-out sentences is the score. The loss is not.
# - The base's weights stay the same, bit for bit. The adapter is a file of 9.8 MB.
# - Limit: sentences built in new ways are much harder than sentences with new names.
#
# **From the command line**, with settings as flags: `python -m lora_edu.llm.finetune --help`.
#
# **Next question:** one base, many adapters. Can one batch serve three tasks at once? (Notebook 11.)
