//! The `micro` suite: small Python functions with one bug each, made from a seed, for models of a few million parameters.
//!
//! A problem is a template with names and constants drawn for it, and one edit that a person might have made by mistake. The
//! suite evaluates its own programs, so the expected values of the tests and the proof that the buggy code fails at least one
//! of them need no interpreter; the records are still plain Python that any checker can run. What the suite knows about a
//! problem's bug travels with it under the key [`KEY`]. Prompts and training text are assembled elsewhere.

mod ast;
mod bugs;
mod corpus;
mod eval;
mod parse;
mod templates;
mod trace;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::record::{Check, Problem};
use crate::rng::Rng;

use ast::Function;
use bugs::Kind;
use eval::{Fault, Value};
use templates::{Input, Template};
use trace::Edit;

pub(crate) use corpus::wrong;
pub use corpus::{Document, Mixture, corpus};
pub use trace::{PARTS, changed_lines, direct, trace};

/// Where [`Knowledge`] stands in a problem's extra fields.
pub const KEY: &str = "micro";

/// An edited program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fix {
    /// The kind of bug that the edit claims to mend.
    pub kind: String,
    /// The whole program after the edit.
    pub code: String,
}

/// What the suite knows about the bug of a problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knowledge {
    /// The template that the program comes from.
    pub template: String,
    /// The function's name.
    pub function: String,
    /// The first line, from 1, where the buggy code differs from the reference.
    pub line: usize,
    /// The buggy lines, without their indentation unless only that is wrong; empty where lines are missing.
    pub wrong: String,
    /// What should stand there.
    pub right: String,
    /// Plausible repairs that fail: another edit of the buggy line, or an edit of a line that is right.
    pub alternatives: Vec<Fix>,
}

impl Knowledge {
    /// What `problem` carries; an input error that names the problem where that is nothing.
    pub fn of(problem: &Problem) -> Result<Knowledge> {
        let at = || format!("problem {}", problem.id);
        let value = problem.extra.get(KEY).ok_or_else(|| {
            Error::input(at(), format!("no field `{KEY}`: only problems of the micro suite say what their bug is"))
        })?;
        Knowledge::deserialize(value).map_err(|e| Error::input(at(), format!("field `{KEY}`: {e}")))
    }
}

/// `count` problems, the same for the same seed, with ids `micro/<seed>/<n>`. No two have the same buggy code.
pub fn generate(seed: u64, count: usize) -> Vec<Problem> {
    let mut catalogue = Catalogue::new();
    let mut seen = HashSet::new();
    let mut problems = Vec::with_capacity(count);
    let mut rng = Rng::new(seed, "micro problems", 0);
    while problems.len() < count {
        let problem = catalogue.draw(&mut rng, format!("{KEY}/{seed}/{}", problems.len()));
        if seen.insert(problem.buggy.clone()) {
            problems.push(problem);
        }
    }
    problems
}

/// Names that problems draw from, small pools that a small model can learn, disjoint from each other.
const FUNCTIONS: &[&str] = &[
    "scan", "pick", "fold", "mix", "walk", "find", "tally", "solve", "check", "score", "rank", "merge", "blend", "build", "make",
    "trim", "clip", "shift", "weigh", "split", "group", "probe", "sift", "spin", "turn", "pack", "load", "read", "run", "work",
    "calc", "plan", "hunt", "mark", "move", "tune", "grow", "peel", "sweep", "test",
];

/// The pool of a placeholder.
fn pool(letter: char) -> &'static [&'static str] {
    match letter {
        'F' => FUNCTIONS,
        'L' | 'M' => &["data", "items", "nums", "values"],
        'S' => &["text", "word", "line"],
        'W' => &["words", "names", "parts"],
        'N' | 'K' | 'H' => &["n", "k", "m", "b"],
        'X' | 'Y' => &["x", "v", "e"],
        'R' | 'Q' => &["out", "res", "acc", "ans"],
        'I' | 'J' => &["i", "j", "p"],
        _ => &[],
    }
}

/// Constants that `C` draws from; `D` is `C + 3`.
const CONSTANTS: &[i64] = &[2, 3, 4, 5, 7];

