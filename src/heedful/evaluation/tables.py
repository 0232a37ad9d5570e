"""Tables as text for a terminal and as HTML for the report."""

from __future__ import annotations

import html
from dataclasses import dataclass

__all__ = ["Table"]


# Columns that fit a phone.
_NARROW = 4


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        title: what it shows.
        header: names of the columns, the first one included.
        rows: cells, already formatted.
        marked: rows to be highlighted in HTML.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()

    def text(self) -> str:
        """The table in columns of plain text."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        padded = [
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, *padded])

    def markdown(self) -> str:
        """The table as Markdown, without its title."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)

    def html(self) -> str:
        """The table as HTML; the class "wide" marks one that a phone shows better as a list of rows."""
        wide = ' class="wide"' if len(self.header) > _NARROW else ""
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in self.header)
        body = "".join(self._row(number) for number in range(len(self.rows)))
        title = html.escape(self.title)
        return (
            f'<figure class="table"><figcaption>{title}</figcaption><div class="scroll" tabindex="0" role="region" '
            f'aria-label="{title}"><table{wide}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></figure>'
        )

    def _row(self, number: int) -> str:
        first, *others = self.rows[number]
        cells = "".join(
            f'<td data-label="{html.escape(name)}">{_breakable(cell)}</td>'
            for name, cell in zip(self.header[1:], others, strict=True)
        )
        mark = ' class="marked"' if number in self.marked else ""
        return f'<tr{mark}><th scope="row">{html.escape(first)}</th>{cells}</tr>'


def _breakable(cell: str) -> str:
    """The cell as HTML, with its standard error in a span of its own."""
    value, plus_minus, error = html.escape(cell).partition(" ± ")
    return f'{value}<span class="error"> ± {error}</span>' if plus_minus else value
