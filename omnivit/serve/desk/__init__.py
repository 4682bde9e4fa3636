"""The desk: the runs of a folder with curves, recipes, results and held-out answers. It needs no torch."""
