//! The official harness: predictions for it, running it, and its reports as verdicts.
//!
//! It needs the Python package `swebench` and Docker. Its reports stay on disk under the run's id, and a later run of that id
//! reads them instead of testing again; so the id is a hash of what is judged, and only the same predictions meet them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::digest::hex;
use crate::error::{Error, Result};
use crate::record::{Outcome, read_jsonl};

/// A line of a predictions file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prediction {
    /// The problem.
    pub instance_id: String,
    /// Who wrote the patch.
    pub model_name_or_path: String,
    /// The patch, a unified diff; empty or none where there is none.
    #[serde(default)]
    pub model_patch: Option<String>,
}

/// A run of the harness.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// A data set's name on the hub, or a file of its rows.
    pub dataset: String,
    /// The predictions, JSONL.
    pub predictions: PathBuf,
    /// Containers at once.
    pub workers: usize,
    /// Seconds for one problem's tests.
    pub timeout_s: u64,
    /// The interpreter that has the package.
    pub python: String,
    /// Where the harness works: its logs and reports go there.
    pub folder: PathBuf,
}

/// What the harness said of a prediction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Graded {
    /// The problem.
    pub id: String,
    /// `pass` is resolved, `fail` unresolved, `refused` an empty patch, `error` everything that is no result.
    pub verdict: Outcome,
    /// Why, in one line; empty for a pass.
    pub reason: String,
}

impl Evaluation {
    /// The run's id: the same for the same judging of the same predictions, another for any other.
    pub fn run_id(&self, version: &str) -> Result<String> {
        let bytes = fs::read(&self.predictions).map_err(|e| Error::io(&self.predictions, e))?;
        let mut sum = Sha256::new();
        for part in [self.dataset.as_bytes(), version.as_bytes(), self.timeout_s.to_string().as_bytes(), &bytes] {
            sum.update((part.len() as u64).to_le_bytes());
            sum.update(part);
        }
        Ok(format!("repairity-{}", &hex(&sum.finalize())[..16]))
    }

