//! What README.md and docs/ say holds: their commands run, their links lead somewhere, their examples are records of the program, the
//! errors that they quote are its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use repairity::hygiene::Dropped;
use repairity::metric::comparison::Comparison;
use repairity::recipe::Recipe;
use repairity::record::{Candidate, Conversation, HeldOut, Preference, Problem, Trace};
use repairity::run::Manifest;
use repairity::teacher::recorded::Recorded;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Of each page, how many commands are run, and of how many only the arguments are looked at: a fence that loses its `sh` shows.
const COMMANDS: [(&str, usize, usize); 12] = [
    ("README.md", 3, 0),
    ("docs/benchmarks.md", 9, 11),
    ("docs/data-formats.md", 4, 0),
    ("docs/kernels.md", 0, 0),
    ("docs/method.md", 1, 6),
    ("docs/quickstart.md", 3, 1),
    ("docs/recipes.md", 5, 6),
    ("docs/scaling.md", 1, 0),
    ("docs/speed.md", 7, 2),
    ("docs/teacher.md", 2, 0),
    ("docs/troubleshooting.md", 1, 0),
    ("docs/using.md", 2, 6),
];

/// Files of a run folder that only some runs leave: with data of one's own, with batches, on a GPU, while a stage runs.
const SOMETIMES: [&str; 5] =
    ["teacher.batches.jsonl", "sft.data.dropped.jsonl", "reward.data.dropped.jsonl", "gpu.jsonl", "*/state/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and docs/*.md, by their paths from the root.
fn pages() -> BTreeMap<String, String> {
    let mut pages = BTreeMap::from([("README.md".to_string(), fs::read_to_string(root().join("README.md")).unwrap())]);
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            let name = format!("docs/{}", path.file_name().unwrap().to_str().unwrap());
            pages.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
    pages
}

/// The fenced blocks of a page: what a fence is marked with, and what is inside. A fence may be longer than three backticks.
fn fences(page: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut open: Option<usize> = None;
    for line in page.lines() {
        let ticks = line.len() - line.trim_start_matches('`').len();
        match open {
            None if ticks >= 3 => {
                open = Some(ticks);
                found.push((line[ticks..].to_string(), String::new()));
            }
            Some(fence) if ticks >= fence && line.len() == ticks => open = None,
            Some(_) => found.last_mut().unwrap().1.push_str(&format!("{line}\n")),
            None => {}
        }
    }
    assert!(open.is_none(), "a fence that nothing closes");
    found
}

/// A page without its fenced blocks.
fn prose(page: &str) -> String {
    let mut fenced = false;
    let mut text = String::new();
    for line in page.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            text += &format!("{line}\n");
        }
    }
    text
}

/// The lines of a block that call the program, each with what continues it, without its comment; from `repairity` on, whatever starts it.
fn commands(block: &str) -> Vec<String> {
    let lines = block.replace("\\\n", " ");
    let bare = lines.lines().map(|line| line.split(" #").next().unwrap_or_default().trim_end());
    let call = |line: &str| {
        let at = if line.starts_with("repairity ") { 0 } else { line.find(" repairity ")? + 1 };
        ["repairity", "srun", "torchrun"].iter().any(|first| line.starts_with(first)).then(|| line[at..].to_string())
    };
    bare.filter_map(call).collect()
}

/// Runs what stands in a document, by the shell, as a reader does.
fn shell(command: &str, folder: &Path) -> Output {
    let program = command.replace("&& repairity ", &format!("&& {} ", env!("CARGO_BIN_EXE_repairity")));
    let program = format!("{}{}", env!("CARGO_BIN_EXE_repairity"), &program["repairity".len()..]);
    let mut shell = Command::new("sh");
    for variable in ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "WORLD_SIZE", "RANK", "SLURM_NTASKS", "SLURM_PROCID"] {
        shell.env_remove(variable);
    }
    shell.args(["-c", &program]).current_dir(folder).output().unwrap()
}

