"""Predictions of notebook 06, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "The vocabulary has 49,152 tokens, and the model reads these 5. How many numbers does it give back?",
        ("1", "49,152", "245,760"),
        answer="245,760",
        why="At each of the 5 places, one score for every token that could come next.",
    ),
    Question(
        "The scores are 4, 2 and 0. Softmax makes shares of them. Which share does the first token get?",
        ("87 %", "67 %", "33 %"),
        answer="87 %",
        why="Shares go by powers of e, not by the scores themselves: 54.6 of 54.6 + 7.4 + 1.",
    ),
    Question(
        "A second adapter is trained without that label. What does it write after the closing brace?",
        ("nothing, it stops", "a second event", "a polite sentence"),
        answer="a second event",
        why="It was never asked to stop, and it has only ever been asked for events.",
    ),
    Question(
        "Each choice gets the learning rate that suits it. On seen patterns of the test all linear layers reach 96 %. "
        "And q and v at r = 8, with a fifth of the numbers?",
        ("about 60 %", "about 80 %", "about 96 %"),
        answer="about 96 %",
        why="On this narrow task few numbers are enough, at a learning rate of their own.",
    ),
    Question(
        "Head and LoRA train together and get 98 % right. Only LoRA is saved. It is loaded with a new head, drawn at "
        "random. How many answers are right, on average over many such draws?",
        ("nearly none", "1 in 4", "2 in 3"),
        answer="1 in 4",
        why="The four rows of a new head are drawn alike, so whatever goes in, each class wins equally often.",
    ),
)
