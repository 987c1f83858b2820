//! Makes bugs: every edit of one place in a correct program that a person might have made by mistake.

use super::ast::{Arithmetic, Comparison, Expr, Function, Stmt};

/// What kind of mistake an edit is. The names go into [`Problem::kind`](crate::record::Problem::kind).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    WrongOperator,
    WrongComparison,
    WrongBoundary,
    NegatedCondition,
    WrongLogic,
    MissingCondition,
    OffByOne,
    WrongConstant,
    WrongInitial,
    WrongBaseCase,
    WrongVariable,
    WrongReturn,
    WrongCall,
    SwappedArguments,
    LostUpdate,
    MissingUpdate,
    MissingCase,
    WrongOrder,
    EarlyReturn,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 19] = [
        Kind::WrongOperator,
        Kind::WrongComparison,
        Kind::WrongBoundary,
        Kind::NegatedCondition,
        Kind::WrongLogic,
        Kind::MissingCondition,
        Kind::OffByOne,
        Kind::WrongConstant,
        Kind::WrongInitial,
        Kind::WrongBaseCase,
        Kind::WrongVariable,
        Kind::WrongReturn,
        Kind::WrongCall,
        Kind::SwappedArguments,
        Kind::LostUpdate,
        Kind::MissingUpdate,
        Kind::MissingCase,
        Kind::WrongOrder,
        Kind::EarlyReturn,
    ];

    /// The name in the records.
    pub fn name(self) -> &'static str {
        self.words().0
    }

    /// What is wrong with the line, as a trace says it after the quoted line.
    pub fn phrase(self) -> &'static str {
        self.words().1
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Kind::WrongOperator => ("wrong_operator", "has the wrong operator"),
            Kind::WrongComparison => ("wrong_comparison", "compares the wrong way"),
            Kind::WrongBoundary => ("wrong_boundary", "has the wrong boundary"),
            Kind::NegatedCondition => ("negated_condition", "has its condition negated"),
            Kind::WrongLogic => ("wrong_logic", "joins its conditions wrongly"),
            Kind::MissingCondition => ("missing_condition", "lacks a condition"),
            Kind::OffByOne => ("off_by_one", "is off by one"),
            Kind::WrongConstant => ("wrong_constant", "has the wrong constant"),
            Kind::WrongInitial => ("wrong_initial", "has the wrong first value"),
            Kind::WrongBaseCase => ("wrong_base_case", "has the wrong base case"),
            Kind::WrongVariable => ("wrong_variable", "has the wrong variable"),
            Kind::WrongReturn => ("wrong_return", "returns the wrong value"),
            Kind::WrongCall => ("wrong_call", "calls the wrong function"),
            Kind::SwappedArguments => ("swapped_arguments", "has its parts swapped"),
            Kind::LostUpdate => ("lost_update", "forgets the old value"),
            Kind::MissingUpdate => ("missing_update", "lacks an update"),
            Kind::MissingCase => ("missing_case", "lacks a case"),
            Kind::WrongOrder => ("wrong_order", "comes too early"),
            Kind::EarlyReturn => ("early_return", "is inside the loop"),
        }
    }
}

/// Every program that one mistake makes of `function`. Some may be equivalent to it, and some may not run at all.
pub fn mutants(function: &Function) -> Vec<(Kind, Function)> {
    let mut scope = function.parameters.clone();
    assigned(&function.body, &mut scope);
    let makes_calls = calls(&function.name, &function.body);
    let site = Site { scope: &scope, recursive: makes_calls.then_some(&function.name), place: Place::Top };
    site.block(&function.body)
        .into_iter()
        .map(|(kind, body)| (kind, Function { body, ..function.clone() }))
        .filter(|(_, mutant)| mutant != function)
        .collect()
}

/// Adds the names that the statements bind.
fn assigned(body: &[Stmt], names: &mut Vec<String>) {
    for stmt in body {
        match stmt {
            Stmt::Assign(targets, _) => {
                for target in targets {
                    if let Expr::Name(name) = target {
                        bind(name, names);
                    }
                }
            }
            Stmt::For(name, _, body) => {
                bind(name, names);
                assigned(body, names);
            }
            Stmt::While(_, body) => assigned(body, names),
            Stmt::If(branches, other) => {
                branches.iter().for_each(|(_, body)| assigned(body, names));
                assigned(other, names);
            }
            Stmt::Update(..) | Stmt::Append(..) | Stmt::Return(_) => {}
        }
    }
}

