//! Duplicates, overlap with the test part, and training data in the forms of others.

#[path = "support/program.rs"]
#[allow(dead_code, reason = "no model is needed here")]
mod program;

use std::fs;
use std::path::{Path, PathBuf};

use program::{arg, err, out, refused, repairity};
use repairity::convert::{self, Format, Record};
use repairity::hygiene::{self, Dropped, Evaluation};
use repairity::problem::{self, Options};
use repairity::recipe::{Hygiene, Recipe};
use repairity::record::{Check, Conversation, Extra, Message, Problem, Split, read_jsonl};
use serde_json::{Value, json};

fn problem(id: &str, split: Split, prompt: &str, reference: &str) -> Problem {
    Problem {
        id: id.into(),
        suite: "own".into(),
        kind: String::new(),
        difficulty: String::new(),
        prompt: prompt.into(),
        buggy: Some(format!("{reference}# wrong\n")),
        reference: Some(reference.into()),
        language: "python".into(),
        check: Check::statements(vec![format!("assert {id}(1) == 2")], 1.0),
        split: Some(split),
        extra: Extra::new(),
    }
}

const GCD: &str = "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return abs(a)\n";
const SORT: &str = "def order(xs):\n    for i in range(len(xs)):\n        for j in range(i):\n            if xs[i] < xs[j]:\n                xs[i], xs[j] = xs[j], xs[i]\n    return xs\n";
const FIB: &str = "def fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n";
const WORDS: &str = "def words(text):\n    counts = {}\n    for word in text.lower().split():\n        counts[word] = counts.get(word, 0) + 1\n    return counts\n";

/// Five different problems and, of the first two, copies in other parts.
fn benchmark() -> Vec<Problem> {
    let dressed =
        "# Euclid\ndef gcd(a, b):\n\n    while b:   # until nothing is left\r\n        a, b = b, a % b\n    return abs(a)\n";
    vec![
        problem("copy", Split::Train, "The greatest number that divides two others without a rest.", dressed),
        problem("gcd", Split::Test, "The greatest number that divides two others without a rest.", GCD),
        problem("twin", Split::Test, "Finds the greatest divisor.", GCD),
        problem("sort", Split::Train, "Puts the numbers of a list into ascending order, in place, and returns the list.", SORT),
        problem("held", Split::Validation, "Sorts.", &SORT.replace("return xs", "return list(xs)")),
        problem("fib", Split::Train, "The n-th number of Fibonacci's, which are each the sum of the two before it.", FIB),
        problem(
            "again",
            Split::Train,
            "The n-th number of Fibonacci's,  which are each the sum of the two before it.\nassert again(1) == 2",
            "def again(k):\n    if k < 2:\n        return k\n    return again(k - 1) + again(k - 2)\n",
        ),
        problem("words", Split::Train, "Counts how often each word occurs in a text, in lower case.", WORDS),
    ]
}

fn names(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.id.as_str()).collect()
}

