//! What goes wrong, and what the program then says: every kind of bad input ends with one line that names the file, the line, the
//! tensor or the key, and with exit code 2, before any work; a loss that is no number ends with 1 and keeps the last good state.

#[path = "support/program.rs"]
mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::{arg, checkpoint, err, out, refused, repairity};
use repairity::checkpoint::{Named, Storage, Tensors, read_json, write_json, write_tensors};
use repairity::device::Cpu;
use repairity::model::lora::{LoraConfig, Target};
use repairity::model::{Adapter, Architecture, Config};
use repairity::problem::micro;
use repairity::record::{Split, read_jsonl, write_jsonl};
use serde_json::{Value, json};

/// A folder with a checkpoint, `model`, and a file of tokens to score, `tokens.jsonl`.
struct Place {
    root: tempfile::TempDir,
    config: Config,
}

impl Place {
    fn new() -> Place {
        let root = tempfile::tempdir().unwrap();
        let config = checkpoint(&root.path().join("model"), Architecture::Qwen2);
        fs::write(root.path().join("tokens.jsonl"), "{\"tokens\":[5,6,7]}\n").unwrap();
        Place { root, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// `path` as errors show it.
    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// A recipe whose sft stage trains on two conversations of a file.
    fn recipe(&self, more: &str) -> PathBuf {
        let turn = |id: &str, text: &str| json!({"id": id, "messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": text}]});
        self.write("sft.jsonl", format!("{}\n{}\n", turn("first", "It is said."), turn("second", "So it is.")));
        let [out, model, data] = ["run", "model", "sft.jsonl"].map(|name| self.path(name));
        let text = format!("out = {out:?}\npolicy.model = {model:?}\nsft.data = {data:?}\n{more}\n");
        self.write("recipe.toml", text)
    }

    /// What `score` says about the model.
    fn score(&self) -> String {
        refused(&["--quiet", "score", "--model", arg(&self.path("model")), "--input", arg(&self.path("tokens.jsonl"))])
    }

    /// The model's tensors, changed and written back.
    fn tensors(&self, change: impl FnOnce(&mut Vec<Named>)) {
        let path = self.path("model/model.safetensors");
        let mut tensors = named(&path);
        change(&mut tensors);
        write_tensors(&path, &tensors, Storage::F32).unwrap();
    }

    /// Writes a fresh adapter into `adapter`, its tensors changed.
    fn adapter(&self, change: impl FnOnce(&mut Vec<Named>)) {
        let device = Cpu::<f32>::new();
        let config = LoraConfig { rank: 2, alpha: 4.0, dropout: 0.0, targets: vec![Target::Q, Target::K, Target::V] };
        let folder = self.path("adapter");
        Adapter::new(&device, config, &self.config, 1).unwrap().save(&device, &folder, "model", None).unwrap();
        let path = folder.join("adapter_model.safetensors");
        let mut tensors = named(&path);
        change(&mut tensors);
        write_tensors(&path, &tensors, Storage::F32).unwrap();
    }
}

fn named(path: &Path) -> Vec<Named> {
    let tensors = Tensors::open_files(&[path.to_path_buf()]).unwrap();
    let read = |name: &&str| {
        let shape = tensors.shape(name).unwrap().to_vec();
        Named { name: name.to_string(), values: tensors.read(name, &shape).unwrap(), shape }
    };
    tensors.names().iter().map(read).collect()
}

#[test]
fn a_recipe_that_cannot_be_read() {
    let place = Place::new();
    let missing = place.path("none.toml");
    assert_eq!(refused(&["run", arg(&missing)]), format!("error: {}: No such file or directory (os error 2)", missing.display()));

    let folder = place.path("model");
    assert_eq!(refused(&["run", arg(&folder)]), format!("error: {}: Is a directory (os error 21)", folder.display()));

    let recipe = place.recipe("sft.epochs = 1\nsft.learning_rat = 1e-5");
    let text = refused(&["run", arg(&recipe)]);
    let expected = format!("error: {}:5: sft: unknown key `learning_rat`; did you mean `learning_rate`?", recipe.display());
    assert!(text.starts_with(&expected), "{text}");

    let recipe = place.recipe("sft.learning_rate = \"fast\"");
    let text = refused(&["run", arg(&recipe)]);
    assert_eq!(
        text,
        format!("error: {}:4: sft.learning_rate: invalid type: string \"fast\", expected a number", recipe.display())
    );

    let recipe = place.recipe("");
    let text = refused(&["run", arg(&recipe), "--set", "ppo.clipp=0.1"]);
    assert!(text.starts_with("error: --set ppo.clipp=0.1: ppo.clipp: unknown key `clipp`; did you mean `clip`? "), "{text}");
    assert!(!place.path("run").exists());
}

