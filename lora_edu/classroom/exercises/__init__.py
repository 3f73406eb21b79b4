"""The exercises' solutions, cases and known wrong answers, one module a notebook."""
