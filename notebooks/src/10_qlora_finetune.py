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
# Can a model learn a new job on your machine? The job: read a sentence about an event, and write the event as JSON.
#
# **You will** load a model in 4 bits, train an adapter with the libraries that professionals use, watch the loss fall,
# count what is right, save, merge, and take data of your own.
#
# **You need** Python. Notebooks 04 to 09 give the reasons. Until then: a *token* is a piece of text with a number. The
# *base* is the model as it came. An *adapter* is two thin matrices $B$ and $A$ beside a weight; only they train.
#
# **Time:** {minutes}. Up to section 4 two CPU cores compute for five minutes with the small model, for fifteen where
# other programs run too. **Memory:** 2 GB.

# %%
ensure_packages("bitsandbytes")

import json
import os
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_edu.classroom import figures, records
from lora_edu.classroom.checks import check
from lora_edu.classroom.experiments import by_hand, capstone, forgetting, gpu_fits, live_loss, merging
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import chat, compare, predict
from lora_edu.llm import tiers
from lora_edu.llm.base_model import load_tokenizer, locate, make_ready
from lora_edu.llm.data import doctor, extraction, load_persona
from lora_edu.llm.export import save_merged
from lora_edu.llm.finetune import FinetuneConfig, finetune, summary
from lora_edu.llm.finetune.arguments import checkpointing_arguments
from lora_edu.llm.finetune.callbacks import StopWhenDiverged
from lora_edu.llm.finetune.plan import make_plan

_ = os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one GPU, where there are several

# %%
capstone.draw_job()

# %% [markdown]
# Recorded with the course's small model, after 240 sentences.
#
# ## Which model fits this machine?

# %% tags=["nbval-ignore-output"]
proposal = tiers.propose()
print(proposal.machine)
compare(name=[row.tier.name for row in proposal.rows], **proposal.columns())

# %% tags=["claim"]
assert "smollm2-135m" in tiers.TIERS and proposal.name in tiers.TIERS

# %% [markdown]
# Memory is predicted for the run below. *Risky*: of the QLoRA authors' 7B runs in float16, [80 %
# finished](https://github.com/artidoro/qlora#known-issues-and-limitations). Start with the small model, whatever is
# proposed: it takes minutes. The cells stay the same. Colab opens this page on a T4. If the line above says *no GPU*,
# choose *Runtime > Change runtime type > T4 GPU*, then start at the top.
#
# When Colab's machine goes, its files go too. Section 4 keeps the adapter, *File > Save a copy in Drive* what you
# write. To keep whole runs, mount your Drive first, and name a folder on it below:
#
# ```python
# from google.colab import drive
#
# drive.mount(str(Path.cwd() / "drive"))
# ```

# %%
SMALL = "smollm2-135m"
MODEL = SMALL  # or a name of the table, in quotes
DOWNLOAD = False  # True: fetch it, even above 1 GB
runs = os.environ.get("LORA_EDU_RUNS", "runs")  # or "drive/MyDrive/runs"

# %%
MODEL = tiers.chosen(MODEL)
short = {"before_events": 25, "test_events": 100, "cuda_graphs": "off"}  # Trainer, below, has no graphs
settings = FinetuneConfig(f"{runs}/qlora", MODEL, **short, allow_download=DOWNLOAD)
plan = make_plan(settings)  # counts the memory, as in notebook 09, before a weight is loaded
recipe, questions, ledger = plan.recipe, plan.questions, plan.ledger
print(by_hand.settled(plan))

# %% [markdown] tags=["slide-skip"]
# Data of your own? Run the cells up to section 4, then go to [Your own data](#Your-own-data).

# %% [markdown]
# ## 1. What can the base do before we train it?
#
# [transformers](https://huggingface.co/docs/transformers) brings model and training,
# [bitsandbytes](https://huggingface.co/docs/bitsandbytes) the 4-bit weights, [peft](https://huggingface.co/docs/peft)
# the adapter. All linear layers of the blocks lie in 4 bits (NF4: one of 16 values, notebook 08). The first table
# (*embedding*), the last layer (*head*) and the norms stay in 16 or 32.

