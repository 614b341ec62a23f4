"""Run every experiment of the paper on one model: extend, classify, fine-tune, evaluate, report."""
