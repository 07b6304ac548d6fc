"""All that reads or writes models: names, OpenCLIP bases, the alignment folder, the Hub.

`names` says what a name means, by way of `published` and `hub`; `folder` reads an alignment, `bases` a
base; `opening` puts them together. `saving` and `folding`, with a module for each form, write models.
"""

PRECISIONS = ("fp32", "fp16", "bf16", "pure_fp16", "pure_bf16", "amp", "amp_bf16")
"""What OpenCLIP calls the precisions of a model; the first is the default. Here, where no torch is imported."""
