"""Hold the op's backends, one file each, which take tensors and return tensors.

The folder is installed as ``sra_fast.kernels``.
"""
