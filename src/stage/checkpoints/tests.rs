//! Checkpoints that are written, damaged, and refused by the disk, for one rank and for three.

use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::checkpoint::{Tensors, read_json};
use crate::comm::Hub;

/// A run folder with the checkpoints of its SFT.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("sft").join("state")
    }

    fn at(&self, inside: &str) -> PathBuf {
        self.state().join(inside)
    }

    fn open(&self, keep: usize) -> Checkpoints {
        Checkpoints::open(&self.state(), keep)
    }

    /// Everything in the folder, sorted.
    fn names(&self) -> Vec<String> {
        let mut names = names(&self.state()).unwrap();
        names.sort();
        names
    }

    /// Writes checkpoints of these steps, by `ranks` ranks.
    fn write(&self, ranks: usize, steps: &[usize], keep: usize) {
        let work = |group: Group| {
            let mut checkpoints = self.open(keep);
            for step in steps {
                checkpoints.start(&group, *step, pieces(&group, *step))?;
            }
            checkpoints.finish(&group)
        };
        Hub::new(0, ranks, ranks).run(work).unwrap();
    }

    /// The newest whole step that `ranks` ranks find, and what is said.
    fn find(&self, ranks: usize) -> (Option<usize>, Vec<String>) {
        let mut found = Hub::new(0, ranks, ranks).run(|group| self.open(2).find(&group)).unwrap();
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{found:?}");
        found.remove(0)
    }
}

/// What one rank has in a checkpoint of `step`.
fn pieces(group: &Group, step: usize) -> Vec<Piece> {
    let values = (0..40).map(|i| (step * 100 + group.rank() * 10 + i) as f32).collect();
    let tensors = vec![Named { name: "m".into(), shape: vec![4, 10], values }];
    let mut pieces =
        vec![Piece { name: optimizer(group.rank(), group.ranks()), content: Content::Tensors(tensors, Storage::F32) }];
    if group.is_first() {
        pieces.push(Piece { name: "state.json".into(), content: Content::Json(json!({"step": step})) });
    }
    pieces
}

fn optimizer(rank: usize, ranks: usize) -> String {
    format!("optimizer-{:05}-of-{ranks:05}.safetensors", rank + 1)
}

fn solo() -> Group {
    Group::new(&Hub::new(0, 1, 1), 0)
}

#[test]
fn what_every_rank_wrote_is_read_back() {
    for ranks in [1, 3] {
        let place = Place::new();
        place.write(ranks, &[7], 2);
        assert_eq!(place.find(ranks), (Some(7), Vec::new()));
        let found = Hub::new(0, ranks, ranks).run(|group| place.open(2).latest(&group)).unwrap();
        assert_eq!(found, vec![Some((7, place.at("checkpoint-7"))); ranks]);
        for rank in 0..ranks {
            let tensors = Tensors::open_files(&[place.at("checkpoint-7").join(optimizer(rank, ranks))]).unwrap();
            let values: Vec<f32> = tensors.read("m", &[4, 10]).unwrap();
            assert_eq!((values[0], values[39]), (700.0 + rank as f32 * 10.0, 739.0 + rank as f32 * 10.0));
        }
        assert_eq!(read_json(&place.at("checkpoint-7/state.json")).unwrap(), json!({"step": 7}));
        assert_eq!(names(&place.at("checkpoint-7")).unwrap().len(), ranks + 2);
    }
}

#[test]
fn none_where_there_is_no_folder() {
    assert_eq!(Place::new().find(3), (None, Vec::new()));
}

#[test]
fn the_newest_are_kept_by_number_not_by_name() {
    let place = Place::new();
    place.write(3, &[8, 9, 10, 100], 3);
    assert_eq!(place.names(), ["checkpoint-10", "checkpoint-100", "checkpoint-9"]);
    place.write(1, &[101], 0);
    assert_eq!(place.names(), ["checkpoint-101"]);
}

