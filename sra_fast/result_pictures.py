"""Draw a result: as a page in a notebook, and as pictures for a paper.

What draws is imported when it is called, so that a result is light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from sra_fast.report.viewer.notebook_page import NotebookPage
    from sra_fast.result import SRAResult


class DrawnResult:
    """The pictures of a result, which are methods of :class:`sra_fast.SRAResult`."""

    @property
    def _drawn(self) -> SRAResult:
        return cast("SRAResult", self)

    def show(self, tokenizer: Any, *, height: int = 720) -> NotebookPage:
        """Return a page that shows in a notebook what each response attends to.

        Args:
            tokenizer: the tokenizer whose tokens were scored.
            height: height of the page in pixels.

        Raises:
            ValueError: no profile was asked for, or the batch had embeddings instead of tokens.
        """
        from sra_fast.report.viewer.notebook_page import result_page

        return result_page(self._drawn, tokenizer, height=height)

    def plot_layers_heads(
        self,
        i: int | None = None,
        *,
        span: str | None = None,
        of: Literal["by_head", "mass"] = "by_head",
        log: bool = False,
        ax: Any | None = None,
    ) -> tuple[Any, Any]:
        """Draw which layers and heads attend to a span, as a heat map for a paper.

        Args:
            i: the response; None for the mean over all, without those that are NaN.
            span: name of the span; the first if None. Under ``of="mass"`` any of ``names``.
            of: what the colours say: "by_head" for ``by_head``, "mass" for the tensor ``mass``.
            log: whether the colours are on a logarithmic scale.
            ax: matplotlib axes to draw on; new ones if None.

        Returns:
            matplotlib's figure and axes.

        Raises:
            ValueError: there are no scores by head, or no responses.
            KeyError: no such span.
            IndexError: no such response.
        """
        from sra_fast.report.layers_heads_plot import layers_heads_plot

        return layers_heads_plot(self._drawn, i, span=span, of=of, log=log, ax=ax)

    def plot_profile(
        self,
        i: int,
        *,
        layer: int | None = None,
        head: int | None = None,
        by_layer: bool = False,
        tokens: tuple[int, int] | None = None,
        tokenizer: Any | None = None,
        log: bool = False,
        ax: Any | None = None,
    ) -> tuple[Any, Any]:
        """Draw the attention of response ``i`` on every token, with its sources shaded.

        Up to 200 tokens are bars, more are a line. The six sources with the most attention have
        colours and names; the others are grey.

        Args:
            i: the response.
            layer: one of the result's ``layers``; None for the mean over layers.
            head: number of a head; None for the mean over heads.
            by_layer: whether to draw a heat map of layers × tokens, with all layers, instead.
            tokens: the first token to show and the one after the last; all if None.
            tokenizer: what decodes the tokens into labels, which 80 have room for; None for
                positions as labels.
            log: whether the attention is on a logarithmic scale, of the axis or of the colours.
            ax: matplotlib axes to draw on; new ones if None.

        Returns:
            matplotlib's figure and axes.

        Raises:
            ValueError: no profile was asked for, or not by layer or head; no such tokens, too many
                for labels, or without ids; ``layer`` together with ``by_layer``.
            KeyError: no such layer or head.
            IndexError: no such response.
        """
        from sra_fast.report.profile_plot import profile_plot

        return profile_plot(
            self._drawn,
            i,
            layer=layer,
            head=head,
            by_layer=by_layer,
            tokens=tokens,
            tokenizer=tokenizer,
            log=log,
            ax=ax,
        )

    def plot_turns(
        self,
        definition: str | None = None,
        *,
        span: str | None = None,
        mean: bool | None = None,
        ax: Any | None = None,
    ) -> tuple[Any, Any]:
        """Draw the score of the responses by their turn, for a paper.

        Args:
            definition: name of the definition; that of the result if None.
            span: name of the span; the first if None.
            mean: whether to draw the mean over conversations, with its 95% interval where eight or
                more have that turn, instead of one line per conversation; None: from eight
                conversations on.
            ax: matplotlib axes to draw on; new ones if None.

        Returns:
            matplotlib's figure and axes.

        Raises:
            ValueError: there are no responses.
            KeyError: nothing was scored under this definition, or no such span.
        """
        from sra_fast.report.turns_plot import turns_plot

        return turns_plot(self._drawn, definition=definition, span=span, mean=mean, ax=ax)