# %%
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

four_bit = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=recipe.dtype,
    llm_int8_skip_modules=["lm_head"],
)

# %%
base = AutoModelForCausalLM.from_pretrained(
    **locate(MODEL), dtype=recipe.dtype, quantization_config=four_bit, device_map={"": recipe.device}
)
tokenizer = load_tokenizer(MODEL)
base = make_ready(base, tokenizer)  # greedy answers, and what bitsandbytes needs on some CPUs

# %% [markdown]
# A chat model reads one text. Its **chat template** marks who speaks:

# %%
conversation = extraction.chat(questions.seen[0]["sentence"])
print(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))

# %% [markdown]
# Now 25 test sentences. Their people, activities and places occur in no training sentence. An answer is right if its
# JSON equals the event, letter by letter; words around it are forgiven. Then once more, with three solved examples in
# each prompt:

# %% tags=["measured"]
most = {"at_once": questions.batch_size}  # fewer answers at once where memory is short
said = {"before": by_hand.ask(base, tokenizer, questions.before, **most)}
said["few_shot"] = by_hand.ask(base, tokenizer, questions.before, questions.worked, **most)

# %% tags=["claim"]
assert MODEL != SMALL or (said["before"]["right"] == 0 and 0 < said["few_shot"]["right"] < 13)

# %%
predict("10.1", right=said["before"]["right"], asked=said["before"]["n"])

# %%
sentences = [line["sentence"] for line in questions.before[:3]]
compare(sentence=sentences, base_model=said["before"]["answers"][:3])

# %% [markdown]
# ## 2. What trains, and what is scored?
#
# LoRA leaves each weight $W$ frozen and adds $BA$ beside it:
#
# $$y = W x + \frac{\alpha}{r}\, B A x$$
#
# ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.1; here $r = 8$, $\alpha = 16$.) QLoRA puts it beside
# **all** linear layers of the blocks, over a base in 4 bits ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314),
# section 4).

# %%
counts = by_hand.counts(base, r=8)

# %%
predict("10.2", **counts)

# %% [markdown]
# First a preparation. What flows between the blocks is kept in float32: in float16 it may overflow. Norms with float32
# weights see to that. (On a CPU all is float32 already. peft's `prepare_model_for_kbit_training` would widen embedding
# and head too: 2 GiB more for Qwen2.5-7B.)

# %%
for module in base.modules():
    if type(module).__name__.endswith("Norm"):
        module.float()
head = base.get_output_embeddings()
head.register_forward_pre_hook(lambda head, inputs: (inputs[0].to(head.weight.dtype), *inputs[1:]))
base.config.use_cache = False  # of use only while it writes

# %%
from peft import LoraConfig, get_peft_model
from transformers import set_seed

set_seed(0)  # A is drawn at random, B is zero
lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(base, lora)
model.print_trainable_parameters()

# %%
untrained = by_hand.fingerprint(model, tokenizer)  # for section 4

# %% [markdown]
# Only the answer is scored. Its last token ends the turn. Leave that out, and the model never learns to stop.

# %%
live_loss.draw_scored(tokenizer, plan.examples[0])

# %% [markdown]
# Unscored tokens have the label -100. The others are of two kinds: the **form**, which is the same in every answer, and
# values, which are **copied** from the sentence.
#
# ## 3. What is learned first?

# %%
predict("10.3")

# %% [markdown]
# A step sees two sentences. The rate rises over 5 steps, then falls to zero. Its peak is 1e-3. From a billion
# parameters on it is 2e-4, the QLoRA paper's for 7B (appendix B).

# %%
schedule = {
    "max_steps": recipe.steps,
    "per_device_train_batch_size": recipe.micro_batch_size,
    "gradient_accumulation_steps": recipe.micro_batches,  # sentences that memory has no room for come later
    "learning_rate": recipe.learning_rate,
    "warmup_steps": 5,
    "lr_scheduler_type": "linear",
}

