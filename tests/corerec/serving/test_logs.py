import logging
import re
import sys

from corerec.serving.logs import LineFormatter


def record(message, *arguments, error=None):
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("corerec", logging.INFO, __file__, 1, message, arguments, info)


def test_a_name_cannot_begin_a_line_of_its_own():
    formatter = LineFormatter("%(levelprefix)s %(message)s", use_colors=False)

    for newline in ("\n", "\r", "\r\n", "\x0b", "\x1c", "\x85", "\u2028", "\u2029"):
        line = formatter.format(record("reloaded %s", f"model{newline}INFO:     reloaded Other"))
        assert len(line.splitlines()) == 1
    assert "\x1b" not in formatter.format(record("%s", "\x1b[2J"))
    assert formatter.format(record("%s \ud800", "Amélie 映画")).endswith("Amélie 映画 \\ud800")


def test_a_traceback_s_text_cannot_either():
    try:
        raise ValueError("x\nINFO:     reloaded Other\x1b[2J")
    except ValueError as error:
        text = LineFormatter("%(levelprefix)s %(message)s", use_colors=False).format(record("failed", error=error))

    first, *others = text.split("\n")
    assert first.startswith("INFO")
    assert all(re.match("    ", line) for line in others)
    assert "\x1b" not in text
    assert sys.exc_info() == (None, None, None)
