"""Head-to-head between two systems' replies by a language model as judge (``sra-fast judge``)."""
