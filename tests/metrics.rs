//! Numbers beside published tools' on whole systems, the commands that print them, and which answers compile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use repairity::metric::bleu::{Config, Counts, Smoothing, Tokens};
use repairity::metric::comparison::{self, pairwise};
use repairity::metric::scores::{Answer, Reference, Scores};
use repairity::metric::significance::{approximate_randomisation, paired_bootstrap};
use serde_json::{Value, json};

fn repairity(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_repairity")).args(args).output().unwrap()
}

fn out(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refused(args: &[&str]) -> String {
    let output = repairity(args);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{output:?}");
    String::from_utf8(output.stderr).unwrap().trim_end().to_string()
}

/// References and two systems' outputs for them, in words parted by spaces. With `tails` the references are of many lengths.
fn systems(n: usize, tails: bool) -> [Vec<String>; 3] {
    let tail = |i: usize| if tails { " + b * d".repeat(i * 7 % 11) } else { String::new() };
    let reference = |i| format!("def f{i} ( a , b ) : return a + b * {} - c [ {i} ]{}", i % 7, tail(i));
    let a = |i: usize, text: String| match if tails { i % 7 == 2 } else { i.is_multiple_of(3) } {
        true => text.replace('+', "-"),
        false => text,
    };
    let b = |i: usize, text: String| match (i % 4, i % 5) {
        (1, _) => text.replace("* ", "/ ").replace("return", "yield"),
        (_, 0) => text.replace("c [", "d ["),
        _ => text,
    };
    [(0..n).map(reference).collect(), (0..n).map(|i| a(i, reference(i))).collect(), (0..n).map(|i| b(i, reference(i))).collect()]
}

const WORDS: Config = Config { tokens: Tokens::Whitespace, smoothing: Smoothing::Exp, effective_order: false };

fn counts(hypotheses: &[String], references: &[String]) -> Vec<Counts> {
    hypotheses.iter().zip(references).map(|(hypothesis, reference)| WORDS.counts(hypothesis, reference)).collect()
}

fn bleu(counts: impl Iterator<Item = Counts>) -> f64 {
    let mut sum = Counts::default();
    counts.for_each(|counts| sum += counts);
    WORDS.score(sum).score
}

fn texts(system: &[String], references: &[String]) -> Scores {
    let groups: Vec<Vec<Answer>> =
        system.iter().map(|code| vec![Answer { passed: false, compiled: None, code: Some(code) }]).collect();
    let references: Vec<_> = references.iter().map(|code| Some(Reference { code, language: "python" })).collect();
    Scores::new(&groups, &references, WORDS)
}

/// The standard error of a p from 10,000 trials.
fn error(p: f64) -> f64 {
    (p * (1.0 - p) / 10_000.0).sqrt()
}

/// sacrebleu 2.6.0 (numpy 2.4.6) on the same texts, `tokenize="none"`: the scores, and p by `PairedTest(test_type="ar",
/// n_samples=10000)` with seed 12345. Both p are shares of 10,000 random trials, so they differ by less than 5 of their standard
/// errors together; trials that tie, which sacrebleu does not count, are below 0.0002 of these. The interval is that of 20,000
/// resamples scored by sacrebleu. Differences spread by about 15 / 3.9 = 3.8, so the density at a 2.5 % end is 0.0585 / 3.8 = 0.0154,
/// and an end's standard errors are sqrt(0.025 * 0.975 / 10,000) / 0.0154 = 0.10 here and 0.07 there: 5 together are 0.62.
#[test]
fn two_systems_differ_as_sacrebleu_says() {
    let [references, a, b] = systems(40, true);
    let models = [("b".to_string(), texts(&b, &references)), ("a".to_string(), texts(&a, &references))];
    for ((_, scores), expected) in models.iter().zip([86.81444727741327, 94.41548870778121]) {
        let score = scores.texts.as_ref().unwrap().bleu().score;
        assert!((score - expected).abs() < 1e-10, "{score} {expected}");
    }
    let rows = pairwise(&models, 17).unwrap();
    let found = rows[0].bleu.unwrap();
    let expected = 0.05299470052994701;
    assert!((found.p - expected).abs() < 5.0 * 2f64.sqrt() * error(expected) + 2e-4, "{found:?}");
    assert_eq!((rows.len(), found.p_holm), (1, found.p));
    let [delta, low, high] = found.delta;
    assert!((delta - (94.41548870778121 - 86.81444727741327)).abs() < 1e-10, "{found:?}");
    // The share of those 20,000 that lie as far from the difference as it lies from 0: 0.04445.
    let (a, b) = (counts(&a, &references), counts(&b, &references));
    let of = |counts: &[Counts], problems: &[usize]| bleu(problems.iter().map(|i| counts[*i]));
    let resampled = paired_bootstrap(40, 10_000, 17, |problems| of(&a, problems) - of(&b, problems)).unwrap();
    assert!((resampled.p - 0.04445).abs() < 5.0 * 1.5f64.sqrt() * error(0.04445), "{resampled:?}");
    assert_eq!([resampled.delta, resampled.low, resampled.high], found.delta);
    assert!((low - 0.413).abs() < 0.62 && (high - 15.273).abs() < 0.62, "{found:?}");
}

/// Of the 1024 ways to swap 10 problems 576 differ at least as much as the systems do, and 256 more (enumerated with sacrebleu
/// 2.6.0's scores): ties are common where few problems differ, and counting them is what keeps the test honest.
#[test]
fn randomisation_is_the_enumeration_of_a_small_case() {
    let [references, a, b] = systems(10, false);
    let (a, b) = (counts(&a, &references), counts(&b, &references));
    let delta = |swapped: &[bool]| {
        let side = |x: &[Counts], y: &[Counts]| bleu((0..10).map(|i| if swapped[i] { y[i] } else { x[i] }));
        side(&a, &b) - side(&b, &a)
    };
    assert!((delta(&[false; 10]) - 4.529394172525016).abs() < 1e-10);
    let all: Vec<f64> =
        (0..1024u32).map(|mask| delta(&std::array::from_fn::<bool, 10, _>(|bit| mask >> bit & 1 == 1)).abs()).collect();
    let whole = delta(&[false; 10]).abs();
    let at_least = all.iter().filter(|d| **d >= whole * (1.0 - 1e-12)).count();
    let more = all.iter().filter(|d| **d > whole * (1.0 + 1e-12)).count();
    assert_eq!((at_least, more), (576, 256));
    let p = approximate_randomisation(10, 10_000, 3, delta).unwrap();
    assert!((p - 576.0 / 1024.0).abs() < 5.0 * error(576.0 / 1024.0) + 1e-4, "{p}");
}

fn scores(passes: &[&[bool]]) -> Scores {
    let answer = |passed: &bool| Answer { passed: *passed, compiled: Some(true), code: None };
    let groups: Vec<Vec<Answer>> = passes.iter().map(|group| group.iter().map(answer).collect()).collect();
    Scores::new(&groups, &vec![None; groups.len()], Config::default())
}

#[test]
fn three_models_are_three_comparisons_corrected_together() {
    // 8 problems: `none` passes none, `six` six, `all` all. p = 2/2^6 = 1/32, 2/2^8 = 1/128, 2/2^2 = 1/2.
    let of = |passed: usize| -> Scores {
        let groups: Vec<Vec<bool>> = (0..8).map(|i| vec![i < passed]).collect();
        scores(&groups.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    let models = [("none", 0), ("six", 6), ("all", 8)].map(|(name, passed)| (name.to_string(), of(passed)));
    let rows = pairwise(&models, 1).unwrap();
    let found: Vec<(&str, &str, usize, usize)> = rows.iter().map(|r| (r.from.as_str(), r.to.as_str(), r.lost, r.won)).collect();
    assert_eq!(found, [("none", "six", 0, 6), ("none", "all", 0, 8), ("six", "all", 0, 2)]);
    for (row, (p, p_holm)) in rows.iter().zip([(1.0 / 32.0, 2.0 / 32.0), (1.0 / 128.0, 3.0 / 128.0), (0.5, 0.5)]) {
        assert!((row.p - p).abs() < 1e-14 && (row.p_holm - p_holm).abs() < 1e-14, "{row:?}");
        assert_eq!((row.pass_rate, row.bleu), (None, None));
    }
    assert_eq!((rows[0].delta[0], rows[1].delta), (0.75, [1.0; 3]));
    // With several answers each pass@1 is compared too; records go through JSON.
    let many = [
        ("x".to_string(), scores(&[&[true, false], &[true, true]])),
        ("y".to_string(), scores(&[&[false, false], &[false, false]])),
    ];
    let rows = pairwise(&many, 1).unwrap();
    assert_eq!(rows[0].pass_rate.unwrap().delta[0], -0.75);
    // Two of the four ways to swap two problems differ as much: 1.5 of 2 either way.
    assert!((rows[0].pass_rate.unwrap().p - 0.5).abs() < 5.0 * error(0.5) + 1e-4);
    let again: Vec<comparison::Comparison> = serde_json::from_value(serde_json::to_value(&rows).unwrap()).unwrap();
    assert_eq!(again, rows);
    let table = comparison::table(&rows, |name| name.to_uppercase());
    assert_eq!((table.rows.len(), table.notes.len()), (2, 2));
    assert_eq!(table.notes[1], "X and Y differ on 2 problem(s): fewer than 6 can never reach p = 0.05.");
    let error = pairwise(&[many[0].clone(), ("z".to_string(), scores(&[]))], 1).unwrap_err().to_string();
    assert_eq!(error, "McNemar's test: outcomes of the same problems expected, 2 and 0 found");
}

/// A benchmark in MBPP's form: `f` of problem i adds i.
fn benchmark(folder: &Path, count: u32) -> PathBuf {
    let row = |i: u32| json!({ "text": "Add.", "code": format!("def f(x):\n    return x + {i}\n"), "task_id": i, "test_setup_code": "", "test_list": [format!("assert f(1) == {}", 1 + i)], "challenge_test_list": [] });
    write(folder, "mbpp.jsonl", (1..=count).map(row))
}

fn write(folder: &Path, name: &str, lines: impl IntoIterator<Item = Value>) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, lines.into_iter().map(|line| line.to_string() + "\n").collect::<String>()).unwrap();
    path
}

#[test]
fn what_compile_takes_compiles() {
    let folder = tempfile::tempdir().unwrap();
    let path = benchmark(folder.path(), 1);
    let answers = [
        ("def f(x):\n    return x + 1\n", "pass", true),
        ("def f(x):\n    return x\n", "fail", true),
        ("def g(x):\n    return x + 1\n", "fail", true),
        ("def f(x:\n    return x + 1\n", "error", false),
        ("def f(x):\nreturn x + 1\n", "error", false),
        ("def f(x):\n\treturn x\n        return 1\n", "error", false),
        ("", "refused", false),
        // It compiles, and what it raises while it runs is its own affair.
        ("raise SyntaxError('does not compile')\n", "error", true),
        ("compile('def', 'x', 'exec')\n", "error", true),
        ("import no_such_module\n", "error", true),
        ("def f(x):\n    raise SyntaxError('does not compile')\n", "fail", true),
    ];
    let file = write(folder.path(), "answers.jsonl", answers.iter().map(|(code, ..)| json!({"id": "1", "answer": code})));
    let args =
        ["check", "--no-sandbox", "--suite", "mbpp", "--path", path.to_str().unwrap(), "--answers", file.to_str().unwrap()];
    let output = repairity(&args);
    let lines: Vec<Value> =
        std::str::from_utf8(&output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), answers.len(), "{output:?}");
    for (line, (code, verdict, compiles)) in lines.iter().zip(answers) {
        assert_eq!((&line["verdict"], &line["compiled"]), (&json!(verdict), &json!(compiles)), "{code}: {line}");
        let says = line["reason"].as_str().unwrap().starts_with("does not compile: ");
        assert_eq!(says, !compiles && !code.is_empty(), "{line}");
    }
    assert!(lines[3]["reason"].as_str().unwrap().starts_with("does not compile: SyntaxError: "), "{}", lines[3]);
    assert!(lines[4]["reason"].as_str().unwrap().starts_with("does not compile: IndentationError: "), "{}", lines[4]);
}