#[test]
fn a_problem_goes_for_one_that_is_measured_and_never_the_other_way_round() {
    let settings = Hygiene::default();
    let (kept, dropped) = hygiene::problems(benchmark(), &settings);
    // Both test problems stay, alike as they are; the validation problem outlives the training problem.
    assert_eq!(names(&kept), ["gcd", "twin", "held", "fib", "words"]);
    let told: Vec<(&str, &str)> = dropped.iter().map(|one| (one.id.as_str(), one.of.as_deref().unwrap())).collect();
    assert_eq!(told, [("copy", "gcd"), ("sort", "held"), ("again", "fib")]);
    assert_eq!((dropped[0].reason.as_str(), dropped[0].similarity), ("the same as gcd", Some(1.0)));
    // `return xs` has its 5-grams at the end: `j],xs[i`.. up to `]return xs` against `]return list(xs)`.
    assert_eq!(dropped[1].reason, "its code is nearly that of held");
    let grams = |text: &str| hygiene::text::shingles(&hygiene::text::tokens(text), 5);
    let expected = hygiene::text::jaccard(&grams(SORT), &grams(&SORT.replace("return xs", "return list(xs)")));
    assert!((dropped[1].similarity.unwrap() - expected).abs() < 1e-4 && expected > 0.8, "{expected}");
    assert_eq!((dropped[2].reason.as_str(), dropped[2].similarity), ("its description is that of fib", Some(1.0)));

    // The same again, and in another order of the parts' names nothing of the test part is lost.
    assert_eq!(hygiene::problems(benchmark(), &settings), (kept, dropped));
    let mut turned = benchmark();
    turned.reverse();
    assert_eq!(names(&hygiene::problems(turned, &settings).0), ["words", "again", "held", "twin", "gcd"]);

    // Exact ones only: the description and both codes are the same but for comments.
    let (kept, dropped) = hygiene::problems(benchmark(), &Hygiene { near: 0.0, ..settings.clone() });
    assert_eq!((kept.len(), dropped.len()), (7, 1));
    assert_eq!((dropped[0].reason.as_str(), dropped[0].similarity), ("the same as gcd", Some(1.0)));
    for off in [Hygiene { enabled: false, ..settings.clone() }, Hygiene { duplicates: false, ..settings.clone() }] {
        assert_eq!(hygiene::problems(benchmark(), &off), (benchmark(), Vec::new()));
    }

    // A suite made from templates resembles itself on purpose.
    let mut micro = benchmark();
    micro.iter_mut().for_each(|problem| problem.suite = "micro".into());
    assert_eq!(hygiene::problems(micro.clone(), &settings), (micro, Vec::new()));
}

fn conversation(id: &str, answer: &str) -> Conversation {
    let messages = vec![Message::user("Please fix the bug in this code."), Message::assistant(answer)];
    Conversation { id: id.into(), messages, extra: Extra::new() }
}

#[test]
fn planted_copies_and_planted_test_problems_are_found_and_nothing_else() {
    let problems = benchmark();
    let settings = Hygiene::default();
    let fence = |code: &str| format!("One line is wrong.\n\n```python\n{code}```");
    let essay = "The loop runs over the list once for each element, and each time it compares two neighbours; where the later one is \
                 the smaller, both change places, so that in the end the whole list is in order, however it was before.";
    let all = [
        conversation("words", &fence(WORDS)),
        // A solution of the test part in other clothes, within a longer text.
        conversation("leak", &fence(&format!("import os\n\n{}\n\n{FIB}", GCD.replace("while b:", "while b:  # Euclid")))),
        conversation("essay", essay),
        conversation("essay", &format!("{essay}  \r\n\n")),
        conversation("other", &essay.replace("however it was before", "however it was then")),
        conversation("fib", &fence(FIB)),
    ];
    let evaluation = Evaluation::new(&problems, &settings);
    let records: Vec<hygiene::Record> = all.iter().map(|one| hygiene::Record::conversation(one, "line 1")).collect();
    let found = hygiene::records(&records, &evaluation, &settings);
    let told: Vec<Option<(&str, &str, f64)>> = found
        .iter()
        .map(|one| one.as_ref().map(|d| (d.reason.as_str(), d.of.as_deref().unwrap(), d.similarity.unwrap())))
        .collect();
    assert_eq!(
        told[..4],
        [None, Some(("it holds the test problem gcd", "gcd", 1.0)), None, Some(("the same as essay", "essay", 1.0))]
    );
    let (reason, of, similarity) = told[4].unwrap();
    assert_eq!((reason, of), ("its text is nearly that of essay", "essay"));
    assert!((0.8..1.0).contains(&similarity), "{similarity}");
    assert_eq!(told[5], None);

    // Half of the n-grams is where overlap begins. A text of t tokens has t - 12 13-grams.
    let tokens = hygiene::text::tokens(GCD);
    let half = (tokens.len() - 12).div_ceil(2);
    assert_eq!(evaluation.find(&tokens[..half + 12], None).map(|(id, _)| id), Some("gcd"));
    assert_eq!(evaluation.find(&tokens[..half - 1 + 12], None), None);

    // A description is looked for in other suites only.
    let told = hygiene::text::tokens(&problems[1].prompt.repeat(2));
    let long = Hygiene { contamination_ngram: 5, ..settings.clone() };
    let looser = Evaluation::new(&problems, &long);
    assert_eq!((looser.find(&told, None), looser.find(&told, Some("own"))), (Some(("gcd", 1.0)), None));

    // What comes from a suite of templates is left alone.
    let mut generated = all.clone();
    generated.iter_mut().for_each(|one| drop(one.extra.insert("suite".into(), json!("micro"))));
    let records: Vec<hygiene::Record> = generated.iter().map(|one| hygiene::Record::conversation(one, "")).collect();
    assert!(hygiene::records(&records, &evaluation, &settings).iter().all(Option::is_none));
    // Neither is a training problem evaluated.
    let train: Vec<Problem> = problems.into_iter().filter(|problem| problem.split != Some(Split::Test)).collect();
    assert!(Evaluation::new(&train, &settings).is_empty());
}

