//! Calls whose right values the reference says (EvalPlus). The reference is code of a file, so it runs in the sandbox like an
//! answer, once for each problem; its values stay here, and answers are compared with them here.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::record::{Form, Oracle, Outcome, Problem};
use crate::sandbox::{Limits, Memory};

use super::value::Value;
use super::{Checker, Judged, SPLIT, Talk, cut, part_failed, raised};

/// The longest that a reference may take.
const REFERENCE: Duration = Duration::from_secs(60);
/// An answer may take this many times as long as the reference.
const PATIENCE: f64 = 4.0;
/// Address space, as EvalPlus gives it.
const MEMORY: u64 = 4 << 30;
/// Bytes of all values: inputs and results of some problems are long lists.
const OUTPUT: usize = 64 << 20;
/// What NumPy's `allclose` allows beside an absolute difference, as a share of the right value.
const RTOL: f64 = 1e-7;
/// The absolute difference allowed between floats where the problem allows none.
const ATOL: f64 = 1e-6;

/// What the references gave.
#[derive(Debug, Default)]
pub(super) struct References(Mutex<HashMap<u64, Arc<Mutex<Option<Arc<Reference>>>>>>);

#[derive(Debug)]
enum Reference {
    Gave { values: Vec<Value>, seconds: f64 },
    Failed(String),
}

impl Checker {
    /// Judges an answer by the statements of its problem, if it has any, and then by its calls.
    pub(super) fn calls(&self, problem: &Problem, answer: &str) -> Result<Judged> {
        if !problem.check.tests.is_empty() {
            let (outcome, reason) = self.statements(problem, answer)?;
            if outcome != Outcome::Pass {
                return Ok((outcome, reason));
            }
        }
        let Form::Calls { calls, base, atol, oracle, solution } = &problem.check.form else {
            unreachable!("only problems of this form are judged here")
        };
        let reference = self.reference(problem, calls, solution)?;
        let (values, seconds) = match &*reference {
            Reference::Gave { values, seconds } => (values, *seconds),
            Reference::Failed(reason) => {
                return Ok((Outcome::Error, format!("the reference cannot say what is right: {reason}")));
            }
        };
        let wall = Duration::try_from_secs_f64(problem.check.timeout_s.max(PATIENCE * seconds)).unwrap_or(REFERENCE);
        let ended = self.run_calls(problem, answer, calls, wall, &mut |index, got| {
            if right(oracle, index, &got, &values[index], *atol) {
                return None;
            }
            let which = if index < *base { "base" } else { "further" };
            let at = format!("{which} input {} of {}: {}", index + 1, calls.len(), cut(&calls[index], 100));
            Some((Outcome::Fail, format!("{at}: got {}, {} is right", got.show(), values[index].show())))
        })?;
        Ok(ended.err().unwrap_or((Outcome::Pass, String::new())))
    }

    /// Runs the reference of a problem, the first time.
    fn reference(&self, problem: &Problem, calls: &[String], solution: &str) -> Result<Arc<Reference>> {
        let mut hasher = DefaultHasher::new();
        (&problem.suite, &problem.id, solution, calls, &problem.check.prelude).hash(&mut hasher);
        let slot = {
            let mut references = self.references.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(references.entry(hasher.finish()).or_default())
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reference) = &*slot {
            return Ok(Arc::clone(reference));
        }
        let (start, mut values) = (Instant::now(), Vec::new());
        let ended = self.run_calls(problem, solution, calls, REFERENCE, &mut |_, value| {
            values.push(value);
            None
        })?;
        let seconds = start.elapsed().as_secs_f64();
        let reference = Arc::new(match ended {
            Ok(()) => Reference::Gave { values, seconds },
            Err((_, reason)) => Reference::Failed(reason),
        });
        *slot = Some(Arc::clone(&reference));
        Ok(reference)
    }

    /// Evaluates calls on a program; `judge` sees each value and may end the run with a verdict.
    fn run_calls(
        &self,
        problem: &Problem,
        program: &str,
        calls: &[String],
        wall: Duration,
        judge: &mut dyn FnMut(usize, Value) -> Option<Judged>,
    ) -> Result<std::result::Result<(), Judged>> {
        let (mut talk, channels) = Talk::open()?;
        let limits = Limits { memory: Memory::Address(MEMORY), output: OUTPUT, ..Limits::of(wall) };
        let mut running = self.spawn(SPLIT, &[&channels.0, &channels.1], limits)?;
        drop(channels);
        let texts = Value::List(calls.iter().map(|call| Value::text(call)).collect());
        talk.send(&Value::List(vec![Value::text(&problem.check.prelude), Value::text(program), Value::text(""), texts]));
        for (index, call) in calls.iter().enumerate() {
            let at = format!("input {} of {}: {}", index + 1, calls.len(), cut(call, 100));
            let report = match talk.hear(&mut running, limits.output) {
                Ok(report) => report,
                Err(silence) => return Ok(Err(silence.judge(&mut running, &at, limits))),
            };
            let verdict = match report.as_list() {
                Some([Value::Str(status), value]) if status == b"value" => judge(index, value.clone()),
                Some([Value::Str(status), Value::List(blame)]) if status == b"raised" => Some(raised(&at, blame, Outcome::Fail)),
                Some([Value::Str(part), blame @ ..]) => Some(part_failed(part, blame)),
                _ => Some((Outcome::Fail, format!("{at}: the answer's process sent no plain data"))),
            };
            if let Some(verdict) = verdict {
                return Ok(Err(verdict));
            }
        }
        Ok(Ok(()))
    }
}

