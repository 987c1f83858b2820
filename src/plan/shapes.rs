//! Shapes of models that a recipe may name before they are on disk.

use std::path::Path;

use crate::device::Heads;
use crate::error::{Error, Result};
use crate::model::{Architecture, Config};

/// (hidden, intermediate, layers, query heads, key-value heads, rows of the embedding, tied).
type Row = (usize, usize, usize, usize, usize, usize, bool);

/// Qwen2.5-Coder: table 1 of its technical report (arXiv 2409.12186) and the `config.json` of huggingface.co/Qwen/Qwen2.5-Coder-*,
/// which the `-Instruct` models share. Rows are those of the embedding, more than the tokenizer's 151,646 entries.
const QWEN: [(&str, Row); 6] = [
    ("0.5B", (896, 4864, 24, 14, 2, 151_936, true)),
    ("1.5B", (1536, 8960, 28, 12, 2, 151_936, true)),
    ("3B", (2048, 11_008, 36, 16, 2, 151_936, true)),
    ("7B", (3584, 18_944, 28, 28, 4, 152_064, false)),
    ("14B", (5120, 13_824, 48, 40, 8, 152_064, false)),
    ("32B", (5120, 27_648, 64, 40, 8, 152_064, false)),
];

/// CodeLlama: the `config.json` of huggingface.co/codellama/CodeLlama-*-hf.
const CODE_LLAMA: [(&str, Row); 4] = [
    ("7b", (4096, 11_008, 32, 32, 32, 32_016, false)),
    ("13b", (5120, 13_824, 40, 40, 40, 32_016, false)),
    ("34b", (8192, 22_016, 48, 64, 8, 32_000, false)),
    ("70b", (8192, 28_672, 80, 64, 8, 32_016, false)),
];

/// A model's shape, and whether it is the built-in one.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Its extents.
    pub config: Config,
    /// Whether they come from the name alone.
    pub built_in: bool,
}

/// The shape of a model: from its folder's `config.json`, or, where there is no folder, from its name. Errors: neither.
pub fn of(folder: &Path) -> Result<Known> {
    if folder.join("config.json").exists() {
        return Ok(Known { config: Config::load(folder)?, built_in: false });
    }
    let name = folder.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
    match by_name(&name) {
        Some(config) if !folder.exists() => Ok(Known { config, built_in: true }),
        _ => {
            let what =
                "a folder with a config.json expected, or the name of a Qwen2.5-Coder or CodeLlama-hf model; nothing found";
            Err(Error::input(folder.display(), what))
        }
    }
}

fn by_name(name: &str) -> Option<Config> {
    let find = |rows: &[(&str, Row)], size: &str| rows.iter().find(|(known, _)| *known == size).map(|(_, row)| *row);
    let (architecture, row) = match (name.strip_prefix("Qwen2.5-Coder-"), name.strip_prefix("CodeLlama-")) {
        (Some(rest), _) => (Architecture::Qwen2, find(&QWEN, rest.strip_suffix("-Instruct").unwrap_or(rest))?),
        (_, Some(rest)) => (Architecture::Llama, find(&CODE_LLAMA, rest.strip_suffix("-hf")?)?),
        _ => return None,
    };
    let (hidden, intermediate, layers, q, kv, vocab, tied) = row;
    let qwen = architecture == Architecture::Qwen2;
    Some(Config {
        architecture,
        vocab,
        hidden,
        intermediate,
        layers,
        heads: Heads { q, kv, dim: hidden / q },
        rope_theta: 1e6,
        eps: if qwen { 1e-6 } else { 1e-5 },
        qkv_bias: qwen,
        tied,
        max_positions: if qwen { 32_768 } else { 16_384 },
        classifier: false,
        eos: Vec::new(),
        bos: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters as the model cards give them: 0.49, 1.54, 3.09, 7.61, 14.7 (14.77) and 32.5 (32.76) billion; 6.74, 13.0, 33.7 and
    /// 69.0 billion.
    #[test]
    fn shapes_have_the_published_numbers_of_parameters() {
        for (name, billions) in [
            ("Qwen2.5-Coder-0.5B", 0.494),
            ("Qwen2.5-Coder-1.5B-Instruct", 1.544),
            ("Qwen2.5-Coder-3B", 3.086),
            ("Qwen2.5-Coder-7B-Instruct", 7.616),
            ("Qwen2.5-Coder-14B", 14.770),
            ("Qwen2.5-Coder-32B-Instruct", 32.764),
            ("CodeLlama-7b-hf", 6.739),
            ("CodeLlama-13b-hf", 13.016),
            ("CodeLlama-34b-hf", 33.744),
            ("CodeLlama-70b-hf", 68.977),
        ] {
            let found = by_name(name).unwrap().parameters() as f64 / 1e9;
            assert!((found - billions).abs() < 5e-4, "{name}: {found}");
        }
        assert_eq!(by_name("CodeLlama-7b"), None);
        assert_eq!(by_name("Qwen2.5-Coder-8B"), None);
    }

    #[test]
    fn what_is_neither_there_nor_known_is_named() {
        let error = of(Path::new("models/none")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().starts_with("models/none: a folder with a config.json expected"), "{error}");
    }
}