fn bind(name: &String, names: &mut Vec<String>) {
    if !names.contains(name) {
        names.push(name.clone());
    }
}

fn calls(name: &str, body: &[Stmt]) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Return(e) | Stmt::Append(_, e) | Stmt::Update(_, _, e) => e.to_string().contains(&format!("{name}(")),
        Stmt::If(branches, other) => branches.iter().any(|(_, body)| calls(name, body)) || calls(name, other),
        Stmt::While(_, body) | Stmt::For(_, _, body) => calls(name, body),
        Stmt::Assign(..) => false,
    })
}

/// Names stand for sequences (`L M S W`) or for single things; a mistake stays within one of the two.
fn is_sequence(name: &str) -> bool {
    matches!(name, "L" | "M" | "S" | "W")
}

/// What an expression is for; it decides what a mistake in it is called.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Top,
    Loop,
    Initial,
    Returned,
    BaseCase,
    Bound,
    Other,
}

#[derive(Clone, Copy)]
struct Site<'a> {
    scope: &'a [String],
    recursive: Option<&'a String>,
    place: Place,
}

type Edits<T> = Vec<(Kind, T)>;

/// Edits of a part, each put back into the whole.
fn within<T, U>(edits: Edits<T>, whole: impl Fn(T) -> U) -> Edits<U> {
    edits.into_iter().map(|(kind, part)| (kind, whole(part))).collect()
}

