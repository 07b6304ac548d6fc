"""The page of `labclip app`: what it computes, apart from how it is laid out, which is in `page` alone.

Nothing in labclip but the command imports this package. Only `page` needs gradio.
"""
