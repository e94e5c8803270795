"""DistilBERT (Sanh et al., 2019)."""

from dynackd.families.family import HEAD, NEURON, Family, SlicedLinear, columns, rows

DISTILBERT = Family(
    layers="transformer.layer",
    linears=(
        SlicedLinear("attention.q_lin", HEAD, 0),
        SlicedLinear("attention.k_lin", HEAD, 0),
        SlicedLinear("attention.v_lin", HEAD, 0),
        SlicedLinear("attention.out_lin", HEAD, 1),
        SlicedLinear("ffn.lin1", NEURON, 0),
        SlicedLinear("ffn.lin2", NEURON, 1),
    ),
    query="attention.q_lin",
    attention_output="attention.out_lin",
    head_count=("attention.n_heads",),
    norms=("sa_layer_norm", "output_layer_norm"),
    hidden=(
        *columns("embeddings.word_embeddings", "embeddings.position_embeddings"),
        *rows("embeddings.LayerNorm"),
    ),
    layers_key="n_layers",
    heads_key="n_heads",
    neurons_key="hidden_dim",
    hidden_key="dim",
)
