"""Write transformer_lib/*.py from the cells of notebooks/*.ipynb, and the head of every notebook.

`#| default_exp NAME` opens a module, the string below it is the docstring; every later cell that
begins with `#| export` goes there, and the same NAME further down goes on with that module. With
--check nothing is written: differences are printed as a diff and the exit status is 1.
"""

import argparse
import ast
import builtins
import difflib
import json
import re
import symtable
import sys
import tomllib
from pathlib import Path

from notebook_head import with_head

PACKAGE = "transformer_lib"
HEADER = "# Written by notebooks/{}: edit there, then `make export`."
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class ExportError(ValueError):
    """A notebook cell that cannot be exported; the message names notebook and cell."""


class Module:
    """One module as a notebook writes it: docstring, imports, names, source text."""

    def __init__(self, name, notebook):
        self.name, self.notebook = name, notebook
        self.docstring = ""
        self.imports = {}  # bound name -> (module, member or None)
        self.names = []  # constants, functions and classes, in the order of the notebook
        self.chunks = []  # (is a definition, source text)

    def add(self, source, opens):
        """Take one exported cell (below its directive); `opens`: it is the module's first one."""
        lines, body, done, constants = source.splitlines(), ast.parse(source).body, 0, False
        if opens:
            if not body or not is_string(body[0]):
                raise ExportError("the module's docstring is missing below `#| default_exp`")
            self.docstring = ast.get_source_segment(source, body[0])
            done = body.pop(0).end_lineno
        for node in body:
            last = node is body[-1]
            text = "\n".join(lines[done : None if last else node.end_lineno])
            done = node.end_lineno
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.add_import(node)
                constants = False
                continue
            for name in defined_names(node):
                if name in self.names:
                    raise ExportError(f"{name} is defined twice in {self.name}")
                self.names.append(name)
            definition = isinstance(node, DEFINITIONS)
            if constants and not definition:  # neighbors in a cell stay as they are
                self.chunks[-1] = (False, f"{self.chunks[-1][1]}\n{text}".rstrip())
            else:
                self.chunks.append((definition, text.strip("\n")))
            constants = not definition

    def add_import(self, node):
        for alias in node.names:
            name = alias.asname or alias.name
            if alias.name == "*" or getattr(node, "level", 0):
                raise ExportError("imports are absolute and name what they take")
            if isinstance(node, ast.ImportFrom):
                what = (node.module, alias.name)
            else:
                what = (alias.name, None)
            if self.imports.setdefault(name, what) != what:
                raise ExportError(f"{name} is imported from two places")

    def render(self, siblings):
        """Return the text of the module; `siblings` are the earlier modules of the same notebook.

        What siblings import counts here too (a notebook imports once), and what they define is
        imported from them.
        """
        body = "\n\n\n".join(text for _, text in self.chunks)
        used, imports, known = used_names(body), {}, {}
        for module in [*siblings, self]:
            known |= module.imports
        for name, what in known.items():
            if name in self.names:  # a notebook may import what it shows the code of further down
                continue
            if name.split(".")[0] in used or (what[0] == "__future__" and name in self.imports):
                imports[name] = what
        for sibling in siblings:
            for name in used & set(sibling.names) - set(self.names) - set(imports):
                imports[name] = (f"{PACKAGE}.{sibling.name}", name)
        unknown = used_names(body, annotations=False) - set(self.names) - set(dir(builtins))
        if unknown := sorted(unknown - {name.split(".")[0] for name in imports}):
            raise ExportError(f"{self.name} uses {', '.join(unknown)} without importing it")
        public = ", ".join(f'"{name}"' for name in self.names if not name.startswith("_"))
        blocks = [HEADER.format(self.notebook) + "\n" + self.docstring, *import_block(imports)]
        blocks.append(wrap("__all__ = [", public, "]"))
        text = "\n\n".join(blocks)
        if self.chunks:
            text += ("\n\n\n" if self.chunks[0][0] else "\n\n") + body
        return text + "\n"


def is_string(node):
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def defined_names(node):
    """Return the names that a definition or constant binds; refuse anything else."""
    if isinstance(node, DEFINITIONS):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if isinstance(targets[0], ast.Tuple) and len(targets) == 1:
        targets = targets[0].elts
    is_constant = isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
    if is_constant and all(isinstance(target, ast.Name) for target in targets):
        return [target.id for target in targets]
    first = ast.unparse(node).splitlines()[0]
    raise ExportError(f"only imports, definitions and constants are exported, not `{first}`")


def used_names(source, annotations=True):
    """Return the global names that the source reads, including annotations written as strings."""
    tables, used = [symtable.symtable(source, "module", "exec")], set()
    for table in tables:
        tables.extend(table.get_children())
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module"):
                used.add(symbol.get_name())
    for node in ast.walk(ast.parse(source)) if annotations else ():
        for field in ("annotation", "returns"):
            hint = getattr(node, field, None)
            for part in ast.walk(hint) if hint else ():
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    used.update(re.findall(r"\w+", part.value))
    return used


