"""ELECTRA's discriminator (Clark et al., 2020): BERT's layers; small ones project their embeddings to the hidden
size."""

from dataclasses import replace

from dynackd.families.bert import BERT
from dynackd.families.family import rows

ELECTRA = replace(
    BERT,
    embeddings=("embeddings", "embeddings_project"),
    hidden=(*BERT.hidden, *rows("embeddings_project")),
    hidden_copies=("embedding_size",),
)
