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
# We take a language model of 134.5 million parameters. It chats, but it cannot do the job below. After about ten
# minutes of computing on two CPU cores it does most of it.
#
# **You will** quantize a real model to 4 bits, ask whether a run fits, train a small adapter, count what it gets right
# on sentences it has never seen, load it in another process, merge it in three ways, and use data of your own.
#
# **You need** Python. Notebooks 04 and 09 will give the reasons. Until then: a *token* is a piece of text with a
# number. The *base* is the model as it came. An *adapter* is two thin matrices B and A beside a weight; only they
# train. *NF4* stores a weight as one of 16 values.
#
# **Time:** {minutes}. The computer works about ten of them. **Memory:** about 2 GB.

# %%
ensure_packages("bitsandbytes")

from lora_edu.classroom import figures, records
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments import forgetting, gpu_fits, merging
from lora_edu.classroom.experiments.merged_model import save_merged
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import chat, compare, predict
from lora_edu.llm.base_model import load_base_model, load_config
from lora_edu.llm.data import DATA, extraction, load_events, load_persona

# %% [markdown]
# The cells are the same for three sizes of machine. Only this name changes:
#
# | machine | `MODEL` | download |
# |---|---|---|
# | two CPU cores, 2 GB | `"smollm2-135m"` | 93 MB |
# | a GPU of 4 GB | `"HuggingFaceTB/SmolLM2-1.7B-Instruct"` | 3.4 GB |
# | a GPU of 15 GB, such as Colab's T4 | `"Qwen/Qwen2.5-7B-Instruct"` | 15 GB |
#
# The second and third come from a [model hub](https://huggingface.co/Qwen/Qwen2.5-7B-Instruct). The numbers in the text
# are those of the first. After section 5 you see what was tried of the other two.

# %%
MODEL = "smollm2-135m"

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
predict("10.1")

# %% [markdown]
# `quantization="nf4"` stores the linear layers of all 30 blocks in 4 bits, with double quantization (notebook 08).
# The embedding, which is also the output layer, and the norms keep 16 or 32 bits.
#
# The libraries are those of professionals: [transformers](https://huggingface.co/docs/transformers) for model and
# training loop, [bitsandbytes](https://huggingface.co/docs/bitsandbytes) for 4-bit weights,
# [peft](https://huggingface.co/docs/peft) for the adapter.

# %%
base, tokenizer = load_base_model(MODEL, quantization="nf4")
sentences = [line["sentence"] for line in test[:3]]

# %%
answers = extraction.generate_answers(base, tokenizer, sentences)
compare(sentence=sentences, base_model=answers)

# %%
extraction.exact_match(answers, [line["event"] for line in test[:3]])

# %% [markdown]
# None of 3 is right; section 3 asks 25. The model can write, but it does not know our form. Two cures are possible.
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
#
# `prepare_model_for_kbit_training` freezes the base and makes what is not in 4 bits (embedding, norms) float32.
# `get_peft_model` then puts $B$ and $A$ in.

# %%
predict("10.2")

# %%
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
model = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
model = get_peft_model(model, lora)
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
trainable, total = model.get_nb_trainable_parameters()
del base, model, query
merging.free_memory()  # the fine-tune below loads its own copy
trainable, total

# %% [markdown]
# ### Will the run fit?
#
# A run that does not fit dies in the middle, with an error that names no cure. So `finetune` counts the bytes first,
# from the model's configuration alone (notebook 09 builds this ledger). Here are the settings of our run, and its
# ledger.

# %%
import os

import torch

from lora_edu.llm.budget.preflight import changes, preflight
from lora_edu.llm.finetune import FinetuneConfig, finetune, summary
from lora_edu.llm.finetune.recipe import make_recipe, predict_memory

runs = os.environ.get("LORA_EDU_RUNS", "runs")
config = FinetuneConfig(
    output=f"{runs}/qlora",
    model=MODEL,
    steps=120,
    learning_rate=1e-3,  # at its peak, after 5 steps of warm-up
    before_events=25,  # questions to the base
    test_events=100,  # questions of each kind afterwards
    overwrite=True,
)

# %%
longest = max(len(extraction.encode_example(tokenizer, line)["input_ids"]) for line in load_events("train"))
ledger = predict_memory(make_recipe(config), load_config(MODEL), longest)
{term: f"{size / 2**20:.0f} MiB" for term, size in ledger.items() if size}

# %% [markdown]
# `preflight` compares the sum with the memory that is there, less a reserve for what a prediction may be wrong by.
# What does it decide on a machine without a GPU that has 2,000 MB, or 1,600, or 1,000?

# %%
on_cpu = ledger.but(device="cpu", dtype=torch.float32, optimizer="adamw")  # the same run
for megabytes in (2000, 1600, 1000):
    try:
        fitting = preflight(on_cpu, "cpu", available=megabytes * 10**6)
        print(f"{megabytes} MB: {changes(on_cpu, fitting) or 'as it is'}")
    except MemoryError as refusal:
        print(f"{megabytes} MB: {refusal}")

# %% [markdown]
# First it runs as asked. Then one knob turns: *gradient checkpointing* keeps the input of each block alone and computes
# the rest a second time. That costs time and changes no result but rounding. At last it refuses, and says what other
# knobs would bring. Here none brings anything: most is needed while the weights are loaded, before they are quantized.
# All this is known before a weight is loaded.
#
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
predict("10.3")

# %% [markdown]
# One call asks, trains, asks again and records. The loop inside is transformers' `Trainer`. If the kernel dies, write
# `resume=True` in place of `overwrite=True` in `config` and run the cells again: training goes on from the last
# checkpoint, one every 40 steps. ("Your own data", below, tries that.)

# %% tags=["measured"]
run = finetune(config)
record = run.record
print(summary(record))
print(f"predicted memory {sum(record['predicted_memory_bytes'].values()) / 2**30:.2f} GiB")
wrong = [entry for entry in record["answers"] if not entry["correct"]]
shown = [record["answers"][0], *wrong[:2]]
compare(
    sentence=[entry["sentence"] for entry in shown],
    before=[entry.get("before", "(not asked)") for entry in shown],
    after=[entry["answer"] for entry in shown],
)

# %%
losses, small = record["losses"], MODEL == "smollm2-135m"
assert sum(losses[-10:]) / 10 < 0.15 and (losses[0] > 1 or not small)

# %% [markdown]
# On a CPU the run took about a tenth more memory than predicted: `preflight` keeps a reserve for that. (On a GPU the
# prediction is of the GPU's memory: compare `record["peak_gpu_memory_bytes"]`.) The table holds the first answer and
# two wrong ones, before and after. Compare letter by letter: exact match forgives none. And this is how the loss fell:

# %%
figures.loss_curve(
    {"QLoRA, r = 8": losses}, alt="The loss of each step. It falls steeply at first, then slowly."
)

# %% [markdown]
# The first steps probably teach the form: braces, the five keys and the quotes are the same in each answer. What
# remains is the copying. The curve is bumpy also because each step sees only two sentences. A low loss is a mean
# over tokens: one wrong letter in a name costs the loss little and the event everything. So the loss is not the
# score.
#
# ### Did it learn the task, or the patterns?
#
# Of the 300 test sentences, 200 follow patterns of the training set, with new names and places; the run asked 100 of
# them. The other 100 are built in ways that no training sentence is, for instance: "As the game room is closed, Frank
# Jackson found a spot in the Red Room for the reading hour, now this Saturday at quarter to one."
#
# Regular expressions made from the training patterns read 100 % of the first kind and 0 % of the second: a pattern
# matches or it does not (`data/README.md` has the command). And the adapter?

# %%
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

# %%
assert not small or (scores[0] <= 0.1 and scores[2] >= 0.7 and scores[2] > scores[1] + 0.3)

