"""Text from outside (ids, names of tasks, headings) made harmless for what reads it: one function a format."""

import hashlib
import html
import re

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "Å": r"\AA{}",
}
_LATEX |= {character: f"\\{character}" for character in "_%&#${}"}
_LATEX |= {"₂": "$_2$", "−": "$-$", "×": r"$\times$", "≤": r"$\leq$", "²": "$^2$", "°": r"$^\circ$"}
_MARKDOWN = re.compile(r"[\\`*|\[\]]|<(?=[a-zA-Z/!?])|(?<!\w)_|_(?!\w)")


def for_csv(text: str) -> str:
    """Return text on one line that no spreadsheet evaluates and every encoding can write."""
    line = _one_line(printable(text))
    return f"'{line}" if line.startswith(_FORMULA_STARTS) else line


def for_latex(text: str) -> str:
    """Return text as LaTeX prints it."""
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def for_markdown(text: str) -> str:
    """Return text on one line as Markdown shows it, in a table as well."""
    return _MARKDOWN.sub(r"\\\g<0>", _one_line(text))


def for_html(text: str) -> str:
    """Return text as HTML shows it, in an attribute as well."""
    return html.escape(text)


def for_figures(text: str) -> str:
    """Return text as matplotlib shows it, which takes dollar signs for formulas."""
    return text.replace("$", r"\$")


def printable(text: str) -> str:
    """Return text whose undecodable bytes (surrogates of a file name) and control characters are spelled out."""
    visible = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(char if char.isprintable() or char in "\n\t\r" else f"\\x{ord(char):02x}" for char in visible)


def shortened(name: str, longest: int = 200) -> str:
    """Return the name of a file or folder within so many bytes of the 255 that file systems allow.

    A longer one is cut and ends in a part of its hash, so that it stays another one than its like.
    """
    encoded = name.encode()
    if len(encoded) <= longest:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return f"{encoded[: longest - 9].decode(errors='ignore')}_{digest}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
