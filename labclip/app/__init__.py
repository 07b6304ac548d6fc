"""The page of `labclip app`. `page` lays it out and serves it; the other modules compute what it shows.

Only the command line imports this package, and only `page` needs gradio.
"""