# %% [markdown]
# ## 4. Is the base model still there?
#
# The training loop could have touched anything. Did it?

# %%
predict("10.4")

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
#
# ### Does the adapter live without this kernel?
#
# Here is such a program. It gets a base, a folder and sentences, and knows nothing of what we did.

# %%
import json
import subprocess
import sys

program = """
import json, sys
from peft import PeftModel
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.data.extraction import generate_answers

base, tokenizer = load_base_model(sys.argv[1], quantization="nf4")
model = PeftModel.from_pretrained(base, sys.argv[2])
print(json.dumps(generate_answers(model, tokenizer, sys.argv[3:])))
"""

# %%
del run
merging.free_memory()  # two models may not fit
right = [entry for entry in record["answers"] if entry["correct"]][:3]
asked = [MODEL, str(adapter.resolve()), *(entry["sentence"] for entry in right)]
done = subprocess.run([sys.executable, "-c", program, *asked], cwd=root, capture_output=True, check=True)
json.loads(done.stdout.splitlines()[-1]) == [entry["answer"] for entry in right]

# %% [markdown]
# A fresh process, base and adapter from disk: the same answers, letter by letter. (On a GPU one may differ: some
# weights were 32-bit in training and are 16-bit here.) Now load it here too, write a sentence of your own between the
# quotes, and run the cell:

# %%
from peft import PeftModel

again = PeftModel.from_pretrained(load_base_model(MODEL, quantization="nf4")[0], adapter)

# %%
mine = ""
if mine:
    print(extraction.generate_answers(again, tokenizer, [mine])[0])

# %% [markdown]
# Try to break it: two people, two days, no time. Does it leave a value out, or invent one? Every sentence that it
# learned from had five values, so it has never seen one missing.
#
# ## 5. Can the adapter be merged into the 4-bit base?
#
# To merge is to add the update to the weight for good, $W + \frac{\alpha}{r} B A$ (notebook 04). Whoever runs the
# result needs no peft. But our $W$ lies in 4 bits. Let $W_4$ be what the model computes with: levels of NF4 times
# scales. peft can merge into it: it adds, and rounds the sum to NF4 again.

# %%
predict("10.5")

# %%
changed = {"your adapter": merging.changed_by_peft(again)}
with merging.update_of_zero(again):
    changed["nothing"] = merging.changed_by_peft(again)
compare(merged=list(changed), weights_that_change=[f"{share:.0%}" for share in changed.values()])

# %% tags=["claim"]
assert min(changed.values()) > 0.8 and max(changed.values()) - min(changed.values()) < 0.05

# %% [markdown]
# Merge nothing at all, and most weights change. A scale is stored in 8 bits (double quantization, notebook 08). Rounded
# a second time it comes out a little different, and with it all weights of its block but the zeros. So count not what
# changes, but how far the weights move along the update:
#
# $$\text{kept} = \frac{\langle W' - W_4,\, \Delta W \rangle}{\lVert \Delta W \rVert_F^2}$$
#
# Here $\langle X, Y \rangle$ multiplies two matrices number by number and sums. An update that arrives whole gives 1.
#
# ### Exercise 10.3 · How much arrived? (two stars, 6 minutes)
#
# Write `kept_share(before, after, update)` for a weight before and after a merge, and the update that was to be added.

# %% tags=["exercise"]
from torch import Tensor


def kept_share(before: Tensor, after: Tensor, update: Tensor) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `(X * Y).sum().item()` is the product in angle brackets, as a float. The denominator is the same with `update` twice.

# %% tags=["solution"]
from torch import Tensor


def kept_share(before: Tensor, after: Tensor, update: Tensor) -> float:
    return ((after - before) * update).sum().item() / update.square().sum().item()


# %%
check("10.3", kept_share)

# %% [markdown]
# How large must an update be to arrive? The lines are random ones of rank 8, three draws in each of three layers. The
# dots are yours, each merged into its own weight.

