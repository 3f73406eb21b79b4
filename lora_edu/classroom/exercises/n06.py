"""Exercises of notebook 06."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.classroom.checks import Exercise, Law, WrongAnswer

# ---------------------------------------------------------------- 06.1 mean_loss(logits, labels)


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log(probability of the next token) over the scored tokens, in nats.

    Logits (tokens, vocabulary) at position t judge the label at t + 1; a label of -100 is not scored.
    """
    return F.cross_entropy(logits[:-1], labels[1:])


def _no_shift(logits, labels):
    return F.cross_entropy(logits, labels)


def _shifted_backwards(logits, labels):
    return F.cross_entropy(logits[1:], labels[:-1])


def _sum(logits, labels):
    return F.cross_entropy(logits[:-1], labels[1:], reduction="sum")


def _divided_by_all(logits, labels):
    return _sum(logits, labels) / len(labels[1:])


def _divided_by_all_labels(logits, labels):
    return _sum(logits, labels) / len(labels)


def _marks_clamped(logits, labels):
    return F.cross_entropy(logits[:-1], labels[1:].clamp(min=0))


def _marks_clamped_and_not_counted(logits, labels):
    return _marks_clamped(logits, labels) * len(labels[1:]) / (labels[1:] != -100).sum()


def _marks_as_tokens(logits, labels):
    log_p = logits[:-1].log_softmax(dim=-1)
    return -log_p[torch.arange(len(log_p)), labels[1:]].mean()  # -100 counts from the end of the vocabulary


def _marks_gathered(logits, labels):
    return -logits[:-1].log_softmax(dim=-1).gather(-1, labels[1:, None]).mean()


def _scored(scores, labels):
    kept = labels[1:] != -100
    return scores[:-1][kept].gather(-1, labels[1:][kept, None])


def _no_softmax(logits, labels):
    return -_scored(logits, labels).mean()


def _log_of_logits(logits, labels):
    return -_scored(logits, labels).log().mean()


def _no_log(logits, labels):
    return _scored(logits.softmax(dim=-1), labels).mean()


def _log_of_mean(logits, labels):
    return -_no_log(logits, labels).log()


def _wrong_sign(logits, labels):
    return -mean_loss(logits, labels)


def _bits(logits, labels):
    return mean_loss(logits, labels) / math.log(2)


def _softmax_over_tokens(logits, labels):
    return -_scored(logits.log_softmax(dim=0), labels).mean()


def _loss_cases():
    generator = torch.Generator().manual_seed(0)
    for vocabulary, labels in ((7, (-100, -100, 3, 0, 6)), (130, (-100, 5, 101, 2)), (4, (1, 2, 3))):
        shape = (len(labels), vocabulary)
        yield torch.randn(shape, generator=generator, dtype=torch.float64), torch.tensor(labels)


def _even_logits(function, logits, labels) -> bool:
    return math.isclose(
        function(torch.zeros_like(logits), labels).item(), math.log(logits.shape[1]), rel_tol=1e-4
    )


# ---------------------------------------------------------------- 06.2 layers_to_adapt(model, target_modules)


def layers_to_adapt(model: nn.Module, target_modules: list[str]) -> list[str]:
    """Paths of the linear layers whose last name is one of the target modules, in the model's order."""
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and path.split(".")[-1] in target_modules
    ]


def _linear(model):
    return [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]


def _part_of_a_name(model, target_modules):
    return [path for path in _linear(model) if any(target in path for target in target_modules)]


def _bare_ending(model, target_modules):
    return [path for path in _linear(model) if path.endswith(tuple(target_modules))]


def _whole_path(model, target_modules):
    return [path for path in _linear(model) if path in target_modules]


def _any_module(model, target_modules):
    return [path for path, _ in model.named_modules() if path.split(".")[-1] in target_modules]


def _names_in_place_of_paths(model, target_modules):
    return [path.split(".")[-1] for path in layers_to_adapt(model, target_modules)]


