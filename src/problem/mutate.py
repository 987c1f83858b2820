# Trusted: lists single changes to a program that a person could have made by mistake. Positions of the syntax tree keep
# the rest of the text as it is.
import ast, re

_COMPARE = {"<": ["<=", ">"], "<=": ["<"], ">": [">=", "<"], ">=": [">"], "==": ["!="], "!=": ["=="],
            "in": ["not in"], "not in": ["in"], "is": ["is not"], "is not": ["is"]}
_BINARY = {"+": ["-"], "-": ["+"], "*": ["+"], "/": ["//"], "//": ["/"], "%": ["//"], "**": ["*"], "&": ["|"],
           "|": ["&"], "^": ["|"], "<<": [">>"], ">>": ["<<"]}
_TOKENS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.In: "in",
           ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not", ast.Add: "+", ast.Sub: "-", ast.Mult: "*",
           ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**", ast.BitAnd: "&", ast.BitOr: "|",
           ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>", ast.And: "and", ast.Or: "or"}
_FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "upper": "lower",
              "lower": "upper", "append": "extend", "startswith": "endswith", "endswith": "startswith",
              "ceil": "floor", "floor": "ceil", "isdigit": "isalpha", "isalpha": "isdigit", "abs": "int",
              "find": "rfind", "heappush": "heappop", "union": "intersection", "intersection": "union"}


def _mutants(source):
    data = source.encode()
    tree = ast.parse(source)
    starts = [0]
    for line in data.splitlines(True):
        starts.append(starts[-1] + len(line))
    found = []

    def begin(node):
        return starts[node.lineno - 1] + node.col_offset

    def end(node):
        return starts[node.end_lineno - 1] + node.end_col_offset

    def text(node):
        return data[begin(node):end(node)].decode()

    def change(kind, start, stop, new):
        found.append((kind, start, stop, new.encode()))

    def between(kind, left, right, token, news):
        start, stop = end(left), begin(right)
        pattern = r"\s+".join(map(re.escape, token.split()))
        matches = list(re.finditer(pattern.encode(), data[start:stop]))
        if len(matches) == 1 and b"#" not in data[start:stop]:
            for new in news:
                change(kind, start + matches[0].start(), start + matches[0].end(), new)

    def visit(node, names):
        if isinstance(node, ast.JoinedStr):
            return
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inner = [a.arg for a in node.args.posonlyargs + node.args.args + node.args.kwonlyargs]
            body = node.body if isinstance(node.body, list) else [node.body]
            for part in body:
                inner += [n.id for n in ast.walk(part) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
            names = list(dict.fromkeys(inner))
            for part in body:
                visit(part, names)
            return
        if isinstance(node, ast.Compare):
            for left, op, right in zip([node.left] + node.comparators, node.ops, node.comparators):
                between("operator misuse", left, right, _TOKENS[type(op)], _COMPARE[_TOKENS[type(op)]])
        elif isinstance(node, ast.BinOp) and type(node.op) in _TOKENS:
            if not (isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)):
                token = _TOKENS[type(node.op)]
                between("operator misuse", node.left, node.right, token, _BINARY[token])
        elif isinstance(node, ast.BoolOp):
            token = _TOKENS[type(node.op)]
            for left, right in zip(node.values, node.values[1:]):
                between("operator misuse", left, right, token, ["or" if token == "and" else "and"])
        elif isinstance(node, ast.AugAssign) and type(node.op) in _TOKENS:
            token = _TOKENS[type(node.op)]
            between("operator misuse", node.target, node.value, token + "=", [_BINARY[token][0] + "=", "="])
        elif isinstance(node, ast.Constant) and type(node.value) is bool:
            change("value misuse", begin(node), end(node), str(not node.value))
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            change("value misuse", begin(node), end(node), str(node.value + 1))
            if node.value > 0:
                change("value misuse", begin(node), end(node), str(node.value - 1))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            change("missing logic", begin(node), end(node), "(" + text(node.operand) + ")")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            change("missing logic", begin(node), begin(node.operand), "")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names:
            others = [n for n in names if n != node.id]
            for other in others[:2]:
                change("variable misuse", begin(node), end(node), other)
        elif isinstance(node, ast.Call):
            plain = [a for a in node.args if not isinstance(a, ast.Starred)]
            if len(plain) >= 2 and plain == node.args and text(plain[0]) != text(plain[1]):
                middle = data[end(plain[0]):begin(plain[1])].decode()
                change("value misuse", begin(plain[0]), end(plain[1]), text(plain[1]) + middle + text(plain[0]))
            if isinstance(node.func, ast.Name) and node.func.id == "range" and plain:
                stop = plain[1] if len(plain) > 1 else plain[0]
                if not isinstance(stop, ast.Constant):
                    change("value misuse", begin(stop), end(stop), text(stop) + " - 1")
                    change("value misuse", begin(stop), end(stop), text(stop) + " + 1")
            if isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
                change("function misuse", begin(node.func), end(node.func), _FUNCTIONS[node.func.id])
            if isinstance(node.func, ast.Attribute) and node.func.attr in _FUNCTIONS:
                change("function misuse", end(node.func) - len(node.func.attr), end(node.func), _FUNCTIONS[node.func.attr])
        elif isinstance(node, ast.If) and node.orelse and not text(node.orelse[0]).startswith("elif"):
            change("missing logic", begin(node.orelse[0]), end(node.orelse[-1]), "pass")
        elif isinstance(node, (ast.Break, ast.Continue)) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            change("missing logic", begin(node), end(node), "pass")
        elif isinstance(node, ast.Return) and node.value is not None and names:
            kind = type(node.value)
            if kind in (ast.Compare, ast.BoolOp):
                change("excess logic", begin(node.value), end(node.value), "not (" + text(node.value) + ")")
            elif kind in (ast.Call, ast.BinOp, ast.Subscript) and text(node.value) != names[0]:
                change("variable misuse", begin(node.value), end(node.value), names[0])
        for child in ast.iter_child_nodes(node):
            visit(child, names)

    visit(tree, [])
    shape = ast.dump(tree)
    programs = []
    for kind, start, stop, new in found:
        code = (data[:start] + new + data[stop:]).decode()
        try:
            if ast.dump(ast.parse(code)) != shape:
                programs.append([kind, code])
        except (SyntaxError, ValueError):
            pass
    return programs


def _main():
    encode, decode, receive, send, pack, blame = _wire()
    sources, _ = decode(receive(3))
    for source in sources:
        try:
            programs = _mutants(source)
        except Exception:
            programs = []
        send(4, pack(programs))
_main()