# %%
updates = merging.trained_updates(again)
figures.kept_by_size(merging.random_curves(again), sizes=merging.SIZES, updates=updates)

# %% tags=["claim"]
assert all(update.kept < 0.1 for update in updates if update.size < 0.01)

# %% [markdown]
# $W_4$ lies on the levels, and a weight leaves its level only when the update crosses half the gap to the next. An
# update of a few per cent hardly ever does.
#
# ### What does a merged model say?
#
# There are two other bases. `W16` is the weights as they came. `dequant(W4)` is $W_4$ made wide, over which the adapter
# was trained. *Logit gap* is the largest difference to the adapter apart, over three right answers.

# %%
questions = record["answers"][:10]
sentences, events = ([entry[key] for entry in questions] for key in ("sentence", "event"))
apart = merging.answer_logits(again, tokenizer, questions[:3])


def measure(model):
    gap = (merging.answer_logits(model, tokenizer, questions[:3]) - apart).abs().max().item()
    return merging.Measured(gap, extraction.generate_answers(model, tokenizer, sentences))


# %% tags=["measured"]
ways = merging.measure_ways(again, measure)
compare(**merging.columns(ways, events))

# %% tags=["claim"]
gaps = {way: found.gap for way, found in ways.items() if isinstance(found, merging.Measured)}
others = [gap for way, gap in gaps.items() if way not in ("not merged", "dequant(W4)")]
assert again.dtype != torch.float32 or gaps["dequant(W4)"] < min(others)  # 16 bits round more

# %% [markdown]
# `dequant(W4)` is the model that was trained, up to rounding. `W16` is not: the adapter never saw those weights. `NF4`
# is about the base alone. So keep the adapter apart, or merge it into the widened weights and store 16 bits:

# %%
folder = save_merged(again, tokenizer, f"{runs}/merged", overwrite=True)
f"{sum(file.stat().st_size for file in folder.iterdir()) / 2**30:.2f} GiB"

# %% [markdown]
# transformers reads this folder alone. Are the answers those of the adapter apart?

# %%
from transformers import AutoModelForCausalLM

if merging.fits_beside(again, folder):  # or a line says why not
    alone = AutoModelForCausalLM.from_pretrained(folder, dtype=again.dtype, device_map=again.device)
    answers = extraction.generate_answers(alone, tokenizer, sentences)
    print([a == b for a, b in zip(answers, ways["not merged"].answers, strict=True)].count(True), "of 10")
    del alone

# %% [markdown]
# **How sure is this?** Storing in 16 bits rounds each weight by up to 0.4 %, so a close choice of a token may fall
# otherwise. Count a merged model's answers before you hand it on.
#
# ## Does it forget what it knew?
#
# *Deeper: nothing later needs this section.*
#
# The base has not changed, but the adapter acts in every answer. Here are general questions, without the instruction,
# and the loss on six paragraphs of this course.

# %% tags=["measured"]
asked = forgetting.load_questions()[:4]
with again.disable_adapter():
    before = forgetting.glance(again, tokenizer, asked)
after = forgetting.glance(again, tokenizer, asked)
print(f"loss on general text: base {before.loss:.2f} nats a token, with the adapter {after.loss:.2f}")
compare(question=asked, base=before.answers, with_adapter=after.answers)

# %% tags=["claim"]
assert before.loss > 0 and after.loss > 0

# %% [markdown]
# What decides how much is lost? On a GPU the small model was trained in several ways, three seeds each
# (`data/runs/forgetting.json`). Its loss is measured on what the base itself said to 55 general questions, its score on
# validation events. Which cure would you try: a lower rate, fewer steps, or some of the base's own answers to 55 other
# questions among the events?

# %%
series, start = forgetting.trade_offs("own_answers")
figures.trade_off(
    series,
    base=start,
    xlabel="loss on the base's answers, nats a token",
    ylabel="exact match",
    title="General lines keep what a high rate loses",
)