#[test]
fn ranges_of_the_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.toml");
    for (text, line, what) in [
        ("[hygiene]\nnear = 1.5", 2, "hygiene.near: expected a number from 0 to 1, found 1.5"),
        ("[hygiene]\nnear = 0.8\nngram = 0", 3, "hygiene.ngram: expected at least 1, found 0"),
        ("[hygiene]\ncontamination_ngram = 0", 2, "hygiene.contamination_ngram: expected at least 1, found 0"),
        ("[hygiene]\noverlap = 0.0", 2, "hygiene.overlap: expected a number above 0 and at most 1, found 0"),
    ] {
        fs::write(&path, text).unwrap();
        let error = Recipe::load(&path, &[]).unwrap_err();
        assert_eq!((error.exit_code(), error.to_string()), (2, format!("{}:{line}: {what}", path.display())));
    }
    fs::write(&path, "[hygiene]\nnere = 1").unwrap();
    assert!(Recipe::load(&path, &[]).unwrap_err().to_string().contains("did you mean `near`?"));
}

/// A file of these lines.
fn file(folder: &Path, name: &str, lines: &[Value]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    path
}

fn turns(list: &[(&str, &str)]) -> Value {
    list.iter().map(|(role, content)| json!({"role": role, "content": content})).collect()
}

