"""Hold the Triton kernels for attention with span mass, and for mass from a known logsumexp."""