/// Replaces every placeholder (a word of one capital letter) that `name` knows.
fn rename(text: &str, mut name: impl FnMut(char) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut word = String::new();
    let mut flush = |word: &mut String, out: &mut String| {
        let mut letters = word.chars();
        match (letters.next().filter(char::is_ascii_uppercase), letters.next()) {
            (Some(letter), None) => out.push_str(&name(letter).unwrap_or_else(|| word.clone())),
            _ => out.push_str(word),
        }
        word.clear();
    };
    for c in text.chars() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
        } else {
            flush(&mut word, &mut out);
            out.push(c);
        }
    }
    flush(&mut word, &mut out);
    out
}

/// A bug of a shape.
struct Bug {
    kind: Kind,
    line: usize,
    code: String,
    alternatives: Vec<Fix>,
}

/// A program with its constants drawn and its names still placeholders, with every bug that its tests can tell from it.
struct Shape {
    template: &'static str,
    sentence: String,
    reference: String,
    difficulty: &'static str,
    tests: Vec<String>,
    bugs: Vec<Bug>,
}

/// Inputs tried on every mutant, of which the tests are chosen.
const TRIALS: usize = 32;

/// Tests of a problem, at least and at most.
const TESTS: std::ops::RangeInclusive<usize> = 3..=6;

/// What a run of a program on one input shows: its value, or that it raises.
type Outcome = Option<Value>;

/// Outcomes on all inputs; none where a run ended in anything that the suite does not use.
fn outcomes(function: &Function, inputs: &[Vec<Value>]) -> Option<Vec<Outcome>> {
    let one = |input: &Vec<Value>| match eval::call(function, input) {
        Ok(value) => Some(Some(value)),
        Err(Fault::Raised) => Some(None),
        Err(Fault::Limit | Fault::Outside) => None,
    };
    inputs.iter().map(one).collect()
}

/// On which inputs a program is wrong. None where it differs from what is expected only in type (`True` for `1`), since
/// checkers disagree about that.
fn failures(expected: &[Value], outcomes: &[Outcome]) -> Option<Vec<bool>> {
    let one = |(expected, outcome): (&Value, &Outcome)| match outcome {
        None => Some(true),
        Some(value) if value.same(expected) => Some(false),
        Some(value) => (!value.equals(expected)).then_some(true),
    };
    expected.iter().zip(outcomes).map(one).collect()
}

/// Up to `TESTS` inputs such that most of the programs that fail somewhere fail on one of them: always the input on which most of
/// those left fail.
fn choose(failures: &[Vec<bool>], inputs: usize) -> Vec<usize> {
    let mut left: Vec<&Vec<bool>> = failures.iter().collect();
    let mut chosen = Vec::new();
    while !left.is_empty() && chosen.len() < *TESTS.end() {
        let caught = |i: &usize| (left.iter().filter(|f| f[*i]).count(), std::cmp::Reverse(*i));
        let Some(best) = (0..inputs).max_by_key(caught).filter(|i| caught(i).0 > 0) else { break };
        left.retain(|f| !f[best]);
        chosen.push(best);
    }
    for i in 0..inputs {
        if chosen.len() < *TESTS.start() && !chosen.contains(&i) {
            chosen.push(i);
        }
    }
    chosen
}

fn input(kind: Input, rng: &mut Rng) -> Value {
    let number = |rng: &mut Rng, from: i64, to: i64| from + rng.below((to - from + 1) as usize) as i64;
    let list = |rng: &mut Rng, least: usize| {
        let len = least + rng.below(7 - least);
        Value::list((0..len).map(|_| Value::Int(number(rng, -4, 9))).collect())
    };
    let text = |rng: &mut Rng, least: usize, most: usize| {
        let len = least + rng.below(most + 1 - least);
        (0..len).map(|_| *rng.pick(&['a', 'b', 'c', 'e'])).collect::<String>()
    };
    match kind {
        Input::List => list(rng, 0),
        Input::Filled => list(rng, 2),
        Input::Int => Value::Int(number(rng, -6, 9)),
        Input::Natural => Value::Int(number(rng, 0, 9)),
        Input::Positive => Value::Int(number(rng, 1, 12)),
        Input::Large => Value::Int(number(rng, 0, 999)),
        Input::Text => {
            let half = text(rng, 0, 3);
            let mirrored: String = half.chars().chain(half.chars().rev()).collect();
            Value::Str(if rng.chance(0.3) { mirrored } else { text(rng, 0, 7) }.into())
        }
        Input::FilledText => Value::Str(text(rng, 2, 7).into()),
        Input::Words => {
            let len = 1 + rng.below(4);
            Value::list((0..len).map(|_| Value::Str(text(rng, 1, 5).into())).collect())
        }
    }
}

