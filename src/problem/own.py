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
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("__name__ == '__main__'", "'__main__' == __name__")


# What runs when the file is run. An exit would end the tests' process: what it is given says whether they passed.
def _statements(tree):
    for node in tree.body:
        for node in node.body if _is_main(node) else [node]:
            call = node.value if isinstance(node, ast.Expr) else None
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("exit", "sys.exit"):
                yield from ast.parse("".join("assert %s in (None, 0)" % ast.unparse(code) for code in call.args)).body
            elif not isinstance(call, ast.Constant):
                yield node


# Whether something among what runs can fail: a definition runs if what runs names it, or a decorator takes it.
def _tests(statements):
    is_idle = lambda node: hasattr(node, "decorator_list") and not node.decorator_list
    idle = {node.name: node for node in statements if is_idle(node)}
    running = [node for node in statements if not is_idle(node)]
    while running:
        for node in ast.walk(running.pop()):
            if isinstance(node, (ast.Assert, ast.Raise)):
                return True
            if isinstance(node, ast.Name) and node.id in idle:
                running.append(idle.pop(node.id))
    return False


def _kind(source, module):
    tree = ast.parse(source)
    if any(map(_is_test_case, ast.walk(tree))):
        return ["unittest"]
    called = _called(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test") and node.name not in called \
                or isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            return ["pytest"]
    statements = list(_statements(tree))
    setup, tests, before = [], [], []
    for node in statements:
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
        before.append(ast.unparse(node))
        if isinstance(node, ast.Assert):
            tests.append("\n".join(before))
            before = []
    if not _tests(statements):
        return ["broken", "no test is in it: assertions that run, unittest classes or functions named test... are expected"]
    if before:
        tests.append("\n".join(before))
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
