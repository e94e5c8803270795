"""What one training step does: every sub-network, the right teacher, the right scale, the same on several processes."""

from collections import Counter
from dataclasses import replace
from itertools import groupby

import pytest
import torch
from conftest import tiny_batch, tiny_model, tiny_tokenizer
from datasets import Dataset
from transformers import DataCollatorWithPadding, TrainingArguments

from dynackd.distill.settings import DistillationSettings
from dynackd.distill.signals import Student, TeacherSignal, distillation_loss
from dynackd.distill.teacher import Teacher
from dynackd.errors import UserError
from dynackd.families.table import layer_list
from dynackd.grid import Grid
from dynackd.subnet import FULL, Layer, Subnet, SubnetSpec, full
from dynackd.supernet.network import Supernet
from dynackd.tasks.classification import CLASSIFICATION
from dynackd.tasks.task import resolve_task
from dynackd.training import trainer as trainer_module
from dynackd.training.order import TogetherSampler
from dynackd.training.resumable import ResumableTrainer, check_steps, set_dropout
from dynackd.training.samplers import SubnetSampler
from dynackd.training.trainer import DEPTH_STAGE, WIDTH_STAGE, SupernetTrainer, _common, check_arguments

TASK = resolve_task({"kind": "classification", "text": "sentence", "label": "label"})
CKD = {"ce": 0.1, "logits": 1.0, "wr_pair": 10.0, "wr_triple": 10.0, "ltr_pair": 10.0, "ltr_triple": 10.0}
GRID = Grid((1.0, 0.5), (1.0, 0.5))
DEEP = Grid((1.0, 0.5), (1.0, 0.75, 0.5))  # depth 0.75 has the first two layers of the full depth
HIDDEN = Grid((1.0, 0.5), (1.0, 0.75), hidden=(1.0, 0.5))


def rows(count=8):
    ids = tiny_batch(8 if count == 8 else count, 9)["input_ids"][:, :7]
    return Dataset.from_dict(
        {
            "input_ids": [row[: 4 + i % 4].tolist() for i, row in enumerate(ids)],
            "attention_mask": [[1] * (4 + i % 4) for i in range(count)],
            "labels": [i % 2 for i in range(count)],
            "length": [4 + i % 4 for i in range(count)],
        }
    )


def trainer_of(tmp_path, stage, weights=CKD, sampler="all", supernet=None, grid=GRID, **arguments):
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    supernet = supernet or Supernet(tiny_model(**no_dropout), stage.grid_of(grid))
    teacher = Teacher(Supernet(tiny_model(seed=1, **no_dropout), grid), TASK.kind)
    options = {"use_cpu": True, "report_to": "none", "length_column_name": "length", "max_steps": 2, **arguments}
    tokenizer = tiny_tokenizer()
    return SupernetTrainer(
        supernet,
        teacher,
        stage,
        TASK,
        DistillationSettings(weights=weights),
        TrainingArguments(str(tmp_path), per_device_train_batch_size=8, **options),
        SubnetSampler.parse(sampler),
        train_dataset=rows(),
        eval_dataset={"": rows()},
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )


def batch():
    return {**tiny_batch(), "labels": torch.tensor([0, 1, 1, 0])}