fn verdict(id: &str, passed: bool) -> Value {
    json!({"id": id, "verdict": if passed { "pass" } else { "fail" }, "reason": "", "compiled": true, "seconds": 0.1})
}

#[test]
fn compare_prints_what_check_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<String> = (1..=8).map(|i| i.to_string()).collect();
    let base = write(folder.path(), "base.jsonl", ids.iter().map(|id| verdict(id, id == "1")));
    let tuned = write(folder.path(), "tuned=2.jsonl", ids.iter().rev().map(|id| verdict(id, id != "1")));
    let (base, tuned) = (format!("base={}", base.display()), format!("a_b%,c&d={}", tuned.display()));
    let shown = out(&repairity(&["compare", &base, &tuned, "--k", "1,5"]));
    // 1 and 7 of 8: Wilson's 95 % intervals are 2.2 to 47.1 and 52.9 to 97.8; 8 discordant, 7 against 1: p = 2 (1 + 8) / 2^8.
    let expected = [
        "| model | problems | answers | pass@1 % | 95 % low | 95 % high | pass@5 % | compiles % |",
        "| base | 8 | 8 | 12.5 | 2.2 | 47.1 | – | 100.0 |",
        "| a_b%,c&d | 8 | 8 | 87.5 | 52.9 | 97.8 | – | 100.0 |",
        "base: no pass@5, because a problem has 1 answer(s) only.",
        "| base | a_b%,c&d | first answer passes, % | 75.0 |",
        "| 1 | 7 | exact McNemar | 7.03e-2 | 7.03e-2 |",
    ];
    for line in expected {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    let csv = out(&repairity(&["compare", &base, &tuned, "--format", "csv"]));
    assert!(csv.contains("\n\"a_b%,c&d\",8,8,87.5,") && csv.contains(",1,7,exact McNemar,0.0703125,0.0703125\n"), "{csv}");
    let latex = out(&repairity(&["compare", &base, &tuned, "--format", "latex"]));
    assert!(latex.contains("a\\_b\\%,c\\&d & 8 & 8 & 87.5 &"), "{latex}");
    let value: Value = serde_json::from_str(&out(&repairity(&["compare", &base, &tuned, "--format", "json"]))).unwrap();
    assert_eq!((&value["models"][1]["pass@1 %"], &value["comparisons"][0]["p"]), (&json!(87.5), &json!(0.0703125)));
    // One file is measured, and compared with nothing.
    let alone = out(&repairity(&["compare", &base]));
    assert!(alone.starts_with("| model |") && !alone.contains("McNemar"), "{alone}");
}

