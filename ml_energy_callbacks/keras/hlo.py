"""Programs of XLA as text (HLO, as of JAX 0.10.2); pure."""

import re

_HEADER = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.-]+) .*{$")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply|\w+_computations?)=(?P<names>\{[^}]*\}|[%\w.-]+)")
_PRODUCT = re.compile(r" (?:dot|convolution|custom-call)\(")


def loops_over_products(program: str) -> bool:
    """Return whether a loop of a program runs products of matrices, convolutions or foreign code.

    The cost analysis of XLA counts one turn of a loop alone (HandleWhile in xla/service/hlo_cost_analysis.cc).
    """
    called: dict[str, set[str]] = {}
    products, loops = set(), set()
    name = ""
    for line in program.splitlines():
        header = _HEADER.match(line)
        if header is not None:
            name = header["name"]
            continue
        names = {each.strip(" %{}") for found in _CALLED.finditer(line) for each in found["names"].split(",")}
        called.setdefault(name, set()).update(names)
        if _PRODUCT.search(line) is not None:
            products.add(name)
        if " while(" in line:
            loops |= names
    reached: set[str] = set()
    while loops - reached:
        reached |= loops
        loops = {each for one in reached for each in called.get(one, ())}
    return bool(reached & products)
