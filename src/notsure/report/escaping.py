"""Plain text as Markdown and as LaTeX, so that any name reads in print as it was given."""

from __future__ import annotations

import re
import unicodedata

_MARKDOWN = re.compile(r"[\\`*_<>|~$&#]|\](?=\()|!(?=\[)")


def one_line(text: str) -> str:
    """Text without line breaks and other characters that are not printed."""
    text = unicodedata.normalize("NFC", text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def markdown(text: str) -> str:
    """Text for GitHub-flavoured Markdown, inside a table as well."""
    return _MARKDOWN.sub(lambda found: "\\" + found[0], one_line(text))


_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    # a row must not begin with what \\ takes for its argument
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "\N{EN DASH}": r"\textendash{}",
    "\N{EM DASH}": r"\textemdash{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    **{letter: "\\" + letter for letter in "&%$#_{}"},
}

_GREEK = {
    letter: name
    for letters, names in (
        (
            "αβγδεζηθικλμνξπρστυφχψω",
            "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho "
            "sigma tau upsilon varphi chi psi omega",
        ),
        ("ΓΔΘΛΞΠΣΥΦΨΩ", "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"),
    )
    for letter, name in zip(letters, names.split(), strict=True)
}

_FORMULAS = {
    **{letter: "\\" + name for letter, name in _GREEK.items()},
    **{chr(0x2080 + digit): f"_{digit}" for digit in range(10)},
    "\N{MICRO SIGN}": r"\mu",
    "\N{SCRIPT SMALL L}": r"\ell",
    "\N{INFINITY}": r"\infty",
    "\N{MULTIPLICATION SIGN}": r"\times",
    "\N{PLUS-MINUS SIGN}": r"\pm",
    "\N{MIDDLE DOT}": r"\cdot",
    "\N{MINUS SIGN}": "-",
    "\N{LESS-THAN OR EQUAL TO}": r"\le",
    "\N{GREATER-THAN OR EQUAL TO}": r"\ge",
    "\N{RIGHTWARDS ARROW}": r"\rightarrow",
}

# the letters that every engine has with the T1 encoding, beside ASCII
_LETTERS = frozenset(
    [chr(code) for code in range(0xC0, 0x100) if code not in (0xD7, 0xF7)]
    + list("ĂĄĆČĎĚĘĞĹĽŁŃŇŊŐŔŘŚŠŞŤŢŰŮŸŹŽŻİđăąćčďěęğĺľłńňŋőŕřśšşťţűůźžż")
)


def latex(text: str) -> str:
    r"""Text for LaTeX; what not every engine has goes to the macro \othercharacter."""
    text = one_line(text).replace("\N{SCRIPT SMALL L}\N{INFINITY}", "\0")
    # of two hyphens or commas LaTeX would make a dash or a quotation mark
    return re.sub(r"([-,])(?=\1)", r"\1{}", "".join(map(_latex_of, text)))


def _latex_of(letter: str) -> str:
    if letter == "\0":
        return r"\ensuremath{\ell_\infty}"
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if letter in _FORMULAS:
        return rf"\ensuremath{{{_FORMULAS[letter]}}}"
    if letter.isascii() or letter in _LETTERS:
        return letter
    return rf"\othercharacter{{{letter}}}{{{ord(letter):04X}}}"
