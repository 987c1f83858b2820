//! JSON over HTTPS: attempts and the waits between them, in step with other threads. What is said is the providers'.

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderMap, Response};

use super::budget::{Budget, Estimate, Rate, Spent, most};
use super::key::{self, Key};
use super::pace::Pace;
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
/// The largest answer that is read, and the largest file of a batch's results.
const BODY_LIMIT: u64 = 32 << 20;
const FILE_LIMIT: u64 = 16 << 30;
/// How much longer than an answer a file may take.
const FILE_PATIENCE: u32 = 30;

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
    /// Scheme and authority, and the path under which the API begins.
    base: String,
    path: &'static str,
    key: Option<Key>,
    key_header: (&'static str, &'static str),
    headers: &'static [(&'static str, &'static str)],
    /// What asking costs.
    pub budget: Budget,
    /// Tokens that an answer may have.
    pub max_tokens: u64,
    timeout: Duration,
    pace: Pace,
    seed: u64,
    calls: AtomicU64,
    sleep: Sleep,
}

/// How one attempt ended, when not with an answer.
pub(super) enum Failure {
    /// Asking again may help. `billed` where the provider may have done the work; `after` if it said when to come back; `busy` where
    /// it has too much to do.
    Again { why: String, after: Option<f64>, billed: bool, busy: bool },
    /// Asking again would not help.
    Never(String),
}

/// What one attempt came to.
pub(super) type Attempt<T> = std::result::Result<T, Failure>;

/// Something sent or fetched.
#[derive(Clone, Copy)]
enum Sent<'a> {
    Get,
    Post(&'a str),
}

impl Client {
    /// Checks the settings and reads the key. `spent` counts against the budget.
    pub(super) fn new(endpoint: &Endpoint, settings: &Settings, spent: Spent, sleep: Sleep) -> Result<Client> {
        let base = settings.base_url.as_deref().unwrap_or(endpoint.base_url).trim_end_matches('/');
        let authority = base.strip_prefix("https://").or(base.strip_prefix("http://"));
        let authority = authority.filter(|rest| !rest.contains(['?', '#', '\\']));
        let authority = authority.map(|rest| rest.split('/').next().unwrap_or_default());
        let Some(authority) = authority.filter(|authority| !authority.is_empty() && !authority.contains('@')) else {
            return Err(Error::input("teacher.base_url", "https://HOST or http://HOST expected, without a user or a password"));
        };
        let key = key::read(endpoint.key_env, settings.key_env.as_deref(), settings.base_url.is_some())?;
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
            // A redirect would carry the key to wherever it points.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(timeout.min(Duration::from_secs(10))))
            .user_agent(concat!("repairity/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Client {
            agent,
            base: base.strip_suffix("/v1").unwrap_or(base).to_string(),
            path: endpoint.path,
            key,
            key_header: endpoint.key_header,
            headers: endpoint.headers,
            budget: Budget::new(settings, spent)?,
            max_tokens: settings.max_tokens as u64,
            timeout,
            pace: Pace::new(settings.concurrency),
            seed: settings.seed,
            calls: AtomicU64::new(0),
            sleep,
        })
    }

    /// The address of a path of the API.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Where the server is: the part of the address that the key may be sent to.
    pub(super) fn origin(&self) -> &str {
        origin(&self.base)
    }

    /// What requests of these bytes, with these tokens expected in their answers, would cost.
    pub(super) fn estimate(&self, requests: &[(usize, u64)], rate: Rate) -> Estimate {
        self.budget.estimate(requests, self.max_tokens, rate)
    }

