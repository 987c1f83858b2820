//! Reading a recipe: TOML, `--set`, and errors that say where, what was expected and what is nearest.

use std::fmt::Display;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::{Recipe, valid};
use crate::error::{Error, Result};

impl Recipe {
    /// Reads `path`, applies `sets` (each `section.key=VALUE`, VALUE in TOML or a bare word) in order, and checks the whole.
    /// Errors are [`Error::Input`] and name file and line, or the `--set`; a missing file is [`Error::Io`].
    pub fn load(path: &Path, sets: &[String]) -> Result<Recipe> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            Error::line(path, 1 + before.iter().filter(|&&b| b == b'\n').count(), "expected UTF-8")
        })?;
        Recipe::parse(path, &text, sets)
    }

    /// The same of a text; errors name it by `path`.
    pub fn parse(path: &Path, text: &str, sets: &[String]) -> Result<Recipe> {
        let at_span = |span: Option<Range<usize>>, what: &dyn Display| match span {
            Some(span) => Error::line(path, line(text, span.start), what),
            None => Error::input(path.display(), what),
        };
        let document = DeTable::parse(text).map_err(|e| at_span(e.span(), &e.message().trim_end()))?;
        let mut recipe: Recipe = toml::from_str(text).map_err(|e| {
            let key = e.span().map(|span| key_at(document.get_ref(), &span)).unwrap_or_default();
            at_span(e.span(), &explain(&key, e.message()))
        })?;
        for set in sets {
            recipe = with(&recipe, set)?;
        }
        valid::check(&recipe).map_err(|complaint| {
            let what = format!("{}: {}", complaint.key, complaint.what);
            match sets.iter().rev().find(|set| set.split('=').next().is_some_and(|key| key.trim() == complaint.key)) {
                Some(set) => Error::input(format!("--set {set}"), what),
                None => at_span(span_of(document.get_ref(), &complaint.key), &what),
            }
        })?;
        Ok(recipe)
    }

    /// A recipe that a manifest kept, of [`Recipe::to_toml`]. Errors name `at`, the manifest, with the line of the recipe in it.
    pub fn of_manifest(at: &Path, text: &str) -> Result<Recipe> {
        Recipe::parse(&at.join("recipe"), text, &[])
    }

    /// The recipe as TOML, every key written out: what the manifest keeps. [`Recipe::load`] reads it back as it was.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a checked recipe has only values that TOML has")
    }
}

/// A recipe with one key set.
fn with(recipe: &Recipe, set: &str) -> Result<Recipe> {
    let at = format!("--set {set}");
    let (key, value) = set.split_once('=').ok_or_else(|| Error::input(&at, "expected section.key=VALUE"))?;
    let (key, value) = (key.trim(), value.trim());
    let names: Vec<&str> = key.split('.').collect();
    if names.iter().any(|name| name.is_empty()) {
        return Err(Error::input(&at, "expected section.key=VALUE"));
    }
    // A value that is no TOML is a word: --set out=runs/a, --set sft.schedule=linear.
    let value = match format!("value = {value}").parse::<toml::Table>() {
        Ok(mut table) if table.len() == 1 => table.remove("value").unwrap_or_else(|| value.into()),
        _ => value.into(),
    };
    let mut root = toml::Table::try_from(recipe).map_err(|e| Error::input(&at, e))?;
    let (last, sections) = names.split_last().expect("split gives at least one part");
    let mut table = &mut root;
    for name in sections {
        table = match table.entry(*name).or_insert_with(|| toml::Table::new().into()) {
            toml::Value::Table(inner) => inner,
            _ => return Err(Error::input(&at, format!("{name} is a key, not a section"))),
        };
    }
    table.insert((*last).into(), value);
    root.try_into().map_err(|e: toml::de::Error| Error::input(&at, explain(key, e.message())))
}

