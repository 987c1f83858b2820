//! The stage runner: what is run, what is skipped, what a run that ended early leaves.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use repairity::error::{Error, Result};
use repairity::recipe::Recipe;
use repairity::run::{Done, Manifest, Runner, StageSpec, State};
use serde_json::json;

/// A run folder with one input from outside, `data`, and three stages: filter copies `data` to `a`, sft copies `a` to `b`,
/// report copies `b` to `c`.
struct Run {
    root: tempfile::TempDir,
    ran: RefCell<Vec<&'static str>>,
    learning_rate: f64,
}

impl Run {
    fn new() -> Run {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("data"), "1").unwrap();
        Run { root, ran: RefCell::default(), learning_rate: 1e-5 }
    }

    fn out(&self) -> PathBuf {
        self.root.path().join("run")
    }

    fn recipe(&self) -> Recipe {
        Recipe { out: self.out(), ..Recipe::default() }
    }

    fn open(&self, fresh: bool) -> Runner {
        Runner::open(&self.recipe(), fresh).unwrap()
    }

    fn spec(&self, name: &'static str, input: PathBuf, output: &str) -> StageSpec {
        StageSpec {
            name,
            inputs: vec![input],
            outputs: vec![self.out().join(output)],
            state: vec![self.out().join("checkpoints").join(name)],
            settings: if name == "sft" { json!({ "learning_rate": self.learning_rate }) } else { json!({}) },
        }
    }

    fn specs(&self) -> [StageSpec; 3] {
        [
            self.spec("filter", self.root.path().join("data"), "a"),
            self.spec("sft", self.out().join("a"), "b"),
            self.spec("report", self.out().join("b"), "c"),
        ]
    }

    fn all(&self, mut runner: Runner) -> Vec<Done> {
        self.specs().iter().map(|spec| runner.stage(spec, || self.copy(spec)).unwrap()).collect()
    }

    fn copy(&self, spec: &StageSpec) -> Result<String> {
        self.ran.borrow_mut().push(spec.name);
        fs::copy(&spec.inputs[0], &spec.outputs[0]).unwrap();
        Ok(String::new())
    }

    fn ran(&self) -> Vec<&'static str> {
        self.ran.take()
    }

    fn manifest(&self) -> Manifest {
        Manifest::read(&self.out().join("manifest.json")).unwrap()
    }

    fn checkpoint(&self) -> PathBuf {
        self.out().join("checkpoints/sft")
    }
}

use Done::{Outside, Ran, Unchanged};

#[test]
fn what_is_unchanged_is_skipped() {
    let run = Run::new();
    assert_eq!(run.all(run.open(false)), [Ran, Ran, Ran]);
    assert_eq!(run.all(run.open(false)), [Unchanged, Unchanged, Unchanged]);
    assert_eq!(run.ran(), ["filter", "sft", "report"]);
}

#[test]
fn a_changed_input_runs_what_depends_on_it() {
    let run = Run::new();
    run.all(run.open(false));
    run.ran();
    fs::write(run.root.path().join("data"), "2").unwrap();
    assert_eq!(run.all(run.open(false)), [Ran, Ran, Ran]);
    assert_eq!(fs::read_to_string(run.out().join("c")).unwrap(), "2");
}

#[test]
fn a_changed_setting_runs_its_stage_and_stops_where_outputs_are_the_same() {
    let mut run = Run::new();
    run.all(run.open(false));
    run.learning_rate = 5e-6;
    // sft writes what it wrote before, so report has nothing new to say.
    assert_eq!(run.all(run.open(false)), [Unchanged, Ran, Unchanged]);
}

#[test]
fn an_output_that_vanished_or_was_edited_is_made_again() {
    let run = Run::new();
    run.all(run.open(false));
    fs::remove_file(run.out().join("b")).unwrap();
    assert_eq!(run.all(run.open(false)), [Unchanged, Ran, Unchanged]);
    fs::write(run.out().join("b"), "edited").unwrap();
    assert_eq!(run.all(run.open(false)), [Unchanged, Ran, Unchanged]);
    assert_eq!(fs::read_to_string(run.out().join("b")).unwrap(), "1");
}

#[test]
fn from_and_until_bound_the_run() {
    let run = Run::new();
    assert_eq!(run.all(run.open(false).between(None, Some("sft")).unwrap()), [Ran, Ran, Outside]);
    fs::write(run.root.path().join("data"), "2").unwrap();
    assert_eq!(run.all(run.open(false).between(Some("sft"), None).unwrap()), [Outside, Unchanged, Ran]);

    let error = run.open(false).between(Some("sft"), Some("filter")).err().unwrap();
    assert_eq!((error.exit_code(), error.to_string().as_str()), (2, "--from, --until: sft comes after filter"));
    let error = run.open(false).between(Some("stf"), None).err().unwrap();
    assert!(error.to_string().starts_with("--from: `stf` is not a stage; the stages are pretrain, problems, collect"), "{error}");
}

#[test]
fn fresh_runs_everything_from_its_start() {
    let run = Run::new();
    run.all(run.open(false));
    fs::create_dir_all(run.checkpoint()).unwrap();
    assert_eq!(run.all(run.open(true)), [Ran, Ran, Ran]);
    assert!(!run.checkpoint().exists());
}

