//! EvalPlus (Liu et al. 2023, `evalplus/evalplus`): MBPP+ and HumanEval+, many inputs to each problem beside the benchmark's
//! own. What an input must give is not stored: the reference says it.
//!
//! The rules for inputs that JSON cannot hold and for answers that may differ are `evalplus/data/mbpp.py` and
//! `evalplus/eval` at 26d6d00b.

use std::collections::HashMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::record::{Check, Extra, Form, Oracle, Problem};

use super::grade;
use super::literal::Literal;
use super::row::text;

/// The least time limit, in seconds; it grows with the time of the reference.
const TIMEOUT: f64 = 4.0;

/// Which benchmark the inputs belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    /// `MbppPlus.jsonl`.
    Mbpp,
    /// `HumanEvalPlus.jsonl`.
    HumanEval,
}

/// One row, its inputs made calls.
struct Row {
    id: String,
    prompt: String,
    solution: String,
    form: Form,
}

/// Reads `MbppPlus.jsonl` or `HumanEvalPlus.jsonl`, compressed or not, as a benchmark of its own.
pub(super) fn read(path: &Path, set: Set) -> Result<Vec<Problem>> {
    let suite = if set == Set::Mbpp { "mbpp_plus" } else { "humaneval_plus" };
    let problem = |row: Row| Problem {
        id: row.id,
        suite: suite.into(),
        kind: "function".into(),
        difficulty: String::new(),
        prompt: match set {
            Set::Mbpp => row.prompt.trim().trim_matches('"').trim().to_owned(),
            Set::HumanEval => row.prompt,
        },
        buggy: None,
        reference: Some(row.solution),
        language: "python".into(),
        check: Check { form: row.form, ..Check::statements(Vec::new(), TIMEOUT) },
        split: None,
        extra: Extra::new(),
    };
    let mut problems: Vec<Problem> = rows(path, set)?.into_iter().map(problem).collect();
    grade(&mut problems);
    Ok(problems)
}

/// Adds the inputs to the tests of problems of the benchmark itself. A problem that the file does not have keeps its tests; a
/// file that has none of them is an error.
pub(super) fn extend(problems: &mut [Problem], path: &Path, set: Set) -> Result<()> {
    let number = |id: &str| id.rsplit('/').next().unwrap_or(id).to_owned();
    let mut forms: HashMap<String, Form> = rows(path, set)?.into_iter().map(|row| (number(&row.id), row.form)).collect();
    let mut found = 0;
    // The same numbers name the problems of other languages.
    for problem in problems.iter_mut().filter(|problem| problem.language == "python") {
        if let Some(form) = forms.remove(&number(&problem.id)) {
            problem.check.form = form;
            found += 1;
        }
    }
    if found == 0 {
        return Err(Error::input(path.display(), "it has inputs for no problem of the suite"));
    }
    Ok(())
}

fn rows(path: &Path, set: Set) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (index, line) in text(path)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        rows.push(row(line, set).map_err(|what| Error::line(path, index + 1, what))?);
    }
    Ok(rows)
}

fn row(line: &str, set: Set) -> std::result::Result<Row, String> {
    let row = Literal::parse(line)?;
    let wrong = |field: &str, wanted: &str| {
        let found = row.get(field).map_or("nothing", Literal::kind);
        format!("`{field}`: {wanted} is expected, {found} was found")
    };
    let text = |field: &str| row.get(field).and_then(Literal::text).map(str::to_owned).ok_or_else(|| wrong(field, "a text"));
    let (id, entry) = (text("task_id")?, text("entry_point")?);
    let number = id.rsplit('/').next().and_then(|n| n.parse::<u32>().ok());
    let number = number.ok_or_else(|| format!("`task_id`: a name that ends in a number is expected, `{id}` was found"))?;
    let inputs = |field: &str| {
        // MBPP+ writes an empty object where a task has no further input.
        if matches!(row.get(field), Some(Literal::Dict(pairs)) if pairs.is_empty()) {
            return Ok(Vec::new());
        }
        let list = row.get(field).and_then(Literal::items).ok_or_else(|| wrong(field, "a list of inputs"))?;
        list.iter()
            .map(|input| {
                let input = input.items().ok_or_else(|| wrong(field, "a list of lists of arguments"))?.to_vec();
                if set == Set::Mbpp {
                    arguments(number, input).ok_or_else(|| format!("`{field}`: an input is not of its task's form"))
                } else {
                    Ok(input)
                }
            })
            .collect::<std::result::Result<Vec<_>, _>>()
    };
    let base = inputs("base_input")?;
    let all: Vec<Vec<Literal>> = base.iter().cloned().chain(inputs("plus_input")?).collect();
    if all.is_empty() {
        return Err("`base_input`: at least one input is expected, an empty list was found".into());
    }
    let call = |input: &Vec<Literal>| format!("{entry}({})", input.iter().map(Literal::source).collect::<Vec<_>>().join(", "));
    let solution = match set {
        Set::Mbpp => text("canonical_solution")?,
        Set::HumanEval => format!("{}{}", text("prompt")?, text("canonical_solution")?),
    };
    let form = Form::Calls {
        calls: all.iter().map(call).collect(),
        base: base.len(),
        atol: row.get("atol").and_then(Literal::number).ok_or_else(|| wrong("atol", "a number"))?,
        oracle: oracle(set, &entry, &all),
        solution: solution.clone(),
    };
    Ok(Row { id, prompt: text("prompt")?, solution, form })
}

