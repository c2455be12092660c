"""What all benchmarks share: tables, and pages of the documentation made of them."""

import sys
import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table with its title and what there is to say of it."""

    title: str
    header: list
    rows: list
    remark: str = ""

    def text(self):
        """The table in Markdown, its columns aligned for readers of the terminal."""
        rows = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"| {' | '.join(map(str.ljust, row, widths))} |".replace("  |", "  |")
            for row in rows
        ]
        lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
        remark = textwrap.fill(self.remark, 88)
        parts = [f"## {self.title}", remark, "\n".join(lines)]
        return "\n\n".join(filter(None, parts)) + "\n"


def write_page(path, title, head, tables):
    """Write a page of Markdown with some words and tables."""
    head = f"# {title}\n\n{textwrap.fill(head, 88)}\n"
    text = "\n".join([head, *(table.text() for table in tables)])
    path.write_text(text, encoding="utf-8")


def say(message):
    """Tell who waits what is being measured."""
    print(message, file=sys.stderr, flush=True)