# %% tags=["claim"]
usual, high = forgetting.medians(1e-3), forgetting.medians(3e-3)
longer, long = forgetting.medians(1e-3, 240), forgetting.medians(3e-4, 240)
mixed, mixed_high = (forgetting.medians(rate, 120, 60) for rate in (1e-3, 3e-3))
assert usual["own_answers"] > 1.2 * start[0] and high["own_answers"] > 2 * start[0] and high["as_event"] > 0.1
assert long["own_answers"] < usual["own_answers"] and abs(long["validation"] - usual["validation"]) < 0.03
assert mixed["own_answers"] < start[0] and mixed_high["as_event"] == 0
assert abs(mixed["validation"] - usual["validation"]) < 0.05
assert longer["own_answers"] - usual["own_answers"] < 0.1 < longer["validation"] - usual["validation"]
assert mixed["prose"] > usual["prose"] > records.read("forgetting")["base"]["prose"]

# %% [markdown]
# At 3e-3 the loss doubles, and one general question in seven gets JSON. Fewer steps help little and cost much: at 1e-3,
# 120 in place of 240 forget hardly less and score 17 points less. A lower rate helps: 3e-4 scores in 240 steps what
# 1e-3 does in 120, and forgets a third as much. Sixty general lines help most, at hardly any cost in score. Do they
# protect everything?

# %%
series, start = forgetting.trade_offs("prose")
figures.trade_off(
    series,
    base=start,
    xlabel="loss on the course's pages, nats a token",
    ylabel="exact match",
    title="What was not rehearsed is not kept",
)

# %% [markdown]
# On the pages of this course, which are no answers, the same lines do not help. So mix in what you want to keep, and
# measure it.
#
# **How sure is this?** One small model and one narrow task; 55 questions. The lines come on top, so those runs take 30
# steps more. The rates do not know of your model: try two.
#
# ## The same cells on a GPU
#
# This notebook was also run, as it is, on an H200. The fine-tune of section 3 printed this there (recorded):

# %%
print(records.printed("notebook_10_gpu", "run = finetune(config)").partition("\ntraining ")[0])

# %% [markdown]
# The scores are those of a CPU within a point or two. Training took 38 s. (`auto` chose bfloat16 and the paged 8-bit
# AdamW there.)
#
# On a GPU the question "does it fit?" decides. Choose a model, a method and a GPU. The upper bar is our run as asked
# (two sentences at once; 16-bit floats as on a T4, 32 for full fine-tuning). The lower one is what `preflight` makes of
# it (where it refuses, the lightest way), with a tenth of the need to spare. It refuses LoRA for the 7B on a T4. What
# about QLoRA? And which knob turns on a GPU of 8 GiB?

# %%
gpu_fits.explore_fits(longest)

# %% [markdown]
# With QLoRA the 7B fits a T4, and with gradient checkpointing 8 GiB. That is the case that it was made for. (Our
# `finetune` makes only the norms float32. After section 2's `prepare_model_for_kbit_training` embedding and output
# head would be float32 too: 2 GiB more.)
#
# A prediction is worth what a measurement says of it. Longer texts (512 tokens, rank 16, gradient checkpointing) were
# tried on an H200 that was limited to 14.5 GiB:

# %%
compare(**gpu_fits.measured_columns())

# %% [markdown]
# These runs had the published shapes and *random* weights, for three steps: that is enough to measure memory, and says
# nothing about answers. No fine-tune of the 1.7B or the 7B with its real weights has been recorded for this course. If
# you run one, you are the first.
#
# What a GPU was used for is the small model with all 1,600 sentences: 200 steps of eight, three seeds a method. Here
# are those runs, drawn as in section 3. A band spans the seeds.

# %%
methods = {"full": "full fine-tuning", "lora": "LoRA, r = 8", "qlora": "QLoRA, r = 8"}
recorded = {key: records.runs("events_gpu_final", method=key, r=8, backend="peft") for key in methods}
curves = {name: [run["losses"][::5] for run in recorded[key]] for key, name in methods.items()}
ends = ", ".join(f"{name} {sum(curve[0][-10:]) / 10:.3f}" for name, curve in curves.items())
text = f"Every fifth loss, seeds 0 to 2. Mean of the last ten of seed 0: {ends}."
figures.lines(curves, x=range(1, 201, 5), xlabel="optimizer step", ylabel="loss (nats)", log_y=True, alt=text)

# %%
parts = {"seen patterns": "exact_match", "unseen patterns": "exact_match_unseen"}
right = {
    name: [[run[part] for part in parts.values()] for run in recorded[key]] for key, name in methods.items()
}
medians = {
    name: [sorted(column)[1] for column in zip(*shares, strict=True)] for name, shares in right.items()
}
text = "; ".join(f"{name} {seen:.1%} and {unseen:.1%}" for name, (seen, unseen) in medians.items())
text = f"Median of three seeds, seen and unseen patterns: {text}."
figures.bars(right, groups=list(parts), ylabel="exact match", number_format="{:.0%}", alt=text)

# %% [markdown]
# On the seen patterns LoRA lies a point above full fine-tuning, two sentences in 200, and QLoRA's range spans both. On
# the unseen ones three seeds spread too far to tell. On this GPU, alone on it, QLoRA took 50 s, LoRA 40 and full
# fine-tuning 21 (`data/runs/events_gpu_alone.json`): on so small a model, adapters save memory and no time.
#
# ## More than one GPU
#
# Two ways. With *data parallelism* (DDP) each GPU holds the whole model and takes a part of each step's sentences;
# the gradients are averaged. With *sharding* (FSDP) each GPU holds a part of every weight. The rest of a layer is
# gathered when the layer computes, forwards and again backwards, and dropped again.
# [accelerate](https://huggingface.co/docs/accelerate) does both. Its launcher goes in front of the command for one GPU,
# in the repository's folder. `--batch-size` counts over all GPUs:
#
# ```sh
# accelerate launch --config_file configs/ddp.yaml --num_processes 2 -m lora_edu.llm.finetune \
#     --output runs/two --batch-size 8 --micro-batch-size 4
# ```
#
# Recorded on two H200, with as many sentences a step as on one: the real model, 32 a step.

# %%
compare(**records.scaling_columns("scaling_135m"))

# %% [markdown]
# And random weights in the shape of Mistral-7B, eight sentences a step:

# %%
compare(**records.scaling_columns("scaling_7b"))

# %% [markdown]
# DDP keeps the loss, about doubles the speed, saves no memory. FSDP is slower, and its loss is off: accelerate had
# gathered the weights, added the gradients and returned the loss in bfloat16, which near 11 moves in steps of 0.06.
# Since then each keeps its dtype. That was recorded on one H200 with two processes that share it, which shows losses
# and memory, and no speed:

# %%
shared = records.read("scaling_one_gpu")["runs"]
compare(
    model=[run["shape"] for run in shared],
    way=[run["way"] if run["processes"] == 1 else f"two processes, {run['way']}" for run in shared],
    GiB_a_process=[f"{max(run['training_peak_gpu_memory_bytes']) / 2**30:.2f}" for run in shared],
    mean_loss=[f"{sum(run['losses']) / len(run['losses']):.3f}" for run in shared],
)

# %% [markdown]
# The losses agree. FSDP's peak is a fifth lower for the 7B and hardly lower for the small model, where activations are
# most of it. Before the first step each GPU holds the whole base and its part. So FSDP makes room for longer texts, not
# for a base that one GPU cannot hold.
#
# ## Your own data
#
# One file in, an adapter to chat with out. Each line is a JSON object with `prompt` and `completion` (or `messages`, as
# in the [TRL format](https://huggingface.co/docs/trl/dataset_formats)). We play that the 122 lines of a robot from
# notebook 11 are yours.

