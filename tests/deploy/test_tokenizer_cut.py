"""A tokenizer.json with fewer tokens reads what it can still say as before, and no id in it is an old one."""

import json
import random

import pytest
from tokenizers import Tokenizer, models
from trained_tokenizers import (
    BYTES,
    KINDS,
    SPECIAL,
    STEMS,
    TEXTS,
    bpe_with_byte_fallback,
    bpe_with_marks,
    byte_level_bpe,
    trained,
    unigram,
    word_level,
    word_piece,
)

from dynackd.deploy.tokenizer_cut import MODELS, POST_PROCESSORS, choose, cut, known_ids, model_of
from dynackd.errors import UserError


@pytest.fixture(params=KINDS, ids=lambda make: make.__name__)
def tokenizer(request):
    return trained(request.param)


def counts_of(tokenizer, texts):
    counts = [0] * tokenizer.get_vocab_size()
    for text in texts:
        for number in tokenizer.encode(text, add_special_tokens=False).ids:
            counts[number] += 1
    return counts


def smaller(tokenizer, coverage=0.8, **wish):
    """(the tokenizer with fewer tokens, the old id of each new one, its JSON)"""
    content = json.loads(tokenizer.to_str())
    kept = choose(content, counts_of(tokenizer, TEXTS[:200]), coverage=coverage, **wish)
    changed, order = cut(content, kept)
    return Tokenizer.from_str(json.dumps(changed)), order, changed


def kept_texts(tokenizer, order, texts):
    """Those that become kept tokens alone."""
    return [text for text in texts if set(tokenizer.encode(text).ids) <= set(order)]


def random_texts(tokenizer, order):
    """Texts of kept tokens, some beside one another without a blank, and of characters that no training text had."""
    rng = random.Random(3)
    words = [tokenizer.decode([number]) for number in order]
    texts = ["".join(rng.choice([*words, " ", " ", "<url>", "é", "漢", "🙂"]) for _ in range(rng.randrange(1, 15)))
             for _ in range(300)]  # fmt: skip
    return [*TEXTS, *[" ".join(rng.choices(STEMS, k=4)) for _ in range(300)], *texts]


def test_what_becomes_kept_tokens_does_so_piece_by_piece_as_before(tokenizer):
    small, order, _ = smaller(tokenizer)
    assert len(order) < tokenizer.get_vocab_size() * 0.9
    texts = kept_texts(tokenizer, order, random_texts(tokenizer, order))
    assert len(texts) > 60
    for text in texts:
        for pair in ((text,), (text, "una")):
            before, after = tokenizer.encode(*pair), small.encode(*pair)
            if set(before.ids) <= set(order):
                assert after.tokens == before.tokens, text
                assert [order[number] for number in after.ids] == before.ids
                assert (after.type_ids, after.offsets) == (before.type_ids, before.offsets)
                assert small.decode(after.ids) == tokenizer.decode(before.ids)


def test_ids_are_numbered_from_0_without_a_gap_and_in_their_old_order(tokenizer):
    small, order, _ = smaller(tokenizer)
    vocabulary = small.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(order)))
    assert vocabulary == {tokenizer.id_to_token(old): new for new, old in enumerate(order)}
    assert order == sorted(order)


def test_no_text_is_told_less_than_before(tokenizer):
    """Of single characters all stay, so that nothing becomes unknown that was not; words of a WordLevel may."""
    small, order, content = smaller(tokenizer)
    if content["model"]["type"] == "WordLevel":
        assert small.encode(STEMS[0] + "zz").tokens == ["[CLS]", "[UNK]", "[SEP]"]
        return
    for text in random_texts(tokenizer, order):
        assert small.encode(text).tokens.count("[UNK]") <= tokenizer.encode(text).tokens.count("[UNK]")
        mine, theirs = (own.decode(own.encode(text).ids) for own in (small, tokenizer))
        assert said(mine) == said(theirs)


def said(decoded):
    """Without the marks of pieces that no decoder takes away."""
    return decoded.replace(" ##", "").replace("</w>", "")


def test_every_kept_token_can_still_be_the_result_of_a_text(tokenizer):
    """Where it could before: each token alone becomes itself."""
    small, order, _ = smaller(tokenizer)
    before, after = tokenizer.model, small.model
    for old in order:
        token = tokenizer.id_to_token(old)
        if token not in ("<url>", "<n>") and [own.value for own in before.tokenize(token)] == [token]:
            assert [own.value for own in after.tokenize(token)] == [token]


@pytest.mark.parametrize("make", [byte_level_bpe, bpe_with_byte_fallback, bpe_with_marks])
def test_of_every_kept_merge_both_parts_and_the_result_are_there(make):
    _, _, content = smaller(trained(make))
    vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
    prefix = len(content["model"]["continuing_subword_prefix"] or "")
    made = {left + right[prefix:] for left, right in merges}
    assert len(merges) > 10
    assert all({left, right, left + right[prefix:]} <= vocabulary.keys() for left, right in merges)
    alone = [token for token in vocabulary if token not in made and token not in [*SPECIAL, *BYTES]]
    assert all(len(token.removeprefix("##").removesuffix("</w>")) == 1 for token in alone)


