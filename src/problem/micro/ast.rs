//! The part of Python that the suite is written in: its tree, and how it is printed.

use std::fmt::{self, Display, Write};

/// A binary arithmetic operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    Add,
    Sub,
    Mul,
    Floor,
    Mod,
}

impl Arithmetic {
    /// As Python writes it.
    pub fn symbol(self) -> &'static str {
        match self {
            Arithmetic::Add => "+",
            Arithmetic::Sub => "-",
            Arithmetic::Mul => "*",
            Arithmetic::Floor => "//",
            Arithmetic::Mod => "%",
        }
    }
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
    In,
    NotIn,
}

impl Comparison {
    /// As Python writes it.
    pub fn symbol(self) -> &'static str {
        match self {
            Comparison::Lt => "<",
            Comparison::Le => "<=",
            Comparison::Gt => ">",
            Comparison::Ge => ">=",
            Comparison::Eq => "==",
            Comparison::Ne => "!=",
            Comparison::In => "in",
            Comparison::NotIn => "not in",
        }
    }
}

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    Int(i64),
    Bool(bool),
    Str(String),
    Name(String),
    List(Vec<Expr>),
    Not(Box<Expr>),
    Neg(Box<Expr>),
    Binary(Arithmetic, Box<Expr>, Box<Expr>),
    Compare(Comparison, Box<Expr>, Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    /// `then if test else other`
    Choice {
        then: Box<Expr>,
        test: Box<Expr>,
        other: Box<Expr>,
    },
    Index(Box<Expr>, Box<Expr>),
    /// `sequence[start:end:step]`
    Slice(Box<Expr>, [Option<Box<Expr>>; 3]),
    Call(String, Vec<Expr>),
    /// `[item for variable in iterable if test]`
    Comprehension {
        item: Box<Expr>,
        variable: String,
        iterable: Box<Expr>,
        test: Option<Box<Expr>>,
    },
}

/// A statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Stmt {
    /// `a, b = x, y`; targets are names or indexed names.
    Assign(Vec<Expr>, Vec<Expr>),
    /// `a += x`
    Update(String, Arithmetic, Expr),
    /// `a.append(x)`
    Append(String, Expr),
    /// The tests with their blocks, then the block of `else`, which may be empty.
    If(Vec<(Expr, Vec<Stmt>)>, Vec<Stmt>),
    While(Expr, Vec<Stmt>),
    For(String, Expr, Vec<Stmt>),
    Return(Expr),
}

/// A whole program: one function.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    pub name: String,
    pub parameters: Vec<String>,
    pub body: Vec<Stmt>,
}

/// How tightly an expression binds, from `if else` (0) to atoms (8).
fn strength(e: &Expr) -> u8 {
    match e {
        Expr::Choice { .. } => 0,
        Expr::Or(..) => 1,
        Expr::And(..) => 2,
        Expr::Not(_) => 3,
        Expr::Compare(..) => 4,
        Expr::Binary(Arithmetic::Add | Arithmetic::Sub, ..) => 5,
        Expr::Binary(..) => 6,
        Expr::Neg(_) => 7,
        Expr::Int(n) if *n < 0 => 7,
        _ => 8,
    }
}

/// An expression in a place that takes only what binds at least this tightly.
struct At<'a>(&'a Expr, u8);

impl Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if strength(self.0) < self.1 { write!(f, "({})", self.0) } else { write!(f, "{}", self.0) }
    }
}

struct Commas<'a>(&'a [Expr]);

impl Display for Commas<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, e) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{e}")?;
        }
        Ok(())
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Int(n) => write!(f, "{n}"),
            Expr::Bool(true) => f.write_str("True"),
            Expr::Bool(false) => f.write_str("False"),
            Expr::Str(s) => write!(f, "'{s}'"),
            Expr::Name(name) => f.write_str(name),
            Expr::List(items) => write!(f, "[{}]", Commas(items)),
            Expr::Not(e) => write!(f, "not {}", At(e, 3)),
            Expr::Neg(e) => write!(f, "-{}", At(e, 7)),
            Expr::Binary(op, a, b) => {
                let own = strength(self);
                write!(f, "{} {} {}", At(a, own), op.symbol(), At(b, own + 1))
            }
            Expr::Compare(op, a, b) => write!(f, "{} {} {}", At(a, 5), op.symbol(), At(b, 5)),
            Expr::And(a, b) => write!(f, "{} and {}", At(a, 2), At(b, 3)),
            Expr::Or(a, b) => write!(f, "{} or {}", At(a, 1), At(b, 2)),
            Expr::Choice { then, test, other } => write!(f, "{} if {} else {}", At(then, 1), At(test, 1), other),
            Expr::Index(sequence, i) => write!(f, "{}[{i}]", At(sequence, 8)),
            Expr::Slice(sequence, [start, end, step]) => {
                let part = |e: &Option<Box<Expr>>| e.as_ref().map(|e| e.to_string()).unwrap_or_default();
                write!(f, "{}[{}:{}", At(sequence, 8), part(start), part(end))?;
                if step.is_some() {
                    write!(f, ":{}", part(step))?;
                }
                f.write_char(']')
            }
            Expr::Call(name, arguments) => write!(f, "{name}({})", Commas(arguments)),
            Expr::Comprehension { item, variable, iterable, test } => {
                write!(f, "[{item} for {variable} in {}", At(iterable, 1))?;
                if let Some(test) = test {
                    write!(f, " if {}", At(test, 1))?;
                }
                f.write_char(']')
            }
        }
    }
}

fn block(f: &mut fmt::Formatter<'_>, body: &[Stmt], depth: usize) -> fmt::Result {
    let pad = "    ".repeat(depth);
    for stmt in body {
        f.write_char('\n')?;
        match stmt {
            Stmt::Assign(targets, values) => write!(f, "{pad}{} = {}", Commas(targets), Commas(values))?,
            Stmt::Update(name, op, e) => write!(f, "{pad}{name} {}= {e}", op.symbol())?,
            Stmt::Append(name, e) => write!(f, "{pad}{name}.append({e})")?,
            Stmt::Return(e) => write!(f, "{pad}return {e}")?,
            Stmt::While(test, body) => {
                write!(f, "{pad}while {test}:")?;
                block(f, body, depth + 1)?;
            }
            Stmt::For(name, iterable, body) => {
                write!(f, "{pad}for {name} in {iterable}:")?;
                block(f, body, depth + 1)?;
            }
            Stmt::If(branches, other) => {
                for (i, (test, body)) in branches.iter().enumerate() {
                    let word = if i == 0 { "if" } else { "elif" };
                    let line_end = if i == 0 { "" } else { "\n" };
                    write!(f, "{line_end}{pad}{word} {test}:")?;
                    block(f, body, depth + 1)?;
                }
                if !other.is_empty() {
                    write!(f, "\n{pad}else:")?;
                    block(f, other, depth + 1)?;
                }
            }
        }
    }
    Ok(())
}

/// The function's source: four spaces a level, no newline at the end.
impl Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "def {}({}):", self.name, self.parameters.join(", "))?;
        block(f, &self.body, 1)
    }
}