/// A run would have paid for every trace before it noticed that the policy was not there.
#[test]
fn a_missing_model_is_told_before_the_first_stage() {
    let place = Place::new();
    let recipe = place.recipe("");
    let nowhere = place.shown("nowhere");
    let set = format!("policy.model={nowhere}");
    let text = refused(&["sft", arg(&recipe), "--set", &set]);
    let what = "is missing: the recipe has to name a file or folder that is there";
    assert_eq!(text, format!("error: stage sft: {nowhere} {what}"));

    place.write("recipe.toml", format!("out = {:?}\nproblems = {{ suite = \"micro\", count = 5 }}\n", place.path("run")));
    let model = format!("policy.model={}", place.shown("model"));
    let reward = format!("reward.model={nowhere}");
    let sets = ["--set", "teacher.provider=scripted", "--set", &model, "--set", &reward];
    let text = refused(&[&["run", arg(&recipe)], &sets[..]].concat());
    assert_eq!(text, format!("error: stage reward: {nowhere} {what}"));
    assert!(!place.path("run/problems.jsonl").exists());

    // What a stage of the run is to write is asked for only when its turn comes.
    let text = refused(&[&["--quiet", "run", arg(&recipe), "--from", "filter"], &sets[..4]].concat());
    let model = Path::new("models/CodeLlama-7b-hf");
    assert_eq!(text, format!("error: stage reward: {} {what}", model.display()));
    let text = refused(&[&["--quiet", "filter", arg(&recipe)], &sets[..]].concat());
    assert!(text.starts_with(&format!("error: stage filter: {} is missing", place.shown("run/problems.jsonl"))), "{text}");
}

#[test]
fn a_config_that_is_missing_or_not_supported() {
    let place = Place::new();
    let config = place.path("model/config.json");
    let good = read_json(&config).unwrap();
    let with = |key: &str, value: Value| {
        let mut json = good.clone();
        json[key] = value;
        write_json(&config, &json).unwrap();
        place.score()
    };
    let at = format!("error: {}", config.display());
    assert_eq!(with("model_type", json!("gpt2")), format!("{at}: model_type: \"qwen2\" or \"llama\" expected, \"gpt2\" found"));
    assert_eq!(with("hidden_size", json!("wide")), format!("{at}: hidden_size: a count expected, \"wide\" found"));
    let text = with("rope_scaling", json!({"type": "yarn", "factor": 4.0}));
    assert_eq!(text, format!("{at}: rope_scaling: rope type \"yarn\" is not supported"));

    fs::write(&config, "{\n  \"model_type\": qwen2\n}\n").unwrap();
    let text = place.score();
    assert!(text.starts_with(&format!("{at}:2: expected value")), "{text}");
    fs::remove_file(&config).unwrap();
    assert_eq!(place.score(), format!("{at}: No such file or directory (os error 2)"));
    fs::remove_dir_all(place.path("model")).unwrap();
    assert_eq!(place.score(), format!("{at}: No such file or directory (os error 2)"));
}

