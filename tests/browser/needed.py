"""The code cells that a notebook's sliders and predictions need: only those have to run before one is moved.

Going up from the last one, a cell is needed if it makes or changes a name that a needed cell below it reads. That is
read off the code, so that nobody keeps a list. Random numbers are such a name: each draw changes the next ones, and a
seed makes them anew.
"""

import ast
import re
import symtable

LOOK = {
    "figures",
    "compare",
    "check",
    "explore",
    "predict",
    "len",
    "sum",
    "list",
    "range",
    "max",
    "min",
    "copy",
}


RANDOM = "<random numbers>"
DRAWS = re.compile(r"\brand|manual_seed|randomized")


def needed_cells(sources, is_wanted):
    """Places of the code cells that are wanted, or that a wanted one below needs.

    Parameters
    ----------
    sources : sequence of str
        Code of a notebook's code cells, in order.
    is_wanted : callable
        Of a cell's code, whether it must run in any case.
    """
    needed, read = [], set()
    imported = set().union(*map(imports, sources))  # called, and not changed by that
    for place, source in reversed(list(enumerate(sources))):
        draws = {RANDOM} if DRAWS.search(source) else set()
        if is_wanted(source) or (made(source) | changed(source) - imported | draws) & read:
            needed.append(place)
            if "manual_seed" in source:
                read -= draws
            else:
                read |= draws
            read |= names_read(symtable.symtable(source, "cell", "exec"))
    return needed[::-1]


def made(source):
    """Names that code binds: what it assigns, defines and imports."""
    symbols = symtable.symtable(source, "cell", "exec").get_symbols()
    return {
        symbol.get_name()
        for symbol in symbols
        if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
    }


def imports(source):
    return {s.get_name() for s in symtable.symtable(source, "cell", "exec").get_symbols() if s.is_imported()}


def names_read(table):
    """Names of the notebook that code reads, in its functions too."""
    outside = [s for s in table.get_symbols() if s.is_global() or table.get_type() == "module"]
    found = {symbol.get_name() for symbol in outside if symbol.is_referenced()}
    return found.union(*map(names_read, table.get_children()))


def changed(source):
    """Names whose object code may change: an item or a part is set, or it is called, or given to what is called.

    Functions of `LOOK` look and change nothing. So do a function's own statements, until it is called.
    """
    found = set()
    for node in _statements(ast.parse(source)):
        match node:
            case ast.Attribute(ctx=ast.Store()) | ast.Subscript(ctx=ast.Store()):
                found.add(_root(node))  # model.bias = ..., found[r] = ...
            case ast.Call() if _root(node.func) not in LOOK:
                found |= {_root(node.func), *map(_root, node.args)}  # found.append(...), train(model)
    return found - {None}


def _statements(node):
    yield node
    if not isinstance(node, ast.FunctionDef | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from _statements(child)


def _root(node):
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None