fn tuple(value: &Literal) -> Option<Literal> {
    match value {
        // Python's `tuple` takes a text apart.
        Literal::Text(text) => Some(Literal::Tuple(text.chars().map(|c| Literal::Text(c.into())).collect())),
        Literal::Dict(pairs) => Some(Literal::Tuple(pairs.iter().map(|(key, _)| key.clone()).collect())),
        other => other.items().map(|items| Literal::Tuple(items.to_vec())),
    }
}

/// Every list in it, at any depth, as a tuple.
fn tuples(value: &Literal) -> Literal {
    match value {
        Literal::List(items) => Literal::Tuple(items.iter().map(tuples).collect()),
        other => other.clone(),
    }
}

/// `tuple` of what an argument holds, the argument itself a list.
fn inner(value: &Literal) -> Option<Literal> {
    value.items()?.iter().map(tuple).collect::<Option<_>>().map(Literal::List)
}

/// The arguments of an input, those that JSON cannot hold made again; `None` where they do not have the task's form.
fn arguments(task: u32, input: Vec<Literal>) -> Option<Vec<Literal>> {
    let first = |change: &dyn Fn(&Literal) -> Option<Literal>| {
        let mut input = input.clone();
        *input.first_mut()? = change(input.first()?)?;
        Some(input)
    };
    match task {
        2 | 116 | 132 | 143 | 222 | 261 | 273 | 394 | 399 | 421 | 424 | 429 | 470 | 560 | 579 | 596 | 616 | 630 | 726 | 740
        | 744 | 809 => input.iter().map(tuple).collect(),
        63 | 64 | 70 | 94 | 120 | 237 | 272 | 299 | 400 | 409 | 417 | 438 | 473 | 614 | 780 => input.iter().map(inner).collect(),
        75 | 413 | 444 | 753 => first(&inner),
        106 | 750 => {
            let mut input = input;
            *input.get_mut(1)? = tuple(input.get(1)?)?;
            Some(input)
        }
        115 => first(&|list| {
            let set = |item: &Literal| match item {
                Literal::List(items) if !items.is_empty() => Literal::Set(items.clone()),
                // An empty one is an empty dictionary there, and says the same to the answer.
                _ => Literal::Dict(Vec::new()),
            };
            Some(Literal::List(list.items()?.iter().map(set).collect()))
        }),
        124 => {
            let [a, b] = input.as_slice() else { return None };
            Some(vec![made("float", a), made("complex", b)])
        }
        252 => Some(vec![made("complex", input.first()?)]),
        250 | 405 | 446 | 617 | 720 | 763 | 808 | 307 => first(&tuple),
        259 | 401 | 445 => input.iter().map(|x| inner(x).as_ref().and_then(tuple)).collect(),
        278 => {
            let item = |item: &Literal| if matches!(item, Literal::List(_)) { tuple(item) } else { Some(item.clone()) };
            first(&|list| list.items()?.iter().map(item).collect::<Option<_>>().map(Literal::Tuple))
        }
        722 => first(&|table| match table {
            Literal::Dict(pairs) => {
                pairs.iter().map(|(key, value)| Some((key.clone(), tuple(value)?))).collect::<Option<_>>().map(Literal::Dict)
            }
            _ => None,
        }),
        580 | 615 | 791 => Some(input.iter().map(tuples).collect()),
        _ => Some(input),
    }
}

/// A number that a text spells, or a number, as a call of its type.
fn made(kind: &str, value: &Literal) -> Literal {
    Literal::Number(format!("{kind}({})", value.source()))
}