#[test]
fn coreutils_agree() {
    let place = Place::new();
    let content = || Content::Json(json!([1.5]));
    let piece = |name: &str| Piece { name: name.into(), content: content() };
    let (group, mut checkpoints) = (solo(), place.open(1));
    checkpoints.start(&group, 3, vec![piece("state.json"), piece("policy/a b.json"), piece("critic/a.json")]).unwrap();
    checkpoints.finish(&group).unwrap();
    let sums = fs::read_to_string(place.at("checkpoint-3/SHA256SUMS")).unwrap();
    // printf '[\n  1.5\n]\n' | sha256sum
    let sum = "a5769d4660fc4b80ecd4aa4cc535705f461bb34f58d612068145f1449d221e3e";
    assert_eq!(sums, format!("# files: 3\n{sum}  critic/a.json\n{sum}  policy/a b.json\n{sum}  state.json\n"));
    assert_eq!(place.find(3), (Some(3), Vec::new()));
    let check = Command::new("sha256sum").args(["--check", "--strict", SUMS]).current_dir(place.at("checkpoint-3")).output();
    match check {
        Err(error) if error.kind() == ErrorKind::NotFound => println!("skipped: no sha256sum"),
        check => {
            let (check, said) = (check.unwrap(), "critic/a.json: OK\npolicy/a b.json: OK\nstate.json: OK\n");
            assert_eq!((String::from_utf8(check.stdout).unwrap().as_str(), check.status.success()), (said, true));
        }
    }
}

#[test]
fn a_damaged_one_is_named_and_removed_and_the_one_before_it_found() {
    type Damage = fn(&Path);
    let cases: [(Damage, &str); 9] = [
        (|at| flip(&at.join("state.json"), 3), "state.json has not the SHA-256 that was written"),
        (
            |at| truncate(&at.join(optimizer(1, 3)), 1),
            "optimizer-00002-of-00003.safetensors has not the SHA-256 that was written",
        ),
        (
            |at| fs::write(at.join(optimizer(2, 3)), "").unwrap(),
            "optimizer-00003-of-00003.safetensors has not the SHA-256 that was written",
        ),
        (|at| fs::remove_file(at.join(optimizer(0, 3))).unwrap(), "optimizer-00001-of-00003.safetensors is missing"),
        (
            |at| {
                fs::remove_file(at.join("state.json")).unwrap();
                fs::create_dir(at.join("state.json")).unwrap();
            },
            "state.json is a folder",
        ),
        (|at| fs::remove_file(at.join(SUMS)).unwrap(), "SHA256SUMS is missing"),
        (|at| truncate(&at.join(SUMS), 5), "SHA256SUMS is not what was written"),
        // It ends with a whole line, and what it still lists is as it was.
        (|at| truncate(&at.join(SUMS), 64 + 2 + "state.json".len() + 1), "SHA256SUMS is not what was written"),
        (
            |at| [optimizer(1, 3), optimizer(2, 3), "state.json".into()].iter().for_each(|name| flip(&at.join(name), 0)),
            "optimizer-00002-of-00003.safetensors has not the SHA-256 that was written, and 2 more files are not what was written",
        ),
    ];
    for (damage, what) in cases {
        for ranks in [3, 1] {
            let place = Place::new();
            place.write(3, &[30, 40], 2);
            damage(&place.at("checkpoint-40"));
            let note = format!("sft: checkpoint-40 is damaged: {what}; checkpoint-30 is gone on from");
            assert_eq!(place.find(ranks), (Some(30), vec![note]));
            assert_eq!(place.names(), ["checkpoint-30"]);
            assert_eq!(place.find(ranks), (Some(30), Vec::new()));
        }
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// Cuts `count` bytes from the end.
fn truncate(path: &Path, count: usize) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() - count]).unwrap();
}

#[test]
fn every_damaged_one_is_named_and_then_all_starts_anew() {
    let place = Place::new();
    place.write(3, &[1, 2, 3], 3);
    for step in 1..=3 {
        flip(&place.at(&format!("checkpoint-{step}/state.json")), 0);
    }
    let note =
        |step| format!("sft: checkpoint-{step} is damaged: state.json has not the SHA-256 that was written; starting anew");
    assert_eq!(place.find(3), (None, vec![note(3), note(2), note(1)]));
    assert_eq!(place.names().len(), 0);
}

#[test]
fn what_cannot_be_read_for_another_reason_stays() {
    let place = Place::new();
    place.write(1, &[1, 2], 2);
    // A link to itself is a reason that root has too.
    let path = place.at("checkpoint-2/state.json");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    let errors = Mutex::new(Vec::new());
    let error =
        Hub::new(0, 3, 3).run(|group| place.open(2).find(&group).inspect_err(|e| errors.lock().unwrap().push(e.to_string())));
    let text = error.unwrap_err().to_string();
    assert!(text.starts_with(&format!("{}: ", path.display())), "{text}");
    let mut errors = errors.into_inner().unwrap();
    errors.sort();
    // SHA256SUMS lists two files: the second is rank 1's to read.
    assert_eq!(errors, [text.clone(), format!("rank 1: {text}"), format!("rank 1: {text}")]);
    assert_eq!(place.names(), ["checkpoint-1", "checkpoint-2"]);
}