def import_block(imports):
    """Return the imports in the order of ruff's isort, one block of text per group."""
    statements = {}
    for name, (module, member) in imports.items():
        root = module.split(".")[0]
        group = 1 if root in sys.stdlib_module_names else 3 if root == PACKAGE else 2
        group = 0 if root == "__future__" else group
        alias = member or module
        alias = alias if alias == name else f"{alias} as {name}"
        own_line = alias if member is None or " as " in alias else ""
        statements.setdefault((group, member is not None, module, own_line), []).append(alias)
    groups = {}
    for (group, is_from, module, _), aliases in statements.items():
        aliases.sort(key=member_order)
        text = f"import {aliases[0]}"
        if is_from:
            text = wrap(f"from {module} import ", ", ".join(aliases), "", "(", ")")
        order = (is_from, natural(module), member_order(aliases[0]))
        groups.setdefault(group, []).append((order, text))
    return ["\n".join(text for _, text in sorted(groups[group])) for group in sorted(groups)]


def natural(text):
    parts = re.split(r"(\d+)", text.lower())
    return [int(part) if part.isdigit() else part for part in parts], text


def member_order(alias):
    """Sort key: CONSTANTS, then Classes, then the rest, alphabetically."""
    name = alias.split(" ")[0]
    kind = 0 if len(name) > 1 and name.isupper() else 1 if name[0].isupper() else 2
    return kind, natural(name)


def wrap(start, items, end, opening="", closing=""):
    """Return the list on one line, or on several with a trailing comma if it is too long."""
    if len(start + items + end) <= 100 or not items:
        return start + items + end
    items = [f"    {item}," for item in items.split(", ")]
    return "\n".join([start + opening, *items, closing + end])


def read_modules(path):
    """Return the modules that one notebook writes, in its order."""
    modules = []
    for number, cell in enumerate(json.loads(path.read_text("utf-8"))["cells"], start=1):
        directive, _, source = "".join(cell["source"]).lstrip().partition("\n")
        if cell["cell_type"] != "code" or not directive.startswith("#|"):
            continue
        try:
            match directive.split():
                case ["#|", "default_exp", name]:
                    opened = [module for module in modules if module.name == name]
                    module = opened[0] if opened else Module(name, path.name)
                    # one that is reopened moves to the end: it may use what was written meanwhile
                    modules = [other for other in modules if other is not module] + [module]
                    module.add(source, opens=not opened)
                case ["#|", "export"] if modules:
                    modules[-1].add(source, opens=False)
                case _:
                    raise ExportError(f"cannot follow `{directive}` here")
        except (ExportError, SyntaxError) as error:
            raise ExportError(f"cell {number}: {error}") from error
    return modules


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, print differences")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    options = parser.parse_args(argv)
    package = options.root / PACKAGE
    settings = tomllib.loads((options.root / "pyproject.toml").read_text("utf-8"))
    project = settings["project"] | settings["tool"]["transformer-lib"]
    wanted, errors = {}, []
    for path in sorted((options.root / "notebooks").glob("*.ipynb")):
        try:
            modules = read_modules(path)
            for count, module in enumerate(modules):
                target = package / f"{module.name}.py"
                if target in wanted:
                    raise ExportError(f"{module.name} is already written by an earlier cell")
                if target.exists() and not is_exported(target):
                    raise ExportError(f"{PACKAGE}/{target.name} is hand-written: delete it first")
                wanted[target] = module.render(modules[:count])
            wanted[path] = with_head(path, project)
        except (ValueError, KeyError) as error:
            errors.append(f"{path.name}: {error}")
    for path in sorted(package.glob("*.py")) if not errors else ():
        if is_exported(path) and path not in wanted:
            errors.append(f"{PACKAGE}/{path.name}: no notebook writes it any more, delete it")
    changed = False
    for path, text in wanted.items():
        old = path.read_text("utf-8") if path.exists() else ""
        if old == text:
            continue
        changed = True
        name = path.relative_to(options.root).as_posix()
        if options.check:
            sides = (old.splitlines(keepends=True), text.splitlines(keepends=True))
            sys.stdout.writelines(difflib.unified_diff(*sides, name, f"{name} (exported)"))
        else:
            path.write_text(text, "utf-8")
            print(f"wrote {name}")
    if options.check and changed:
        command = "`make export` or `python tools/export_notebooks.py`"
        print(f"Notebooks and library differ: run {command}.", file=sys.stderr)
    for error in errors:
        print(error, file=sys.stderr)
    return int(bool(errors) or (options.check and changed))


def is_exported(path):
    return path.read_text("utf-8").startswith(HEADER.partition("{")[0])


if __name__ == "__main__":
    raise SystemExit(main())
