//! One JSON request over HTTPS: the key, attempts and the waits between them, the budget. What is said is the providers'.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::{Reply, Settings, Sleep};
use crate::error::{Error, Result};
use crate::record::Usage;
use crate::rng::Rng;

/// Attempts at one question. With the waits below, about a minute and a half of trouble is sat out.
const ATTEMPTS: u32 = 8;
/// The first wait, the longest of our own, and the longest a server may ask for.
const WAIT_FIRST: f64 = 0.5;
const WAIT_LONGEST: f64 = 30.0;
const WAIT_SERVER: f64 = 600.0;
/// The largest answer that is read.
const BODY_LIMIT: u64 = 32 << 20;
/// Tokens that a provider puts around a prompt, at most.
const ENVELOPE_TOKENS: u64 = 256;

/// A secret. It can be sent, and nothing else.
struct Key(String);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key]")
    }
}

/// What a provider's API needs besides the settings.
pub(super) struct Endpoint {
    /// The provider's own address.
    pub base_url: &'static str,
    /// The path under it.
    pub path: &'static str,
    /// The environment variable of its key.
    pub key_env: &'static str,
    /// The header that carries the key, and what stands before the key in it.
    pub key_header: (&'static str, &'static str),
    /// Further headers.
    pub headers: &'static [(&'static str, &'static str)],
}

/// A connection to one endpoint. Calls may come from several threads.
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    key: Option<Key>,
    key_header: (&'static str, &'static str),
    headers: &'static [(&'static str, &'static str)],
    budget: Budget,
    max_tokens: u64,
    seed: u64,
    calls: AtomicU64,
    sleep: Sleep,
}

/// How one attempt ended, when not with an answer.
enum Failure {
    /// Asking again may help. `billed` where the provider may have done the work; `after` if it said when to come back.
    Again { why: String, after: Option<f64>, billed: bool },
    /// Asking again would not help.
    Never(String),
}

impl Client {
    /// Checks the settings and reads the key.
    pub(super) fn new(endpoint: &Endpoint, settings: &Settings, spent: Usage, sleep: Sleep) -> Result<Client> {
        let base = settings.base_url.as_deref().unwrap_or(endpoint.base_url).trim_end_matches('/');
        let authority = base.strip_prefix("https://").or(base.strip_prefix("http://"));
        let authority = authority.map(|rest| rest.split('/').next().unwrap_or_default());
        let Some(authority) = authority.filter(|authority| !authority.is_empty() && !authority.contains('@')) else {
            return Err(Error::input("teacher.base_url", "https://HOST or http://HOST expected, without a user or a password"));
        };
        let key = read_key(endpoint, settings)?;
        if key.is_some() && base.starts_with("http://") && !loopback(authority) {
            let what = "https expected, since a key is sent; set teacher.key_env = \"\" to send none";
            return Err(Error::input("teacher.base_url", what));
        }
        if !(settings.timeout_s > 0.0 && settings.timeout_s.is_finite()) {
            return Err(Error::input("teacher.timeout_s", format!("a positive number expected, {} found", settings.timeout_s)));
        }
        let timeout = Duration::from_secs_f64(settings.timeout_s);
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(timeout))
            .timeout_connect(Some(timeout.min(Duration::from_secs(10))))
            .user_agent(concat!("repairity/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Client {
            agent,
            url: format!("{}{}", base.strip_suffix("/v1").unwrap_or(base), endpoint.path),
            key,
            key_header: endpoint.key_header,
            headers: endpoint.headers,
            budget: Budget::new(settings, spent)?,
            max_tokens: settings.max_tokens as u64,
            seed: settings.seed,
            calls: AtomicU64::new(0),
            sleep,
        })
    }

    /// Sends `body` until `read` finds a reply in an answer. `read` says what is wrong with an answer that is whole but holds no
    /// reply.
    pub(super) fn ask(&self, body: &Value, read: impl Fn(&Value) -> std::result::Result<Reply, String>) -> Result<Reply> {
        let body = body.to_string();
        // A token is at least a byte, so this bounds what the provider can charge.
        let most = Usage { input_tokens: body.len() as u64 + ENVELOPE_TOKENS, output_tokens: self.max_tokens };
        let mut jitter = Rng::new(self.seed, "teacher backoff", self.calls.fetch_add(1, Ordering::Relaxed));
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            let reservation = self.budget.reserve(most)?;
            let after = match self.attempt(&body, &read) {
                Ok(reply) => {
                    // A server that counts nothing is taken at its dearest.
                    reservation.settle(if reply.usage == Usage::default() { most } else { reply.usage });
                    return Ok(reply);
                }
                Err(Failure::Never(why)) => {
                    reservation.settle(Usage::default());
                    return Err(self.error(&why));
                }
                Err(Failure::Again { why, after, billed }) => {
                    reservation.settle(if billed { most } else { Usage::default() });
                    last = why;
                    after
                }
            };
            if attempt + 1 < ATTEMPTS {
                let own = (WAIT_FIRST * f64::from(1 << attempt)).min(WAIT_LONGEST) * (1.0 - 0.25 * f64::from(jitter.unit()));
                (self.sleep)(Duration::from_secs_f64(after.unwrap_or(own)));
            }
        }
        Err(self.error(&format!("no answer in {ATTEMPTS} attempts; the last: {last}")))
    }

    /// An error that names the endpoint and never the key, even where the provider's message repeats it.
    fn error(&self, what: &str) -> Error {
        let what = self.key.as_ref().map_or(what.to_string(), |Key(key)| what.replace(key, "[key]"));
        Error::Teacher(format!("{}: {what}", self.url))
    }

    fn attempt(
        &self,
        body: &str,
        read: impl Fn(&Value) -> std::result::Result<Reply, String>,
    ) -> std::result::Result<Reply, Failure> {
        let mut request = self.agent.post(&self.url).content_type("application/json");
        for (name, value) in self.headers {
            request = request.header(*name, *value);
        }
        if let Some(Key(key)) = &self.key {
            request = request.header(self.key_header.0, format!("{}{key}", self.key_header.1));
        }
        let mut response = request.send(body).map_err(transport)?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(String::from);
        let should_retry = header("x-should-retry");
        let after = retry_after(header("retry-after-ms"), header("retry-after"), header("date"));
        let request_id = header("request-id").or(header("x-request-id"));
        let text = response.body_mut().with_config().limit(BODY_LIMIT).lossy_utf8(true).read_to_string();
        if status == 200 {
            let text = text.map_err(transport)?;
            let value = serde_json::from_str(&text).map_err(|e| {
                let billed = true;
                Failure::Again { why: format!("status 200 with broken JSON: {e}"), after: None, billed }
            })?;
            return read(&value).map_err(Failure::Never);
        }
        let text = text.unwrap_or_default();
        let mut why = format!("status {status}: {}", message(&text));
        if let Some(id) = request_id {
            why += &format!(" (request {id})");
        }
        // A spent quota also comes as 429, and waiting does not refill it.
        let quota = ["enforced_spend_limit_reached", "insufficient_quota"].iter().any(|code| text.contains(code));
        let again = match should_retry.as_deref() {
            Some("true") => true,
            Some("false") => false,
            _ => matches!(status, 408 | 409 | 425 | 429) || status >= 500,
        };
        if !again || quota {
            return Err(Failure::Never(why));
        }
        match after {
            Some(seconds) if seconds > WAIT_SERVER => {
                Err(Failure::Never(format!("{why}; it asks to wait {seconds} s, more than {WAIT_SERVER} s")))
            }
            after => Err(Failure::Again { why, after, billed: false }),
        }
    }
}

