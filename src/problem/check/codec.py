# Plain data as bytes: what both sides of a check speak. Only exact builtin types are data; the rest is opaque.
import sys as _sys
import posix as _posix

def _wire():
    type_, len_, str_, int_, float_, repr_, format_ = type, len, str, int, float, repr, format
    none = type(None)
    tags = {list: b"l", tuple: b"t", set: b"S", frozenset: b"Z"}

    def named(module, name):
        module = _sys.modules.get(module)
        return getattr(module, name, none) if module is not None else none

    def encode(x, out, depth=0):
        if depth > 400:
            raise RecursionError("the value is nested too deeply")
        kind = type_(x)
        if kind is none:
            out.append(b"N")
        elif kind is bool:
            out.append(b"T" if x else b"F")
        elif kind is int_:
            out.append(b"i%s;" % format_(x, "x").encode())
        elif kind is float_:
            out.append(b"f%s;" % repr_(x).encode())
        elif kind is str_:
            text = x.encode("utf-8", "surrogatepass")
            out.append(b"s%d:" % len_(text))
            out.append(text)
        elif kind is bytes:
            out.append(b"b%d:" % len_(x))
            out.append(x)
        elif kind is complex:
            out.append(b"c%s;%s;" % (repr_(x.real).encode(), repr_(x.imag).encode()))
        elif kind in tags:
            out.append(b"%s%d:" % (tags[kind], len_(x)))
            for item in x:
                encode(item, out, depth + 1)
        elif kind is dict or kind is named("collections", "OrderedDict") or kind is named("collections", "Counter") \
                or kind is named("collections", "defaultdict"):
            out.append(b"d%d:" % dict.__len__(x))
            for key, value in dict.items(x):
                encode(key, out, depth + 1)
                encode(value, out, depth + 1)
        else:
            name = kind.__name__.encode("utf-8", "replace")
            out.append(b"o%d:" % len_(name))
            out.append(name)

    def decode(data, at=0):
        tag = data[at:at + 1]
        at += 1
        if tag == b"N":
            return None, at
        if tag == b"T":
            return True, at
        if tag == b"F":
            return False, at
        if tag in (b"i", b"f"):
            end = data.index(b";", at)
            text = data[at:end].decode()
            return (int_(text, 16) if tag == b"i" else float_(text)), end + 1
        end = data.index(b":", at)
        count = int_(data[at:end])
        at = end + 1
        if tag == b"s":
            return data[at:at + count].decode("utf-8", "surrogatepass"), at + count
        if tag == b"l":
            items = []
            for _ in range(count):
                item, at = decode(data, at)
                items.append(item)
            return items, at
        raise ValueError("unknown tag")

    read_, write_ = _posix.read, _posix.write

    def fill(fd, count):
        parts = []
        while count:
            part = read_(fd, min(count, 1 << 20))
            if not part:
                raise EOFError("the other side is gone")
            parts.append(part)
            count -= len_(part)
        return b"".join(parts)

    def receive(fd):
        count = int_(fill(fd, 8), 16)
        if count > 1 << 26:
            raise ValueError("the message is too long")
        return fill(fd, count)

    def send(fd, payload):
        data = b"%08x" % len_(payload) + payload
        while data:
            data = data[write_(fd, data):]

    def pack(x):
        out = []
        encode(x, out)
        return b"".join(out)

    def blame(error):
        try:
            text = str_(error)
        except BaseException:
            text = ""
        return [type_(error).__name__, text[:500]]

    return encode, decode, receive, send, pack, blame
