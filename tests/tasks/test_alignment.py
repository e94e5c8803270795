"""Which words two tokenizers have in common, against a slow twin, and what a batch makes of them."""

import random

import pytest
import torch
import trained_tokenizers
from conftest import tiny_tokenizer
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from dynackd.tasks.alignment import common_words, read_alike, read_by_both
from dynackd.tasks.classification import CLASSIFICATION
from dynackd.tasks.common_words import NUMBERS, THEIRS, Collator, Places, read_both
from dynackd.tasks.kind import Task
from dynackd.tasks.token_classification import TOKEN_CLASSIFICATION


def made(model, ends=("[CLS]", "[SEP]"), between=None, normalizer=None, pre=None, max_length=64):
    """A tokenizer of a model of tokens, with its special tokens round the texts."""
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer, tokenizer.decoder = pre or pre_tokenizers.Whitespace(), decoders.WordPiece()
    first, last = ends
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {between or last} $B:1 {last}:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ends],
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, pad_token="[PAD]")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def pieces(words, **options):
    """A lower-casing WordPiece with these pieces and single letters."""
    letters = [chr(code) for code in range(97, 123)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, *letters, *(f"##{letter}" for letter in letters)]
    model = models.WordPiece({word: n for n, word in enumerate(dict.fromkeys(vocabulary))}, unk_token="[UNK]")
    return made(model, normalizer=normalizers.BertNormalizer(), pre=pre_tokenizers.BertPreTokenizer(), **options)


def level(words, **options):
    """Whole words, split at spaces."""
    vocabulary = ["[PAD]", "[UNK]", "<s>", "</s>", *words]
    model = models.WordLevel({word: n for n, word in enumerate(vocabulary)}, unk_token="[UNK]")
    return made(model, **{"ends": ("<s>", "</s>"), "pre": pre_tokenizers.WhitespaceSplit(), **options})


def numbers(kind, one, other, texts, max_length=64, their_length=64, **options):
    encoded = [tokenizer(*texts, truncation=True, max_length=length, **options)
               for tokenizer, length in ((one, max_length), (other, their_length))]
    ours, theirs = common_words(kind, *(batch.encodings for batch in encoded))
    return [[list(map(int, row)) for row in side] for side in (ours, theirs)]


def numbered(one, other, *texts, **options):
    """Of one row."""
    return [side[0] for side in numbers(CLASSIFICATION, one, other, [[text] for text in texts], **options)]


# --- the slow twin ----------------------------------------------------------------------------------------------------


def twin(one, other, row, lengths):
    """The words of one row, character by character. What the cut lost is found by reading the row without a cut."""
    links, kept, lost = [], [{}, {}], set()  # links: sets of places that belong to one word
    for side, (tokenizer, length) in enumerate(zip((one, other), lengths, strict=True)):
        texts = [[text] for text in row]
        whole = tokenizer(*texts).encodings[0]
        short = tokenizer(*texts, truncation=True, max_length=length).encodings[0]
        left = {n: sum(s == n for s in short.sequence_ids) for n in (0, 1)}
        for sequence, (start, end) in zip(whole.sequence_ids, whole.offsets, strict=True):
            if sequence is None:
                continue
            characters = {(sequence, place) for place in range(start, end)}
            links.append(characters)
            left[sequence] -= 1
            if left[sequence] < 0:
                lost |= characters
        seen = 0
        for index, (sequence, (start, end)) in enumerate(zip(short.sequence_ids, short.offsets, strict=True)):
            if sequence is None:
                kept[side][index] = ("special", seen)
            else:
                seen = sequence + 1
                kept[side][index] = {(sequence, place) for place in range(start, end)}
    words = []
    for characters in links:
        touching = [word for word in words if word & characters]
        words = [word for word in words if not word & characters] + [characters.union(*touching)] * bool(characters)
    of = [{}, {}]
    for side in (0, 1):
        for index, what in kept[side].items():
            if isinstance(what, set):
                found = [n for n, word in enumerate(words) if what & word and not word & lost]
                of[side][index] = found[0] if found else None
                continue
            place = what[1]
            counts = [[i for i, other_what in kept[s].items() if other_what == ("special", place)] for s in (0, 1)]
            rank = counts[side].index(index) if len(counts[0]) == len(counts[1]) else 0
            of[side][index] = ("special", place, rank)
    shared = set(of[0].values()) & set(of[1].values()) - {None}
    order = list(dict.fromkeys(word for word in of[0].values() if word in shared))
    return [[order.index(word) if word in shared else -1 for word in side.values()] for side in of]