    /// Sends `body` until `read` finds a reply in an answer. `read` says what is wrong with an answer that is whole but holds no
    /// reply.
    pub(super) fn ask(&self, body: &Value, read: impl Fn(&Value) -> std::result::Result<Reply, String>) -> Result<Reply> {
        let (body, url) = (body.to_string(), self.url(self.path));
        let most = most(body.len(), self.max_tokens);
        self.persist(&url, |_| {
            let reservation = self.budget.reserve(most, Rate::Live)?;
            let attempt = self.exchange(&url, Sent::Post(&body), self.timeout);
            // An answer without a reply in it was paid for all the same.
            let value = attempt.inspect_err(|failure| {
                if let Failure::Again { billed: true, .. } = failure {
                    self.budget.spend(most, Rate::Live);
                }
            });
            Ok(value.and_then(|value| match read(&value) {
                Ok(reply) => {
                    // A server that counts nothing is taken at its dearest.
                    reservation.settle(if reply.usage == Usage::default() { most } else { reply.usage }, Rate::Live);
                    Ok(reply)
                }
                Err(why) => {
                    reservation.settle(most, Rate::Live);
                    Err(Failure::Never(why))
                }
            }))
        })
    }

    /// Fetches a document that costs nothing.
    pub(super) fn get(&self, url: &str) -> Result<Value> {
        self.persist(url, |_| Ok(self.exchange(url, Sent::Get, self.timeout)))
    }

    /// One attempt to send `body`, however large.
    pub(super) fn post(&self, url: &str, body: &str) -> Attempt<Value> {
        self.exchange(url, Sent::Post(body), self.timeout * FILE_PATIENCE)
    }

    /// Fetches a file of JSON, one document a line, and hands over each. After a broken transfer it begins again, so lines may come
    /// twice.
    pub(super) fn lines(&self, url: &str, each: &mut dyn FnMut(Value) -> Result<()>) -> Result<()> {
        self.persist(url, |_| {
            let mut response = match self.send(url, Sent::Get, self.timeout * FILE_PATIENCE) {
                Ok(response) => response,
                Err(failure) => return Ok(Err(failure)),
            };
            if response.status().as_u16() != 200 {
                return Ok(self.read(response).map(drop));
            }
            let mut reader = BufReader::new(response.body_mut().with_config().limit(FILE_LIMIT).reader());
            let mut line = Vec::new();
            loop {
                line.clear();
                let read = reader.read_until(b'\n', &mut line);
                let again = |why: String| Ok(Err(Failure::Again { why, after: None, billed: false, busy: false }));
                match read {
                    Ok(0) => return Ok(Ok(())),
                    Ok(_) if line.trim_ascii().is_empty() => {}
                    Ok(_) => match self.parse(&String::from_utf8_lossy(&line)) {
                        Ok(value) => each(value)?,
                        Err(e) => return again(format!("a line with broken JSON: {e}")),
                    },
                    Err(e) => return again(e.to_string()),
                }
            }
        })
    }

