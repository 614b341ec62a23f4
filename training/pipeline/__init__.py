"""Hold the steps of the paper's pipeline, one package each; README.md names them in order."""
