"""Finding out what is wrong with a training.

`diagnose` is the procedure: `look` proves what can be told without training, `search` experiments with what
`candidates`, `outputs` and `structure` suspect, `trial` is one experiment, `sound` what can be reached, `rows` what is
wrong with the data themselves. `gradients` and `recognise` are about wrong gradients, `rate` about the learning rate.
"""
