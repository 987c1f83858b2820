//! `export`: the merged weights against a computation of their own, what is copied and what is not, what is refused, and the model card.

#[path = "support/program.rs"]
mod program;
#[path = "support/tiny.rs"]
mod tiny;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use program::{arg, checkpoint, err, out, refused, repairity};
use repairity::checkpoint::{Named, Storage, Tensors, read_json, write_json, write_tensors};
use repairity::device::Cpu;
use repairity::export::{self, Options};
use repairity::model::{Architecture, Config};
use repairity::recipe::Recipe;
use repairity::record::write_jsonl;
use serde_json::{Value, json};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn export(model: &Path, adapter: &Path, to: &Path, more: &[&str]) {
    let base = ["export", "--model", arg(model), "--adapter", arg(adapter), "--out", arg(to)];
    let output = repairity(&[&base[..], more].concat());
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(0), ""), "{}", err(&output));
}

/// An adapter on every linear map of a model, drawn at random.
fn adapter(model: &Path, to: &Path) {
    let device = Cpu::<f32>::new();
    let config = Config::load(model).unwrap();
    tiny::adapter(&device, &config, 0.0, 0.05, 7).save(&device, to, "base", None).unwrap();
}

/// A safetensors file: its header and the bytes of each tensor.
fn parts(path: &Path) -> (Vec<u8>, Vec<(String, Value, Vec<u8>)>) {
    let bytes = fs::read(path).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    assert_eq!(header["__metadata__"]["format"], "pt");
    let mut tensors = Vec::new();
    for (name, info) in header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__") {
        let at = |i: usize| start + info["data_offsets"][i].as_u64().unwrap() as usize;
        tensors.push((name.clone(), info.clone(), bytes[at(0)..at(1)].to_vec()));
    }
    (bytes[..start].to_vec(), tensors)
}

fn shards(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("model") && name.ends_with(".safetensors")).collect();
    names.sort();
    names
}

/// Asserts that every tensor is `W + scale B A`, rounded to the type it is stored in: by at most `unit` of its size, or by `least`, half
/// the step between that type's smallest numbers. What is summed in f32 is off by at
/// most one rounding for each of its `rank + 2` operations, each of at most 2^-24 of the sizes that are added.
fn assert_merged(base: &Path, adapter: &Path, merged: &Path, unit: f64, least: f64) -> usize {
    let config = read_json(&adapter.join("adapter_config.json")).unwrap();
    let rank = config["r"].as_u64().unwrap() as usize;
    let divisor = if config["use_rslora"] == true { (rank as f64).sqrt() } else { rank as f64 };
    let scale = config["lora_alpha"].as_f64().unwrap() / divisor;
    let (old, new) = (Tensors::open_folder(base).unwrap(), Tensors::open_folder(merged).unwrap());
    let lora = Tensors::open_files(&[adapter.join("adapter_model.safetensors")]).unwrap();
    assert_eq!(old.names(), new.names());
    let mut changed = 0;
    for name in old.names() {
        let shape = old.shape(name).unwrap();
        let halves = ["A", "B"].map(|half| name.replace(".weight", &format!(".lora_{half}.weight")));
        let [a_name, b_name] = halves.map(|half| format!("base_model.model.{half}"));
        if lora.shape(&a_name).is_none() {
            continue;
        }
        let (n, k) = (shape[0], shape[1]);
        let a: Vec<f64> = lora.read(&a_name, &[rank, k]).unwrap();
        let b: Vec<f64> = lora.read(&b_name, &[n, rank]).unwrap();
        let w: Vec<f64> = old.read(name, shape).unwrap();
        let found: Vec<f64> = new.read(name, shape).unwrap();
        for (i, (w, found)) in w.iter().zip(&found).enumerate() {
            let terms = (0..rank).map(|r| b[i / k * rank + r] * a[r * k + i % k]);
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size): (f64, f64), term| (sum + term, size + term.abs()));
            let exact = w + scale * sum;
            let single = (rank + 2) as f64 * 2f64.powi(-24) * (w.abs() + scale * size);
            let bound = (unit * exact.abs()).max(least) + single * (1.0 + unit);
            assert!((found - exact).abs() <= bound, "{name}[{i}]: {found} where {exact} is exact, {bound:e} apart at most");
        }
        changed += 1;
    }
    changed
}

#[test]
fn the_sum_is_rounded_once_and_the_rest_is_copied_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (base, merged) = (golden("qwen2"), folder.path().join("merged"));
    export(&base, &golden("lora-attention/adapter"), &merged, &[]);
    // The golden models are in f32: no rounding but that of the sum.
    let changed = assert_merged(&base, &golden("lora-attention/adapter"), &merged, 0.0, 0.0);
    let (old, new) = (parts(&base.join("model.safetensors")), parts(&merged.join("model.safetensors")));
    assert_eq!(old.0, new.0, "the header");
    let differ: Vec<&String> = old.1.iter().zip(&new.1).filter(|(old, new)| old.2 != new.2).map(|(old, _)| &old.0).collect();
    assert_eq!(differ.len(), changed);
    assert!(changed > 0 && differ.iter().all(|name| name.contains("self_attn")), "{differ:?}");
    for name in ["config.json", "generation_config.json"] {
        assert_eq!(fs::read(base.join(name)).unwrap(), fs::read(merged.join(name)).unwrap(), "{name}");
    }
}

#[test]
fn shards_stay_shards_and_tied_tables_stay_tied() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let base = golden("qwen2-tied");
    adapter(&base, &at("adapter"));
    export(&base, &at("adapter"), &at("same"), &[]);
    assert_eq!(shards(&base), shards(&at("same")));
    // These shards are in bf16, whose significand has eight bits.
    let changed = assert_merged(&base, &at("adapter"), &at("same"), 2f64.powi(-8), 0.0);
    assert_eq!(changed, 7 * Config::load(&base).unwrap().layers);
    let index = "model.safetensors.index.json";
    assert_eq!(fs::read(base.join(index)).unwrap(), fs::read(at("same").join(index)).unwrap());
    assert!(Tensors::open_folder(&at("same")).unwrap().shape("lm_head.weight").is_none());

    export(&base, &at("adapter"), &at("half"), &["--dtype", "f16"]);
    assert_eq!(assert_merged(&base, &at("adapter"), &at("half"), 2f64.powi(-11), 2f64.powi(-25)), changed);
    let (old, new) = (read_json(&base.join(index)).unwrap(), read_json(&at("half").join(index)).unwrap());
    assert_eq!(old["weight_map"], new["weight_map"]);
    let bytes: usize = shards(&at("half")).iter().flat_map(|name| parts(&at("half").join(name)).1).map(|part| part.2.len()).sum();
    assert_eq!(new["metadata"]["total_size"], json!(bytes));
    let (old, new) = (read_json(&base.join("config.json")).unwrap(), read_json(&at("half").join("config.json")).unwrap());
    let key = if old.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    assert_eq!(new[key], "float16");
    assert_eq!(old["architectures"], new["architectures"]);
}

/// Round to nearest, ties to even, on the bits of an f32.
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

#[test]
fn another_type_is_rounded_to_the_nearest_and_too_large_a_number_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    checkpoint(&at("base"), Architecture::Llama);
    // Both sides of a tie, and the neighbours of each.
    let ties: Vec<f32> = [0x3f80_8000u32, 0x3f81_8000, 0x3f80_8001, 0x3f80_7fff, 0xbf81_8000].map(f32::from_bits).to_vec();
    let file = at("base").join("model.safetensors");
    let tensors = Tensors::open_files(std::slice::from_ref(&file)).unwrap();
    let all = |first: &[f32]| -> Vec<Named> {
        let named = |name: &&str| {
            let shape = tensors.shape(name).unwrap().to_vec();
            let mut values: Vec<f32> = tensors.read(name, &shape).unwrap();
            if *name == "model.norm.weight" {
                values[..first.len()].copy_from_slice(first);
            }
            Named { name: name.to_string(), shape, values }
        };
        tensors.names().iter().map(named).collect()
    };
    write_tensors(&file, &all(&ties), Storage::F32).unwrap();
    let base = at("base");
    let args = ["export", "--model", arg(&base), "--out"];
    assert_eq!(repairity(&[&args[..], &[arg(&at("bf16")), "--dtype", "bf16"]].concat()).status.code(), Some(0));
    let written = parts(&at("bf16").join("model.safetensors")).1;
    for (name, info, bytes) in &written {
        assert_eq!(info["dtype"], "BF16");
        let source = all(&ties).into_iter().find(|named| named.name == *name).unwrap().values;
        let found: Vec<u16> = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        assert_eq!(found, source.into_iter().map(to_bf16).collect::<Vec<_>>(), "{name}");
    }
    assert_eq!(written.len(), tensors.names().len());

    write_tensors(&file, &all(&[1.0, 70_000.0]), Storage::F32).unwrap();
    let error = refused(&[&args[..], &[arg(&at("f16")), "--dtype", "f16"]].concat()[..]);
    assert!(error.contains("model.norm.weight: element 1 is 70000, which float16 does not hold"), "{error}");
    let mut left: Vec<String> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["base", "bf16"], "nothing half-written is left");
}

#[test]
fn the_merged_model_writes_what_base_and_adapter_write() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    checkpoint(&at("base"), Architecture::Qwen2);
    adapter(&at("base"), &at("adapter"));
    // In f32 the two differ in the last bits only, which no choice of these tokens hangs on.
    export(&at("base"), &at("adapter"), &at("merged"), &[]);
    let write = |more: &[&str]| {
        let args = ["generate", "--prompt", "def f(x):", "--max-new-tokens", "24", "--device", "cpu", "--model"];
        let output = repairity(&[&args[..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        out(&output)
    };
    let both = write(&[arg(&at("base")), "--adapter", arg(&at("adapter"))]);
    assert_eq!(write(&[arg(&at("merged"))]), both);
    assert_ne!(write(&[arg(&at("base"))]), both, "the adapter changes what is written");
}

#[test]
fn a_reward_model_takes_the_adapter_s_head() {
    let folder = tempfile::tempdir().unwrap();
    let (base, lora, merged) = (golden("reward"), golden("reward-lora/adapter"), folder.path().join("merged"));
    export(&base, &lora, &merged, &[]);
    assert!(assert_merged(&base, &lora, &merged, 0.0, 0.0) > 0);
    let head = |tensors: Tensors, name: &str| -> Vec<f32> { tensors.read(name, tensors.shape(name).unwrap()).unwrap() };
    let own = head(Tensors::open_files(&[lora.join("adapter_model.safetensors")]).unwrap(), "base_model.model.score.weight");
    assert_eq!(head(Tensors::open_folder(&merged).unwrap(), "score.weight"), own);
    let card = fs::read_to_string(merged.join("README.md")).unwrap();
    assert!(card.contains("pipeline_tag: text-classification") && card.contains("AutoModelForSequenceClassification"), "{card}");
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    checkpoint(&at("base"), Architecture::Qwen2);
    let base = at("base");
    let args = ["export", "--model", arg(&base), "--adapter"];
    let error = refused(&[&args[..], &[arg(&golden("lora-all/adapter")), "--out", arg(&at("out"))]].concat());
    assert!(error.contains("layers.0.self_attn.q_proj.lora_A.weight: shape [3, 16] expected, [3, 32] found"), "{error}");
    assert!(!at("out").exists());
    adapter(&at("base"), &at("adapter"));
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full").join("mine"), "x").unwrap();
    let error = refused(&[&args[..], &[arg(&at("adapter")), "--out", arg(&at("full"))]].concat());
    assert!(error.contains("nothing is written over"), "{error}");
    let error = refused(&[&args[..], &[arg(&at("adapter")), "--out", arg(&at("out")), "--run", arg(&at("full"))]].concat());
    assert!(error.contains("manifest.json is missing"), "{error}");
    // An empty folder is taken.
    fs::create_dir(at("empty")).unwrap();
    export(&at("base"), &at("adapter"), &at("empty"), &[]);
    assert!(at("empty").join("README.md").is_file());
    // So is one that a link leads to, and the link stays.
    fs::create_dir(at("disk")).unwrap();
    symlink(at("disk"), at("link")).unwrap();
    export(&at("base"), &at("adapter"), &at("link"), &[]);
    assert!(at("disk").join("README.md").is_file() && fs::symlink_metadata(at("link")).unwrap().is_symlink());
    symlink(at("nowhere"), at("lost")).unwrap();
    refused(&[&args[..], &[arg(&at("adapter")), "--out", arg(&at("lost"))]].concat());
    assert!(fs::symlink_metadata(at("lost")).unwrap().is_symlink());
}

#[test]
fn a_mount_point_is_refused() {
    let device = |path: &Path| fs::metadata(path).map(|data| data.dev()).ok();
    let empty = |path: &PathBuf| {
        fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
            && path.parent().is_some_and(|parent| device(parent) != device(path))
    };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let Some(mount) = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from).find(empty) else {
        println!("skipped: no empty folder is a mount point here");
        return;
    };
    let error = refused(&["export", "--model", arg(&golden("qwen2")), "--out", arg(&mount)]);
    assert!(error.contains("a file system is mounted there, which no folder can replace"), "{error}");
}

#[test]
fn what_a_killed_export_left_is_not_taken_along() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // As a process with this one's number left it.
    let left = at(&format!(".out.{}.repairity", std::process::id()));
    fs::create_dir(&left).unwrap();
    fs::write(left.join("model-00009-of-00009.safetensors"), "old").unwrap();
    export::export(&Options { model: golden("qwen2"), adapter: None, out: at("out"), run: None, dtype: None }).unwrap();
    assert_eq!(shards(&at("out")), ["model.safetensors"]);
    assert!(!left.exists());
}

