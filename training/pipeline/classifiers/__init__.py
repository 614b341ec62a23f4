"""Train, load and use strategy classifiers, which say what strategy a reply follows.

There are three kinds with one interface: ``lexical`` (n-grams of words), ``embedding`` (sentence
embeddings) and ``roberta`` (a fine-tuned encoder, the paper's). The first two put a logistic
regression on these features.
"""

from __future__ import annotations

from sra_fast.names import ClassifierKind

from .interface import ClassifierError, StrategyClassifier
from .kinds import PLAIN, PLAIN_REPLIES, check_model, load_classifier, train_classifier

__all__ = [
    "PLAIN",
    "PLAIN_REPLIES",
    "ClassifierError",
    "ClassifierKind",
    "StrategyClassifier",
    "check_model",
    "load_classifier",
    "train_classifier",
]