/// serde's message in our words: the key first; the nearest valid name of an unknown one; types without Rust's names.
fn explain(key: &str, message: &str) -> String {
    let message = message.trim_end();
    let prefix = if key.is_empty() { String::new() } else { format!("{key}: ") };
    for (what, name) in [("unknown field ", "key"), ("unknown variant ", "value")] {
        if let Some(rest) = message.strip_prefix(what) {
            let mut quoted = rest.split('`').skip(1).step_by(2);
            let found = quoted.next().unwrap_or_default();
            let names: Vec<&str> = quoted.collect();
            // The span of an unknown key is its own; it is named once.
            let prefix = if key == found { "" } else { prefix.as_str() };
            let hint = nearest(found, &names).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            return format!("{prefix}unknown {name} `{found}`{hint} (valid: {})", names.join(", "));
        }
    }
    let whole = "a whole number of at least 0";
    let mut message = message.to_string();
    for (rust, plain) in [("usize", whole), ("u64", whole), ("f64", "a number"), ("path string", "a path as a string")] {
        if let Some(head) = message.strip_suffix(&format!("expected {rust}")) {
            message = format!("{head}expected {plain}");
        }
    }
    if let Some(at) = message.find("expected struct ") {
        message.replace_range(at.., "expected a section");
    }
    prefix + &message
}

/// The name that was probably meant; none where nothing is near.
pub(super) fn nearest<'a>(found: &str, names: &[&'a str]) -> Option<&'a str> {
    let score = |name: &str| strsim::jaro_winkler(&found.to_lowercase(), name);
    names.iter().copied().filter(|name| score(name) > 0.75).max_by(|a, b| score(a).total_cmp(&score(b)))
}

/// The line, from 1, of a byte offset.
fn line(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|&&b| b == b'\n').count()
}

/// The dotted key whose value holds `span`. A span on a key's own name belongs to the section around it.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> String {
    for (key, value) in table.iter() {
        let inner = match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, span),
            _ => String::new(),
        };
        if !inner.is_empty() {
            return format!("{}.{inner}", key.get_ref());
        }
        let inside = |range: Range<usize>| range.start <= span.start && span.end <= range.end;
        let names_it = |inner: &DeTable<'_>| inner.keys().any(|name| inside(name.span()));
        if inside(value.span()) || matches!(value.get_ref(), DeValue::Table(inner) if names_it(inner)) {
            return key.get_ref().to_string();
        }
    }
    String::new()
}

