"""What all benchmarks share: tables, and pages of the documentation made of them."""

import sys
import textwrap
import time
from dataclasses import dataclass

import matplotlib.pyplot as plt
from PIL import Image


@dataclass(frozen=True)
class Table:
    """A table with its title and what there is to say of it."""

    title: str
    header: list
    rows: list
    remark: str = ""

    def text(self):
        """The table in Markdown, its columns aligned for readers of the terminal."""
        remark = textwrap.fill(self.remark, 88)
        if not self.rows:
            return f"## {self.title}\n\n{remark}\n"
        rows = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"| {' | '.join(map(str.ljust, row, widths))} |".replace("  |", "  |")
            for row in rows
        ]
        lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
        parts = [f"## {self.title}", remark, "\n".join(lines)]
        return "\n\n".join(filter(None, parts)) + "\n"


def report(measurers, arguments, title, head):
    """Print tables as they are measured; write a page of them if one is asked for.

    Parameters
    ----------
    measurers : dict of callable
        ``measurer(arguments)`` yields tables.
    arguments : argparse.Namespace
        With `tables`, the names of the measurers to run, and `markdown`, a path or
        None.
    title : str
        Of the page.
    head : callable
        ``head(minutes)`` returns what the page says first.
    """
    start = time.perf_counter()
    tables = []
    for name in arguments.tables:
        for table in measurers[name](arguments):
            print(f"\n{table.text()}", flush=True)
            tables.append(table)
    if arguments.markdown:
        minutes = (time.perf_counter() - start) / 60
        words = f"# {title}\n\n{textwrap.fill(head(minutes), 88)}\n"
        page = "\n".join([words, *(table.text() for table in tables)])
        arguments.markdown.write_text(page, encoding="utf-8")


def save_grey(figure, path, dpi):
    """Write a figure without colours as a small file, and close it."""
    figure.savefig(path, dpi=dpi)
    plt.close(figure)
    with Image.open(path) as picture:
        grey = picture.convert("L")
    grey.save(path, optimize=True)


def change(before, after):
    """Text of two values of which one became the other, in one line."""
    return f"{before}\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}{after}"


def say(message):
    """Tell who waits what is being measured."""
    print(message, file=sys.stderr, flush=True)
