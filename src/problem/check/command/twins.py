# Trusted: reads test files, never an answer. Makes of each a twin whose tests a right answer must fail, because an
# expectation in every one of them is changed, and a copy in which these same tests raise at once, to count them.
import ast, copy

_SWAPS = {"assertTrue": "assertFalse", "assertIn": "assertNotIn", "assertIs": "assertIsNot", "assertIsNone": "assertIsNotNone",
          "assertIsInstance": "assertNotIsInstance", "assertGreater": "assertLessEqual", "assertLess": "assertGreaterEqual",
          "assertRegex": "assertNotRegex"}
_SWAPS.update({b: a for a, b in list(_SWAPS.items())})
_PAIRS = {"assertEqual", "assertEquals", "assertAlmostEqual", "assertListEqual", "assertDictEqual", "assertTupleEqual",
          "assertSetEqual", "assertSequenceEqual", "assertMultiLineEqual", "assertCountEqual"}
_RAISES = {"assertRaises", "assertRaisesRegex", "raises"}
_NEGATED = {ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Lt: ast.GtE,
            ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt}


def _other(node):
    """An expression of another value than `node`'s."""
    if isinstance(node, ast.Constant):
        value = node.value
        if type(value) is bool:
            return ast.Constant(not value)
        if type(value) is int:
            return ast.Constant(value + 1)
        if type(value) is str:
            return ast.Constant(value + "~")
    return ast.Tuple([node, ast.Constant("twin")], ast.Load())


def _name(call):
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def _literal(node):
    try:
        ast.literal_eval(node)
        return True
    except Exception:
        return False


def _nobody():
    return ast.parse("type('Twin', (Exception,), {})", mode="eval").body


def _call(call):
    """Changes what a call of an assertion expects; whether it did."""
    name = _name(call)
    if any(isinstance(arg, ast.Starred) for arg in call.args):
        return False
    if name in _SWAPS and isinstance(call.func, ast.Attribute):
        call.func.attr = _SWAPS[name]
    elif (name in _PAIRS or name.startswith("assert_")) and len(call.args) >= 2:
        at = 0 if _literal(call.args[0]) and not _literal(call.args[1]) else 1
        plain = name in ("assertEqual", "assertEquals")
        call.args[at] = _other(call.args[at]) if plain else ast.Tuple([call.args[at], ast.Constant("twin")], ast.Load())
    elif name in _RAISES and call.args:
        call.args[0] = _nobody()
    else:
        return False
    return True


def _wrong(test):
    """An expression that is false where `test` is true."""
    if isinstance(test, ast.Compare):
        operator = type(test.ops[-1])
        if operator is ast.Eq:
            if len(test.ops) == 1 and _literal(test.left) and not _literal(test.comparators[0]):
                test.left = _other(test.left)
            else:
                test.comparators[-1] = _other(test.comparators[-1])
            return test
        if len(test.ops) == 1:
            test.ops[0] = _NEGATED[operator]()
            return test
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        test.values[0] = _wrong(test.values[0])
        return test
    return ast.UnaryOp(ast.Not(), test)


def _leaves(node):
    """Whether a statement may end the test, or the loop around it, before what follows."""
    for inner in ast.walk(node):
        if isinstance(inner, (ast.Return, ast.Raise, ast.Break, ast.Continue, ast.Yield)):
            return True
        if isinstance(inner, ast.Call) and _name(inner) in ("skip", "skipTest", "importorskip", "xfail", "exit"):
            return True
    return False


def _body(body):
    """Changes every assertion of a body; whether one of those that surely run was changed."""
    sure, left = False, False
    for node in body:
        changed = False
        if isinstance(node, ast.Assert):
            node.test, changed = _wrong(node.test), True
        elif isinstance(node, ast.Expr):
            call = node.value.value if isinstance(node.value, ast.Await) else node.value
            changed = isinstance(call, ast.Call) and _call(call)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
            raising = [call for call in calls if _name(call) in _RAISES]
            changed = _call(raising[0]) if raising else _body(node.body)
        elif isinstance(node, ast.For):
            changed = _body(node.body) and isinstance(node.iter, (ast.List, ast.Tuple)) and bool(node.iter.elts)
        elif isinstance(node, ast.If):
            first, second = _body(node.body), _body(node.orelse)
            changed = first and second
        elif isinstance(node, ast.While):
            _body(node.body)
        sure |= changed and not left
        left |= _leaves(node)
    return sure


def _spared(function):
    text = " ".join(map(ast.unparse, function.decorator_list))
    return any(word in text for word in ("skip", "xfail", "expectedFailure"))


def _twin(source):
    tree, names = ast.parse(source), []
    raising = copy.deepcopy(tree)
    for scope, other in zip(ast.walk(tree), ast.walk(raising)):
        if not isinstance(scope, (ast.Module, ast.ClassDef)):
            continue
        for node, shadow in zip(scope.body, other.body):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test") \
                    and not _spared(node) and _body(node.body):
                shadow.body = ast.parse("raise AssertionError('twin')").body
                names.append(scope.name + "." + node.name if isinstance(scope, ast.ClassDef) else node.name)
    texts = [ast.unparse(ast.fix_missing_locations(t)) + "\n" for t in (tree, raising)]
    return [texts, names]


def _main():
    encode, decode, receive, send, pack, blame = _wire()
    sources, _ = decode(receive(3))
    for source in sources:
        try:
            made = _twin(source)
        except BaseException:
            made = None
        send(4, pack(made))
_main()
