//! Runs a program of the suite as CPython would, with a limit on steps: what makes expected values, and what proves that a bug
//! is one.

use std::cell::RefCell;
use std::fmt::{self, Display};
use std::rc::Rc;

use super::ast::{Arithmetic, Comparison, Expr, Function, Stmt};

/// A Python value. Lists are shared, as in Python.
#[derive(Debug, Clone)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Str(Rc<str>),
    List(Rc<RefCell<Vec<Value>>>),
}

/// Why a run gave no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Python raises: an index out of range, a division by zero.
    Raised,
    /// More steps, calls, items or digits than a small program needs.
    Limit,
    /// Something that this evaluator does not model, type errors and unbound names among it. Such programs are not used.
    Outside,
}

type Run<T> = Result<T, Fault>;

const STEPS: u32 = 20_000;
const DEPTH: u32 = 60;
const ITEMS: usize = 500;

impl Value {
    /// A list of these items.
    pub fn list(items: Vec<Value>) -> Value {
        Value::List(Rc::new(RefCell::new(items)))
    }

    /// A copy that shares nothing with this value, since a run may change its arguments.
    pub fn fresh(&self) -> Value {
        match self {
            Value::List(items) => Value::list(items.borrow().iter().map(Value::fresh).collect()),
            other => other.clone(),
        }
    }

    /// Python's `==`.
    pub fn equals(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::None, Value::None) => true,
            (Value::Str(a), Value::Str(b)) => a == b,
            (Value::List(a), Value::List(b)) => {
                let (a, b) = (a.borrow(), b.borrow());
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(b))
            }
            _ => matches!((self.int(), other.int()), (Ok(a), Ok(b)) if a == b),
        }
    }

    /// `==`, and of the same type all the way down: `True` is not `1`.
    pub fn same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Bool(_), Value::Int(_)) | (Value::Int(_), Value::Bool(_)) => false,
            (Value::List(a), Value::List(b)) => {
                let (a, b) = (a.borrow(), b.borrow());
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.same(b))
            }
            _ => self.equals(other),
        }
    }

    fn int(&self) -> Run<i64> {
        match self {
            Value::Int(n) => Ok(*n),
            Value::Bool(b) => Ok(i64::from(*b)),
            _ => Err(Fault::Outside),
        }
    }

    fn truth(&self) -> bool {
        match self {
            Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(n) => *n != 0,
            Value::Str(s) => !s.is_empty(),
            Value::List(items) => !items.borrow().is_empty(),
        }
    }

    /// What iterating over the value gives.
    fn items(&self) -> Run<Vec<Value>> {
        match self {
            Value::List(items) => Ok(items.borrow().clone()),
            Value::Str(s) => Ok(s.chars().map(|c| Value::Str(c.to_string().into())).collect()),
            _ => Err(Fault::Outside),
        }
    }

    /// A sequence of this value's type made of `items` of it.
    fn like(&self, items: Vec<Value>) -> Value {
        match self {
            Value::Str(_) => {
                let text: String = items.iter().map(|v| if let Value::Str(s) = v { s } else { "" }).collect();
                Value::Str(text.into())
            }
            _ => Value::list(items),
        }
    }
}

/// Python's `repr`.
impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("None"),
            Value::Bool(true) => f.write_str("True"),
            Value::Bool(false) => f.write_str("False"),
            Value::Int(n) => write!(f, "{n}"),
            Value::Str(s) => write!(f, "'{s}'"),
            Value::List(items) => {
                let items: Vec<String> = items.borrow().iter().map(Value::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
        }
    }
}

/// The value that `function` returns for `arguments`, which it cannot change.
pub fn call(function: &Function, arguments: &[Value]) -> Run<Value> {
    let mut machine = Machine { function, steps: 0, depth: 0 };
    machine.call(arguments.iter().map(Value::fresh).collect())
}

struct Machine<'a> {
    function: &'a Function,
    steps: u32,
    depth: u32,
}

type Scope<'a> = Vec<(&'a str, Value)>;