/// Half of the time, makes a free number one of the items of the first list: drawn alone, the two would seldom meet.
fn meet(kinds: &[Input], arguments: &mut [Value], rng: &mut Rng) {
    let Some(at) = kinds.iter().position(|kind| *kind == Input::Int) else { return };
    let item = match &arguments[0] {
        Value::List(items) if !items.borrow().is_empty() => rng.pick(&items.borrow()).clone(),
        _ => return,
    };
    if rng.chance(0.5) {
        arguments[at] = item;
    }
}

impl Shape {
    fn new(template: &'static Template, variant: usize, constant: i64) -> Shape {
        let (phrase, first, second) = template.variants[variant];
        let fixed = |text: &str| {
            rename(text, |letter| match letter {
                'C' => Some(constant.to_string()),
                'D' => Some((constant + 3).to_string()),
                _ => None,
            })
        };
        let sentence = fixed(&format!("F should return {}.", template.says.replace('@', phrase)));
        let code = fixed(&template.code.replace('@', first).replace('#', second));
        let function = parse::function(&code).unwrap_or_else(|e| panic!("template {}: {e}", template.name));
        let reference = function.to_string();

        let mut rng = Rng::new(constant as u64, template.name, variant as u64);
        let mut inputs: Vec<Vec<Value>> = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..TRIALS {
            let mut arguments: Vec<Value> = template.inputs.iter().map(|kind| input(*kind, &mut rng)).collect();
            meet(template.inputs, &mut arguments, &mut rng);
            let known = inputs.iter().any(|old| old.iter().zip(&arguments).all(|(a, b)| a.same(b)));
            if let (false, Ok(value)) = (known, eval::call(&function, &arguments)) {
                inputs.push(arguments);
                expected.push(value);
            }
        }

        let mut codes = HashSet::from([reference.clone()]);
        let mut mutants = Vec::new();
        for (kind, mutant) in bugs::mutants(&function) {
            let code = mutant.to_string();
            let Some(edit) = Edit::between(&code, &reference) else { continue };
            let failed = outcomes(&mutant, &inputs).and_then(|outcomes| failures(&expected, &outcomes));
            if let Some(failed) = failed.filter(|failed| failed.contains(&true) && edit.is_unique_in(&code))
                && codes.insert(code.clone())
            {
                mutants.push((kind, edit, code, mutant, failed));
            }
        }
        // The tests have to catch answers without a thought as well: one value for all, an argument given back.
        let mut failed: Vec<Vec<bool>> = mutants.iter().map(|m| m.4.clone()).collect();
        failed.extend(expected.iter().map(|one| expected.iter().map(|value| !value.equals(one)).collect()));
        failed.extend((0..template.inputs.len()).map(|i| {
            let given = inputs.iter().map(|arguments| &arguments[i]);
            given.zip(&expected).map(|(given, value)| !value.equals(given)).collect()
        }));
        let tests = choose(&failed, inputs.len());
        mutants.retain(|m| tests.iter().any(|i| m.4[*i]));

        let shown: Vec<Vec<Value>> = tests.iter().map(|i| inputs[*i].clone()).collect();
        let values: Vec<Value> = tests.iter().map(|i| expected[*i].clone()).collect();
        let fails = |program: &Function| {
            outcomes(program, &shown).and_then(|outcomes| failures(&values, &outcomes)).is_some_and(|f| f.contains(&true))
        };
        let bugs = mutants.iter().map(|(kind, edit, code, mutant, _)| {
            let single = |fix: &str| matches!(Edit::between(code, fix), Some(Edit::Replace { .. }));
            // Another edit of the buggy line leads to another mutant of the reference.
            let mut near: Vec<Fix> = mutants
                .iter()
                .filter(|other| other.1.line() == edit.line() && other.2 != *code && single(&other.2))
                .map(|other| Fix { kind: kind.name().into(), code: other.2.clone() })
                .collect();
            // An edit of another line leaves the bug where it is.
            let mut far: Vec<(Kind, Function)> = bugs::mutants(mutant);
            far.retain(|(_, program)| {
                let text = program.to_string();
                matches!(Edit::between(code, &text), Some(Edit::Replace { line, .. }) if line != edit.line())
            });
            rng.shuffle(&mut near);
            rng.shuffle(&mut far);
            near.truncate(2);
            let far = far.into_iter().filter(|(_, program)| fails(program));
            near.extend(far.take(2).map(|(kind, program)| Fix { kind: kind.name().into(), code: program.to_string() }));
            Bug { kind: *kind, line: edit.line() + 1, code: code.clone(), alternatives: near }
        });
        Shape {
            template: template.name,
            sentence,
            difficulty: difficulty(&reference),
            tests: shown
                .iter()
                .zip(&values)
                .map(|(arguments, value)| {
                    let arguments: Vec<String> = arguments.iter().map(Value::to_string).collect();
                    format!("assert F({}) == {value}", arguments.join(", "))
                })
                .collect(),
            bugs: bugs.collect(),
            reference,
        }
    }
}

