//! Faults of the machine and of its files, each by name, as real processes: the message, the exit code, and that nothing was lost.
//! What a run gives after a fault is, byte for byte, what an undisturbed run gives.

#[path = "support/process.rs"]
mod process;
#[path = "support/tiny.rs"]
mod tiny;

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use libc::{SIGCONT, SIGHUP, SIGINT, SIGSTOP, SIGTERM};
use process::Point::Step;
use process::{Ground, Run, assert_files, files, names, resumed_at, said, send};

const NO_SPACE: &str = "No space left on device (os error 28)";

/// Set where a test runs once more, in a mount namespace of its own.
const INSIDE: &str = "REPAIRITY_TEST_INSIDE";

/// Whether this process may mount what it likes without anybody seeing it. Where it may not, the test is run again by a process that
/// may, and its outcome is this one's.
fn may_mount(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let probe = Command::new("unshare").args(["-Urm", "mount", "-t", "tmpfs", "none", "/tmp"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: no mounts in a user namespace here");
        return false;
    }
    let mut again = Command::new("unshare");
    again.arg("-Urm").arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let output = again.output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success() && out.contains("1 passed"), "{out}{err}");
    false
}

fn mount(folder: &Path, flags: libc::c_ulong, options: &str) {
    let path = CString::new(folder.as_os_str().as_bytes()).unwrap();
    let options = CString::new(options).unwrap();
    // SAFETY: every pointer is to a string that outlives the call.
    let done = unsafe { libc::mount(c"none".as_ptr(), path.as_ptr(), c"tmpfs".as_ptr(), flags, options.as_ptr().cast()) };
    assert_eq!(done, 0, "{}: {}", folder.display(), std::io::Error::last_os_error());
}

/// A run in a file system of 4 MiB.
fn small_disk(ground: &Ground, name: &str) -> Run {
    let folder = ground.at(name);
    fs::create_dir(&folder).unwrap();
    mount(&folder, 0, "size=4m");
    ground.run_in(&folder, name)
}

/// Fills a run's disk but for so many bytes.
fn fill(run: &Run, free: usize) {
    let path = run.at("ballast");
    let mut file = fs::File::create(&path).unwrap();
    let block = [1u8; 4096];
    while file.write_all(&block).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length - free as u64).unwrap();
}

fn make_room(run: &Run) {
    fs::remove_file(run.at("ballast")).unwrap();
}

fn undisturbed(ground: &Ground, stage: &str, settings: &[&str]) -> Run {
    let run = ground.run("undisturbed").with(settings);
    run.finish(stage, 2);
    run
}

fn assert_same(run: &Run, expected: &Run) {
    assert_files(&run.contents(), &expected.contents(), "after the fault");
}

/// A run of sft that was interrupted after a few steps, with two checkpoints.
fn interrupted(ground: &Ground, name: &str, settings: &[&str]) -> Run {
    let found = (0..20).find_map(|attempt| {
        let run = ground.run(&format!("{name}-{attempt}")).with(settings);
        stopped(&run, SIGINT).then_some(run)
    });
    found.expect("one attempt in which the interrupt came in time")
}

/// Whether a signal came in time to interrupt sft.
fn stopped(run: &Run, signal: i32) -> bool {
    let Some(output) = run.disturb("sft", Step(7), signal, Duration::ZERO) else { return false };
    assert!(said(&output).ends_with("error: interrupted\n"), "{}", said(&output));
    assert_eq!(run.checkpoints("sft").len(), 2);
    true
}

/// Asserts that every file of a checkpoint is what its SHA256SUMS says.
fn assert_whole(checkpoint: &Path) {
    let output = Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(checkpoint).output().unwrap();
    assert!(output.status.success(), "{}: {}", checkpoint.display(), String::from_utf8_lossy(&output.stdout));
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() * 2 / 3]).unwrap();
}

/// So large that a checkpoint and a result need more room than the manifest and the metrics.
const LARGE: &str = "lora.rank=64";

