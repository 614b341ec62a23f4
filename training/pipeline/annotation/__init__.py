"""Human judgements of two systems: blinded sheets, and what filled ones say about SRA."""