/// Records as their publishers write them, one of each form, and the form that they are.
fn published() -> Vec<(Format, Value)> {
    let thoughts = "The loop ends one too early.\n\nSo the last number is missed.";
    let solution = "The range has to go up to n + 1:\n\n```python\nfor i in range(n + 1):\n    pass\n```";
    let marked = format!(
        "<|begin_of_thought|>\n\n{thoughts}\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n{solution}\n\n<|end_of_solution|>"
    );
    vec![
        (
            Format::Trl,
            json!({"messages": turns(&[("system", "Be brief."), ("user", "What color is the sky?"), ("assistant", "It is blue.")])}),
        ),
        (
            Format::Trl,
            json!({"prompt": turns(&[("user", "What color is the sky?")]), "chosen": turns(&[("assistant", "It is blue.")]), "rejected": turns(&[("assistant", "It is green.")])}),
        ),
        (
            Format::Trl,
            json!({"prompt": turns(&[("system", "Be brief."), ("user", "Sky?")]), "chosen": turns(&[("assistant", "Blue.")]), "rejected": turns(&[("assistant", "Green.")]), "score": 3}),
        ),
        (
            Format::TrlPrompt,
            json!({"prompt": turns(&[("user", "What color is the sky?")]), "completion": turns(&[("assistant", "It is blue.")]), "label": true}),
        ),
        (
            Format::OpenThoughts,
            json!({"system": "Your role is to think first.", "conversations": [{"from": "user", "value": "Fix it."}, {"from": "assistant", "value": marked}]}),
        ),
        (
            Format::ShareGpt,
            json!({"id": "identity_0", "conversations": [{"from": "system", "value": "Help."}, {"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "A model."}, {"from": "human", "value": "Oh."}, {"from": "gpt", "value": "Yes."}], "lang": "en"}),
        ),
        (
            Format::OpenR1,
            json!({"messages": turns(&[("user", "Fix it."), ("assistant", &format!("<think>\n{thoughts}\n</think>\n\n{solution}"))]), "uuid": "1"}),
        ),
    ]
}

#[test]
fn every_form_goes_through_ours_and_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    for (at, (format, record)) in published().into_iter().enumerate() {
        let path = file(folder.path(), &format!("{at}.jsonl"), std::slice::from_ref(&record));
        let (found, records) = convert::load(&path, None).unwrap();
        assert_eq!(found, format, "{record}");
        let ours = convert::save(records[0].1.clone(), Format::Repairity).unwrap();
        let own = file(folder.path(), &format!("{at}.own.jsonl"), &[ours]);
        let (_, again) = convert::load(&own, Some(Format::Repairity)).unwrap();
        assert_eq!(again, records, "{record}");
        assert_eq!(convert::save(again[0].1.clone(), format).unwrap(), record);

        if matches!(again[0].1, Record::Preference(_)) {
            let error = convert::save(again[0].1.clone(), Format::ShareGpt).unwrap_err();
            assert_eq!(error, "a preference cannot be written as sharegpt; trl and repairity have them");
        }
    }
}

#[test]
fn thoughts_come_first_and_the_solution_after_them() {
    let folder = tempfile::tempdir().unwrap();
    let (_, record) = published().swap_remove(4);
    let path = file(folder.path(), "thoughts.jsonl", &[record]);
    let (_, mut records) = convert::load(&path, None).unwrap();
    let Record::Conversation(conversation) = records.remove(0).1 else { panic!("a conversation") };
    let roles: Vec<&str> = conversation.messages.iter().map(|message| message.role.as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
    let (reasoning, answer) = repairity::prompt::split_answer(&conversation.messages[2].content, "python");
    assert!(reasoning.starts_with("The loop ends one too early.") && reasoning.ends_with("n + 1:"), "{reasoning}");
    assert_eq!(answer, "for i in range(n + 1):\n    pass");

    // Our own, which notes no place: the code is the solution.
    let own = Conversation {
        id: "a".into(),
        messages: vec![
            Message::user("Fix it."),
            Message::assistant(repairity::prompt::answer_text("It adds.", "x = 1", "python")),
        ],
        extra: Extra::new(),
    };
    let written = convert::save(Record::Conversation(own), Format::OpenR1).unwrap();
    assert_eq!(written["messages"][1]["content"], "<think>\nIt adds.\n</think>\n\n```python\nx = 1\n```");
}

#[test]
fn a_prompt_that_both_answers_repeat_is_told_from_them() {
    let folder = tempfile::tempdir().unwrap();
    let asked = ("user", "What color is the sky?");
    let lists = json!({"chosen": turns(&[asked, ("assistant", "It is blue.")]), "rejected": turns(&[asked, ("assistant", "It is green.")])});
    let texts = json!({"chosen": "The sky is blue.", "rejected": "The sky is black."});
    let path = file(folder.path(), "implicit.jsonl", &[lists, texts]);
    let (_, records) = convert::load(&path, None).unwrap();
    let read = |at: usize| match &records[at].1 {
        Record::Preference(one) => [one.prompt.clone(), one.chosen.clone(), one.rejected.clone()],
        Record::Conversation(_) => panic!("a preference"),
    };
    assert_eq!(read(0), ["What color is the sky?", "It is blue.", "It is green."]);
    assert_eq!(read(1), ["The sky is", "blue.", "black."]);
}

#[test]
fn the_command_converts_files_and_names_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let shared: Vec<Value> =
        published().into_iter().filter(|(format, _)| *format == Format::ShareGpt).map(|(_, one)| one).collect();
    // One array, as ShareGPT's files are.
    let input = folder.path().join("shared.json");
    fs::write(&input, Value::from(shared.clone()).to_string()).unwrap();
    let ours = folder.path().join("ours.jsonl");
    let output = repairity(&["convert", arg(&input), "--to", "repairity", "--out", arg(&ours)]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(err(&output).contains("convert: 1 records from sharegpt to repairity"), "{}", err(&output));
    let records: Vec<Conversation> = read_jsonl(&ours).unwrap();
    assert_eq!((records[0].id.as_str(), &records[0].extra["imported_from"]), ("identity_0", &json!("shared.json:1")));
    let back = repairity(&["--quiet", "convert", arg(&ours), "--to", "sharegpt", "--from", "repairity"]);
    assert_eq!(serde_json::from_str::<Value>(&out(&back)).unwrap(), shared[0]);

    let wrong = |lines: &[Value], more: &[&str]| {
        let path = file(folder.path(), "wrong.jsonl", lines);
        let text = refused(&[&["convert", arg(&path)], more].concat());
        text.replace(&path.display().to_string(), "FILE")
    };
    let good = json!({"messages": turns(&[("user", "a"), ("assistant", "b")])});
    let to = ["--to", "trl"];
    assert_eq!(
        wrong(&[good.clone(), json!({"messages": [{"role": "user", "content": 7}]})], &to),
        "error: FILE:2: `messages[0].content`: a text is expected, a number was found (form: trl)"
    );
    assert_eq!(
        wrong(&[json!({"promt": "a", "completion": "b"})], &to),
        "error: FILE:1: no known form has the fields `promt`, `completion`; the nearest, trl-prompt, has `prompt`, `completion`"
    );
    assert_eq!(
        wrong(&[json!({"conversations": [{"from": "human", "value": "a"}, {"from": "bot", "value": "b"}]})], &to),
        "error: FILE:1: `conversations[1].from`: human, gpt, user, assistant or system is expected, `bot` was found (form: sharegpt)"
    );
    assert_eq!(
        wrong(&[json!({"prompt": "a", "completion": "b", "label": 1})], &to),
        "error: FILE:1: `label`: a bool is expected, a number was found (form: trl-prompt)"
    );
    let pair = json!({"prompt": "a", "chosen": "b", "rejected": "c"});
    assert!(
        wrong(&[pair], &["--to", "openthoughts"])
            .ends_with("FILE:1: a preference cannot be written as openthoughts; trl and repairity have them")
    );
    assert!(wrong(std::slice::from_ref(&good), &["--to", "sharegtp"]).ends_with("did you mean `sharegpt`?"));
    assert!(wrong(&[good], &["--to", "trl", "--from", "alpaca"]).starts_with("error: --from: `alpaca` is not one of "));
    assert_eq!(wrong(&[], &to), "error: FILE: no record in it");
}

/// Files from elsewhere are read in their form and cleaned before training: an sft stage on ShareGPT's form with a copy in it.
#[test]
fn a_downloaded_file_is_trained_on_without_its_copies() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    program::checkpoint(&model, repairity::model::Architecture::Qwen2);
    let told = |question: &str, answer: &str| json!({"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]});
    let leak = format!("```python\n{GCD}```");
    let lines = [
        told("Say it.", "It is said."),
        told("Say it. ", "It is said.\n"),
        told("Fix it.", &leak),
        told("And now?", "So it is."),
    ];
    let data = file(folder.path(), "shared.jsonl", &lines);
    let run = folder.path().join("run");
    fs::create_dir_all(&run).unwrap();
    repairity::record::write_jsonl(&run.join("problems.jsonl"), &benchmark()).unwrap();
    let recipe = folder.path().join("recipe.toml");
    let text = format!("out = {run:?}\ndevice = \"cpu\"\npolicy.model = {model:?}\nsft.data = {data:?}\nsft.epochs = 1\n");
    fs::write(&recipe, text).unwrap();
    let output = repairity(&["sft", arg(&recipe)]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(err(&output).contains("1 duplicates and 1 that hold a test problem were dropped"), "{}", err(&output));
    let dropped: Vec<Dropped> = read_jsonl(&run.join("sft.data.dropped.jsonl")).unwrap();
    let told: Vec<[&str; 3]> =
        dropped.iter().map(|one| [one.id.as_str(), one.reason.as_str(), one.of.as_deref().unwrap()]).collect();
    assert_eq!(told, [["line 2", "the same as line 1", "line 1"], ["line 3", "it holds the test problem gcd", "gcd"]]);
}

/// Problems of MBPP that duplicate an earlier one.
const MBPP_DROPPED: usize = 28;

/// What the published benchmarks hold, against a count by hand of a few: MBPP's own copies, and none between it and the others.
#[test]
fn the_benchmarks_themselves() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !shared.exists() {
        println!("skipped: {} is not there", shared.display());
        return;
    }
    let load = |suite: &str, file: &str| problem::load(suite, Some(&shared.join(file)), 17, 0, &Options::default()).unwrap();
    let mut mbpp = load("mbpp", "mbpp/mbpp.jsonl");
    problem::split(&mut mbpp, [0.70, 0.15, 0.15], 17).unwrap();
    let humaneval = load("humaneval_fix", "humanevalpack/python.jsonl");
    let quixbugs = load("quixbugs", "quixbugs/quixbugs_python.jsonl");
    let settings = Hygiene::default();
    let part = |all: &[Problem], split| -> Vec<Problem> {
        all.iter().map(|problem| Problem { split: Some(split), ..problem.clone() }).collect()
    };

    // 704 is 248 word for word; 30 and 338 have one code.
    let (kept, dropped) = hygiene::problems(part(&mbpp, Split::Train), &settings);
    println!("MBPP in itself: {}", dropped.len());
    assert_eq!((kept.len() + dropped.len(), dropped.len()), (974, MBPP_DROPPED));
    let of = |id: &str| dropped.iter().find(|one| one.id == id).map(|one| (one.reason.as_str(), one.of.as_deref().unwrap()));
    assert_eq!(of("704"), Some(("the same as 248", "248")));
    assert_eq!(of("338"), Some(("its code is nearly that of 30", "30")));
    // Whatever the split, its test part is whole.
    let (kept, dropped) = hygiene::problems(mbpp.clone(), &settings);
    println!("MBPP as it is split: {}", dropped.len());
    let test = |all: &[Problem]| all.iter().filter(|problem| problem.split == Some(Split::Test)).count();
    assert_eq!(test(&kept), test(&mbpp));

    // The others have no copies in themselves or in each other. Depth and breadth first search are described alike, and two.
    for (train, measured) in [(&quixbugs, &humaneval), (&humaneval, &quixbugs), (&mbpp, &humaneval), (&mbpp, &quixbugs)] {
        let own = hygiene::problems(part(train, Split::Train), &settings).1;
        let both = hygiene::problems([part(measured, Split::Test), part(train, Split::Train)].concat(), &settings).1;
        assert_eq!(own.len(), if train[0].suite == "mbpp" { MBPP_DROPPED } else { 0 }, "{own:?}");
        assert_eq!(both.len(), own.len(), "{}: {both:?}", train[0].suite);
        let evaluation = Evaluation::new(&part(measured, Split::Test), &settings);
        for problem in train {
            let text = format!("{}\n```python\n{}\n```", problem.prompt, problem.reference.as_ref().unwrap());
            assert_eq!(evaluation.find(&hygiene::text::tokens(&hygiene::text::prose(&text)), None), None, "{}", problem.id);
        }
    }
}
