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
# The result comes first: what the course's last step makes of a language model. Then a look at your machine, a slider,
# a check, and the map.
#
# **You will** see the goal, learn whether your machine is large enough for it, and try the two things that every
# notebook uses: a slider and a check.
#
# **You need** Python, and from linear algebra the product of two matrices.
#
# **Time:** {minutes}.
#
# Run the cells from top to bottom with Shift + Enter.

# %%
import json
from statistics import median

from lora_edu.classroom import figures
from lora_edu.classroom.checks import check
from lora_edu.classroom.doctor import doctor
from lora_edu.classroom.widgets import compare, explore, predict
from lora_edu.llm.data import DATA

# %% [markdown]
# ## 1. What will I be able to do?
#
# In notebook 10 you take a real language model and teach it a job: read a sentence about an event, answer with the
# event as JSON. This is what happened when it was done before, once for each of several random seeds.

# %%
files = sorted((DATA / "runs").glob("events_qlora_cpu_seed*.json"))
runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
len(runs), runs[0]["base"]["name"], runs[0]["base"]["parameters"]

# %% [markdown]
# Here are three sentences of the first run, with the model's answers before and after. It had never seen these
# sentences, nor the names and places in them. Values must be copied letter by letter, so one of the three answers
# counts as wrong. Which?

# %%
shown = [runs[0]["answers"][index] for index in (0, 1, 49)]
before, after = [entry["before"][:100] for entry in shown], [entry["answer"] for entry in shown]
compare(sentence=[entry["sentence"] for entry in shown], before=before, after=after)

# %%
predict(
    "200 such sentences, built like those in training, with new names: how many events are right afterwards?",
    ["fewer than 50", "about 100", "more than 150"],
    answer="more than 150",
    why="This is strict: above, 'quarter eleven' in place of 'quarter to eleven' made the third event wrong.",
)

# %%
keys = ["exact_match_before", "exact_match_before_few_shot", "exact_match", "exact_match_unseen"]
scores = [[run[key] for key in keys[2:]] for run in runs]
scores = [[runs[0][key] for key in keys[:2]] + row for row in scores]  # the base is the same for every seed
middle = [median(column) for column in zip(*scores, strict=True)]

# %%
figures.bars(
    {"exact match": scores},
    groups=[
        "base model",
        "base, three\nexamples",
        "fine-tuned,\nseen patterns",
        "fine-tuned,\nunseen patterns",
    ],
    ylabel="share of events",
    number_format="{:.0%}",
    alt=f"Events exactly right, median of {len(runs)} seeds: base model {middle[0]:.0%}, with three examples in the "
    f"prompt {middle[1]:.0%}; fine-tuned {middle[2]:.0%}, on unseen patterns {middle[3]:.0%}.",
)

# %%
assert middle[0] < 0.05 and middle[2] > 0.75
minutes = median(sum(run["seconds"].values()) for run in runs) / 60
memory = max(run["peak_memory_bytes"] for run in runs) / 2**30
f"training and all questions: {minutes:.0f} minutes, {runs[0]['device']['threads']} threads, {memory:.1f} GiB of memory"

# %% [markdown]
# The base model was asked 50 sentences, each fine-tuned one 200 of seen patterns and 100 of unseen ones. The thin lines
# run from the lowest seed to the highest. Look at the last bar. An unseen pattern is a way of building a sentence that
# training never showed. There the model does worse.
#
# The method is **QLoRA** ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314)). It stores the weights of the
# linear layers in 4 bits, leaves them as they are, and trains a small addition. Notebooks 01 to 09 build it, piece by
# piece. The records are in `data/runs/`, and `python tools/record_runs.py` makes them anew.

# %% [markdown]
# ## 2. Can my machine do that?
#
# There are three tiers. All of them run every notebook; notebook 10 fine-tunes the model of 135 million on each.
#
# | tier | what you have | the largest model that fits |
# |---|---|---|
# | `cpu` | any laptop, or a free Binder | a model of 135 million parameters |
# | `t4` | a GPU of 8 to 20 GiB, such as Colab's free T4 | a model of 7 billion |
# | `large` | a larger GPU | the same, with longer texts and larger batches |

# %% tags=["measured"]
report = doctor()

# %%
assert report["memory_bytes"] > memory * 2**30, "too little memory for notebook 10: try Binder or Colab"

# %% [markdown]
# ## 3. How does a slider work?
#
# A layer that maps 576 numbers to 576 multiplies by a matrix $W$ of $576 \times 576 = 331{,}776$ numbers. To change all
# of them freely takes an update just as large. LoRA writes the update as a product of two thin matrices, $B$ with $r$
# columns and $A$ with $r$ rows. You choose $r$, the rank.

# %%
predict(
    "At which rank do B and A together hold as many numbers as the whole update?",
    ["8", "288", "576"],
    answer="288",
    why="Each unit of rank costs a column of B and a row of A: 576 + 576 numbers.",
)