def gradients(trainer):
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.zero_grad()
    loss = trainer.training_step(trainer.model, batch())
    return loss, {name: p.grad.clone() for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize(
    ("stage", "grid"),
    [(WIDTH_STAGE, DEEP), (DEPTH_STAGE, DEEP), (DEPTH_STAGE, HIDDEN)],
    ids=["width", "depth", "hidden"],
)
def test_a_step_is_the_mean_over_all_subnetworks_each_from_its_own_teacher(tmp_path, stage, grid):
    weights = CKD | ({"hidden_mse": 0.01} if grid is HIDDEN else {})
    trainer = trainer_of(tmp_path, stage, weights, grid=grid)
    trainer.settings = replace(trainer.settings, width_power=1.0)
    loss, grads = gradients(trainer)
    # The same, written out: width stage from the full teacher, depth stage from the teacher at the same width.
    inputs, settings = tiny_batch(), trainer.settings
    trainer.model.zero_grad()
    total, terms = 0, []
    for spec in stage.grid_of(grid).specs():
        with torch.no_grad():
            imitated = {"width": FULL, "depth": SubnetSpec(spec.width, 1.0)}[stage.name]
            output = trainer.teacher.network(imitated, **inputs)
        signal = TeacherSignal(settings, CLASSIFICATION, output.outputs, output.hidden_states, batch())
        own = trainer.model(spec, **inputs)
        layers = {1.0: (0, 1, 2, 3), 0.75: (0, 1, 3), 0.5: (1, 3)}[spec.depth]
        loss_of_one, of_one = distillation_loss(
            settings, [Student(own.outputs, own.hidden_states, layers, spec.width)], signal
        )
        total, terms = total + loss_of_one, terms + of_one
    expected = total / len(terms)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    for name, logged in trainer._terms.items():
        known = [of_one[name] for of_one in terms if name in of_one]  # of another hidden size there is no MSE
        torch.testing.assert_close(logged, sum(known))
        of_all = (grid, name) != (HIDDEN, "hidden_mse")
        assert trainer._terms_counts[name] == len(known) == (len(terms) if of_all else len(terms) / 2)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, atol=5e-6 if grid is HIDDEN else 1e-6, rtol=1e-4)


def test_layers_learn_from_those_that_the_teachers_rule_names(tmp_path, monkeypatch):
    trainer, seen = trainer_of(tmp_path, DEPTH_STAGE, grid=DEEP), {}
    deeper = Supernet(tiny_model(seed=1, num_hidden_layers=6), DEEP)
    trainer.teacher = Teacher(deeper, TASK.kind, "last")

    def watched(settings, students, *rest):
        seen.update({len(student.layers): student.layers for student in students})
        return distillation_loss(settings, students, *rest)

    monkeypatch.setattr(trainer_module, "distillation_loss", watched)
    monkeypatch.setattr(trainer, "stage", replace(trainer.stage, teacher_of=lambda _, geometry: full(geometry)))
    gradients(trainer)
    assert seen == {4: (2, 3, 4, 5), 3: (3, 4, 5), 2: (4, 5)}  # of 6; its own would be 0-3, 0 1 3 and 1 3


def test_the_schedule_follows_the_stages_steps(tmp_path):
    trainer = trainer_of(tmp_path, DEPTH_STAGE)
    constant, _ = gradients(trainer)
    trainer.settings = replace(trainer.settings, schedule="linear")
    trainer.state.global_step, trainer.state.max_steps = 1, 4
    scheduled, grads = gradients(trainer)
    three_quarters = {n: w if n in ("ce", "logits") else 0.75 * w for n, w in trainer.settings.weights.items()}
    trainer.settings = DistillationSettings(weights=three_quarters)
    expected, expected_grads = gradients(trainer)
    assert float(scheduled) == pytest.approx(float(expected)) != pytest.approx(float(constant))
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], atol=1e-7, rtol=1e-5)


def test_layers_and_embeddings_that_subnetworks_have_in_common_run_once(tmp_path):
    trainer, runs = trainer_of(tmp_path, DEPTH_STAGE, grid=DEEP), []
    for index, layer in enumerate(layer_list(trainer.model.model)):
        layer.register_forward_hook(lambda *_, index=index: runs.append(index))
    trainer.model.model.bert.embeddings.register_forward_hook(lambda *_: runs.append("embeddings"))
    gradients(trainer)
    # For each of two widths: layers 1, 3 at half depth; 0-3 at full depth, and of 0, 1, 3 at depth 0.75 only 3.
    assert Counter(runs) == {"embeddings": 1, 0: 2, 1: 4, 2: 2, 3: 6}


