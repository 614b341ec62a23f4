"""Compare the replies of two systems by a language model as judge (``sra-fast judge``)."""
