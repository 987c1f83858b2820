//! Programs that attack the machine, the sandbox or the judge: each is contained, and none is ever a pass.
//!
//! `resource` uses things up, `escape` tries to get out, `reward` wants a pass without the work, `tree` does what takes
//! processes, `places` shows the same to an ordinary user and where no namespace can be made. Every attack prints
//! `contained: NAME: what came of it`. The tests take turns, so that each can look whether the machine is as clean as before.

mod clean;
mod escape;
mod places;
mod resource;
mod reward;
mod tree;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use repairity::problem::Checker;
use repairity::record::{Check, Extra, Outcome, Problem, Verdict};
use repairity::sandbox::{Mode, Sandbox};

use clean::Turn;

const LIMIT: f64 = 1.5;

/// Whatever an attack leaves has this in its name. In an attack's text it stands as `attack-mark`.
fn mark() -> String {
    format!("attack-mark-{}", std::process::id())
}

fn checker() -> &'static Checker {
    static CHECKER: OnceLock<Checker> = OnceLock::new();
    CHECKER.get_or_init(|| {
        let checker = Checker::new(Mode::Strict, 2).unwrap();
        println!("layers: {}", checker.layers().join(", "));
        checker
    })
}

fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| Sandbox::new(Mode::Strict).unwrap())
}

fn problem(tests: &[&str]) -> Problem {
    Problem {
        id: "attack".into(),
        suite: "attack".into(),
        kind: "attack".into(),
        difficulty: "hard".into(),
        prompt: String::new(),
        buggy: None,
        reference: None,
        language: "python".into(),
        check: Check::statements(tests.iter().map(|t| t.to_string()).collect(), LIMIT),
        split: None,
        extra: Extra::new(),
    }
}

/// Tests that are compared here, value by value.
fn split() -> Problem {
    problem(&["assert f(3) == [9, 'nine']", "assert f(4) == [16, 'sixteen']"])
}

/// Tests that run in a process of their own.
fn beside() -> Problem {
    problem(&["for n, w in ((3, 'nine'), (4, 'sixteen')):\n    assert f(n) == [n * n, w]", "assert abs(f(5)[0] - 25) < 1e-9"])
}

const HONEST: &str = "def f(n):\n    return [n * n, {3: 'nine', 4: 'sixteen', 5: ''}[n]]";

fn check(problem: &Problem, answer: &str) -> Verdict {
    let start = Instant::now();
    let verdict = checker().check(problem, &answer.replace("attack-mark", &mark())).unwrap();
    // Reading the tests, starting and killing take their time on a loaded machine; hanging takes for ever.
    assert!(start.elapsed() < Duration::from_secs_f64(LIMIT + 20.0), "{verdict:?}");
    assert!(verdict.seconds.is_finite());
    verdict
}

fn contained(name: &str, how: impl std::fmt::Display) {
    println!("contained: {name}: {how}");
}

fn word(verdict: &Verdict) -> String {
    format!("{} {}", format!("{:?}", verdict.verdict).to_lowercase(), verdict.reason)
}

/// The answer is no pass, whichever way the tests run.
fn never_passes(name: &str, answer: &str) {
    let verdicts = [split(), beside()].map(|problem| check(&problem, answer));
    for verdict in &verdicts {
        assert_ne!(verdict.verdict, Outcome::Pass, "{name}");
        assert!(!verdict.reason.is_empty() && !verdict.reason.contains('\n'), "{name}: {verdict:?}");
    }
    contained(name, word(&verdicts[0]));
}

/// An answer whose `f` says `denied` where `attempt`, a function body, raises an OSError, and else what it got.
fn confessing(attempt: &str) -> String {
    let body = attempt.replace('\n', "\n        ").replace("attack-mark", &mark());
    format!("import os, sys\ndef f():\n    try:\n        {body}\n    except OSError as e:\n        return 'denied'\n")
}

/// `attempt` is a function body that must raise an OSError.
fn denied(name: &str, attempt: &str) {
    let verdict = check(&problem(&["assert f() == 'denied'"]), &confessing(attempt));
    assert_eq!(verdict.verdict, Outcome::Pass, "{name}: {}", verdict.reason);
    contained(name, "denied");
}

#[test]
fn an_honest_answer_passes_either_way() {
    let turn = Turn::take();
    assert_eq!(check(&split(), HONEST).verdict, Outcome::Pass);
    let verdict = check(&beside(), HONEST);
    assert_eq!(verdict.verdict, Outcome::Pass, "{verdict:?}");
    turn.clean();
}

#[test]
fn verdicts_say_what_happened() {
    let turn = Turn::take();
    let cases = [
        ("", Outcome::Refused, "no code"),
        (
            "def f(n):\n    return [n * n, 'nine']",
            Outcome::Fail,
            "test 2 of 2: assert f(4) == [16, 'sixteen']: got [16, \"nine\"]",
        ),
        ("def f(n:\n    return", Outcome::Error, "SyntaxError"),
        ("import nothing_of_that_name", Outcome::Error, "ModuleNotFoundError"),
        ("def g(n):\n    return n", Outcome::Fail, "NameError"),
        ("def f(n):\n    return 1 / 0", Outcome::Fail, "ZeroDivisionError"),
        ("def f(n):\n    return 'x' * (1 << 34)", Outcome::Memory, "MemoryError"),
        ("def f(n):\n    while True: pass", Outcome::Timeout, "1.5 s"),
        ("import ctypes\nctypes.string_at(0)", Outcome::Error, "signal 11"),
    ];
    for (answer, outcome, reason) in cases {
        let verdict = check(&split(), answer);
        assert_eq!(verdict.verdict, outcome, "{answer}: {verdict:?}");
        assert!(verdict.reason.contains(reason), "{answer}: {}", verdict.reason);
    }
    assert_eq!(check(&problem(&["assert f("]), HONEST).verdict, Outcome::Error);
    assert_eq!(check(&problem(&[]), HONEST).verdict, Outcome::Fail);
    turn.clean();
}

#[test]
fn tests_beside_the_answer_see_objects_as_they_are() {
    let turn = Turn::take();
    let node = "class Node:\n    def __init__(self, v, next=None):\n        self.v, self.next = v, next\n";
    let tests = format!(
        "{node}def test():\n    a = Node(1); b = Node(2, a); c = Node(3, b)\n    head = turn(c)\n    assert head is a and a.next is b and b.next is c and c.next is None\n    x = [3, 1, 2]\n    assert arrange(x) is None and x == [1, 2, 3]\n    s = Stack()\n    s.push(4); s.push(x)\n    assert s.pop() is x and len(s) == 1 and s.items == [4]\n    assert Stack() == Stack() and Stack() != 4\n    try:\n        s.pop(); s.pop()\n        assert False\n    except IndexError:\n        pass\n    assert list(count(3)) == [0, 1, 2]\ntest()"
    );
    let answer = "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n    def pop(self): return self.items.pop()\n    def __len__(self): return len(self.items)\n    def __eq__(self, o): return self.items == o.items\ndef turn(n):\n    last = None\n    while n:\n        n.next, last, n = last, n, n.next\n    return last\ndef arrange(x):\n    x.sort()\ndef count(n):\n    yield from range(n)\n";
    let verdict = check(&problem(&[&tests]), answer);
    assert_eq!(verdict.verdict, Outcome::Pass, "{verdict:?}");
    let verdict = check(&problem(&[&tests]), &answer.replace("x.sort()", "sorted(x)"));
    assert_eq!(verdict.verdict, Outcome::Fail, "{verdict:?}");
    turn.clean();
}
