//! The micro suite and its teacher, judged by CPython and by counting.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use repairity::problem;
use repairity::problem::micro::{Document, KEY, Knowledge, Mixture, PARTS, corpus, generate};
use repairity::recipe::Recipe;
use repairity::record::{Candidate, Extra, Outcome, Problem, Split, Verdict};
use repairity::stage::pretrain;
use repairity::teacher::scripted::Scripted;
use repairity::teacher::{Query, Stop, Teacher};

fn reference(problem: &Problem) -> &str {
    problem.reference.as_deref().unwrap()
}

fn buggy(problem: &Problem) -> &str {
    problem.buggy.as_deref().unwrap()
}

/// The last fenced block of a text.
fn code(text: &str) -> &str {
    let (_, rest) = text.rsplit_once("```python\n").unwrap();
    rest.rsplit_once("\n```").unwrap().0
}

/// What CPython says of each program: whether it passes all its tests. None where there is no CPython.
fn python(programs: &[(&str, &[String])]) -> Option<Vec<bool>> {
    let driver = r"
import json, sys
for code, tests in json.load(sys.stdin):
    compile(code, 'program', 'exec')
    try:
        for test in tests:
            scope = {}
            exec(code + '\n' + test, scope)
        print('pass')
    except Exception as error:
        print('fail')
";
    let mut child = Command::new("python3")
        .args(["-I", "-c", driver])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| println!("skipped: python3 does not start: {e}"))
        .ok()?;
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(programs).unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(String::from_utf8(output.stdout).unwrap().lines().map(|line| line == "pass").collect())
}

#[test]
fn cpython_agrees_that_references_pass_and_bugs_fail() {
    let problems = generate(41, 600);
    let mut programs = Vec::new();
    let mut expected = Vec::new();
    for problem in &problems {
        let tests = &problem.check.tests[..];
        programs.push((reference(problem), tests));
        expected.push(true);
        programs.push((buggy(problem), tests));
        expected.push(false);
    }
    let knowledge: Vec<Knowledge> = problems.iter().map(|p| Knowledge::of(p).unwrap()).collect();
    for (problem, knowledge) in problems.iter().zip(&knowledge) {
        for fix in &knowledge.alternatives {
            programs.push((&fix.code, &problem.check.tests[..]));
            expected.push(false);
        }
    }
    let Some(found) = python(&programs) else { return };
    assert_eq!(found.len(), expected.len());
    for ((program, found), expected) in programs.iter().zip(found).zip(expected) {
        assert_eq!(found, expected, "{}\n{}", program.0, program.1.join("\n"));
    }
}

#[test]
fn a_seed_gives_the_same_problems_and_another_seed_others() {
    let first = generate(7, 300);
    assert_eq!(first, generate(7, 300));
    assert_eq!(first[..100], generate(7, 100));
    assert_eq!(first[4].id, "micro/7/4");
    let codes: HashSet<&str> = first.iter().map(buggy).collect();
    assert_eq!(codes.len(), 300);
    let other = generate(8, 300);
    // Names and constants alone make repeats across seeds rare.
    assert!(other.iter().filter(|p| codes.contains(buggy(p))).count() <= 6);
}

#[test]
fn a_problem_survives_its_record() {
    for problem in generate(3, 50) {
        let line = serde_json::to_string(&problem).unwrap();
        let read: Problem = serde_json::from_str(&line).unwrap();
        assert_eq!(read, problem);
        assert_eq!(Knowledge::of(&read).unwrap(), Knowledge::of(&problem).unwrap());
        assert!(read.extra.contains_key(KEY));
    }
}