def test_only_first_layers_are_common_and_one_is_left_to_run():
    def subnet(*layers):
        return Subnet(tuple(Layer(index, heads, 10) for index, heads in layers), 32)

    assert _common(subnet((0, 1), (1, 1), (3, 1)), subnet((0, 1), (1, 1), (2, 1), (3, 1))) == 2
    again = _common(subnet((0, 1), (1, 1), (3, 1), (4, 1)), subnet((0, 1), (2, 1), (3, 1), (4, 1)))
    assert again == 1, "alike again after a difference is another function"
    assert _common(subnet((0, 2), (1, 2), (2, 2)), subnet((0, 2), (1, 1), (2, 2))) == 1, "the same layer, another width"
    assert _common(subnet((0, 1), (1, 1)), subnet((0, 1), (1, 1), (2, 1))) == 1
    assert _common(subnet((1, 1), (3, 1)), subnet((0, 1), (1, 1), (3, 1))) == 0


def test_the_teacher_never_changes_and_takes_no_gradient(tmp_path):
    trainer = trainer_of(tmp_path, DEPTH_STAGE)
    before = {name: tensor.clone() for name, tensor in trainer.teacher.network.state_dict().items()}
    trainer.train()
    assert not trainer.teacher.network.training
    assert all(p.grad is None and not p.requires_grad for p in trainer.teacher.network.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.teacher.network.state_dict().items())


@pytest.mark.parametrize("stage", [WIDTH_STAGE, DEPTH_STAGE], ids=lambda stage: stage.name)
def test_the_full_network_runs_last_so_that_it_synchronises(tmp_path, stage, monkeypatch):
    trainer = trainer_of(tmp_path, stage)
    seen = []
    whole = Supernet.forward

    def watched(self, spec=FULL, **inputs):
        if self is trainer.model:
            seen.append(spec)
        return whole(self, spec, **inputs)

    monkeypatch.setattr(Supernet, "forward", watched)
    gradients(trainer)
    assert seen[-1] == trainer.model.whole
    assert sorted(seen) == sorted(stage.grid_of(GRID).subnets(trainer.model.geometry).values())


def test_padding_never_matters_to_the_loss_or_a_gradient(tmp_path, monkeypatch):
    # Right padding, as batches have it; what stands at padded places must not be seen.
    def step(at_padding):
        inputs = tiny_batch()
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
        inputs["attention_mask"][1, 5:] = 0
        inputs["attention_mask"][2, 2:] = 0
        inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, at_padding)
        trainer = trainer_of(tmp_path, DEPTH_STAGE)
        trainer.current_gradient_accumulation_steps = 1
        loss = trainer.training_step(trainer.model, {**inputs, "labels": torch.tensor([0, 1, 1, 0])})
        table = "model.bert.embeddings.word_embeddings.weight"
        return loss, {name: p.grad for name, p in trainer.model.named_parameters() if name != table}

    (loss, grads), (other_loss, other_grads) = step(7), step(9)
    assert float(loss) == pytest.approx(float(other_loss), rel=1e-6)
    for name in grads:
        torch.testing.assert_close(grads[name], other_grads[name], atol=1e-6, rtol=1e-4)


def test_gradient_accumulation_equals_one_large_batch(tmp_path):
    nets = []
    for size, steps in ((8, 1), (4, 2)):
        trainer = trainer_of(
            tmp_path,
            DEPTH_STAGE,
            {"logits": 1.0},
            gradient_accumulation_steps=steps,
            optim="sgd",
            max_grad_norm=0.0,
            train_sampling_strategy="sequential",
            max_steps=1,
            learning_rate=0.1,
        )
        trainer._train_batch_size = trainer.args.per_device_train_batch_size = size
        trainer.train()
        nets.append(trainer.model.state_dict())
    start = Supernet(tiny_model()).state_dict()
    assert any((nets[0][name] - start[name]).abs().max() > 1e-4 for name in start)
    for name in nets[0]:
        torch.testing.assert_close(nets[0][name], nets[1][name], atol=1e-6, rtol=1e-5)


