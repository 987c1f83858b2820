# Objects between two processes. Plain data goes by value; mutable data and instances of the tests' own classes keep their
# identity, and what one side changed is changed on the other; everything else stays where it is and goes as a handle.
def _graph(first, classes, handle_of, number_of):
    objects, numbers, state = {}, {}, [first]
    none = type(None)
    scalars = {none, bool, int, float, complex, str, bytes}
    plain_encode = _wire()[0]

    def number(x):
        n = numbers.get(id(x))
        if n is None:
            n = state[0]
            state[0] += 2
            objects[n] = x
            numbers[id(x)] = n
        return n

    def encode(x, out, seen, depth=0):
        if depth > 400:
            raise RecursionError("the value is nested too deeply")
        kind = type(x)
        if kind in scalars:
            return plain_encode(x, out)
        if kind is tuple or kind is frozenset:
            out.append(b"%s%d:" % (b"t" if kind is tuple else b"Z", len(x)))
            for item in x:
                encode(item, out, seen, depth + 1)
            return
        own = classes.get(kind.__name__) is kind
        if kind is list or kind is set or kind is dict or own:
            n = number(x)
            if n in seen:
                out.append(b"@%d;" % n)
                return
            seen.add(n)
            out.append(b"&%d;" % n)
            if own:
                name = kind.__name__.encode()
                out.append(b"O%d:" % len(name))
                out.append(name)
                x = x.__dict__
            if kind is list or kind is set:
                out.append(b"%s%d:" % (b"l" if kind is list else b"S", len(x)))
                for item in x:
                    encode(item, out, seen, depth + 1)
                return
        elif kind.__module__ == "collections" and kind.__name__ in ("OrderedDict", "Counter", "defaultdict"):
            n = number(x)
            out.append(b"&%d;" % n)
        else:
            n = number_of(x)
            if n is None:
                n = number(x)
            name = kind.__name__.encode("utf-8", "replace")
            out.append(b"h%d;%d:" % (n, len(name)))
            out.append(name)
            return
        out.append(b"d%d:" % dict.__len__(x))
        for key, value in dict.items(x):
            encode(key, out, seen, depth + 1)
            encode(value, out, seen, depth + 1)

    def until(data, at, mark):
        end = data.index(mark, at)
        return data[at:end], end + 1

    def known(n, kind):
        old = objects.get(n)
        if type(old) is not kind:
            old = object.__new__(kind) if kind not in (list, set, dict) else kind()
            objects[n] = old
            numbers[id(old)] = n
        return old

    def decode(data, at, met):
        tag = data[at:at + 1]
        at += 1
        if tag == b"N":
            return None, at
        if tag == b"T":
            return True, at
        if tag == b"F":
            return False, at
        if tag == b"i":
            text, at = until(data, at, b";")
            return int(text, 16), at
        if tag == b"f":
            text, at = until(data, at, b";")
            return float(text), at
        if tag == b"c":
            real, at = until(data, at, b";")
            imag, at = until(data, at, b";")
            return complex(float(real), float(imag)), at
        if tag == b"@":
            text, at = until(data, at, b";")
            return objects[int(text)], at
        if tag == b"h":
            n, at = until(data, at, b";")
            count, at = until(data, at, b":")
            end = at + int(count)
            return handle_of(int(n), data[at:end].decode("utf-8", "replace"), objects), end
        if tag == b"&":
            text, at = until(data, at, b";")
            n = int(text)
            tag = data[at:at + 1]
            at += 1
            kind = {b"l": list, b"S": set, b"d": dict}.get(tag)
            if tag == b"O":
                count, at = until(data, at, b":")
                end = at + int(count)
                kind = classes[data[at:end].decode()]
                at = end + 1
            x = known(n, kind)
            met.append(x)
            count, at = until(data, at, b":")
            items = []
            for _ in range(int(count) * (2 if kind not in (list, set) else 1)):
                item, at = decode(data, at, met)
                items.append(item)
            if kind is list:
                x[:] = items
            elif kind is set:
                x.clear()
                x.update(items)
            else:
                table = x if kind is dict else x.__dict__
                table.clear()
                table.update(zip(items[::2], items[1::2]))
            return x, at
        count, at = until(data, at, b":")
        count = int(count)
        if tag == b"s":
            return data[at:at + count].decode("utf-8", "surrogatepass"), at + count
        if tag == b"b":
            return data[at:at + count], at + count
        items = []
        for _ in range(count):
            item, at = decode(data, at, met)
            items.append(item)
        if tag == b"t":
            return tuple(items), at
        if tag == b"Z":
            return frozenset(items), at
        raise ValueError("unknown tag")

    def pack(*values):
        out, seen = [b"t%d:" % len(values)], set()
        for value in values:
            encode(value, out, seen)
        return b"".join(out)

    def unpack(data):
        met = []
        values, _ = decode(data, 0, met)
        return values, met

    return pack, unpack
