"""Text for people, whatever it was made of."""


def printable(text: str) -> str:
    """Return one line that a terminal shows and does not obey.

    Run folders, peers, pods and pictures name things as they like. Escape sequences, line ends and
    marks that turn the direction of writing become U+FFFD each; a tab becomes a space.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c == "\t" else "\ufffd" for c in text)
