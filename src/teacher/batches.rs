//! Anthropic's message batches: many requests at once, answered within a day, in any order, at half the price.
//!
//! A batch costs money from the moment it is created, so a ledger beside the journal remembers it: the requests before they are sent,
//! the batch's name once there is one, and when everything in it was stored. A run that was cut short, at any point, fetches what it
//! ordered. Where even the name was lost, the provider's list of batches is searched for one with as many requests; results are
//! told by their requests' names, so a wrong guess costs time, not answers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::budget::{Rate, Reservation, most};
use super::http::{Client, Failure};
use super::recorded::Asked;
use super::{Post, Reply};
use crate::error::{Error, Result};
use crate::record::Usage;

const PATH: &str = "/v1/messages/batches";
/// The API's limits on a batch: requests, and bytes, of which some are left for the frame.
const MOST_REQUESTS: usize = 100_000;
const MOST_BYTES: usize = 255_000_000;
/// How often a request is ordered that the provider does not answer.
const TRIES: u32 = 3;
/// Seconds between two looks at a batch: the first, how they grow, the longest.
const LOOK_FIRST: f64 = 5.0;
const LOOK_GROWTH: f64 = 1.5;
const LOOK_LONGEST: f64 = 300.0;

/// A question as the API takes it.
pub(super) struct Request {
    asked: Asked,
    params: String,
    /// Times that it was ordered and not answered.
    tries: u32,
}

impl Request {
    pub(super) fn new(asked: Asked, params: String) -> Request {
        Request { asked, params, tries: 0 }
    }
}

/// A line of the ledger.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// A batch is about to be created.
    Creating { at: String, most: Usage, asked: Vec<Asked> },
    /// That batch has this name.
    Created(String),
    /// That batch does not exist: the provider would not have it.
    Refused,
    /// Everything in this batch is stored.
    Ended(String),
}

/// A batch that was ordered. It has no name where the run ended before the provider's answer.
struct Order {
    id: Option<String>,
    at: String,
    most: Usage,
    asked: Vec<Asked>,
}

/// The file of what was ordered.
struct Ledger {
    path: PathBuf,
}

impl Ledger {
    /// Reads the ledger, which may not exist yet: the orders that are open, and the names of all batches.
    fn open(path: &Path) -> Result<(Ledger, Vec<Order>, HashSet<String>)> {
        let ledger = Ledger { path: path.to_path_buf() };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io(path, e)),
        };
        let (mut orders, mut names, mut length): (Vec<Order>, _, _) = (Vec::new(), HashSet::new(), 0);
        for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            // A line that a crash left half-written: what it was to announce has not been done.
            if !line.ends_with(b"\n") {
                break;
            }
            length += line.len() as u64;
            match serde_json::from_slice(line).map_err(|e| Error::line(path, index + 1, e))? {
                Line::Creating { at, most, asked } => orders.push(Order { id: None, at, most, asked }),
                Line::Created(id) => {
                    names.insert(id.clone());
                    if let Some(order) = orders.iter_mut().rev().find(|order| order.id.is_none()) {
                        order.id = Some(id);
                    }
                }
                Line::Refused => {
                    if let Some(index) = orders.iter().rposition(|order| order.id.is_none()) {
                        orders.remove(index);
                    }
                }
                Line::Ended(id) => orders.retain(|order| order.id.as_deref() != Some(&id)),
            }
        }
        if length < bytes.len() as u64 {
            let file = OpenOptions::new().write(true).open(path).map_err(|e| Error::io(path, e))?;
            file.set_len(length).map_err(|e| Error::io(path, e))?;
        }
        Ok((ledger, orders, names))
    }

    /// Adds a line, on the disk before it returns.
    fn write(&self, line: &Line) -> Result<()> {
        let mut bytes = serde_json::to_vec(line).map_err(|e| Error::io(&self.path, e.into()))?;
        bytes.push(b'\n');
        let file = OpenOptions::new().create(true).append(true).open(&self.path);
        file.and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all())).map_err(|e| Error::io(&self.path, e))
    }
}