/// How an answer may differ from the reference.
fn oracle(set: Set, entry: &str, inputs: &[Vec<Literal>]) -> Oracle {
    let number = |input: &[Literal], place: usize| input.get(place).and_then(Literal::number);
    match (set, entry) {
        (Set::Mbpp, "are_equivalent") => Oracle::Anything,
        (Set::Mbpp, "sum_div") => Oracle::Or { values: vec![Some(0.0); inputs.len()] },
        // The height may be read as that of the pyramid instead of its sides.
        (Set::Mbpp, "surface_Area") => {
            let area = |input: &Vec<Literal>| {
                let (base, height) = (number(input, 0)?, number(input, 1)?);
                Some((base * base + 2.0 * base * ((base / 2.0).powi(2) + height * height).sqrt()).round_ties_even())
            };
            Oracle::Or { values: inputs.iter().map(area).collect() }
        }
        // The digits may be compared from the end of both numbers.
        (Set::Mbpp, "digit_distance_nums") => {
            let distance = |input: &Vec<Literal>| {
                let (Literal::Number(a), Literal::Number(b)) = (input.first()?, input.get(1)?) else { return None };
                let width = a.len().max(b.len());
                let pairs = format!("{a:0>width$}").into_bytes().into_iter().zip(format!("{b:0>width$}").into_bytes());
                Some(pairs.map(|(a, b)| f64::from(a.abs_diff(b))).sum())
            };
            Oracle::Or { values: inputs.iter().map(distance).collect() }
        }
        (
            Set::Mbpp,
            "similar_elements"
            | "find_char_long"
            | "common_in_nested_lists"
            | "extract_singly"
            | "larg_nnum"
            | "intersection_array"
            | "find_dissimilar"
            | "Diff",
        ) => Oracle::Set,
        (Set::Mbpp, "check_str" | "text_match_three" | "text_starta_endb") => Oracle::NotNone,
        (Set::HumanEval, "find_zero") => {
            let coefficients = |input: &Vec<Literal>| {
                input.first().and_then(Literal::items).unwrap_or_default().iter().filter_map(Literal::number).collect()
            };
            Oracle::Root { coefficients: inputs.iter().map(coefficients).collect() }
        }
        _ => Oracle::Equal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_get_their_types_back() {
        for (task, json, python) in [
            (1, "[[[1, 2], [3]], 2]", "[[1, 2], [3]], 2"),
            (2, "[[3, 4], [5]]", "(3, 4), (5,)"),
            (63, "[[[3, 5], [1]]]", "[(3, 5), (1,)]"),
            (75, "[[[6, 24]], 6]", "[(6, 24)], 6"),
            (106, "[[5, 6], [9]]", "[5, 6], (9,)"),
            (115, "[[[1, 2], []]]", "[{1, 2}, {}]"),
            (124, "[\"0\", \"1j\"]", "float(\"0\"), complex(\"1j\")"),
            (252, "[\"1+2j\"]", "complex(\"1+2j\")"),
            (259, "[[[1, 3], [4]], [[6]]]", "((1, 3), (4,)), ((6,),)"),
            (278, "[[1, [2, 3], \"a\"]]", "(1, (2, 3), \"a\")"),
            (307, "[[1, []], 1, 50]", "(1, []), 1, 50"),
            (722, "[{\"a\": [6.2, 70]}, 6.0, 70]", "{\"a\": (6.2, 70)}, 6.0, 70"),
            (580, "[[4, [7, [1]]]]", "(4, (7, (1,)))"),
        ] {
            let input = Literal::parse(json).unwrap().items().unwrap().to_vec();
            let got: Vec<String> = arguments(task, input).unwrap().iter().map(Literal::source).collect();
            assert_eq!(got.join(", "), python, "task {task}");
        }
        assert_eq!(arguments(75, Literal::parse("[7]").unwrap().items().unwrap().to_vec()), None);
    }

    #[test]
    fn oracles_carry_what_else_is_right() {
        let inputs = |json: &str| vec![Literal::parse(json).unwrap().items().unwrap().to_vec()];
        // 3 * 3 + 2 * 3 * sqrt(1.5^2 + 4^2) = 34.63.
        assert_eq!(oracle(Set::Mbpp, "surface_Area", &inputs("[3, 4]")), Oracle::Or { values: vec![Some(35.0)] });
        // 123 and 045.
        assert_eq!(oracle(Set::Mbpp, "digit_distance_nums", &inputs("[123, 45]")), Oracle::Or { values: vec![Some(5.0)] });
        assert_eq!(oracle(Set::HumanEval, "find_zero", &inputs("[[1, 2]]")), Oracle::Root { coefficients: vec![vec![1.0, 2.0]] });
        assert_eq!(oracle(Set::HumanEval, "sum_div", &inputs("[1]")), Oracle::Equal);
    }
}
