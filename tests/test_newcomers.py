"""A kind of task and a family that stand in this file alone go the whole way: nothing in the package knows of them.

The task tags words: a row is a list of words with a tag for each, the output is `logits` [batch, length, tags]. The
family has what none of the package's has: query, key and value in one product, a gated FFN whose halves are one, a head
size that is not hidden size / heads, and a first layer unlike the others.
"""

import json
import random
from itertools import chain

import onnx
import pyarrow as pa
import pytest
import torch
from conftest import BAD, GOOD, PLAIN, VOCABULARY, tiny_tokenizer, write_recipe
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    pipeline,
)
from transformers.modeling_outputs import BaseModelOutput, TokenClassifierOutput

from dynackd.cli.command_line import main
from dynackd.data.labels import LabelMap
from dynackd.data.rows import Column
from dynackd.families.family import HEAD, NEURON, Family, SlicedLinear
from dynackd.families.table import FAMILIES
from dynackd.students.loading import load_student
from dynackd.supernet.network import load_supernet
from dynackd.system.places import read_json
from dynackd.tasks.kind import Kind, Task
from dynackd.tasks.kinds import KINDS
from dynackd.tasks.losses import cross_entropy, soft_cross_entropy
from dynackd.tasks.parts import Labels, Output


class ToyConfig(PreTrainedConfig):
    model_type = "toy"
    vocab_size: int = len(VOCABULARY)
    width: int = 24
    head_dim: int = 16  # not width / heads
    num_attention_heads: int = 4
    inner: int = 20
    num_hidden_layers: int = 4
    max_position_embeddings: int = 48
    pad_token_id: int | None = 0
    initializer_range: float = 0.1


class ToyEmbeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.width)

    def forward(self, input_ids):
        return self.words(input_ids)


class ToyLayer(nn.Module):
    """Query, key and value in one product, and a gated FFN."""

    def __init__(self, config, index):
        super().__init__()
        self.heads, size = config.num_attention_heads, config.num_attention_heads * config.head_dim
        self.qkv, self.out = nn.Linear(config.width, 3 * size), nn.Linear(size, config.width)
        self.gate_up, self.down = nn.Linear(config.width, 2 * config.inner), nn.Linear(config.inner, config.width)
        self.norm = nn.LayerNorm(config.width) if index else nn.Identity()  # it depends on the layer's place

    def forward(self, x, mask):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + mask
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        gate, up = self.gate_up(x).chunk(2, -1)
        return x + self.down(gate.sigmoid() * up)


class ToyPreTrained(PreTrainedModel):
    config_class = ToyConfig
    base_model_prefix = "toy"


class ToyModel(ToyPreTrained):
    def __init__(self, config):
        super().__init__(config)
        self.embed = ToyEmbeddings(config)
        self.blocks = nn.ModuleList(ToyLayer(config, index) for index in range(config.num_hidden_layers))
        self.post_init()

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False, return_dict=True, **_):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = [self.embed(input_ids)]
        for block in self.blocks:
            states.append(block(states[-1], (1.0 - mask[:, None, None].to(states[0].dtype)) * -1e4))
        return BaseModelOutput(states[-1], tuple(states) if output_hidden_states else None)


class ToyForTokenClassification(ToyPreTrained):
    def __init__(self, config):
        super().__init__(config)
        self.toy, self.classifier = ToyModel(config), nn.Linear(config.width, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, labels=None, **options):
        output = self.toy(input_ids, attention_mask, **options)
        logits = self.classifier(output.last_hidden_state)
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return TokenClassifierOutput(loss, logits, output.hidden_states)


TOY = Family(
    layers="blocks",
    linears=(
        SlicedLinear("qkv", HEAD, 0, parts=3),
        SlicedLinear("out", HEAD, 1),
        SlicedLinear("gate_up", NEURON, 0, parts=2),
        SlicedLinear("down", NEURON, 1),
    ),
    query="qkv",
    attention_output="out",
    head_count=("heads",),
    embeddings=("embed",),
    neurons_key="inner",
    hidden_key="width",
    head_size_key="head_dim",
)


TAGS = ("other", "praise", "blame")


