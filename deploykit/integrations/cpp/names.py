"""Text that C++ takes: identifiers out of any name, namespaces, string literals.

In: names and labels as people write them. Out: ASCII that every C++17 compiler reads alike, whatever the source's character set.
"""

import re

from deploykit.errors import UsageError

_KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t char8_t class co_await
    co_return co_yield compl concept const const_cast consteval constexpr constinit continue decltype default delete do
    double dynamic_cast else enum explicit export extern false float for friend goto if import inline int long module
    mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public register reinterpret_cast
    requires return short signed sizeof static static_assert static_cast struct switch template this thread_local throw
    true try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq
    """,
    )
)
_MACROS = frozenset(
    {"linux", "unix", "i386", "errno", "assert", "stdin", "stdout", "stderr", "offsetof", "NULL", "EOF", "NAN", "INFINITY"}
    | {"HUGE_VAL", "HUGE_VALF", "HUGE_VALL", "BUFSIZ", "RAND_MAX", "EXIT_SUCCESS", "EXIT_FAILURE"}
)
"""Words that a compiler or a standard header may replace before the parser sees them."""

_TAKEN = frozenset({"std", "posix", "nvinfer1"})
"""Namespaces of the standard and of TensorRT."""

DEFAULT_NAMESPACE = "deploykit::models"


def identifier(name: str) -> str:
    """A valid identifier that looks like ``name``: every other character becomes an underscore.

    No two underscores stand beside each other and none stands first, since such names belong to the compiler ([lex.name]).
    """
    word = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    if not word or word[0].isdigit():
        word = f"model_{word}".rstrip("_")
    return f"{word}_model" if word in _KEYWORDS | _MACROS | _TAKEN else word


def check_namespace(text: str) -> str:
    """A namespace as it was asked for, such as ``acme::vision``.

    Raises:
        UsageError: not names of C++ with ``::`` between them, or one that belongs to somebody else.
    """
    parts = text.split("::")
    for part in parts:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", part):
            raise UsageError(
                f"--namespace is {text!r}, expected names of letters, digits and single underscores, such as acme::vision"
            )
        if part in _KEYWORDS | _MACROS:
            raise UsageError(
                f"--namespace is {text!r}: {part} is a word of C++ itself", hint="choose another, such as acme::vision"
            )
    if parts[0] in _TAKEN or (parts[0] == "deploykit" and (parts[:2] != ["deploykit", "models"] or len(parts) < 3)):
        raise UsageError(f"--namespace is {text!r}, which is taken", hint="choose another, such as acme::vision")
    return text


def string_literal(text: str) -> str:
    """Text as a C++ string literal of its UTF-8 bytes.

    Bytes beyond ASCII are octal escapes, which end after three digits; ``?`` is escaped, because ``??/`` is a backslash to
    compilers that know trigraphs.
    """
    known = {0x22: '\\"', 0x5C: "\\\\", 0x3F: "\\?"}
    return '"' + "".join(known.get(b, chr(b) if 0x20 <= b < 0x7F else f"\\{b:03o}") for b in text.encode()) + '"'


def string_view(text: str) -> str:
    """A ``std::string_view`` constant of text; its length is spelled out where a NUL would end it."""
    literal = string_literal(text)
    return f"{{{literal}, {len(text.encode())}}}" if "\0" in text else literal
