"""Finding out what is wrong with a network: gradient checks (`gradients`)."""
