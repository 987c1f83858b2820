//! Java source as bytes: tokens, and where the methods are.
//!
//! Nothing is decoded: every byte above 127 is part of a word, so that ISO-8859-1 and UTF-8 read alike and what is not
//! replaced stays as it is, byte for byte. Symbols are single bytes, so that generics need no rule of their own.

use std::ops::Range;

/// A token: where it starts and ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    kind: Kind,
    /// Its bytes.
    pub span: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    /// A number, a character, a string or a text block.
    Literal,
    Symbol,
}

/// A method or constructor with a body, a member of a named type. Those of local and anonymous classes belong to what
/// holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// The types around it, outermost first, then its name, then its parameters' tokens: `A.B.f(int x)`.
    pub key: String,
    /// Its name alone.
    pub name: String,
    /// How many types are around it.
    pub depth: usize,
    /// From its first modifier or annotation to its last brace. A comment before it is not part of it.
    pub span: Range<usize>,
    /// From brace to brace.
    pub body: Range<usize>,
}

/// The tokens of a source, without its comments.
pub fn tokens(source: &[u8]) -> Vec<Token> {
    let at = |i: usize| source.get(i).copied().unwrap_or(0);
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < source.len() {
        let start = i;
        let kind = match source[i] {
            b if b.is_ascii_whitespace() || b == 0x0b || b == 0x1a => {
                i += 1;
                continue;
            }
            b'/' if at(i + 1) == b'/' => {
                i += source[i..].iter().position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(source.len() - i);
                continue;
            }
            b'/' if at(i + 1) == b'*' => {
                i = find(source, i + 2, b"*/");
                continue;
            }
            b'"' if source[i..].starts_with(b"\"\"\"") => {
                i += 3;
                while i < source.len() && !source[i..].starts_with(b"\"\"\"") {
                    i += 1 + usize::from(source[i] == b'\\');
                }
                i = (i + 3).min(source.len());
                Kind::Literal
            }
            quote @ (b'"' | b'\'') => {
                i += 1;
                // A text that its line does not end is no Java; it ends there, so that the rest is still read.
                while i < source.len() && source[i] != quote && !matches!(source[i], b'\n' | b'\r') {
                    i += 1 + usize::from(source[i] == b'\\');
                }
                i = (i + usize::from(at(i) == quote)).min(source.len());
                Kind::Literal
            }
            b if b.is_ascii_digit() => {
                while is_word(at(i)) || (at(i) == b'.' && at(i + 1) != b'.') {
                    i += 1;
                }
                Kind::Literal
            }
            b if is_word(b) => {
                while is_word(at(i)) {
                    i += 1;
                }
                Kind::Word
            }
            _ => {
                i += 1;
                Kind::Symbol
            }
        };
        tokens.push(Token { kind, span: start..i.min(source.len()) });
    }
    tokens
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// Where the first `end` after `from` ends; the end of the source where there is none.
fn find(source: &[u8], from: usize, end: &[u8]) -> usize {
    let from = from.min(source.len());
    source[from..].windows(end.len()).position(|w| w == end).map_or(source.len(), |at| from + at + end.len())
}

/// Whether two sources are the same but for comments and white space.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    let (of_a, of_b) = (tokens(a), tokens(b));
    of_a.len() == of_b.len() && of_a.iter().zip(&of_b).all(|(x, y)| a[x.span.clone()] == b[y.span.clone()])
}

/// The methods of a compilation unit (or of a piece of one: members without a type around them), in their order.
pub fn methods(source: &[u8]) -> Vec<Method> {
    let tokens = tokens(source);
    let mut reader = Reader { source, tokens: &tokens, at: 0, types: Vec::new(), found: Vec::new() };
    while reader.at < tokens.len() {
        reader.members();
        // A brace too many, in what is no Java.
        reader.at += 1;
    }
    reader.found
}

struct Reader<'a> {
    source: &'a [u8],
    tokens: &'a [Token],
    at: usize,
    types: Vec<String>,
    found: Vec<Method>,
}