# %%
def draw(ax, r):
    numbers = 576 * 576, r * (576 + 576)
    alt = f"The whole update holds {numbers[0]:,} numbers. At rank {r}, B and A hold {numbers[1]:,}."
    figures.bars(
        {"numbers": numbers}, groups=["whole update", "B and A"], number_format="{:,.0f}", alt=alt, ax=ax
    )


explore(draw, r=[1, 2, 4, 8, 16, 32, 64, 128, 288, 576])

# %% [markdown]
# Drag the handle, or click it and press the arrow keys. If nothing moves, no Python is running: on GitHub and on a
# printed page you see the first picture and its line of text. Open the notebook with a badge at the top, or with
# `make lab`.
#
# With $B$ of shape (out, r) and $A$ of shape (r, in), the update is
#
# $$\Delta W = B A \qquad \text{with } r \,(\text{out} + \text{in}) \text{ numbers}$$
#
# ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.1). At rank 8 that is 36 times fewer. From rank 288 on
# nothing is saved. Whether a small $r$ is enough is a question, not a fact. Notebook 02 measures it.

# %% [markdown]
# ## 4. How does a check work?
#
# An exercise gives you a function without a body. You write the body, run the cell, then run the check below it. The
# check tries your function and says `pass`, or gives a hint about the kind of mistake.

# %%
predict(
    "Asked for the share of right answers, somebody writes `sum`, which counts them. What will the check say?",
    ["pass", "only that it is wrong", "what was forgotten"],
    answer="what was forgotten",
    why="It knows the mistakes that are often made.",
)

# %%
check("00.1", sum)

# %% [markdown]
# ### Exercise 00.1 · The score (one star, 3 minutes)
#
# Write `share_right(marks)`. Each mark is `True` for a right answer and `False` for a wrong one; return the share of
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
# Until you have written something the check says `not attempted`. Below each exercise a hint and a solution open on a
# click. All answers, filled in, are in the folder `notebooks/solutions/`.
#
# Your function computes the score of section 1. Once it passes, try it:
# `share_right([entry["correct"] for entry in runs[0]["answers"] if not entry["unseen_pattern"]])`.
# It gives 0.87: that is the first seed, and the bar shows the median of three.

# %% [markdown]
# ## 5. Which way through the course?
#
# Each notebook asks one question.
#
# | notebook | its question | minutes |
# |---|---|---|
# | 00 | What will I be able to do? | 15 |
# | [01](01_rank_and_svd.ipynb) | How much of a matrix is really there? | 45 |
# | [02](02_are_updates_low_rank.ipynb) | May the update be smaller than the weights? | 40 |
# | [03](03_parameter_budget.ipynb) | What does a low-rank update cost? | 40 |
# | [04](04_lora_from_scratch.ipynb) | How is a LoRA layer built? | 60 |
# | [05](05_training_lora.ipynb) | What changes when only B and A train? | 65 |
# | [06](06_lora_on_a_language_model.ipynb) | Does it work on a real language model? | 60 |
# | [07](07_quantization.ipynb) | What is lost when 32 bits become 4? | 45 |
# | [08](08_nf4.ipynb) | Which 16 numbers? | 60 |
# | [09](09_qlora_from_scratch.ipynb) | How can 4-bit weights train? | 60 |
# | [10](10_qlora_finetune.ipynb) | A real QLoRA fine-tune: how many events does it get right? | 70 |
# | [11](11_many_adapters.ipynb) | One base, many tasks: what are the choices? | 60 |
# | [12](12_failure_clinic.ipynb) | What goes wrong in practice? | 60 |
#
# They build on each other: 01 to 06 lead to LoRA, 07 to 09 to QLoRA. In a hurry? Run 10 first and come back for the
# reasons. Each part of a notebook goes the same way: a question, your prediction, an experiment of a few lines, a
# picture, an explanation. Do make the prediction: a wrong one is where you learn most.
#
# The letters $W$, $B$, $A$, $r$, $\alpha$ and the shapes of all arrays are on one page, the notation sheet. Every
# notebook links it at its top, with a glossary.

# %% [markdown]
# ## 6. How do I keep my work?
#
# - **Your machine.** `make lab` opens copies in `work/`. `git pull` never touches them. To start one over, delete the
#   copy and run `make lab` again.
# - **Binder** stops after ten idle minutes, and all files are lost. Before a break, choose File > Download in the
#   menu. Later, start Binder again and drop the file onto the list of files on the left.
# - **Colab** does not keep changes to a notebook from GitHub. Choose File > Save a copy in Drive first.
#
# A kernel that has stopped forgets all variables. Run > Run All Cells brings them back.
#
# ## Summary
#
# - The goal: fine-tune a real language model with QLoRA, and count what it gets right on sentences it has not seen.
# - A low-rank update of rank $r$ holds $r\,(\text{out} + \text{in})$ numbers.
# - A slider redraws its picture; a check tells you what kind of mistake you made.
# - Limit: the result above is recorded. You have not made it yourself yet.
#
# **Next question:** a low-rank update is a matrix with little in it. How much of a matrix is really there? (Notebook
# 01.)