class Tagging(Kind):
    name = "toy tagging"
    auto_class = "AutoModelForTokenClassification"
    outputs = (Output("logits", ("batch", "length", "tags")),)
    noun = "tagger"
    task_keys = needed_keys = ("kind", "words", "tags")
    metrics = default_metrics = ("words_right",)
    pipeline_tag = pipeline = "token-classification"

    def task(self, value):
        return Task("toy", (value["words"],), value["tags"], self, self.default_metrics, TAGS)

    def columns(self, task):
        return [Column(task.text_columns[0], "list of words", list, pa.list_(pa.string()), (list,))]

    def label_column(self, task):
        return Column(task.label_column, "list of tags", tuple, pa.list_(pa.string()), (list,))

    def labels(self, task, raw, model):
        names = LabelMap(TAGS, {name: i for i, name in enumerate(TAGS)}, "as they are", TAGS)
        ids = {split: [[names.find(tag) for tag in row] for row in rows.labels] for split, rows in raw.items()}
        return Labels(ids, names, names.told(chain(*(chain(*rows.labels) for rows in raw.values()))))

    def encode(self, task, tokenizer, batch, **options):
        return tokenizer(batch[task.text_columns[0]], is_split_into_words=True, **options)

    def features(self, task, tokenizer, batch, max_length):
        encoded = self.encode(task, tokenizer, batch, truncation=True, max_length=max_length)
        if "label" not in batch:
            return dict(encoded)
        words = [encoded.word_ids(row) for row in range(len(batch["label"]))]
        labels = [[-100 if i is None else tags[i] for i in own]
                  for own, tags in zip(words, batch["label"], strict=True)]
        return {**encoded, "labels": labels}

    def collator(self, tokenizer):
        return DataCollatorForTokenClassification(tokenizer)

    def label_loss(self, outputs, batch):
        return cross_entropy(outputs["logits"], batch["labels"])

    def label_count(self, batch):
        return (batch["labels"] != -100).sum()

    def output_loss(self, outputs, teacher, batch, temperature):
        real = batch["attention_mask"].bool()
        return soft_cross_entropy(outputs["logits"][real], teacher["logits"][real], temperature)

    def output_count(self, batch):
        return batch["attention_mask"].sum()

    def answers(self, outputs):
        return outputs["logits"].argmax(-1)

    def measure(self, task, outputs, labels):
        known = labels["labels"] != -100
        return {"words_right": float((self.answers(outputs) == labels["labels"])[known].mean())}

    def fidelity(self, outputs, teacher):
        return {"agreement": float((self.answers(outputs) == self.answers(teacher)).mean())}

    def same_answers(self, ours, theirs):
        return self.answers(ours) == self.answers(theirs)


class WordsAlone(Tagging):
    """The same without tags: there is a teacher to learn from."""

    name = "toy words"

    def label_column(self, task):
        return None

    def labels(self, task, raw, model):
        return Labels({split: [] for split in raw})


def write_words(file, rows, seed):
    rng = random.Random(seed)
    with file.open("w") as out:
        for _ in range(rows):
            words = rng.choices(GOOD + BAD + PLAIN, k=rng.randrange(1, 9))
            tags = [TAGS[(word in GOOD) + 2 * (word in BAD)] for word in words]
            out.write(json.dumps({"words": words, "tags": tags}) + "\n")


def recipe(directory, **changes):
    return write_recipe(directory, {
        "model": str(directory / "encoder"),
        "task": {"kind": "toy tagging", "words": "words", "tags": "tags"},
        "data": {"train": f"{directory}/train.jsonl", "validation": f"{directory}/validation.jsonl", "max_length": 12},
        "grid": {"widths": [0.5, 1.0], "depths": [0.5, 1.0]},
        "importance": {"rows": 16},
        "distillation": {"weights": {"ce": 0.5}},
        "training": {"per_device_train_batch_size": 8, "num_train_epochs": 6, "learning_rate": 1e-2, "use_cpu": True},
        "output_dir": str(directory / "run"),
        **changes,
    })  # fmt: skip


def logged(directory):
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """The toy task from an encoder to a supernet."""
    directory = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        for kind in (Tagging(), WordsAlone()):
            patch.setitem(KINDS, kind.name, kind)
        torch.manual_seed(0)
        patch.setitem(FAMILIES, "toy", TOY)
        AutoConfig.register("toy", ToyConfig)
        AutoModel.register(ToyConfig, ToyModel)
        AutoModelForTokenClassification.register(ToyConfig, ToyForTokenClassification)
        ToyModel(ToyConfig()).save_pretrained(directory / "encoder")
        tiny_tokenizer().save_pretrained(directory / "encoder")
        write_words(directory / "train.jsonl", 64, 1)
        write_words(directory / "validation.jsonl", 32, 2)
        path = str(recipe(directory))
        for command in ("finetune", "train-width", "train-depth"):
            assert main([command, path]) == 0
        yield directory


