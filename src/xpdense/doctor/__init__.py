"""Diagnosis of training faults.

`diagnose` is the procedure: `evidence` collects what can be proven without training, `search` experiments with the
candidates that `candidates`, `outputs` and `layer_candidates` suggest, `trial` runs one experiment, `sound` trains
reference models, and `rows` examines the data themselves. `gradients` checks gradients and explains wrong ones, and
`rate` finds a learning rate.
"""
