"""What labclip knows of OpenCLIP's models: their activation, tokenizer, text encoding and image transform."""