/// Where the value of a dotted key stands; the section where the key itself is left out.
fn span_of(table: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let value = table.get(first)?;
    match (rest, value.get_ref()) {
        (Some(rest), DeValue::Table(inner)) => span_of(inner, rest).or_else(|| Some(value.span())),
        _ => Some(value.span()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Schedule, Train};

    fn parse(text: &str, sets: &[&str]) -> Result<Recipe> {
        Recipe::parse(Path::new("r.toml"), text, &sets.iter().map(|s| s.to_string()).collect::<Vec<_>>())
    }

    fn complaint(text: &str, sets: &[&str]) -> String {
        let error = parse(text, sets).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    }

    #[test]
    fn an_empty_recipe_is_the_paper() {
        let r = parse("", &[]).unwrap();
        assert_eq!(r, Recipe::default());
        assert_eq!((r.lora.rank, r.lora.alpha, r.lora.dropout), (4, 16.0, 0.05));
        assert_eq!((r.sft.learning_rate, r.sft.sequences_per_device, r.sft.accumulation), (1e-5, 1, 8));
        assert_eq!((r.ppo.clip, r.ppo.kl, r.ppo.epochs, r.ppo.temperature), (0.2, 0.1, 5, 1.0));
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut r = parse("[pretrain]\nheld_out = [{ seed = 3, count = 5 }]\n[sft]\npatience = 2\n", &[]).unwrap();
        r.teacher.base_url = Some("http://localhost:1/\"x\"".into());
        assert_eq!(parse(&r.to_toml(), &[]).unwrap(), r);
    }

    #[test]
    fn a_mistyped_key_has_its_line_and_the_nearest_key() {
        let text = complaint("seed = 1\n\n[sft]\nepochs = 2\nlearning_rat = 1e-5\n", &[]);
        assert!(text.starts_with("r.toml:5: sft: unknown key `learning_rat`; did you mean `learning_rate`? (valid: "), "{text}");
        let text = complaint("seed = 1\n[sfd]\n", &[]);
        assert!(text.starts_with("r.toml:2: unknown key `sfd`; did you mean `sft`?"), "{text}");
        let text = complaint("[sft]\nschedule = \"cosin\"\n", &[]);
        assert_eq!(
            text,
            "r.toml:2: sft.schedule: unknown value `cosin`; did you mean `cosine`? (valid: cosine, linear, constant)"
        );
        assert!(!complaint("xyzzy = 1", &[]).contains("did you mean"));
    }

    #[test]
    fn a_wrong_type_says_what_was_expected() {
        let text = complaint("[sft]\nepochs = 1\nlearning_rate = \"fast\"\n", &[]);
        assert_eq!(text, "r.toml:3: sft.learning_rate: invalid type: string \"fast\", expected a number");
        let text = complaint("\ngpus = -1", &[]);
        assert_eq!(text, "r.toml:2: gpus: invalid value: integer `-1`, expected a whole number of at least 0");
        assert_eq!(complaint("sft = 3", &[]), "r.toml:1: sft: invalid type: integer `3`, expected a section");
        let text = complaint("seed = 1\nout = \nsandbox = \"none\"", &[]);
        assert!(text.starts_with("r.toml:2: "), "{text}");
    }

    #[test]
    fn a_value_out_of_range_has_its_line() {
        for (text, line, key) in [
            ("[sft]\n\nlearning_rate = 0.0", 3, "sft.learning_rate"),
            ("[problems]\nsplit = [0.7, 0.2, 0.2]", 2, "problems.split"),
            ("[candidates]\ntemperatures = [0.7, -0.1]", 2, "candidates.temperatures"),
            ("[lora]\ntargets = [\"q_proj\", \"q_proj\"]", 2, "lora.targets"),
            ("[lora]\nrank = 0", 2, "lora.rank"),
            ("[pretrain]\nheads = 4\nkv_heads = 3", 3, "pretrain.kv_heads"),
            ("seed = 1\n[teacher]\nprovider = \"recorded\"", 2, "teacher.path"),
            ("[problems]\nsuite = \"micro\"", 1, "problems.count"),
            ("[ppo]\nlambda = nan", 2, "ppo.lambda"),
            ("[evaluate]\nsplit = \"tests\"", 2, "evaluate.split"),
        ] {
            let found = complaint(text, &[]);
            assert!(found.starts_with(&format!("r.toml:{line}: {key}: ")), "{found}");
        }
    }

    #[test]
    fn a_target_misspelt_is_offered_its_name() {
        let text = complaint("[lora]\ntargets = [\"q_prj\"]", &[]);
        assert!(text.contains("`q_prj` is not one of") && text.ends_with("did you mean `q_proj`?"), "{text}");
    }

    #[test]
    fn sets_override_the_file_in_order() {
        let sets = [
            "sft.learning_rate=5e-6",
            "sft.schedule=linear",
            "out=runs/a b",
            "candidates.temperatures=[0.5]",
            "pretrain.layers = 2",
            "sft.train=\"lora\"",
            "sft.train=full",
            "sft.adapter=12",
        ];
        let r = parse("[sft]\nlearning_rate = 1.0\nepochs = 9\n", &sets[..7]).unwrap();
        assert_eq!((r.sft.learning_rate, r.sft.epochs), (5e-6, 9));
        assert_eq!((r.sft.schedule, r.sft.train), (Schedule::Linear, Train::Full));
        assert_eq!(r.out, Path::new("runs/a b"));
        assert_eq!(r.candidates.temperatures, [0.5]);
        assert_eq!(r.pretrain.unwrap().layers, 2);
        assert_eq!(
            complaint("", &sets[7..]),
            "--set sft.adapter=12: sft.adapter: invalid type: integer `12`, expected a path as a string"
        );
    }

    #[test]
    fn a_bad_set_is_named() {
        let text = complaint("", &["sft.learning_rat=1"]);
        assert!(text.starts_with("--set sft.learning_rat=1: ") && text.contains("did you mean `learning_rate`?"), "{text}");
        assert_eq!(complaint("", &["ppo.kl"]), "--set ppo.kl: expected section.key=VALUE");
        assert_eq!(complaint("", &["seed.x=1"]), "--set seed.x=1: seed is a key, not a section");
        let text = complaint("[sft]\nlearning_rate = 1e-5", &["sft.learning_rate=-1"]);
        assert_eq!(text, "--set sft.learning_rate=-1: sft.learning_rate: expected a number above 0, found -1");
    }

    #[test]
    fn bytes_that_are_no_text_have_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.toml");
        std::fs::write(&path, b"seed = 1\nout = \"\xff\"\n").unwrap();
        assert!(Recipe::load(&path, &[]).unwrap_err().to_string().ends_with("r.toml:2: expected UTF-8"));
        assert_eq!(Recipe::load(&folder.path().join("none.toml"), &[]).unwrap_err().exit_code(), 2);
    }
}
