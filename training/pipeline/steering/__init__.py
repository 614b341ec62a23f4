"""Ask whether attention on the strategy raises the probability of replies that follow it."""