#[test]
fn a_disk_that_is_full_when_a_checkpoint_is_written() {
    if !may_mount("a_disk_that_is_full_when_a_checkpoint_is_written") {
        return;
    }
    let ground = Ground::new();
    let settings = [LARGE, "sft.validate=false"];
    let expected = undisturbed(&ground, "sft", &settings);
    let run = (0..20).find_map(|attempt| {
        let run = small_disk(&ground, &format!("small-{attempt}")).with(&settings);
        stopped(&run, SIGINT).then_some(run)
    });
    let run = run.expect("one attempt in which the interrupt came in time");
    let before: Vec<_> = run.checkpoints("sft").iter().map(|folder| (folder.clone(), files(folder))).collect();
    fill(&run, 64 << 10);
    let text = run.ends("sft", 1);
    let error = text.lines().last().unwrap();
    assert!(error.starts_with(&format!("error: {}/sft/state/.checkpoint-", run.folder.display())), "{error}");
    assert!(error.ends_with(&format!(": {NO_SPACE}")), "{error}");
    assert_eq!(run.checkpoints("sft"), before.iter().map(|(folder, _)| folder.clone()).collect::<Vec<_>>());
    for (folder, before) in before {
        assert_files(&files(&folder), &before, "an older checkpoint");
        assert_whole(&folder);
    }
    make_room(&run);
    assert!(resumed_at(&run.finish("sft", 1)) >= 7);
    assert_same(&run, &expected);
}

#[test]
fn a_disk_that_is_full_when_the_result_is_written() {
    if !may_mount("a_disk_that_is_full_when_the_result_is_written") {
        return;
    }
    let ground = Ground::new();
    let settings = [LARGE, "sft.checkpoint_every=0"];
    let expected = undisturbed(&ground, "sft", &settings);
    let run = small_disk(&ground, "small").with(&settings);
    fill(&run, 64 << 10);
    let text = run.ends("sft", 1);
    let path = run.at("sft/adapter/adapter_model.safetensors");
    assert_eq!(text.lines().last().unwrap(), format!("error: {}: {NO_SPACE}", path.display()));
    assert_eq!(names(&run.at("sft/adapter")), Vec::<String>::new(), "a result that is not whole has no name");
    make_room(&run);
    run.finish("sft", 1);
    assert_same(&run, &expected);
}

