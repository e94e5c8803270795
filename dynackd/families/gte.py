"""GTE (Zhang et al., 2024) and NomicBERT (Nussbaum et al., 2024): EuroBERT's linear layers, a key and a value for each
query, and BERT's embeddings and order of norms. GTE's config says a head size only where it is not hidden size / heads.
"""

from dataclasses import replace

from dynackd.families.bert import BERT
from dynackd.families.eurobert import EUROBERT

GTE = replace(
    EUROBERT,
    embeddings=("embeddings",),
    embedding_inputs=(),
    heads_key="num_attention_heads",
    query_heads_key=None,
    norms=("post_attention_layernorm", "post_mlp_layernorm"),
    hidden=BERT.hidden,
)