def test_the_parts_of_a_token_are_those_that_its_merges_run_through():
    """Of several merges with the same result it is the order of all merges that decides, not the first of these."""
    vocabulary = {token: number for number, token in enumerate(["a", "b", "c", "bc", "ab", "abc", "xy"])}
    merges = [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    assert [own.value for own in tokenizer.model.tokenize("abc")] == ["abc"]
    content = json.loads(tokenizer.to_str())
    model = model_of(content)
    assert {model.tokens[part] for part in model.parts(vocabulary["abc"])} == {"a", "b", "c", "bc", "abc"}
    assert model.parts(vocabulary["xy"]) == {vocabulary["xy"]}  # no merges lead there
    counts = [0, 0, 0, 0, 0, 9, 0]
    changed, _ = cut(content, choose(content, counts))
    assert list(changed["model"]["vocab"]) == ["a", "b", "c", "bc", "abc"]
    assert changed["model"]["merges"] == [["b", "c"], ["a", "bc"]]
    small = Tokenizer.from_str(json.dumps(changed))
    assert [own.value for own in small.model.tokenize("abcab")] == ["abc", "a", "b"]


# --- what stays ------------------------------------------------------------------------------------------------------


def test_special_added_and_unknown_tokens_bytes_and_characters_stay(tokenizer):
    small, _, content = smaller(tokenizer, coverage=0.01)
    vocabulary, before = small.get_vocab(), tokenizer.get_vocab()
    assert {*SPECIAL, "<url>", "<n>"} <= vocabulary.keys()
    assert vocabulary.keys() >= set(BYTES) & before.keys()
    if content["model"]["type"] != "WordLevel":
        single = {token for token in before if len(token.removeprefix("##").removesuffix("</w>")) == 1}
        assert single <= vocabulary.keys()
        assert len(single) >= 10


def test_the_flags_of_added_tokens_and_all_that_names_no_id_stay_as_they_are(tokenizer):
    before, (small, _, after) = json.loads(tokenizer.to_str()), smaller(tokenizer)
    ids = small.get_vocab()
    assert after["added_tokens"] == [{**own, "id": ids[own["content"]]} for own in before["added_tokens"]]
    assert small.encode("una   <url> una").tokens == tokenizer.encode("una   <url> una").tokens
    for key in ("normalizer", "pre_tokenizer", "decoder", "truncation", "version"):
        assert after[key] == before[key]
    own = {"vocab", "merges", "unk_id"}
    assert {k: v for k, v in after["model"].items() if k not in own} == {
        k: v for k, v in before["model"].items() if k not in own
    }


def test_an_unknown_character_scores_as_before_in_a_unigram():
    """Its score is less than the least of all; without that one it would be another."""
    tokenizer = trained(unigram)
    content = json.loads(tokenizer.to_str())
    least = min(score for _, score in content["model"]["vocab"])
    place = next(n for n, own in enumerate(content["model"]["vocab"]) if own[1] == least)
    content["model"]["vocab"][place] = ["qqqqqqqq", least - 50]  # which no text has
    tokenizer = Tokenizer.from_str(json.dumps(content))
    _, order, changed = smaller(tokenizer)
    assert place in order
    assert min(score for _, score in changed["model"]["vocab"]) == least - 50
    unknown = changed["model"]["unk_id"]
    assert changed["model"]["vocab"][unknown][0] == "[UNK]"
    scores = dict(map(tuple, json.loads(tokenizer.to_str())["model"]["vocab"]))
    assert all(scores[token] == score for token, score in changed["model"]["vocab"])


def test_the_unknown_token_of_a_unigram_is_found_wherever_it_stands():
    words = [("a", -1.0), ("b", -2.0), ("ab", -2.5), ("ba", -9.0), ("c", -3.0), ("?", 0.0)]
    tokenizer = Tokenizer(models.Unigram(words, unk_id=5))
    changed, order = cut(json.loads(tokenizer.to_str()), choose(json.loads(tokenizer.to_str()), [0] * 6))
    assert [words[old][0] for old in order] == ["a", "b", "ba", "c", "?"]  # "ba" is the least
    assert changed["model"]["unk_id"] == 4
    small = Tokenizer.from_str(json.dumps(changed))
    assert [order[number] for number in small.encode("cxb").ids] == tokenizer.encode("cxb").ids == [4, 5, 1]


# --- every id --------------------------------------------------------------------------------------------------------

ENDS = {"sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
PROCESSORS = {
    "BertProcessing": {"type": "BertProcessing", **ENDS},
    "RobertaProcessing": {"type": "RobertaProcessing", **ENDS, "trim_offsets": True, "add_prefix_space": False},
    "TemplateProcessing": None,
    "ByteLevel": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "Sequence": {"type": "Sequence", "processors": [{"type": "BertProcessing", **ENDS}]},
}


def moved(content):
    """The tokenizer.json with its special tokens behind all others, as some have them: so their ids must change."""
    words = [token for token in content["model"]["vocab"] if token not in SPECIAL]
    ids = {token: number for number, token in enumerate([*words, *SPECIAL])}
    content["model"]["vocab"] = ids
    for own in content["added_tokens"]:
        own["id"] = ids.get(own["content"], own["id"])
    content["padding"]["pad_id"] = ids["[PAD]"]
    return ids


@pytest.mark.parametrize("name", POST_PROCESSORS)
def test_the_post_processor_and_the_padding_name_the_new_ids(name):
    content = json.loads(trained(word_piece).to_str())
    ids = moved(content)
    processor = json.loads(json.dumps(PROCESSORS[name] or content["post_processor"]))
    for own in [processor, *processor.get("processors", [])]:
        for key in ENDS.keys() & own.keys():
            own[key][1] = ids[own[key][0]]
        for token, special in own.get("special_tokens", {}).items():
            special["ids"] = [ids[token]]
    content["post_processor"] = processor
    tokenizer = Tokenizer.from_str(json.dumps(content))
    small, order, _ = smaller(tokenizer, coverage=0.3)
    assert len(order) < 250
    vocabulary = small.get_vocab()
    assert vocabulary["[CLS]"] != ids["[CLS]"]
    before, after = ([own.encode("una"), own.encode("una nu una nu")] for own in (tokenizer, small))
    if name != "ByteLevel":
        assert [own.tokens[0] for own in after] == ["[CLS]"] * 2
        assert all(own.ids[0] == vocabulary["[CLS]"] and vocabulary["[SEP]"] in own.ids for own in after)
    for mine, theirs in zip(after, before, strict=True):
        assert [order[number] for number in mine.ids] == theirs.ids or not set(theirs.ids) <= set(order)
    padded = small.encode_batch(["una", "una nu una nu una nu"])[0]
    assert padded.ids[-1] == vocabulary["[PAD]"]
    assert padded.attention_mask[-1] == 0


def test_added_tokens_are_numbered_right_behind_the_model(tokenizer):
    """Where they were far behind: else they would be out of the bounds of the embeddings."""
    small, order, _ = smaller(tokenizer)
    added = [own for own in ("<url>", "<n>") if own not in json.loads(tokenizer.to_str())["model"]["vocab"]]
    assert added == ["<url>", "<n>"]
    assert [small.token_to_id(own) for own in added] == [len(order) - 2, len(order) - 1]


def test_models_and_post_processors_that_are_not_known_are_refused():
    content = json.loads(trained(word_level).to_str())
    with pytest.raises(UserError, match=r"the model of the tokenizer.json: 'Morse' is unknown"):
        choose({**content, "model": {"type": "Morse"}}, [])
    with pytest.raises(UserError, match=r"the post-processor of the tokenizer.json: 'Morse' is unknown"):
        choose({**content, "post_processor": {"type": "Morse"}}, [])
    assert len(MODELS) == 4


# --- which tokens ----------------------------------------------------------------------------------------------------


def words_of(counts, **wish):
    vocabulary = {"[UNK]": 0, "a": 1, "b": 2, "c": 3, "d": 4}
    content = json.loads(Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]")).to_str())
    return sorted(choose(content, counts, **wish))


@pytest.mark.parametrize(
    ("wish", "kept"),
    [
        ({"coverage": 0.9}, [0, 2, 3]),  # 1 + 50 + 39 of 100
        ({"coverage": 0.91}, [0, 2, 3, 4]),
        ({"coverage": 1.0}, [0, 2, 3, 4]),  # what never occurs is never needed
        ({"coverage": 0.0001}, [0]),
        ({"size": 3}, [0, 2, 3]),
        ({"size": 5}, [0, 1, 2, 3, 4]),  # nor is there more
        ({"coverage": 0.5, "more": [4]}, [0, 2, 4]),
    ],
)
def test_the_most_frequent_tokens_are_kept_until_they_cover_enough(wish, kept):
    assert words_of([1, 0, 50, 39, 10], **wish) == kept


def test_equally_frequent_tokens_are_kept_in_the_order_of_their_ids():
    assert words_of([0, 5, 5, 5, 5], size=3) == [0, 1, 2]
    assert words_of([0, 0, 0, 0, 9], size=3) == [0, 1, 4]


def test_a_size_is_reached_with_all_that_tokens_are_made_of():
    tokenizer = trained(byte_level_bpe)
    content = json.loads(tokenizer.to_str())
    counts = counts_of(tokenizer, TEXTS)
    for size in (270, 300, 411, len(known_ids(content))):
        assert len(choose(content, counts, size=size)) == size


@pytest.mark.parametrize("size", [1, 261, 603])
def test_a_size_that_cannot_be_is_refused_with_what_can(size):
    tokenizer = trained(byte_level_bpe)
    content = json.loads(tokenizer.to_str())
    text = "262 of the tokenizer's 602 tokens must stay .*: give a number from 262 to 602"
    with pytest.raises(UserError, match=f"--vocabulary-size is {size}; {text}"):
        choose(content, counts_of(tokenizer, TEXTS), size=size)