#[test]
fn the_card_tells_what_the_run_folder_holds_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    checkpoint(&at("base"), Architecture::Qwen2);
    fs::write(at("base").join("README.md"), "---\nlicense: apache-2.0\ntags:\n- x\n---\n# Base\n").unwrap();
    let run = at("run");
    adapter(&at("base"), &run.join("ppo/adapter"));
    let path = run.join("ppo/adapter/adapter_config.json");
    let mut config = read_json(&path).unwrap();
    config["base_model_name_or_path"] = json!("Owner/Base-7B");
    write_json(&path, &config).unwrap();

    let mut recipe = Recipe { out: "runs/not-told".into(), seed: 23, ..Recipe::default() };
    recipe.policy.model = "models/base".into();
    recipe.problems.suite = "mbpp".into();
    recipe.teacher.base_url = Some("https://user:hunter2@llm.example/v1?key=hunter3".into());
    let stage = json!({"name": "sft", "state": "done", "seconds": 1.0, "device": "cpu", "version": "0.1.0", "inputs": {},
        "outputs": {"run/sft/adapter": "ab12"}, "settings": {}});
    let manifest = json!({"version": "0.1.0", "recipe": recipe.to_toml(), "device": "cpu", "stages": [stage]});
    write_json(&run.join("manifest.json"), &manifest).unwrap();
    let row = json!({"problems": 40, "samples": 1, "pass_at_1": 0.525, "interval": [0.375, 0.671], "pass_at_k": {"1": 0.525},
        "compile_rate": 1.0, "bleu": 71.25});
    write_json(&run.join("evaluation/summary.json"), &json!({"models": {"base": row.clone(), "ppo": row}})).unwrap();
    write_jsonl(&run.join("problems.jsonl"), &(0..5).map(tiny::problem).collect::<Vec<_>>()).unwrap();
    let trace = |verdict: &str| {
        json!({"id": "1", "model": "some-teacher", "prompt": "p", "reasoning": "r", "answer": "a", "raw": "r",
            "verdict": {"verdict": verdict}})
    };
    write_jsonl(&run.join("traces.jsonl"), &[trace("pass"), trace("fail"), trace("pass")]).unwrap();
    write_jsonl(&run.join("sft.jsonl"), &[json!({}), json!({})]).unwrap();
    write_jsonl(&run.join("preferences.jsonl"), &[json!({})]).unwrap();
    write_json(&run.join("judging.json"), &json!({"pairs": 9, "labelled": 1})).unwrap();

    // The run is found above the adapter.
    export(&at("base"), &run.join("ppo/adapter"), &at("mine"), &[]);
    let card = fs::read_to_string(at("mine").join("README.md")).unwrap();
    for part in [
        "---\nbase_model: \"Owner/Base-7B\"\nbase_model_relation: finetune\nlicense: apache-2.0\nlibrary_name: transformers\n\
         pipeline_tag: text-generation\n",
        "      type: \"mbpp\"\n",
        "    - type: pass@1\n      name: pass@1\n      value: 0.525\n",
        "```toml\nseed = 23\n",
        "base_url = \"https://llm.example/v1\"",
        "- Problems: 5 of `mbpp` (5 train)",
        "- Teacher: `some-teacher` (over Anthropic's API). 3 traces, of which 3 were run against the tests and 2 passed.",
        "- Trained on: 2 of the traces whose fix passes every test",
        "- Preferences: 1, from 9 pairs of answers that the teacher compared (1 of them got a label).",
        "| ppo (this model) | 40 | 52.5 | 37.5 to 67.1 | 100.0 | 71.2 |",
        "vllm serve mine",
        "| `sft`: adapter | `ab12` |",
    ] {
        assert!(card.contains(part), "{part:?} is not in\n{card}");
    }
    assert!(!card.contains("hunter") && !card.contains("not-told"), "{card}");

    // The base as the run names it is a folder, wherever that lies by now; what a configuration names is one that it was made from.
    config["base_model_name_or_path"] = json!(recipe.policy.model);
    write_json(&path, &config).unwrap();
    let model = at("base").join("config.json");
    let mut config = read_json(&model).unwrap();
    config["_name_or_path"] = json!("other/model");
    write_json(&model, &config).unwrap();
    export(&at("base"), &run.join("ppo/adapter"), &at("named"), &[]);
    let card = fs::read_to_string(at("named").join("README.md")).unwrap();
    assert!(
        card.starts_with("---\n# base_model: the hub's name of base\n") && !card.contains("https://huggingface.co"),
        "{card}"
    );
}