#[test]
fn shapes_kinds_and_difficulties_are_many() {
    let problems = generate(1, 6000);
    let mut shapes = HashSet::new();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let mut difficulties: BTreeMap<&str, usize> = BTreeMap::new();
    let mut templates = HashSet::new();
    for problem in &problems {
        let knowledge = Knowledge::of(problem).unwrap();
        *kinds.entry(&problem.kind).or_default() += 1;
        *difficulties.entry(&problem.difficulty).or_default() += 1;
        shapes.insert((knowledge.template.clone(), problem.kind.clone(), knowledge.line));
        templates.insert(knowledge.template);
        assert!((3..=6).contains(&problem.check.tests.len()));
        let values: HashSet<&str> = problem.check.tests.iter().map(|test| test.rsplit_once(" == ").unwrap().1).collect();
        assert!(values.len() > 1, "one value passes all tests of {problem:#?}");
        assert_eq!(problem.language, "python");
    }
    println!("{} templates, {} shapes\n{kinds:?}\n{difficulties:?}", templates.len(), shapes.len());
    assert!(templates.len() >= 80, "{}", templates.len());
    assert!(shapes.len() > 300, "{}", shapes.len());
    assert!(kinds.len() >= 16, "{kinds:?}");
    assert!(kinds.values().all(|n| *n >= 20 && *n <= 1500), "{kinds:?}");
    assert_eq!(difficulties.len(), 3);
    assert!(difficulties.values().all(|n| *n >= 600), "{difficulties:?}");
}

fn ask(teacher: &Scripted, problem: &Problem) -> String {
    let reply = teacher.ask(&Query::Trace { problem, prompt: "one two three" }).unwrap();
    assert_eq!(reply.stop, Stop::End);
    assert_eq!(reply.usage.input_tokens, 3);
    assert_eq!(reply.usage.output_tokens, reply.text.split_whitespace().count() as u64);
    reply.text
}

#[test]
fn traces_have_four_parts_and_end_with_the_program() {
    let teacher = Scripted::new(5, 0.0);
    let problems = generate(11, 400);
    let (mut prompts, mut traces, mut answers) = (0, 0, 0);
    for (i, problem) in problems.iter().enumerate() {
        let text = ask(&teacher, problem);
        let lines: Vec<&str> = text.lines().collect();
        for (line, part) in lines.iter().zip(PARTS) {
            assert!(line.starts_with(part), "{text}");
        }
        let knowledge = Knowledge::of(problem).unwrap();
        assert!(lines[0].contains(&knowledge.function) && lines[3].contains(&knowledge.function), "{text}");
        assert_eq!(code(&text), reference(problem));
        for quoted in knowledge.right.lines() {
            assert!(lines[2].contains(&format!("`{quoted}`")), "{text}\n{knowledge:?}");
        }
        prompts += problem.prompt.len() + 1 + buggy(problem).len();
        traces += text.len() - code(&text).len();
        answers += code(&text).len();
        if i < 5 {
            println!(
                "--- {} {} {}\n{}\n{}\n{:#?}\n{text}",
                problem.id,
                problem.kind,
                problem.difficulty,
                problem.prompt,
                buggy(problem),
                problem.check.tests
            );
        }
    }
    let n = problems.len();
    println!("mean characters: prompt {}, trace {}, code {}", prompts / n, traces / n, answers / n);
    assert!(prompts / n < 250 && traces / n < 300 && answers / n < 200);
}

#[test]
fn a_teacher_errs_as_often_as_told() {
    let problems = generate(23, 500);
    for (rate, from, to) in [(0.0, 0, 0), (1.0, 500, 500), (0.2, 64, 136)] {
        // 500 draws at 0.2: mean 100, standard deviation 8.9; the bounds are four of them.
        let teacher = Scripted::new(9, rate);
        let texts: Vec<String> = problems.iter().map(|problem| ask(&teacher, problem)).collect();
        assert!(problems.iter().zip(&texts).all(|(p, t)| *t == ask(&teacher, p)));
        let claimed: Vec<bool> = problems.iter().zip(&texts).map(|(p, t)| code(t) == reference(p)).collect();
        let wrong = claimed.iter().filter(|right| !**right).count();
        assert!((from..=to).contains(&wrong), "{wrong} wrong at rate {rate}");
        let programs: Vec<(&str, &[String])> = problems.iter().zip(&texts).map(|(p, t)| (code(t), &p.check.tests[..])).collect();
        if let Some(passes) = python(&programs) {
            assert_eq!(passes, claimed);
        }
    }
}