/// By the program's length and nesting.
fn difficulty(code: &str) -> &'static str {
    let loops_nest = code.lines().any(|line| line.starts_with("        for ") || line.starts_with("        while "));
    match code.lines().count() {
        _ if loops_nest => "hard",
        0..=4 => "easy",
        5..=6 => "medium",
        _ => "hard",
    }
}

/// What `C` can be in a variant of a template: a single 0 where the variant has no constant.
fn constants(template: &Template, variant: usize) -> &'static [i64] {
    let (phrase, first, second) = template.variants[variant];
    let takes = [template.says, template.code, phrase, first, second]
        .iter()
        .any(|text| text.split(|c: char| !c.is_alphanumeric()).any(|word| word == "C" || word == "D"));
    if takes { CONSTANTS } else { &[0] }
}

/// Draws problems. Shapes are made once, when first drawn.
struct Catalogue {
    templates: Vec<&'static Template>,
    shapes: HashMap<(usize, usize, i64), Rc<Shape>>,
}

impl Catalogue {
    fn new() -> Catalogue {
        Catalogue { templates: templates::all().collect(), shapes: HashMap::new() }
    }

    fn shape(&mut self, rng: &mut Rng) -> Rc<Shape> {
        let t = rng.below(self.templates.len());
        let template = self.templates[t];
        let v = rng.below(template.variants.len());
        let constant = *rng.pick(constants(template, v));
        self.shapes.entry((t, v, constant)).or_insert_with(|| Rc::new(Shape::new(template, v, constant))).clone()
    }

