# Trusted: reads tests, never an answer. Splits asserts into a call on the answer and the value that it must give, or says
# what the tests ask of the answer, so that they can run beside it.
import ast, builtins, symtable

_WRAPPERS = {"list", "tuple", "set", "frozenset", "sorted", "dict", "len", "sum", "min", "max", "int", "float", "str",
             "round", "bool", "next", "iter", "reversed", "enumerate"}
_OPS = {ast.Eq: "eq", ast.NotEq: "ne", ast.Is: "is", ast.IsNot: "isnot"}
_NEGATED = {"eq": "ne", "ne": "eq", "is": "isnot", "isnot": "is", "true": "false", "false": "true"}
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


class _Whole(Exception):
    pass


def _plain(x):
    if type(x) in _PLAIN:
        return True
    if type(x) in (list, tuple, set, frozenset):
        return all(map(_plain, x))
    return type(x) is dict and all(map(_plain, x)) and all(map(_plain, x.values()))


def _load(tree):
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _stored(tree):
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)} | \
        {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}


class _Rename(ast.NodeTransformer):
    def __init__(self, names):
        self.names = names

    def visit_Name(self, node):
        return ast.copy_location(ast.Name(self.names.get(node.id, node.id), node.ctx), node)


def _asserts(body):
    functions = {}
    for node in body:
        if isinstance(node, ast.Assert):
            yield node
        elif isinstance(node, ast.Expr) and isinstance(node.value, (ast.Constant, ast.Name)) or isinstance(node, ast.Pass):
            pass
        elif isinstance(node, ast.FunctionDef):
            a = node.args
            if node.decorator_list or a.vararg or a.kwarg or a.kwonlyargs or a.defaults or a.posonlyargs:
                raise _Whole
            functions[node.name] = node
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value
            if not (isinstance(call.func, ast.Name) and call.func.id in functions) or call.keywords:
                raise _Whole
            function = functions[call.func.id]
            if len(call.args) != len(function.args.args) or not all(isinstance(x, ast.Name) for x in call.args):
                raise _Whole
            names = {p.arg: x.id for p, x in zip(function.args.args, call.args)}
            for inner in _asserts(function.body):
                if _stored(inner) & set(names.values()):
                    raise _Whole
                yield _Rename(names).visit(inner)
        else:
            raise _Whole


def _truth(space, test):
    return eval(compile(ast.fix_missing_locations(ast.Expression(test)), "<test>", "eval"), space)


def _case(space, node):
    test, negated = node.test, False
    while isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, negated = test.operand, not negated
    asked = _load(test) - _stored(test) - set(space) - set(dir(builtins))
    if not asked:
        calls = [n.func.id for n in ast.walk(test) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        if not calls and bool(_truth(space, test)) != negated:
            return None
        # The answer may bear a builtin's name.
        asked = set(calls[:1])

    def on_answer(e):
        if isinstance(e, ast.Call) and isinstance(e.func, ast.Name):
            if e.func.id in asked:
                return True
            return e.func.id in _WRAPPERS and len(e.args) == 1 and not e.keywords and on_answer(e.args[0])
        return isinstance(e, ast.Subscript) and isinstance(e.slice, ast.Constant) and on_answer(e.value)

    if isinstance(test, ast.Compare) and len(test.ops) == 1 and type(test.ops[0]) in _OPS:
        op, left, right = _OPS[type(test.ops[0])], test.left, test.comparators[0]
        if not on_answer(left):
            left, right = right, left
        if not on_answer(left) or _load(right) & asked:
            raise _Whole
        value = _truth(space, right)
        if not _plain(value) or op in ("is", "isnot") and not (value is None or value is True or value is False):
            raise _Whole
    elif on_answer(test):
        op, left, value = "true", test, None
    else:
        raise _Whole
    return [ast.unparse(left), _NEGATED[op] if negated else op, value, "assert " + ast.unparse(node.test)]


def _wanted(code, known):
    top = symtable.symtable(code, "<tests>", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned()}
    wanted = set()

    def walk(table):
        for s in table.get_symbols():
            name = s.get_name()
            if s.is_referenced() and (table is top or s.is_global()) and name not in bound:
                wanted.add(name)
        for child in table.get_children():
            walk(child)

    walk(top)
    tree = ast.parse(code)
    bases = {n.value.id for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
    calls = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    modules = {m for m in wanted if m in _sys.stdlib_module_names and m in bases and m not in calls}
    wanted -= set(known) | set(dir(builtins)) | modules
    kept = [n for n in tree.body if isinstance(n, (ast.ClassDef, ast.Import, ast.ImportFrom))]
    classes = [n.name for n in kept if isinstance(n, ast.ClassDef)]
    shared = "\n".join(map(ast.unparse, kept)) if classes else ""
    return sorted(wanted), sorted(modules), classes, shared


def _plan(prelude, setup, tests):
    space = {"__name__": "tests"}
    try:
        exec(compile(prelude, "<prelude>", "exec", 0, True), space)
    except BaseException:
        pass
    known = set(space)
    trees = [ast.parse(test) for test in tests]
    try:
        for name in set().union(*map(_load, trees), _load(ast.parse(setup))) - known - set(dir(builtins)):
            attributes = any(isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == name
                             for t in trees for n in ast.walk(t))
            if attributes and name in _sys.stdlib_module_names:
                space[name] = __import__(name)
        try:
            exec(compile(setup, "<setup>", "exec", 0, True), space)
        except BaseException:
            pass
        cases = [_case(space, node) for tree in trees for node in _asserts(tree.body)]
        cases = [case for case in cases if case is not None]
        if cases:
            return ["split", cases]
    except Exception:
        pass
    # Builtin names that an answer redefines are not seen here; the tests then mean the builtin.
    return ["beside"] + list(_wanted(setup + "\n" + "\n".join(tests), known))


def _main():
    encode, decode, receive, send, pack, blame = _wire()
    problems, _ = decode(receive(3))
    for prelude, setup, tests in problems:
        try:
            plan = _plan(prelude, setup, tests)
        except BaseException as error:
            plan = ["broken"] + blame(error)
        send(4, pack(plan))
_main()
