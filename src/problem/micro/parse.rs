//! Reads the printed form back into a tree. Templates are written as the Python they stand for.

use super::ast::{Arithmetic, Comparison, Expr, Function, Stmt};

/// What was expected and what stood there.
pub type Parsed<T> = Result<T, String>;

/// One function, indented by four spaces a level.
pub fn function(source: &str) -> Parsed<Function> {
    let lines: Vec<(usize, Line)> = source
        .lines()
        .map(|line| {
            let text = line.trim_start();
            Ok(((line.len() - text.len()) / 4, Line::new(text)?))
        })
        .collect::<Parsed<_>>()?;
    let mut lines = Lines { lines, next: 0 };
    let (_, head) = lines.take().ok_or("empty source")?;
    let mut head = head;
    head.expect("def")?;
    let name = head.word()?;
    head.expect("(")?;
    let mut parameters = Vec::new();
    while !head.eat(")") {
        parameters.push(head.word()?);
        head.eat(",");
    }
    head.expect(":")?;
    let body = lines.block(1)?;
    match lines.take() {
        None => Ok(Function { name, parameters, body }),
        Some((_, line)) => Err(format!("one function expected, then found {:?}", line.tokens)),
    }
}

struct Lines {
    lines: Vec<(usize, Line)>,
    next: usize,
}

impl Lines {
    fn take(&mut self) -> Option<(usize, Line)> {
        let line = self.lines.get(self.next).cloned();
        self.next += 1;
        line
    }

    /// Whether the next line stands at `depth` and opens with `word`; it is taken if so.
    fn opens(&mut self, depth: usize, word: &str) -> Option<Line> {
        let (at, line) = self.lines.get(self.next)?;
        if *at != depth || line.peek() != word {
            return None;
        }
        let mut line = line.clone();
        line.at += 1;
        self.next += 1;
        Some(line)
    }

    fn block(&mut self, depth: usize) -> Parsed<Vec<Stmt>> {
        let mut body = Vec::new();
        while self.lines.get(self.next).is_some_and(|(at, _)| *at == depth) {
            body.push(self.statement(depth)?);
        }
        if body.is_empty() { Err(format!("a block expected at depth {depth}")) } else { Ok(body) }
    }

    fn statement(&mut self, depth: usize) -> Parsed<Stmt> {
        if let Some(mut line) = self.opens(depth, "if") {
            let mut branches = vec![(line.head()?, self.block(depth + 1)?)];
            while let Some(mut line) = self.opens(depth, "elif") {
                branches.push((line.head()?, self.block(depth + 1)?));
            }
            let other = match self.opens(depth, "else") {
                Some(mut line) => {
                    line.expect(":")?;
                    self.block(depth + 1)?
                }
                None => Vec::new(),
            };
            return Ok(Stmt::If(branches, other));
        }
        if let Some(mut line) = self.opens(depth, "while") {
            return Ok(Stmt::While(line.head()?, self.block(depth + 1)?));
        }
        if let Some(mut line) = self.opens(depth, "for") {
            let name = line.word()?;
            line.expect("in")?;
            return Ok(Stmt::For(name, line.head()?, self.block(depth + 1)?));
        }
        let (_, mut line) = self.take().ok_or("a statement expected")?;
        let stmt = line.simple()?;
        line.end()?;
        Ok(stmt)
    }
}

/// The tokens of one line and a position in them.
#[derive(Clone)]
struct Line {
    tokens: Vec<String>,
    at: usize,
}

