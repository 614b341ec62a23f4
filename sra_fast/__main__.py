"""``python -m sra_fast`` is the command line ``sra-fast``."""

from sra_fast.cli.entry import main

if __name__ == "__main__":
    main()
