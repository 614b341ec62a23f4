"""The Triton kernels: attention and span mass in one pass, and mass from a known logsumexp."""