#[test]
fn a_disk_that_is_full_when_metrics_are_written() {
    if !may_mount("a_disk_that_is_full_when_metrics_are_written") {
        return;
    }
    let ground = Ground::new();
    // Nothing but metrics is written before the end.
    let settings = ["sft.epochs=40", "sft.checkpoint_every=0", "sft.validate=false"];
    let expected = undisturbed(&ground, "sft", &settings);
    let run = small_disk(&ground, "small").with(&settings);
    let child = run.start_until("sft", Step(1)).expect("it is long enough");
    send(&child, SIGSTOP);
    fill(&run, 0);
    send(&child, SIGCONT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let error = format!("error: {}: {NO_SPACE}", run.at("metrics.jsonl").display());
    assert_eq!(said(&output).lines().last().unwrap(), error);
    make_room(&run);
    run.finish("sft", 1);
    assert_same(&run, &expected);
}

#[test]
fn a_disk_that_is_full_when_records_are_written() {
    if !may_mount("a_disk_that_is_full_when_records_are_written") {
        return;
    }
    let ground = Ground::new();
    let settings = ["problems.suite=micro", "problems.count=80", "problems.vet=false"];
    let expected = ground.empty_run(&ground.at("undisturbed"), "undisturbed").with(&settings);
    expected.finish("problems", 2);
    fs::create_dir(ground.at("small")).unwrap();
    mount(&ground.at("small"), 0, "size=4m");
    let run = ground.empty_run(&ground.at("small"), "small").with(&settings);
    fill(&run, 32 << 10);
    let text = run.ends("problems", 1);
    assert_eq!(text.lines().last().unwrap(), format!("error: {}: {NO_SPACE}", run.at("problems.jsonl").display()));
    assert!(!run.at("problems.jsonl").exists());
    make_room(&run);
    run.finish("problems", 1);
    assert_same(&run, &expected);
}

#[test]
fn a_run_folder_that_is_read_only() {
    if !may_mount("a_run_folder_that_is_read_only") {
        return;
    }
    let ground = Ground::new();
    let expected = undisturbed(&ground, "sft", &[]);
    let run = (0..20).find_map(|attempt| {
        let run = small_disk(&ground, &format!("small-{attempt}"));
        stopped(&run, SIGINT).then_some(run)
    });
    let run = run.expect("one attempt in which the interrupt came in time");
    let before = files(&run.folder);
    mount(&run.folder, libc::MS_REMOUNT | libc::MS_RDONLY, "size=4m");
    for stage in ["sft", "reward"] {
        let text = run.ends(stage, 2);
        assert_eq!(text, format!("error: {}: Read-only file system (os error 30)\n", run.at(".lock").display()));
    }
    assert_files(&files(&run.folder), &before, "a read-only folder");
    mount(&run.folder, libc::MS_REMOUNT, "size=4m");
    assert!(resumed_at(&run.finish("sft", 1)) >= 7);
    assert_same(&run, &expected);
}

#[test]
fn a_newest_checkpoint_that_is_damaged() {
    let ground = Ground::new();
    let settings = ["gpus=2", "sft.accumulation=1"];
    let expected = undisturbed(&ground, "sft", &settings);
    type Damage = fn(&Path);
    let unlike = "has not the SHA-256 that was written";
    let damages: [(&str, String, Damage); 5] = [
        ("optimizer-00002-of-00002.safetensors", format!("optimizer-00002-of-00002.safetensors {unlike}"), cut),
        ("adapter_model.safetensors", format!("adapter_model.safetensors {unlike}"), flip),
        ("state.json", format!("state.json {unlike}"), flip),
        ("optimizer-00001-of-00002.safetensors", "optimizer-00001-of-00002.safetensors is missing".into(), |path| {
            fs::remove_file(path).unwrap()
        }),
        ("SHA256SUMS", "SHA256SUMS is not what was written".into(), cut),
    ];
    for (index, (name, what, damage)) in damages.into_iter().enumerate() {
        let run = interrupted(&ground, &format!("damaged-{index}"), &settings);
        let [older, newest] = run.checkpoints("sft").try_into().unwrap();
        damage(&newest.join(name));
        let text = run.finish("sft", 1);
        let [older, newest] = [older, newest].map(|path| path.file_name().unwrap().to_str().unwrap().to_string());
        let message = format!("sft: {newest} is damaged: {what}; {older} is gone on from\n");
        assert!(text.contains(&message), "{message}{text}");
        assert_eq!(format!("checkpoint-{}", resumed_at(&text)), older);
        assert_same(&run, &expected);
    }
}

#[test]
fn checkpoints_that_are_all_damaged() {
    let ground = Ground::new();
    let expected = undisturbed(&ground, "sft", &[]);
    let run = interrupted(&ground, "damaged", &[]);
    run.checkpoints("sft").iter().for_each(|checkpoint| flip(&checkpoint.join("optimizer-00001-of-00001.safetensors")));
    let text = run.finish("sft", 1);
    let what = "is damaged: optimizer-00001-of-00001.safetensors has not the SHA-256 that was written; starting anew\n";
    assert_eq!((text.matches(what).count(), resumed_at(&text)), (2, 0), "{text}");
    assert_same(&run, &expected);
}

#[test]
fn a_model_that_is_truncated() {
    let ground = Ground::new();
    let expected = undisturbed(&ground, "sft", &[]);
    let run = interrupted(&ground, "run", &[]);
    let path = ground.at("policy/model.safetensors");
    let (whole, before) = (fs::read(&path).unwrap(), files(&run.at("sft")));
    for keep in [whole.len() - 1, 100, 0] {
        fs::write(&path, &whole[..keep]).unwrap();
        let run = ground.run(&format!("truncated-{keep}"));
        let text = run.ends("sft", 2);
        let error = text.lines().last().unwrap();
        assert!(error.starts_with(&format!("error: {}: not a whole safetensors file: ", path.display())), "{error}");
        assert!(!run.at("sft/adapter").exists());
    }
    // A checkpoint is not lost while a model is not what it was only for a time.
    fs::write(&path, whole).unwrap();
    assert_files(&files(&run.at("sft")), &before, "the interrupted run");
    assert!(resumed_at(&run.finish("sft", 1)) >= 7);
    assert_same(&run, &expected);
}

#[test]
fn records_that_are_cut_within_a_line() {
    let ground = Ground::new();
    let run = ground.run("run");
    let path = run.at("sft.jsonl");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 20]).unwrap();
    let text = run.ends("sft", 2);
    assert!(text.lines().last().unwrap().starts_with(&format!("error: {}:32: EOF while parsing ", path.display())), "{text}");
    assert!(!run.at("sft/adapter").exists());
    fs::write(&path, whole).unwrap();
    run.finish("sft", 1);
    assert_same(&run, &undisturbed(&ground, "sft", &[]));
}

