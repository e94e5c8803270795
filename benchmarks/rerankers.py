"""Smaller rerankers: dynackd's sizes against layer dropping, and sizes alone, on the sentences of SQuAD's paragraphs.

    python benchmarks/rerankers.py --seeds 0 1 2                  # trains and judges what is missing
    python benchmarks/rerankers.py --time                         # the files' latencies: on a quiet machine
    python benchmarks/rerankers.py --show --picture docs/rerankers.svg
    python benchmarks/rerankers.py --smoke --output /tmp/smoke    # all of it in two minutes; its figures mean nothing

The teacher is a cross-encoder, which `finetune` makes of MiniLM by the recipe, once for all seeds:

    drop        layers dropped (`--layers`), each size trained alone by the mean squared error of the scores, in
                sentence-transformers' CrossEncoder trainer
    ours        a recipe of dynackd (recipes/ranking): all sizes of its grid out of its two stages
    polished    the same, and then some of its sizes (`--polished`) each trained on alone (`dynackd polish`)
    alone       some of these sizes (`--alone`), each trained alone by the same signal (`dynackd polish`)

All read the same questions with their sentences, equally often, and no label. Judged by the ONNX files on questions of
the validation rows: nDCG@10 and MRR@10; the latency is that of scoring 20 passages of 64 tokens (question and sentence)
at once.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fronts
import numpy as np
import torch
from front_tables import fronts_main
from fronts import OURS, Sized, Task, Training
from make_rerank import read

from dynackd.data.origins import resolve_model
from dynackd.grid import keep_last
from dynackd.onnx.graphs import OnnxModel
from dynackd.report.terminal import say
from dynackd.supernet.checkpoints import load_tokenizer
from dynackd.tasks.kinds import KINDS
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.ranking import rank_metrics
from dynackd.training.recipe import load_recipe, make_recipe
from dynackd.training.runs import RunMode
from dynackd.training.stages import finetune
from dynackd.training.teachers import load_teacher

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "ranking" / "squad-rerank.yaml"
KIND = KINDS["ranking"]
BATCH = 32  # pairs
METHODS = ("drop", "ours", "polished", "alone")
SMOKE = {"queries": 12, "questions": 10, "layers": [3], "alone": ["0.5x0.5"], "polished": ["0.5x0.5"],
         "set": ["grid.widths=[1.0, 0.5]", "grid.depths=[1.0, 0.5]"]}  # fmt: skip


# --- what is measured ------------------------------------------------------------------------------------------------


class Judge:
    """Metrics of an ONNX file on a recipe's validation rows."""

    def __init__(self, content: Mapping[str, Any], questions: int) -> None:
        recipe = make_recipe(fronts.with_overrides(content, {"data.validation_rows": questions, "data.seed": 0}))
        data = load_task_data(recipe.task, recipe.data)
        rows = data.validation[""]
        network = plain(content["model"])
        encoded = KIND.features(data.task, network.tokenizer, {**rows[:], "row": list(range(len(rows)))},
                                recipe.data.max_length)  # fmt: skip
        self.group, self.labels = np.array(encoded["of_query"]), np.array(encoded["labels"], dtype=np.float64)
        self.tokenizer = network.tokenizer
        self.inputs = {name: encoded[name] for name in network.tokenizer.model_input_names}

    def __call__(self, file: Path) -> dict[str, float]:
        model = OnnxModel(file, KIND, threads=torch.get_num_threads())
        order = sorted(range(len(self.group)), key=lambda place: len(self.inputs["input_ids"][place]))
        scores = np.zeros(len(order))
        for start in range(0, len(order), 16):
            some = order[start : start + 16]
            rows = {name: [values[place] for place in some] for name, values in self.inputs.items()}
            batch = self.tokenizer.pad(rows, return_tensors="np")
            scores[some] = model({name: array.astype(np.int64) for name, array in batch.items()})["logits"].reshape(-1)
        return rank_metrics(scores, self.labels, self.group)


def task_of(judge: Any) -> Task:
    return Task("ndcg@10", ("ndcg@10", "mrr@10", "map"), ("ndcg@10", "mrr@10"), judge, ((20, 64),))


# --- what is trained -------------------------------------------------------------------------------------------------


