//! The report's page and charts: what stands in them, that they fetch nothing and run nothing that a model wrote, that they are the same
//! bytes every time, and which runs may stand beside each other.

#[path = "support/program.rs"]
#[allow(dead_code)] // Other tests use more of it.
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::checkpoint;
use repairity::comm;
use repairity::device::Cpu;
use repairity::metric::bleu::Config;
use repairity::metric::comparison::pairwise;
use repairity::model::Architecture;
use repairity::recipe::Recipe;
use repairity::record::{Candidate, HeldOut, Preference, Problem, Split, Verdict, read_jsonl, write_jsonl};
use repairity::score::RewardModel;
use repairity::stage::{Files, evaluate, reward};
use repairity::{problem::micro, record::Outcome, report};
use serde_json::{Value, json};

/// What models write to be more than text.
const HOSTILE: &str =
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & </pre> {{ 7 * 7 }}";

/// A run's folder with its recipe.
struct Run {
    recipe: Recipe,
}

/// Problems that each model's first answer passes, by the model.
type Passed<'a> = [(&'a str, &'a [usize])];

impl Run {
    fn new(folder: &Path, name: &str, more: &str) -> Run {
        let (path, out) = (folder.join(format!("{name}.toml")), folder.join(name));
        let text =
            format!("out = {out:?}\n{more}\n[problems]\nsuite = \"micro\"\ncount = 9\n[teacher]\nprovider = \"scripted\"\n");
        fs::create_dir_all(out.join("evaluation")).unwrap();
        fs::write(&path, text).unwrap();
        Run { recipe: Recipe::load(&path, &[]).unwrap() }
    }