fn candidate(problem: &Problem, text: &str, answer: &str, verdict: Option<Outcome>) -> Candidate {
    Candidate {
        id: problem.id.clone(),
        index: 0,
        model: "sft".into(),
        temperature: 0.8,
        text: text.into(),
        answer: answer.into(),
        verdict: verdict.map(|verdict| Verdict { verdict, reason: String::new(), compiled: None, seconds: 0.0 }),
        extra: Extra::new(),
    }
}

#[test]
fn judgments_follow_the_criteria_in_both_orders() {
    let teacher = Scripted::new(1, 0.0);
    let judge = |problem: &Problem, a: &Candidate, b: &Candidate| {
        let reply = teacher.ask(&Query::Compare { problem, instruction: "", first: a, second: b }).unwrap();
        assert_eq!(reply.text.lines().count(), 5);
        reply.text.lines().last().unwrap().to_string()
    };
    for problem in &generate(2, 40) {
        let trace = ask(&teacher, problem);
        let direct = format!("```python\n{}\n```", reference(problem));
        let right = candidate(problem, &trace, reference(problem), Some(Outcome::Pass));
        let wrong = candidate(problem, &trace, buggy(problem), Some(Outcome::Fail));
        let bare = candidate(problem, &direct, reference(problem), Some(Outcome::Pass));
        let longer = format!("{}\n# done", reference(problem));
        let long = candidate(problem, &trace, &longer, Some(Outcome::Pass));
        let nested = reference(problem).replacen(
            '\n',
            "\n    for _ in '1':\n        for _ in '1':\n            for _ in '1':\n                pass\n",
            1,
        );
        let slow = candidate(problem, &trace, &nested, Some(Outcome::Pass));
        let unchanged = candidate(problem, &trace, buggy(problem), Some(Outcome::Fail));
        let other = candidate(problem, &trace, &longer, Some(Outcome::Error));
        let pairs = [
            (&right, &wrong),
            (&bare, &wrong),
            (&right, &bare),
            (&right, &long),
            (&right, &slow),
            (&bare, &slow),
            (&right, &other),
        ];
        for (better, worse) in pairs {
            assert_eq!(judge(problem, better, worse), "Ranking: A > B", "{better:?} {worse:?}");
            assert_eq!(judge(problem, worse, better), "Ranking: A < B");
        }
        assert_eq!(judge(problem, &right, &right), "Ranking: A = B");
        // The untouched code is no better than a failed attempt.
        assert_eq!(judge(problem, &unchanged, &other), "Ranking: A = B");
        let unchecked = candidate(problem, &trace, reference(problem), None);
        let error = teacher.ask(&Query::Compare { problem, instruction: "", first: &right, second: &unchecked }).unwrap_err();
        assert!(error.to_string().contains("no verdict"), "{error}");
    }
}

#[test]
fn a_corpus_is_mixed_as_told() {
    const COUNT: usize = 8000;
    let documents = corpus(6, COUNT, &Mixture::default(), &HashSet::new());
    assert_eq!(documents, corpus(6, COUNT, &Mixture::default(), &HashSet::new()));
    let mut plain = 0;
    let (mut direct, mut direct_right, mut traced, mut traced_right, mut wrong, mut unchanged) = (0, 0, 0, 0, 0, 0);
    let mut characters = 0;
    for document in &documents {
        match document {
            Document::Text(text) => {
                plain += 1;
                characters += text.len();
            }
            Document::Repair { problem, answer } => {
                assert!(problem.extra.is_empty());
                characters += problem.prompt.len() + buggy(problem).len() + answer.len();
                let right = code(answer) == reference(problem);
                if answer.starts_with("```python\n") {
                    direct += 1;
                    direct_right += usize::from(right);
                } else {
                    assert!(answer.starts_with(PARTS[0]), "{answer}");
                    traced += 1;
                    traced_right += usize::from(right);
                }
                if !right {
                    wrong += 1;
                    unchanged += usize::from(code(answer) == buggy(problem));
                }
            }
        }
    }
    println!("{COUNT} documents, {} characters each", characters / COUNT);
    // Four standard deviations of a share of n documents are at most 2 / sqrt(n).
    let near = |part: usize, whole: usize, share: f64| {
        let found = part as f64 / whole as f64;
        assert!((found - share).abs() <= 2.0 / (whole as f64).sqrt(), "{found} of {whole}, {share} expected");
    };
    near(plain, COUNT, 0.15);
    near(traced, direct + traced, 0.45);
    near(direct_right, direct, 0.35);
    near(traced_right, traced, 0.60);
    near(unchanged, wrong, 0.5);
}

