"""Names, OpenCLIP bases, the alignment folder, the Hub: all that reads or writes models."""