#[test]
fn a_manifest_that_is_damaged() {
    let ground = Ground::new();
    let expected = undisturbed(&ground, "sft", &[]);
    let run = interrupted(&ground, "run", &[]);
    let path = run.at("manifest.json");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let before = files(&run.folder);
    let text = run.ends("sft", 2);
    assert!(text.starts_with(&format!("error: {}:", path.display())) && text.contains(": not a manifest: "), "{text}");
    assert!(text.ends_with("; move the file away to start anew\n"), "{text}");
    let mut after = files(&run.folder);
    after.insert(".lock".into(), before[".lock"].clone());
    assert_files(&after, &before, "a damaged manifest");
    fs::remove_file(&path).unwrap();
    assert_eq!(resumed_at(&run.finish("sft", 1)), 0);
    assert_same(&run, &expected);
}

#[test]
fn remembered_hashes_that_are_damaged() {
    let ground = Ground::new();
    let run = ground.run("run");
    run.finish("sft", 1);
    for damaged in [&b"{\"/x\":{\"stamp\":"[..], b"", b"\xff\xfe", b"[1]"] {
        fs::write(run.at(".hashes.json"), damaged).unwrap();
        assert_eq!(run.finish("sft", 1), "sft: unchanged, skipped\n");
    }
}

#[test]
fn a_result_that_changed_after_its_stage_was_done() {
    let ground = Ground::new();
    let expected = undisturbed(&ground, "sft", &[]);
    let run = ground.run("run");
    run.finish("sft", 1);
    let damages: [fn(&Path); 3] = [flip, cut, |path| fs::remove_file(path).unwrap()];
    for damage in damages {
        damage(&run.at("sft/adapter/adapter_model.safetensors"));
        assert!(!run.finish("sft", 1).contains("unchanged"));
        assert_same(&run, &expected);
    }
}

#[test]
fn metrics_that_end_within_a_line() {
    let ground = Ground::new();
    let expected = undisturbed(&ground, "sft", &[]);
    expected.finish("reward", 2);
    let run = interrupted(&ground, "run", &[]);
    let half = || {
        let mut file = fs::File::options().append(true).open(run.at("metrics.jsonl")).unwrap();
        file.write_all(b"{\"stage\":\"sft\",\"step\":9,\"lo").unwrap();
    };
    half();
    assert!(resumed_at(&run.finish("sft", 1)) >= 7);
    half();
    run.finish("reward", 1);
    assert_same(&run, &expected);
}

#[test]
fn a_data_file_that_is_gone_before_the_start() {
    let ground = Ground::new();
    let expected = undisturbed(&ground, "sft", &[]);
    let run = interrupted(&ground, "run", &[]);
    let (path, away) = (run.at("sft.jsonl"), ground.at("away"));
    fs::rename(&path, &away).unwrap();
    let before = files(&run.at("sft"));
    let what = "is missing: the recipe has to name it, or an earlier stage has to write it";
    assert_eq!(run.ends("sft", 2), format!("error: stage sft: {} {what}\n", path.display()));
    assert_files(&files(&run.at("sft")), &before, "the checkpoints");
    fs::rename(&away, &path).unwrap();
    assert!(resumed_at(&run.finish("sft", 1)) >= 7);
    assert_same(&run, &expected);
}