#[test]
fn what_an_interrupted_write_left_is_removed_and_nothing_else() {
    let place = Place::new();
    place.write(1, &[4], 2);
    fs::create_dir_all(place.at(".checkpoint-5/policy")).unwrap();
    fs::write(place.at(".checkpoint-6"), "").unwrap();
    fs::create_dir(place.at("checkpoint-old")).unwrap();
    fs::create_dir(place.at("checkpoint-007")).unwrap();
    assert_eq!(place.find(1), (Some(4), Vec::new()));
    assert_eq!(place.names(), ["checkpoint-007", "checkpoint-4", "checkpoint-old"]);
}

#[test]
fn training_goes_on_while_it_is_written_and_only_finish_publishes() {
    let place = Place::new();
    place.write(1, &[1], 1);
    let (group, mut checkpoints) = (solo(), place.open(1));
    assert_eq!((checkpoints.written(), checkpoints.under_way()), (true, false));
    let (go, wait) = channel();
    checkpoints
        .begin(&group, 2, move |folder| {
            wait.recv().unwrap();
            pieces(&solo(), 2).into_iter().map(|piece| write(folder, piece)).collect()
        })
        .unwrap();
    // The thread waits for a word that has not been said.
    assert_eq!((checkpoints.written(), checkpoints.under_way()), (false, true));
    assert_eq!(checkpoints.latest(&group).unwrap(), Some((1, place.at("checkpoint-1"))));
    assert_eq!(place.names(), [".checkpoint-2", "checkpoint-1"]);
    go.send(()).unwrap();
    while !checkpoints.written() {
        std::thread::yield_now();
    }
    assert!(checkpoints.under_way());
    assert_eq!(place.names(), [".checkpoint-2", "checkpoint-1"]);
    checkpoints.finish(&group).unwrap();
    assert_eq!((checkpoints.written(), checkpoints.under_way()), (true, false));
    assert_eq!(place.names(), ["checkpoint-2"]);
    checkpoints.finish(&group).unwrap();
    assert_eq!(place.find(1), (Some(2), Vec::new()));
}

#[test]
fn the_next_start_finishes_the_one_under_way() {
    let place = Place::new();
    let work = |group: Group| {
        let mut checkpoints = place.open(5);
        checkpoints.start(&group, 1, pieces(&group, 1))?;
        checkpoints.start(&group, 2, pieces(&group, 2))?;
        assert!(place.at("checkpoint-1").is_dir() && !place.at("checkpoint-2").exists());
        checkpoints.finish(&group)
    };
    Hub::new(0, 1, 1).run(work).unwrap();
    assert_eq!(place.names(), ["checkpoint-1", "checkpoint-2"]);
}

#[test]
fn dropped_with_one_under_way_it_waits_for_its_thread_and_removes_nothing() {
    let place = Place::new();
    let (group, mut checkpoints) = (solo(), place.open(1));
    let (started, go) = (Arc::new(Barrier::new(2)), Arc::new(Mutex::new(false)));
    let (theirs, ended) = (started.clone(), go.clone());
    checkpoints
        .begin(&group, 2, move |folder| {
            theirs.wait();
            let written = pieces(&solo(), 2).into_iter().map(|piece| write(folder, piece)).collect();
            *ended.lock().unwrap() = true;
            written
        })
        .unwrap();
    started.wait();
    drop(checkpoints);
    assert!(*go.lock().unwrap());
    assert_eq!(place.names(), [".checkpoint-2"]);
    assert_eq!(names(&place.at(".checkpoint-2")).unwrap().len(), 2);
}

#[test]
fn a_step_that_is_there_is_written_again_only_where_it_is_damaged() {
    let place = Place::new();
    place.write(3, &[5], 2);
    let work = |damaged: bool| {
        let run = |group: Group| {
            let mut checkpoints = place.open(2);
            checkpoints.start(&group, 5, pieces(&group, 5))?;
            assert_eq!(checkpoints.under_way(), damaged);
            checkpoints.finish(&group)
        };
        Hub::new(0, 3, 3).run(run).unwrap();
        assert_eq!(place.find(3), (Some(5), Vec::new()));
        assert_eq!(place.names(), ["checkpoint-5"]);
    };
    work(false);
    flip(&place.at("checkpoint-5/state.json"), 0);
    work(true);
    work(false);
}