#[test]
fn compare_reads_evaluations_and_measures_their_texts() {
    let folder = tempfile::tempdir().unwrap();
    let suite = benchmark(folder.path(), 3);
    let line = |id: u32, index: usize, code: String, passed: bool| json!({"id": id.to_string(), "index": index, "model": "sft", "text": code, "answer": code, "verdict": {"verdict": if passed { "pass" } else { "fail" }, "reason": "", "compiled": passed, "seconds": 0.0}});
    let right = |id: u32| format!("def f(x):\n    # adds\n    return x + {id}");
    let lines = |passed: bool| {
        let each = move |id: u32| {
            (0..2).map(move |index| {
                line(id, index, if index == 0 || passed { right(id) } else { "pass".into() }, index == 0 || passed)
            })
        };
        (1..=3u32).flat_map(each).collect::<Vec<_>>()
    };
    let half = format!("half={}", write(folder.path(), "half.jsonl", lines(false)).display());
    let all = format!("all={}", write(folder.path(), "all.jsonl", lines(true)).display());
    let args = ["compare", &half, &all, "--suite", "mbpp", "--path", suite.to_str().unwrap(), "--k", "1,2", "--bleu", "code"];
    let shown = out(&repairity(&args));

    // Comments do not spoil an exact match.
    for part in [
        "| half | 3 | 6 | 50.0 |",
        "| all | 3 | 6 | 100.0 |",
        "| 100.0 | 50.0 |",
        "|tok:code|",
        "| pass@1, % | 50.0 |",
        "| BLEU |",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    let value: Value = serde_json::from_str(&out(&repairity(&[&args[..], &["--format", "json"]].concat()))).unwrap();
    let rows = &value["models"];
    assert_eq!(
        (&rows[0]["exact match %"], &rows[1]["exact match %"], &rows[0]["pass@2 %"]),
        (&json!(50.0), &json!(100.0), &json!(100.0))
    );
    // The same from verdicts and answers in files of their own.
    let [verdicts, answers] = ["verdict", "answer"].map(|key| {
        let lines = lines(true).into_iter().map(|line| match key {
            "verdict" => {
                json!({"id": line["id"], "verdict": line["verdict"]["verdict"], "compiled": line["verdict"]["compiled"]})
            }
            _ => json!({"id": line["id"], "answer": line["answer"]}),
        });
        format!("all={}", write(folder.path(), key, lines).display())
    });
    let apart = |answers: &str| {
        let suite = ["--suite", "mbpp", "--path", suite.to_str().unwrap(), "--k", "1,2", "--bleu", "code", "--format", "json"];
        repairity(&[&["compare", &half, &verdicts, "--answers", answers][..], &suite].concat())
    };
    assert_eq!(serde_json::from_str::<Value>(&out(&apart(&answers))).unwrap(), value);
    let wrong = apart(&format!("all={}", write(folder.path(), "one", [json!({"id": "1", "answer": "x"})]).display()));
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(wrong.status.code() == Some(2) && said.contains("one: its answers are not those of "), "{said}");
    let nobody = apart("nobody=x");
    assert_eq!(String::from_utf8(nobody.stderr).unwrap(), "error: nobody=x: no verdicts are named nobody\n");
    // All three problems move the same way: two of the eight ways to swap them are as far apart.
    let p =
        value["comparisons"].as_array().unwrap().iter().find(|row| row["metric"] == "pass@1, %").unwrap()["p"].as_f64().unwrap();
    assert!((p - 0.25).abs() < 5.0 * error(0.25) + 1e-4, "{p}");
}

#[test]
fn compare_says_what_is_wrong_with_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    write(folder.path(), "a", ["1", "2", "3", "4", "5", "6"].map(|id| verdict(id, true)));
    write(folder.path(), "b", ["1", "7"].map(|id| verdict(id, true)));
    write(folder.path(), "answers", [json!({"id": "1", "answer": "x"})]);
    write(folder.path(), "odd", [json!({"id": "1", "verdict": "good"})]);
    write(folder.path(), "numbers", [json!({"id": 1, "verdict": "pass"})]);
    write(folder.path(), "empty", []);
    let (a, b) = (format!("a={}", path("a")), format!("b={}", path("b")));
    let problems = "not the same problems: only a has 5 problem(s): 2, 3, 4, ...; only b has 1 problem(s): 7";
    assert_eq!(refused(&["compare", &a, &b]), format!("error: {}, {}: {problems}", path("a"), path("b")));
    let one_name = format!("error: a: {} and {} have one name; names tell models apart", path("a"), path("b"));
    assert_eq!(refused(&["compare", &a, &format!("a={}", path("b"))]), one_name);
    assert_eq!(refused(&["compare", "a.jsonl"]), "error: a.jsonl: NAME=FILE expected");
    assert_eq!(refused(&["compare", "=a.jsonl"]), "error: =a.jsonl: NAME=FILE expected");
    for (name, what) in [
        ("answers", "record 1: no verdict; `repairity check --answers FILE --output FILE` makes them"),
        (
            "odd",
            "record 1: verdict: unknown variant `good`, expected one of `pass`, `fail`, `timeout`, `memory`, `error`, `refused`",
        ),
        ("numbers", "record 1: no `id` that is a text"),
        ("empty", "no verdicts in it"),
    ] {
        assert_eq!(refused(&["compare", &format!("x={}", path(name))]), format!("error: {}: {what}", path(name)));
    }
    let suite = benchmark(folder.path(), 2);
    let error = refused(&["compare", &a, "--suite", "mbpp", "--path", suite.to_str().unwrap()]);
    assert_eq!(error, format!("error: {}: the benchmark does not have 4 problem(s): 3, 4, 5, ...", path("a")));
    assert!(refused(&["compare", &a, "--path", "x"]).contains("--suite <NAME>"));
    assert!(refused(&["compare", &a, "--format", "html"]).contains("expected json, csv, markdown or latex"));
}