/// A batch under way.
struct Batch<'a> {
    id: String,
    /// What is not answered yet, by its name.
    open: HashMap<String, Asked>,
    _reserved: Reservation<'a>,
}

/// What became of a request.
enum Outcome {
    Reply(Reply),
    /// Ordering it again may help.
    Again(String),
    Never(String),
}

/// How many of these requests, (bytes, the most that each can cost), go into one batch: as many as the limits and `room` allow.
fn fill(
    requests: impl Iterator<Item = (usize, Usage)>,
    requests_most: usize,
    bytes_most: usize,
    room: impl Fn(Usage) -> bool,
) -> usize {
    let (mut count, mut bytes, mut sum) = (0, 0, Usage::default());
    for (size, usage) in requests {
        bytes += size;
        sum.input_tokens += usage.input_tokens;
        sum.output_tokens += usage.output_tokens;
        if count == requests_most || bytes > bytes_most || !room(sum) {
            break;
        }
        count += 1;
    }
    count
}

/// Asks `requests` in batches, after it has fetched what earlier runs ordered. Every answer is stored as it is read. An error, once
/// all that can be had is stored, where a request got no answer.
pub(super) fn collect(
    client: &Client,
    requests: Vec<Request>,
    read: impl Fn(&Value) -> std::result::Result<Reply, String>,
    post: &mut Post<'_>,
) -> Result<()> {
    let (ledger, orders, mut names) = Ledger::open(&post.ledger)?;
    let total = requests.len();
    let order: Vec<String> = requests.iter().map(|request| request.asked.name()).collect();
    let places: HashMap<String, usize> = order.iter().cloned().zip(0..).collect();
    let mut requests: HashMap<String, Request> = order.iter().cloned().zip(requests).collect();
    let mut batches: VecDeque<Batch<'_>> = VecDeque::new();
    for order in orders {
        if order.at != client.origin() {
            let (count, at) = (order.asked.len(), &order.at);
            (post.report)(&format!("teacher: a batch of {count} requests at {at} is left alone, teacher.base_url has changed"));
            continue;
        }
        let id = match order.id {
            Some(id) => Some(id),
            None => {
                let found = find(client, order.asked.len(), &names)?;
                ledger.write(&found.clone().map_or(Line::Refused, Line::Created))?;
                found
            }
        };
        if let Some(id) = id {
            (post.report)(&format!("teacher: batch {id}, {} requests, was ordered before and is fetched", order.asked.len()));
            names.insert(id.clone());
            let open = order.asked.into_iter().map(|asked| (asked.name(), asked)).collect();
            batches.push_back(Batch { id, open, _reserved: client.budget.commit(order.most, Rate::Batch) });
        }
    }
    let ordered: HashSet<&String> = batches.iter().flat_map(|batch| batch.open.keys()).collect();
    let mut queue: VecDeque<String> = order.iter().filter(|name| !ordered.contains(name)).cloned().collect();
    let mut failures: Vec<String> = Vec::new();
    loop {
        while !queue.is_empty() {
            let sizes = queue.iter().map(|name| {
                let bytes = requests[name].params.len();
                // The frame: {"custom_id":"","params":}, with the name.
                (bytes + 128, most(bytes, client.max_tokens))
            });
            let count = fill(sizes, MOST_REQUESTS, MOST_BYTES, |sum| client.budget.has_room(sum, Rate::Batch));
            if count == 0 && !batches.is_empty() {
                break;
            }
            // With nothing under way and no room for even one, this says how much is spent.
            let chosen: Vec<&Request> = queue.iter().take(count.max(1)).map(|name| &requests[name]).collect();
            batches.push_back(create(client, &chosen, &ledger, &mut names, post.report)?);
            queue.drain(..count.max(1));
        }
        let Some(mut batch) = batches.pop_front() else { break };
        let results_url = wait(client, &batch, post.report)?;
        let mut undone: Vec<(String, Outcome)> = Vec::new();
        client.lines(&results_url, &mut |line| {
            let name = line["custom_id"].as_str().unwrap_or_default();
            // A line may come twice, and a batch that was guessed holds others.
            let Some(asked) = batch.open.get(name) else { return Ok(()) };
            match outcome(&line["result"], &read) {
                Outcome::Reply(reply) => {
                    client.budget.spend(reply.usage, Rate::Batch);
                    (post.store)(asked, reply)?;
                }
                other => undone.push((name.to_string(), other)),
            }
            batch.open.remove(name);
            Ok(())
        })?;
        undone.extend(batch.open.keys().map(|name| (name.clone(), Outcome::Again("no result".into()))));
        ledger.write(&Line::Ended(batch.id.clone()))?;
        // In the order of the questions, whatever the order of the results.
        undone.sort_by_key(|(name, _)| places.get(name));
        for (name, outcome) in undone {
            let Some(request) = requests.get_mut(&name) else { continue };
            request.tries += 1;
            match outcome {
                Outcome::Again(_) if request.tries < TRIES => queue.push_back(name),
                Outcome::Again(why) => failures.push(format!("problem {}: {why}, {TRIES} times", request.asked.problem())),
                Outcome::Never(why) => failures.push(format!("problem {}: {why}", request.asked.problem())),
                Outcome::Reply(_) => {}
            }
        }
    }
    match failures.first() {
        None => Ok(()),
        Some(first) => {
            let what = format!("{} of {total} requests got no answer, the others are stored; the first: {first}", failures.len());
            Err(client.error(&client.url(PATH), &what))
        }
    }
}

