"""ModernBERT (Warner et al., 2024): query, key and value in one product, a gated FFN, rotary positions, and layers that
depend on their place: the first has no norm before its attention, and most attend to a window only."""

from dynackd.families.family import HEAD, NEURON, Family, SlicedLinear, columns, rows

MODERNBERT = Family(
    layers="layers",
    linears=(
        SlicedLinear("attn.Wqkv", HEAD, 0, parts=3),
        SlicedLinear("attn.Wo", HEAD, 1),
        SlicedLinear("mlp.Wi", NEURON, 0, parts=2),
        SlicedLinear("mlp.Wo", NEURON, 1),
    ),
    query="attn.Wqkv",
    attention_output="attn.Wo",
    norms=("attn_norm", "mlp_norm"),
    hidden=(*columns("embeddings.tok_embeddings"), *rows("embeddings.norm", "final_norm")),
    layer_keys=("layer_types",),
    rotary=True,
)
