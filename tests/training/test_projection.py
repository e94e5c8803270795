"""The control term `hidden_projected_mse`: its value, what is learned, and that it leaves nothing behind."""

import json

import pytest
import torch
from conftest import tiny_config, tiny_model, tiny_recipe, tiny_tokenizer
from safetensors.torch import load_file
from test_other_tokenizers import PIECES, piece_tokenizer, saved
from transformers import AutoModelForSequenceClassification

from dynackd.distill.projection import TERM, Projection
from dynackd.distill.settings import DistillationSettings
from dynackd.distill.signals import Student, TeacherSignal, distillation_loss, term_counts
from dynackd.errors import UserError
from dynackd.tasks.classification import CLASSIFICATION
from dynackd.tasks.common_words import NUMBERS, THEIRS, read_both
from dynackd.training.recipe import make_recipe
from dynackd.training.runs import RunMode
from dynackd.training.stages import train_width
from dynackd.training.trainer import SupernetTrainer, refuse_several

SETTINGS = DistillationSettings(weights={TERM: 2.0})
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])


def made_states(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(2, 3, size, generator=generator, dtype=torch.float64) for _ in range(3)] for size in sizes]


def loss_of(projection, ours, theirs, batch, common=None):
    student = Student({}, ours, (0, 1), projected=projection(ours))
    signal = TeacherSignal(SETTINGS, CLASSIFICATION, {}, theirs, batch, common)
    return distillation_loss(SETTINGS, [student], signal)[0]


def test_the_term_is_the_error_of_the_projected_states_of_real_words():
    projection = Projection(4, 6, seed=1)
    ours, theirs = made_states(4, 6)
    maps = [projection.embedding, projection.layers, projection.layers]
    real = [(0, 0), (0, 1), (0, 2), (1, 0)]
    errors = [((own.weight.double() @ h[place] - t[place]) ** 2).mean()
              for h, t, own in zip(ours, theirs, maps, strict=True) for place in real]  # fmt: skip
    found = loss_of(projection, ours, theirs, {"attention_mask": MASK})
    torch.testing.assert_close(found, 2 * torch.stack(errors).mean())
    found.backward()
    assert all(p.grad.abs().sum() > 0 for p in projection.parameters())
    assert term_counts(SETTINGS, CLASSIFICATION, {"attention_mask": MASK}) == {TERM: 4}


def test_a_smaller_hidden_size_uses_the_first_columns_and_the_seed_alone_decides_the_beginning():
    projection = Projection(4, 6, seed=1)
    assert torch.equal(projection.layers.weight, Projection(4, 6, seed=1).layers.weight)
    ours, _ = made_states(4, 6)
    narrow = projection([h[..., :2] for h in ours])
    padded = projection([torch.cat([h[..., :2], torch.zeros(2, 3, 2)], -1) for h in ours])
    assert [torch.allclose(*pair) for pair in zip(narrow, padded, strict=True)] == [True] * 3


def test_words_are_projected_where_the_teacher_reads_other_tokens():
    numbers = torch.tensor([[0, 0, 1], [0, -1, -1]])
    theirs = torch.tensor([[0, 1], [0, -1]])
    own, common = read_both({"attention_mask": MASK, NUMBERS: numbers, THEIRS + NUMBERS: theirs})
    projection = Projection(4, 6, seed=1)
    ours, theirs = made_states(4, 6)
    theirs = [t[:, :2] for t in theirs]
    means = [torch.stack([torch.stack([h[0, :2].mean(0), h[0, 2]]), torch.stack([h[1, 0], h[1, 0]])]) for h in ours]
    found = loss_of(projection, ours, theirs, own, common)
    expected = loss_of(projection, means, theirs, {"attention_mask": torch.tensor([[1, 1], [1, 0]])})
    torch.testing.assert_close(found, expected)


def test_it_is_learned_survives_a_resume_and_is_no_part_of_the_result(tmp_path, monkeypatch):
    torch.manual_seed(0)
    config = tiny_config("electra", num_hidden_layers=6, hidden_size=48, vocab_size=len(PIECES))
    content = tiny_recipe(tmp_path, task={"kind": "classification", "text": "sentence", "label": "label",
                                          "check_teacher": False})  # fmt: skip
    content["model"] = saved(tiny_model(), tiny_tokenizer(), tmp_path / "model")
    teacher = AutoModelForSequenceClassification.from_config(config)
    content["teacher"] = saved(teacher, piece_tokenizer(), tmp_path / "teacher")  # which reads other tokens
    content["distillation"] = {"signal": "logits", "matching": "uniform", "weights": {TERM: 1.0}}
    content["training"] |= {"max_steps": 6, "save_steps": 2, "logging_steps": 2}
    whole, states = SupernetTrainer.training_step, []

    def watched(self, *arguments, **options):
        states.append(self.projection.layers.weight.detach().clone())
        if killing and self.state.global_step == 3:
            raise KeyboardInterrupt
        return whole(self, *arguments, **options)

    monkeypatch.setattr(SupernetTrainer, "training_step", watched)
    killing = False
    unbroken = train_width(make_recipe({**content, "output_dir": str(tmp_path / "unbroken")}), RunMode())
    assert not torch.equal(states[0], states[-1]), "the projection learns nothing"
    before, states[:] = states[:], []
    killing = True
    recipe = make_recipe({**content, "output_dir": str(tmp_path / "resumed")})
    with pytest.raises(KeyboardInterrupt):
        train_width(recipe, RunMode())
    killing, states[:] = False, []
    resumed = train_width(recipe, RunMode(resume=True))
    assert [torch.equal(*pair) for pair in zip(states, before[2:], strict=True)] == [True] * 4
    one, other = (load_file(place / "model.safetensors") for place in (unbroken, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one.keys() == load_file(tmp_path / "model" / "model.safetensors").keys()
    logged = [json.loads(line) for line in (unbroken / "log.jsonl").read_text().splitlines()]
    losses = [row[f"loss_{TERM}"] for row in logged if f"loss_{TERM}" in row]
    assert losses[-1] < losses[0]


def test_several_processes_are_refused():
    class Two:
        world_size = 2

    with pytest.raises(UserError, match="'hidden_projected_mse' is not possible with several processes"):
        refuse_several(Two())
