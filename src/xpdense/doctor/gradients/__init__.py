"""Checking the gradients of a program, and explaining wrong ones.

`check` compares gradients with differences of the loss (`probes`), and `classify` explains wrong ones from these
numbers alone. `explain` runs the program as well: `reconstruct` finds its activations and its loss, `recover` computes
the dz of each layer from the gradients of single rows, and `matching` compares dz with the `formulas` of known faults.
"""
