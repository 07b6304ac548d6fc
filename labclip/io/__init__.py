"""All that reads or writes models: names, the alignment folder, the Hub, folds.

`names` says what a name means, by way of `published` and `hub`; `folder` reads an alignment, and `opening` puts it
together with its base. `saving` and `folding`, with a module for each form, write models.
"""