    fn files(&self) -> Files {
        Files::of(&self.recipe)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.recipe.out.join(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.recipe.out.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes an evaluation on nine problems, and the manifest.
    fn evaluated(&self, passed: &Passed) {
        let problems = problems();
        write_jsonl(&self.files().problems(), &problems).unwrap();
        let tested: Vec<&Problem> = problems.iter().filter(|problem| problem.split == Some(Split::Test)).collect();
        let (mut models, mut scored) = (BTreeMap::new(), Vec::new());
        for (name, passed) in passed {
            let answers: Vec<Candidate> = tested.iter().enumerate().map(|(i, p)| answer(name, p, passed.contains(&i))).collect();
            write_jsonl(&self.files().evaluation(name), &answers).unwrap();
            let scores = evaluate::scores(&tested, &answers, Config::default());
            models.insert(name.to_string(), evaluate::measure(&tested, &answers, &scores, 17));
            scored.push((name.to_string(), scores));
        }
        let comparisons = pairwise(&scored, 17).unwrap();
        let summary = json!({"suite": "micro", "split": "test", "models": models, "comparisons": comparisons});
        self.write("evaluation/summary.json", &summary.to_string());
        let stage = |name: &str, seconds: f64| json!({"name": name, "state": "done", "seconds": seconds, "device": "cpu", "version": "0.1.0", "inputs": {}, "outputs": {"x": "abc"}, "settings": null});
        let stages = [stage("sft", 90.0), stage("evaluate", 7200.0)];
        let manifest = json!({"version": "0.1.0", "recipe": self.recipe.to_toml(), "device": "cpu", "stages": stages});
        self.write("manifest.json", &manifest.to_string());
    }
}

/// Nine problems to test on, one to train on.
fn problems() -> Vec<Problem> {
    let mut problems = micro::generate(3, 10);
    for (index, problem) in problems.iter_mut().enumerate() {
        problem.split = Some(if index < 9 { Split::Test } else { Split::Train });
        (problem.kind, problem.difficulty) = (format!("kind{}", index % 2), ["easy", "hard"][index % 2].into());
    }
    problems[0].prompt = HOSTILE.into();
    problems
}

fn answer(model: &str, problem: &Problem, passes: bool) -> Candidate {
    let code = if passes { problem.reference.clone() } else { problem.buggy.clone() }.unwrap();
    let code = if passes { code } else { format!("{code}\n# {HOSTILE}") };
    Candidate {
        id: problem.id.clone(),
        index: 0,
        model: model.into(),
        temperature: 0.2,
        text: format!("{HOSTILE} {model}\n```python\n{code}\n```"),
        answer: code,
        verdict: Some(Verdict {
            verdict: if passes { Outcome::Pass } else { Outcome::Fail },
            reason: if passes { String::new() } else { HOSTILE.into() },
            compiled: Some(true),
            seconds: 0.1,
        }),
        extra: Default::default(),
    }
}

/// base solves 0, 1, 2; sft 1 to 5; ppo all but 0.
const PASSED: [(&str, &[usize]); 3] = [("base", &[0, 1, 2]), ("sft", &[1, 2, 3, 4, 5]), ("ppo", &[1, 2, 3, 4, 5, 6, 7, 8])];

/// A run with something of everything.
fn whole(folder: &Path) -> Run {
    let run = Run::new(folder, "whole", "");
    run.evaluated(&PASSED);
    let mut metrics = String::new();
    for step in 1..=4 {
        let mut line = json!({"stage": "sft", "step": step, "loss": 1.0 / f64::from(step), "lr": 1e-5});
        if step % 2 == 0 {
            line["validation_loss"] = json!(0.5);
        }
        metrics += &format!("{line}\n");
        let epochs = json!([{"ratio": if step == 1 { 0.0 } else { 1.0 }, "clip_fraction": 0.1, "entropy": 1.0, "value_loss": null}, {"clip_fraction": 0.3, "entropy": 0.5, "value_loss": 2.0}]);
        let line = json!({"stage": "ppo", "step": step, "score": -1.0, "reward": 0.5, "kl": 0.1, "length": 12, "lr": 1e-5, "critic_lr": 1e-4, "explained_variance": null, "epochs": epochs});
        metrics += &format!("{line}\n");
    }
    run.write("metrics.jsonl", &metrics);
    run.write("judging.json", &json!({"pairs": 10, "labelled": 8, "agreement": 0.8, "first_place": 0.5}).to_string());
    let pair = |label: f64, margin: f64| json!({"id": "1", "label": label, "margin": margin}).to_string() + "\n";
    let three = 3f64.ln();
    run.write("reward/validation.jsonl", &[pair(1.0, three), pair(1.0, three), pair(1.0, three), pair(1.0, -three)].concat());
    run.write("gpu.jsonl", "{\"time\": 100.0, \"stage\": \"sft\", \"gpu\": 0, \"utilization\": 0.97, \"power_w\": 512.3}\n");
    let paid = |purpose: &str| {
        json!({"id": "1", "purpose": purpose, "text": "", "usage": {"input_tokens": 1000, "output_tokens": 2000}}).to_string()
            + "\n"
    };
    run.write("teacher.jsonl", &[paid("trace"), paid("compare")].concat());
    run
}

#[test]
fn the_page_holds_the_whole_run() {
    let folder = tempfile::tempdir().unwrap();
    let run = whole(folder.path());
    report::run(&run.recipe).unwrap();
    let page = run.read("report.html");
    let row = |name: &str| {
        let start = page.find(&format!("<th scope=\"row\">{name}</th>")).unwrap_or_else(|| panic!("no row of {name}"));
        page[start..].split("</tr>").next().unwrap().replace("<td class=\"n\">", "|").replace("</td>", "")
    };
    // 3 and 8 of 9; Wilson's intervals; 6 won (3 to 8), 1 lost (0): two-sided, 2 (1 + 7) / 2^7 = 0.125, of 3 comparisons.
    assert!(row("base").starts_with("<th scope=\"row\">base</th>|33.3|12.1 to 64.6|–|–|–|–|–"), "{}", row("base"));
    let last = row("+RT+RLLF");
    assert!(last.contains("|88.9|56.5 to 98.0|+55.6|") && last.contains("|6 &#x2f; 1|0.125|"), "{last}");
    for text in [
        "9 problems of micro (test split), 1 answer(s) each at temperature 0.2.",
        // Three of four pairs are right with a confidence of σ(ln 3) = 0.75.
        "<dd>75.0 % <small>30.1 to 95.4 with 95 %</small>",
        "<dt>expected calibration error</dt><dd>0.000 ",
        "<td class=\"n\">1 min 30 s</td>",
        "<td class=\"n\">2 h</td>",
        "1000 + 2000",
        "The teacher is a script, which costs nothing.",
        "8 of 10 pairs labelled",
        "All 9 problems.",
        "solved before and after (2)",
        "fixed by training (6)",
        "broken by training (1)",
        "provider = &quot;scripted&quot;",
    ] {
        assert!(page.contains(text), "{text} is not in the page");
    }
    let plots: Vec<String> = {
        let mut names: Vec<String> =
            fs::read_dir(run.files().plots()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    // value_loss is null in one epoch, explained_variance in all.
    for name in
        ["gpu-busy", "gpu-power", "pass-rate", "ppo-learning-rate", "ppo-value-loss", "reward-calibration", "sft-loss", "time"]
    {
        assert!(plots.contains(&format!("{name}.svg")), "{name} is not among {plots:?}");
    }
    assert!(!plots.iter().any(|name| ["gpu-memory.svg", "ppo-explained-variance.svg"].contains(&name.as_str())), "{plots:?}");
    // Four iterations of two epochs, but for one epoch in which the policy waited.
    let clip = run.read("plots/ppo-clip-fraction.svg");
    assert_eq!((clip.matches("<circle").count(), clip.matches("<polyline").count()), (7, 1), "{clip}");
}

/// A process that was killed leaves half a line, and a later one may have appended to it.
#[test]
fn half_a_line_ended_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let run = whole(folder.path());
    for name in ["metrics.jsonl", "teacher.jsonl", "gpu.jsonl"] {
        let before = run.read(name);
        run.write(name, &format!("{{\"stage\": \"sf\n{before}{{\"stage\""));
    }
    report::run(&run.recipe).unwrap();
    assert!(
        run.read("report.md").contains("| sft | 4 steps, loss 0.2500, validation loss 0.5000 |"),
        "{}",
        run.read("report.md")
    );
    assert!(run.read("report.html").contains("1000 + 2000"));
}

#[test]
fn nothing_is_fetched_and_what_models_write_is_text() {
    let folder = tempfile::tempdir().unwrap();
    let run = whole(folder.path());
    report::run(&run.recipe).unwrap();
    let page = run.read("report.html");
    assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (1, 1));
    for foreign in ["http://", "https://", "<img", "<link", "<iframe", "url(", "@import", "import(", "fetch("] {
        assert!(!page.contains(foreign), "{foreign} is in the page");
    }
    assert!(page.match_indices("href=").all(|(at, _)| page[at..].starts_with("href=\"#")), "a link leads out of the page");
    // As an attribute; as text a model's stays.
    assert_eq!(page.matches(" src=x").count(), page.matches("&lt;img src=x").count());
    assert!(page.contains("{{ 7 * 7 }}") && page.contains("&lt;&#x2f;script&gt;"), "hostile text is not shown as it is");
    assert!(page.contains("script-src 'sha256-"), "the page has no policy");
}

#[test]
fn charts_are_well_formed_and_bytes_repeat() {
    let folder = tempfile::tempdir().unwrap();
    let run = whole(folder.path());
    run.write("plots/old.svg", "<svg/>");
    let all = || {
        report::run(&run.recipe).unwrap();
        let entries = fs::read_dir(run.files().plots()).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<PathBuf> = entries.chain([run.files().page(), run.files().report()]).collect();
        paths.sort();
        paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect::<Vec<_>>()
    };
    let first = all();
    assert_eq!(first, all());
    assert!(!run.files().plots().join("old.svg").exists(), "a chart of an earlier report is still there");
    let charts: Vec<&PathBuf> = first.iter().map(|(path, _)| path).filter(|path| path.extension().unwrap() == "svg").collect();
    assert!(charts.len() > 12, "{charts:?}");
    let script = "import sys, xml.etree.ElementTree as e\nfor p in sys.argv[1:]:\n    r = e.parse(p).getroot()\n    assert r.tag == '{http://www.w3.org/2000/svg}svg' and r[0].text, p";
    let output = Command::new("python3").arg("-c").arg(script).args(&charts).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn models_of_another_run_stand_beside() {
    let folder = tempfile::tempdir().unwrap();
    let direct = Run::new(folder.path(), "direct", "sft.objective = \"direct\"");
    direct.evaluated(&[PASSED[0], ("sft", &[1]), ("ppo", &[1, 2])]);
    let beside = |name: &str| format!("report.beside = [{:?}]", folder.path().join(name));
    let run = Run::new(folder.path(), "run", &beside("direct"));
    run.evaluated(&PASSED);
    report::run(&run.recipe).unwrap();
    // The other run's base gave the same answers and is no row of its own.
    let firsts: Vec<String> =
        run.read("results.csv").lines().skip(1).map(|line| line.split(',').take(2).collect::<Vec<_>>().join(" ")).collect();
    let starts = ["base 33.3", "+RT 55.5", "+RT+RLLF 88.8", "+direct output 11.1", "+direct output+RLLF 22.2"];
    assert_eq!(firsts.len(), 5, "{firsts:?}");
    assert!(firsts.iter().zip(starts).all(|(row, start)| row.starts_with(start)), "{firsts:?}");
    let comparisons = run.read("comparisons.csv");
    assert_eq!(comparisons.lines().filter(|line| line.contains("exact McNemar")).count(), 10);
    // base to direct: 0 and 2 lost, nothing won; 2 / 2^2 = 0.5.
    assert!(comparisons.lines().any(|line| line.starts_with("base,+direct output,") && line.contains(",2,0,exact McNemar,0.5,")));
    assert!(run.read("report.md").contains("| +direct output+RLLF | 22.2 |"));
    assert!(run.read("report.html").contains("<th scope=\"row\">+direct output+RLLF</th>"));

    let complaint = |name: &str| {
        let run = Run::new(folder.path(), "other", &beside(name));
        run.evaluated(&PASSED);
        let error = report::run(&run.recipe).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    let mut changed = problems();
    changed[4].buggy = Some("def f():\n    pass".into());
    write_jsonl(&direct.files().problems(), &changed).unwrap();
    let at = format!("report.beside: {}", folder.path().join("direct").display());
    let differs = format!("{at}: expected an evaluation on the same problems, but its problem {} is another one", changed[4].id);
    assert_eq!(complaint("direct"), differs);
    let lost = changed.remove(4).id;
    write_jsonl(&direct.files().problems(), &changed).unwrap();
    assert_eq!(complaint("direct"), format!("{at}: expected an evaluation on the same problems, but it lacks problem {lost}"));
    let mut summary: Value = serde_json::from_str(&direct.read("evaluation/summary.json")).unwrap();
    summary["split"] = json!("validation");
    direct.write("evaluation/summary.json", &summary.to_string());
    assert_eq!(complaint("direct"), format!("{at}: expected an evaluation on the split test, found \"validation\""));
    let none = folder.path().join("none").display().to_string();
    assert_eq!(complaint("none"), format!("report.beside: {none}: expected a run folder, found no manifest.json in it"));
}

#[test]
fn an_unfinished_run_has_a_report_of_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::new(folder.path(), "run", "");
    let error = report::run(&run.recipe).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().ends_with("nothing to report yet: no stage has written here"), "{error}");
    run.write("metrics.jsonl", "{\"stage\":\"sft\",\"step\":1,\"loss\":0.5,\"lr\":0.1,\"validation_loss\":0.25}\n");
    report::run(&run.recipe).unwrap();
    assert_eq!(
        run.read("report.md"),
        "| stage | what it came to |\n|---|---|\n| sft | 1 steps, loss 0.5000, validation loss 0.2500 |\n"
    );
    let page = run.read("report.html");
    assert!(page.contains("<section id=\"training\">") && page.contains("This run has not been evaluated yet"));
    assert!(["results", "examples", "reward-model"].iter().all(|id| !page.contains(&format!("<section id=\"{id}\">"))));
    assert!(!run.recipe.out.join("results.csv").exists());
    // What it writes is what it says it writes.
    assert!(report::outputs(&run.recipe).iter().all(|path| path.exists()));
    assert_eq!(report::inputs(&run.recipe), [run.files().metrics()]);
}

#[test]
fn few_examples_still_have_every_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::new(folder.path(), "run", "report.examples = 3");
    run.evaluated(&PASSED);
    report::run(&run.recipe).unwrap();
    let page = run.read("report.html");
    let classes: Vec<&str> =
        page.match_indices("data-class=\"").map(|(at, start)| page[at + start.len()..].split('"').next().unwrap()).collect();
    assert_eq!(classes, ["fixed", "broken", "solved"]);
    assert!(page.contains("3 of 9 problems, every outcome in turn"));
}

/// The browser's view of a page, after its script has run; none where there is no browser.
fn dom(url: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let browser =
        std::env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name))).find(|file| file.is_file())?;
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"])
        .args(["--disable-sync", "--no-first-run", "--virtual-time-budget=2000", "--dump-dom"])
        .arg("--timeout=20000")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(url)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // A browser that cannot start here is as good as none.
    if text.contains("</html>") { Some(text) } else { None }
}