#[test]
fn a_data_file_that_vanishes_between_the_stages_of_a_run() {
    let ground = Ground::new();
    let settings = [
        "problems.suite=micro",
        "problems.count=12",
        "problems.split=[0.5, 0.25, 0.25]",
        "teacher.provider=scripted",
        "filter.cap=1.0",
        "judge.ties=half",
        "jobs=1",
        "candidates.max_new_tokens=6",
        "reward.epochs=1",
    ];
    let expected = ground.empty_run(&ground.at("undisturbed"), "undisturbed").with(&settings);
    expected.finish("run --until reward", 2);
    let run = ground.empty_run(&ground.at("run"), "run").with(&settings);
    let mut child = run.start("run --until reward", 1);
    while !run.reached("sft", Step(1)) {
        assert!(child.try_wait().unwrap().is_none(), "{}", said(&child.wait_with_output().unwrap()));
        std::thread::sleep(Duration::from_micros(200));
    }
    let (path, away) = (ground.at("preferences.jsonl"), ground.at("away"));
    send(&child, SIGSTOP);
    fs::rename(&path, &away).unwrap();
    send(&child, SIGCONT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let what = "is missing: the recipe has to name it, or an earlier stage has to write it";
    let error = format!("error: stage reward: {} {what}\n", path.display());
    assert!(said(&output).ends_with(&error), "{}", said(&output));
    fs::rename(&away, &path).unwrap();
    let text = run.finish("run --until reward", 1);
    for stage in ["problems", "collect", "filter", "sft", "candidates", "judge"] {
        assert!(text.contains(&format!("{stage}: unchanged, skipped\n")), "{text}");
    }
    let judged = |mut contents: std::collections::BTreeMap<String, Vec<u8>>| {
        // The order of answers that arrived at once is left to chance.
        contents.remove("teacher.jsonl");
        contents
    };
    assert_files(&judged(run.contents()), &judged(expected.contents()), "after the fault");
}

#[test]
fn a_loss_that_is_no_number_says_the_same_on_one_rank_and_on_two() {
    let ground = Ground::new();
    // AdamW's first step is ± the learning rate: B becomes ± 1e30, and the second forward pass overflows.
    let common = [
        "sft.learning_rate=1e30",
        "sft.warmup_ratio=0.0",
        "sft.weight_decay=0.0",
        "sft.checkpoint_every=1",
        "sft.validate=false",
        "lora.dropout=0.0",
    ];
    let said: Vec<String> = [["gpus=1", "sft.accumulation=2"], ["gpus=2", "sft.accumulation=1"]]
        .into_iter()
        .map(|ranks| {
            let run = ground.run(ranks[0]).with(&common).with(&ranks);
            let text = run.ends("sft", 1);
            let [good] = run.checkpoints("sft").try_into().unwrap();
            assert!(good.ends_with("checkpoint-1"), "{}", good.display());
            assert_whole(&good);
            assert_eq!(run.lines("sft"), 1);
            assert!(!run.at("sft/adapter").exists());
            text.lines().last().unwrap().to_string()
        })
        .collect();
    assert_eq!(said[0], said[1]);
    let (what, held) = said[0].split_once("; the batch held ").unwrap();
    assert_eq!(what, "error: sft step 2: the loss is not finite");
    let held: Vec<usize> = held.split(", ").map(|id| id.parse().unwrap()).collect();
    assert!(held.len() == 2 && held.iter().all(|id| *id < 32), "{held:?}");
}

#[test]
fn every_signal_that_asks_for_an_end_saves_on_two_ranks() {
    let ground = Ground::new();
    let settings = ["gpus=2", "sft.accumulation=1"];
    let expected = undisturbed(&ground, "sft", &settings);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let run = (0..20).find_map(|attempt| {
            let run = ground.run(&format!("{signal}-{attempt}")).with(&settings);
            stopped(&run, signal).then_some(run)
        });
        let run = run.expect("one attempt in which the signal came in time");
        run.checkpoints("sft").iter().for_each(|checkpoint| assert_whole(checkpoint));
        let lines = run.lines("sft");
        assert_eq!(resumed_at(&run.finish("sft", 1)), lines, "an interrupt loses no step");
        assert_same(&run, &expected);
    }
}

