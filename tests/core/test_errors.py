"""Errors are shown to people: nothing in them may drive a terminal."""

from modelnet.errors import MalformedError


def test_control_characters_are_spelled_out() -> None:
    """A path or source that a peer chose cannot move the cursor, ring or colour the reader's terminal."""
    error = MalformedError("unsafe path", path="a\x1b[2Jb\r\n\u202ec", got="\x07")

    assert str(error) == "unsafe path in a\\x1b[2Jb\\r\\n\\u202ec, found \\x07"
    assert error.path == "a\x1b[2Jb\r\n\u202ec"