def test_a_new_kind_is_trained_and_evaluated_by_its_own_metric(road, capsys):
    teacher = read_json(road / "run" / "teacher" / "metrics.json")["metrics"]
    assert teacher["words_right"] > 0.9, "the teacher has learned nothing"
    assert main(["evaluate", str(road / "run" / "depth"), "--json", str(road / "e.json")]) == 0
    evaluation = read_json(road / "e.json")
    assert evaluation["teacher"]["metrics"] == pytest.approx(teacher)
    assert [set(row["fidelity"]) for row in evaluation["subnetworks"]] == [{"agreement"}] * 4
    assert max(row["fidelity"]["agreement"] for row in evaluation["subnetworks"]) > 0.8
    assert {"loss_ce", "loss_logits", "loss_wr_pair"} <= set(logged(road / "run" / "depth")[0])


def test_a_new_kind_is_exported_compared_and_loaded_again(road):
    out = road / "student"
    arguments = ["--width", "0.5", "--depth", "0.5", "--int8", "--max-drop", "1", "--output", str(out)]
    assert main(["export", str(road / "run" / "depth"), *arguments]) == 0
    about = read_json(out / "export.json")
    assert about["parity_max_abs_diff"] < 1e-4
    assert about["files"]["onnx/model.onnx"]["metrics"]["words_right"] == about["metrics"]["student"]["words_right"]
    assert 0 <= about["files"]["onnx/model_quantized.onnx"]["agreement"] <= 1
    (output,) = onnx.load(out / "onnx" / "model.onnx").graph.output
    axes = [dim.dim_param or dim.dim_value for dim in output.type.tensor_type.shape.dim]
    assert (output.name, axes) == ("logits", ["batch_size", "sequence_length", 3])
    card = (out / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert "A smaller tagger" in card
    supernet, tokenizer = load_supernet(road / "run" / "depth")
    batch = tokenizer(["fine film", "a very dull book is cold"], padding=True, return_tensors="pt")
    spec = next(spec for spec in supernet.grid.specs() if (spec.width, spec.depth) == (0.5, 0.5))
    with torch.no_grad():
        expected = supernet.eval()(spec, **batch).outputs["logits"]
        for model in (AutoModelForTokenClassification.from_pretrained(out).eval(), load_student(out)[0]):
            assert expected.shape == (2, 8, 3)
            torch.testing.assert_close(model(**batch).logits, expected, atol=1e-6, rtol=0)
    found = pipeline("token-classification", str(out))("fine film")
    assert [word["entity"] for word in found] == [TAGS[i] for i in expected[0, 1:3].argmax(-1)]


def test_a_stock_checkpoint_of_layers_that_depend_on_their_place_is_refused(road, tmp_path, capsys):
    size = ["--width", "0.5", "--depth", "0.5", "--output", str(tmp_path / "s"), "--compat"]
    assert main(["export", str(road / "run" / "depth"), *size]) == 2
    told = "no stock checkpoint holds the layers 1, 3 alone: a toy's layers depend on their place"
    assert told in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("depth", "options"), [("1", "--compat"), ("0.5", "--static-length 16 --int8 --max-drop 1")])
def test_newcomers_may_be_exported_in_every_way(road, tmp_path, depth, options):
    size = ["--width", "0.5", "--depth", depth, "--output", str(tmp_path / "s")]
    assert main(["export", str(road / "run" / "depth"), *size, *options.split()]) == 0
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "s")
    assert model(torch.tensor([[2, 4, 3]])).logits.shape == (1, 3, 3)


def test_rows_without_labels_train_and_are_judged_by_the_teacher_alone(road, tmp_path):
    changes = {
        "model": str(road / "run" / "teacher"),
        "teacher": str(road / "run" / "teacher"),
        "task": {"kind": "toy words", "words": "words", "tags": "tags"},
        "data": {"train": f"{road}/train.jsonl", "validation": f"{road}/validation.jsonl", "max_length": 12},
        "distillation": {},
    }
    path = str(recipe(tmp_path, **changes))
    assert main(["train-width", path]) == 0
    about = read_json(tmp_path / "run" / "width" / "metrics.json")
    assert [set(row["fidelity"]) for row in about["subnetworks"]] == [{"agreement"}] * 2
    assert not any(row["metrics"] for row in [about["teacher"], *about["subnetworks"]])
    assert "loss_ce" not in logged(tmp_path / "run" / "width")[0]
    assert main(["export", str(tmp_path / "run" / "width"), "--width", "0.5", "--depth", "1", "--int8",
                 "--output", str(tmp_path / "student")]) == 0  # fmt: skip
    facts = read_json(tmp_path / "student" / "export.json")["files"]["onnx/model_quantized.onnx"]
    assert "agreement" in facts
    assert "drop" not in facts
    assert main(["finetune", path]) == 2, "there is nothing to learn from"
    # The term that asks for labels says that there are none.
    path = str(recipe(tmp_path, **changes, training={"max_steps": 1, "use_cpu": True}, output_dir=str(tmp_path / "ce")))
    assert main(["train-width", path, "--set", "distillation.weights.ce=1"]) == 2