impl Site<'_> {
    fn at(self, place: Place) -> Self {
        Site { place, ..self }
    }

    fn block(self, body: &[Stmt]) -> Edits<Vec<Stmt>> {
        let with = |i: usize, stmt: Stmt| {
            let mut body = body.to_vec();
            body[i] = stmt;
            body
        };
        let mut out = Vec::new();
        for (i, stmt) in body.iter().enumerate() {
            out.extend(within(self.statement(stmt), |stmt| with(i, stmt)));
            let mut shorter = body.to_vec();
            shorter.remove(i);
            let plain = |stmt: &Stmt| matches!(stmt, Stmt::Update(..) | Stmt::Append(..) | Stmt::Assign(..));
            if self.place == Place::Loop && plain(stmt) && !shorter.is_empty() {
                out.push((Kind::MissingUpdate, shorter.clone()));
            }
            if matches!(stmt, Stmt::If(branches, other) if branches.len() == 1 && other.is_empty() && branches[0].1.len() == 1)
                && !shorter.is_empty()
            {
                out.push((Kind::MissingCase, shorter));
            }
            if let Some(next) = body.get(i + 1) {
                if plain(stmt) && plain(next) && self.place == Place::Loop {
                    let mut body = body.to_vec();
                    body.swap(i, i + 1);
                    out.push((Kind::WrongOrder, body));
                }
                if let (Stmt::For(..) | Stmt::While(..), Stmt::Return(_)) = (stmt, next) {
                    let mut body = body.to_vec();
                    let last = body.remove(i + 1);
                    match &mut body[i] {
                        Stmt::For(_, _, inner) | Stmt::While(_, inner) => inner.push(last),
                        _ => unreachable!("the statement is a loop"),
                    }
                    out.push((Kind::EarlyReturn, body));
                }
            }
        }
        out
    }

    fn statement(self, stmt: &Stmt) -> Edits<Stmt> {
        let mut out = Vec::new();
        match stmt {
            Stmt::Assign(targets, values) => {
                let place = if self.place == Place::Top { Place::Initial } else { Place::Other };
                let assign = |values| Stmt::Assign(targets.clone(), values);
                for (i, value) in values.iter().enumerate() {
                    out.extend(within(self.at(place).expr(value), |value| {
                        let mut values = values.clone();
                        values[i] = value;
                        assign(values)
                    }));
                }
                if let [a, b] = &values[..] {
                    out.push((Kind::SwappedArguments, assign(vec![b.clone(), a.clone()])));
                }
            }
            Stmt::Update(name, op, e) => {
                for other in others(*op) {
                    out.push((Kind::WrongOperator, Stmt::Update(name.clone(), *other, e.clone())));
                }
                out.push((Kind::LostUpdate, Stmt::Assign(vec![Expr::Name(name.clone())], vec![e.clone()])));
                out.extend(within(self.at(Place::Other).expr(e), |e| Stmt::Update(name.clone(), *op, e)));
            }
            Stmt::Append(name, e) => {
                out.extend(within(self.at(Place::Other).expr(e), |e| Stmt::Append(name.clone(), e)));
            }
            Stmt::Return(e) => out.extend(within(self.returned(e), Stmt::Return)),
            Stmt::While(test, body) => {
                out.extend(within(self.at(Place::Other).expr(test), |test| Stmt::While(test, body.clone())));
                out.extend(within(self.at(Place::Loop).block(body), |body| Stmt::While(test.clone(), body)));
            }
            Stmt::For(name, iterable, body) => {
                let whole = |iterable| Stmt::For(name.clone(), iterable, body.clone());
                out.extend(within(self.at(Place::Bound).expr(iterable), whole));
                out.extend(within(self.at(Place::Loop).block(body), |body| Stmt::For(name.clone(), iterable.clone(), body)));
            }
            Stmt::If(branches, other) => {
                for (i, (test, body)) in branches.iter().enumerate() {
                    let with = |branch: (Expr, Vec<Stmt>)| {
                        let mut branches = branches.clone();
                        branches[i] = branch;
                        Stmt::If(branches, other.clone())
                    };
                    out.extend(within(self.at(Place::Other).expr(test), |test| with((test, body.clone()))));
                    let place = if self.recursive.is_some() { Place::BaseCase } else { self.place };
                    out.extend(within(self.at(place).block(body), |body| with((test.clone(), body))));
                }
                out.extend(within(self.block(other), |other| Stmt::If(branches.clone(), other)));
            }
        }
        out
    }

    fn returned(self, e: &Expr) -> Edits<Expr> {
        let place = match (e, self.place) {
            (Expr::Int(_) | Expr::List(_) | Expr::Str(_), Place::BaseCase) => Place::BaseCase,
            (Expr::Name(_) | Expr::Int(_) | Expr::Bool(_), _) => Place::Returned,
            _ => Place::Other,
        };
        self.at(place).expr(e)
    }

    /// Kind of a mistake in a number that stands here.
    fn number(self) -> Kind {
        match self.place {
            Place::Initial => Kind::WrongInitial,
            Place::BaseCase => Kind::WrongBaseCase,
            Place::Returned => Kind::WrongReturn,
            Place::Bound => Kind::OffByOne,
            _ => Kind::WrongConstant,
        }
    }

    fn expr(self, e: &Expr) -> Edits<Expr> {
        let mut out = Vec::new();
        let inner = if self.place == Place::Bound { self } else { self.at(Place::Other) };
        match e {
            Expr::Int(n) => {
                let near: &[i64] = if *n == 0 { &[1] } else { &[n - 1, n + 1] };
                out.extend(near.iter().map(|n| (self.number(), Expr::Int(*n))));
            }
            Expr::Bool(b) => {
                let kind = if self.place == Place::Returned { Kind::WrongReturn } else { self.number() };
                out.push((kind, Expr::Bool(!b)));
            }
            Expr::Str(_) => {}
            Expr::Name(name) => {
                let kind = if self.place == Place::Returned { Kind::WrongReturn } else { Kind::WrongVariable };
                let near = self.scope.iter().filter(|other| *other != name && is_sequence(other) == is_sequence(name));
                out.extend(near.map(|other| (kind, Expr::Name(other.clone()))));
            }
            Expr::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    out.extend(within(inner.expr(item), |item| {
                        let mut items = items.clone();
                        items[i] = item;
                        Expr::List(items)
                    }));
                }
            }
            Expr::Not(a) => {
                out.push((Kind::NegatedCondition, (**a).clone()));
                out.extend(within(inner.expr(a), |a| Expr::Not(a.into())));
            }
            Expr::Neg(a) => {
                out.push((Kind::WrongOperator, (**a).clone()));
                out.extend(within(inner.expr(a), |a| Expr::Neg(a.into())));
            }
            Expr::Binary(op, a, b) => {
                let binary = |op: Arithmetic, a: &Expr, b: &Expr| Expr::Binary(op, a.clone().into(), b.clone().into());
                let by_one = **b == Expr::Int(1) && matches!(op, Arithmetic::Add | Arithmetic::Sub);
                if by_one {
                    out.push((Kind::OffByOne, (**a).clone()));
                    out.push((Kind::OffByOne, binary(*op, a, &Expr::Int(2))));
                } else if a != b {
                    out.push((Kind::SwappedArguments, binary(*op, b, a)));
                }
                out.extend(others(*op).iter().map(|other| (Kind::WrongOperator, binary(*other, a, b))));
                out.extend(within(inner.expr(a), |a| binary(*op, &a, b)));
                if !by_one {
                    out.extend(within(inner.expr(b), |b| binary(*op, a, &b)));
                }
            }
            Expr::Compare(op, a, b) => {
                let compare = |op: Comparison, a: &Expr, b: &Expr| Expr::Compare(op, a.clone().into(), b.clone().into());
                let (kind, other) = match op {
                    Comparison::Eq => (Kind::NegatedCondition, Comparison::Ne),
                    Comparison::Ne => (Kind::NegatedCondition, Comparison::Eq),
                    Comparison::In => (Kind::NegatedCondition, Comparison::NotIn),
                    Comparison::NotIn => (Kind::NegatedCondition, Comparison::In),
                    Comparison::Lt => (Kind::WrongComparison, Comparison::Gt),
                    Comparison::Le => (Kind::WrongComparison, Comparison::Ge),
                    Comparison::Gt => (Kind::WrongComparison, Comparison::Lt),
                    Comparison::Ge => (Kind::WrongComparison, Comparison::Le),
                };
                out.push((kind, compare(other, a, b)));
                let edge = match op {
                    Comparison::Lt => Some(Comparison::Le),
                    Comparison::Le => Some(Comparison::Lt),
                    Comparison::Gt => Some(Comparison::Ge),
                    Comparison::Ge => Some(Comparison::Gt),
                    _ => None,
                };
                out.extend(edge.map(|other| (Kind::WrongBoundary, compare(other, a, b))));
                out.extend(within(inner.expr(a), |a| compare(*op, &a, b)));
                out.extend(within(inner.expr(b), |b| compare(*op, a, &b)));
            }
            Expr::And(a, b) | Expr::Or(a, b) => {
                let and = matches!(e, Expr::And(..));
                let join = |and: bool, a: Expr, b: Expr| {
                    if and { Expr::And(a.into(), b.into()) } else { Expr::Or(a.into(), b.into()) }
                };
                out.push((Kind::WrongLogic, join(!and, (**a).clone(), (**b).clone())));
                out.push((Kind::MissingCondition, (**a).clone()));
                out.push((Kind::MissingCondition, (**b).clone()));
                out.extend(within(inner.expr(a), |a| join(and, a, (**b).clone())));
                out.extend(within(inner.expr(b), |b| join(and, (**a).clone(), b)));
            }
            Expr::Choice { then, test, other } => {
                let choice = |then: &Expr, test: &Expr, other: &Expr| Expr::Choice {
                    then: then.clone().into(),
                    test: test.clone().into(),
                    other: other.clone().into(),
                };
                out.push((Kind::SwappedArguments, choice(other, test, then)));
                out.extend(within(inner.expr(then), |then| choice(&then, test, other)));
                out.extend(within(inner.expr(test), |test| choice(then, &test, other)));
                out.extend(within(inner.expr(other), |other| choice(then, test, &other)));
            }
            Expr::Index(sequence, i) => {
                let index = |sequence: &Expr, i: Expr| Expr::Index(sequence.clone().into(), i.into());
                if let Expr::Name(_) = **i {
                    for op in [Arithmetic::Add, Arithmetic::Sub] {
                        let near = Expr::Binary(op, i.clone(), Expr::Int(1).into());
                        out.push((Kind::OffByOne, index(sequence, near)));
                    }
                }
                out.extend(within(inner.expr(sequence), |sequence| index(&sequence, (**i).clone())));
                out.extend(within(self.at(Place::Bound).expr(i), |i| index(sequence, i)));
            }
            Expr::Slice(sequence, parts) => {
                out.extend(within(inner.expr(sequence), |sequence| Expr::Slice(sequence.into(), parts.clone())));
                if let [start, end, None] = parts {
                    out.push((Kind::SwappedArguments, Expr::Slice(sequence.clone(), [end.clone(), start.clone(), None])));
                }
                for (i, part) in parts.iter().enumerate() {
                    let Some(part) = part else { continue };
                    let whole = |part: Expr| {
                        let mut parts = parts.clone();
                        parts[i] = Some(part.into());
                        Expr::Slice(sequence.clone(), parts)
                    };
                    if let Expr::Name(_) = **part {
                        for op in [Arithmetic::Add, Arithmetic::Sub] {
                            out.push((Kind::OffByOne, whole(Expr::Binary(op, part.clone(), Expr::Int(1).into()))));
                        }
                    }
                    out.extend(within(self.at(Place::Bound).expr(part), whole));
                }
            }
            Expr::Call(name, arguments) => {
                let call = |arguments: Vec<Expr>| Expr::Call(name.clone(), arguments);
                let other = match name.as_str() {
                    "min" => Some("max"),
                    "max" => Some("min"),
                    "sum" => Some("len"),
                    "len" if !matches!(arguments[..], [Expr::Name(_)]) => Some("sum"),
                    _ => None,
                };
                out.extend(other.map(|other| (Kind::WrongCall, Expr::Call(other.into(), arguments.clone()))));
                if let ("abs" | "sorted", [argument]) = (name.as_str(), &arguments[..]) {
                    out.push((Kind::WrongCall, argument.clone()));
                }
                if let [a, b] = &arguments[..] {
                    out.push((Kind::SwappedArguments, call(vec![b.clone(), a.clone()])));
                }
                if let ("range", [end]) = (name.as_str(), &arguments[..]) {
                    out.push((Kind::OffByOne, call(vec![Expr::Int(1), end.clone()])));
                    for op in [Arithmetic::Add, Arithmetic::Sub] {
                        let near = Expr::Binary(op, end.clone().into(), Expr::Int(1).into());
                        out.push((Kind::OffByOne, call(vec![near])));
                    }
                }
                let place = if name == "range" { self.at(Place::Bound) } else { inner };
                for (i, argument) in arguments.iter().enumerate() {
                    out.extend(within(place.expr(argument), |argument| {
                        let mut arguments = arguments.clone();
                        arguments[i] = argument;
                        call(arguments)
                    }));
                }
            }
            Expr::Comprehension { item, variable, iterable, test } => {
                let whole = |item: &Expr, iterable: &Expr, test: Option<Expr>| Expr::Comprehension {
                    item: item.clone().into(),
                    variable: variable.clone(),
                    iterable: iterable.clone().into(),
                    test: test.map(Box::new),
                };
                let same = test.as_deref().cloned();
                let mut scope = self.scope.to_vec();
                scope.push(variable.clone());
                let local = Site { scope: &scope, recursive: self.recursive, place: Place::Other };
                out.extend(within(local.expr(item), |item| whole(&item, iterable, same.clone())));
                out.extend(within(inner.expr(iterable), |iterable| whole(item, &iterable, same.clone())));
                if let Some(test) = test {
                    out.push((Kind::MissingCondition, whole(item, iterable, None)));
                    out.extend(within(local.expr(test), |test| whole(item, iterable, Some(test))));
                }
            }
        }
        out
    }
}

/// Operators that one is mistaken for.
fn others(op: Arithmetic) -> &'static [Arithmetic] {
    match op {
        Arithmetic::Add => &[Arithmetic::Sub, Arithmetic::Mul],
        Arithmetic::Sub => &[Arithmetic::Add],
        Arithmetic::Mul => &[Arithmetic::Add],
        Arithmetic::Floor => &[Arithmetic::Mod],
        Arithmetic::Mod => &[Arithmetic::Floor],
    }
}