    /// Repeats `once`, which is told the number of attempts before, until it succeeds or there is no use. An error of `once` itself
    /// ends it at once.
    pub(super) fn persist<T>(&self, url: &str, mut once: impl FnMut(u32) -> Result<Attempt<T>>) -> Result<T> {
        let mut jitter = Rng::new(self.seed, "teacher backoff", self.calls.fetch_add(1, Ordering::Relaxed));
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            let permit = self.pace.enter(&self.sleep)?;
            let (why, after, busy) = match once(attempt)? {
                Ok(answer) => {
                    permit.answered();
                    return Ok(answer);
                }
                Err(Failure::Never(why)) => return Err(self.error(url, &why)),
                Err(Failure::Again { why, after, busy, .. }) => (why, after, busy),
            };
            last = why;
            let own = (WAIT_FIRST * f64::from(1 << attempt)).min(WAIT_LONGEST) * (1.0 - 0.25 * f64::from(jitter.unit()));
            let wait = after.unwrap_or(own);
            if busy {
                permit.throttled(wait);
            } else {
                drop(permit);
                if attempt + 1 < ATTEMPTS {
                    self.wait(wait)?;
                }
            }
        }
        Err(self.error(url, &format!("no answer in {ATTEMPTS} attempts; the last: {last}")))
    }

    /// Waits; an interrupt where the user asked to stop.
    pub(super) fn wait(&self, seconds: f64) -> Result<()> {
        if (self.sleep)(Duration::from_secs_f64(seconds)) { Ok(()) } else { Err(Error::Interrupted) }
    }

    /// An error that names the address and never the key, even where the provider's message repeats it.
    pub(super) fn error(&self, url: &str, what: &str) -> Error {
        let what = format!("{url}: {what}");
        Error::Teacher(self.key.as_ref().map_or(what.clone(), |key| key.hide(&what).replace(key.secret(), "[key]")))
    }

    fn parse(&self, text: &str) -> serde_json::Result<Value> {
        let mut value = serde_json::from_str(text)?;
        if let Some(key) = &self.key {
            key.hide_in(&mut value);
        }
        Ok(value)
    }

    fn send(&self, url: &str, sent: Sent<'_>, timeout: Duration) -> Attempt<Response<ureq::Body>> {
        // Whoever calls has checked the address; this is what keeps the key even so.
        if origin(url) != self.origin() {
            return Err(Failure::Never(format!("{} expected, since the key goes nowhere else", self.origin())));
        }
        let mut headers: Vec<(&str, String)> = self.headers.iter().map(|(name, value)| (*name, value.to_string())).collect();
        if let Some(key) = &self.key {
            headers.push((self.key_header.0, format!("{}{}", self.key_header.1, key.secret())));
        }
        let timeout = Some(timeout);
        match sent {
            Sent::Get => {
                let request = self.agent.get(url).config().timeout_global(timeout).build();
                headers.into_iter().fold(request, |request, (name, value)| request.header(name, value)).call()
            }
            Sent::Post(body) => {
                let request = self.agent.post(url).config().timeout_global(timeout).build().content_type("application/json");
                headers.into_iter().fold(request, |request, (name, value)| request.header(name, value)).send(body)
            }
        }
        .map_err(transport)
    }

    fn exchange(&self, url: &str, sent: Sent<'_>, timeout: Duration) -> Attempt<Value> {
        self.read(self.send(url, sent, timeout)?)
    }

    fn read(&self, mut response: Response<ureq::Body>) -> Attempt<Value> {
        let status = response.status().as_u16();
        let header = |name: &str| text_of(response.headers(), name);
        let should_retry = header("x-should-retry");
        let reset = until_reset(response.headers());
        let after = retry_after(header("retry-after-ms"), header("retry-after"), header("date"));
        let request_id = header("request-id").or(header("x-request-id"));
        let text = response.body_mut().with_config().limit(BODY_LIMIT).lossy_utf8(true).read_to_string();
        if status == 200 {
            if let Some(seconds) = reset {
                self.pace.pause(seconds.min(WAIT_SERVER));
            }
            return self.parse(&text.map_err(transport)?).map_err(|e| {
                let why = format!("status 200 with broken JSON: {e}");
                Failure::Again { why, after: None, billed: true, busy: false }
            });
        }
        let text = text.unwrap_or_default();
        let value = self.parse(&text).unwrap_or_default();
        // What is cut below must not be cut within a key.
        let text = self.key.as_ref().map_or(text.clone(), |key| key.hide(&text));
        let mut why = format!("status {status}: {}", message(&value, &text));
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
        match after.or(reset) {
            Some(seconds) if seconds > WAIT_SERVER => {
                Err(Failure::Never(format!("{why}; it asks to wait {seconds} s, more than {WAIT_SERVER} s")))
            }
            after => Err(Failure::Again { why, after, billed: false, busy: matches!(status, 429 | 503 | 529) }),
        }
    }
}

/// Scheme and authority of an address.
fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#', '\\']).map_or(url.len(), |at| start + at);
    &url[..end]
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(String::from)
}