/// Both come at once, so that the second hits anything between the first's arrival and its end.
#[test]
fn a_second_signal_ends_with_130_and_what_is_saved_is_whole() {
    let ground = Ground::new();
    for (name, settings) in [("one", ["gpus=1", "sft.accumulation=2"]), ("two", ["gpus=2", "sft.accumulation=1"])] {
        let expected = ground.run(&format!("undisturbed-{name}")).with(&settings);
        expected.finish("sft", 2);
        for (round, signals) in [[SIGINT, SIGTERM], [SIGTERM, SIGHUP], [SIGHUP, SIGINT]].into_iter().enumerate() {
            let run = ground.run(&format!("{name}-{round}")).with(&settings);
            let child = run.start_until("sft", Step(5)).unwrap_or_else(|output| panic!("{}", said(&output)));
            send(&child, SIGSTOP);
            signals.iter().for_each(|signal| send(&child, *signal));
            send(&child, SIGCONT);
            let output = child.wait_with_output().unwrap();
            assert!([Some(130), Some(0)].contains(&output.status.code()), "{:?}: {}", output.status, said(&output));
            run.checkpoints("sft").iter().for_each(|checkpoint| assert_whole(checkpoint));
            run.finish("sft", 1);
            assert_same(&run, &expected);
        }
    }
}

/// A clock that jumps gives files any time. The hash of a file that was changed is computed anew whatever its time says; that of
/// one that was not is what it was.
#[test]
fn times_of_files_from_another_clock() {
    let ground = Ground::new();
    let run = ground.run("run");
    let path = run.at("sft.jsonl");
    // Older than the age from which on a hash is remembered.
    std::thread::sleep(Duration::from_millis(2100));
    run.finish("sft", 1);
    let remembered = fs::read_to_string(run.at(".hashes.json")).unwrap();
    assert!(remembered.contains("sft.jsonl"), "{remembered}");
    let whole = fs::read_to_string(&path).unwrap();
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let day = Duration::from_secs(86_400);
    let adapter = || fs::read(run.at("sft/adapter/adapter_model.safetensors")).unwrap();
    let first = adapter();
    let times = [before, before - day * 3650, SystemTime::now() + day * 3650, SystemTime::UNIX_EPOCH];
    for time in times {
        let set = |text: &str| {
            fs::write(&path, text).unwrap();
            fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        set(&whole);
        assert_eq!(run.finish("sft", 1), "sft: unchanged, skipped\n");
        set(&whole.replace("fix 7\"", "mix 7\""));
        assert!(!run.finish("sft", 1).contains("unchanged"), "{time:?}");
        assert_ne!(adapter(), first);
        set(&whole);
        run.finish("sft", 1);
        assert_eq!(adapter(), first);
    }
}

/// Every look at the wall clock finds another decade. At the end it says how often somebody looked.
const JUMPING: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int looks;

int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += __sync_fetch_and_add(&looks, 1) % 2 ? 400000000 : -400000000;
    return done;
}

__attribute__((destructor)) static void say(void) {
    FILE *file = fopen(getenv("JUMPING_LOOKS"), "w");
    fprintf(file, "%d", looks);
    fclose(file);
}
"#;

