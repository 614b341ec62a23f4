"""Test that `sra-fast judge` counts wins, ties and losses, whatever the endpoint does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fake_endpoint import HANG, FakeEndpoint, Request, Response, always, completion, failure
from sra_fast.cli.app import app
from tiny_chat_model import write_jsonl

pytest.importorskip("openai", reason="needs the package openai (extra 'pipeline')")
pytest.importorskip("scipy", reason="needs the package scipy (extra 'pipeline')")

import scipy.stats

from sra_fast.training.pipeline.endpoint_patience import FAILURES_IN_A_ROW
from sra_fast.training.pipeline.items import Item
from sra_fast.training.pipeline.judging.judge_prompt import (
    DEFAULT_PROMPT,
    PLACEHOLDERS,
)
from sra_fast.training.pipeline.judging.tally import Judged, tally
from sra_fast.training.pipeline.judging.verdicts import read_verdict

ANSI = re.compile(r"\x1b\[[0-9;]*m")
KEY = "sk-not-to-be-seen-0123456789"
FIRST, SECOND, TIE = (completion(f"Why.\nVERDICT: {name}") for name in ("FIRST", "SECOND", "TIE"))
PROMPT = "{strategy}|{description}|{conversation}|{first}|{second}"


def record(identity: str, response: str, **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"I feel low, {identity}."}]
    return {
        "id": identity,
        "messages": messages,
        "strategy": "Offer Hope",
        "response": response,
        **changes,
    }


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Write six items with replies "i0 of tuned" and "i0 of base"; two are of another strategy."""
    paths = []
    for system in ("tuned", "base"):
        records = [record(f"i{n}", f"i{n} of {system}") for n in range(6)]
        for one in records[4:]:
            one["strategy"] = "Clarification"
        paths.append(write_jsonl(tmp_path / f"{system}.jsonl", records))
    return paths[0], paths[1]


def call(*arguments: object, status: int = 0) -> tuple[str, str]:
    """Return standard output and standard error of a command that ends with ``status``."""
    given = ["judge", *(str(one) for one in arguments)]
    env = {"COLUMNS": "200", "OPENAI_API_KEY": KEY}
    result = CliRunner(env=env).invoke(app, given)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    assert KEY not in result.output
    return ANSI.sub("", result.stdout), ANSI.sub("", result.stderr)


def options(server: FakeEndpoint, out: Path, *more: object) -> list[object]:
    given = ["--endpoint", server.url, "--judge", "judge", "--out", out]
    return [*given, "--retries", 0, "--timeout", 5, *more]


def judged(files: tuple[Path, Path], server: FakeEndpoint, out: Path, *more: object) -> Any:
    """Return the result of a run that gets through."""
    printed, _ = call(*files, *options(server, out, *more), "--json")
    result = json.loads(printed)
    assert result == json.loads((out / "result.json").read_text())
    return result


def error_of(files: tuple[Path, Path], server: FakeEndpoint, out: Path, *more: object) -> str:
    _, err = call(*files, *options(server, out, *more), status=1)
    return " ".join(err.split())


def counts(tally: dict[str, Any]) -> tuple[int, int, int]:
    return tally["wins"]["count"], tally["ties"]["count"], tally["losses"]["count"]


def item_of(request: Request) -> str:
    found = re.search(r"\bi\d+\b", request.body["messages"][0]["content"])
    assert found is not None
    return found[0]


def tuned_is_first(request: Request) -> bool:
    text = request.body["messages"][0]["content"]
    return bool(text.index("of tuned") < text.index("of base"))


def judging(preferences: dict[str, str]) -> Callable[[Request, int], Response]:
    """Return a judge that answers each item as told: "tuned", "first", "tie" or in other words."""

    def answer(request: Request, number: int) -> Response:
        wanted = preferences[item_of(request)]
        if wanted in ("tuned", "base"):
            return FIRST if tuned_is_first(request) == (wanted == "tuned") else SECOND
        return {"first": FIRST, "second": SECOND, "tie": TIE}.get(wanted, completion(wanted))

    return answer


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "transcript.jsonl").read_text().splitlines()]