# %% tags=["slide-skip"]
arithmetic = {
    "bf16": recipe.dtype == torch.bfloat16,
    "fp16": recipe.dtype == torch.float16,
    "optim": "paged_adamw_8bit" if recipe.device == "cuda" else "adamw_torch_fused",
    "use_cpu": recipe.device == "cpu",
    "seed": 0,
    **checkpointing_arguments(recipe),  # if memory is short
}

# %%
watched = {"logging_steps": 1, "logging_nan_inf_filter": False, "eval_strategy": "steps", "eval_steps": 20}
quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
held_out = [
    extraction.encode_example(tokenizer, line) for line in questions.seen[:10] + questions.unseen[:10]
]

# %%
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

live = live_loss.LiveLoss(tokenizer)
arguments = TrainingArguments(f"{runs}/qlora", **schedule, **arithmetic, **watched, **quiet)
collator = DataCollatorForSeq2Seq(tokenizer)
watchers = [live, StopWhenDiverged(recipe)]
trainer = Trainer(
    model, arguments, collator, train_dataset=plan.examples, eval_dataset=held_out, callbacks=watchers
)
trainer.remove_callback(PrinterCallback)

# %%
_ = trainer.train()

# %% tags=["claim"]
assert len(live.losses) == recipe.steps
form, copied = sum(live.form[-10:]), sum(live.copied[-10:])
assert form < copied, f"{MODEL} did not learn the form first, as this page says. Nothing is broken: run on"
assert MODEL != SMALL or (live.losses[0] > 1 and sum(live.losses[-10:]) / 10 < 0.15)

# %% [markdown]
# The loss is $-\ln$ of the right token's probability: 0.1 (in *nats*) is 90 %. Thick lines are means over ten steps.
# With the small model the form soon costs nothing, and the copying remains. The diamonds are 20 test sentences, half of
# them of other patterns. (The course's validation lines are in the training file.) Nothing is
# chosen by them.
#
# One wrong letter costs the loss little and the event everything. So we count. (On a GPU *allocated* is the memory that
# was predicted; *reserved* is all that PyTorch has taken. On a CPU the peak is the whole kernel's.)

# %% tags=["measured"]
model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # as it was before
said["seen"] = by_hand.ask(model, tokenizer, questions.seen, **most)
said["unseen"] = by_hand.ask(model, tokenizer, questions.unseen, title="unseen patterns", **most)
record = by_hand.record(plan.folder, said, live, ledger)
print(summary(record))
print(live.picture().alt)
compare(**by_hand.wrong_answers(said["unseen"], questions.unseen))

# %% tags=["claim"]
scores = by_hand.shares(record)
assert MODEL != SMALL or (scores[2] >= 0.7 and scores[2] > scores[1] + 0.3 and scores[3] >= 0.4)
recorded = [records.read(f"events_qlora_cpu_seed{seed}") for seed in range(3)]
assert sorted(run["exact_match"] for run in recorded) == [0.87, 0.905, 0.92]
assert sorted(run["exact_match_unseen"] for run in recorded) == [0.58, 0.58, 0.68]

# %%
figures.bars(
    {"exact match": by_hand.shares(record)},
    groups=by_hand.GROUPS,
    ylabel="share of events",
    number_format="{:.0%}",
    top=1.1,
    title="Events that are right, before and after training",
    alt="Exact match: the base without and with examples; then the trained model, on seen and on unseen patterns.",
)

# %% [markdown]
# The table holds wrong answers to *unseen* patterns, sentences built as none in training. They are also longer, and
# many name a second person or day.
#
# **How sure is this?** This is one seed. Three recorded seeds of the small model got 87 to 92 % of the seen and 58 to
# 68 % of the unseen patterns right.

# %% [markdown]
# ## 4. Is the base still there?

# %%
predict("10.4", **counts)

# %%
trained = by_hand.fingerprint(model, tokenizer)
trained.weights_sha256 == untrained.weights_sha256, (trained.logits - untrained.logits).abs().max().item()

