"""OpenCLIP's towers: activation, tokens and prefixes, encoding of texts and images."""
