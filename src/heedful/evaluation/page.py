"""The page of a report: one HTML file without anything from outside, in light and dark."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from heedful.evaluation.figures import COLOURS, GRID, INK
from heedful.evaluation.leads import Lead
from heedful.evaluation.tables import Table

__all__ = ["definitions", "join", "leads_section", "page", "section"]

_DARK_COLOURS = (
    "#62b8ee",
    "#ff9656",
    "#35cfa2",
    "#e8a0cc",
    "#e6bd55",
    "#a5d5f5",
    "#b9bac1",
    "#ff8f9b",
    "#b3aaff",
    "#c3dc52",
)


def page(title: str, sections: Sequence[str]) -> str:
    """The whole file."""
    return _PAGE.format(title=html.escape(title), style=_style(), body="\n".join(sections))


def section(heading: str, *parts: str) -> str:
    """A part of the page; `parts` are HTML."""
    return f"<section><h2>{html.escape(heading)}</h2>{''.join(parts)}</section>"


def join(tables: Sequence[Table]) -> str:
    """Tables as HTML."""
    return "".join(table.html() for table in tables)


def definitions(lines: Mapping[str, str]) -> str:
    """Names and what they are, as HTML."""
    return "<dl>" + "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in lines.items()) + "</dl>"


def leads_section(leads: Sequence[Lead], alpha: float) -> str:
    """For each pool and the catalogue the best model of heedful beside the strongest rival; nothing without them."""
    lines = "".join(f"<li>{html.escape(lead.sentence(alpha))}</li>" for lead in leads)
    return section("heedful and the best rival", f"<ul>{lines}</ul>") if leads else ""


def _style() -> str:
    light = "".join(f"--c{n}:{colour};" for n, colour in enumerate(COLOURS))
    dark = "".join(f"--c{n}:{colour};" for n, colour in enumerate(_DARK_COLOURS))
    return (
        f":root{{color-scheme:light dark;--ink:{INK};--grid:{GRID};--page:#fff;--mark:#eaf5ef;--quiet:#5c5e66;{light}}}"
        "@media (prefers-color-scheme:dark){"
        f":root{{--ink:#e7e8ec;--grid:#3b3d45;--page:#15161a;--mark:#1d3329;--quiet:#a6a8b0;{dark}}}}}" + _RULES
    )


_RULES = """
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:76rem;background:var(--page);color:var(--ink);
 font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0}h2{font-size:1.2rem;margin:2.2rem 0 .6rem}
h3{font-size:1rem;margin:1rem 0 .2rem}h3+ul{margin-top:0}
p,li{max-width:48rem}figure{margin:1rem 0}
figcaption{color:var(--quiet);font-size:.9rem;max-width:48rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem;margin:.3rem 0}
table.wide{font-size:.84rem}.wide th,.wide td{padding:.25rem .5rem}
th,td{padding:.3rem .7rem;border-bottom:1px solid var(--grid);text-align:right;white-space:nowrap}
th:first-child{text-align:left;position:sticky;left:0;background:var(--page)}
tr.marked>*{background:var(--mark)}
tr.marked>th:first-child{background:var(--mark)}
tbody th{font-weight:600}
dl{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.2rem 1rem;font-size:.9rem}
dt{color:var(--quiet)}dd{margin:0;overflow-wrap:anywhere}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem}
.panel svg{width:100%;height:auto;max-width:32rem;display:block}
summary{cursor:pointer;padding:.4rem 0}
.notes{padding-left:1.2rem}
.error{color:var(--quiet)}
@media (max-width:40rem){
 th,td{padding:.3rem .25rem}thead th{font-size:.78rem}th:first-child{max-width:6.6rem;white-space:normal}
 table:not(.wide) .error{display:block;font-size:.85em}
 .wide thead{display:none}.wide,.wide tbody,.wide tr,.wide th,.wide td{display:block}
 .wide tr{padding:.4rem 0;border-bottom:1px solid var(--grid)}
 .wide th,.wide td{border:0;padding:.1rem .3rem;text-align:left;white-space:normal;max-width:none}
 .wide td{display:flex;justify-content:space-between;gap:1rem}.wide td::before{content:attr(data-label);color:var(--quiet)}
}
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