# %% [markdown]
# `True`: one hash over all weights of the base, codes and scales, is the same as before. The number is how far the
# scores of a sentence's tokens have moved with the adapter off. So the adapter is all you keep:

# %%
adapter = by_hand.new_folder(f"{runs}/qlora/adapter")
model.save_pretrained(adapter)
by_hand.name_base(adapter, MODEL)  # not this machine's folder, which peft has written
{file.name: f"{file.stat().st_size / 1e3:,.0f} kB" for file in sorted(adapter.iterdir())}

# %% [markdown]
# On Colab, paste into a new cell what you want: the download, or the copy to your Drive.
#
# ```python
# import shutil
# from google.colab import drive, files
#
# files.download(shutil.make_archive("adapter", "zip", adapter))
# drive.mount(str(Path.cwd() / "drive"))
# shutil.copytree(adapter, "drive/MyDrive/adapter", dirs_exist_ok=True)
# ```
#
# Now write a sentence between the quotes, and run the cell. Try to break it: two people, two days, no time.

# %%
my_sentence = ""
if my_sentence:
    print(extraction.generate_answers(model, tokenizer, [my_sentence])[0])

# %% [markdown]
# ## Does it live without this kernel?
#
# *Deeper: nothing later needs this section.*
#
# This program knows only the folder:

# %%
program = """
import json, sys
from peft import PeftModel
from lora_edu.llm import base_model, data, finetune

base, tokenizer = base_model.load_base_model(sys.argv[1], quantization="nf4")
finetune.backends.widen_residual_stream(base)  # the norms, as above
model = PeftModel.from_pretrained(base, sys.argv[2])
print(json.dumps(data.extraction.generate_answers(model, tokenizer, sys.argv[3:], max_new_tokens=32)))
"""

# %%
asked = [MODEL, str(adapter.resolve()), *sentences]
elsewhere = json.loads(by_hand.run_elsewhere(program, asked, root))
elsewhere == extraction.generate_answers(model, tokenizer, sentences, max_new_tokens=32)

# %% [markdown]
# `True`: a fresh process gives the same answers. (On a GPU one may differ: 16-bit sums depend on their order.)

# %% [markdown]
# ## How is it counted?
#
# *Deeper: nothing later needs this section.*
#
# ### Exercise 10.1 · Count what is right (two stars, 8 minutes)
#
# Write `exact_match(answers, references)`: the share, between 0 and 1, of answers that are JSON and equal their
# reference. An answer that is not JSON alone is wrong, and must not stop the count. (Section 1 forgives words around
# it.)


# %% tags=["exercise"]
def exact_match(answers: list[str], references: list[dict]) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `json.loads(answer)` raises `json.JSONDecodeError` when the text is no JSON. Two dicts are equal when they have the
# same keys and values, in any order.


# %% tags=["solution"]
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
# ### Exercise 10.2 · Count what trains (one star, 5 minutes)
#
# Write `trainable_fraction(model)`: the share of all parameters that training will change, between 0 and 1. Every
# parameter has `.numel()` and `.requires_grad`.


# %% tags=["exercise"]
def trainable_fraction(model: nn.Module) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Sum `p.numel()` over `model.parameters()` twice: once over those with `p.requires_grad`, once over all.


# %% tags=["solution"]
def trainable_fraction(model: nn.Module) -> float:
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable / sum(p.numel() for p in model.parameters())


# %%
check("10.2", trainable_fraction)

# %% [markdown]
# Of a 4-bit model, a right function still says more than peft does. One weight:

# %%
weight = next(iter(merging.adapted_layers(model).values())).get_base_layer().weight
weight.numel(), weight.dtype, weight.quant_state.shape

# %% [markdown]
# `numel()` counts stored **bytes**, and two 4-bit codes lie in each: half of the numbers that the last shape holds.
# peft knows these weights by their class, and counts each byte twice.
#
# ## What if it does not fit?
#
# *Deeper: nothing later needs this section.*
#
# `preflight` compares the prediction with the memory that is there, less a reserve. Here there is 1.5, 1.07 and 0.5
# times as much as is needed:

