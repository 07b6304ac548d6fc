"""Names, OpenCLIP bases, the alignment folder, the Hub: all that reads or writes models."""

PRECISIONS = ("fp32", "fp16", "bf16", "pure_fp16", "pure_bf16", "amp", "amp_bf16")
"""What OpenCLIP calls the precisions of a model; the first is the default. Here, where no torch is imported."""
