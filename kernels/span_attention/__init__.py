"""The op's backends, one file each: tensors in, tensors out. Installed as ``sra_fast.kernels``."""