impl Line {
    fn new(text: &str) -> Parsed<Line> {
        let chars: Vec<char> = text.chars().collect();
        let mut tokens = Vec::new();
        let mut i = 0;
        while i < chars.len() {
            let start = i;
            let c = chars[i];
            i += 1;
            if c == ' ' {
                continue;
            }
            if c == '\'' {
                while i < chars.len() && chars[i] != '\'' {
                    i += 1;
                }
                i += 1;
            } else if c.is_alphanumeric() || c == '_' {
                while i < chars.len() && (chars[i].is_alphanumeric() || chars[i] == '_') {
                    i += 1;
                }
            } else {
                let three: String = chars[start..chars.len().min(start + 3)].iter().collect();
                i = start
                    + match three.as_str() {
                        "//=" => 3,
                        t if ["//", "+=", "-=", "*=", "%=", "==", "!=", "<=", ">="].iter().any(|s| t.starts_with(s)) => 2,
                        t if t.starts_with(|c: char| "+-*%<>=()[],:.".contains(c)) => 1,
                        t => return Err(format!("unknown token at `{t}`")),
                    };
            }
            if i > chars.len() {
                return Err("a string without its end".into());
            }
            tokens.push(chars[start..i].iter().collect());
        }
        Ok(Line { tokens, at: 0 })
    }

    fn peek(&self) -> &str {
        self.tokens.get(self.at).map_or("", |t| t)
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.peek() == token;
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.eat(token) { Ok(()) } else { Err(format!("`{token}` expected, `{}` found", self.peek())) }
    }

    fn end(&self) -> Parsed<()> {
        if self.at == self.tokens.len() { Ok(()) } else { Err(format!("end of line expected, `{}` found", self.peek())) }
    }

    fn word(&mut self) -> Parsed<String> {
        let token = self.peek().to_string();
        if token.starts_with(|c: char| c.is_alphabetic()) {
            self.at += 1;
            Ok(token)
        } else {
            Err(format!("a name expected, `{token}` found"))
        }
    }

    /// The expression and the colon that end a compound statement's line.
    fn head(&mut self) -> Parsed<Expr> {
        let e = self.expression()?;
        self.expect(":")?;
        self.end()?;
        Ok(e)
    }

    fn simple(&mut self) -> Parsed<Stmt> {
        if self.eat("return") {
            return Ok(Stmt::Return(self.expression()?));
        }
        let targets = self.list("")?;
        if let [Expr::Name(name)] = &targets[..] {
            if self.eat(".") {
                self.expect("append")?;
                self.expect("(")?;
                let e = self.expression()?;
                self.expect(")")?;
                return Ok(Stmt::Append(name.clone(), e));
            }
            let op = match self.peek() {
                "+=" => Some(Arithmetic::Add),
                "-=" => Some(Arithmetic::Sub),
                "*=" => Some(Arithmetic::Mul),
                "//=" => Some(Arithmetic::Floor),
                "%=" => Some(Arithmetic::Mod),
                _ => None,
            };
            if let Some(op) = op {
                self.at += 1;
                return Ok(Stmt::Update(name.clone(), op, self.expression()?));
            }
        }
        self.expect("=")?;
        Ok(Stmt::Assign(targets, self.list("")?))
    }

    /// Expressions between commas, up to `end`, which is taken; an empty `end` stops where no comma follows.
    fn list(&mut self, end: &str) -> Parsed<Vec<Expr>> {
        let mut items = Vec::new();
        if !end.is_empty() && self.eat(end) {
            return Ok(items);
        }
        loop {
            items.push(self.expression()?);
            if !self.eat(",") {
                break;
            }
        }
        if !end.is_empty() {
            self.expect(end)?;
        }
        Ok(items)
    }

    fn expression(&mut self) -> Parsed<Expr> {
        let then = self.or()?;
        if !self.eat("if") {
            return Ok(then);
        }
        let test = self.or()?;
        self.expect("else")?;
        let other = self.expression()?;
        Ok(Expr::Choice { then: then.into(), test: test.into(), other: other.into() })
    }

    fn or(&mut self) -> Parsed<Expr> {
        let mut e = self.and()?;
        while self.eat("or") {
            e = Expr::Or(e.into(), self.and()?.into());
        }
        Ok(e)
    }

    fn and(&mut self) -> Parsed<Expr> {
        let mut e = self.not()?;
        while self.eat("and") {
            e = Expr::And(e.into(), self.not()?.into());
        }
        Ok(e)
    }