# --- Verdicts ---


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("VERDICT: FIRST", "first"),
        ("Because.\n\n**Verdict:** Second\n\n", "second"),
        ("tie", "tie"),
        ('{"verdict": "TIE"}', "tie"),
        ("# Final verdict: the FIRST response.", "first"),
        ("My answer is: `SECOND`", "second"),
        ("VERDICT: FIRST\nVERDICT: SECOND", "second"),
        ("FIRST\r\n", "first"),
        ("", None),
        (" \n", None),
        ("VERDICT:", None),
        ("VERDICT: FIRST or SECOND", None),
        ("VERDICT: NEITHER", None),
        ("The first one is warm, but the second", None),
        ("At first I thought so", None),
        ("VERDICT: FIRST\nI hope this helps!", None),
        ("FIRSTLY", None),
        ("FIRST?", None),
        ("not FIRST", None),
        ("**VERDICT: FIRST**", "first"),
        ("**VERDICT:** *SECOND*.", "second"),
        ("verdict: first.", "first"),
        ("“VERDICT: TIE”", "tie"),
        ("'second'", "second"),
        ("Because.\n```\nVERDICT: TIE\n```", "tie"),
        ("> VERDICT – FIRST", "first"),
        ("## Verdict\n\n✅ **First**", "first"),
        ("VERDICT：FIRST。", "first"),
        ("[[FIRST]]", "first"),
        ("<verdict>SECOND</verdict>", "second"),
        ("<first>", "first"),
        ("VERDICT: FIRST<|im_end|>", "first"),
        ("VERDICT: SECOND</s>", "second"),
        (r"$\boxed{\text{FIRST}}$", "first"),
        ("__Final Answer:__ the second candidate", "second"),
        ("Decision: tie", "tie"),
        ('{"verdict": "first", "reason": "It is warmer than the second."}', "first"),
        ('```json\n{\n  "reason": "…",\n  "final_verdict": "SECOND."\n}\n```', "second"),
        ('Here it is: {"winner": "TIE", "why": {"first": 1}}', "tie"),
        ("{'verdict': 'FIRST'}", "first"),
        ('{"verdict": "FIRST", "winner": "SECOND"}', None),
        ('{"reason": "FIRST"}', None),
        ('{"verdict": null}', None),
        ('{"verdict": "FIRST or SECOND"}', None),
        ("{" * 50_000 + "}", None),
        ("1", None),
    ],
)
def test_only_a_bare_verdict_in_the_last_line_is_one(answer: str, verdict: str | None) -> None:
    assert read_verdict(answer) == verdict


@pytest.mark.parametrize(
    ("ab", "ba", "outcome", "disagree"),
    [
        ("first", "second", "win", False),
        ("second", "first", "loss", False),
        ("tie", "tie", "tie", False),
        ("first", "first", "tie", True),
        ("second", "second", "tie", True),
        ("first", "tie", "tie", True),
        ("tie", "first", "tie", True),
        ("first", None, None, False),
        (None, None, None, False),
    ],
)
def test_a_system_wins_that_both_orders_prefer(
    ab: Any, ba: Any, outcome: str | None, disagree: bool
) -> None:
    one = Judged(Item("i", "i", "s", "d", None, (), "a", "b"), ab, ba)
    assert one.outcome == outcome
    assert one.orders_disagree == disagree
    assert one.undecided == (outcome is None)


# --- Intervals ---


def group(wins: int, losses: int, copies: int = 1) -> list[Judged]:
    """Return so many dialogues of each outcome, with so many items each."""
    return [
        Judged(
            Item(f"{n}-{c}", str(n), "s", "d", None, (), "a", "b"),
            "first" if n < wins else "second",
            "second" if n < wins else "first",
        )
        for n in range(wins + losses)
        for c in range(copies)
    ]


@pytest.mark.parametrize(("wins", "losses"), [(37, 13), (100, 300), (2, 2)])
def test_intervals_are_those_of_the_binomial(wins: int, losses: int) -> None:
    n = wins + losses
    found = tally(group(wins, losses))
    for share, count in ((found.wins, wins), (found.losses, losses), (found.ties, 0)):
        truth = scipy.stats.binomtest(count, n).proportion_ci(method="wilson")
        assert (share.low, share.high) == pytest.approx((100 * truth.low, 100 * truth.high))
        assert share.why is None