#[test]
fn a_clock_that_jumps_while_a_stage_runs() {
    let ground = Ground::new();
    let (source, library, looks) = (ground.at("jumping.c"), ground.at("jumping.so"), ground.at("looks"));
    fs::write(&source, JUMPING).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl").output();
    if !built.is_ok_and(|output| output.status.success()) {
        println!("skipped: no C compiler");
        return;
    }
    let expected = undisturbed(&ground, "sft", &[]);
    let run = ground.run("run");
    let jumping = || {
        let mut command = run.command("sft", 1);
        let output = command.env("LD_PRELOAD", &library).env("JUMPING_LOOKS", &looks).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert_ne!(fs::read_to_string(&looks).unwrap(), "0", "nobody looked at the clock that jumps");
        said(&output)
    };
    jumping();
    assert_same(&run, &expected);
    // Durations come from a clock that does not jump.
    let bounds = 0.0..3600.0;
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(run.at("manifest.json")).unwrap()).unwrap();
    let seconds = manifest["stages"][0]["seconds"].as_f64().unwrap();
    assert!(bounds.contains(&seconds), "{seconds}");
    for line in fs::read_to_string(run.at("metrics.jsonl")).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let (seconds, rate) = (line["seconds"].as_f64().unwrap(), line["tokens_per_s"].as_f64().unwrap());
        assert!(bounds.contains(&seconds) && rate > 0.0 && rate.is_finite(), "{line}");
    }
    assert_eq!(jumping(), "sft: unchanged, skipped\n");
}

/// Processes below one, however deep, each with the time of its start, which a later process of its number does not have.
fn below(process: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().map(|number| number.parse().unwrap()) {
            found.extend(started(child).map(|start| (child, start)));
            found.extend(below(child));
        }
    }
    found
}

/// When a process started; none where it is gone, or dead and not yet waited for.
fn started(process: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    (fields[0] != "Z" && fields[0] != "X").then(|| fields[19].to_string())
}

#[test]
fn answers_that_will_not_die_end_with_the_program() {
    let ground = Ground::new();
    // Deaf to every signal that can be ignored, and in a process group that it chose itself.
    let code = "import os, signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n\
                try: os.fork()\nexcept OSError: pass\ntry: os.setsid()\nexcept OSError: pass\nwhile True: pass\n";
    let row = |id: usize| serde_json::json!({"task_id": id, "text": "Wait.", "code": code, "test_list": [format!("assert f() == {id}")], "test_setup_code": ""});
    let rows: Vec<_> = (0..40).map(row).collect();
    let path = ground.at("mbpp.jsonl");
    repairity::record::write_jsonl(&path, &rows).unwrap();
    let path = format!("problems.path={}", path.display());
    let common = ["problems.suite=mbpp", &path, "problems.mutate=false", "jobs=2"];
    for (round, signals) in [&[SIGINT][..], &[SIGTERM, SIGINT], &[libc::SIGKILL]].into_iter().enumerate() {
        let name = format!("run-{round}");
        let run = ground.empty_run(&ground.at(&name), &name).with(&common);
        let mut child = run.start("problems", 1);
        while below(child.id()).is_empty() {
            assert!(child.try_wait().unwrap().is_none(), "{}", said(&child.wait_with_output().unwrap()));
            std::thread::sleep(Duration::from_millis(1));
        }
        // The first process only reads the tests.
        std::thread::sleep(Duration::from_millis(700));
        let left = below(child.id());
        let sent = Instant::now();
        signals.iter().for_each(|signal| send(&child, *signal));
        let output = child.wait_with_output().unwrap();
        // All of them would take 100 s.
        assert!(sent.elapsed() < Duration::from_secs(40), "after {signals:?}: {:?}", sent.elapsed());
        match round {
            0 => assert!(said(&output).ends_with("error: interrupted\n"), "{}", said(&output)),
            1 => assert_eq!(output.status.code(), Some(130), "{}", said(&output)),
            _ => assert_eq!(output.status.signal(), Some(libc::SIGKILL)),
        }
        let alive = || left.iter().filter(|(process, start)| started(*process).as_ref() == Some(start)).count();
        while alive() > 0 {
            assert!(sent.elapsed() < Duration::from_secs(60), "after {signals:?}: {} are left of {left:?}", alive());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!left.is_empty(), "an answer was running");
        let output = run.at("problems.jsonl");
        assert!(!output.exists(), "{} is not whole", output.display());
    }
}