/// Whether the recipe that a command names takes what the command changes in it.
fn loads(command: &str) -> repairity::error::Result<()> {
    // As the shell takes quotes away; what it would pipe or redirect is no word of ours.
    let call = command.split(['|', '>', '&']).next().unwrap_or_default();
    let output = Command::new("sh").args(["-c", &format!("printf '%s\\n' {call}")]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = printed.lines().collect();
    let Some(recipe) = words.iter().find(|word| word.starts_with("recipes/")) else { return Ok(()) };
    let sets: Vec<String> = words.windows(2).filter(|pair| pair[0] == "--set").map(|pair| pair[1].to_string()).collect();
    Recipe::load(&root().join(recipe), &sets).map(drop)
}

/// A folder as the documents take it for granted: the repository's, and the files that a page shows.
fn prepared(page: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["assets", "recipes"] {
        symlink(root().join(name), folder.path().join(name)).unwrap();
    }
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("texts.jsonl", "{\"text\": \"def f(x):\\n    return x\"}\n");
    for (mark, inside) in fences(page) {
        match mark.as_str() {
            "toml" if inside.starts_with("[[problem]]") => write("problems.toml", &inside),
            "json" => write("shared.json", &inside),
            _ => {}
        }
    }
    // The code that the list of problems is about.
    fs::create_dir(folder.path().join("code")).unwrap();
    write("code/calc.py", "def add(a, b):\n    return a - b\n");
    let test = "import unittest, calc\n\nclass Sum(unittest.TestCase):\n    def test_sum(self):\n        self.assertEqual(calc.add(2, 3), 5)\n";
    write("code/test_calc.py", test);
    write("answers.jsonl", "{\"id\": \"calc\", \"answer\": \"def add(a, b):\\n    return a + b\\n\"}\n");
    folder
}

#[test]
fn the_commands_of_the_documents_run() {
    let mut counts = BTreeMap::new();
    for (name, page) in pages() {
        let (folder, nothing) = (prepared(&page), tempfile::tempdir().unwrap());
        let (mut run, mut looked_at) = (0, 0);
        for (mark, inside) in fences(&page) {
            for command in commands(&inside) {
                match mark.as_str() {
                    "sh" => {
                        let output = shell(&command, folder.path());
                        let said = String::from_utf8_lossy(&output.stderr);
                        assert_eq!(output.status.code(), Some(0), "{name}: {command}: {said}");
                        // Stages that print nothing tell what they wrote.
                        let told = !output.stdout.is_empty() || !said.is_empty();
                        assert!(told || command.contains('>') || command.contains("--output"), "{name}: {command}");
                        run += 1;
                    }
                    // What needs a GPU, a key, a data set or hours. Where nothing is, a command ends with what it misses, unless
                    // its arguments are wrong. What it changes in a recipe is looked at here, where the recipe is.
                    "" => {
                        loads(&command).unwrap_or_else(|e| panic!("{name}: {command}: {e}"));
                        let output = shell(&command, nothing.path());
                        let said = String::from_utf8_lossy(&output.stderr);
                        let wrong = said.contains("For more information, try '--help'");
                        assert!(!wrong, "{name}: {command}: {said}");
                        looked_at += 1;
                    }
                    _ => {}
                }
            }
        }
        counts.insert(name, (run, looked_at));
    }
    let expected = COMMANDS.iter().map(|(name, run, looked_at)| (name.to_string(), (*run, *looked_at))).collect();
    assert_eq!(counts, expected, "page, commands run, commands looked at");
}

/// `repairity COMMAND --help`, or nothing where there is no such command.
fn help(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_repairity")).args(words).arg("--help").output().unwrap();
    if output.status.success() { String::from_utf8(output.stdout).unwrap() } else { String::new() }
}

/// Whether a help text lists `name` among its commands or flags.
fn lists(help: &str, name: &str) -> bool {
    help.lines().any(|line| line.split([' ', ',', '=']).filter(|word| !word.is_empty()).take(2).any(|word| word == name))
}

#[test]
fn commands_that_a_text_names_have_the_flags_that_it_names() {
    let mut seen = 0;
    for (name, page) in pages() {
        for quoted in prose(&page).split('`').skip(1).step_by(2).filter(|quoted| quoted.starts_with("repairity ")) {
            let words: Vec<&str> = quoted.split_whitespace().skip(1).collect();
            if words[0] == "help" {
                continue;
            }
            let mut of = vec![words[0]];
            let mut text = help(&of);
            assert!(!text.is_empty(), "{name}: `{quoted}`: no such command");
            if words.get(1).is_some_and(|word| text.contains("Commands:") && lists(&text, word)) {
                of.push(words[1]);
                text = help(&of);
            }
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                assert!(lists(&text, flag), "{name}: `{quoted}`: {of:?} has no {flag}");
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} commands in texts");
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c)).collect::<String>();
    kept.replace(' ', "-")
}