def test_items_of_one_dialogue_count_as_one_in_intervals() -> None:
    alone, copied = tally(group(20, 10)), tally(group(20, 10, copies=5))
    assert copied.decided == 5 * alone.decided
    for one, other in ((alone.wins, copied.wins), (alone.losses, copied.losses)):
        assert one.percent == pytest.approx(other.percent)
        # Student's t and the 29/30 of the variance that 30 dialogues lack
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=2)
        assert (other.high or 0) - (other.low or 0) > (one.high or 0) - (one.low or 0)
    alone = tally(group(1, 0, copies=9))
    assert (alone.wins.percent, alone.wins.low) == (100, None)
    assert "a single dialogue" in (alone.wins.why or "")
    assert "nothing to count" in (tally([]).wins.why or "")


# --- A run ---


def test_a_run_from_end_to_end(tmp_path: Path, files: tuple[Path, Path]) -> None:
    preferences = {"i0": "tuned", "i1": "tuned", "i2": "base", "i3": "first", "i4": "tie"}
    with FakeEndpoint(judging({**preferences, "i5": "tuned"})) as server:
        result = judged(files, server, tmp_path / "out")
    overall = result["overall"]
    assert counts(overall) == (3, 2, 1)
    assert overall["wins"]["percent"] == 50
    assert overall["ties"]["percent"] == pytest.approx(100 / 3)
    assert (overall["items"], overall["decided"]) == (6, 6)
    assert overall["disagreements"] == 1  # i3
    # Of the twelve verdicts i4's two are for no place; i3's are both for the first.
    assert (overall["first_place"], overall["second_place"]) == (6, 4)
    assert overall["first_percent"] == 60
    clarification, hope = result["by_strategy"]
    assert (clarification["strategy"], counts(clarification)) == ("Clarification", (1, 1, 0))
    assert (hope["strategy"], counts(hope)) == ("Offer Hope", (2, 1, 1))
    assert (result["a"], result["b"], result["complete"]) == ("tuned", "base", True)
    assert (result["requests"], result["usage"]["total_tokens"]) == (12, 120)
    for request in server.requests:
        assert request.body["temperature"] == 0
        assert request.key == f"Bearer {KEY}"
    for line in lines(tmp_path / "out"):
        assert line["messages"] in [request.body["messages"] for request in server.requests]
        assert line["verdict"] in ("first", "second", "tie")
        assert line["answer"].startswith("Why.")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"run.json", "result.json", "transcript.jsonl"}