    fn not(&mut self) -> Parsed<Expr> {
        if self.eat("not") {
            return Ok(Expr::Not(self.not()?.into()));
        }
        let left = self.sum()?;
        let op = match self.peek() {
            "<" => Comparison::Lt,
            "<=" => Comparison::Le,
            ">" => Comparison::Gt,
            ">=" => Comparison::Ge,
            "==" => Comparison::Eq,
            "!=" => Comparison::Ne,
            "in" => Comparison::In,
            "not" => {
                self.at += 1;
                Comparison::NotIn
            }
            _ => return Ok(left),
        };
        self.at += 1;
        Ok(Expr::Compare(op, left.into(), self.sum()?.into()))
    }

    fn sum(&mut self) -> Parsed<Expr> {
        let mut e = self.product()?;
        loop {
            let op = match self.peek() {
                "+" => Arithmetic::Add,
                "-" => Arithmetic::Sub,
                _ => return Ok(e),
            };
            self.at += 1;
            e = Expr::Binary(op, e.into(), self.product()?.into());
        }
    }

    fn product(&mut self) -> Parsed<Expr> {
        let mut e = self.unary()?;
        loop {
            let op = match self.peek() {
                "*" => Arithmetic::Mul,
                "//" => Arithmetic::Floor,
                "%" => Arithmetic::Mod,
                _ => return Ok(e),
            };
            self.at += 1;
            e = Expr::Binary(op, e.into(), self.unary()?.into());
        }
    }

    fn unary(&mut self) -> Parsed<Expr> {
        if !self.eat("-") {
            return self.postfix();
        }
        Ok(match self.unary()? {
            Expr::Int(n) => Expr::Int(-n),
            e => Expr::Neg(e.into()),
        })
    }

    fn postfix(&mut self) -> Parsed<Expr> {
        let mut e = self.atom()?;
        while self.eat("[") {
            let mut parts = [None, None, None];
            let mut part = 0;
            loop {
                if self.eat("]") {
                    break;
                } else if self.eat(":") {
                    part += 1;
                } else if part < 3 {
                    parts[part] = Some(Box::new(self.expression()?));
                } else {
                    return Err("a slice has three parts".into());
                }
            }
            e = match (part, parts) {
                (0, [Some(i), ..]) => Expr::Index(e.into(), i),
                (0, _) => return Err("an index expected".into()),
                (_, parts) => Expr::Slice(e.into(), parts),
            };
        }
        Ok(e)
    }

    fn atom(&mut self) -> Parsed<Expr> {
        if self.eat("(") {
            let e = self.expression()?;
            self.expect(")")?;
            return Ok(e);
        }
        if self.eat("[") {
            if self.eat("]") {
                return Ok(Expr::List(Vec::new()));
            }
            let first = self.expression()?;
            if self.eat("for") {
                let variable = self.word()?;
                self.expect("in")?;
                let iterable = self.or()?;
                let test = if self.eat("if") { Some(Box::new(self.or()?)) } else { None };
                self.expect("]")?;
                return Ok(Expr::Comprehension { item: first.into(), variable, iterable: iterable.into(), test });
            }
            let mut items = vec![first];
            if self.eat(",") {
                items.extend(self.list("]")?);
            } else {
                self.expect("]")?;
            }
            return Ok(Expr::List(items));
        }
        let token = self.peek().to_string();
        self.at += 1;
        if let Ok(n) = token.parse() {
            return Ok(Expr::Int(n));
        }
        if let Some(text) = token.strip_prefix('\'') {
            return Ok(Expr::Str(text.trim_end_matches('\'').into()));
        }
        match token.as_str() {
            "True" => Ok(Expr::Bool(true)),
            "False" => Ok(Expr::Bool(false)),
            name if name.starts_with(|c: char| c.is_alphabetic()) => {
                if self.eat("(") {
                    Ok(Expr::Call(token.clone(), self.list(")")?))
                } else {
                    Ok(Expr::Name(token))
                }
            }
            _ => Err(format!("an expression expected, `{token}` found")),
        }
    }
}
