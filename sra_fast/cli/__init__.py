"""The commands of ``sra-fast``, with the options and the output that they share."""
