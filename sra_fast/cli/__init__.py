"""The command line ``sra-fast``."""
