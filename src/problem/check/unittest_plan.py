# Trusted: reads test classes, never an answer. Gives every test twins: the same test with one expectation changed, which a
# right answer has to fail.
import ast, copy, hashlib, importlib.util

_SWAP = {"assertGreater", "assertGreaterEqual", "assertLess", "assertLessEqual"}
_RAISES = {"assertRaises": "Exception", "assertRaisesRegex": "Exception", "assertWarns": "Warning", "assertWarnsRegex": "Warning"}
_ODD = "qz7"
_TWINS = 2


def _expression(text):
    return ast.parse(text, mode="eval").body


def _is_literal(node):
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _other(node):
    # An expression of the same kind whose value differs. One that looks as likely as the first tells an answer nothing.
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bool):
            return ast.Constant(not value)
        if isinstance(value, (int, complex)):
            return ast.Constant(value + 1)
        if isinstance(value, float):
            return ast.Constant(2 * value + 1.5)
        if isinstance(value, str):
            return ast.Constant(value + _ODD)
        if isinstance(value, bytes):
            return ast.Constant(value + _ODD.encode())
        return ast.Constant(False)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        return ast.UnaryOp(node.op, _other(node.operand))
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)) and not any(isinstance(x, ast.Starred) for x in node.elts):
        node.elts = node.elts[:-1] + [_other(node.elts[-1])] if node.elts else [ast.Constant(None)]
        return node
    if isinstance(node, ast.Dict) and None not in node.keys:
        if node.keys:
            node.values[-1] = _other(node.values[-1])
        else:
            node.keys, node.values = [ast.Constant("")], [ast.Constant(None)]
        return node
    return ast.List([node], ast.Load())


def _sides(left, right):
    # Which of two sides to change: the literal one, or each in turn.
    if _is_literal(right):
        return [1]
    return [0] if _is_literal(left) else [1, 0]


def _negated(node):
    return ast.UnaryOp(ast.Not(), node)


def _conditions(node):
    # Conditions that are false where `node` is true.
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        return [ast.BoolOp(node.op, node.values[:-1] + [last]) for last in _conditions(node.values[-1])]
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, op, right = node.left, node.ops[0], node.comparators[0]
        if isinstance(op, ast.Eq):
            pairs = [[left, _other(copy.deepcopy(right))] if side else [_other(copy.deepcopy(left)), right]
                     for side in _sides(left, right)]
        elif isinstance(op, ast.NotEq):
            pairs = [[left, left]]
        elif isinstance(op, (ast.Lt, ast.LtE, ast.Gt, ast.GtE)):
            pairs = [[right, left]]
        elif isinstance(op, ast.In):
            pairs = [[_other(copy.deepcopy(left)), right]]
        elif isinstance(op, ast.NotIn):
            pairs = [[left, ast.List([left], ast.Load())]]
        elif isinstance(op, ast.Is):
            pairs = [[ast.List([left], ast.Load()), right]]
        else:
            pairs = [[right, right]]
        return [ast.Compare(a, [op], [b]) for a, b in pairs]
    return [_negated(node)]


def _name(call):
    if isinstance(call, ast.Call):
        if isinstance(call.func, ast.Attribute):
            return call.func.attr
        if isinstance(call.func, ast.Name):
            return call.func.id
    return ""


def _changed(name, args):
    # The arguments of each twin of an assertion.
    def at(place, value):
        return args[:place] + [value] + args[place + 1:]

    count = len(args)
    if name in _RAISES and count:
        return [at(0, _expression("type('Other', (%s,), {})" % _RAISES[name]))]
    if name in ("assertTrue", "assert_") and count:
        return [at(0, condition) for condition in _conditions(args[0])]
    if name == "assertFalse" and count:
        return [at(0, _negated(args[0]))]
    if name == "assertIsNone" and count:
        return [at(0, ast.List([args[0]], ast.Load()))]
    if name == "assertIsNotNone" and count:
        return [at(0, ast.Subscript(ast.Tuple([args[0], ast.Constant(None)], ast.Load()), ast.Constant(1), ast.Load()))]
    if name in ("assertIsInstance", "assertIsSubclass") and count > 1:
        return [at(1, _expression("type('Other', (), {})"))]
    if name == "assertNotIsInstance" and count > 1:
        return [at(1, _expression("object"))]
    if name in _SWAP and count > 1:
        return [[args[1], args[0]] + args[2:]]
    if name == "assertIn" and count > 1:
        return [at(0, _other(args[0]))]
    if name == "assertNotIn" and count > 1:
        return [at(1, ast.List([args[0]], ast.Load()))]
    if name in ("assertNotEqual", "assertNotAlmostEqual", "assertIsNot") and count > 1:
        return [at(1, args[0])]
    if name in ("assertRegex", "assertRegexpMatches") and count > 1:
        return [at(1, ast.Constant("(?!)"))]
    if name == "assertNotRegex" and count > 1:
        return [at(1, ast.Constant(""))]
    if name in ("assert_called_with", "assert_called_once_with", "assert_any_call"):
        return [args + [ast.Constant(_ODD)]]
    if name == "assert_has_calls" and count:
        return [at(0, _expression("[((%r,), {})]" % _ODD))]
    if count > 1:
        return [at(side, _other(copy.deepcopy(args[side]))) for side in _sides(args[0], args[1])]
    return []


