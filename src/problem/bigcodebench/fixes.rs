//! What later versions of BigCodeBench corrected, as data: the replacements of `tools/fix_v019.py` to `fix_v025.py`
//! (`bigcode-project/bigcodebench` at 47eff25). A correction that a row has already is left as it is.

use crate::error::{Error, Result};

use super::super::row::Row;

/// The published versions, in their order; each is also the name of a split of the data set.
const VERSIONS: [&str; 6] = ["v0.1.0_hf", "v0.1.1", "v0.1.2", "v0.1.3", "v0.1.4", "v0.1.5"];

/// A replacement in the texts of one task.
pub(super) struct Fix {
    /// The number of the task.
    pub(super) task: u32,
    /// The fields it is made in.
    pub(super) fields: &'static [&'static str],
    /// What is replaced, everywhere; empty stands for the beginning of the text.
    pub(super) from: &'static str,
    /// What comes in its place.
    pub(super) to: &'static str,
    /// The first version that has it, by its place in the list of versions.
    pub(super) since: usize,
}

const PROMPTS: &[&str] = &["complete_prompt", "instruct_prompt", "code_prompt"];
const CODE: &[&str] = &["code_prompt", "complete_prompt"];
const INSTRUCT: &[&str] = &["instruct_prompt"];
const WORDS: &[&str] = &["complete_prompt", "instruct_prompt", "doc_struct"];
const TEST: &[&str] = &["test"];
const ALL: &[&str] =
    &["complete_prompt", "instruct_prompt", "canonical_solution", "code_prompt", "test", "doc_struct", "libs", "entry_point"];

const START: &str = "\nYou should write self-contained code starting with:\n```\n";
const STOPWORDS: &str = "import nltk\nnltk.download('stopwords')\n";
const PUNKT: &str = "import nltk\nnltk.download('punkt')\n";
const START_STOPWORDS: &str =
    "\nYou should write self-contained code starting with:\n```\nimport nltk\nnltk.download('stopwords')\n";
const START_PUNKT: &str = "\nYou should write self-contained code starting with:\n```\nimport nltk\nnltk.download('punkt')\n";

const fn fix(task: u32, fields: &'static [&'static str], from: &'static str, to: &'static str, since: usize) -> Fix {
    Fix { task, fields, from, to, since }
}