#[test]
fn held_out_programs_are_in_no_document() {
    // The corpus itself says which programs it would hold, so the exclusion has something to exclude.
    let mixture = Mixture::default();
    let free = corpus(31, 2000, &mixture, &HashSet::new());
    let mut held_out = HashSet::new();
    for document in free.iter().take(300) {
        if let Document::Repair { problem, .. } = document {
            held_out.insert(buggy(problem).to_string());
        }
    }
    assert!(held_out.len() > 200);
    let documents = corpus(31, 2000, &mixture, &held_out);
    assert_eq!(documents.len(), 2000);
    for document in &documents {
        match document {
            Document::Text(text) => assert!(!held_out.contains(code(text)), "{text}"),
            Document::Repair { problem, answer } => {
                assert!(!held_out.contains(buggy(problem)) && !held_out.contains(code(answer)), "{answer}");
            }
        }
    }
}

/// A recipe of the repository.
fn recipe(name: &str) -> Recipe {
    Recipe::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes").join(name), &[]).unwrap()
}

/// The sets that the bundled models were kept away from: the quickstart's own is among them, and those of tools/five-seeds.
const SETS: std::ops::RangeInclusive<u64> = 1..=8;
const IN_SET: usize = 1000;

#[test]
fn the_bundled_models_read_no_program_of_the_sets_that_they_are_measured_on() {
    let quickstart = recipe("quickstart.toml").problems;
    assert!(SETS.contains(&quickstart.seed.unwrap()) && quickstart.count == IN_SET);
    for name in ["micro-base-skills.toml", "micro-base.toml", "micro-reward.toml"] {
        let held_out = recipe(name).pretrain.unwrap().held_out;
        assert!(held_out.iter().map(|set| (set.seed, set.count)).eq(SETS.map(|seed| (seed, IN_SET))), "{name}: {held_out:?}");
    }
    // The documents of one of the three are made again; the others would take as long each.
    let sets: Vec<Problem> = SETS.flat_map(|seed| generate(seed, IN_SET)).collect();
    let programs: HashSet<&str> = sets.iter().flat_map(|problem| [buggy(problem), reference(problem)]).collect();
    let documents = pretrain::documents(&recipe("micro-base.toml")).unwrap();
    assert!(documents.len() > 8000);
    for document in &documents {
        let read = match document {
            Document::Text(text) => vec![code(text)],
            Document::Repair { problem, answer } => vec![buggy(problem), code(answer)],
        };
        assert!(read.iter().all(|program| !programs.contains(program)), "{document:?}");
    }
}

#[test]
fn the_quickstart_s_parts_share_no_problem() {
    let settings = recipe("quickstart.toml").problems;
    for seed in SETS {
        let mut problems = generate(seed, settings.count);
        problem::split(&mut problems, settings.split, seed).unwrap();
        let (test, others): (Vec<&Problem>, Vec<&Problem>) = problems.iter().partition(|p| p.split == Some(Split::Test));
        assert_eq!((test.len(), others.len()), (150, 850));
        let (ids, bugs): (HashSet<&str>, HashSet<&str>) = others.iter().map(|p| (p.id.as_str(), buggy(p))).unzip();
        assert!(test.iter().all(|p| !ids.contains(p.id.as_str()) && !bugs.contains(buggy(p))), "set {seed}");
        // Another bug in the same program is another problem, but its trace would show the solution: with names and constants
        // drawn for each, there are next to none of these.
        let solutions: HashSet<&str> = others.iter().map(|p| reference(p)).collect();
        let known = test.iter().filter(|p| solutions.contains(reference(p))).count();
        assert!(known <= 2, "set {seed}: {known} test problems have the solution of a problem of another part");
    }
}
