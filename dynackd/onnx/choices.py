"""What `dynackd export` can be asked for, by name, without an import of torch or onnx."""

MAX_DROP = 0.01  # of the task's metric, in its unit
COVERAGE = 0.9995  # share of the tokens of the texts that a smaller vocabulary holds
FEWEST_OF_CLASS = 20  # of a class in the validation data, below which it decides nothing: of 20, one is 0.05 already
FASTEST = "fastest"  # the graph that is it here
GRAPHS = ("plain", "dynamo", "fused")  # as in `graphs.GRAPHS`
# As in `quantize.VARIANTS`, and what the command line says of each.
VARIANTS = {
    "int8": "also write ONNX with 8-bit weights (dynamic)",
    "int7": "the same with 7 bits, right on x86 processors without VNNI too",
    "fp16": "also write ONNX in 16-bit floats",
}