fn read_key(endpoint: &Endpoint, settings: &Settings) -> Result<Option<Key>> {
    let name = settings.key_env.as_deref().unwrap_or(endpoint.key_env);
    if name.is_empty() {
        return Ok(None);
    }
    let key = std::env::var(name).unwrap_or_default().trim().to_string();
    if !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(Some(Key(key)));
    }
    // A server of one's own rarely wants a key; who names a variable means it.
    if key.is_empty() && settings.base_url.is_some() && settings.key_env.is_none() {
        return Ok(None);
    }
    let found = if key.is_empty() { "it is not set" } else { "it holds characters that no key has" };
    Err(Error::input("teacher.key_env", format!("the environment variable {name} with the key expected; {found}")))
}

fn loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next(),
        None => authority.split(':').next(),
    };
    let host = host.unwrap_or_default();
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What a failed transfer means.
fn transport(error: ureq::Error) -> Failure {
    let why = error.to_string();
    let again = |billed| Failure::Again { why: why.clone(), after: None, billed };
    match &error {
        // Nothing was sent.
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::Timeout(ureq::Timeout::Connect) => again(false),
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => again(false),
        ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::Protocol(_) | ureq::Error::Decompress(..) => again(true),
        _ => Failure::Never(why),
    }
}

/// The provider's own words in an error body, on one line and cut to a readable length.
fn message(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let error = &value["error"];
    let words = error["message"].as_str().or(error.as_str()).or(value["message"].as_str()).unwrap_or(text);
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let words: String = words.chars().take(300).collect();
    match error["type"].as_str() {
        Some(kind) => format!("{kind}: {words}"),
        None => words,
    }
}

/// Seconds that the server asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date (RFC 9110, 10.2.3), which is
/// measured against the server's own `date`.
fn retry_after(ms: Option<String>, after: Option<String>, date: Option<String>) -> Option<f64> {
    let seconds = |text: &str| text.trim().parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    if let Some(ms) = ms.as_deref().and_then(seconds) {
        return Some(ms / 1000.0);
    }
    let after = after?;
    seconds(&after).or_else(|| Some((http_date(&after)? - http_date(&date?)?).max(0) as f64))
}