def test_the_sampler_keeps_the_largest_and_smallest_and_depends_on_the_step_alone():
    specs = Grid((1.0, 0.75, 0.5, 0.25), (1.0, 0.5)).specs()
    sampler = SubnetSampler.parse("sandwich(2)")
    chosen = [sampler.sample(specs, 42, step) for step in range(20)]
    assert all(len(set(c)) == 4 and c[0] == FULL and c[-1] == SubnetSpec(0.25, 0.5) for c in chosen)
    assert len({tuple(c) for c in chosen}) > 5
    assert chosen == [sampler.sample(specs, 42, step) for step in range(20)]
    assert SubnetSampler.parse("all").sample(specs, 42, 0) == specs
    assert sampler.sample([FULL], 42, 0) == [FULL]  # a grid of one has no between


def test_random_sizes_are_each_as_likely_and_depend_on_the_step_alone():
    specs = Grid((1.0, 0.75, 0.5, 0.25), (1.0, 0.5)).specs()
    sampler = SubnetSampler.parse("random(3)")
    chosen = [sampler.sample(specs, 42, step) for step in range(800)]
    assert chosen == [sampler.sample(specs, 42, step) for step in range(800)]
    assert all(len(set(own)) == 3 and own == sorted(own, key=specs.index) for own in chosen), "largest first"
    counts = [sum(spec in own for own in chosen) for spec in specs]
    assert max(abs(count - 300) for count in counts) < 50  # of 800 · 3 / 8, with a standard deviation of 14
    assert SubnetSampler.parse("random(9)").sample(specs, 42, 0) == specs


def test_mixtures_have_layers_and_widths_of_their_own_between_the_largest_and_the_smallest():
    subnets = list(Supernet(tiny_model(num_hidden_layers=4), DEEP).subnets.values())
    sampler = SubnetSampler.parse("mixed(2)")
    chosen = [sampler.sample(subnets, 42, step) for step in range(60)]
    assert chosen == [sampler.sample(subnets, 42, step) for step in range(60)]
    assert all(own[0] == subnets[0] and own[-1] == subnets[-1] and len(set(own)) == len(own) <= 4 for own in chosen)
    between = [subnet for own in chosen for subnet in own[1:-1]]
    assert {len(subnet.layers) for subnet in between} == {2, 3, 4}
    assert {index for subnet in between if len(subnet.layers) == 2 for index in subnet.indices} == {0, 1, 2, 3}
    widths = {(layer.heads, layer.neurons) for subnet in between for layer in subnet.layers}
    full, half = subnets[0].layers[0], subnets[1].layers[0]
    assert widths == {(one.heads, other.neurons) for one in (full, half) for other in (full, half)}
    assert any(len({layer.heads for layer in subnet.layers}) > 1 for subnet in between)
    assert sampler.sample(subnets[:1], 42, 0) == subnets[:1]  # a grid of one, as a width stage of one width has
    uneven = Subnet((Layer(0, half.heads, full.neurons), Layer(2, full.heads, half.neurons)), subnets[0].hidden)
    assert sampler.sample([uneven], 42, 0) == [uneven], "one alone is polished"


def test_a_step_trains_mixtures_beside_the_full_network_which_comes_last(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, DEPTH_STAGE, sampler="mixed(3)")
    for network in (trainer.model, trainer.teacher.network):
        network.double()  # sums in another order; the angles are sensitive to it in float32
    subnets = trainer.sampler.sample(list(trainer.names), trainer.args.seed, 0)
    assert set(subnets) - set(trainer.names), "no mixture was drawn"
    ran = []
    run = trainer._run
    monkeypatch.setattr(trainer, "_run", lambda model, bunch, *rest: (ran.extend(bunch), run(model, bunch, *rest))[1])
    _, found = gradients(trainer)
    assert set(ran) == set(subnets)
    assert full(trainer.geometry) in trainer._bunches(subnets)[-1]
    mean = {name: torch.zeros_like(gradient) for name, gradient in found.items()}
    for subnet in subnets:  # each alone, by a sampler that gives it alone
        trainer.sampler = type("One", (), {"sample": lambda self, *_, own=subnet: [own]})()
        for name, gradient in gradients_of(trainer).items():
            mean[name] += gradient / len(subnets)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, mean[name], atol=1e-8, rtol=1e-6)


