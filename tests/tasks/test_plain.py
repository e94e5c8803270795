"""Plain text: what is learned without labels, how fidelity is told, and the whole way on a tiny encoder."""

import random

import numpy as np
import pytest
import torch
from conftest import PLAIN as WORDS
from conftest import tiny_config, tiny_model, tiny_recipe, tiny_tokenizer, write_recipe
from transformers import AutoModel

from dynackd.cli.command_line import main
from dynackd.distill.settings import DistillationSettings
from dynackd.distill.teacher import Teacher
from dynackd.errors import UserError
from dynackd.supernet.importance import gradient_importance
from dynackd.supernet.network import Supernet, load_supernet
from dynackd.system.places import read_json
from dynackd.tasks.classification import CLASSIFICATION
from dynackd.tasks.plain import KEPT_TOKENS, PLAIN, STATES
from dynackd.training.recipe import make_recipe

BATCH = {"attention_mask": torch.tensor([[1, 1, 1], [0, 1, 0]])}


def test_the_loss_is_the_angle_of_the_real_tokens_alone():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    real = [(0, 0), (0, 1), (0, 2), (1, 1)]
    expected = sum(1 - torch.cosine_similarity(ours[place], theirs[place], dim=0) for place in real) / 4
    found = PLAIN.output_loss({STATES: ours}, {STATES: theirs}, BATCH, 1.0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert PLAIN.output_count(BATCH) == 4
    longer = {STATES: torch.randn(2, 3, 6, generator=generator)}
    assert float(PLAIN.output_loss({STATES: ours}, longer, BATCH, 1.0)) == 0, "another size has no angle to ours"


@pytest.mark.parametrize(("distillation", "stages", "term"), [
    ({"signal": "logits"}, {}, "logits"),
    ({"signal": "dynabert"}, {}, "logits"),
    ({}, {"general": {"distillation": {"signal": "dynabert"}}}, "logits"),
    ({}, {"depth": {"distillation": {"signal": "logits"}}}, "logits"),
    ({"signal": "ckd"}, {}, None),
    ({"signal": "logits", "weights": {"hidden_projected_mse": 1.0}}, {}, None),
])  # fmt: skip
def test_smaller_hidden_sizes_are_refused_where_no_term_would_see_them(tmp_path, distillation, stages, term):
    """The states of an encoder are all that it gives, and of another size they have no angle to the teacher's."""
    content = tiny_recipe(tmp_path, distillation=distillation, stages=stages)
    content["task"] = {"kind": "plain", "text": "sentence"}
    content["grid"]["hidden"] = [0.5, 1.0]
    if term is None:
        make_recipe(content)
        return
    with pytest.raises(UserError, match=f"leaves the distillation term '{term}' nothing to compare, and no ot"):
        make_recipe(content)


@pytest.mark.parametrize(("signal", "refused"), [("logits", True), ("ckd", False)])
def test_a_teacher_of_another_hidden_size_whom_no_term_sees_is_refused(signal, refused):
    """The same for a whole model."""
    teacher = Teacher(Supernet(tiny_model(hidden_size=48)), PLAIN)
    settings = DistillationSettings(weights={"logits": 1.0} if signal == "logits" else {"logits": 1.0, "wr_pair": 1.0})
    ours = Supernet(tiny_model()).geometry
    if not refused:
        teacher.check(ours, settings)
        return
    with pytest.raises(UserError, match=r"hidden size is 48 and .* the distillation term 'logits' has nothing to comp"):
        teacher.check(ours, settings)
    Teacher(Supernet(tiny_model(hidden_size=48)), CLASSIFICATION).check(ours, settings)


def test_a_search_compares_the_relations_alone_where_hidden_sizes_differ():
    """By the angle to the teacher's states a smaller size, which has none, would be perfect."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    found = PLAIN.loss_of_any_size({STATES: ours}, {STATES: theirs}, BATCH, 1.0)
    pairs = [(0, 1), (0, 2), (1, 2)]  # of the first text; the second has one real token
    near = [[float(torch.cosine_similarity(own[0, a], own[0, b], dim=0)) for a, b in pairs] for own in (ours, theirs)]
    assert float(found) == pytest.approx(1 - np.corrcoef(near)[0, 1])
    assert float(PLAIN.loss_of_any_size({STATES: ours}, {STATES: 3 * ours}, BATCH, 1.0)) == pytest.approx(0, abs=1e-9)
    wider = torch.nn.functional.pad(theirs, (0, 3))
    torch.testing.assert_close(PLAIN.loss_of_any_size({STATES: ours}, {STATES: wider}, BATCH, 1.0), found)


def test_a_row_keeps_some_of_its_real_tokens_evenly_spaced():
    states = np.arange(2 * 40, dtype=np.float32).reshape(2, 40, 1) + 1
    mask = np.ones((2, 40), int)
    mask[1, :37] = 0
    kept = PLAIN.flat({STATES: states}, mask)[STATES]
    assert kept.shape == (2, KEPT_TOKENS, 1)
    assert kept[0, [0, -1], 0].tolist() == [1, 40]
    assert (np.diff(kept[0, :, 0]) >= 2).all()
    assert kept[1, :, 0].tolist() == [78, 79, 80] + [0] * (KEPT_TOKENS - 3)


def test_fidelity_by_hand():
    theirs, ours = np.zeros((1, KEPT_TOKENS, 2)), np.zeros((1, KEPT_TOKENS, 2))
    theirs[0, :3] = [[1, 0], [0, 1], [1, 1]]
    ours[0, :3] = [[2, 0], [1, 0], [1, 1]]
    half = 0.5**0.5
    relations = np.corrcoef([1, half, half], [0, half, half])[0, 1]
    found = PLAIN.fidelity({STATES: ours}, {STATES: theirs})
    assert found == pytest.approx({"cosine": 2 / 3, "relations": relations})
    assert PLAIN.unlabelled_drop({STATES: ours}, {STATES: theirs}) == pytest.approx(1 / 3)
    wider = np.concatenate([theirs, np.zeros((1, KEPT_TOKENS, 1))], 2)
    assert PLAIN.fidelity({STATES: ours}, {STATES: wider}) == pytest.approx({"relations": relations})


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A bare encoder, its own teacher, from lines of text to a supernet."""
    directory, rng = tmp_path_factory.mktemp("plain"), random.Random(0)
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config("bert", initializer_range=0.1)).save_pretrained(directory / "encoder")
    tiny_tokenizer().save_pretrained(directory / "encoder")
    lines = [" ".join(rng.choices(WORDS, k=rng.randrange(2, 9))) for _ in range(48)]
    (directory / "train.txt").write_text("\n".join(lines))
    path = str(write_recipe(directory, content(directory, directory / "run")))
    for command in ("train-width", "train-depth"):
        assert main([command, path]) == 0
    return directory