# %%
print(*by_hand.decisions(ledger, (1.5, 1.07, 0.5)), sep="\n")

# %% [markdown]
# Where memory is short, *gradient checkpointing* keeps only each block's input and computes the rest twice. Then fewer
# sentences are in memory at once, trained on or answered. Both cost only time. Where they do not help enough it
# refuses, and says what is missing.
#
# Choose a model, a method and a GPU. The bars are our run in a T4's 16 bits (full fine-tuning: 32), as asked and as
# `preflight` changes it.

# %%
longest = max(len(example["input_ids"]) for example in plan.examples)
gpu_fits.explore_fits(longest)

# %% [markdown]
# An earlier version of this notebook was run on an H200 held to what a T4 has: 14.5 GiB, products in float16.

# %%
compare(**gpu_fits.capped_columns())

# %% [markdown]
# Random weights have the published shapes; their answers say nothing. The training is the one above; the seconds are an
# H200's, shared by two models. The last column is "Your own data": shorter texts, and one call starts all ([CUDA
# graphs](https://github.com/OWNER/REPO/blob/main/docs/speed.md)). No T4 was at hand. If you have one, [record
# it](https://github.com/OWNER/REPO/blob/main/CONTRIBUTING.md). More is [on a
# page](https://github.com/OWNER/REPO/blob/main/docs/gpus.md), also of several GPUs.
#
# ## 5. Can the adapter be merged into the 4-bit base?
#
# *Deeper: nothing later needs this section.*
#
# To merge is to add the update to the weight for good, $W + \frac{\alpha}{r} B A$ (notebook 04). Whoever runs the
# result needs no peft. But our $W$ lies in 4 bits. Let $W_4$ be what the model computes with: levels of NF4 times
# scales. peft can merge into it: it adds, and rounds the sum to NF4 again.

# %%
predict("10.5")

# %%
changed = {"your adapter": merging.changed_by_peft(model)}
with merging.update_of_zero(model):
    changed["nothing"] = merging.changed_by_peft(model)
compare(merged=list(changed), weights_that_change=[f"{round(share, 1):.0%}" for share in changed.values()])

# %% tags=["claim"]
spread = max(changed.values()) - min(changed.values())
assert min(changed.values()) > 0.8 and spread < 0.05, (
    f"of {MODEL} the page's next sentence is not true: run on"
)

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
def kept_share(before: Tensor, after: Tensor, update: Tensor) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `(X * Y).sum().item()` is the product in angle brackets, as a float. The denominator is the same with `update` twice.


# %% tags=["solution"]
def kept_share(before: Tensor, after: Tensor, update: Tensor) -> float:
    return ((after - before) * update).sum().item() / update.square().sum().item()


# %%
check("10.3", kept_share)

# %% [markdown]
# How large must an update be to arrive? The lines are random ones of rank 8, three draws in each of three layers. The
# dots are yours, each merged into its own weight.

# %% tags=["measured"]
updates = merging.trained_updates(model)
figures.kept_by_size(merging.random_curves(model), sizes=merging.SIZES, updates=updates)

# %% tags=["claim"]
small = [update.kept for update in updates if update.size < 0.01]
assert max(small, default=0) < 0.1, f"of {MODEL} the page's next sentences are not true: run on"

# %% [markdown]
# $W_4$ lies on the levels, and a weight leaves its level only when the update crosses half the gap to the next. An
# update below one per cent hardly ever does.
#
# ### What does a merged model say?
#
# There are two other bases. `W16` is the weights as they came, read again. `dequant(W4)` is $W_4$ made wide, over which
# the adapter was trained. *Logit gap* is the largest difference to the adapter apart, over three right answers.

# %%
again = merging.is_light(model)  # or True: above 1 GB, too, read it again and write it to `runs`, merged
few = questions.seen[:10]
sentences, events = ([line[key] for line in few] for key in ("sentence", "event"))
apart = merging.answer_logits(model, tokenizer, few[:3])


def measure(model):
    gap = (merging.answer_logits(model, tokenizer, few[:3]) - apart).abs().max().item()
    return merging.Measured(gap, extraction.generate_answers(model, tokenizer, sentences))