/// Orders a batch. The budget is asked first, the ledger is written before and after.
fn create<'a>(
    client: &'a Client,
    requests: &[&Request],
    ledger: &Ledger,
    names: &mut HashSet<String>,
    report: &dyn Fn(&str),
) -> Result<Batch<'a>> {
    let mut sum = Usage::default();
    let mut body = String::from("{\"requests\":[");
    for (index, request) in requests.iter().enumerate() {
        let most = most(request.params.len(), client.max_tokens);
        sum.input_tokens += most.input_tokens;
        sum.output_tokens += most.output_tokens;
        let comma = if index == 0 { "" } else { "," };
        body += &format!("{comma}{{\"custom_id\":\"{}\",\"params\":{}}}", request.asked.name(), request.params);
    }
    body += "]}";
    let reserved = client.budget.reserve(sum, Rate::Batch)?;
    let asked: Vec<Asked> = requests.iter().map(|request| request.asked.clone()).collect();
    ledger.write(&Line::Creating { at: client.origin().into(), most: sum, asked: asked.clone() })?;
    let url = client.url(PATH);
    let mut uncertain = false;
    let answer = client.persist(&url, |_| {
        // An order whose answer was lost may have arrived.
        if uncertain && let Some(id) = find(client, asked.len(), names)? {
            return Ok(Ok(id));
        }
        let answer = client.post(&url, &body).and_then(|value| id_of(&value).map_err(Failure::Never));
        // Only a server that is too busy certainly did nothing.
        uncertain |= matches!(answer, Err(Failure::Again { busy: false, .. }));
        Ok(answer)
    });
    let id = match answer {
        Ok(id) => id,
        Err(error) => {
            // What may exist all the same is looked for by the next run.
            if !uncertain && !matches!(error, Error::Interrupted) {
                ledger.write(&Line::Refused)?;
            }
            return Err(error);
        }
    };
    ledger.write(&Line::Created(id.clone()))?;
    names.insert(id.clone());
    report(&format!("teacher: batch {id}, {} requests, is ordered", asked.len()));
    let open = asked.into_iter().map(|asked| (asked.name(), asked)).collect();
    Ok(Batch { id, open, _reserved: reserved })
}