def test_the_table_shows_shares_intervals_and_gaps(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    preferences = dict.fromkeys(["i0", "i1", "i2"], "tuned") | {"i3": "base", "i4": "tie"}
    with FakeEndpoint(judging({**preferences, "i5": "hm"})) as server:
        shown, said = call(
            *files, *options(server, tmp_path / "out"), "--name-a", "[b]T", "--name-b", "B"
        )
    assert "[b]T against B, judged by judge" in shown
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    row = next(index for index, cells in enumerate(rows) if cells[:1] == ["all"])
    wins, ties, losses = "3 = 60.00%", "1 = 20.00%", "1 = 20.00%"
    assert rows[row] == ["all", "6", wins, ties, losses, "50%", "0", "1"]
    assert all(re.fullmatch(r"\[\d+\.\d, \d+\.\d\]", cell) for cell in rows[row + 1][2:5])
    assert "1 of 6 items: the judge named neither, so it counts for nobody: i5" in said


def test_a_judge_that_always_says_first_ties_everything(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    with always(FIRST) as server:
        overall = judged(files, server, tmp_path / "out")["overall"]
    assert counts(overall) == (0, 6, 0)
    assert overall["first_percent"] == 100
    assert overall["disagreements"] == 6


def test_a_judge_that_names_neither_is_asked_once_more_and_then_counts_for_nobody(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    preferences = {f"i{n}": "tuned" for n in range(5)}
    with FakeEndpoint(judging({**preferences, "i5": "They are both fine."})) as server:
        result = judged(files, server, tmp_path / "out")
        again = judged(files, server, tmp_path / "out")
    assert result == again
    assert len(server.requests) == 12 + 2
    assert result["overall"]["undecided"] == ["i5"]
    assert counts(result["overall"]) == (5, 0, 0)
    assert result["overall"]["wins"]["percent"] == 100  # of those that are decided
    assert result["by_strategy"][0]["decided"] == 1
    _, answer, reminder = server.requests[-1].body["messages"]
    assert answer == {"role": "assistant", "content": "They are both fine."}
    assert "FIRST, SECOND or TIE" in reminder["content"]


def test_an_answer_that_was_cut_names_neither(tmp_path: Path, files: tuple[Path, Path]) -> None:
    cut = completion("Let me see. The better one is the\nFIRST", "length")
    with always(cut) as server:
        overall = judged(files, server, tmp_path / "out")["overall"]
    assert overall["undecided"] == [f"i{n}" for n in range(6)]
    assert (overall["decided"], overall["wins"]["percent"], overall["first_percent"]) == (
        0,
        None,
        None,
    )
    assert len(server.requests) == 24


def test_a_second_answer_may_decide(tmp_path: Path, files: tuple[Path, Path]) -> None:
    def answer(request: Request, number: int) -> Response:
        if len(request.body["messages"]) == 1:
            return completion("")
        return FIRST if tuned_is_first(request) else SECOND

    with FakeEndpoint(answer) as server:
        result = judged(files, server, tmp_path / "out")
    assert counts(result["overall"]) == (6, 0, 0)
    assert len(server.requests) == 24


def test_items_are_drawn_by_the_seed(tmp_path: Path, files: tuple[Path, Path]) -> None:
    def drawn(seed: int, out: str) -> set[str]:
        with always(TIE) as server:
            result = judged(files, server, tmp_path / out, "--items", 3, "--seed", seed)
        assert result["overall"]["items"] == 3
        assert len(server.requests) == 6
        return {item_of(request) for request in server.requests}

    assert drawn(1, "one") == drawn(1, "two")
    assert len({frozenset(drawn(seed, f"of-{seed}")) for seed in range(4)}) > 1
    with always(TIE) as server:
        said = error_of(files, server, tmp_path / "many", "--items", 7)
    assert "hold 6 items, fewer than the 7" in said
    assert not (tmp_path / "many").exists()


# --- The prompt ---


def test_your_own_prompt_is_filled_in_and_braces_in_texts_stay(tmp_path: Path) -> None:
    odd = "{first} {nobody} {{}} {0} %s"
    a, b = (record("i0", f"{odd} of {name}", situation=f"Lost {odd}") for name in "ab")
    files = write_jsonl(tmp_path / "a.jsonl", [a]), write_jsonl(tmp_path / "b.jsonl", [b])
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(PROMPT + ' {"verdict": "FIRST"}')
    strategies = tmp_path / "strategies.json"
    strategies.write_text('{"Offer Hope": "{second}!"}')
    with always(TIE) as server:
        judged(files, server, tmp_path / "out", "--prompt", prompt, "--strategies", strategies)
    conversation = f"Situation: Lost {odd}\nSeeker: I feel low, i0."
    start, end = f"Offer Hope|{{second}}!|{conversation}|", ' {"verdict": "FIRST"}'
    assert {request.text for request in server.requests} == {
        f"{start}{odd} of a|{odd} of b{end}",
        f"{start}{odd} of b|{odd} of a{end}",
    }


def test_the_default_prompt_has_every_placeholder() -> None:
    assert Counter(re.findall(r"\{(\w+)\}", DEFAULT_PROMPT)) == Counter(PLACEHOLDERS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{strategy} {description} {conversation} {first}", "{second} is missing"),
        ("Judge!", "{strategy}, {description}, {conversation}, {first}, {second} is missing"),
        (f"{PROMPT} {{frist}}", "unknown placeholder {frist}; did you mean 'first'?"),
        (f"{PROMPT} \udcff", "not UTF-8"),
    ],
)
def test_a_wrong_prompt_is_refused(
    tmp_path: Path, files: tuple[Path, Path], text: str, words: str
) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_bytes(text.encode("utf-8", "surrogateescape"))
    with always(TIE) as server:
        said = error_of(files, server, tmp_path / "out", "--prompt", prompt)
    assert "prompt.txt" in said
    assert words in said
    assert not server.requests


# --- Files that do not go together ---


def changed(**changes: Any) -> list[dict[str, Any]]:
    return [record("i0", "x"), record("i1", "y", **changes)]


@pytest.mark.parametrize(
    ("of_b", "words"),
    [
        ([record("i0", "x")], "a.jsonl has conversations that"),
        ([*changed(), record("i2", "z")], "b.jsonl has conversations that"),
        (changed(id="i9"), "'i1'"),
        (changed(strategy="Clarification"), "differ in 'strategy' ('Offer Hope' and"),
        (changed(situation="I lost"), "differ in 'situation'"),
        (changed(dialogue="d"), "differ in 'dialogue'"),
        (changed(messages=[{"role": "user", "content": "Hi"}]), "differ in 'messages'"),
        ([], "holds no conversation"),
    ],
)
def test_files_of_different_items_are_refused(
    tmp_path: Path, of_b: list[dict[str, Any]], words: str
) -> None:
    files = (
        write_jsonl(tmp_path / "a.jsonl", changed()),
        write_jsonl(tmp_path / "b.jsonl", of_b),
    )
    with always(TIE) as server:
        assert words in error_of(files, server, tmp_path / "out")
    assert not server.requests
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("twice", [0, 1])
def test_an_id_that_stands_twice_is_refused(tmp_path: Path, twice: int) -> None:
    records = [changed(), changed()]
    records[twice].append(record("i0", "z"))
    files = (
        write_jsonl(tmp_path / "a.jsonl", records[0]),
        write_jsonl(tmp_path / "b.jsonl", records[1]),
    )
    with always(TIE) as server:
        said = error_of(files, server, tmp_path / "out")
    name = "ab"[twice]
    assert f"conversation 'i0' ({name}.jsonl line 3): field 'id' is also that of" in said
    assert not server.requests


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"dialog": [{"speaker": "seeker", "content": "Hi"}]}, "unknown field 'dialog'"),
        ({"id": "i1", "response": "Hi", "strategy": "Offer Hope"}, "'messages' is missing"),
        ([record("i1", "y")], "found a list"),
    ],
    ids=["ESConv", "a mere response", "a list"],
)
def test_lines_of_another_kind_are_refused(tmp_path: Path, line: Any, words: str) -> None:
    files = (
        write_jsonl(tmp_path / "a.jsonl", changed()),
        write_jsonl(tmp_path / "b.jsonl", [record("i0", "x"), line]),
    )
    with always(TIE) as server:
        said = error_of(files, server, tmp_path / "out")
    assert "b.jsonl line 2" in said
    assert words in said
    assert not server.requests