def gradients_of(trainer):
    """Gradients of one step, zero where a weight has none."""
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.zero_grad()
    trainer.training_step(trainer.model, batch())
    named = trainer.model.named_parameters()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}


def test_arguments_that_a_supernet_cannot_honour_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"training\.label_smoothing_factor is not possible"):
        trainer_of(tmp_path, WIDTH_STAGE, label_smoothing_factor=0.1)


def test_evaluation_while_training_covers_every_subnetwork(tmp_path):
    trainer = trainer_of(tmp_path, DEPTH_STAGE, eval_strategy="steps", eval_steps=1)
    trainer.train()
    evaluated = [row for row in trainer.state.log_history if "eval_w0.5_d0.5_accuracy" in row]
    assert len(evaluated) == 2
    assert {"eval_w1_d1_accuracy", "eval_w0.5_d1_accuracy", "eval_w1_d0.5_accuracy"} <= set(evaluated[0])


def test_dropout_is_set_for_training_and_the_config_keeps_its_own():
    model = tiny_model()
    set_dropout(model, None)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}
    set_dropout(model, 0.0)
    first, second = (model.train()(**tiny_batch()).logits for _ in range(2))
    assert torch.equal(first, second)
    assert model.config.hidden_dropout_prob == 0.1


def test_attention_is_plain_while_training_on_a_cpu_and_as_before_afterwards(tmp_path):
    trainer, seen = trainer_of(tmp_path, WIDTH_STAGE, max_steps=1), []
    step, configs = trainer.training_step, [trainer.model.model.config, trainer.teacher.network.model.config]

    def watched(*args, **kwargs):
        seen.extend(config._attn_implementation for config in configs)
        return step(*args, **kwargs)

    trainer.training_step = watched
    trainer.train()
    assert seen == ["eager", "eager"]
    assert [config._attn_implementation for config in configs] == ["sdpa", "sdpa"]