#[test]
fn a_browser_shows_one_example_and_runs_nothing_of_a_models() {
    let folder = tempfile::tempdir().unwrap();
    let run = whole(folder.path());
    report::run(&run.recipe).unwrap();
    let Some(page) = dom(&format!("file://{}#example-3", run.files().page().display())) else {
        println!("skipped: no browser");
        return;
    };
    assert!(page.contains("<title>Qwen2.5-Coder-32B-Instruct on micro: repairity</title>"), "a model's script ran");
    let articles: Vec<&str> = page.match_indices("<article ").map(|(at, _)| page[at..].split('>').next().unwrap()).collect();
    let shown: Vec<&&str> = articles.iter().filter(|article| !article.contains("hidden")).collect();
    assert_eq!((articles.len(), shown.len()), (9, 1), "{articles:?}");
    assert!(shown[0].contains("id=\"example-3\"") && page.contains("<output id=\"place\">3 of 9</output>"), "{shown:?}");
    assert!(page.contains("Theme: auto</button>"), "the script of the page did not run");
}

#[test]
fn margins_are_of_the_model_that_was_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (model, data, out) = (folder.path().join("llama"), folder.path().join("pairs.jsonl"), folder.path().join("run"));
    checkpoint(&model, Architecture::Llama);
    let pair = |i: usize| Preference {
        id: format!("p{i}"),
        prompt: format!("Fix the bug in f{i}."),
        chosen: format!("return a + {i}"),
        rejected: format!("return a - {}", i * 3),
        label: 1.0,
        judgments: Vec::new(),
        extra: Default::default(),
    };
    let pairs: Vec<Preference> = (0..8).map(pair).collect();
    write_jsonl(&data, &pairs).unwrap();
    let recipe = folder.path().join("recipe.toml");
    // Steps so large that no epoch is another's equal: whichever is kept, its margins are written.
    let text = format!(
        "out = {out:?}\ndevice = \"cpu\"\nhygiene.enabled = false\n[reward]\nmodel = {model:?}\ndata = {data:?}\nvalidation = 0.5\n\
        learning_rate = 0.05\nepochs = 3\nsequences_per_device = 2\naccumulation = 1\n"
    );
    fs::write(&recipe, text).unwrap();
    let recipe = Recipe::load(&recipe, &[]).unwrap();
    let device = Cpu::<f32>::new();
    reward::run(&device, &comm::solo(), &recipe).unwrap();
    let files = Files::of(&recipe);
    let found: Vec<HeldOut> = read_jsonl(&files.reward_validation()).unwrap();
    assert_eq!(found.len(), 4);
    let kept = RewardModel::load(&device, &files.reward_model()).unwrap();
    for one in &found {
        let pair = pairs.iter().find(|pair| pair.id == one.id).unwrap();
        let texts = [(pair.prompt.as_str(), pair.chosen.as_str()), (pair.prompt.as_str(), pair.rejected.as_str())];
        let scores = kept.score_texts(&device, &texts, recipe.reward.max_tokens).unwrap();
        // The same numbers, perhaps summed in another order: some units of 2^-24 of the scores through two layers.
        let bound = 1e-4 * (1.0 + scores[0].abs() + scores[1].abs());
        assert!(one.label == 1.0 && (one.margin - (scores[0] - scores[1])).abs() < bound, "{one:?}, {scores:?}");
    }
}