impl Reader<'_> {
    fn text(&self, index: usize) -> &[u8] {
        self.tokens.get(index).map_or(&[], |token| &self.source[token.span.clone()])
    }

    fn is(&self, text: &str) -> bool {
        self.text(self.at) == text.as_bytes()
    }

    fn word(&self, index: usize) -> bool {
        self.tokens.get(index).is_some_and(|token| token.kind == Kind::Word)
    }

    fn ended(&self) -> bool {
        self.at >= self.tokens.len()
    }

    /// Reads members up to the brace that closes their type, which is not read.
    fn members(&mut self) {
        while !self.ended() && !self.is("}") {
            self.member();
        }
    }

    fn member(&mut self) {
        let start = self.at;
        self.modifiers();
        match self.text(self.at) {
            b";" => self.at += 1,
            b"{" => self.balanced(),
            b"package" | b"import" => self.statement(),
            b"class" | b"interface" | b"enum" => self.declaration(),
            b"@" => {
                self.at += 1;
                self.declaration();
            }
            b"record" if self.word(self.at + 1) && matches!(self.text(self.at + 2), b"(" | b"<") => self.declaration(),
            _ => self.method_or_field(start),
        }
    }

    /// Annotations and modifiers, but not the `@` of `@interface`.
    fn modifiers(&mut self) {
        const WORDS: [&[u8]; 13] = [
            b"public",
            b"protected",
            b"private",
            b"static",
            b"abstract",
            b"final",
            b"native",
            b"synchronized",
            b"transient",
            b"volatile",
            b"strictfp",
            b"default",
            b"sealed",
        ];
        loop {
            if self.is("@") && self.text(self.at + 1) != b"interface" {
                self.annotation();
            } else if self.is("non") && self.text(self.at + 1) == b"-" {
                self.at += 3;
            } else if WORDS.contains(&self.text(self.at)) {
                self.at += 1;
            } else {
                return;
            }
        }
    }

    fn annotation(&mut self) {
        self.at += 2;
        while self.is(".") && self.word(self.at + 1) {
            self.at += 2;
        }
        if self.is("(") {
            self.balanced();
        }
    }

    /// From an opening bracket past the one that closes it.
    fn balanced(&mut self) {
        let mut depth = 0usize;
        while !self.ended() {
            match self.text(self.at) {
                b"(" | b"[" | b"{" => depth += 1,
                b")" | b"]" | b"}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }

    /// Past the next `;` outside brackets; up to a brace that closes the type.
    fn statement(&mut self) {
        while !self.ended() && !self.is("}") {
            match self.text(self.at) {
                b"(" | b"[" | b"{" => self.balanced(),
                b";" => {
                    self.at += 1;
                    return;
                }
                _ => self.at += 1,
            }
        }
    }

    /// A type, from its keyword to its last brace.
    fn declaration(&mut self) {
        let is_enum = self.is("enum");
        let name = decoded(self.text(self.at + 1));
        while !self.ended() && !self.is("{") && !self.is("}") && !self.is(";") {
            match self.text(self.at) {
                b"(" => self.balanced(),
                _ => self.at += 1,
            }
        }
        if !self.is("{") {
            self.at += usize::from(self.is(";"));
            return;
        }
        self.at += 1;
        self.types.push(name);
        if is_enum {
            self.constants();
        }
        self.members();
        self.types.pop();
        self.at += 1;
    }

    /// An enum's constants, with the bodies that they may have, past their `;`.
    fn constants(&mut self) {
        let mut name = String::new();
        while !self.ended() && !self.is("}") {
            match self.text(self.at) {
                b";" => {
                    self.at += 1;
                    return;
                }
                b"@" => self.annotation(),
                b"(" => self.balanced(),
                b"{" => {
                    self.at += 1;
                    self.types.push(std::mem::take(&mut name));
                    self.members();
                    self.types.pop();
                    self.at += 1;
                }
                text => {
                    if self.word(self.at) {
                        name = decoded(text);
                    }
                    self.at += 1;
                }
            }
        }
    }

    fn method_or_field(&mut self, start: usize) {
        // What stands before a `(` is a type and a name; before a `=` or a `;` too, then of a field.
        while !self.ended() {
            match self.text(self.at) {
                b"@" => self.annotation(),
                b"(" => break,
                // A record's constructor without parameters of its own.
                b"{" if self.at > start && self.word(self.at - 1) => break,
                b"=" | b";" | b"{" => return self.statement(),
                b"}" => return,
                _ => self.at += 1,
            }
        }
        let named = self.at.checked_sub(1).filter(|index| *index >= start && self.word(*index));
        let opened = self.at;
        if self.is("(") {
            self.balanced();
        }
        let closed = self.at;
        while !self.ended() {
            match self.text(self.at) {
                b"@" => self.annotation(),
                b"{" => break,
                // An annotation's element with a default, an abstract method, or no member at all.
                b"default" | b"=" | b";" => return self.statement(),
                b"}" => return,
                _ => self.at += 1,
            }
        }
        if self.ended() {
            return;
        }
        let body = self.at;
        self.balanced();
        let Some(named) = named else { return };
        let text = |index: usize| decoded(self.text(index));
        let name = text(named);
        let parameters: Vec<String> = (opened..closed).map(text).collect();
        let key = [self.types.clone(), vec![name.clone()]].concat().join(".") + &parameters.join(" ");
        let start_of = |index: usize| self.tokens[index].span.start;
        let end = self.tokens[self.at - 1].span.end;
        self.found.push(Method { key, name, depth: self.types.len(), span: start_of(start)..end, body: start_of(body)..end });
    }
}

/// The method that holds every difference between two sources but comments and white space: its places in the first and in
/// the second. None where they do not differ, or do so outside methods or in more than one.
pub fn changed_method(a: &[u8], b: &[u8]) -> Option<(Method, Method)> {
    let (in_a, in_b) = (methods(a), methods(b));
    if in_a.len() != in_b.len() {
        return None;
    }
    let mut pairs = in_a.into_iter().zip(in_b).filter(|(x, y)| !same(&a[x.span.clone()], &b[y.span.clone()]));
    let (x, y) = pairs.next()?;
    let around = same(&a[..x.span.start], &b[..y.span.start]) && same(&a[x.span.end..], &b[y.span.end..]);
    around.then_some((x, y))
}

/// The methods of `b` that `a` does not have as they are, in their order.
pub fn new_methods(a: &[u8], b: &[u8]) -> Vec<Method> {
    let in_a = methods(a);
    let known = |y: &Method| in_a.iter().any(|x| x.key == y.key && same(&a[x.span.clone()], &b[y.span.clone()]));
    methods(b).into_iter().filter(|method| !known(method)).collect()
}

/// Puts `new` in the place of `place`.
pub fn replaced(source: &[u8], place: Range<usize>, new: &[u8]) -> Vec<u8> {
    [&source[..place.start], new, &source[place.end..]].concat()
}

/// Bytes of ISO-8859-1 as text: each byte one character.
pub fn decoded(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Text as bytes of ISO-8859-1; what that has no byte for becomes Java's own `\uXXXX`.
pub fn encoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match u8::try_from(u32::from(c)) {
            Ok(byte) => bytes.push(byte),
            Err(_) => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| bytes.extend(format!("\\u{unit:04x}").bytes())),
        }
    }
    bytes
}

