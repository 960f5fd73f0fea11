"""Colours of classes in drawings."""

# Easily told apart on photographs, RGB; classes beyond the last colour start over.
COLOURS = (
    (230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180),
    (0, 128, 128), (240, 50, 230), (128, 128, 0), (170, 110, 40), (128, 0, 0),
)  # fmt: skip


def colour_of(label: int) -> tuple[int, int, int]:
    """The colour of a class, whose labels count from 1."""
    return COLOURS[(label - 1) % len(COLOURS)]
