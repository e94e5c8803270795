"""Recipes: what YAML says, types and values of every section, fields of TrainingArguments, sizes."""

from bad_inputs import Bad

FRESH = "{d}/fresh.yaml"


def says(name, setting, sentence, command="finetune"):
    """A recipe with one `--set`."""
    return Bad(name, f"{command} {FRESH} --set {setting}", f"{FRESH}: {sentence}")


def written(name, text, sentence):
    """A recipe file with this text, or these bytes."""

    def change(directory):
        content = text if isinstance(text, bytes) else text.encode()
        (directory / "bad.yaml").write_bytes(content)

    return Bad(name, "finetune {d}/bad.yaml", sentence, change)


CASES = [
    # --- the file
    written("an empty recipe", "", "{d}/bad.yaml: a recipe is a YAML mapping with the keys ..."),
    written("UTF-16", "model: x".encode("utf-16"), "the recipe {d}/bad.yaml is no text in UTF-8; save it as UTF-8"),
    written(
        "a tab for indentation",
        "grid:\n\twidths: [1.0]",
        "{d}/bad.yaml: not valid YAML: line 2, column 1: while scanning for the next token, found character '\\t' that "
        "cannot start any token; indent with spaces, not with tabs",
    ),
    written("a key twice", "model: a\nmodel: b", "{d}/bad.yaml: the key 'model' stands twice, in line 1 and line 2"),
    written("a null byte", "model: a\0", "{d}/bad.yaml: not valid YAML: unacceptable character #x0000: ..."),
    written("ten thousand brackets", "model: " + "[" * 10_000, "{d}/bad.yaml: not valid YAML: it is nested too deep"),
    written(
        "a few aliases that stand for billions",
        "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)),
        "{d}/bad.yaml: line 6, column 5: it stands for more than 100,000 values, too many for settings",
    ),
    written(
        "an alias inside itself",
        "model: &a [*a]",
        "{d}/bad.yaml: not valid YAML: line 1, column 8: the alias stands inside what it stands for",
    ),
    written(
        "a data file for a recipe",
        "a line of text\n" * 100_000,
        "{d}/bad.yaml: it has more than 1,000,000 characters, too many for settings; is it a data file?",
    ),
    written(
        "code in YAML",
        "model: !!python/object/apply:os.system [true]",
        "{d}/bad.yaml: not valid YAML: line 1, column 8: could not determine a constructor for the tag ...",
    ),
    written("a key that is no text", "1: x", "{d}/bad.yaml: unknown key '1'; known: model, teacher, ..."),
    Bad("a directory for a recipe", "finetune {d}/run/depth",
        "the recipe {d}/run/depth is a directory; did you mean {d}/run/depth/recipe.yaml?"),
    # --- sections
    says("a number for a model", "model=2024",
         "model must be a text, not 2024; a number that is a name stands in quotes"),
    says("an empty output_dir", "output_dir=",
         "output_dir must be a text, not null"),
    says("weights that are no mapping", "distillation.weights=logits",
         "distillation.weights must be a mapping, such as {key: value}, or null, not 'logits'"),
    says("true for a weight", "distillation.weights.logits=true",
         "distillation.weights.logits must be a number from 0, not true"),
    says("a weight of a stage that is no number", "stages.depth.distillation.weights.logits=.nan",
         "stages.depth.distillation.weights.logits must be a number from 0, not nan"),
    says("a term that no stage has", "stages.depth.distillation.weights.logit=1",
         "unknown key 'stages.depth.distillation.weights.logit', did you mean 'logits'?"),
    says("a signal for the fine-tuning", "stages.finetune.distillation.signal=ckd",
         "stages.finetune.distillation does nothing: the teacher learns from the labels; remove it"),
    says("a list for the kept layers", "grid.kept_layers=[0,2]",
         "grid.kept_layers must be one of last, ends, importance, dynabert-code, not [0, 2]"),
    says("an order of the layers", "grid.layer_order=[1,0,2,3]",
         "grid.layer_order is what train-width measures for kept_layers: importance, and keeps in its result; remove "
         "it"),
    says("no widths", "grid.widths=[]", "grid.widths is empty; it needs at least 1.0"),
    says("the same width twice, written twice", "grid.widths=[1,.5,1/2]",
         "grid.widths [1.0, 0.5, 0.5] holds a value twice"),
    says("a width in per cent", "grid.widths=[66%,1]",
         "grid.widths '66%' is no number; write a share such as 0.66 or 2/3"),
    says("a width that is no number", "grid.widths=[.nan,1]", "grid.widths nan is outside (0, 1]"),
    says("a hidden size in numbers", "grid.hidden=[192,384]", "grid.hidden 192 is outside (0, 1]"),
    says("hidden sizes without the full one", "grid.hidden=[0.5]",
         "grid.hidden [0.5] lacks 1.0, the full network"),
    says("smaller hidden sizes for a signal that compares hidden states alone",
         "grid.hidden=[0.5,1] --set distillation.signal=dynabert",
         "grid.hidden: a smaller hidden size than the teacher's leaves the distillation term 'hidden_mse' nothing to "
         "compare, and no other looks inside; set distillation.signal to ckd+mse or ckd, which compare relations"),
    says("a sampler without its end", "grid.sampler=sandwich(2",
         "grid.sampler 'sandwich(2' is unknown; it is all, or sandwich(2), or random(2), or mixed(2)"),
    says("a sampler of nothing", "grid.sampler=random(0)",
         "grid.sampler random(0) would train nothing; it is random(1) or more"),
    says("a dropout in quotes", "stages.width.dropout='0.1'",
         "stages.width.dropout must be a number from 0 to below 1, or null, not '0.1'"),
    # --- fields of TrainingArguments, whatever the stage that is run
    says("a negative learning rate", "training.learning_rate=-1",
         "training.learning_rate must be a number above 0, not -1"),
    says("a learning rate without a value", "training.learning_rate=",
         "training.learning_rate must be a number above 0, not null"),
    says("no steps", "training.max_steps=0",
         "training.max_steps must be a whole number of 1 or more, or -1, not 0"),
    says("no epochs", "stages.depth.training.num_train_epochs=0",
         "stages.depth.training.num_train_epochs must be a number above 0 up to 1,000,000, not 0"),
    says("a batch of none", "training.per_device_train_batch_size=0",
         "training.per_device_train_batch_size must be a whole number of 1 or more, not 0"),
    says("yes for true", "training.bf16=yes", "training.bf16 must be true or false, not 'yes'"),
    says("true for a number", "training.max_steps=true",
         "training.max_steps must be a whole number of 1 or more, or -1, not true"),
    says("a save strategy that there is not", "training.save_strategy=never",
         "training.save_strategy: 'never' is unknown; known: no, steps, epoch, best"),
    says("a checkpoint of weights alone", "training.save_only_model=true",
         "training.save_only_model is not possible: checkpoints are for --resume, which needs the optimizer's state "
         'too; for none at all write save_strategy: "no"; remove it'),
    says("another's word for a field", "training.warmup_ratio=0.1",
         "training.warmup_ratio is unknown; write warmup_steps, where a number below 1 is a share of all steps"),
    says("a token in the recipe", "training.hub_token=hf_x",
         "training.hub_token is not possible: dynackd uploads nothing; upload a finished directory with the command hf "
         "upload, and the token would stand in the recipe beside the results; remove it"),
    says("label smoothing for a supernet", "training.label_smoothing_factor=0.1",
         "training.label_smoothing_factor is not possible for a supernet: labels enter through the distillation weight "
         "'ce'; remove it, or put it under stages.finetune.training"),
    says("a schedule that follows a metric that is not measured",
         "training.eval_strategy=epoch --set training.lr_scheduler_type=reduce_lr_on_plateau",
         "training.lr_scheduler_type: 'reduce_lr_on_plateau' follows the metric 'loss', which the stage width does not "
         "measure; name one of its own as metric_for_best_model: w1_d1_accuracy, w0.5_d1_accuracy", "train-width"),
    says("a field that does nothing", "training.eval_steps=10",
         "training.eval_steps does nothing without eval_strategy: steps; add that or remove it"),
    says("workers that persist where there are none", "training.dataloader_persistent_workers=true",
         "training.dataloader_persistent_workers does nothing without dataloader_num_workers of 1 or more; add that or "
         "remove it"),
    Bad("a logger that is not installed, in a later stage",
        f"finetune {FRESH} --set stages.depth.training.report_to=wandb",
        "stages.depth.training.report_to: WandbCallback requires wandb to be installed. ..."),
    Bad("an optimizer that is not installed", f"finetune {FRESH} --set training.optim=adamw_8bit",
        "training.optim: You need to install `bitsandbytes` in order to use bitsandbytes optimizers: ..."),
    Bad("an argument that the schedule does not have",
        f"finetune {FRESH} --set training.lr_scheduler_kwargs.nonsense=1",
        "training.lr_scheduler_type: get_linear_schedule_with_warmup() got an unexpected keyword argument 'nonsense'"),
    # --- trainings without a step, and sizes on the command line
    *(
        Bad(f"a batch larger than the data, all of it dropped, {command}",
            f"{command} {FRESH} {more} --set training.dataloader_drop_last=true "
            "--set training.per_device_train_batch_size=64",
            "nothing would be trained: the 48 training rows do not fill one batch of 64 "
            "(per_device_train_batch_size 64, processes 1), and training.dataloader_drop_last drops what is not full; "
            "lower the batch size or remove it")
        for command, more in (("finetune", ""), ("train-width", "--set teacher={d}/run/teacher"))
    ),
    Bad("a size in per cent", "export {d}/run/depth --width 66%",
        "width '66%' is no number; write a share such as 0.66 or 2/3"),
    Bad("a share of none", "export {d}/run/depth --depth 1/0",
        "depth '1/0' is no number; write a share such as 0.66 or 2/3"),
    Bad("a share above 1, as a fraction", "export {d}/run/depth --width 3/2", "width 1.5 is outside (0, 1]"),
    Bad("a quickstart elsewhere", "quickstart --output {d}/q --set output_dir={d}/other",
        "--set output_dir is not possible for a quickstart; --output says where its results go"),
    Bad("a quickstart with a bad grid", "quickstart --output {d}/q --set grid.widths=[0.5]",
        "...: grid.widths [0.5] lacks 1.0, the full network"),
]  # fmt: skip