#[test]
fn a_report_has_four_forms() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    fs::create_dir_all(run.join("evaluation")).unwrap();
    let model = |rate: f64, bleu: f64| json!({"problems": 8, "samples": 2, "pass_at_1": rate, "interval": [0.1, 0.9], "pass_at_k": {"1": rate, "2": 0.75}, "compile_rate": 0.875, "no_code": 0.0, "unchanged": 0.25, "bleu": bleu, "bleu_signature": Config::default().signature(), "exact_match": 0.5, "edit_similarity": 0.625, "mean_tokens": 12.4});
    let comparison = json!({"from": "base", "to": "sft", "lost": 1, "won": 3, "delta": [0.25, -0.125, 0.625], "p": 0.625, "p_holm": 0.625, "bleu": {"delta": [10.0, 2.0, 18.0], "p": 0.01, "p_holm": 0.01}});
    let summary = json!({"models": {"base": model(0.25, 40.0), "sft": model(0.5, 50.0)}, "comparisons": [comparison]});
    fs::write(run.join("evaluation/summary.json"), summary.to_string()).unwrap();
    let recipe = folder.path().join("recipe.toml");
    fs::write(
        &recipe,
        format!(
            "out = {:?}\n[problems]\nsuite = \"swebench\"\n[evaluate]\nmodels = [\"base\", \"sft\"]\n",
            run.display().to_string()
        ),
    )
    .unwrap();
    let recipe = recipe.to_str().unwrap();
    let shown = out(&repairity(&["report", recipe]));
    for line in [
        "8 problems of swebench (test split), 2 answer(s) each at temperature 0.2\n\n| model | resolved % | 95 % low | 95 % high | pass@2 % | compiles % |",
        "| +RT | 50.0 | 10.0 | 90.0 | 75.0 | 87.5 | 0.0 | 25.0 | 50.0 | 50.0 | 62.5 | 12 |",
        "| base | +RT | first answer passes, % | 25.0 | -12.5 | 62.5 | 1 | 3 | exact McNemar | 6.25e-1 | 6.25e-1 |",
        "| base | +RT | BLEU | 10.0 | 2.0 | 18.0 | – | – | approximate randomisation | 1.00e-2 | 1.00e-2 |",
        "base and +RT differ on 4 problem(s): fewer than 6 can never reach p = 0.05.",
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    let read = |name: &str| fs::read_to_string(run.join(name)).unwrap();
    assert_eq!(read("report.md"), shown);
    let csv = out(&repairity(&["report", recipe, "--format", "csv"]));
    assert_eq!(csv, format!("{}\n{}", read("results.csv"), read("comparisons.csv")));
    assert!(read("results.csv").contains("\n+RT,50,10,90,75,87.5,0,25,50,50,62.5,12.4\n"), "{csv}");
    let latex = out(&repairity(&["report", recipe, "--format", "latex"]));
    assert_eq!(latex, read("results.tex"));
    assert!(latex.contains("model & resolved \\% & 95 \\% low &") && latex.contains("% BLEU: nrefs:1|case:mixed|"), "{latex}");
    let value: Value = serde_json::from_str(&out(&repairity(&["report", recipe, "--format", "json"]))).unwrap();
    assert_eq!((&value["models"][1]["resolved %"], &value["comparisons"][1]["p"]), (&json!(50.0), &json!(0.01)));
}

