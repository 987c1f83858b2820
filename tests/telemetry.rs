//! What a person and other programs see of a run: lines, bars, `metrics.jsonl` and TensorBoard's event files.

#[path = "support/process.rs"]
mod process;
#[path = "support/tiny.rs"]
mod tiny;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use libc::SIGINT;
use process::Point::Step;
use process::events::{self, Event};
use process::{Ground, Run, resumed_at, said};
use serde_json::Value;

/// The only line of these that starts and ends so, without both.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let found: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(start)?.strip_suffix(end)).collect();
    let [line] = found[..] else { panic!("one line `{start}...{end}` expected:\n{text}") };
    line
}

#[test]
fn a_stage_says_what_it_reads_and_what_it_made() {
    let ground = Ground::new();
    let run = ground.run("run");
    let text = run.finish("sft", 2);
    let starts = between(&text, "sft: starts, reads ", "");
    assert!(starts.starts_with(&format!("{} (", ground.at("policy").display())), "{starts}");
    let (numbers, made) = between(&text, "sft: done in ", ")").split_once(" -> ").unwrap();
    let lines = metrics(&run, "sft");
    let loss = lines.last().unwrap()["loss"].as_f64().unwrap();
    assert!(numbers.contains(&format!(" s, 48 steps, loss {loss:.4}, best validation loss ")), "{numbers}");
    let (path, size) = made.rsplit_once(" (").unwrap();
    assert_eq!(Path::new(path), run.at("sft/adapter"));
    let bytes: u64 = process::files(Path::new(path)).values().map(|bytes| bytes.len() as u64).sum();
    assert_eq!(size, format!("{:.1} kB", bytes as f64 / 1e3));
    assert_eq!(text.lines().last().unwrap().matches("sft: done").count(), 1, "{text}");
}

#[test]
fn quiet_is_silent_and_verbose_tells_more() {
    let ground = Ground::new();
    assert_eq!(ground.run("quiet").finish("sft --quiet", 2), "");
    assert_eq!(ground.run("silent").finish("sft -q", 2), "");
    let (calm, verbose) = (ground.run("calm"), ground.run("verbose"));
    let (less, more) = (calm.finish("sft", 2), verbose.finish("sft -v", 2));
    let details = [
        "run: cpu (2 threads, f32), 1 rank(s), ",
        "sft: loaded ",
        " parameters are trained, on 1 rank(s)",
        "sft: 32 records, ",
        "sft: 48 steps in 3 epoch(s), each of 2 packed batch(es) of 1 record(s)",
        "/sft/state/checkpoint-2 (",
        "sft: {\"stage\":\"sft\",\"step\":48,",
        " of the device's memory at most",
    ];
    for detail in details {
        assert!(more.contains(detail) && !less.contains(detail), "`{detail}`:\n{more}\n{less}");
    }
    assert_eq!(more.matches("sft: {\"stage\":").count(), 48);
    let output = calm.start("sft -q -v", 1).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("'--quiet' cannot be used with '--verbose'"), "{}", said(&output));
}

#[test]
fn a_run_begins_with_what_is_done_and_what_is_to_do() {
    let ground = Ground::new();
    let settings =
        ["problems.suite=micro", "problems.count=20", "problems.vet=false", "teacher.provider=scripted", "filter.enabled=false"];
    let run = ground.empty_run(&ground.at("run"), "run").with(&settings);
    let folder = run.folder.display();
    let text = run.finish("run --until collect", 2);
    let begin = format!("run: micro, policy {} -> {folder}, on cpu (2 threads, f32)", ground.at("policy").display());
    assert_eq!(text.lines().take(2).collect::<Vec<_>>(), [begin.as_str(), "run: to do: problems, collect"]);
    between(&text, "problems: done in ", &format!(" -> {folder}/problems.jsonl ({})", size(&run, "problems.jsonl")));
    between(&text, "collect: done in ", &format!(" -> {folder}/traces.jsonl ({})", size(&run, "traces.jsonl")));
    let text = run.finish("run --until filter", 2);
    assert_eq!(text.lines().nth(1).unwrap(), "run: done before: problems, collect; to do: filter");
    assert!(text.contains("\nproblems: unchanged, skipped\ncollect: unchanged, skipped\nfilter: starts, reads "), "{text}");
    assert!(text.contains(" traces kept to train on (cap 4), "), "{text}");
}