/// What each rank gets when `work` fails for one of three.
fn errors(work: impl Fn(&Group) -> Result<()> + Sync) -> Vec<String> {
    let said = Hub::new(0, 3, 3).run(|group| Ok(work(&group).map_or_else(|error| error.to_string(), |()| "done".into())));
    said.unwrap()
}

#[test]
fn a_write_that_fails_is_told_to_all_and_leaves_the_older_ones() {
    let place = Place::new();
    place.write(3, &[1, 2], 2);
    let said = errors(|group| {
        let mut checkpoints = place.open(2);
        let mut pieces = pieces(group, 3);
        if group.rank() == 1 {
            pieces.push(pieces[0].clone());
        }
        checkpoints.start(group, 3, pieces)?;
        let finished = checkpoints.finish(group);
        assert!(!checkpoints.under_way());
        finished
    });
    let own = format!("{}: File exists (os error 17)", place.at(".checkpoint-3").join(optimizer(1, 3)).display());
    assert_eq!(said, [format!("rank 1: {own}"), own.clone(), format!("rank 1: {own}")]);
    assert_eq!(place.names(), ["checkpoint-1", "checkpoint-2"]);
    assert_eq!(place.find(3), (Some(2), Vec::new()));
}

#[test]
fn the_next_start_brings_the_error_of_the_one_before() {
    let place = Place::new();
    let said = errors(|group| {
        let mut checkpoints = place.open(2);
        let name = if group.rank() == 2 { "state.json".into() } else { optimizer(group.rank(), 3) };
        let tensors = vec![Named { name: "w".into(), shape: vec![2], values: vec![1.0; 2 + group.rank() / 2] }];
        checkpoints.start(group, 1, vec![Piece { name, content: Content::Tensors(tensors, Storage::Bf16) }])?;
        checkpoints.start(group, 2, pieces(group, 2))
    });
    let path = place.at(".checkpoint-1/state.json");
    let own = format!("{}: w: shape [2] does not have the 3 elements that are given", path.display());
    assert_eq!(said, [format!("rank 2: {own}"), format!("rank 2: {own}"), own]);
    assert_eq!(place.names().len(), 0);
}

#[test]
fn a_folder_that_cannot_be_made_is_told_to_all() {
    let place = Place::new();
    fs::create_dir_all(place.state().parent().unwrap()).unwrap();
    fs::write(place.state(), "").unwrap();
    let said = errors(|group| place.open(2).start(group, 1, pieces(group, 1)));
    let own = format!("{}: Not a directory (os error 20)", place.at(".checkpoint-1").display());
    assert_eq!(said, [own.clone(), format!("rank 0: {own}"), format!("rank 0: {own}")]);
}

#[test]
fn ranks_that_do_not_see_the_same_folder_are_told() {
    let place = Place::new();
    let said = errors(|group| {
        let mut checkpoints = place.open(2);
        let elsewhere = place.0.path().join(format!("node-{}", group.rank()));
        let pieces = pieces(group, 1);
        checkpoints.begin(group, 1, move |folder| {
            let folder = if elsewhere.ends_with("node-2") { elsewhere.as_path() } else { folder };
            pieces.into_iter().map(|piece| write(folder, piece)).collect()
        })?;
        checkpoints.finish(group)
    });
    let path = place.at(".checkpoint-1").join(optimizer(2, 3));
    let found = "rank 0 finds: No such file or directory (os error 2); all ranks need the same folder";
    assert!(said[0].starts_with(&format!("{}: rank 2 wrote ", path.display())) && said[0].ends_with(found), "{}", said[0]);
    assert_eq!(said[1..], [format!("rank 0: {}", said[0]), format!("rank 0: {}", said[0])]);
    assert_eq!(place.names().len(), 0);
}

#[test]
fn a_full_disk_is_an_error_that_names_the_file() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        println!("skipped: no /dev/full");
        return;
    };
    let path = Path::new("state/.checkpoint-1/state.json");
    let error = write_content(full, path, &Content::Json(json!({}))).unwrap_err();
    assert_eq!(error.to_string(), "state/.checkpoint-1/state.json: No space left on device (os error 28)");
}

#[test]
fn clear_leaves_nothing() {
    let place = Place::new();
    place.write(3, &[1, 2], 2);
    fs::create_dir(place.at(".checkpoint-3")).unwrap();
    Hub::new(0, 3, 3).run(|group| place.open(2).clear(&group)).unwrap();
    assert_eq!(place.names().len(), 0);
    Hub::new(0, 3, 3).run(|group| Place::new().open(2).clear(&group)).unwrap();
}