fn set<'a>(scope: &mut Scope<'a>, name: &'a str, value: Value) {
    match scope.iter_mut().find(|(n, _)| *n == name) {
        Some((_, old)) => *old = value,
        None => scope.push((name, value)),
    }
}

fn get(scope: &Scope<'_>, name: &str) -> Run<Value> {
    scope.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone()).ok_or(Fault::Outside)
}

/// Refuses to put a list into a list in place: it might come to hold itself.
fn flat(value: &Value) -> Run<()> {
    if matches!(value, Value::List(_)) { Err(Fault::Outside) } else { Ok(()) }
}

/// A Python index as a position in `len` items.
fn position(i: i64, len: usize) -> Run<usize> {
    let at = if i < 0 { i + len as i64 } else { i };
    if (0..len as i64).contains(&at) { Ok(at as usize) } else { Err(Fault::Raised) }
}

/// Python's arithmetic: floored division, a remainder with the divisor's sign, `+` on sequences.
fn arithmetic(op: Arithmetic, a: &Value, b: &Value) -> Run<Value> {
    match (op, a, b) {
        (Arithmetic::Add, Value::Str(a), Value::Str(b)) => {
            return if a.len() + b.len() > ITEMS { Err(Fault::Limit) } else { Ok(Value::Str(format!("{a}{b}").into())) };
        }
        (Arithmetic::Add, Value::List(a), Value::List(b)) => {
            let joined = [&a.borrow()[..], &b.borrow()[..]].concat();
            return if joined.len() > ITEMS { Err(Fault::Limit) } else { Ok(Value::list(joined)) };
        }
        _ => {}
    }
    let (a, b) = (a.int()?, b.int()?);
    if b == 0 && matches!(op, Arithmetic::Floor | Arithmetic::Mod) {
        return Err(Fault::Raised);
    }
    let n = match op {
        Arithmetic::Add => a.checked_add(b),
        Arithmetic::Sub => a.checked_sub(b),
        Arithmetic::Mul => a.checked_mul(b),
        Arithmetic::Floor => a.checked_div_euclid(b).map(|q| if b < 0 && a.rem_euclid(b) != 0 { q - 1 } else { q }),
        Arithmetic::Mod => a.checked_rem_euclid(b).map(|r| if b < 0 && r != 0 { r + b } else { r }),
    };
    n.map(Value::Int).ok_or(Fault::Limit)
}

fn compare(op: Comparison, a: &Value, b: &Value) -> Run<bool> {
    let order = || match (a, b) {
        (Value::Str(a), Value::Str(b)) => Ok(a.cmp(b)),
        _ => Ok(a.int()?.cmp(&b.int()?)),
    };
    Ok(match op {
        Comparison::Lt => order()?.is_lt(),
        Comparison::Le => order()?.is_le(),
        Comparison::Gt => order()?.is_gt(),
        Comparison::Ge => order()?.is_ge(),
        Comparison::Eq => a.equals(b),
        Comparison::Ne => !a.equals(b),
        Comparison::In => match (a, b) {
            (Value::Str(a), Value::Str(b)) => b.contains(&**a),
            (_, Value::List(items)) => items.borrow().iter().any(|v| v.equals(a)),
            _ => return Err(Fault::Outside),
        },
        Comparison::NotIn => !compare(Comparison::In, a, b)?,
    })
}

/// The items that `[start:end:step]` selects.
fn slice(items: &[Value], parts: [Option<i64>; 3]) -> Run<Vec<Value>> {
    let len = items.len() as i64;
    let step = parts[2].unwrap_or(1);
    if step == 0 {
        return Err(Fault::Raised);
    }
    let (lowest, highest) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let bound = |i: i64| (if i < 0 { i + len } else { i }).clamp(lowest, highest);
    let start = parts[0].map_or(if step > 0 { lowest } else { highest }, bound);
    let end = parts[1].map_or(if step > 0 { highest } else { lowest }, bound);
    let mut at = start;
    let mut out = Vec::new();
    while if step > 0 { at < end } else { at > end } {
        out.push(items[at as usize].clone());
        at += step;
    }
    Ok(out)
}