MIXED = ["", " ", "\t", "caf\u00e9", "cafe\u0301", "na\u00efve", "\u0130stanbul", "\ufb01ne", "\u5317\u4eac",
         "\U0001f600", "don't", "<n>", "A-b", "X" * 12, "<url>"]  # fmt: skip


def strange(rng):
    """A text with everything that offsets may stumble over."""
    words = [rng.choice([*MIXED, *trained_tokenizers.STEMS]) for _ in range(rng.randrange(0, 9))]
    return rng.choice(["", " "]) + rng.choice([" ", "  "]).join(words)


@pytest.mark.parametrize("pair", [False, True])
def test_words_are_those_of_the_slow_twin_for_every_model_of_tokens(pair):
    rng = random.Random(5)
    tokenizers = [trained_tokenizers.in_transformers(make) for make in trained_tokenizers.KINDS]
    for one in tokenizers:
        for other in tokenizers:
            lengths = rng.choice([(48, 48), (9, 48), (48, 9), (8, 13)])
            rows = [[strange(rng) for _ in range(1 + pair)] for _ in range(6)]
            found = numbers(CLASSIFICATION, one, other, [list(column) for column in zip(*rows, strict=True)], *lengths)
            for place, row in enumerate(rows):
                assert [side[place] for side in found] == twin(one, other, row, lengths), (row, lengths)


# --- what a word is ---------------------------------------------------------------------------------------------------


def test_a_word_ends_where_both_cut():
    one, other = pieces(["play", "##ing", "the"]), level(["playing", "the"])
    assert numbered(one, other, "the playing the") == [[0, 1, 2, 2, 3, 4], [0, 1, 2, 3, 4]]
    # Both cut "play|ing": two words. Only one cuts "in|g": the other's cut decides.
    other = pieces(["play", "##in"])
    assert numbered(one, other, "Playing") == [[0, 1, 2, 3], [0, 1, 2, 2, 3]]
    # An unknown word is one piece, and so one word.
    assert numbered(one, level(["the"]), "the zzz") == [[0, 1, 2, 2, 2, 3], [0, 1, 2, 3]]


def test_a_word_of_which_a_side_lost_a_piece_to_the_cut_is_left_out_of_both():
    one, other = pieces(["play", "##ing", "the"]), level(["playing", "the"])
    # "the play" and the end; "##ing" is lost.
    assert numbered(one, other, "the playing", max_length=4) == [[0, 1, -1, 2], [0, 1, -1, 2]]
    assert numbered(other, one, "the playing", their_length=4) == [[0, 1, -1, 2], [0, 1, -1, 2]]
    assert numbered(one, other, "the the the", their_length=3) == [[0, 1, -1, -1, 2], [0, 1, 2]]
    # In a pair the cut is at the end of each text.
    assert numbered(one, other, "the playing", "the the", their_length=5) == [
        [0, 1, -1, -1, 2, 3, -1, 4], [0, 1, 2, 3, 4]
    ]  # fmt: skip


def test_special_tokens_are_words_where_both_have_them_and_one_word_where_not_as_many():
    words = ["the", "a"]
    one, other = pieces(words), level(words, between="</s> </s>")
    assert numbered(one, other, "the", "a") == [[0, 1, 2, 3, 4], [0, 1, 2, 2, 3, 4]]
    assert numbered(other, other, "the", "a") == [[0, 1, 2, 3, 4, 5]] * 2
    bare = level(words)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B:1 </s>:1", special_tokens=[("</s>", 3)]
    )
    assert numbered(one, bare, "the") == [[-1, 0, 1], [0, 1]]
    assert numbered(one, bare, "the", "a") == [[-1, 0, -1, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize("trim", [False, True])
def test_it_does_not_matter_whether_offsets_hold_the_space_before_a_word(trim):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *alphabet, "\u0120f", "\u0120fi"]
    vocabulary = {word: n for n, word in enumerate(words)}
    model = models.BPE(vocabulary, [("\u0120", "f"), ("\u0120f", "i")], unk_token="[UNK]")
    tokenizer = made(model, pre=pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim))
    # a| fi|n|e  against  a|fine
    assert numbered(tokenizer, level(["a", "fine"]), "a fine") == [[0, 1, 2, 2, 2, 3], [0, 1, 2, 3]]


def test_bytes_of_a_character_are_one_word_and_accents_that_a_side_drops_part_none():
    one, other = trained_tokenizers.in_transformers(trained_tokenizers.byte_level_bpe), pieces(["cafe"])
    for text in ("caf\u00e9", "cafe\u0301"):  # the first in two bytes, the second a letter and a mark of two bytes
        ours, theirs = numbered(one, other, text)
        assert theirs == [0, 1, 2]
        assert set(ours[1:-1]) <= {1, -1}
        assert ours.count(-1) == (2 if text == "cafe\u0301" else 0)  # the mark alone, which the other does not read


def test_the_same_tokenizer_has_every_token_as_a_word():
    tokenizer = tiny_tokenizer()
    assert numbered(tokenizer, tokenizer, "the film is fine", "a day") == [list(range(9))] * 2
    assert read_alike(tokenizer, tiny_tokenizer())
    other = tiny_tokenizer()
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert not read_alike(tokenizer, other), "one vocabulary, but another case"


def test_words_that_are_given_one_by_one_are_texts_of_their_own():
    one, other = pieces(["play", "##ing"]), level(["playing", "dull", "d"])
    texts = [[["playing", "dull", "d"]]]
    ours, theirs = numbers(TOKEN_CLASSIFICATION, one, other, texts, is_split_into_words=True)
    assert (ours, theirs) == ([[0, 1, 1, 2, 2, 2, 2, 3, 4]], [[0, 1, 2, 3, 4]])
    ours, theirs = numbers(TOKEN_CLASSIFICATION, one, other, texts, 6, is_split_into_words=True)
    assert (ours, theirs) == ([[0, 1, 1, -1, -1, 2]], [[0, 1, -1, -1, 2]])


def test_texts_that_are_empty_or_have_nothing_in_common_have_no_words_but_the_special_ones():
    one, other = pieces(["the"]), level(["the"])
    assert numbered(one, other, "") == [[0, 1], [0, 1]]
    bare = level(["the"])
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
    assert numbered(one, bare, "") == [[-1, -1], []]


# --- a batch ----------------------------------------------------------------------------------------------------------


def test_a_batch_holds_both_encodings_and_the_words_of_each():
    one, other = pieces(["play", "##ing", "the"]), level(["playing", "the"])
    task = Task("custom", ("text",), "label", CLASSIFICATION, ("accuracy",))
    rows = Dataset.from_dict({"text": ["the playing", "the"]})
    read = read_by_both(rows, task, one, other, 16, 16)
    own = [dict(one(text)) for text in rows["text"]]
    batch = Collator(CLASSIFICATION.collator(one), CLASSIFICATION.collator(other))(
        [{**o, **shared} for o, shared in zip(own, read, strict=True)]
    )
    assert batch[NUMBERS].tolist() == [[0, 1, 2, 2, 3], [0, 1, 2, -1, -1]]
    assert batch[THEIRS + NUMBERS].tolist() == [[0, 1, 2, 3], [0, 1, 2, -1]]
    alone, words = read_both(batch)
    assert set(alone) == {"input_ids", "attention_mask"}
    theirs = CLASSIFICATION.collator(other)([dict(other(text)) for text in rows["text"]])
    assert torch.equal(words.inputs["input_ids"], theirs["input_ids"])
    assert words.mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_a_words_vector_is_the_mean_of_its_pieces_whatever_stands_elsewhere():
    places = Places(torch.tensor([[0, 1, 1, -1], [0, -1, -1, -1]]), 3)
    values = torch.tensor([[[1.0], [2.0], [5.0], [torch.nan]], [[7.0], [torch.nan], [torch.inf], [0.0]]])
    values.requires_grad_()
    mean = places.mean(values)
    assert mean[..., 0].tolist() == [[1, 3.5, 0], [7, 0, 0]]
    mean.sum().backward()
    assert values.grad[..., 0].tolist() == [[1, 0.5, 0.5, 0], [1, 0, 0, 0]]
    assert places.mean(values.bfloat16()).dtype == torch.float32
    assert places.first(values.detach())[0, :, 0].tolist() == [1, 2, 1]
