"""Settings of the whole suite."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here asks a hub

import torch

torch.set_num_threads(1)  # the models are tiny, and several workers share the cores
