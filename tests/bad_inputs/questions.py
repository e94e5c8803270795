"""Questions, contexts and answers that do not go together."""

import gzip
import json
from dataclasses import replace

from conftest import tiny_model

from bad_inputs import Bad

GOOD = {"question": "what", "context": "a fine film", "answers": {"text": ["fine"], "answer_start": [2]}}


def asked(what, sentence, more="", file="t.jsonl", content=None, **changes):
    """A good row and one with changes; the sentence of the second one's fault."""
    rows = [GOOD, {**GOOD, **changes}]
    text = "".join(json.dumps(row) + "\n" for row in rows) if content is None else content

    def change(directory):
        (directory / file).write_bytes(text if isinstance(text, bytes) else text.encode())
        task = (directory / "fresh.yaml").read_text()
        old = "task:\n  kind: classification\n  label: label\n  text: sentence\n"
        assert old in task
        own = f"task: {{kind: question_answering{more}}}\n"
        both = {"train": file, "validation": file}
        task = task.replace(old, own)
        for key, name in both.items():
            task = task.replace(f"{key}: {directory}/{key}.tsv", f"{key}: {directory}/{name}")
        (directory / "fresh.yaml").write_text(task)

    return Bad(what, "finetune {d}/fresh.yaml", sentence, change)


def of_gte(case):
    """The case with an encoder for which transformers has no question answerer."""

    def change(directory):
        case.change(directory)
        tiny_model("gte").base_model.save_pretrained(directory / "encoder")

    return replace(case, change=change)


AT = "{d}/t.jsonl, data row 2, column 'answers': "
PACKED = gzip.compress(json.dumps(GOOD).encode())

CASES = [
    asked("an answer elsewhere", AT + "the answer 'film' is not at character 2 of the context, where 'fine' stands; "
          "characters are counted from 0", answers={"text": ["film"], "answer_start": [2]}),
    asked("an answer before the context", AT + "the answer 'fine' is not at character -2 of the context, where 'a fi' "
          "stands; characters are counted from 0", answers={"text": ["fine"], "answer_start": [-2]}),
    asked("a question without an answer", AT + "the question has no answer; where that may be, say task.unanswerable: "
          "true", answers=[]),
    asked("an answer without its place", AT + "expected texts and whole numbers, such as {\"text\": [\"Paris\"], "
          "\"answer_start\": [23]}, got 'fine' and None", answers=[{"text": "fine"}]),
    asked("fewer places than answers", AT + "expected as many texts as starts, such as {\"text\": [\"Paris\"], "
          "\"answer_start\": [23]}, got {'text': ['fine', 'film'], 'answer_start': [2]}",
          answers={"text": ["fine", "film"], "answer_start": [2]}),
    asked("answers that are texts", AT + "expected objects such as {\"text\": \"Paris\", \"answer_start\": 23}, got "
          "['fine']", answers=["fine"]),
    asked("an answer that is a text", AT + "expected a list of answers, got a str", answers="fine"),
    asked("another column of contexts", "{d}/t.jsonl: no column 'passage'; the columns are question, context, "
          "answers.text, answers.answer_start", ", context: passage"),
    asked("a question that fills a window", "the question 'fine fine fine fine fine fine fine fine fine fine' takes 10 "
          "tokens, which leaves 3 of the 16 of a window to its context, no more than the 5 that windows share; raise "
          "data.max_length or lower task.stride", question=" ".join(["fine"] * 10)),
    asked("windows that share all", "the question 'what' takes 1 tokens, which leaves 12 of the 16 of a window to its "
          "context, no more than the 20 that windows share; raise data.max_length or lower task.stride",
          ", stride: 20"),
    asked("a negative stride", "{d}/fresh.yaml: task.stride must be a whole number of 0 or more, or null, not -1",
          ", stride: -1"),
    asked("the same column twice", "{d}/fresh.yaml: task: question, context and answers must be different columns, got "
          "context, context, answers", ", question: context"),
    asked("a metric of classes", "{d}/fresh.yaml: task.metrics of a question_answering task: 'accuracy' is unknown; "
          "known: f1, exact_match", ", metrics: accuracy"),
    asked("a packed file cut off", "{d}/t.json.gz: damaged, or no gz file (...)", file="t.json.gz",
          content=PACKED[:-12]),
    asked("a .gz that is none", "{d}/t.jsonl.gz: damaged, or no gz file (...)", file="t.jsonl.gz", content="{}"),
    of_gte(asked("an encoder without such a head", "{d}/encoder can be no answerer of questions: transformers has "
                 "no AutoModelForQuestionAnswering of the architecture 'gte'; docs/families.md says which kinds of "
                 "task go with it")),
]