/// The smallest (or, `largest`, the largest) of some values; the first of equals, as in Python.
fn extreme(values: &[Value], largest: bool) -> Run<Value> {
    let mut best = values.first().ok_or(Fault::Raised)?;
    for value in values {
        let op = if largest { Comparison::Gt } else { Comparison::Lt };
        if compare(op, value, best)? {
            best = value;
        }
    }
    Ok(best.clone())
}

impl<'a> Machine<'a> {
    fn step(&mut self) -> Run<()> {
        self.steps += 1;
        if self.steps > STEPS { Err(Fault::Limit) } else { Ok(()) }
    }

    fn call(&mut self, arguments: Vec<Value>) -> Run<Value> {
        let function = self.function;
        if arguments.len() != function.parameters.len() {
            return Err(Fault::Outside);
        }
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(Fault::Limit);
        }
        let mut scope: Scope<'a> = function.parameters.iter().map(String::as_str).zip(arguments).collect();
        let value = self.block(&function.body, &mut scope)?;
        self.depth -= 1;
        Ok(value.unwrap_or(Value::None))
    }

    /// Runs a block; the value when it returned.
    fn block(&mut self, body: &'a [Stmt], scope: &mut Scope<'a>) -> Run<Option<Value>> {
        for stmt in body {
            self.step()?;
            match stmt {
                Stmt::Assign(targets, values) => {
                    let values = self.all(values, scope)?;
                    if values.len() != targets.len() {
                        return Err(Fault::Outside);
                    }
                    for (target, value) in targets.iter().zip(values) {
                        match target {
                            Expr::Name(name) => set(scope, name, value),
                            Expr::Index(list, i) => {
                                let i = self.value(i, scope)?.int()?;
                                let Value::List(items) = self.value(list, scope)? else { return Err(Fault::Outside) };
                                let at = position(i, items.borrow().len())?;
                                flat(&value)?;
                                items.borrow_mut()[at] = value;
                            }
                            _ => return Err(Fault::Outside),
                        }
                    }
                }
                Stmt::Update(name, op, e) => {
                    let new = arithmetic(*op, &get(scope, name)?, &self.value(e, scope)?)?;
                    set(scope, name, new);
                }
                Stmt::Append(name, e) => {
                    let value = self.value(e, scope)?;
                    let Value::List(items) = get(scope, name)? else { return Err(Fault::Outside) };
                    flat(&value)?;
                    if items.borrow().len() >= ITEMS {
                        return Err(Fault::Limit);
                    }
                    items.borrow_mut().push(value);
                }
                Stmt::Return(e) => return self.value(e, scope).map(Some),
                Stmt::If(branches, other) => {
                    let mut chosen = other;
                    for (test, body) in branches {
                        if self.value(test, scope)?.truth() {
                            chosen = body;
                            break;
                        }
                    }
                    if let Some(value) = self.block(chosen, scope)? {
                        return Ok(Some(value));
                    }
                }
                Stmt::While(test, body) => {
                    while self.value(test, scope)?.truth() {
                        self.step()?;
                        if let Some(value) = self.block(body, scope)? {
                            return Ok(Some(value));
                        }
                    }
                }
                Stmt::For(name, iterable, body) => {
                    for item in self.value(iterable, scope)?.items()? {
                        self.step()?;
                        set(scope, name, item);
                        if let Some(value) = self.block(body, scope)? {
                            return Ok(Some(value));
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    fn all(&mut self, list: &'a [Expr], scope: &mut Scope<'a>) -> Run<Vec<Value>> {
        list.iter().map(|e| self.value(e, scope)).collect()
    }

    fn value(&mut self, e: &'a Expr, scope: &mut Scope<'a>) -> Run<Value> {
        self.step()?;
        Ok(match e {
            Expr::Int(n) => Value::Int(*n),
            Expr::Bool(b) => Value::Bool(*b),
            Expr::Str(s) => Value::Str(s.as_str().into()),
            Expr::Name(name) => get(scope, name)?,
            Expr::List(items) => Value::list(self.all(items, scope)?),
            Expr::Not(e) => Value::Bool(!self.value(e, scope)?.truth()),
            Expr::Neg(e) => Value::Int(self.value(e, scope)?.int()?.checked_neg().ok_or(Fault::Limit)?),
            Expr::Binary(op, a, b) => arithmetic(*op, &self.value(a, scope)?, &self.value(b, scope)?)?,
            Expr::Compare(op, a, b) => Value::Bool(compare(*op, &self.value(a, scope)?, &self.value(b, scope)?)?),
            Expr::And(a, b) => {
                let a = self.value(a, scope)?;
                if a.truth() { self.value(b, scope)? } else { a }
            }
            Expr::Or(a, b) => {
                let a = self.value(a, scope)?;
                if a.truth() { a } else { self.value(b, scope)? }
            }
            Expr::Choice { then, test, other } => {
                if self.value(test, scope)?.truth() {
                    self.value(then, scope)?
                } else {
                    self.value(other, scope)?
                }
            }
            Expr::Index(sequence, i) => {
                let items = self.value(sequence, scope)?.items()?;
                let i = self.value(i, scope)?.int()?;
                items[position(i, items.len())?].clone()
            }
            Expr::Slice(sequence, parts) => {
                let sequence = self.value(sequence, scope)?;
                let mut bounds = [None; 3];
                for (bound, part) in bounds.iter_mut().zip(parts) {
                    *bound = part.as_ref().map(|e| self.value(e, scope)?.int()).transpose()?;
                }
                sequence.like(slice(&sequence.items()?, bounds)?)
            }
            Expr::Call(name, arguments) => {
                let arguments = self.all(arguments, scope)?;
                self.function(name, arguments)?
            }
            Expr::Comprehension { item, variable, iterable, test } => {
                let mut out = Vec::new();
                for value in self.value(iterable, scope)?.items()? {
                    let mut inner = scope.clone();
                    set(&mut inner, variable, value);
                    let keep = match test {
                        Some(test) => self.value(test, &mut inner)?.truth(),
                        None => true,
                    };
                    if keep {
                        out.push(self.value(item, &mut inner)?);
                    }
                }
                Value::list(out)
            }
        })
    }

    fn function(&mut self, name: &str, arguments: Vec<Value>) -> Run<Value> {
        if name == self.function.name {
            return self.call(arguments);
        }
        match (name, &arguments[..]) {
            ("len", [sequence]) => Ok(Value::Int(sequence.items()?.len() as i64)),
            ("abs", [n]) => n.int()?.checked_abs().map(Value::Int).ok_or(Fault::Limit),
            ("sum", [Value::List(items)]) => {
                items.borrow().iter().try_fold(Value::Int(0), |sum, item| arithmetic(Arithmetic::Add, &sum, item))
            }
            ("min" | "max", [sequence]) => extreme(&sequence.items()?, name == "max"),
            ("min" | "max", [_, _, ..]) => extreme(&arguments, name == "max"),
            ("sorted", [sequence]) => {
                let mut items = sequence.items()?;
                let mut sorted = Vec::with_capacity(items.len());
                while !items.is_empty() {
                    let least = extreme(&items, false)?;
                    let at = items.iter().position(|v| v.same(&least)).expect("the least item is one of the items");
                    sorted.push(items.remove(at));
                }
                Ok(Value::list(sorted))
            }
            ("range", [_, ..]) if arguments.len() <= 3 => {
                let n: Vec<i64> = arguments.iter().map(Value::int).collect::<Run<_>>()?;
                let (start, end, step) = match n[..] {
                    [end] => (0, end, 1),
                    [start, end] => (start, end, 1),
                    _ => (n[0], n[1], n[2]),
                };
                if step == 0 {
                    return Err(Fault::Raised);
                }
                let mut at = start;
                let mut out = Vec::new();
                while if step > 0 { at < end } else { at > end } {
                    if out.len() >= ITEMS {
                        return Err(Fault::Limit);
                    }
                    out.push(Value::Int(at));
                    at += step;
                }
                Ok(Value::list(out))
            }
            _ => Err(Fault::Outside),
        }
    }
}
