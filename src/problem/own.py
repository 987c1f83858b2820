# Trusted: reads a file of tests, never an answer. Says what kind of tests they are; plain statements come one by one, each
# assertion with what stands before it.
import ast


def _is_test_case(node):
    return isinstance(node, ast.ClassDef) and any("TestCase" in ast.unparse(base) for base in node.bases)


def _called(tree):
    found = set()
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found |= {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return found


def _is_main(node):
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def _kind(source, module):
    tree = ast.parse(source)
    if any(map(_is_test_case, ast.walk(tree))):
        return ["unittest"]
    called = _called(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test") and node.name not in called \
                or isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            return ["pytest"]
    setup, tests, before = [], [], []
    for node in tree.body:
        if isinstance(node, ast.Import) and any(name.name.split(".")[0] == module for name in node.names):
            return ["broken", "plain assertions know what the file defines by its own names: `from %s import ...` is expected "
                    "in the place of `import %s`" % (module, module)]
        if isinstance(node, ast.ImportFrom) and node.module == module:
            if any(name.asname not in (None, name.name) for name in node.names):
                return ["broken", "plain assertions know what the file defines by its own names: `import ... as ...` renames them"]
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            setup.append(ast.unparse(node))
            continue
        if _is_main(node) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        before.append(ast.unparse(node))
        if isinstance(node, ast.Assert):
            tests.append("\n".join(before))
            before = []
    if before and any(isinstance(node, (ast.Assert, ast.Raise)) for node in ast.walk(tree)):
        tests.append("\n".join(before))
    if not tests:
        return ["broken", "no test is in it: assertions, unittest classes or functions named test... are expected"]
    return ["statements", "\n".join(setup)] + tests


def _main():
    encode, decode, receive, send, pack, blame = _wire()
    (source, module), _ = decode(receive(3))
    try:
        kind = _kind(source, module)
    except (SyntaxError, ValueError) as error:
        kind = ["broken", ": ".join(blame(error))]
    send(4, pack(kind))
_main()
