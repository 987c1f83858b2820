//! Which sample is the best: one that passes, then one that passes more of the tests, then by reward, then by how little it changes,
//! then the first.

use std::cmp::Reverse;

use super::Sample;
use crate::record::{Outcome, Verdict};

/// Sorts samples, the best first, and numbers them. Samples are compared by nothing that depends on time.
pub(super) fn rank(samples: &mut [Sample]) {
    samples.sort_by(|a, b| {
        let tests = |sample: &Sample| match (sample.verdict.verdict, sample.tests_passed) {
            (Outcome::Pass, _) => 3,
            (Outcome::Refused, _) => 0,
            _ if sample.unchanged => 1,
            _ => 2,
        };
        let passed = |sample: &Sample| sample.tests_passed.map_or(0, |[passed, _]| passed);
        let reward = |sample: &Sample| sample.reward.filter(|reward| !reward.is_nan()).unwrap_or(f64::NEG_INFINITY);
        Reverse(tests(a))
            .cmp(&Reverse(tests(b)))
            .then_with(|| passed(b).cmp(&passed(a)))
            .then_with(|| reward(b).total_cmp(&reward(a)))
            .then_with(|| changed(&a.diff).cmp(&changed(&b.diff)))
            .then_with(|| a.index.cmp(&b.index))
    });
    samples.iter_mut().enumerate().for_each(|(place, sample)| sample.rank = place + 1);
}

/// Lines that a unified diff takes away or adds.
fn changed(diff: &str) -> usize {
    diff.lines().skip(2).filter(|line| line.starts_with(['+', '-'])).count()
}

/// How many tests passed and of how many, where the reason of a failing verdict tells: the checker counts them, or stops at the
/// first that fails.
pub(super) fn tests_passed(verdict: &Verdict) -> Option<[usize; 2]> {
    if verdict.verdict == Outcome::Pass {
        return None;
    }
    let mut words = verdict.reason.split(' ');
    let (first, second) = (words.next()?, words.next()?);
    let number = |word: &str| word.trim_end_matches(':').parse::<usize>().ok();
    match (first, second) {
        // `test 2 of 3: ...`
        ("test", at) => {
            let (at, of) = (number(at)?, words.nth(1).and_then(number)?);
            Some([at.checked_sub(1)?, of])
        }
        // `1 of 3 tests failed`
        (failed, "of") => {
            let (failed, of) = (number(failed)?, number(words.next()?)?);
            (words.next() == Some("tests") && words.next() == Some("failed"))
                .then(|| of.checked_sub(failed).map(|passed| [passed, of]))?
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(index: usize, outcome: Outcome, reason: &str, reward: Option<f64>, changes: usize) -> Sample {
        let verdict = Verdict { verdict: outcome, reason: reason.into(), compiled: None, seconds: index as f64 };
        Sample {
            rank: 0,
            index,
            tests_passed: tests_passed(&verdict),
            verdict,
            reward,
            same_as: None,
            unchanged: false,
            tokens: 0,
            ended: true,
            reasoning: String::new(),
            answer: "x".into(),
            diff: format!("--- a/f\n+++ b/f\n{}", "+x\n".repeat(changes)),
            text: String::new(),
        }
    }

    fn order(mut samples: Vec<Sample>) -> Vec<usize> {
        rank(&mut samples);
        assert!(samples.iter().enumerate().all(|(place, sample)| sample.rank == place + 1));
        samples.iter().map(|sample| sample.index).collect()
    }

    #[test]
    fn tests_come_first_then_reward_then_the_smaller_change_then_the_first() {
        let samples = vec![
            sample(0, Outcome::Refused, "the answer holds no code", Some(9.0), 0),
            sample(1, Outcome::Fail, "test 2 of 3: assert f(1)", Some(9.0), 1),
            sample(2, Outcome::Fail, "test 3 of 3: assert f(2)", Some(0.0), 9),
            sample(3, Outcome::Pass, "", Some(0.5), 3),
            sample(4, Outcome::Pass, "", Some(0.7), 3),
            sample(5, Outcome::Pass, "", Some(0.5), 2),
            sample(6, Outcome::Pass, "", Some(0.5), 2),
            sample(7, Outcome::Pass, "", Some(f64::NAN), 1),
            Sample { unchanged: true, ..sample(8, Outcome::Fail, "test 3 of 3: assert f(2)", Some(9.0), 0) },
        ];
        let expected = [4, 5, 6, 3, 7, 2, 1, 8, 0];
        assert_eq!(order(samples.clone()), expected);
        assert_eq!(order(samples.into_iter().rev().collect()), expected);
    }

    #[test]
    fn a_reason_tells_how_many_tests_passed() {
        let told = |outcome, reason: &str| {
            tests_passed(&Verdict { verdict: outcome, reason: reason.into(), compiled: None, seconds: 0.0 })
        };
        assert_eq!(told(Outcome::Fail, "test 3 of 5: assert f(1) == 2: got 3"), Some([2, 5]));
        assert_eq!(told(Outcome::Timeout, "test 1 of 5: assert f(1) == 2: not done after 5 s"), Some([0, 5]));
        assert_eq!(told(Outcome::Fail, "1 of 4 tests failed (exit code 1): FAIL: test_a"), Some([3, 4]));
        assert_eq!(told(Outcome::Error, "does not compile: SyntaxError"), None);
        assert_eq!(told(Outcome::Fail, "2 of 3 twins failed"), None);
        assert_eq!(told(Outcome::Fail, "7 of 4 tests failed"), None);
        assert_eq!(told(Outcome::Pass, ""), None);
    }
}
