"""Reads and writes models: names, alignment folders, the Hub and folded models.

`names` resolves a name, with `published` and `hub`. `folder` reads an alignment, and `opening` loads its base. `saving`
writes models, `folding` merges matrices into them, with one `to_*` module for each other library.
"""
