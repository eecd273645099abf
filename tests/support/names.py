"""Names of classes that a table, a page and a terminal must stand."""

HARD = (
    "<script>alert(1)</script>",
    "long " * 19 + "<b>&",
    "\u202egnp.exe",
    "ab\u200f\u200e",
    "![x](http://x.example/x.png)",
    "名前" * 20,
    "T-shirt/top",
    "{{ 7*7 }}",
    "7",
    "9",
)
"""Ten: the classes 8 and 9 have numbers for names, of which one is its own."""