fn size(run: &Run, name: &str) -> String {
    let bytes = fs::metadata(run.at(name)).unwrap().len() as f64;
    if bytes < 9950.0 { format!("{:.1} kB", bytes / 1e3) } else { format!("{:.0} kB", bytes / 1e3) }
}

fn metrics(run: &Run, stage: &str) -> Vec<Value> {
    let text = fs::read_to_string(run.at("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).filter(|line| line["stage"] == stage).collect()
}

/// The event that a line of metrics has to become.
fn expected(line: &Value) -> Event {
    let number = |value: &Value| match value {
        Value::Bool(yes) => Some(f32::from(u8::from(*yes))),
        other => other.as_f64().map(|number| number as f32),
    };
    let mut values = Vec::new();
    for (name, value) in line.as_object().unwrap() {
        if ["stage", "step", "time"].contains(&name.as_str()) {
            continue;
        }
        values.extend(number(value).map(|number| (name.clone(), number)));
        for (index, epoch) in value.as_array().into_iter().flatten().enumerate() {
            for (field, value) in epoch.as_object().unwrap() {
                values.push((format!("{field}/epoch_{}", index + 1), number(value).unwrap()));
            }
        }
    }
    Event { time: line["time"].as_f64().unwrap(), step: line["step"].as_u64().unwrap(), values }
}

fn assert_events(run: &Run, stage: &str) {
    let expected: Vec<Event> = metrics(run, stage).iter().map(expected).collect();
    assert_eq!(events::read(&run.at("tensorboard").join(stage)), expected);
}

/// What TensorBoard 2.21 writes itself: `EventFileWriter` made `Event(wall_time=1700000001.5, step=300,
/// summary=Summary(value=[Summary.Value(tag="loss", simple_value=0.3), Summary.Value(tag="ratio/epoch_1", simple_value=-2.0)]))` of
/// the second record, and the first by itself, at 1700000000.25.
const TENSORBOARD: &str = "4800000000000000fe92489d0900001040fc54d9411a0d627261696e2e4576656e743a32522e0a2c74656e736f72626f6172642e73\
    756d6d6172792e7772697465722e6576656e745f66696c655f77726974657275711fd631000000000000009d8383e90900006040fc54d94110ac022a230a0b0a\
    046c6f7373159a99993e0a140a0d726174696f2f65706f63685f3115000000c0c53477d6";

#[test]
fn the_reader_of_these_tests_reads_what_tensorboard_writes() {
    let bytes: Vec<u8> =
        (0..TENSORBOARD.len()).step_by(2).map(|at| u8::from_str_radix(&TENSORBOARD[at..at + 2], 16).unwrap()).collect();
    let values = [("loss", 0.3), ("ratio/epoch_1", -2.0)].map(|(tag, number)| (tag.to_string(), number));
    assert_eq!(events::parse(&bytes), [Event { time: 1_700_000_001.5, step: 300, values: values.into() }]);
}

#[test]
fn event_files_say_what_the_metrics_say() {
    let ground = Ground::new();
    let run = ground.run("run").with(&["ppo.iterations=3"]);
    run.finish("sft", 2);
    run.finish("ppo", 2);
    assert_events(&run, "sft");
    assert_events(&run, "ppo");
    let last = expected(&metrics(&run, "ppo")[2]);
    assert!(last.values.iter().any(|(tag, ratio)| tag == "ratio/epoch_2" && *ratio > 0.0), "{last:?}");
}

#[test]
fn steps_that_come_again_are_in_no_event_file_twice() {
    let ground = Ground::new();
    // A checkpoint in eight steps: what comes after it is cut off and written again.
    let run = (0..20).find_map(|attempt| {
        let run = ground.run(&format!("run-{attempt}")).with(&["sft.checkpoint_every=8"]);
        // The checkpoint of step 8 is on disk before that of step 16 is begun.
        run.disturb("sft", Step(20), libc::SIGKILL, Duration::ZERO)?;
        (8..48).contains(&resumed_at(&run.finish("sft", 2))).then_some(run)
    });
    let run = run.expect("one attempt in which the signal came in time");
    assert_events(&run, "sft");
    let steps: Vec<u64> = events::read(&run.at("tensorboard/sft")).iter().map(|event| event.step).collect();
    assert_eq!(steps, (1..=48).collect::<Vec<_>>());
    // Made anew, the stage leaves nothing of what it wrote before.
    run.finish("sft --fresh --set sft.epochs=1", 2);
    assert_eq!(events::read(&run.at("tensorboard/sft")).len(), 16);
    assert_events(&run, "sft");
}

/// A folder in the way of the event files is no reason to lose a run.
#[test]
fn a_run_goes_on_without_event_files() {
    let ground = Ground::new();
    let run = ground.run("run");
    fs::write(run.at("tensorboard"), "in the way").unwrap();
    let text = run.finish("sft", 2);
    assert!(text.contains("; going on without TensorBoard's event file\n"), "{text}");
    assert_eq!(metrics(&run, "sft").len(), 48);
}

/// Runs the program in a terminal of so many columns, and presses Ctrl-C when `until` is seen, if that is not empty. The exit code is
/// the program's, the output what the terminal was told.
const TERMINAL: &str = r#"
import fcntl, os, pty, struct, sys, termios
columns, until = int(sys.argv[1]), sys.argv[2].encode()
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    os.execv(sys.argv[3], sys.argv[3:])
seen = b""
while True:
    try:
        data = os.read(terminal, 65536)
    except OSError:
        break
    if not data:
        break
    seen += data
    if until and until in seen:
        os.write(terminal, b"\x03")
        until = b""
_, status = os.waitpid(pid, 0)
sys.stdout.buffer.write(seen)
sys.exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 99)
"#;

fn in_terminal(run: &Run, term: &str, columns: usize, until: &str) -> Output {
    let program = run.command("sft", 1);
    let mut command = Command::new("python3");
    command.args(["-c", TERMINAL, &columns.to_string(), until]).arg(program.get_program()).args(program.get_args());
    command.env("TERM", term).env("RAYON_NUM_THREADS", "1").output().unwrap()
}

/// The lines that a terminal was told to draw, without what moves the cursor.
fn drawn(told: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = told.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => {
                assert_eq!(rest.next(), Some('['), "an escape of another kind");
                rest.by_ref().find(|c| c.is_ascii_alphabetic()).expect("a whole sequence");
                plain.push('\n');
            }
            c => plain.push(c),
        }
    }
    plain.split(['\r', '\n']).map(str::trim_end).filter(|line| !line.is_empty()).map(String::from).collect()
}