/// The corrections, oldest first.
pub(super) const FIXES: [Fix; 35] = [
    fix(
        1006,
        TEST,
        "    def test_valid_zip_url(self):\n        \"\"\"Test a valid ZIP URL.\"\"\"\n        url = \
\"https://getsamplefiles.com/download/zip/sample-1.zip\"\n        result = task_func(url)\n        \
self.assertTrue(result.startswith(\"mnt/data/downloads/\"))\n        self.assertTrue(result.endswith(\"sample-1\"))\n        \
shutil.rmtree(\"mnt/data/downloads\")\n",
        "    @patch(\"requests.get\")\n    def test_non_zip_content(self, mock_get):\n        \"\"\"Test a valid ZIP URL.\"\"\"\n        \
mock_get.return_value.status_code = 200\n        mock_get.return_value.headers = {\"Content-Type\": \"application/zip\"}\n        \
mock_get.return_value.content = b\"1\"\n        url = \"https://valid-url.com/sample.zip\"\n        result = task_func(url)\n",
        1,
    ),
    fix(760, PROMPTS, "from datetime import datetime", "import datetime", 1),
    fix(178, ALL, "from urllib import request\n", "", 1),
    fix(178, ALL, "    - urllib.request\n", "", 1),
    fix(16, ALL, "No logs found to backup.", "No logs found to backup", 2),
    fix(37, PROMPTS, "", "import pandas as pd\n", 2),
    fix(37, PROMPTS, "Requirements:\n    - sklearn.ensemble\n", "Requirements:\n    - pandas\n    - sklearn.ensemble\n", 2),
    fix(
        241,
        PROMPTS,
        "The function will plot the original and normalized arrays using matplotlib.",
        "The function will plot the original and normalized arrays with a title of 'Original vs. Normalized Data'.",
        2,
    ),
    fix(
        267,
        PROMPTS,
        "Plots and returns the FFT of the signal.",
        "Plots and returns the FFT of the signal with a title of 'FFT of the signal'.",
        2,
    ),
    fix(
        1005,
        ALL,
        "https://getsamplefiles.com/download/zip/sample-2.zip",
        "https://getsamplefiles.com/download/zip/sample-5.zip",
        3,
    ),
    fix(1005, ALL, "sample_2", "sample_5", 3),
    fix(1005, ALL, "Sample 2", "Sample 5", 3),
    fix(
        211,
        TEST,
        "\n        mock_response = MagicMock()\n        mock_response.content = MOCK_CONTENT\n",
        "\n        mock_response = MagicMock()\n        mock_response.content = MOCK_CONTENT\n        mock_response.status_code = 200\n",
        4,
    ),
    fix(
        215,
        TEST,
        "\n        mock_response = Mock()\n",
        "\n        mock_response = Mock()\n        mock_response.status_code = 200\n",
        4,
    ),
    fix(215, TEST, "\n        mock_response.text =", "\n        MOCK_TEXT =", 4),
    fix(
        215,
        TEST,
        "\n        mock_get.return_value = mock_response\n",
        "\n        mock_response.text = MOCK_TEXT\n        mock_response.json = lambda: json.loads(MOCK_TEXT)\n        \
mock_get.return_value = mock_response\n",
        4,
    ),
    fix(215, WORDS, "Thif function will raise", "This function will raise", 4),
    fix(332, CODE, "", STOPWORDS, 5),
    fix(332, INSTRUCT, START, START_STOPWORDS, 5),
    fix(334, CODE, "", PUNKT, 5),
    fix(334, INSTRUCT, START, START_PUNKT, 5),
    fix(376, CODE, "import nltk\n", STOPWORDS, 5),
    fix(
        376,
        INSTRUCT,
        "code starting with:\n```\nimport nltk\n",
        "code starting with:\n```\nimport nltk\nnltk.download('stopwords')\n",
        5,
    ),
    fix(383, CODE, "", PUNKT, 5),
    fix(383, INSTRUCT, START, START_PUNKT, 5),
    fix(633, CODE, "", STOPWORDS, 5),
    fix(633, INSTRUCT, START, START_STOPWORDS, 5),
    fix(
        635,
        CODE,
        "# Importing the required libraries",
        "# Importing the required libraries\nimport nltk\nnltk.download('stopwords')\n",
        5,
    ),
    fix(635, INSTRUCT, START, START_STOPWORDS, 5),
    fix(849, CODE, "", STOPWORDS, 5),
    fix(849, INSTRUCT, START, START_STOPWORDS, 5),
    fix(940, CODE, "", PUNKT, 5),
    fix(940, INSTRUCT, START, START_PUNKT, 5),
    fix(1109, CODE, "", PUNKT, 5),
    fix(1109, INSTRUCT, START, START_PUNKT, 5),
];

/// The place of a version in the list; an unknown one is an error that names the known ones.
pub(super) fn version(name: &str) -> Result<usize> {
    VERSIONS
        .iter()
        .position(|v| *v == name)
        .ok_or_else(|| Error::input("version", format!("one of {} is expected, `{name}` was found", VERSIONS.join(", "))))
}

impl Fix {
    /// The corrected text; none where there is nothing to correct.
    pub(super) fn corrected(&self, text: &str) -> Option<String> {
        let done =
            if self.from.is_empty() { text.starts_with(self.to) } else { self.to.contains(self.from) && text.contains(self.to) };
        if done || !text.contains(self.from) {
            return None;
        }
        Some(if self.from.is_empty() { format!("{}{text}", self.to) } else { text.replace(self.from, self.to) })
    }
}

/// Brings a row to a version.
pub(super) fn apply(row: &mut Row, id: &str, version: usize) -> Result<()> {
    let Some(task) = id.strip_prefix("BigCodeBench/").and_then(|n| n.parse::<u32>().ok()) else { return Ok(()) };
    for fix in FIXES.iter().filter(|fix| fix.task == task && fix.since <= version) {
        for field in fix.fields {
            if let Some(text) = fix.corrected(&row.text(field)?) {
                row.set(field, text);
            }
        }
    }
    Ok(())
}