fn anchors(page: &str) -> BTreeSet<String> {
    let headings = prose(page);
    headings.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut seen = 0;
    for (name, page) in &pages {
        let text = prose(page);
        let after = |mark: &str, end: char| -> Vec<String> {
            text.split(mark).skip(1).filter_map(|rest| Some(rest.split_once(end)?.0.to_string())).collect()
        };
        for link in [after("](", ')'), after("src=\"", '"'), after("srcset=\"", '"')].concat() {
            if link.starts_with("http") {
                continue;
            }
            seen += 1;
            let (path, place) = link.split_once('#').unwrap_or((&link, ""));
            let folder = Path::new(name).parent().unwrap();
            let target = if path.is_empty() { PathBuf::from(name) } else { folder.join(path) };
            // docs/../src/a.rs is src/a.rs.
            let target = target.to_str().unwrap().replace("docs/../", "");
            assert!(root().join(&target).exists(), "{name}: {link}: no such file");
            let there = pages.get(&target).is_some_and(|page| anchors(page).contains(place));
            assert!(place.is_empty() || there, "{name}: {link}: no such heading");
        }
    }
    assert!(seen > 30, "{seen} links");
}

#[test]
fn every_file_that_is_named_is_there() {
    let folders = ["recipes", "src", "tools", "docs", "tests", "kernels", "benches", "assets", ".ci"];
    let mut seen = 0;
    for (name, page) in pages() {
        for word in page.split(|c: char| c.is_whitespace() || "`()|,;:\"<>'".contains(c)) {
            let word = word.trim_end_matches(['.', '…']);
            let Some((first, rest)) = word.split_once('/') else { continue };
            if !folders.contains(&first) || rest.contains(['*', '…']) {
                continue;
            }
            seen += 1;
            assert!(root().join(word.split('#').next().unwrap()).exists(), "{name} names {word}, which is not there");
        }
    }
    assert!(seen > 50, "{seen} files");
}

#[test]
fn the_readme_is_read_in_two_minutes() {
    let lines = pages()["README.md"].lines().count();
    assert!(lines < 200, "{lines} lines");
}

#[test]
fn every_piece_of_a_recipe_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for (name, page) in pages() {
        for (_, inside) in fences(&page).into_iter().filter(|(mark, inside)| mark == "toml" && !inside.starts_with("[[problem]]"))
        {
            let path = folder.path().join("piece.toml");
            fs::write(&path, inside).unwrap();
            Recipe::load(&path, &[]).unwrap_or_else(|e| panic!("{name}: {e}"));
            seen += 1;
        }
    }
    assert!(seen >= 1);
}

/// The source as one text, string literals over several lines joined and quotes as they print.
fn source() -> String {
    let mut text = String::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                text += &fs::read_to_string(&path).unwrap();
            }
        }
    }
    let mut joined = String::new();
    for line in text.lines() {
        let line = if joined.ends_with('\\') { line.trim_start() } else { line };
        if joined.ends_with('\\') {
            joined.pop();
        } else {
            joined.push('\n');
        }
        joined += line;
    }
    joined.replace("\\\"", "\"")
}

