"""Small tokenizers of every model of tokens, trained on made-up words.

A word is a stem with an ending, so that there is something to merge.
"""

import random

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
RNG = random.Random(7)
STEMS = ["".join(RNG.choices("aeioulnrst", k=RNG.randrange(2, 6))) for _ in range(150)]
TEXTS = [" ".join(RNG.choice(STEMS) + RNG.choice(["", "", "s", "ing", "ed"]) for _ in range(12)) for _ in range(400)]
PHRASES = [" ".join(text.split()[:2]) for text in TEXTS]
BYTES = [f"<0x{number:02X}>" for number in range(256)]


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL)


def byte_level_bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet)


def bpe_with_byte_fallback():
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return tokenizer, trainers.BpeTrainer(vocab_size=600, special_tokens=[*SPECIAL, *BYTES])


def bpe_with_marks():
    """The first and last pieces of a word are marked, as some models of the first years have it."""
    marks = {"continuing_subword_prefix": "##", "end_of_word_suffix": "</w>"}
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", **marks))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, **marks)


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(vocab_size=220, special_tokens=SPECIAL, unk_token="[UNK]")


def word_level():
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer, trainers.WordLevelTrainer(vocab_size=300, special_tokens=SPECIAL)


KINDS = [word_piece, byte_level_bpe, bpe_with_byte_fallback, bpe_with_marks, unigram, word_level]


def trained(make):
    tokenizer, trainer = make()
    trainer.show_progress = False
    tokenizer.train_from_iterator(TEXTS, trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokenizer.add_tokens([AddedToken("<url>", normalized=True, lstrip=True), AddedToken("<n>", single_word=True)])
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
    return tokenizer


def in_transformers(make):
    """The tokenizer as transformers has it."""
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained(make), model_max_length=48, **named)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer
