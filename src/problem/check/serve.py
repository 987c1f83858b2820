# Runs an answer and does what the tests, in a process of their own, ask of it.
def _main():
    encode, decode, receive, send, flat, blame = _wire()
    (prelude, answer, shared, classes), _ = decode(receive(3))
    module = type(_sys)("answer")
    _sys.modules["answer"] = module
    names = module.__dict__
    for part, code in (("prelude", prelude), ("answer", answer), ("setup", shared)):
        try:
            code = compile(code, "<%s>" % part, "exec", 0, True)
        except BaseException as error:
            send(4, flat(["compile" if part == "answer" else part] + blame(error)))
            return
        try:
            exec(code, names)
        except BaseException as error:
            send(4, flat([part] + blame(error)))
            return
    send(4, flat(["ready"]))
    pack, unpack = _graph(1, {name: names[name] for name in classes}, lambda n, name, objects: objects[n], lambda x: None)
    operations = {
        "name": lambda name: names[name],
        "call": lambda f, args, kwargs: f(*args, **kwargs),
        "get": getattr,
        "set": setattr,
        "iter": iter,
        "next": next,
        "len": len,
        "item": lambda x, key: x[key],
        "setitem": lambda x, key, value: x.__setitem__(key, value),
        "delitem": lambda x, key: x.__delitem__(key),
        "bool": bool,
        "eq": lambda x, y: bool(x == y),
        "str": str,
        "repr": repr,
    }
    while True:
        try:
            data = receive(3)
        except EOFError:
            return
        met = []
        try:
            (operation, args), met = unpack(data)
            value = operations[operation](*args)
            message = pack("value", value, met)
        except BaseException as error:
            message = pack("raised", tuple(blame(error)), met)
        send(4, message)
_main()