# %% tags=["measured"]
ways = merging.measure_ways(model, measure, again)
compare(**merging.columns(ways, events))

# %% tags=["claim"]
gaps = {way: found.gap for way, found in ways.items() if isinstance(found, merging.Measured)}
others = [gap for way, gap in gaps.items() if way not in ("not merged", "dequant(W4)")]
nearest = gaps["dequant(W4)"] < min(others)
assert model.dtype != torch.float32 or nearest, f"of {MODEL} the page's next sentence is not true: run on"
assert MODEL != SMALL or gaps["NF4"] > 0.8 * gaps["base alone"]

# %% [markdown]
# `dequant(W4)` is the model that was trained, up to rounding. `W16` is not: the adapter never saw those weights. With
# the small model `NF4` is about the base alone. So keep the adapter apart, or merge it into the widened weights and
# store 16 bits. transformers reads that folder alone. Are the answers those of the adapter apart?

# %%
if again:  # above 1 GB only if you said so
    folder = save_merged(model, tokenizer, f"{runs}/merged", overwrite=True)
    print(f"{sum(file.stat().st_size for file in folder.iterdir()) / 2**30:.2f} GiB")

# %%
if again and merging.fits_beside(model, folder):  # or a line says why not
    alone = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype, device_map=model.device)
    said_alone = extraction.generate_answers(alone, tokenizer, sentences)
    same = [one == other for one, other in zip(said_alone, ways["not merged"].answers, strict=True)]
    print(f"at least eight of ten: {sum(same) >= 8}")
    del alone

# %% [markdown]
# **How sure is this?** Storing in 16 bits rounds each weight by up to 0.4 %, and on a GPU the norms stay in 16 bits. So
# a close choice of a token may fall otherwise. Count a merged model's answers before you hand it on.
#
# ## Does it forget what it knew?
#
# *Deeper: nothing later needs this section.*
#
# The base has not changed, but the adapter acts in every answer. Here are general questions, without the instruction,
# and the loss on six paragraphs of this course.

# %% tags=["measured"]
asked = forgetting.load_questions()[:4]
with model.disable_adapter():
    before = forgetting.glance(model, tokenizer, asked)
after = forgetting.glance(model, tokenizer, asked)
print(f"loss on general text: base {before.loss:.2f} nats a token, with the adapter {after.loss:.2f}")
compare(question=asked, base=before.answers, with_adapter=after.answers)

# %% tags=["claim"]
assert MODEL != SMALL or after.loss > before.loss

# %% [markdown]
# What decides how much is lost? On a GPU the small model was trained in several ways, three seeds each
# (`data/runs/forgetting.json`). Its loss is measured on what the base itself said to 55 general questions, its score on
# validation events they had not seen. Which cure would you try: a lower rate, fewer steps, or some of the
# base's own answers to 55 other questions among the events?

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
# steps more. Fewer than 120 steps were not compared. The rates do not know of your model: try two.

# %% [markdown]
# ## Your own data
#
# A row of your file (`.jsonl`, `.json`, `.csv`) holds `prompt` and `completion`, or `messages`. Say that 122 lines of a
# robot are yours. For a file of your own (Colab: drag it into the file panel), change `file` and `columns`. The
# **doctor** names what breaks a run, and counts what spoils one.

# %%
rows = [{"question": turn["user"], "answer": turn["reply"]} for turn in load_persona("robot")]
robot = Path(runs, "robot.jsonl")
_ = robot.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

# %%
file = str(robot)  # or "my.jsonl"
columns = ["prompt=question", "completion=answer"]  # [] where they are called prompt and completion
report = doctor.examine(file, tokenizer, columns=columns)
print(str(report).partition("\n\n")[0])

# %%
figures.scored_rows(dict(zip(["shortest", "middle", "longest"], report.examples, strict=False)))