def _first_of_each(model, target_modules):
    return layers_to_adapt(model, target_modules)[: len(target_modules)]


def _grouped_by_target(model, target_modules):
    return [path for target in target_modules for path in layers_to_adapt(model, [target])]


def _every_linear_layer(model, target_modules):
    return _linear(model)


def _weights_in_place_of_layers(model, target_modules):
    return [f"{path}.weight" for path in layers_to_adapt(model, target_modules)]


def _block() -> nn.ModuleDict:
    attention = {"q_proj": nn.Linear(4, 4), "q_proj_norm": nn.LayerNorm(4), "v_proj": nn.Linear(4, 2)}
    mlp = {"up_proj": nn.Linear(4, 6), "group_proj": nn.Linear(6, 6), "down_proj": nn.Linear(6, 4)}
    return nn.ModuleDict({"self_attn": nn.ModuleDict(attention), "mlp": nn.ModuleDict(mlp)})


def _models():
    layers = nn.ModuleList([_block(), _block()])
    model = nn.ModuleDict({"layers": layers, "norm": nn.LayerNorm(4), "lm_head": nn.Linear(4, 9)})
    for targets in (["v_proj", "q_proj"], ["up_proj"], ["mlp", "down_proj"], ["norm"]):
        yield model, targets


# ---------------------------------------------------------------- 06.3 label_answer_only(prompt, answer, end)


def label_answer_only(prompt: list[int], answer: list[int], end: int) -> tuple[list[int], list[int]]:
    """Token ids of one training example, and labels of the same length that score the answer and its end."""
    return [*prompt, *answer, end], [*[-100] * len(prompt), *answer, end]


def _no_end(prompt, answer, end):
    return [*prompt, *answer], [*[-100] * len(prompt), *answer]


def _end_not_scored(prompt, answer, end):
    return [*prompt, *answer, end], [*[-100] * len(prompt), *answer, -100]


def _end_not_given(prompt, answer, end):
    return [*prompt, *answer], [*[-100] * len(prompt), *answer, end]


def _all_scored(prompt, answer, end):
    return [*prompt, *answer, end], [*prompt, *answer, end]


def _answer_hidden(prompt, answer, end):
    return [*prompt, *answer, end], [*prompt, *[-100] * (len(answer) + 1)]


def _labels_of_the_answer_alone(prompt, answer, end):
    return [*prompt, *answer, end], [*answer, end]


def _shifted_by_hand(prompt, answer, end):
    tokens, labels = label_answer_only(prompt, answer, end)
    return tokens, [*labels[1:], -100]


def _answer_not_given(prompt, answer, end):
    return prompt, [*answer, end]


def _zero_in_place_of_the_mark(prompt, answer, end):
    return [*prompt, *answer, end], [*[0] * len(prompt), *answer, end]


def _end_after_the_prompt(prompt, answer, end):
    return [*prompt, end, *answer, end], [*[-100] * (len(prompt) + 1), *answer, end]


def _turns():
    return [([11, 12, 13], [7, 8], 2), ([5], [9], 2), ([4, 2, 4], [6, 3, 3, 1], 2)]