/// The newest batch of so many requests whose name is not among `names`.
fn find(client: &Client, count: usize, names: &HashSet<String>) -> Result<Option<String>> {
    let list = client.get(&client.url(&format!("{PATH}?limit=100")))?;
    let all = list["data"].as_array().into_iter().flatten();
    let mut found = all.filter(|batch| {
        let counts = batch["request_counts"].as_object().into_iter().flat_map(|counts| counts.values());
        counts.filter_map(Value::as_u64).sum::<u64>() == count as u64
    });
    Ok(found.find_map(|batch| id_of(batch).ok().filter(|id| !names.contains(id))))
}

/// A batch's name, which becomes part of an address.
fn id_of(batch: &Value) -> std::result::Result<String, String> {
    let id = batch["id"].as_str().unwrap_or_default();
    let plain = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if plain { Ok(id.to_string()) } else { Err("a batch with an id of letters, digits, _ and - expected".into()) }
}

/// Looks at a batch until it has ended; where its results are. Interrupted, it goes on at the provider.
fn wait(client: &Client, batch: &Batch<'_>, report: &dyn Fn(&str)) -> Result<String> {
    let id = &batch.id;
    let own = client.url(&format!("{PATH}/{id}"));
    let mut pause = LOOK_FIRST;
    loop {
        let look = || -> Result<Option<String>> {
            let state = client.get(&own)?;
            if state["processing_status"] == "ended" {
                // The key is sent along, so the address must be this server's; behind a gateway it may be another's.
                let given = state["results_url"].as_str().unwrap_or_default();
                let ours = given.strip_prefix(client.origin()).is_some_and(|path| path.starts_with('/'));
                return Ok(Some(if ours { given.to_string() } else { format!("{own}/results") }));
            }
            let left = state["request_counts"]["processing"].as_u64().unwrap_or(0);
            report(&format!("teacher: batch {id}, {left} requests left"));
            client.wait(pause)?;
            Ok(None)
        };
        match look() {
            Ok(Some(url)) => return Ok(url),
            Ok(None) => pause = (pause * LOOK_GROWTH).min(LOOK_LONGEST),
            Err(error) => {
                if matches!(error, Error::Interrupted) {
                    report(&format!("teacher: batch {id} goes on at the provider; the next run fetches its answers"));
                }
                return Err(error);
            }
        }
    }
}

/// What a result says.
fn outcome(result: &Value, read: impl Fn(&Value) -> std::result::Result<Reply, String>) -> Outcome {
    match result["type"].as_str() {
        Some("succeeded") => read(&result["message"]).map_or_else(Outcome::Never, Outcome::Reply),
        Some("errored") => {
            // Older answers wrap the error once, newer ones twice.
            let error = if result["error"]["error"].is_object() { &result["error"]["error"] } else { &result["error"] };
            let kind = error["type"].as_str().unwrap_or("error");
            let words = error["message"].as_str().unwrap_or_default();
            let what = format!("{kind}: {}", words.chars().take(300).collect::<String>());
            match kind {
                "invalid_request_error"
                | "authentication_error"
                | "permission_error"
                | "billing_error"
                | "not_found_error"
                | "request_too_large" => Outcome::Never(what),
                _ => Outcome::Again(what),
            }
        }
        other => Outcome::Again(other.unwrap_or("no type").to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_filled_up_to_each_limit() {
        let usage = Usage { input_tokens: 10, output_tokens: 5 };
        let requests = || (0..10).map(|_| (100, usage));
        assert_eq!(fill(requests(), 100, 10_000, |_| true), 10);
        assert_eq!(fill(requests(), 4, 10_000, |_| true), 4);
        assert_eq!(fill(requests(), 100, 700, |_| true), 7);
        assert_eq!(fill(requests(), 100, 699, |_| true), 6);
        assert_eq!(fill(requests(), 100, 10_000, |sum| sum.input_tokens <= 30), 3);
        assert_eq!(fill(requests(), 100, 99, |_| true), 0);
    }

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        assert_eq!(id_of(&serde_json::json!({"id": "msgbatch_01-a"})), Ok("msgbatch_01-a".into()));
        for id in ["", "../messages", "a?b", "a/b"] {
            assert!(id_of(&serde_json::json!({"id": id})).is_err());
        }
    }
}
