"""Compare scores, and write what was found: tables, pages and figures."""
