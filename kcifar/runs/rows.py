"""Rows of a log of which not every one has every figure."""


def columns(rows):
    """The names of all figures, in the order in which they first come."""
    return list(dict.fromkeys(name for row in rows for name in row))


def series(rows, column):
    """(epochs, values) of the rows that have this figure: two lists of one length."""
    having = [row for row in rows if column in row]
    return [row["epoch"] for row in having], [row[column] for row in having]