def content(road, output, **changes):
    return tiny_recipe(road, **{
        "task": {"kind": "plain", "text": "text"},
        "data": {"train": f"{road}/train.txt", "validation_share": 0.25, "max_length": 12},
        "training": {"per_device_train_batch_size": 16, "num_train_epochs": 8, "learning_rate": 3e-3, "use_cpu": True},
        "output_dir": str(output),
        **changes,
    })  # fmt: skip


def test_an_encoder_is_its_own_teacher_and_is_judged_by_fidelity(road, capsys):
    assert main(["evaluate", str(road / "run" / "depth"), "--json", str(road / "e.json")]) == 0
    assert "cosine" in capsys.readouterr().out
    evaluation = read_json(road / "e.json")
    rows = evaluation["subnetworks"]
    assert [row["metrics"] for row in [evaluation["teacher"], *rows]] == [{}] * 5
    assert [set(row["fidelity"]) for row in rows] == [{"cosine", "relations"}] * 4
    cosines = [row["fidelity"]["cosine"] for row in rows]
    assert max(cosines) > 0.9
    assert min(cosines) > 0.5, "the small ones have learned nothing"


def test_heads_and_neurons_have_scores_without_labels(road):
    model = AutoModel.from_pretrained(road / "encoder")
    batch = {"input_ids": torch.tensor([[2, 4, 5, 3], [2, 6, 3, 0]]),
             "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}  # fmt: skip
    model.config.dynackd_kind = "plain"
    found = gradient_importance(model, [batch])
    assert (found.heads > 0).all()
    assert len(found.heads.unique()) == found.heads.numel()


def test_a_student_is_gated_by_the_float32_files_states_and_loads_again(road, tmp_path, capsys):
    size = ["--width", "0.5", "--depth", "0.5", "--int8"]
    out = tmp_path / "s"
    assert main(["export", str(road / "run" / "depth"), *size, "--max-drop", "1", "--output", str(out)]) == 0
    about = read_json(out / "export.json")
    assert about["parity_max_abs_diff"] < 1e-4
    assert 0 < about["files"]["onnx/model_quantized.onnx"]["drop"] < 1
    assert "pipeline_tag: feature-extraction" in (out / "README.md").read_text()
    supernet, tokenizer = load_supernet(road / "run" / "depth")
    batch = tokenizer(["the film", "a day was very one"], padding=True, return_tensors="pt")
    spec = next(spec for spec in supernet.grid.specs() if (spec.width, spec.depth) == (0.5, 0.5))
    with torch.no_grad():
        expected = supernet.eval()(spec, **batch).outputs[STATES]
        found = AutoModel.from_pretrained(out).eval()(**batch).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    refused = ["--max-drop", "0", "--output", str(tmp_path / "t")]
    assert main(["export", str(road / "run" / "depth"), *size, *refused]) == 2
    assert "of fidelity, more than --max-drop 0" in capsys.readouterr().err
    assert main(["finetune", str(road / "recipe.yaml"), "--set", f"output_dir={tmp_path}/f"]) == 2
    assert "it is its own teacher: run train-width" in capsys.readouterr().err


def test_a_teacher_of_another_size_teaches_by_its_relations(road, tmp_path):
    config = tiny_config("bert", hidden_size=48, num_hidden_layers=3, initializer_range=0.1)
    AutoModel.from_config(config).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    changes = {"teacher": str(tmp_path / "teacher"), "distillation": {"signal": "ckd", "matching": "uniform"},
               "training": {"max_steps": 2, "learning_rate": 1e-3, "use_cpu": True}}  # fmt: skip
    path = str(write_recipe(tmp_path, content(road, tmp_path / "run", **changes)))
    assert main(["train-width", path]) == 0
    rows = read_json(tmp_path / "run" / "width" / "metrics.json")["subnetworks"]
    assert [set(row["fidelity"]) for row in rows] == [{"relations"}] * 2