    fn draw(&mut self, rng: &mut Rng, id: String) -> Problem {
        let shape = self.shape(rng);
        // A kind first, then a bug of it: kinds with many sites would crowd out the others.
        let kinds: Vec<Kind> = shape.bugs.iter().map(|bug| bug.kind).collect::<BTreeSet<_>>().into_iter().collect();
        let kind = *rng.pick(&kinds);
        let bugs: Vec<&Bug> = shape.bugs.iter().filter(|bug| bug.kind == kind).collect();
        let bug = *rng.pick(&bugs);

        let mut names: Vec<(char, &str)> = Vec::new();
        for letter in "FLMSWNKHXYRQIJ".chars() {
            let free: Vec<&'static str> =
                pool(letter).iter().copied().filter(|name| names.iter().all(|(_, n)| n != name)).collect();
            names.push((letter, *rng.pick::<&str>(&free)));
        }
        let named =
            |text: &str| rename(text, |letter| names.iter().find(|(l, _)| *l == letter).map(|(_, name)| name.to_string()));
        let (buggy, reference) = (named(&bug.code), named(&shape.reference));
        let edit = Edit::between(&buggy, &reference).expect("a bug is one edit");
        let (wrong, right) = edit.sides(&buggy);
        let alternatives = bug.alternatives.iter().map(|fix| Fix { kind: fix.kind.clone(), code: named(&fix.code) }).collect();
        let knowledge =
            Knowledge { template: shape.template.into(), function: named("F"), line: bug.line, wrong, right, alternatives };
        let mut extra = crate::record::Extra::new();
        extra.insert(KEY.into(), serde_json::to_value(knowledge).expect("knowledge is plain text and numbers"));
        Problem {
            id,
            suite: KEY.into(),
            kind: kind.name().into(),
            difficulty: shape.difficulty.into(),
            prompt: named(&shape.sentence),
            buggy: Some(buggy),
            reference: Some(reference),
            language: "python".into(),
            check: Check::statements(shape.tests.iter().map(|test| named(test)).collect(), 2.0),
            split: None,
            extra,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_prints_as_it_is_written_and_has_bugs_and_telling_tests() {
        for template in templates::all() {
            for (v, (_, first, second)) in template.variants.iter().enumerate() {
                for constant in constants(template, v) {
                    let shape = Shape::new(template, v, *constant);
                    let name = template.name;
                    let code = template.code.replace('@', first).replace('#', second);
                    let written = rename(&code, |letter| match letter {
                        'C' => Some(constant.to_string()),
                        'D' => Some((constant + 3).to_string()),
                        _ => None,
                    });
                    assert_eq!(shape.reference, written, "{name}");
                    assert!(!shape.bugs.is_empty(), "{name} {v} {constant}: no bugs");
                    assert!(TESTS.contains(&shape.tests.len()), "{name} {v} {constant}: {:?}", shape.tests);
                    assert_eq!(shape.tests.iter().collect::<HashSet<_>>().len(), shape.tests.len(), "{:?}", shape.tests);
                    let values: HashSet<&str> = shape.tests.iter().map(|test| test.rsplit_once(" == ").unwrap().1).collect();
                    assert!(values.len() > 1, "{name} {v} {constant}: one value passes {:?}", shape.tests);
                }
            }
        }
    }

    #[test]
    fn arithmetic_is_python_s() {
        let value = |code: &str| {
            let function = parse::function(&format!("def F():\n    return {code}")).unwrap();
            eval::call(&function, &[]).map(|v| v.to_string())
        };
        for (code, expected) in [
            ("-7 // 2", "-4"),
            ("7 // -2", "-4"),
            ("-7 // -2", "3"),
            ("-7 % 2", "1"),
            ("7 % -2", "-1"),
            ("-7 % -2", "-1"),
            ("6 // -2", "-3"),
            ("6 % -2", "0"),
            ("2 + 3 * (4 - 1) - -1", "12"),
            ("'abcd'[::-1]", "'dcba'"),
            ("[1, 2, 3, 4][-3:]", "[2, 3, 4]"),
            ("[1, 2, 3][5:]", "[]"),
            ("[1, 2, 3][2:0:-1]", "[3, 2]"),
            ("not 1 == 2 and 0 or 'x'", "'x'"),
            ("[x * x for x in range(5) if x % 2 == 1]", "[1, 9]"),
            ("1 in [True]", "True"),
            ("sorted([3, 1, 2])", "[1, 2, 3]"),
            ("max(2, 5) - min([4, 3])", "2"),
            ("1 if [] else 0", "0"),
        ] {
            assert_eq!(value(code), Ok(expected.to_string()), "{code}");
        }
        assert_eq!(value("[1][1]"), Err(Fault::Raised));
        assert_eq!(value("1 % 0"), Err(Fault::Raised));
        assert_eq!(value("1 + 'a'"), Err(Fault::Outside));
        assert_eq!(value("9223372036854775807 + 1"), Err(Fault::Limit));
    }

    #[test]
    fn loops_and_recursion_without_end_are_stopped() {
        for code in ["def F(n):\n    while n > 0:\n        n += 1\n    return n", "def F(n):\n    return F(n - 1)"] {
            let function = parse::function(code).unwrap();
            assert_eq!(eval::call(&function, &[Value::Int(1)]).unwrap_err(), Fault::Limit, "{code}");
        }
    }

    #[test]
    fn placeholders_are_words_of_one_capital() {
        let named = rename("F(L, 'a') is True, N2 and D", |c| (c != 'D').then(|| c.to_ascii_lowercase().to_string()));
        assert_eq!(named, "f(l, 'a') is True, N2 and D");
    }

    #[test]
    fn pools_do_not_meet() {
        let letters = ['F', 'L', 'S', 'W', 'N', 'X', 'R', 'I'];
        let all: Vec<&str> = letters.iter().flat_map(|letter| pool(*letter)).copied().collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }
}