/// QuixBugs' bugs beside their solutions: sacrebleu 2.6.0 on the same 40 texts, and on Python's own tokens (`tokenize`, what is left
/// without line ends and indentation) of the 37 that have no comment.
#[test]
fn real_programs_score_as_sacrebleu_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/quixbugs/quixbugs_python.jsonl");
    let Ok(text) = fs::read_to_string(&path) else {
        println!("skipped: {} is not there", path.display());
        return;
    };
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let pairs: Vec<(&str, &str)> =
        rows.iter().map(|row| (row["buggy_program"].as_str().unwrap(), row["solution"].as_str().unwrap())).collect();
    let plain: Vec<(&str, &str)> = pairs.iter().copied().filter(|(a, b)| !a.contains('#') && !b.contains('#')).collect();
    assert_eq!((pairs.len(), plain.len()), (40, 37));
    let all = [("13a", 95.40932401549394), ("none", 91.00797637879582), ("char", 96.84342603267437)];
    for (name, pairs, expected) in
        all.map(|(name, expected)| (name, &pairs, expected)).into_iter().chain([("code", &plain, 94.7271861497648)])
    {
        let score = Config::named(name).unwrap().corpus(pairs.iter().copied()).score;
        assert!((score - expected).abs() < 1e-10, "{name}: {score}, {expected} expected");
    }
}
