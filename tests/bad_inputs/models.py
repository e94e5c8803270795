"""Models and tokenizers of other people."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bad_inputs import Bad


def edited(file: str, **changes: Any) -> Callable[[Path], object]:
    """Keys of a JSON file set."""

    def change(directory: Path) -> None:
        content = json.loads((directory / file).read_text())
        (directory / file).write_text(json.dumps({**content, **changes}))

    return change


def more_weights(*names: str) -> Callable[[Path], object]:
    """Weights added to the teacher's."""

    def change(directory: Path) -> None:
        file = directory / "run" / "teacher" / "model.safetensors"
        save_file({**load_file(file), **{name: torch.ones(2) for name in names}}, file, {"format": "pt"})

    return change


def no_tokenizer(place: str) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        for file in (directory / place).glob("tokenizer*"):
            file.unlink()

    return change


def added_token(directory: Path) -> None:
    """An added token for which the model was not resized."""
    file = directory / "encoder" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 27, "content": "<new>", "special": False})
    file.write_text(json.dumps(content))


def no_padding(directory: Path) -> None:
    file = directory / "encoder" / "tokenizer_config.json"
    content = json.loads(file.read_text())
    del content["pad_token"]
    file.write_text(json.dumps(content))


def slow_tokenizer(directory: Path) -> None:
    """BERTweet's kind, of which there is no fast version."""
    for file in (directory / "encoder").glob("tokenizer*"):
        file.unlink()
    (directory / "encoder" / "vocab.txt").write_text("a 9\nfilm 8\n")
    (directory / "encoder" / "bpe.codes").write_text("#version: 0.2\nf i 3\n")
    (directory / "encoder" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertweetTokenizer"}')


def roberta_with_other_padding(directory: Path) -> None:
    from conftest import tiny_model

    tiny_model("roberta", pad_token_id=1).roberta.save_pretrained(directory / "encoder")


def other_words(kind: str) -> Callable[[Path], object]:
    """A model `mine` of a task kind, and `other` that knows a word more."""

    def change(directory: Path) -> None:
        import transformers
        from conftest import tiny_config, tiny_tokenizer

        for place, words in (("mine", []), ("other", ["zzz"])):
            tokenizer = tiny_tokenizer()
            tokenizer.add_tokens(words)
            config = tiny_config("bert", vocab_size=len(tokenizer))
            getattr(transformers, f"AutoModelFor{kind}").from_config(config).save_pretrained(directory / place)
            tokenizer.save_pretrained(directory / place)

    return change


def adapter(directory: Path) -> None:
    (directory / "run" / "teacher" / "adapter_config.json").write_text("{}")


def one_layer_less(directory: Path) -> None:
    edited("encoder/config.json", num_hidden_layers=3)(directory)


def file_for_directory(directory: Path) -> None:
    shutil.rmtree(directory / "encoder")
    (directory / "encoder").write_text("here was a model")


NO_WORDS = (
    "{d}/PLACE holds no tokenizer: all that transformers finds there are 5 special tokens, to which every word would "
    "be unknown; put the model's tokenizer.json (or vocab.txt) beside it"
)
FRESH = "finetune {d}/fresh.yaml"
OTHER = "train-width {d}/fresh.yaml --set model={d}/mine --set teacher={d}/other"
WIDTH = "train-width {d}/fresh.yaml --set teacher={d}/run/teacher"
TEACHER_CONFIG = "run/teacher/config.json"
ANOTHER = "without them it would be another model than the one that was trained"

CASES = [
    Bad("a run for its teacher", f"{FRESH} --set model={{d}}/run",
        "{d}/run is no model directory: it holds no config.json; did you mean {d}/run/teacher?"),
    Bad("an empty directory for a model", f"{FRESH} --set model={{d}}/empty",
        "{d}/empty is no model directory: it holds no config.json", lambda d: (d / "empty").mkdir()),
    Bad("a student for a supernet", "evaluate {d}/student",
        "{d}/student is a student that was cut already; name the supernet that it came from"),
    Bad("an activation that there is not", "finetune {d}/fresh.yaml",
        "could not load the weights of '{d}/encoder' (directory): nothing is called 'foo'",
        edited("encoder/config.json", hidden_act="foo")),
    Bad(
        "states compared with those of other tokens",
        OTHER + " --set distillation.signal=ckd+mse",
        "the teacher reads other tokens than the model, so the distillation term 'hidden_mse' has nothing to compare; "
        "set distillation.signal to ckd, which compares relations alone",
        other_words("SequenceClassification"),
    ),
    Bad(
        "an answerer whose teacher has another tokenizer",
        OTHER + ' --set task={"kind":"question_answering"}',
        "the teacher {d}/other reads other tokens than the model, which an answerer of questions cannot learn from: "
        "the windows of a long context are cut by tokens; name a teacher with the model's tokenizer",
        other_words("QuestionAnswering"),
    ),
    Bad("no tokenizer, fine-tuned", FRESH, NO_WORDS.replace("PLACE", "encoder"), no_tokenizer("encoder")),
    Bad("no tokenizer, train-width", WIDTH, NO_WORDS.replace("PLACE", "run/teacher"), no_tokenizer("run/teacher")),
    Bad(
        "no tokenizer, export",
        "export {d}/run/depth --output {d}/s",
        NO_WORDS.replace("PLACE", "run/depth"),
        no_tokenizer("run/depth"),
    ),
    Bad(
        "a token more than the embeddings",
        FRESH,
        "the tokenizer of {d}/encoder gives ids up to 27, but the model has embeddings for 27 tokens, 0 to 26; drop "
        "the added tokens, or give the model as many (resize_token_embeddings) and train it",
        added_token,
    ),
    Bad(
        "no padding token",
        FRESH,
        "the tokenizer of {d}/encoder has no padding token; name one as pad_token in tokenizer_config.json",
        no_padding,
    ),
    Bad(
        "no fast tokenizer",
        FRESH,
        "the tokenizer of {d}/encoder (BertweetTokenizer) has no fast version, so nothing trained with it could be "
        "exported; name a model with a tokenizer.json",
        slow_tokenizer,
    ),
    Bad(
        "a RoBERTa that counts from another padding",
        FRESH,
        "{d}/encoder counts positions from its 'pad_token_id', which is 1 in config.json, but its tokenizer pads with "
        "0; make config.json say what the model was trained with",
        roberta_with_other_padding,
    ),
    Bad(
        "relative positions",
        FRESH,
        "{d}/encoder cannot be used: its config.json has 'position_embedding_type' 'relative_key', and transformers 5 "
        "knows a bert with 'absolute' positions alone",
        edited("encoder/config.json", position_embedding_type="relative_key"),
    ),
    Bad(
        "a decoder",
        WIDTH,
        "{d}/run/teacher cannot be used: its config.json has 'is_decoder', and a decoder's words see only those before "
        "them",
        edited(TEACHER_CONFIG, is_decoder=True),
    ),
    Bad(
        "quantised weights",
        WIDTH,
        "{d}/run/teacher cannot be used: its config.json has 'quantization_config', and its weights are quantised; "
        "name the model that it was before",
        edited(TEACHER_CONFIG, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
    ),
    Bad(
        "code of its own",
        WIDTH,
        "{d}/run/teacher cannot be used: its config.json has 'auto_map', and it comes with code of its own, which "
        "dynackd never runs",
        edited(TEACHER_CONFIG, auto_map={"AutoModelForSequenceClassification": "modeling.Own"}),
    ),
    Bad(
        "pruned heads",
        WIDTH,
        "{d}/run/teacher cannot be used: its config.json has 'pruned_heads', and heads were cut out of it in a way "
        "that transformers 5 does not read",
        edited(TEACHER_CONFIG, pruned_heads={"0": [1]}),
    ),
    Bad(
        "a layer more than the config says",
        FRESH,
        "{d}/encoder holds 16 weights for which a bert of its config.json has no place, the first is "
        f"'encoder.layer.3.attention.output.LayerNorm.bias'; {ANOTHER}",
        one_layer_less,
    ),
    Bad(
        "relative positions among the weights",
        WIDTH,
        "{d}/run/teacher holds 1 weights for which a bert of its config.json has no place, the first is "
        f"'bert.encoder.layer.0.attention.self.distance_embedding.weight'; {ANOTHER}",
        more_weights("bert.encoder.layer.0.attention.self.distance_embedding.weight"),
    ),
    Bad(
        "a second head",
        WIDTH,
        "{d}/run/teacher holds 2 weights for which a bert of its config.json has no place, the first is "
        f"'classifier_2.bias'; {ANOTHER}",
        more_weights("classifier_2.weight", "classifier_2.bias"),
    ),
    Bad(
        "an adapter",
        WIDTH,
        "{d}/run/teacher is an adapter to another model; merge the two (merge_and_unload) and save the whole",
        adapter,
    ),
    Bad("a file for a model", FRESH, "there is no model directory '{d}/encoder'", file_for_directory),
    Bad(
        "an architecture outside the table",
        FRESH,
        "the architecture 'megatron-bert' is not supported; dynackd knows bert, ...",
        edited("encoder/config.json", model_type="megatron-bert"),
    ),
    Bad(
        "an architecture that cannot be sliced",
        FRESH,
        "the architecture 'albert' is not supported: all of its layers are one, so that none has a width of its own",
        edited("encoder/config.json", model_type="albert"),
    ),
    Bad(
        "a limit beyond the positions",
        "export {d}/run/depth --output {d}/s --max-length 49",
        "--max-length 49 is beyond the 48 tokens that the model takes",
    ),
    Bad(
        "a limit that leaves no room",
        "export {d}/run/depth --output {d}/s --max-length 2",
        "--max-length 2 leaves no room for a text; it takes 3 or more",
    ),
    Bad(
        "a limit of nothing",
        "export {d}/run/depth --output {d}/s --max-length 0",
        "--max-length is 0; it must be 1 or more",
    ),
]
