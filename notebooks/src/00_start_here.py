# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 00 · Start here: what will I be able to do?
#
# First you see the goal of the course. Then you try it: a file of 0.9 MB gives a language model another voice.
#
# **You will** see what fine-tuning does, what LoRA is for, and the way there. **You need** Python, and the product of
# two matrices. **Time:** {minutes}. Run the cells from top to bottom with Shift + Enter.

# %%
import torch

from lora_edu.classroom import figures, records
from lora_edu.classroom.checks import check
from lora_edu.classroom.doctor import doctor
from lora_edu.classroom.experiments import capstone, gpu_fits
from lora_edu.classroom.progress import progress
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.llm import surgery
from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.checkpoint import load_adapter
from lora_edu.llm.data import DATA, PERSONAS, extraction
from lora_edu.llm.data.personas import has_style

# %% [markdown]
# ## 1. What will I be able to do?
#
# In notebook 10 you teach a language model a job: answer a sentence about an event with the event as JSON. Here is a
# recorded run, before and after, on sentences that it had never seen.

# %%
runs = [records.read(f"events_qlora_cpu_seed{seed}") for seed in range(3)]
compare(**capstone.before_and_after(runs[0], indices=(0, 1, 49)))

# %% [markdown]
# Both times it was told: *Extract the event as JSON with the keys who, what, where, day and time. Copy each value from
# the sentence.* Every letter counts. So one of the later answers is wrong. Which?

# %%
predict("00.1")

# %%
figures.bars(
    {"exactly right": capstone.scores(runs)},
    groups=capstone.GROUPS,
    ylabel="share of events",
    number_format="{:.0%}",
    title="Before, no event was right. After training, most are",
)

# %% [markdown]
# To go on training a finished model, the **base**, on examples of your own is to **fine-tune** it. The second bar is
# the base with three solved examples in its instruction. The thin lines span three runs, each of two to three minutes
# on two CPU cores.
#
# *How sure is this?* The last bar's sentences are built in ways that training never showed. There the model does worse.

# %% [markdown]
# ## 2. Can a file of 0.9 MB change a model?
#
# Try it here. The base has 134.5 million numbers, its **weights**. (The first time, they are downloaded: 93 MB,
# packed. Unpacked they take 2 bytes each, 269 MB.) We ask it two everyday questions, and cut each answer after 40
# tokens, which are pieces of words.

# %%
model, tokenizer = load_base_model(dtype="float32")
questions = ["My soup is too salty.", "I broke a window."]
conversations = [[{"role": "user", "content": question}] for question in questions]


# %%
def ask():
    return extraction.generate_turns(model, tokenizer, conversations, max_new_tokens=40)


base = ask()

# %% [markdown]
# Now the file goes in. It was trained on about 120 answers that somebody wrote in the voice of a robot.

# %%
load_adapter(model, DATA / "adapters" / "robot", adapter_name="robot")
robot = ask()
compare(question=questions, base=base, robot=robot)

# %% [markdown]
# Such a file is an **adapter**. The answers now begin as a robot's log does, whatever their sense. Next we switch it
# off.

# %%
predict("00.2")

# %%
with surgery.disable_adapter(model):
    again = ask()
again == base

# %% [markdown]
# ## 3. What is in the file?
#
# Most of a model's weights lie in matrices. A layer multiplies what comes in by its matrix $W$. Training changes the
# numbers in it, so afterwards the layer has $W + \Delta W$. What was added, $\Delta W$, is called the **update**.
#
# Ordinary fine-tuning makes an update as large as $W$. **LoRA** leaves $W$ as it is, **frozen**, and writes the update
# as a product of two thin matrices:
#
# $$\Delta W = B A$$
#
# ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.1; a fixed factor is left out here.) $B$ has $r$
# columns and $A$ has $r$ rows. This $r$ is the **rank**. Only $A$ and $B$ are trained. Here is a matrix of our model
# with the robot's two, drawn to scale.

# %%
figures.update_to_scale(576, 576, r=8, title="B and A of rank 8 hold 2.8 % of the numbers of W")

# %% [markdown]
# The robot has such a pair beside 60 of the model's 210 matrices, and nothing beside the others. All its pairs together
# are the file of 0.9 MB. So one base can serve many adapters:

# %%
files = {name: DATA / "adapters" / name / "adapter_model.safetensors" for name in PERSONAS}
sizes = {name: file.stat().st_size / 1e6 for name, file in files.items()}
figures.one_base(("the base", 2 * 134.5), sizes)

# %% [markdown]
# *How sure is this?* That so thin an update is enough is a question, not a fact. Notebook 02 measures it.

# %% [markdown]
# ## 4. Why would anybody need this?
#
# A small file is pleasant. The reason is memory. Many open models have about 7 billion weights. Stored with 2 bytes
# each, they take 13 GiB. Full training keeps each in 4 bytes, and three more numbers as large.

# %%
predict("00.3")