def test_an_unknown_strategy_is_refused(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", changed(strategy="Offer Hop"))
    with always(TIE) as server:
        said = error_of((file, file), server, tmp_path / "out", "--name-b", "b")
    assert "conversation 'i1' (a.jsonl line 2): strategy 'Offer Hop' is not one of" in said
    assert "did you mean 'Offer Hope'" in said


def test_a_last_message_is_a_reply_too_and_order_in_the_files_does_not_matter(
    tmp_path: Path,
) -> None:
    asked = {"role": "user", "content": "I feel low, i0."}
    a = [record("i0", "of tuned"), record("i1", "of tuned")]
    b = [record("i1", "of base"), record("i0", "")]
    del b[1]["response"]
    b[1]["messages"] = [asked, {"role": "assistant", "content": "of base"}, asked]
    files = write_jsonl(tmp_path / "a.jsonl", a), write_jsonl(tmp_path / "b.jsonl", b)
    with FakeEndpoint(judging({"i0": "tuned", "i1": "base"})) as server:
        assert counts(judged(files, server, tmp_path / "out")["overall"]) == (1, 0, 1)


def test_systems_of_one_name_need_names(tmp_path: Path, files: tuple[Path, Path]) -> None:
    with always(TIE) as server:
        given = options(server, tmp_path / "out")
        assert "--name-a" in call(files[0], files[0], *given, status=2)[1]


def test_items_with_the_same_replies_are_counted_and_named(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    for path in files:
        path.write_text(re.sub(r"i([14]) of \w+", r"i\1 of both", path.read_text()))
    with always(TIE) as server:
        result = judged(files, server, tmp_path / "out")
        _, said = call(*files, *options(server, tmp_path / "out"))
    assert result["overall"]["identical"] == ["i1", "i4"]
    assert [one["identical"] for one in result["by_strategy"]] == [["i4"], ["i1"]]
    assert (
        "2 of 6 items: both replies are the same, so a preference would be chance: i1, i4" in said
    )


def test_the_same_replies_throughout_are_refused(tmp_path: Path, files: tuple[Path, Path]) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(files[0].read_bytes())
    with always(TIE) as server:
        said = error_of((files[0], copy), server, tmp_path / "out")
        assert "copy.jsonl hold the same reply to all of the 6 items" in said
        # also where only those that were drawn are the same
        copy.write_text(copy.read_text().replace("i5 of tuned", "i5 of base"))
        given = ("--items", 1, "--seed", 1)
        assert "all of the 1 items" in error_of((files[0], copy), server, tmp_path / "out", *given)
    assert not server.requests
    assert not (tmp_path / "out").exists()


# --- Gaps, and going on ---


def test_what_fails_for_good_is_a_gap_and_the_same_command_goes_on(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    mind = judging(dict.fromkeys((f"i{n}" for n in range(6)), "tuned"))
    faults = {"i1": failure(500, "so sorry"), "i4": Response("{"), "i5": failure(429, "slowly")}

    def answer(request: Request, number: int) -> Response:
        fault = faults.get(item_of(request))
        return mind(request, number) if fault is None or tuned_is_first(request) else fault

    with FakeEndpoint(answer) as server:
        given = [*files, *options(server, tmp_path / "out")]
        shown, said = call(*given, status=1)
        assert len(server.requests) == 12
        assert "3 of 6 items lack an answer" in said
        assert "the same command goes on" in said
        for words in ("so sorry", "is not JSON", "slowly"):
            assert words in said
        assert re.search(r"all +│ +3 of 6 │ +3 = 100.00%", shown)
        partial = json.loads((tmp_path / "out" / "result.json").read_text())
        assert partial["overall"]["missing"] == ["i1", "i4", "i5"]
        assert not partial["complete"]
        # Verdicts of half an item would make the first place look favoured.
        assert partial["overall"]["first_percent"] == 50
        faults.clear()
        result = judged(files, server, tmp_path / "out")
    assert len(server.requests) == 15
    assert counts(result["overall"]) == (6, 0, 0)
    assert result["complete"]
    assert result["failures"] == {}


def test_json_of_an_incomplete_run_is_an_error(tmp_path: Path, files: tuple[Path, Path]) -> None:
    with always(failure(401, f"bad {KEY}")) as server:
        printed, _ = call(*files, *options(server, tmp_path / "out"), "--json", status=1)
    assert "6 of 6 items lack an answer" in json.loads(printed)["error"]


def test_what_fails_for_every_request_ends_the_run_at_once(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    # A second request may be under way when the first comes back; it holds up a third.
    with FakeEndpoint(lambda request, n: HANG if n else failure(404)) as server:
        said = error_of(files, server, tmp_path / "out", "--concurrency", 1)
        assert len(server.requests) <= 2
    assert "no model 'judge'" in said


@pytest.mark.parametrize("fault", [failure(500), HANG, Response("hello")])
def test_an_endpoint_that_only_fails_is_given_up(
    tmp_path: Path, files: tuple[Path, Path], fault: Response
) -> None:
    with always(fault) as server:
        more = ("--concurrency", 4, "--timeout", 0.2)
        said = error_of(files, server, tmp_path / "out", *more)
    assert "6 of 6 items lack an answer" in said
    failed = re.search(r"(\d+) × endpoint " + re.escape(server.url), said)
    assert failed is not None
    # Up to three more were under way when the tenth came back; 12 are all that there are.
    assert FAILURES_IN_A_ROW <= int(failed.group(1)) <= 12


FILTERED = Response(
    '{"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]}'
)


@pytest.mark.parametrize("refusal", [failure(400, "filtered"), FILTERED], ids=["400", "empty"])
def test_items_that_are_refused_do_not_keep_the_judge_from_the_others(
    tmp_path: Path, files: tuple[Path, Path], refusal: Response
) -> None:
    mind = judging(dict.fromkeys((f"i{n}" for n in range(6)), "tuned"))
    refused = [f"i{n}" for n in range(5)]  # asked in both orders: ten refusals in a row

    def answer(request: Request, number: int) -> Response:
        return refusal if item_of(request) in refused else mind(request, number)

    with FakeEndpoint(answer) as server:
        said = error_of(files, server, tmp_path / "out", "--concurrency", 1)
    assert len(server.requests) == 12
    assert "5 of 6 items lack an answer" in said
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert found["overall"]["missing"] == refused
    assert counts(found["overall"]) == (1, 0, 0)


def test_a_judge_that_takes_other_parameters_is_told_of_in_the_result(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    mind = judging(dict.fromkeys((f"i{n}" for n in range(6)), "tuned"))

    def answer(request: Request, number: int) -> Response:
        for name in ("max_tokens", "temperature"):
            if name in request.body:
                return failure(400, f"Unsupported parameter: '{name}' is not supported.")
        return mind(request, number)

    with FakeEndpoint(answer) as server:
        given = ("--temperature", 0.5, "--max-tokens", 99, "--concurrency", 1)
        result = judged(files, server, tmp_path / "out", *given)
        assert result["left_out"] == ["temperature"]
        assert len(server.requests) == 2 + 12
        assert server.requests[-1].body["max_completion_tokens"] == 99
        again = judged(files, server, tmp_path / "out", *given)
        assert again["left_out"] == ["temperature"]
        assert len(server.requests) == 2 + 12
        error = error_of(files, server, tmp_path / "out")
    assert "its setting 'temperature' is 0.5, and now it is 0.0" in error


def test_a_value_that_the_judge_refuses_names_the_option(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    refusal = failure(422, "Input validation error: `temperature` must be strictly positive")
    with always(refusal) as server:
        said = error_of(files, server, tmp_path / "out", "--concurrency", 1)
        assert len(server.requests) <= 2
    assert "refused the value of temperature" in said
    assert "(--temperature)" in said


def test_a_judge_that_drips_ends_in_a_named_gap(tmp_path: Path, files: tuple[Path, Path]) -> None:
    with always(Response("", drips="body")) as server:
        said = error_of(files, server, tmp_path / "out", "--timeout", 0.2, "--concurrency", 12)
    assert "6 of 6 items lack an answer" in said
    assert "did not answer within 0.2 s" in said


def test_nobody_there(tmp_path: Path, files: tuple[Path, Path]) -> None:
    with always(TIE) as server:
        pass
    assert "cannot be reached" in error_of(files, server, tmp_path / "out")


def test_a_finished_run_asks_nothing(tmp_path: Path, files: tuple[Path, Path]) -> None:
    with always(TIE) as server:
        result = judged(files, server, tmp_path / "out")
    assert judged(files, server, tmp_path / "out") == result  # the server is gone


def test_a_line_that_was_cut_is_asked_again(tmp_path: Path, files: tuple[Path, Path]) -> None:
    transcript = tmp_path / "out" / "transcript.jsonl"
    with always(TIE) as server:
        result = judged(files, server, tmp_path / "out")
        data = transcript.read_bytes()
        transcript.write_bytes(data[:-1])
        assert judged(files, server, tmp_path / "out") == result
        assert len(server.requests) == 13
        transcript.write_bytes(data[: data.index(b"\n") + 20])
        assert judged(files, server, tmp_path / "out") == result
    assert len(server.requests) == 13 + 11
    assert len(lines(tmp_path / "out")) == 12


@pytest.mark.parametrize(
    "change",
    [
        lambda line: {**line, "item": "i99"},
        lambda line: {**line, "item": ["i0"]},
        lambda line: {**line, "order": "aa"},
        lambda line: {**line, "order": ["ab"]},
        lambda line: {**line, "attempt": 2},
        lambda line: {**line, "messages": []},
        lambda line: {**line, "answer": None},
        lambda line: {**line, "usage": {"total_tokens": "10"}},
        lambda line: [],
    ],
)
def test_a_foreign_line_is_refused(
    tmp_path: Path, files: tuple[Path, Path], change: Callable[[dict[str, Any]], object]
) -> None:
    with always(TIE) as server:
        judged(files, server, tmp_path / "out")
        written = lines(tmp_path / "out")
        del written[2]["sha256"]  # earlier versions wrote none
        written[2] = change(written[2])  # type: ignore[call-overload]
        write_jsonl(tmp_path / "out" / "transcript.jsonl", written)
        said = error_of(files, server, tmp_path / "out")
    assert "transcript.jsonl line 3 is not an answer to a question of this run" in said
    assert len(server.requests) == 12


@pytest.mark.parametrize("name", ["answer", "verdict", "usage", "finish_reason"])
def test_a_line_that_was_changed_is_named_and_no_result_is_made_from_it(
    tmp_path: Path, files: tuple[Path, Path], name: str
) -> None:
    with always(TIE) as server:
        judged(files, server, tmp_path / "out")
        before = (tmp_path / "out" / "result.json").read_bytes()
        written = lines(tmp_path / "out")
        written[2][name] = {"answer": "FIRST", "verdict": "first", "usage": {}}.get(name, [])
        write_jsonl(tmp_path / "out" / "transcript.jsonl", written)
        said = error_of(files, server, tmp_path / "out")
    assert "transcript.jsonl line 3 is not as it was written" in said
    assert (tmp_path / "out" / "result.json").read_bytes() == before
    assert len(server.requests) == 12


@pytest.mark.parametrize("what", ["judge", "prompt", "a", "b", "items", "folder"])
def test_the_folder_of_another_run_is_refused(
    tmp_path: Path, files: tuple[Path, Path], what: str
) -> None:
    out, prompt = tmp_path / "out", tmp_path / "prompt.txt"
    prompt.write_text(PROMPT)
    with always(TIE) as server:
        judged(files, server, out)
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        more: dict[str, tuple[object, ...]] = {
            "judge": ("--judge", "other"),
            "prompt": ("--prompt", prompt),
            "items": ("--items", 3),
        }
        if what in "ab":
            path = files["ab".index(what)]
            path.write_text(path.read_text().replace("i3 of", "i3 from"))
        if what == "folder":
            (out / "run.json").unlink()
            del before["run.json"]
        said = error_of(files, server, out, *more.get(what, ()))
    assert "holds no run" in said if what == "folder" else "holds another run" in said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert len(server.requests) == 12


def test_the_key_is_in_no_file(tmp_path: Path, files: tuple[Path, Path]) -> None:
    def answer(request: Request, number: int) -> Response:
        if number < 4:
            return failure(500, f"{request.key}")
        return completion(f"{request.key}\nTIE")

    with FakeEndpoint(answer) as server:
        call(*files, *options(server, tmp_path / "out"), status=1)
        call(*files, *options(server, tmp_path / "out"), "--debug")
    assert all(request.key == f"Bearer {KEY}" for request in server.requests)
    written = list((tmp_path / "out").iterdir())
    assert len(written) == 3
    for path in written:
        assert KEY.encode() not in path.read_bytes()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_asks_nothing_twice_that_was_answered(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    out = tmp_path / "out"
    transcript = out / "transcript.jsonl"
    mind = judging(dict.fromkeys((f"i{n}" for n in range(6)), "tuned"))
    with FakeEndpoint(lambda request, n: mind(request, n) if n < 5 else HANG) as server:
        given = [
            str(one)
            for one in (*files, *options(server, out, "--concurrency", 3), "--timeout", 600)
        ]
        script = "from sra_fast.cli.entry import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", script, "judge", *given],
            env={**os.environ, "OPENAI_API_KEY": KEY},
            stderr=subprocess.DEVNULL,
        )
        ends = time.monotonic() + 60
        while not (transcript.exists() and transcript.read_bytes().count(b"\n") == 5):
            assert time.monotonic() < ends
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "result.json").exists()
        answered = [json.dumps(line["messages"]) for line in lines(out)]
        before = len(server.requests)
        server.answer = mind
        result = judged(files, server, out)
        asked = [json.dumps(one.body["messages"]) for one in server.requests[before:]]
    assert len(answered) == 5
    assert Counter([*answered, *asked]).most_common(1)[0][1] == 1
    assert len(asked) == 7
    assert counts(result["overall"]) == (6, 0, 0)