#[test]
fn the_errors_that_are_quoted_are_the_program_s() {
    let (page, source) = (pages().remove("docs/troubleshooting.md").unwrap(), source());
    // What the system says.
    let elsewhere = ["No space left on device"];
    let mut seen = 0;
    for line in page.lines() {
        let Some(quoted) = line.strip_prefix("### `").and_then(|line| line.strip_suffix('`')) else { continue };
        seen += 1;
        for part in quoted.split('…').map(str::trim).filter(|part| !elsewhere.contains(part)) {
            assert!(source.contains(part), "docs/troubleshooting.md: src/ does not say `{part}`");
        }
        let words = quoted.chars().filter(|c| c.is_alphabetic()).count();
        assert!(words >= 6, "{quoted}: too little to find");
    }
    assert!(seen > 40, "{seen} errors");
}

/// docs/speed.md tells of every variable that the program and its build read.
#[test]
fn every_environment_variable_is_told() {
    let text = source() + &fs::read_to_string(root().join("build.rs")).unwrap();
    let told = pages().remove("docs/speed.md").unwrap();
    let name = |text: &str| text.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect::<String>();
    for (at, _) in text.match_indices("\"REPAIRITY_") {
        let variable = name(&text[at + 1..]);
        assert!(told.contains(&variable), "docs/speed.md: no {variable}");
    }
}

/// The examples of docs/data-formats.md, by the heading that they stand under.
fn examples() -> Vec<(String, String)> {
    let page = pages().remove("docs/data-formats.md").unwrap();
    let mut found = Vec::new();
    for section in page.split("\n### `").skip(1) {
        let name = section.split('`').next().unwrap();
        for (mark, inside) in fences(section) {
            if mark == "jsonl" {
                found.push((name.to_string(), inside.trim_end().to_string()));
            }
        }
    }
    found
}

/// An example is what it claims to be, and comes out as it went in.
fn round_trip<T: DeserializeOwned + Serialize>(name: &str, line: &str) {
    let record: T = serde_json::from_str(line).unwrap_or_else(|e| panic!("docs/data-formats.md: {name}: {e}"));
    assert_eq!(serde_json::to_string(&record).unwrap(), line, "docs/data-formats.md: {name}");
}

/// The shape of a value: its keys, and below them. Lists are as their first item, and what is keyed by names of the run is as one.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), shape(value))).collect(),
        Value::Array(items) => items.first().map_or(Value::Null, shape),
        _ => Value::Null,
    }
}

/// Files and folders of the table in docs/data-formats.md.
fn listed() -> Vec<String> {
    let page = pages().remove("docs/data-formats.md").unwrap();
    let table = page.split("## The run folder").nth(1).unwrap().split("\n### ").next().unwrap().to_string();
    let first = |row: &str| row.split('|').nth(1).unwrap_or_default().to_string();
    let cells = table.lines().filter(|line| line.starts_with("| `")).map(first).collect::<Vec<_>>().concat();
    cells.split('`').skip(1).step_by(2).map(Into::into).collect()
}

/// Whether a file of a run folder is what an entry of the table means.
fn is(file: &str, entry: &str) -> bool {
    match (entry.strip_suffix('/'), entry.split_once('*')) {
        (_, Some((before, after))) => file.starts_with(before) && file.contains(after),
        (Some(folder), None) => file.starts_with(&format!("{folder}/")),
        (None, None) => file == entry,
    }
}