def content_of(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The recipe with this run's rows, seed and teacher; its own validation is cut short, since a `Judge` comes after
    it."""
    given = dict(load_recipe(options.recipe, options.set).content)
    files = {"train": "train-partial.json.gz", "validation": "dev-xquad-en.json.gz"}
    rows = {split: rows_file(options, split, name) for split, name in files.items()}
    own = {"data.train": str(rows["train"]), "data.validation": str(rows["validation"]),
           "data.train_rows": options.queries, "data.validation_rows": 16, "data.seed": seed, "training.seed": seed,
           "training.bf16": fronts.has_bf16(), "training.save_strategy": "no",
           "training.disable_tqdm": True}  # fmt: skip
    return fronts.with_overrides(given, own)


def rows_file(options: argparse.Namespace, split: str, name: str) -> Path:
    file = options.output / f"{split}.jsonl"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in read(options.data / "squad" / name)]
        file.write_text("".join(lines), encoding="utf-8")
    return file


def with_teacher(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """`content_of`, its model the teacher, which is fine-tuned where that was not done yet: in float32, with seed 0."""
    place = options.output / "teacher-run"
    if not (place / "teacher").is_dir():
        first = fronts.with_overrides(content_of(options, 0), {"output_dir": str(place), "training.bf16": False})
        finetune(make_recipe(first), RunMode(overwrite=True))
    return {**content_of(options, seed), "model": str((place / "teacher").resolve())}


def plain(directory: str | Path) -> Sized:
    """A whole model, as a network of one size."""
    network = load_teacher(str(directory), KIND)
    return Sized(network, load_tokenizer(resolve_model(str(directory)), network.model.config, KIND))


def dropped(kept: int, options: argparse.Namespace, seed: int, place: Path) -> dict[str, Sized]:
    """Layers dropped, then MSE of the scores."""
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import MSELoss

    content = with_teacher(options, seed)
    recipe = make_recipe(content)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def encoder() -> Any:
        return CrossEncoder(content["model"], device=device, max_length=recipe.data.max_length, num_labels=1,
                            activation_fn=torch.nn.Identity(), model_kwargs=dict(fronts.ATTENTION))  # fmt: skip

    def work() -> int:
        queries = load_task_data(recipe.task, recipe.data, splits=("train",)).train
        pairs = [(row["query"], passage) for row in queries for passage in row["passages"]]
        teacher, student = encoder(), encoder()
        layers = student.model.bert.encoder
        layers.layer = torch.nn.ModuleList(layers.layer[index] for index in keep_last(kept, len(layers.layer)))
        student.model.config.num_hidden_layers = kept
        scores = teacher.predict(pairs, batch_size=64).astype(float)
        columns = {"query": [one for one, _ in pairs], "passage": [other for _, other in pairs], "label": scores}
        own = {"learning_rate": options.drop_rate, "num_train_epochs": fronts.epochs_of(recipe),
               "per_device_train_batch_size": BATCH}  # fmt: skip
        arguments = CrossEncoderTrainingArguments(**fronts.rival_arguments(place, seed, **own))
        rows = Dataset.from_dict(columns)
        trainer = CrossEncoderTrainer(model=student, args=arguments, train_dataset=rows, loss=MSELoss(student))
        trainer.train()
        student.save_pretrained(str(place / "trained"))
        return round(trainer.state.epoch * len(queries))

    fronts.step(place, "train", work)
    return {f"{kept} layers": plain(place / "trained")}


def trainings(options: argparse.Namespace) -> dict[str, list[Training]]:
    """By the name of a method, its trainings."""
    return {
        "drop": [Training("layers dropped, MSE", f"drop{kept}", partial(dropped, kept, options))
                 for kept in options.layers],
        **fronts.own_trainings(options, partial(with_teacher, options)),
    }  # fmt: skip


# --- command line ----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    return fronts_main(options_of(arguments), train, task_of(None), OURS)


def train(options: argparse.Namespace) -> None:
    reads = options.queries * fronts.epochs_of(make_recipe(content_of(options, 0)))
    fronts.same_budget(options.output, {"queries": options.queries, "questions": options.questions, "read": reads})
    teacher = with_teacher(options, 0)
    judge = Judge(teacher, options.questions)
    say(f"judged on {len(set(judge.group.tolist())):,} questions with {len(judge.group):,} sentences")
    whole = Training("teacher", "teacher", lambda _seed, _place: {"6 layers": plain(teacher["model"])})
    known = trainings(options)
    fronts.run([whole], [0], task_of(judge), options.output)
    wanted = [training for method in options.methods for training in known[method]]
    fronts.run(wanted, options.seeds, task_of(judge), options.output, options.keep)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--queries", type=int, default=1000, help="that are read, with their passages (default: 1000)")
    parser.add_argument("--questions", type=int, default=600, help="to judge on (default: 600)")
    parser.add_argument("--layers", nargs="+", type=int, default=[5, 3, 2], help="of the rival's sizes")
    parser.add_argument("--alone", nargs="+", default=["0.5x0.5"], metavar="WIDTHxDEPTH",
                        help="sizes of ours that are trained alone, too")  # fmt: skip
    parser.add_argument("--recipe", type=Path, default=RECIPE, help=f"of all (default: {RECIPE.name})")
    fronts.add_options(parser, Path("runs/rerankers"), drop_rate=2e-4)
    parser.add_argument("--smoke", action="store_true", help=f"a budget of two minutes: {SMOKE}")
    options = parser.parse_args(arguments)
    if options.smoke:
        vars(options).update(SMOKE)
    return options


if __name__ == "__main__":
    sys.exit(main())