/// The documentation comment right before a place, with nothing but white space between; empty where there is none.
pub fn comment_before(source: &[u8], place: usize) -> &[u8] {
    let before = source[..place].trim_ascii_end();
    let start = before.windows(3).rposition(|w| w == b"/**").filter(|_| before.ends_with(b"*/"));
    // One that ends earlier is the comment of something else.
    start.filter(|start| find(before, *start + 2, b"*/") == before.len()).map_or(&[], |start| &before[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NASTY: &str = r##"package a.b; // class No { void no() {} }
import static x.Y.*;
/* } { */
@Ann({@In(x = "}{"), @In})
public final class Outer<T extends Comparable<? super T>> extends Base<T[]> implements A, B<C<D<E>>> {
    private static final char OPEN = '{', QUOTE = '\'', SLASH = '\\';
    static final String TEXT = "} \" /* no comment */ {";
    static final String BLOCK = """
        } "quoted" \""" {
        """;
    private final Runnable field = new Runnable() { public void run() { inner(); } };
    private final Supplier<String> lambda = () -> { return "}"; };
    static { call(); }
    { this.x = 1; }
    int[] array = { 1, 2 }, other[] = {};
    /** The first. */
    @Override @SuppressWarnings({"unchecked", "}"})
    public <K extends A<B>, V> Map<K, List<V>> generic(@In(f = "(") final Map<? extends K, V> map, int... rest)
            throws IOException, @Ann({}) Other {
        // a brace in a comment }
        new Thread() { public void run() { /* } */ } };
        class Local { void inLocal() { } }
        Function<A, B> f = x -> { return y(x); };
        return null;
    }
    Outer() { this(1); }
    abstract int nothing(int x);
    int old()[] { return null; }
    enum Kind implements Z {
        ONE(1) { @Override int value() { return 1; } }, @Deprecated TWO(f('}')), THREE { };
        Kind(int... x) { }
        int value() { return 2; }
    }
    @interface Note { String[] value() default { "}" }; int n() default 3; class In { void f() { } } }
    interface Face { default void run() { } static <T> T of() { return null; } void none(); }
    record Point(int x, @In({}) int y) { Point { check(); } int sum() { return x + y; } }
    static class Nested { static class Deep { void café(double d) { double e = 1.5e3 - .5; } } }
    public static void main(String[] args) { if (true) { } else { } }
}
class Second { synchronized void f() { } ; }
"##;

    #[test]
    fn methods_of_nasty_sources_are_found() {
        let source = encoded(NASTY);
        let keys: Vec<String> = methods(&source).into_iter().map(|method| method.key).collect();
        let parameters = r#"( @ In ( f = "(" ) final Map < ? extends K , V > map , int . . . rest )"#;
        let expected = [
            &format!("Outer.generic{parameters}"),
            "Outer.Outer( )",
            "Outer.old( )",
            "Outer.Kind.ONE.value( )",
            "Outer.Kind.Kind( int . . . x )",
            "Outer.Kind.value( )",
            "Outer.Note.In.f( )",
            "Outer.Face.run( )",
            "Outer.Face.of( )",
            "Outer.Point.Point",
            "Outer.Point.sum( )",
            "Outer.Nested.Deep.café( double d )",
            "Outer.main( String [ ] args )",
            "Second.f( )",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn a_method_is_cut_and_put_back_byte_for_byte() {
        let source = encoded(NASTY);
        for method in methods(&source) {
            let text = &source[method.span.clone()];
            assert_eq!(replaced(&source, method.span.clone(), &encoded(&decoded(text))), source);
            assert_eq!((source[method.body.start], source[method.body.end - 1]), (b'{', b'}'));
            assert_eq!(method.body.end, method.span.end);
        }
        let first = &methods(&source)[0];
        assert!(source[first.span.clone()].starts_with(b"@Override @Supp"));
        assert!(source[first.span.clone()].ends_with(b"return null;\n    }"));
        assert_eq!(comment_before(&source, first.span.start), b"/** The first. */");
        assert_eq!(comment_before(&source, methods(&source)[1].span.start), b"");
        assert_eq!(encoded("\u{e9}\u{20ac}\u{1f600}"), b"\xe9\\u20ac\\ud83d\\ude00");
    }

    #[test]
    fn comments_and_white_space_make_no_difference_and_tokens_do() {
        assert!(same(b"int f(){return 1;}", b"int  f ( ) { // one\n return /* 1 */ 1 ; }"));
        assert!(!same(b"f(\"a b\")", b"f(\"ab\")"));
        assert!(!same(b"intf", b"int f") && !same(b"a", b"a b"));
    }

    #[test]
    fn the_changed_method_is_the_one_that_holds_the_whole_change() {
        let class =
            |one: &str, two: &str, field: &str| format!("class A {{ int x = {field}; int f() {{ {one} }} int g() {{ {two} }} }}");
        let change = |a: &str, b: &str| changed_method(a.as_bytes(), b.as_bytes()).map(|(x, y)| (x.key, y.key));
        let base = class("return 1;", "return 2;", "0");
        let both = |key: &str| Some((key.to_owned(), key.to_owned()));
        assert_eq!(change(&base, &class("if (x) { } return 1;", "return 2;", "0")), both("A.f( )"));
        assert_eq!(change(&base, &class("return 1;", "return 2; // same", "0")), None);
        assert_eq!(change(&base, &class("return 3;", "return 3;", "0")), None);
        assert_eq!(change(&base, &class("return 3;", "return 2;", "1")), None);
        assert_eq!(change(&base, &base.replace("int g()", "int h(int y)")), Some(("A.g( )".into(), "A.h( int y )".into())));
        let new = class("return 3;", "return 3;", "0");
        let keys: Vec<String> = new_methods(base.as_bytes(), new.as_bytes()).into_iter().map(|m| m.key).collect();
        assert_eq!(keys, ["A.f( )", "A.g( )"]);
    }

    #[test]
    fn what_is_no_java_ends_too() {
        let texts = ["}", "{", "(", "\"", "'", "/*", "class", "class A { void f(", "@", "enum E { A(", "\"\"\"", "x = {", "'\\"];
        for text in texts {
            methods(text.as_bytes());
        }
        assert_eq!(methods(b"} } int f() { }").len(), 1);
    }
}