    /// Runs the harness on all predictions and reads its reports. An [`Error::Machine`] says what the machine lacks, or what the
    /// harness said when it failed.
    pub fn run(&self) -> Result<Vec<Graded>> {
        let predictions: Vec<Prediction> = read_jsonl(&self.predictions)?;
        let Some(first) = predictions.first() else {
            return Err(Error::input(self.predictions.display(), "no predictions in it"));
        };
        let mut ids = HashSet::new();
        for prediction in &predictions {
            if prediction.model_name_or_path != first.model_name_or_path {
                let what = format!(
                    "one model is expected, `{}` and `{}` were found",
                    first.model_name_or_path, prediction.model_name_or_path
                );
                return Err(Error::input(self.predictions.display(), what));
            }
            if !ids.insert(prediction.instance_id.as_str()) {
                return Err(Error::input(
                    self.predictions.display(),
                    format!("two predictions for `{}`", prediction.instance_id),
                ));
            }
        }
        let run_id = self.run_id(&self.version()?)?;
        fs::create_dir_all(&self.folder).map_err(|e| Error::io(&self.folder, e))?;
        let absolute = |path: &Path| path.canonicalize().map_err(|e| Error::io(path, e));
        let dataset = Path::new(&self.dataset);
        let dataset = if dataset.is_file() { absolute(dataset)?.display().to_string() } else { self.dataset.clone() };
        let log = self.folder.join(format!("{run_id}.log"));
        let file = File::create(&log).map_err(|e| Error::io(&log, e))?;
        let other = file.try_clone().map_err(|e| Error::io(&log, e))?;
        let mut command = Command::new(&self.python);
        command.args(["-m", "swebench.harness.run_evaluation", "--dataset_name", &dataset, "--run_id", &run_id]);
        command.arg("--predictions_path").arg(absolute(&self.predictions)?);
        command.args(["--max_workers", &self.workers.to_string(), "--timeout", &self.timeout_s.to_string()]);
        let status = command.current_dir(&self.folder).stdin(Stdio::null()).stdout(file).stderr(other).status();
        let status = status.map_err(|e| Error::Machine(format!("{} cannot be run: {e}", self.python)))?;
        let model = first.model_name_or_path.replace('/', "__");
        let summary = self.folder.join(format!("{model}.{run_id}.json"));
        if !status.success() || !summary.is_file() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let said = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing").to_owned();
            let what =
                format!("the SWE-bench harness wrote no summary ({status}); it said: {said}; its output is {}", log.display());
            return Err(Error::Machine(what));
        }
        let logs = self.folder.join("logs/run_evaluation").join(&run_id).join(&model);
        read(&predictions, &summary, &logs)
    }

    /// The harness' version; an error where it or Docker lacks.
    fn version(&self) -> Result<String> {
        let ask = "import swebench; print(getattr(swebench, '__version__', 'unknown'))";
        let output = Command::new(&self.python).args(["-c", ask]).stdin(Stdio::null()).output();
        let output = output
            .map_err(|e| Error::Machine(format!("the SWE-bench harness needs Python; {} cannot be run: {e}", self.python)))?;
        if !output.status.success() {
            let what =
                format!("the official harness lacks: {} has no module `swebench`; `pip install swebench` brings it", self.python);
            return Err(Error::Machine(what));
        }
        let docker = Command::new("docker").arg("info").stdin(Stdio::null()).output();
        let lacking = match docker {
            Err(e) => Some(format!("`docker` cannot be run: {e}")),
            Ok(output) if !output.status.success() => {
                let said = String::from_utf8_lossy(&output.stderr);
                Some(format!(
                    "`docker info` failed: {}",
                    said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing")
                ))
            }
            Ok(_) => None,
        };
        if let Some(what) = lacking {
            let hint = "`repairity check --suite swebench --repos DIR` judges without it, in checkouts of your own";
            return Err(Error::Machine(format!("the SWE-bench harness needs Docker with a running daemon: {what}; {hint}")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// The verdicts of a finished run: its summary (`schema_version` 2), and the folder with a report for each problem. Where the two
/// differ, the problem has no result.
pub fn read(predictions: &[Prediction], summary: &Path, logs: &Path) -> Result<Vec<Graded>> {
    let totals = object(summary)?;
    if totals.get("schema_version").and_then(Value::as_u64) != Some(2) {
        let found = totals.get("schema_version").map_or("nothing".into(), Value::to_string);
        return Err(Error::input(summary.display(), format!("`schema_version`: 2 is expected, {found} was found")));
    }
    let listed = |list: &str, id: &str| {
        totals.get(list).and_then(Value::as_array).is_some_and(|ids| ids.iter().any(|one| one.as_str() == Some(id)))
    };
    let mut graded = Vec::new();
    for prediction in predictions {
        let id = &prediction.instance_id;
        let path = logs.join(id).join("report.json");
        let (verdict, reason) = if prediction.model_patch.as_deref().unwrap_or_default().trim().is_empty()
            || listed("empty_patch_ids", id)
        {
            (Outcome::Refused, "empty patch".to_owned())
        } else if listed("infra_failure_ids", id) {
            (Outcome::Error, format!("infra failure{}", because(&totals, id)))
        } else if listed("error_ids", id) {
            (
                Outcome::Error,
                format!("error in the harness{}; see {}", because(&totals, id), logs.join(id).join("run_instance.log").display()),
            )
        } else if !path.is_file() {
            (Outcome::Error, "no report".to_owned())
        } else {
            let report = object(&path)?;
            let report = report.get(id).and_then(Value::as_object);
            let report = report.ok_or_else(|| Error::input(path.display(), format!("`{id}` is expected, and is not in it")))?;
            let (verdict, reason) = judged(report);
            let resolved = listed("resolved_ids", id);
            match (verdict == Outcome::Pass) == resolved {
                true => (verdict, reason),
                false => {
                    (Outcome::Error, format!("its report and the summary differ on whether it is resolved: {}", path.display()))
                }
            }
        };
        graded.push(Graded { id: id.clone(), verdict, reason });
    }
    Ok(graded)
}

fn because(totals: &Map<String, Value>, id: &str) -> String {
    let reason = totals.get("failure_reasons").and_then(|reasons| reasons.get(id));
    reason.map_or(String::new(), |reason| format!(": {}", reason.as_str().map_or_else(|| reason.to_string(), str::to_owned)))
}

fn judged(report: &Map<String, Value>) -> (Outcome, String) {
    let is = |field: &str| report.get(field).and_then(Value::as_bool);
    if is("infra_failure") == Some(true) {
        return (Outcome::Error, "infra failure".into());
    }
    if is("resolved") == Some(true) {
        return (Outcome::Pass, String::new());
    }
    if is("patch_successfully_applied") == Some(false) {
        return (Outcome::Error, "the patch does not apply".into());
    }
    let failures = |kind: &str| {
        let list = report.get("tests_status").and_then(|status| status.get(kind)?.get("failure")?.as_array());
        list.map_or(vec![], |list| list.iter().filter_map(Value::as_str).collect::<Vec<_>>())
    };
    for kind in ["FAIL_TO_PASS", "PASS_TO_PASS"] {
        if let [first, ..] = failures(kind)[..] {
            return (Outcome::Fail, format!("{kind}: {} did not pass; {first} failed", failures(kind).len()));
        }
    }
    (Outcome::Fail, "unresolved".into())
}

fn object(path: &Path) -> Result<Map<String, Value>> {
    let text = fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::line(path, e.line(), e))
}