def test_a_learning_curve_stays_what_it_was(tmp_path):
    # Golden losses: pinned so that a change of the loss, the order or the scale cannot pass unseen.
    options = {"max_steps": 4, "logging_steps": 1, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    trainer = trainer_of(tmp_path, DEPTH_STAGE, **options)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses == pytest.approx(GOLDEN, rel=2e-3)


GOLDEN = [4.48119, 3.30855, 2.70993, 2.39553]


def arguments_of(tmp_path, **arguments):
    return TrainingArguments(str(tmp_path), **{"use_cpu": True, "report_to": "none", **arguments})


def stock_trainer(args):
    tokenizer = tiny_tokenizer()
    collator = DataCollatorWithPadding(tokenizer)
    data = {"train_dataset": rows(), "eval_dataset": rows(), "processing_class": tokenizer, "data_collator": collator}
    return ResumableTrainer(tiny_model(), args, **data)


def test_two_devices_in_one_process_do_not_wrap_the_model_in_data_parallel(tmp_path):
    # A machine with two GPUs is one whose arguments say so; DataParallel cannot carry a supernet's outputs.
    args = arguments_of(tmp_path, max_steps=1, per_device_train_batch_size=4)
    args._n_gpu = 2
    trainer = stock_trainer(args)
    assert (args.n_gpu, trainer._train_batch_size) == (1, 4)
    trainer.train()
    assert not isinstance(trainer.model_wrapped, torch.nn.DataParallel)


@pytest.mark.parametrize(
    ("count", "arguments"),
    [
        (7, {"dataloader_drop_last": True, "per_device_train_batch_size": 8}),
        (7, {"dataloader_drop_last": True, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
             "train_sampling_strategy": "batch_rebalance"}),
        (0, {}),
    ],
)  # fmt: skip
def test_a_training_without_a_step_is_refused_with_its_numbers(tmp_path, count, arguments):
    with pytest.raises(UserError, match=f"nothing would be trained: the {count} training rows do not fill .* of 8"):
        check_steps(count, arguments_of(tmp_path, **arguments))


def test_a_training_with_a_step_is_not_refused(tmp_path):
    check_steps(8, arguments_of(tmp_path, dataloader_drop_last=True, per_device_train_batch_size=8))
    check_steps(7, arguments_of(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=100))


@pytest.mark.parametrize("build", ["teacher", "supernet"])
def test_the_trainers_refuse_a_training_without_a_step(tmp_path, build):
    options = {"dataloader_drop_last": True, "max_steps": 2}
    if build == "teacher":
        trainer = stock_trainer(arguments_of(tmp_path, per_device_train_batch_size=9, **options))
    else:
        trainer = trainer_of(tmp_path, WIDTH_STAGE, **options)
        trainer.args.per_device_train_batch_size = 9
    with pytest.raises(UserError, match="nothing would be trained: the 8 training rows"):
        trainer.train()


def test_what_is_dropped_in_training_counts_in_a_metric(tmp_path):
    # The stock Trainer drops the last batch of the validation rows too: the metric was that of fewer rows, or none's.
    trainer = stock_trainer(arguments_of(tmp_path, dataloader_drop_last=True, per_device_eval_batch_size=5))
    assert len(trainer.predict(rows()).predictions) == 8
    assert sum(len(batch["labels"]) for batch in trainer.get_eval_dataloader()) == 8
    assert trainer.args.dataloader_drop_last


def test_a_warm_up_that_never_ends_is_told(tmp_path):
    trainer = stock_trainer(arguments_of(tmp_path, max_steps=2, warmup_steps=100, learning_rate=1e-3))
    with pytest.warns(UserWarning, match="warmup_steps 100 is no less than the 2 steps .* never reaches 0.001"):
        trainer.train()


@pytest.mark.parametrize("text", ["sandwich(2", "sandwich", "sandwich()", "sandwich(-1)", "all(2)", "some", "", None])
def test_a_sampler_that_there_is_not_is_refused(text):
    with pytest.raises(UserError, match=r"is unknown; it is all, or sandwich\(2\), or random\(2\), or mixed\(2\)"):
        SubnetSampler.parse(text)


def test_an_optimizer_that_steps_inside_backward_is_refused_by_the_trainer_itself(tmp_path):
    with pytest.raises(UserError, match=r"^training.optim: lomo is not possible for a supernet"):
        check_arguments(arguments_of(tmp_path, optim="lomo"))


@pytest.mark.parametrize("lengths", [None, [3, 9, 3, 9, 3, 9, 3]])
def test_rows_that_belong_together_come_together_in_an_order_of_the_epoch_alone(lengths):
    groups = [7, 1, 7, 1, 4, 1, 4]
    sampler = TogetherSampler(groups, seed=5, batch_size=4, lengths=lengths)
    orders = []
    for epoch in (0, 1, 2, 0):
        sampler.set_epoch(epoch)
        torch.rand(3)  # the global generator has no say
        orders.append(list(sampler))
    assert sorted(orders[0]) == list(range(len(sampler))) == list(range(7))
    assert orders[0] == orders[3], "a resumed epoch has another order"
    assert len({tuple(order) for order in orders}) > 1, "every epoch has the same order"
    for order in orders:
        seen = [groups[row] for row in order]
        assert sorted(set(seen), key=seen.index) == [key for key, _ in groupby(seen)], "a group is torn apart"
        assert all(own == sorted(own) for key in set(groups) if (own := [row for row in order if groups[row] == key]))