/// Seconds since 1970 of an IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let fields: Vec<&str> = text.split([' ', ':']).collect();
    let [_, day, month, year, hour, minute, second, "GMT"] = fields[..] else { return None };
    let number = |text: &str| text.parse::<i64>().ok();
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    // Days from the civil calendar, with years that begin in March.
    let (year, month) = if month > 2 { (number(year)?, month - 3) } else { (number(year)? - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + number(day)? - 1 - 719_468;
    Some(((days * 24 + number(hour)?) * 60 + number(minute)?) * 60 + number(second)?)
}

/// A hard limit on spending. Each attempt reserves the most it can cost, and settles for what it did.
struct Budget {
    limit: f64,
    input: f64,
    output: f64,
    purse: Mutex<Purse>,
    settled: Condvar,
}

#[derive(Default)]
struct Purse {
    spent: f64,
    reserved: f64,
}

struct Reservation<'a> {
    budget: &'a Budget,
    amount: f64,
}

impl Budget {
    fn new(settings: &Settings, spent: Usage) -> Result<Budget> {
        let (limit, input, output) = (settings.budget_usd, settings.input_usd_per_mtok, settings.output_usd_per_mtok);
        for (key, value) in [("budget_usd", limit), ("input_usd_per_mtok", input), ("output_usd_per_mtok", output)] {
            if value.is_nan() || value < 0.0 {
                return Err(Error::input(format!("teacher.{key}"), format!("a number of 0 or more expected, {value} found")));
            }
        }
        if limit.is_finite() && input == 0.0 && output == 0.0 && settings.base_url.is_none() {
            let what = "input_usd_per_mtok and output_usd_per_mtok expected with it: without prices it limits nothing";
            return Err(Error::input("teacher.budget_usd", what));
        }
        let budget = Budget { limit, input, output, purse: Mutex::default(), settled: Condvar::new() };
        budget.purse().spent = budget.cost(spent);
        Ok(budget)
    }

    fn cost(&self, usage: Usage) -> f64 {
        (usage.input_tokens as f64 * self.input + usage.output_tokens as f64 * self.output) / 1e6
    }

    fn purse(&self) -> MutexGuard<'_, Purse> {
        self.purse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the cost of `most` aside. While calls under way could still turn out cheap enough, it waits for them.
    fn reserve(&self, most: Usage) -> Result<Reservation<'_>> {
        let amount = self.cost(most);
        let mut purse = self.purse();
        loop {
            if purse.spent + purse.reserved + amount <= self.limit {
                purse.reserved += amount;
                return Ok(Reservation { budget: self, amount });
            }
            if purse.spent + amount > self.limit {
                return Err(Error::Teacher(format!(
                    "teacher.budget_usd: {:.4} of {:.4} USD are spent, and the next call could cost {amount:.4}",
                    purse.spent, self.limit
                )));
            }
            purse = self.settled.wait(purse).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Reservation<'_> {
    fn settle(self, usage: Usage) {
        self.budget.purse().spent += self.budget.cost(usage);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut purse = self.budget.purse();
        purse.reserved -= self.amount;
        // What is left after the last call is rounding, not money.
        if purse.reserved < self.amount * 1e-9 {
            purse.reserved = 0.0;
        }
        drop(purse);
        self.budget.settled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_rfc_9110s() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
        assert_eq!(http_date("soon"), None);
    }

    #[test]
    fn a_wait_is_read_in_each_form() {
        let text = |text: &str| Some(text.to_string());
        assert_eq!(retry_after(text("1500"), text("9"), None), Some(1.5));
        assert_eq!(retry_after(None, text("9"), None), Some(9.0));
        let date = text("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(retry_after(None, text("Sun, 06 Nov 1994 08:50:07 GMT"), date.clone()), Some(30.0));
        assert_eq!(retry_after(None, text("Sun, 06 Nov 1994 08:00:00 GMT"), date), Some(0.0));
        assert_eq!(retry_after(None, text("-3"), None), None);
        assert_eq!(retry_after(None, None, None), None);
    }

    #[test]
    fn only_this_machine_is_loopback() {
        assert!(["localhost:80", "127.0.0.1:8000", "127.8.0.1", "[::1]:80"].into_iter().all(loopback));
        assert!(!["127.0.0.1.example.com", "10.0.0.1", "[::2]", "localhost.example.com:80"].into_iter().any(loopback));
    }

    #[test]
    fn a_reservation_waits_for_calls_under_way() {
        let settings = Settings { budget_usd: 1.0, output_usd_per_mtok: 1e6, ..Settings::default() };
        let budget = Budget::new(&settings, Usage::default()).unwrap();
        let one = Usage { input_tokens: 0, output_tokens: 1 };
        let first = budget.reserve(one).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| budget.reserve(one).map(|reservation| reservation.settle(one)));
            first.settle(Usage::default());
            second.join().unwrap().unwrap();
        });
        let error = budget.reserve(one).err().unwrap().to_string();
        assert_eq!(error, "teacher.budget_usd: 1.0000 of 1.0000 USD are spent, and the next call could cost 1.0000");
    }
}