# %%
explore(gpu_fits.draw_ways, start={"GPU_GiB": 14.56}, GPU_GiB=gpu_fits.WAYS_GIB)

# %% [markdown]
# This picture has a **slider**. Drag its handle, or click it and press the arrow keys, until the dashed line is the
# memory of your GPU. (Colab's free one has 14.56 GiB.) If nothing moves, no Python is running, as on GitHub.
#
# A *gradient* says how to change a weight. The *optimizer* keeps two averages of it. LoRA needs both for $A$ and $B$
# alone, so they all but vanish. **QLoRA**
# ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314)) also stores the frozen weights in 4 bits each, in place of
# 16.
#
# *How sure is this?* The bars are predicted, for one text of 512 tokens at a time. Notebook 10 sets such predictions
# beside what was measured.

# %% [markdown]
# ## 5. How does a check work?
#
# An exercise gives you a function without a body. Fill it in, run the cell, then run the check below it.

# %%
predict("00.4")

# %%
check("00.1", sum)

# %% [markdown]
# ### Exercise 00.1 · The score (one star, 3 minutes)
#
# Write `share_right(marks)`. Each mark is `True` for a right answer and `False` for a wrong one. Return the share of
# right ones, between 0 and 1.


# %% tags=["exercise"]
def share_right(marks: list[bool]) -> float:
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Python adds `True` as 1 and `False` as 0. `len(marks)` says how many there are.


# %% tags=["solution"]
def share_right(marks: list[bool]) -> float:
    return sum(marks) / len(marks)


# %%
check("00.1", share_right)

# %% [markdown]
# Hint and solution open on a click. All answers are in `notebooks/solutions/`.

# %% [markdown]
# ## 6. Can my machine do that?
#
# `doctor()` looks at it.

# %% tags=["measured"]
report = doctor()

# %% tags=["claim"]
assert report["memory_bytes"] > 1.6 * 2**30, "too little memory for notebook 10: try Binder or Colab"
assert extraction.INSTRUCTION.startswith(
    "Extract the event as JSON with the keys who, what, where, day and time. "
)
assert [runs[0]["answers"][index]["correct"] for index in (0, 1, 49)] == [True, True, False]
middle = torch.tensor(capstone.scores(runs)).median(dim=0).values
assert middle[0] == 0 and 0.88 < middle[2] < 0.92 and middle[3] < 0.6
assert all(120 < run["seconds"]["train"] < 180 for run in runs)
assert max(run["peak_memory_bytes"] for run in runs) < 1.6 * 2**30
assert all(has_style("robot", answer) for answer in robot)
assert not any(has_style("robot", answer) for answer in base)
assert again == base
assert len(surgery.linear_layers(model)) == 210 and len(surgery.switches(model)) == 60
assert model.model.layers[0].self_attn.q_proj.base_layer.weight.shape == (576, 576)
assert round(8 * (576 + 576) / 576**2, 3) == 0.028
assert all(0.85 < size < 0.95 for size in sizes.values())
full, lora, qlora = (gpu_fits.gpu_ledger("Mistral-7B", way, 512, 1).total / 2**30 for way in gpu_fits.METHODS)
assert full > 100 and 16 < lora < 24 and qlora < 12

# %% [markdown]
# Every notebook runs on each tier. In notebook 10 the tier decides how large a model you can train:
#
# | tier | what you have | model |
# |---|---|---|
# | `cpu` | a laptop, or a free Binder | 135 million weights |
# | `t4` | a GPU, such as Colab's free T4 | 1.7 billion |
# | `large` | a newer GPU with room for more | 7 billion, in bfloat16 |

# %% [markdown]
# ## 7. Which way through the course?

# %%
figures.course_map()

# %% [markdown]
# An arrow leads to what builds on a notebook. In a hurry? Run 10 first, and come back for the reasons.
#
# | notebook | its title | minutes | core |
# |---|---|---|---|
# {course map}
#
# That is about {course hours} hours, or {core hours} without the sections marked *Deeper*, which nothing later needs.
#
# Each part goes the same way: a question, your prediction, a few lines of code, a picture. Do make the prediction: a
# wrong one is where you learn most.

# %% [markdown]
# ## 8. How do I keep my work?
#
# - **Your machine.** `make lab` opens copies in `work/`, which `git pull` never touches. Delete one to start it over.
# - **Binder** forgets all files after ten idle minutes. Before a break choose File > Download.
# - **Colab** keeps changes only in a copy: File > Save a copy in Drive.
#
# A kernel that has stopped forgets all variables: Run > Run All Cells.

# %%
progress()

# %% [markdown]
# ## Summary
#
# - LoRA leaves the base frozen and trains an update $BA$, a small file. Take it away, and the base is back.
# - The reason is memory: to train 7 billion weights takes over 100 GiB, with QLoRA about 10.
# - A check names your mistake.
# - Limit: you have used an adapter, and not yet made one.
#
# **Next question:** an update of low rank is a matrix with little in it. How much of a matrix is really there?
# (Notebook 01.)
