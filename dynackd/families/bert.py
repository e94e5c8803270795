"""BERT (Devlin et al., 2019)."""

from dynackd.families.family import HEAD, NEURON, Family, SlicedLinear, columns, rows

BERT = Family(
    layers="encoder.layer",
    linears=(
        SlicedLinear("attention.self.query", HEAD, 0),
        SlicedLinear("attention.self.key", HEAD, 0),
        SlicedLinear("attention.self.value", HEAD, 0),
        SlicedLinear("attention.output.dense", HEAD, 1),
        SlicedLinear("intermediate.dense", NEURON, 0),
        SlicedLinear("output.dense", NEURON, 1),
    ),
    query="attention.self.query",
    attention_output="attention.output.dense",
    head_count=("attention.self.num_attention_heads",),
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    hidden=(
        *columns("embeddings.word_embeddings", "embeddings.position_embeddings", "embeddings.token_type_embeddings"),
        *rows("embeddings.LayerNorm"),
    ),
)