# %% [markdown]
# `finetune` does in one call what sections 1 to 4 did, with checkpoints and a record. A tenth of the questions is kept
# back. Their loss is measured at each checkpoint, four or five times an epoch, and the best one is kept. After two
# without a new best it stops. (`loaded` hands over the base in memory; without it one is loaded.)

# %%
mine = {"dataset": file, "columns": columns, "validation_fraction": 0.1, "patience": 2}
mine |= {"over_length": "drop"}  # rows over 512 tokens; "cut" takes their end away, "refuse" stops
mine |= {"save_every": max(1, report.rows // 10)}  # steps from one checkpoint to the next
mine |= {"steps": 32}  # 64 rows; for your own file {"epochs": 3} instead
config = FinetuneConfig(f"{runs}/mine", MODEL, overwrite=True, **mine)

# %% tags=["measured"]
talker = finetune(config, loaded=(model.unload(), tokenizer))
print(summary(talker.record))

# %% tags=["claim"]
losses = {entry["step"]: entry["loss"] for entry in talker.record["eval_losses"]}
assert losses[talker.record["kept_step"]] == min(loss for step, loss in losses.items() if step)

# %% [markdown]
# Cut off? Write `resume=True` in place of `overwrite=True`, and run on: it starts at the last checkpoint, if `runs` is
# still there. To keep this adapter, set `adapter = talker.folder / "adapter"` and use section 4's lines. Now talk
# to it, where a kernel runs. (After 32 steps the small model repeats itself.)


# %%
def reply(speaker, messages):
    with talker.model.disable_adapter() if speaker == "base" else nullcontext():
        yield from extraction.stream_turn(talker.model, tokenizer, messages[-1:])


chat(reply, ["my adapter", "base"])

# %% [markdown] tags=["slide-skip"]
# ## Recipes
#
# *Deeper: nothing later needs this section.*
#
# Each setting is a flag; `--help` lists them. (In a notebook: first `%env PYTHONPATH={root}`, then `!` before
# each command.)
#
# ```sh
# python -m lora_edu.llm.finetune --output runs/hub --dataset owner/name --dataset-config en --split train \
#     --columns prompt=question completion=answer --epochs 2 --over-length drop --validation-fraction 0.1 --model auto \
#     --allow-download
# ```
#
# Not run here: an adapter on the hub (the base that `adapter_config.json` names must be there, too), with a
# [token](https://huggingface.co/settings/tokens) that may write:
#
# ```sh
# hf auth login
# hf upload your-name/your-adapter runs/mine/adapter .
# ```
#
# Nor Kaggle's two T4s, half of each step's rows on each (this page shows its kernel one alone):
#
# ```sh
# CUDA_VISIBLE_DEVICES=0,1 accelerate launch --config_file {root}/configs/ddp.yaml --num_processes 2 \
#     -m lora_edu.llm.finetune --output runs/two --dataset mine.jsonl --batch-size 4 --micro-batch-size 2
# ```
#
# In [TRL](https://huggingface.co/docs/trl/sft_trainer) the same file means something else. `prompt` and `completion` as
# plain text get **no chat template**. Of `messages`, **every** token is scored, or with `assistant_only_loss=True` the
# assistant's turns, if the template marks them. That is our `learn="all"`; our default is the last turn. We pack
# nothing: the doctor counts little padding.

# %% [markdown]
# ### When not to use it
#
# On a small model 4 bits save little: the embedding stays wide, and activations do not shrink. And if three examples in
# the prompt are enough, train nothing.

# %%
progress("10")

# %% [markdown]
# ## Summary
#
# - QLoRA here: a frozen NF4 base, and float32 adapters beside all linear layers of its blocks.
# - Labels stand on the answer and its end of turn. The small model learns the form first, then the copying.
# - Exact match on new sentences is the score, not the loss.
# - The base stays the same, bit for bit. The adapter is a small file.
# - Limit: sentences built in new ways are much harder for the small model.
#
# To run your adapter without Python, in llama.cpp or a browser: notebook [13](13_out_of_the_notebook.ipynb).
#
# **Next question:** one base, many adapters. Can one batch serve three tasks at once? (Notebook 11.)
