"""What glibc would keep of freed blocks is given back where much has just been freed and much is asked for next."""

from transformers import TrainerControl, TrainerState

from lora_edu.llm.base_model import load_base_model
from lora_edu.llm.data import extraction, load_events
from lora_edu.llm.finetune import FinetuneConfig
from lora_edu.llm.finetune.backends import PeftBackend
from lora_edu.llm.finetune.callbacks import GiveBack
from lora_edu.llm.finetune.plan import make_plan
from lora_edu.llm.finetune.trainer import make_trainer


def test_answers_leave_no_holes(tiny_folder, freed_by):
    model, tokenizer = load_base_model(str(tiny_folder))
    lines = load_events("test")[:1]
    assert freed_by(lambda: extraction.evaluate(model, tokenizer, lines, max_new_tokens=2)) > 150e6


def test_before_a_validation_memory_is_given_back(tiny_folder, few_to_learn, few_events, tmp_path, freed_by):
    files = {"train_file": str(few_to_learn), "test_file": str(few_events), "output": str(tmp_path / "run")}
    plan = make_plan(FinetuneConfig(**files, model=str(tiny_folder), steps=1, preflight=False))
    backend, rows = PeftBackend(), plan.examples[:2]
    base, tokenizer = backend.load(plan.recipe)
    model = backend.attach(base, plan.recipe)
    trainer = make_trainer(plan.recipe, backend, model, tokenizer, plan.examples, plan.folder, rows)
    trainer.train()
    assert freed_by(trainer.evaluate) > 150e6


def test_between_steps_memory_is_given_back_now_and_then(freed_by):
    step, control = GiveBack().on_step_end, TrainerControl()
    assert freed_by(lambda: step(None, TrainerState(global_step=GiveBack.EVERY + 1), control)) < 30e6
    assert freed_by(lambda: step(None, TrainerState(global_step=2 * GiveBack.EVERY), control)) > 150e6