EXERCISES = {
    "06.1": Exercise(
        solution=mean_loss,
        cases=_loss_cases,
        wrong_answers=(
            WrongAnswer(
                _no_shift,
                "No shift: you ask each position for the token that it has just read. It is asked for the next.",
            ),
            WrongAnswer(
                _shifted_backwards, "You shift the wrong way: the logits judge a label that came before them."
            ),
            WrongAnswer(
                _sum, "That is the sum over the scored tokens. A long answer would seem worse: take the mean."
            ),
            WrongAnswer(
                _divided_by_all,
                "You divide by all tokens. Only the scored ones, not the -100s, are counted.",
                (_divided_by_all_labels,),
            ),
            WrongAnswer(
                _marks_clamped,
                "You turn -100 into 0, which is a token like any other, and score it. Leave those places out.",
                (_marks_clamped_and_not_counted,),
            ),
            WrongAnswer(
                _marks_as_tokens,
                "You look up -100 as if it were a token. It marks a place that is passed over.",
            ),
            WrongAnswer(
                _marks_gathered,
                "`gather` finds no token -100. It marks a place that is passed over: leave those out first.",
            ),
            WrongAnswer(
                _no_softmax, "You average the logits themselves. They are scores, not yet probabilities."
            ),
            WrongAnswer(
                _log_of_logits,
                "A logit is a score and may be negative. Probabilities come before the logarithm.",
            ),
            WrongAnswer(
                _no_log, "That is the mean probability, which is large when all is well. Where is -log?"
            ),
            WrongAnswer(
                _log_of_mean,
                "You take the logarithm of the mean. Each token has its own -log, and those are averaged.",
            ),
            WrongAnswer(
                _wrong_sign, "The sign is wrong: the log of a probability is negative, a loss is not."
            ),
            WrongAnswer(_bits, "That is in bits. With the natural logarithm the unit is the nat."),
            WrongAnswer(
                _softmax_over_tokens,
                "Your softmax runs over the positions. At each position the vocabulary competes.",
            ),
        ),
        laws=(
            Law("if all tokens are equally likely, the loss is the logarithm of their number.", _even_logits),
        ),
    ),
    "06.2": Exercise(
        solution=layers_to_adapt,
        cases=_models,
        wrong_answers=(
            WrongAnswer(
                _part_of_a_name,
                "You look for the text anywhere in the path. Compare the last name as a whole.",
            ),
            WrongAnswer(
                _bare_ending,
                "`group_proj` ends in `up_proj` too. Compare the last name of the path as a whole.",
            ),
            WrongAnswer(_whole_path, "You compare whole paths. A target is only the last name of one."),
            WrongAnswer(
                _any_module, "You take modules of any kind. LoRA stands beside linear layers: check the type."
            ),
            WrongAnswer(
                _names_in_place_of_paths, "Those are last names. The layer is found by its whole path."
            ),
            WrongAnswer(
                _first_of_each,
                "You stop too early: every block has layers of these names, and each is adapted.",
            ),
            WrongAnswer(_grouped_by_target, "All layers are there, but not in the model's order."),
            WrongAnswer(_every_linear_layer, "That is every linear layer. Take those that were asked for."),
            WrongAnswer(
                _weights_in_place_of_layers,
                "Those are the paths of weights. The layer is what gets replaced.",
            ),
        ),
    ),
    "06.3": Exercise(
        solution=label_answer_only,
        cases=_turns,
        wrong_answers=(
            WrongAnswer(_no_end, "No end: the model sees answers that never stop, and will not stop either."),
            WrongAnswer(
                _end_not_scored, "The end is there, but its label is -100: the model is never asked to stop."
            ),
            WrongAnswer(
                _end_not_given, "The end is a label only, so there is one label more than there are tokens."
            ),
            WrongAnswer(
                _all_scored,
                "You score the prompt too: the model learns to write questions, not only answers.",
            ),
            WrongAnswer(
                _answer_hidden, "The other way round: you score the prompt and hide the answer from the loss."
            ),
            WrongAnswer(
                _labels_of_the_answer_alone,
                "Each token needs a label. Those of the prompt get one that is ignored.",
            ),
            WrongAnswer(
                _shifted_by_hand,
                "You shift the labels. The model's loss shifts them itself: twice is once too often.",
            ),
            WrongAnswer(
                _answer_not_given,
                "The tokens hold no answer. To judge its second token, the model must have read the first.",
            ),
            WrongAnswer(
                _zero_in_place_of_the_mark,
                "0 is a token like any other, and would be scored. The mark is -100.",
            ),
            WrongAnswer(
                _end_after_the_prompt,
                "You end the prompt as well. The template has closed the user's turn already.",
            ),
        ),
    ),
}
