"""What labclip knows of OpenCLIP's towers: activation, tokens and prefixes, texts and images as they take them."""
