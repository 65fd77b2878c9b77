"""What the site is made from: cards, docstrings, the command line's help and the layer contract."""