_RENAMED = {"assert_called": "assert_called_once_with", "assert_called_once": "assert_called_once_with",
            "assert_not_called": "assert_called"}


def _sites(function):
    # The assertions of a method, in the order of its text.
    found = []
    for node in ast.walk(function):
        if isinstance(node, ast.Assert) or isinstance(node, ast.Expr) and _name(node.value).startswith("assert"):
            found.append(node)
        elif isinstance(node, (ast.With, ast.AsyncWith)) and any(_name(i.context_expr) in _RAISES for i in node.items):
            found.append(node)
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def _rewrite(site, which):
    # Makes the assertion its `which`-th twin; False where there is none.
    if isinstance(site, ast.Assert):
        conditions = _conditions(site.test)
        if which < len(conditions):
            site.test = conditions[which]
        return which < len(conditions)
    if isinstance(site, ast.Expr):
        call = site.value
    else:
        call = next(i.context_expr for i in site.items if _name(i.context_expr) in _RAISES)
    name = _name(call)
    if name in _RENAMED and isinstance(call.func, ast.Attribute):
        call.func.attr = _RENAMED[name]
        if call.func.attr != "assert_called":
            call.args = [ast.Constant(_ODD), ast.Constant(_ODD)]
        return which == 0
    if any(isinstance(x, ast.Starred) for x in call.args):
        return False
    changed = _changed(name, call.args)
    if which < len(changed):
        call.args = changed[which]
    return which < len(changed)


def _twins(function):
    count = len(_sites(function))
    for place in reversed(range(count)):
        twins = []
        for which in range(_TWINS):
            twin = copy.deepcopy(function)
            try:
                if _rewrite(_sites(twin)[place], which):
                    ast.parse(ast.unparse(ast.fix_missing_locations(twin)))
                    twins.append(twin)
            except (SyntaxError, ValueError, TypeError, RecursionError):
                pass
        if twins:
            return twins
    return []


def _tests(tree, name):
    # The test methods that a class defines, and those that it inherits from classes beside it.
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    node, own, inherited, seen = classes[name], {}, set(), set()
    for part in node.body:
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)) and part.name.startswith("test"):
            own[part.name] = part
    bases = [b.id for b in node.bases if isinstance(b, ast.Name)]
    while bases:
        base = bases.pop()
        if base in classes and base not in seen:
            seen.add(base)
            inherited |= {p.name for p in classes[base].body if isinstance(p, ast.FunctionDef) and p.name.startswith("test")}
            bases += [b.id for b in classes[base].bases if isinstance(b, ast.Name)]
    return node, own, sorted(inherited - set(own))


def _mixed(source, name, seed):
    tree = ast.parse(source)
    node, own, inherited = _tests(tree, name)
    cases = [[test, test, "real"] for test in inherited]
    groups = {}
    for index, test in enumerate(sorted(own)):
        group = []
        for twin, function in enumerate([own[test]] + _twins(own[test])):
            mark = hashlib.sha256(("%s %s %d" % (seed, test, twin)).encode()).hexdigest()[:8]
            function = copy.deepcopy(function)
            function.name = "test_%03d_%s" % (index, mark)
            group.append(function)
            cases.append([function.name, test, "twin" if twin else "real"])
        groups[own[test]] = sorted(group, key=lambda f: f.name)
    body = []
    for part in node.body:
        if part in groups:
            body += groups[part]
        elif not (isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)) and part.name in own):
            body.append(part)
    node.body = body
    return ast.unparse(ast.fix_missing_locations(tree)), cases, sorted(own) + inherited


def _missing(sources, libraries):
    names = {library.split(".")[0] for library in libraries}
    for source in sources:
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        # An import that a `try` guards is one that the code can do without.
        guarded = {id(n) for t in ast.walk(tree) if isinstance(t, ast.Try) for n in ast.walk(t)}
        for n in ast.walk(tree):
            if isinstance(n, ast.Import) and id(n) not in guarded:
                names |= {alias.name.split(".")[0] for alias in n.names}
            elif isinstance(n, ast.ImportFrom) and n.module and not n.level and id(n) not in guarded:
                names.add(n.module.split(".")[0])

    def lacks(name):
        try:
            return name not in _sys.stdlib_module_names and importlib.util.find_spec(name) is None
        except (ImportError, ValueError):
            return True
    return sorted(n for n in names if n and lacks(n))


def _main():
    encode, decode, receive, send, pack, blame = _wire()
    problems, _ = decode(receive(3))
    for prelude, source, name, seed, libraries in problems:
        try:
            mixed, cases, names = _mixed(source, name, seed)
            plan = ["plan", _missing([prelude, source], libraries), names, mixed, cases]
        except KeyError:
            plan = ["broken", "KeyError", "there is no class %s" % name]
        except BaseException as error:
            plan = ["broken"] + blame(error)
        send(4, pack(plan))
_main()
