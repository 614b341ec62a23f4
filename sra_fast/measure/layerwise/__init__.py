"""Run a decoder layer by layer over many sequences, with the weights of one layer at a time."""
