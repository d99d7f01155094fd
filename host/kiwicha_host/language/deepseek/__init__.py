"""A small language model of the DeepSeek-V3 kind: its sizes and weights, references in numpy, and its training."""