#[test]
fn a_tensor_that_is_missing_or_of_another_shape_or_not_finite() {
    let norm = "model.norm.weight";
    let file = |place: &Place| format!("error: {}", place.shown("model/model.safetensors"));

    let place = Place::new();
    let up = "model.layers.1.mlp.up_proj.weight";
    place.tensors(|tensors| tensors.retain(|tensor| tensor.name != up));
    assert_eq!(place.score(), format!("{}: tensor {up} is missing", file(&place)));

    let place = Place::new();
    place.tensors(|tensors| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == norm).unwrap();
        (tensor.shape, tensor.values) = (vec![8], vec![1.0; 8]);
    });
    assert_eq!(place.score(), format!("{}: {norm}: shape [16] expected, [8] found", file(&place)));

    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let place = Place::new();
        place.tensors(|tensors| tensors.iter_mut().find(|tensor| tensor.name == norm).unwrap().values[3] = value);
        assert_eq!(place.score(), format!("{}: {norm}: element 3 is {shown}", file(&place)));
    }
}

#[test]
fn a_checkpoint_that_is_truncated_or_lacks_a_shard() {
    let place = Place::new();
    let path = place.path("model/model.safetensors");
    let whole = fs::read(&path).unwrap();
    // In the data, in the header, in the header's length, and nothing at all.
    for length in [whole.len() - 1, 100, 4, 0] {
        fs::write(&path, &whole[..length]).unwrap();
        let text = place.score();
        assert!(text.starts_with(&format!("error: {}: not a whole safetensors file: ", path.display())), "{length}: {text}");
    }

    fs::remove_file(&path).unwrap();
    let text = place.score();
    let expected = "no checkpoint here: model.safetensors or model.safetensors.index.json expected";
    assert_eq!(text, format!("error: {}: {expected}", place.shown("model")));

    let index = place.path("model/model.safetensors.index.json");
    write_json(&index, &json!({"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}})).unwrap();
    let shard = place.path("model/model-00001-of-00002.safetensors");
    assert_eq!(place.score(), format!("error: {}: No such file or directory (os error 2)", shard.display()));
    let other = Named { name: "other".into(), shape: vec![1], values: vec![0.0] };
    write_tensors(&shard, &[other], Storage::F32).unwrap();
    let text = place.score();
    assert_eq!(text, format!("error: {}: tensor model.norm.weight is listed, but no shard holds it", index.display()));
}

/// Mapping a folder used to fail with "No such device", and exit code 1.
#[test]
fn a_folder_where_a_file_is_expected() {
    let place = Place::new();
    let folder = place.path("model");
    let model = arg(&folder);
    let directory = |path: &str| format!("error: {path}: Is a directory (os error 21)");
    assert_eq!(refused(&["score", "--model", model, "--input", model]), directory(model));
    assert_eq!(refused(&["check", "--suite", "mbpp", "--path", model, "--reference"]), directory(model));
    // A folder is one of the two forms of QuixBugs, and this is not that folder.
    let programs = folder.join("python_programs");
    let text = refused(&["check", "--suite", "quixbugs", "--path", model, "--reference"]);
    assert_eq!(text, format!("error: {}: No such file or directory (os error 2)", programs.display()));

    let file = place.path("tokens.jsonl");
    let text = refused(&["score", "--model", arg(&file), "--input", arg(&file)]);
    assert_eq!(text, format!("error: {}: Not a directory (os error 20)", file.join("config.json").display()));
    let recipe = place.recipe("");
    let text = refused(&["sft", arg(&recipe), "--set", &format!("out={}", file.join("run").display())]);
    assert_eq!(text, format!("error: {}: Not a directory (os error 20)", file.join("run").display()));

    let weights = place.path("model/model.safetensors");
    fs::remove_file(&weights).unwrap();
    fs::create_dir(&weights).unwrap();
    assert_eq!(place.score(), format!("error: {}: is a directory", weights.display()));
}

#[test]
fn a_tokenizer_of_another_model() {
    let place = Place::new();
    let rows = place.config.vocab - 12;
    place.tensors(|tensors| {
        for tensor in tensors.iter_mut().filter(|tensor| tensor.shape[0] == rows + 12) {
            tensor.shape[0] = rows;
            tensor.values.truncate(rows * 16);
        }
    });
    let config = place.path("model/config.json");
    let mut json = read_json(&config).unwrap();
    json["vocab_size"] = json!(rows);
    write_json(&config, &json).unwrap();
    let recipe = place.recipe("");
    let text = refused(&["--quiet", "sft", arg(&recipe)]);
    let what = format!("the tokenizer has {} ids, but the embedding only {rows} rows", place.config.vocab);
    assert_eq!(text, format!("error: {}: {what}", place.shown("model")));
}

#[test]
fn an_adapter_that_does_not_fit() {
    let place = Place::new();
    let (folder, model, input) = (place.path("adapter"), place.path("model"), place.path("tokens.jsonl"));
    let score = || refused(&["--quiet", "score", "--model", arg(&model), "--adapter", arg(&folder), "--input", arg(&input)]);
    let file = folder.join("adapter_model.safetensors").display().to_string();

    let stray = "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight";
    place.adapter(|tensors| tensors.push(Named { name: stray.into(), shape: vec![2, 16], values: vec![0.0; 32] }));
    assert_eq!(score(), format!("error: {}: tensor {stray} has no place in this model", folder.display()));

    let name = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight";
    place.adapter(|tensors| tensors.retain(|tensor| tensor.name != name));
    assert_eq!(score(), format!("error: {file}: tensor {name} is missing"));
    place.adapter(|tensors| tensors.iter_mut().find(|tensor| tensor.name == name).unwrap().shape = vec![2, 8]);
    assert_eq!(score(), format!("error: {file}: {name}: shape [8, 2] expected, [2, 8] found"));

    let config = folder.join("adapter_config.json");
    let mut json = read_json(&config).unwrap();
    json["use_dora"] = json!(true);
    write_json(&config, &json).unwrap();
    assert_eq!(score(), format!("error: {}: use_dora: false expected, true found", config.display()));
    fs::remove_file(&config).unwrap();
    assert_eq!(score(), format!("error: {}: No such file or directory (os error 2)", config.display()));
}

#[test]
fn a_record_that_is_not_what_it_must_be() {
    let place = Place::new();
    let (model, input) = (place.path("model"), place.path("records.jsonl"));
    let at = |line: usize| format!("error: {}:{line}: ", input.display());
    let score = |bytes: &[u8]| {
        fs::write(&input, bytes).unwrap();
        refused(&["--quiet", "score", "--model", arg(&model), "--input", arg(&input)])
    };
    let text = score(b"{\"tokens\":[1,2]}\n\n{\"tokens\":[1,2}\n");
    assert!(text.starts_with(&at(3)), "{text}");
    let text = score(b"{\"tokens\":[1,2]}\n{\"text\":\"\xff\"}\n");
    assert!(text.starts_with(&at(2)) && text.contains("UTF-8"), "{text}");

    let recipe = place.recipe("");
    fs::write(place.path("sft.jsonl"), "{\"messages\":[]}\n{\"id\":\"2\"}\n").unwrap();
    let text = refused(&["--quiet", "sft", arg(&recipe)]);
    assert!(
        text.starts_with(&format!(
            "error: {}:2: `messages`: a list of turns is expected, nothing was found",
            place.shown("sft.jsonl")
        )),
        "{text}"
    );

    let data = place.write("preferences.jsonl", "{\"prompt\":\"p\",\"chosen\":\"a\",\"rejected\":\"b\",\"label\":1.5}\n");
    let sets = [format!("reward.data={}", data.display()), format!("reward.model={}", model.display())];
    let text = refused(&["--quiet", "reward", arg(&recipe), "--set", &sets[0], "--set", &sets[1]]);
    assert_eq!(text, format!("error: {}:1: label: 0 to 1 expected, 1.5 found", data.display()));
}

#[test]
fn a_suite_that_is_not_there() {
    let place = Place::new();
    let path = place.path("none.jsonl");
    let text = refused(&["check", "--suite", "quixbugs", "--path", arg(&path), "--reference"]);
    assert_eq!(text, format!("error: {}: No such file or directory (os error 2)", path.display()));
    let text = refused(&["check", "--suite", "quixbug", "--path", arg(&path), "--reference"]);
    let known = repairity::problem::SUITES.join(", ");
    assert_eq!(text, format!("error: suite: `quixbug` is no suite; there are {known}; did you mean `quixbugs`?"));

    let rows = place.write("suite.jsonl", "{\"name\": \"gcd\", \"docstring\": 7}\n");
    let text = refused(&["check", "--suite", "quixbugs", "--path", arg(&rows), "--reference"]);
    assert!(text.starts_with(&format!("error: {}:1: ", rows.display())), "{text}");

    let recipe = place.recipe("");
    let sets = ["problems.suite=quixbugs", "teacher.provider=scripted"];
    let path = format!("problems.path={}", path.display());
    let text = refused(&["collect", arg(&recipe), "--set", sets[0], "--set", sets[1], "--set", &path]);
    assert!(text.starts_with("error: stage problems: ") && text.contains("none.jsonl is missing"), "{text}");
}

/// The problems were vetted for minutes before the missing key was told.
#[test]
fn a_key_that_is_not_set_is_told_before_any_work() {
    let place = Place::new();
    let recipe = place.recipe("problems.suite = \"micro\"\nproblems.count = 3\nteacher.provider = \"anthropic\"");
    let command = |key: Option<&str>, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_repairity"));
        command.args(["collect", arg(&recipe)]).args(more).env_remove("ANTHROPIC_API_KEY");
        key.map(|key| command.env("ANTHROPIC_API_KEY", key));
        command.output().unwrap()
    };
    let expected = |name: &str, found: &str| {
        format!("error: teacher.key_env: the environment variable {name} with the key expected; {found}\n")
    };
    let output = command(None, &[]);
    assert_eq!((output.status.code(), err(&output)), (Some(2), expected("ANTHROPIC_API_KEY", "it is not set")));
    let output = command(None, &["--set", "teacher.key_env=MY_KEY_OF_REPAIRITY"]);
    assert_eq!((output.status.code(), err(&output)), (Some(2), expected("MY_KEY_OF_REPAIRITY", "it is not set")));
    // A key with a line end in it would be two headers; it is not repeated.
    let output = command(Some("sk-secret\nx: y"), &[]);
    let text = expected("ANTHROPIC_API_KEY", "it holds characters that no key has");
    assert_eq!((output.status.code(), err(&output)), (Some(2), text));
    assert!(!place.path("run/problems.jsonl").exists() && !place.path("run/teacher.jsonl").exists());
}

#[test]
fn a_loss_that_is_not_finite_names_step_and_records() {
    let place = Place::new();
    place.adapter(|tensors| tensors.iter_mut().for_each(|tensor| tensor.values.fill(1e30)));
    let recipe = place.recipe("sft.accumulation = 2");
    let output = repairity(&["--quiet", "sft", arg(&recipe), "--set", &format!("sft.adapter={}", place.shown("adapter"))]);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    let text = err(&output);
    let expected = |ids: &str| format!("error: sft step 1: the loss is not finite; the batch held {ids}\n");
    assert!([expected("first, second"), expected("second, first")].contains(&text), "{text}");
    assert_eq!(out(&output), "");
    assert!(!place.path("run/sft").exists());
    let stage = &read_json(&place.path("run/manifest.json")).unwrap()["stages"][0];
    assert_eq!((&stage["name"], &stage["state"]), (&json!("sft"), &json!("failed")));
    assert!(text.contains(stage["error"].as_str().unwrap()), "{stage}");
}

#[test]
fn a_gradient_that_is_not_finite_names_its_tensor() {
    let place = Place::new();
    // A is zero, so the branch adds nothing and the loss is finite; B is what the gradient of A is multiplied by, and its square
    // is beyond f32.
    place.adapter(|tensors| {
        for tensor in tensors {
            tensor.values.fill(if tensor.name.contains("lora_A") { 0.0 } else { 1e30 });
        }
    });
    let recipe = place.recipe("sft.accumulation = 1\nsft.shuffle = false");
    let output = repairity(&["--quiet", "sft", arg(&recipe), "--set", &format!("sft.adapter={}", place.shown("adapter"))]);
    let tensor = "model.layers.0.self_attn.q_proj.lora_A.weight";
    let expected = format!("error: sft step 1: the gradient of {tensor} is not finite; the batch held first\n");
    assert_eq!((output.status.code(), err(&output)), (Some(1), expected));
}

/// PPO named no record at all.
#[test]
fn a_loss_of_ppo_that_is_not_finite_names_iteration_and_problems() {
    let place = Place::new();
    let score = Named { name: "score.weight".into(), shape: vec![1, 16], values: vec![0.1; 16] };
    place.tensors(|tensors| tensors.push(score));
    place.adapter(|_| ());
    let mut problems = micro::generate(9, 2);
    problems.iter_mut().for_each(|problem| problem.split = Some(Split::Train));
    write_jsonl(&place.path("run/problems.jsonl"), &problems).unwrap();
    // The first step moves B by the learning rate, 1e30; the product of queries and keys overflows in the second pass.
    let settings = "ppo.iterations = 1\nppo.prompts_per_iteration = 2\nppo.minibatches = 1\nppo.critic_warmup = 0\n\
                    ppo.max_new_tokens = 4\nppo.learning_rate = 1e30";
    let [adapter, model] = ["adapter", "model"].map(|name| place.path(name));
    let recipe = place.recipe(&format!("{settings}\nppo.adapter = {adapter:?}\nppo.reward_model = {model:?}"));
    let output = repairity(&["--quiet", "ppo", arg(&recipe)]);
    let text = err(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("error: ppo iteration 1: the loss is not finite; the batch held "), "{text}");
    let held = text.trim_end().rsplit("held ").next().unwrap();
    let [a, b] = [&problems[0].id, &problems[1].id];
    assert!([format!("{a}, {b}"), format!("{b}, {a}")].contains(&held.to_string()), "{text}");
    assert!(!place.path("run/ppo/adapter").exists());
}

#[test]
fn the_last_good_state_survives_a_loss_that_is_not_finite() {
    let place = Place::new();
    // AdamW's first step is ± the learning rate: B becomes ± 1e30, and the second forward pass overflows.
    let settings = "sft.accumulation = 2\nsft.epochs = 3\nsft.learning_rate = 1e30\nsft.weight_decay = 0.0\nsft.warmup_ratio = 0.0\n\
                    sft.checkpoint_every = 1\nlora.dropout = 0.0";
    let recipe = place.recipe(settings);
    let output = repairity(&["--quiet", "sft", arg(&recipe)]);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert!(err(&output).starts_with("error: sft step 2: the loss is not finite; the batch held "), "{}", err(&output));
    let good = place.path("run/sft/state/checkpoint-1");
    assert_eq!(read_json(&good.join("state.json")).unwrap()["step"], 1);
    let state = fs::read(good.join("optimizer-00001-of-00001.safetensors")).unwrap();
    let metrics: Vec<Value> = read_jsonl(&place.path("run/metrics.jsonl")).unwrap();
    assert_eq!(metrics.len(), 1);
    assert!(!place.path("run/sft/adapter").exists());

    // The same again goes on from there, and ends there; other settings start anew.
    let output = repairity(&["sft", arg(&recipe)]);
    assert!(err(&output).contains("sft: going on from step 1 of 3") && output.status.code() == Some(1), "{}", err(&output));
    assert_eq!(fs::read(good.join("optimizer-00001-of-00001.safetensors")).unwrap(), state);
    let output = repairity(&["sft", arg(&recipe), "--set", "sft.learning_rate=1e-3"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(!err(&output).contains("going on") && place.path("run/sft/adapter").exists() && !good.exists());
}

#[test]
fn a_run_folder_that_may_not_be_written() {
    // SAFETY: the call only reads the process's own user id.
    if unsafe { libc::geteuid() } == 0 {
        println!("skipped: root may write everywhere");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let recipe = place.recipe("");
    fs::create_dir(place.path("run")).unwrap();
    fs::set_permissions(place.path("run"), fs::Permissions::from_mode(0o555)).unwrap();
    let text = refused(&["sft", arg(&recipe)]);
    fs::set_permissions(place.path("run"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(text, format!("error: {}: Permission denied (os error 13)", place.shown("run/.lock")));
}
