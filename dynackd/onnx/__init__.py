"""ONNX graphs, smaller files and their parity with torch."""