/// Whether a value is right, where the reference gave `want`.
fn right(oracle: &Oracle, index: usize, got: &Value, want: &Value, atol: f64) -> bool {
    match oracle {
        Oracle::Anything => return true,
        Oracle::Set => return got.same_set(want),
        Oracle::NotNone => {
            let some = Value::Bool(*want != Value::None);
            return if let Value::Bool(_) = got { *got == some } else { Value::Bool(*got != Value::None) == some };
        }
        Oracle::Root { coefficients } => {
            let Some(x) = got.number() else { return false };
            let sum: f64 = coefficients[index].iter().enumerate().map(|(power, c)| c * x.powi(power as i32)).sum();
            return sum.abs() <= atol;
        }
        Oracle::Or { values } => {
            if let (Some(x), Some(y)) = (values[index], got.number())
                && (x - y).abs() <= atol
            {
                return true;
            }
        }
        Oracle::Equal => {}
    }
    if got.equals(want) {
        return true;
    }
    let atol = if atol == 0.0 && floats(want) { ATOL } else { atol };
    atol != 0.0 && std::mem::discriminant(got) == std::mem::discriminant(want) && close(got, want, atol)
}

/// A float, or a list or tuple of nothing else.
fn floats(value: &Value) -> bool {
    match value {
        Value::Float(_) => true,
        Value::List(items) | Value::Tuple(items) => !items.is_empty() && items.iter().all(|x| matches!(x, Value::Float(_))),
        _ => false,
    }
}

fn close(got: &Value, want: &Value, atol: f64) -> bool {
    match (got, want) {
        (Value::List(a) | Value::Tuple(a), Value::List(b) | Value::Tuple(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| close(a, b, atol))
        }
        _ => match (got.number(), want.number()) {
            (Some(a), Some(b)) => a == b || (a - b).abs() <= atol + RTOL * b.abs(),
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: &str) -> Value {
        Value::decode(bytes.as_bytes()).unwrap()
    }

    fn is_right(oracle: Oracle, got: &str, want: &str, atol: f64) -> bool {
        right(&oracle, 0, &value(got), &value(want), atol)
    }

    #[test]
    fn values_are_right_as_evalplus_says() {
        use Oracle::*;
        assert!(is_right(Equal, "i1;", "f1.0;", 0.0) && !is_right(Equal, "i1;", "i2;", 0.0));
        // Floats alone are given 1e-6 where nothing is allowed.
        assert!(is_right(Equal, "f0.3000001;", "f0.3;", 0.0) && !is_right(Equal, "f0.30001;", "f0.3;", 0.0));
        assert!(is_right(Equal, "l1:f0.3000001;", "l1:f0.3;", 0.0) && !is_right(Equal, "t1:f0.3000001;", "l1:f0.3;", 0.0));
        assert!(!is_right(Equal, "l2:f0.3;f0.3;", "l1:f0.3;", 0.1) && is_right(Equal, "f0.35;", "f0.3;", 0.1));
        assert!(!is_right(Equal, "fnan;", "fnan;", 0.1) && is_right(Equal, "finf;", "finf;", 0.1));
        assert!(is_right(Set, "l3:i1;i2;i1;", "t2:i2;i1;", 0.0) && !is_right(Set, "l1:i1;", "t2:i2;i1;", 0.0));
        assert!(
            is_right(NotNone, "o1:M", "o1:M", 0.0) && is_right(NotNone, "T", "o1:M", 0.0) && is_right(NotNone, "F", "N", 0.0)
        );
        assert!(!is_right(NotNone, "N", "o1:M", 0.0) && !is_right(NotNone, "i1;", "N", 0.0));
        assert!(is_right(Anything, "N", "i1;", 0.0));
        assert!(
            is_right(Or { values: vec![Some(0.0)] }, "i0;", "i7;", 0.0)
                && !is_right(Or { values: vec![None] }, "i0;", "i7;", 0.0)
        );
        // 1 + 2x at -0.5, and the reference's own root is not asked.
        let root = || Root { coefficients: vec![vec![1.0, 2.0]] };
        assert!(is_right(root(), "f-0.5;", "f0.0;", 1e-4) && !is_right(root(), "f-0.4;", "f-0.4;", 1e-4));
        assert!(!is_right(root(), "o1:X", "f-0.5;", 1e-4));
    }
}
