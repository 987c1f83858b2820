# Runs an answer and evaluates calls on it; only their plain results go back. What they should be is not known here.
def _main(run=exec, compile_=compile, evaluate=eval):
    encode, decode, receive, send, pack, blame = _wire()
    (prelude, answer, setup, calls), _ = decode(receive(3))
    _posix.close(3)
    module = type(_sys)("answer")
    _sys.modules["answer"] = module
    names = module.__dict__
    for part, code in (("prelude", prelude), ("answer", answer), ("setup", setup)):
        try:
            code = compile_(code, "<%s>" % part, "exec", 0, True)
        except BaseException as error:
            send(4, pack(["compile" if part == "answer" else part] + blame(error)))
            return
        try:
            run(code, names)
        except BaseException as error:
            send(4, pack([part] + blame(error)))
            return
    for call in calls:
        try:
            value = evaluate(compile_(call, "<test>", "eval", 0, True), names)
            out = []
            encode(value, out)
            message = pack("value") + b"".join(out)
        except BaseException as error:
            message = pack("raised") + pack(blame(error))
        send(4, b"l2:" + message)
_main()