#[test]
fn a_run_folder_holds_what_the_document_lists() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let settings = [
        &format!("out={}", out.display()),
        "problems.count=24",
        "problems.split=[0.4,0.3,0.3]",
        "sft.epochs=1",
        "candidates.max_new_tokens=48",
        "reward.epochs=1",
        "reward.validation=0.3",
        "ppo.iterations=1",
        "ppo.prompts_per_iteration=4",
        "ppo.max_new_tokens=24",
        "evaluate.samples=1",
        "evaluate.max_new_tokens=48",
        "device=cpu",
    ];
    let mut run = Command::new(env!("CARGO_BIN_EXE_repairity"));
    run.args(["run", "recipes/quickstart.toml"]).current_dir(root());
    for setting in settings {
        run.args(["--set", setting]);
    }
    let output = run.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));

    let (mut files, mut folders) = (Vec::new(), vec![out.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path.strip_prefix(&out).unwrap().to_str().unwrap().to_string()),
            }
        }
    }
    let listed = listed();
    for file in &files {
        assert!(listed.iter().any(|entry| is(file, entry)), "docs/data-formats.md does not list {file}");
    }
    for entry in listed.iter().filter(|entry| !SOMETIMES.contains(&entry.as_str())) {
        let there = files.iter().any(|file| is(file, entry));
        assert!(there, "docs/data-formats.md lists {entry}, which the run did not leave");
    }

    // What the examples of files without a public type have is what this run wrote.
    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap() };
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let last = |stage: &str| {
        let mut lines = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.rfind(|line| line["stage"] == stage).unwrap()
    };
    let mut stages = BTreeSet::new();
    for (name, line) in examples() {
        let told: Value = serde_json::from_str(&line).unwrap();
        let (told, wrote) = match name.as_str() {
            "judging.json" => (told, read("judging.json")),
            "score_scale.json" => (told, read("reward/model/score_scale.json")),
            "metrics.jsonl" => {
                let stage = told["stage"].as_str().unwrap().to_string();
                stages.insert(stage.clone());
                (told, last(&stage))
            }
            "evaluation/summary.json" => {
                let mut told = told;
                let mut wrote = read("evaluation/summary.json");
                // One model is shown of three, and kinds, outcomes and k are what a run has.
                let sft = wrote["models"]["sft"].clone();
                wrote["models"] = serde_json::json!({ "sft": sft });
                for side in [&mut told, &mut wrote] {
                    let model = &mut side["models"]["sft"];
                    ["by", "outcomes", "pass_at_k"].into_iter().for_each(|key| model[key] = Value::Null);
                }
                (told, wrote)
            }
            _ => continue,
        };
        assert_eq!(shape(&told), shape(&wrote), "docs/data-formats.md: {name}");
    }
    assert_eq!(stages.into_iter().collect::<Vec<_>>(), ["ppo", "reward", "sft"]);
}

#[test]
fn the_examples_are_what_they_claim_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = BTreeSet::new();
    for (name, line) in examples() {
        match name.as_str() {
            "problems.jsonl" => round_trip::<Problem>(&name, &line),
            "dropped.jsonl" => round_trip::<Dropped>(&name, &line),
            "traces.jsonl" => round_trip::<Trace>(&name, &line),
            "sft.jsonl" => round_trip::<Conversation>(&name, &line),
            "candidates.jsonl" | "evaluation/*.jsonl" => round_trip::<Candidate>(&name, &line),
            "preferences.jsonl" => round_trip::<Preference>(&name, &line),
            "reward/validation.jsonl" => round_trip::<HeldOut>(&name, &line),
            "manifest.json" => round_trip::<Manifest>(&name, &line),
            "teacher.jsonl" => {
                let path = folder.path().join("teacher.jsonl");
                fs::write(&path, format!("{line}\n")).unwrap();
                Recorded::open(&path).unwrap_or_else(|e| panic!("docs/data-formats.md: {e}"));
            }
            "evaluation/summary.json" => {
                let summary: Value = serde_json::from_str(&line).unwrap();
                round_trip::<Vec<Comparison>>(&name, &summary["comparisons"].to_string());
            }
            // Compared with what a run writes, in another test.
            "judging.json" | "score_scale.json" | "metrics.jsonl" => {}
            other => panic!("docs/data-formats.md: an example of {other}, which no test reads"),
        }
        seen.insert(name);
    }
    assert_eq!(seen.len(), 14, "{seen:?}");
}