/// Runs sft, whose body sees whether its checkpoint is there and then ends with `end`.
fn sft(run: &Run, end: Result<String>) -> (bool, Result<Done>) {
    let mut runner = run.open(false);
    let [filter, sft, _] = run.specs();
    runner.stage(&filter, || run.copy(&filter)).unwrap();
    let mut resumed = false;
    let done = runner.stage(&sft, || {
        resumed = run.checkpoint().exists();
        fs::create_dir_all(run.checkpoint()).unwrap();
        if end.is_ok() { run.copy(&sft) } else { end }
    });
    (resumed, done)
}

#[test]
fn an_interrupted_stage_goes_on_from_its_checkpoint() {
    let run = Run::new();
    let (resumed, done) = sft(&run, Err(Error::Interrupted));
    assert!(!resumed && done.is_err_and(|e| e.exit_code() == 130));
    let record = run.manifest().stage("sft").unwrap().clone();
    assert_eq!((record.state, record.outputs.len()), (State::Interrupted, 0));

    let (resumed, done) = sft(&run, Ok(String::new()));
    assert_eq!((resumed, done.unwrap()), (true, Ran));
    assert_eq!(run.manifest().stage("sft").unwrap().state, State::Done);
    assert!(!run.checkpoint().exists());
}

#[test]
fn a_checkpoint_of_other_settings_is_not_gone_on_from() {
    let mut run = Run::new();
    sft(&run, Err(Error::Interrupted)).1.unwrap_err();
    run.learning_rate = 5e-6;
    assert!(!sft(&run, Ok(String::new())).0);
}

/// An input that was damaged for a while cost all that the stage had reached.
#[test]
fn a_damaged_input_does_not_cost_the_checkpoint() {
    let run = Run::new();
    sft(&run, Err(Error::Interrupted)).1.unwrap_err();
    fs::write(run.checkpoint().join("step"), "46").unwrap();
    let whole = fs::read(run.root.path().join("data")).unwrap();
    fs::write(run.root.path().join("data"), "cut").unwrap();
    let (resumed, done) = sft(&run, Err(Error::input("data:1", "cut")));
    assert!(!resumed && done.is_err_and(|e| e.exit_code() == 2));
    fs::write(run.root.path().join("data"), whole).unwrap();
    assert_eq!(fs::read_to_string(run.checkpoint().join("step")).unwrap(), "46");
    assert!(sft(&run, Ok(String::new())).0);

    // Any other end of the new attempt: the old one is history.
    fs::write(run.root.path().join("data"), "2").unwrap();
    sft(&run, Err(Error::Interrupted)).1.unwrap_err();
    fs::write(run.root.path().join("data"), "3").unwrap();
    assert!(!sft(&run, Ok(String::new())).0);
    assert_eq!(fs::read_dir(run.out().join("checkpoints")).unwrap().count(), 0);
}

#[test]
fn a_killed_process_counts_as_interrupted() {
    let run = Run::new();
    sft(&run, Err(Error::Interrupted)).1.unwrap_err();
    let path = run.out().join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"interrupted\"", "\"running\"")).unwrap();
    assert!(sft(&run, Ok(String::new())).0);
}

#[test]
fn a_failure_is_recorded_with_its_reason() {
    let run = Run::new();
    let (_, done) = sft(&run, Err(Error::Machine("no GPU".into())));
    assert_eq!(done.unwrap_err().exit_code(), 1);
    let record = run.manifest().stage("sft").unwrap().clone();
    assert_eq!((record.state, record.error.as_deref()), (State::Failed, Some("no GPU")));
}

#[test]
fn a_stage_that_writes_nothing_has_failed() {
    let run = Run::new();
    let error = run.open(false).stage(&run.specs()[0], || Ok(String::new())).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().starts_with("stage filter: ended without writing "), "{error}");
    assert_eq!(run.manifest().stage("filter").unwrap().state, State::Failed);
}

#[test]
fn a_missing_input_is_named_before_anything_runs() {
    let run = Run::new();
    let error = run.open(false).stage(&run.specs()[1], || unreachable!()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().starts_with("stage sft: ") && error.to_string().contains("run/a is missing"), "{error}");
}

#[test]
fn the_manifest_says_what_was_run() {
    let run = Run::new();
    let mut runner = run.open(false);
    runner.set_device("cpu (2 threads, f32)".into());
    run.all(runner);
    let manifest = run.manifest();
    assert_eq!(manifest.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(manifest.recipe, run.recipe().to_toml());
    assert_eq!(manifest.stages.iter().map(|record| record.name.as_str()).collect::<Vec<_>>(), ["filter", "sft", "report"]);
    let sft = manifest.stage("sft").unwrap();
    assert_eq!(sft.device, "cpu (2 threads, f32)");
    assert_eq!(sft.settings, json!({ "learning_rate": 1e-5 }));
    // The SHA-256 of "1".
    let one = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
    assert_eq!(sft.inputs[&run.out().join("a").display().to_string()], one);
    assert_eq!(sft.outputs[&run.out().join("b").display().to_string()], one);
}

#[test]
fn a_second_process_is_refused() {
    let run = Run::new();
    let first = run.open(false);
    let error = Runner::open(&run.recipe(), false).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(text.contains(&format!("process {} is running in this folder", std::process::id())), "{text}");
    drop(first);
    run.open(false);
}

#[test]
fn a_broken_manifest_is_bad_input() {
    let run = Run::new();
    fs::create_dir_all(run.out()).unwrap();
    fs::write(run.out().join("manifest.json"), "{\n\"version\": 3").unwrap();
    let error = Runner::open(&run.recipe(), false).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("manifest.json:2: not a manifest"), "{error}");
    assert!(Path::new(&run.out()).join("manifest.json").exists());
}
