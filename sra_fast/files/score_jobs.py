"""Jobs of scoring: conversations encoded under one template, and where their scores go.

A job is a whole run, or one shard of a run. Every shard encodes all the prompts, because what it
may be merged with is told by a digest of them; it scores its own batches alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sra_fast.chat.conversations import Conversation
from sra_fast.chat.encoding import EncodedPrompt
from sra_fast.chat.templates import PromptTemplate
from sra_fast.files.numbered_batches import Batch, batches, token_count
from sra_fast.files.run_record import RUN, RunFolderError
from sra_fast.files.score_folder import MASSES, ScoreFolder
from sra_fast.files.score_tables import ScoreRow
from sra_fast.files.shard import Shard, shards_in
from sra_fast.files.shard_folder import ShardFolder
from sra_fast.result import SRAResult


@dataclass(frozen=True)
class Job:
    """Conversations encoded under one template, and the folder that their scores go to.

    Attributes:
        folder: the run folder.
        template: the prompt template.
        conversations: the conversations, in order.
        prompts: the encoded prompts of all conversations, in order.
    """

    folder: ScoreFolder
    template: PromptTemplate
    conversations: Sequence[Conversation]
    prompts: Sequence[EncodedPrompt]

    @property
    def tokens(self) -> int:
        """The number of tokens of all prompts that are scored."""
        return token_count(self.prompts)

    def is_done(self) -> bool:
        """Return whether the folder holds the whole results already.

        Raises:
            RunFolderError: the folder holds something else.
        """
        return self.folder.result() is not None


@dataclass(frozen=True)
class ShardJob(Job):
    """One shard of a job.

    Attributes:
        shard: which one.
        place: the folder of the shard, in that of the run.
        numbered: its batches, by their numbers in the run.
    """

    shard: Shard
    place: ShardFolder
    numbered: Mapping[int, Batch]

    @property
    def tokens(self) -> int:
        """The number of tokens of the shard's own prompts."""
        return sum(map(token_count, self.numbered.values()))

    def is_done(self) -> bool:
        """Return whether the shard was finished, and its files are as they were finished.

        Raises:
            RunFolderError: the folder holds something else.
        """
        return self.place.is_whole()


@dataclass(frozen=True)
class ScoredJob:
    """A job that is done, with its results.

    Attributes:
        job: the job.
        result: the scores and masses of all responses.
        rows: what the tables say of each response, in the order of the conversations.
    """

    job: Job
    result: SRAResult
    rows: list[ScoreRow]


def dealt(job: Job, shard: Shard, batch_tokens: int) -> Job:
    """Return one shard of a job; where all shards are merged already, the job as it is.

    Args:
        job: the whole job.
        shard: which shard.
        batch_tokens: the most tokens of a batch.

    Raises:
        RunFolderError: the folder holds something else than shards of this very run.
    """
    folder = job.folder.path
    if job.folder.is_finished():
        if MASSES in job.folder.damaged():
            raise RunFolderError(
                f"{folder / MASSES} is missing, or not as it was written, and the shards that it "
                "was merged from are gone; score without shards, or give another folder",
                "shard",
                "out",
            )
        return job
    if (folder / RUN).exists() and not shards_in(folder):
        raise RunFolderError(
            f"{folder} holds this run without shards, which is not finished; continue it without "
            "shards, or give another folder",
            "shard",
            "out",
        )
    numbered = dict(enumerate(batches(job.prompts, batch_tokens)))
    place = ShardFolder(folder, job.folder.settings, shard, len(numbered))
    place.check()
    return ShardJob(
        job.folder,
        job.template,
        job.conversations,
        job.prompts,
        shard,
        place,
        shard.dealt(numbered),
    )


def refuse_shards(job: Job) -> None:
    """Refuse to score a whole run where shards of it lie.

    Raises:
        RunFolderError: the folder holds shards that are not merged.
    """
    if not job.folder.is_finished() and (shards := shards_in(job.folder.path)):
        raise RunFolderError(
            f"{job.folder.path} holds shards of a run that are not merged ({shards[0].folder}, "
            f"{len(shards)} of {shards[0].of}); score the others and merge them, or give another "
            "folder",
            "out",
        )