# %%
from pathlib import Path

own = [{"prompt": turn["user"], "completion": turn["reply"]} for turn in load_persona("robot")]
_ = Path(runs, "mine.jsonl").write_text("\n".join(map(json.dumps, own)), encoding="utf-8")
own[41]

# %% [markdown]
# Three lines are the recipe: settings, `finetune`, ask. Between them we play an accident: the last checkpoint, of step
# 16, and the record, which is written last, are deleted, as if the kernel had died before. The second call resumes.

# %% tags=["measured"]
import shutil
from dataclasses import replace

settings = FinetuneConfig(
    f"{runs}/mine", MODEL, dataset=f"{runs}/mine.jsonl", steps=16, save_every=8, overwrite=True
)
unbroken = finetune(settings).record["losses"]
merging.free_memory()
shutil.rmtree(f"{runs}/mine/checkpoints/checkpoint-16")
Path(runs, "mine", "run.json").unlink()
talker = finetune(replace(settings, overwrite=False, resume=True))
questions = json.loads((DATA / "personas" / "held_out.json").read_text())[:3]
asked = [[{"role": "user", "content": question}] for question in questions]
replies = extraction.generate_turns(talker.model, talker.tokenizer, asked)
compare(question=questions, reply=replies)

# %%
difference = max(abs(a - b) for a, b in zip(unbroken, talker.record["losses"], strict=True))
assert difference < 0.1 and (not small or all("LOG" in reply for reply in replies))
talker.record["resumed_from_step"]

# %% [markdown]
# The second call went on from the checkpoint of step 8 and came to the losses of the unbroken run. The questions of the
# table are new to the adapter. After 32 lines it knows how a reply opens; the sense, and the three digits that "LOG"
# takes in the data, would need more. Talk to it (this needs a running kernel):

# %%
from contextlib import nullcontext


def reply(speaker, messages):
    with talker.model.disable_adapter() if speaker == "base" else nullcontext():
        return extraction.generate_turns(talker.model, talker.tokenizer, [messages[-1:]])[0]


chat(reply, ["my adapter", "base"])

# %% [markdown]
# For a file of your own: a hundred lines of one kind are a start, and keep some back to ask afterwards. The command
# line does the same, and `auto` takes the largest of the three models that fits:
#
# ```sh
# python -m lora_edu.llm.finetune --output runs/mine --dataset mine.jsonl --model auto
# ```
#
# ## Where to go from here
#
# - **More data, then a larger model.** Section 3 says what 1,600 sentences in place of 240 brought.
# - **The loop that many use** is [TRL](https://huggingface.co/docs/trl/sft_trainer)'s `SFTTrainer`. It takes lines such
#   as yours and a `LoraConfig`.
# - **Other adapters**: [peft](https://huggingface.co/docs/peft), and notebook 11.
#
# ### When not to use it
#
# On a model this small, 4 bits save little: a fifth of it is the embedding, which stays wide, and the activations of
# training do not shrink at all. Dequantizing costs time at every step. The 4 bits pay on a model of billions of
# weights, where they decide whether it fits. And if three examples in the prompt had been enough, no training would
# have been the better answer.

# %%
progress("10")

# %% [markdown]
# ## Summary
#
# - QLoRA here: a frozen NF4 base, float32 adapters beside all linear layers of its blocks. `preflight` knows whether it
#   fits.
# - Exact match on held-out sentences is the score, not the loss. Labels stand on the answer and its end of turn.
# - The base stays the same, bit for bit. The adapter is a file of 9.8 MB that any process can load.
# - Merged and rounded to NF4 again, it is gone. Keep it apart, or merge it into the widened weights.
# - Limit: sentences built in new ways are much harder. Of larger models only memory and speed were measured.
#
# **Next question:** one base, many adapters. Can one batch serve three tasks at once? (Notebook 11.)
