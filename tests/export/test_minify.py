"""A minified module says the same in fewer characters."""

from __future__ import annotations

import re

import pytest

from ganedge.export import to_web
from ganedge.export.minify import minify

SOURCE = (to_web.SOURCES / to_web.SCRIPT).read_text("utf-8")


def test_the_browsers_module_keeps_its_texts_and_its_interface() -> None:
    small = minify(SOURCE)
    assert len(small) < 0.65 * len(SOURCE)
    assert minify(small) == small
    texts = set(re.findall(r'"[^"\\\n]*"', re.sub(r"^ *(//|/?\*).*$", "", SOURCE, flags=re.MULTILINE)))
    assert len(texts) > 100
    assert [text for text in texts if text not in small] == []
    for name in ("load", "Generator", "scaled"):
        assert re.search(rf"^export (async )?(function|class) {name}\b", small, re.MULTILINE)
    for name in ("sample", "interpolate", "latents", "run", "runAll", "translate", "close"):
        assert re.search(rf"^(async )?{name}\(", small, re.MULTILINE), name
    assert not re.search(r"^ |/\*|^//", small, re.MULTILINE)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "const a = { b: 1 };  // of a\n/** All\n * of it. */\n  a.b = a - -1, a++ + ++a;",
            "const a={b:1};\na.b=a- -1,a++ + ++a;\n",
        ),
        (
            "const long = 1;\nexport function keep(value) { return value + long; }",
            "const a=1;\nexport function keep(b){return b+a;}\n",
        ),
        ("const side = 2, { width, height: tall } = picture;", "const a=2,{width,height:tall}=picture;\n"),
        ("const size = 3;\nf({ size }, picture.size);", "const size=3;\nf({size},picture.size);\n"),
        (
            "class Box {\n  #hidden = 1;\n  area(side) {\n    return side * this.#hidden;\n  }\n}",
            "class b{#a=1;area(a){return a*this.#a;}}\n",
        ),
        ("const text = `a  b ${text2 + `in ${text}`} // no`;", "const a=`a  b ${text2+`in ${a}`} // no`;\n"),
        ("const half = (value) => Math.max(value, -value) * Math.PI;", "const b=(a)=>Math.max(a,-a)*Math.PI;\n"),
        (
            "for (const [key, value] of pairs) if (/^a \\/ b$/.test(key)) g(value);",
            "for(const[a,b]of pairs)if(/^a \\/ b$/.test(a))g(b);\n",
        ),
        ("const one = 1,\n  two = 2;\nif (one) {\n  g(two)\n}\ng(one)", "const a=1,\nb=2;\nif(a){g(b)}\ng(a)\n"),
    ],
)
def test_names_that_are_not_variables_alone_stay(source: str, expected: str) -> None:
    assert minify(source) == expected