#[test]
fn a_bar_on_a_terminal_that_ctrl_c_leaves_whole() {
    let ground = Ground::new();
    // Long enough for a time that is left to be told.
    let long = ["sft.epochs=2000", "sft.checkpoint_every=0", "sft.validate=false"];
    for (columns, bar) in [(80, "sft [>           ] "), (40, "sft ")] {
        let run = ground.run(&format!("run-{columns}")).with(&long);
        let output = in_terminal(&run, "xterm", columns, " left, ");
        let told = String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(output.status.code(), Some(130), "{told}");
        // A cursor that is never hidden needs not be shown again.
        assert!(!told.contains("\u{1b}[?25l"), "{told:?}");
        let lines = drawn(&told);
        // What is typed is shown where the cursor is, at the end of the bar's line.
        let lines: Vec<&str> = lines.iter().map(|line| line.trim_end_matches("^C").trim_end()).collect();
        let bars: Vec<&&str> = lines.iter().filter(|line| line.starts_with(bar) && line.contains("/32000 steps")).collect();
        let timed = bars.iter().find(|line| line.contains(" left, ")).unwrap_or_else(|| panic!("{lines:#?}"));
        assert!(bars.iter().all(|line| line.chars().count() < columns), "{bars:#?}");
        if columns == 80 {
            assert!(timed.contains(" tokens/s"), "{timed}");
        }
        // The note is whole, and so is what comes after it.
        for line in [
            "interrupt: stopping at the next safe point; once more ends at once",
            "sft: what was done is saved; the same command goes on from there",
            "error: interrupted",
        ] {
            assert!(lines.contains(&line), "{lines:#?}");
        }
    }
}

#[test]
fn a_terminal_without_a_cursor_gets_plain_lines() {
    let ground = Ground::new();
    let output = in_terminal(&ground.run("run"), "dumb", 80, "");
    let told = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(!told.contains('\u{1b}') && told.contains("\r\nsft: 48/48 steps, "), "{told:?}");
}

#[test]
fn an_interrupt_ends_with_plain_lines_elsewhere() {
    let ground = Ground::new();
    let run = ground.run("run").with(&["sft.epochs=2000", "sft.checkpoint_every=0", "sft.validate=false"]);
    let output = run.disturb("sft", Step(2), SIGINT, Duration::ZERO).expect("it is long enough");
    let text = said(&output);
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(text.ends_with("error: interrupted\n"), "{text}");
}