/// Seconds until a used-up allowance is refilled, measured against the server's own `date`; none while every allowance has
/// something left.
fn until_reset(headers: &HeaderMap) -> Option<f64> {
    let resets = ["requests", "tokens", "input-tokens", "output-tokens"].into_iter().filter_map(|kind| {
        let field = |field: &str| text_of(headers, &format!("anthropic-ratelimit-{kind}-{field}"));
        if field("remaining")?.trim() != "0" {
            return None;
        }
        Some((rfc_3339(&field("reset")?)? - http_date(&text_of(headers, "date")?)?).max(0) as f64)
    });
    resets.reduce(f64::max)
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
    let again = |billed| Failure::Again { why: why.clone(), after: None, billed, busy: false };
    match &error {
        // Nothing was sent.
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::Timeout(ureq::Timeout::Connect) => again(false),
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => again(false),
        ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::Protocol(_) | ureq::Error::Decompress(..) => again(true),
        _ => Failure::Never(why),
    }
}

/// The provider's own words in an error body, on one line and cut to a readable length.
fn message(value: &Value, text: &str) -> String {
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
    Some(seconds(number(year)?, month, number(day)?) + (number(hour)? * 60 + number(minute)?) * 60 + number(second)?)
}

/// Seconds since 1970 of a date and time of RFC 3339 in UTC: `1994-11-06T08:49:37Z`, fractions left out.
fn rfc_3339(text: &str) -> Option<i64> {
    let text = text.trim().strip_suffix('Z').or(text.trim().strip_suffix("+00:00"))?;
    let fields: Vec<&str> = text.split(['-', 'T', ':']).collect();
    let [year, month, day, hour, minute, second] = fields[..] else { return None };
    let number = |text: &str| text.parse::<i64>().ok();
    let second = second.split('.').next()?;
    Some(seconds(number(year)?, number(month)?, number(day)?) + (number(hour)? * 60 + number(minute)?) * 60 + number(second)?)
}

/// Seconds from 1970 to the start of a day: days from the civil calendar, with years that begin in March.
fn seconds(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    (365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468) * 86_400
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
        for text in ["1994-11-06T08:49:37Z", "1994-11-06T08:49:37.5Z", "1994-11-06T08:49:37+00:00"] {
            assert_eq!(rfc_3339(text), Some(784_111_777));
        }
        assert_eq!(rfc_3339("1994-11-06T08:49:37+01:00"), None);
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
    fn a_used_up_allowance_is_waited_for() {
        let headers = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.insert(*name, ureq::http::HeaderValue::from_static(value));
            }
            until_reset(&headers)
        };
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let none = ("anthropic-ratelimit-requests-remaining", "0");
        let reset = ("anthropic-ratelimit-requests-reset", "1994-11-06T08:49:49Z");
        let tokens = ("anthropic-ratelimit-output-tokens-remaining", "0");
        let later = ("anthropic-ratelimit-output-tokens-reset", "1994-11-06T08:50:37Z");
        assert_eq!(headers(&[date, none, reset]), Some(12.0));
        assert_eq!(headers(&[date, none, reset, tokens, later]), Some(60.0));
        assert_eq!(headers(&[date, ("anthropic-ratelimit-requests-remaining", "1"), reset]), None);
        assert_eq!(headers(&[none, reset]), None);
    }

    #[test]
    fn an_origin_ends_where_the_path_begins() {
        let cases = [
            ("https://api.example.com/v1/x", "https://api.example.com"),
            ("https://api.example.com", "https://api.example.com"),
            ("https://api.example.com?x", "https://api.example.com"),
            ("https://api.example.com.evil.org/", "https://api.example.com.evil.org"),
            ("https://api.example.com@evil.org/", "https://api.example.com@evil.org"),
            ("http://api.example.com:81/", "http://api.example.com:81"),
        ];
        for (url, expected) in cases {
            assert_eq!(origin(url), expected);
        }
    }
}
