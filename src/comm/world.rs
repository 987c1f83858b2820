//! Which of a job's processes this is, as torchrun or Slurm tells it through the environment.

use std::ops::Range;

use crate::error::{Error, Result};

/// Where processes meet if nobody says otherwise: torchrun's default.
const PORT: u16 = 29500;

/// This process among those of the job. A process drives one GPU or several; each of them is a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// This process, from 0.
    pub process: usize,
    /// How many there are.
    pub processes: usize,
    /// This process among those of its node, from 0.
    pub local: usize,
    /// How many its node has.
    pub locals: usize,
    /// The host of process 0, where the others find it.
    pub master: String,
    /// The port at which it listens.
    pub port: u16,
}

impl World {
    /// One process.
    pub fn alone() -> World {
        World { process: 0, processes: 1, local: 0, locals: 1, master: "localhost".into(), port: PORT }
    }

    /// What the environment of this process says.
    ///
    /// torchrun's variables win: RANK and WORLD_SIZE count processes, MASTER_ADDR and MASTER_PORT say where process 0 is, LOCAL_RANK
    /// and LOCAL_WORLD_SIZE count those of a node (one, where they are not set). Where torchrun itself listens at MASTER_PORT
    /// (TORCHELASTIC_USE_AGENT_STORE), processes meet at the port after it.
    ///
    /// Else Slurm's, as `srun` sets them: SLURM_PROCID and SLURM_NTASKS; SLURM_LOCALID and SLURM_STEP_TASKS_PER_NODE or
    /// SLURM_NTASKS_PER_NODE; process 0 is at MASTER_ADDR, or on the first host of SLURM_STEP_NODELIST or SLURM_JOB_NODELIST; the
    /// port is MASTER_PORT, or one that follows from SLURM_JOB_ID, so that jobs that share a node do not meet.
    ///
    /// None of them: one process. So is a batch script of Slurm's that starts the program without `srun` and without a number of
    /// tasks.
    pub fn from_environment() -> Result<World> {
        World::read(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    fn read(get: impl Fn(&str) -> Option<String>) -> Result<World> {
        let get: &dyn Fn(&str) -> Option<String> = &get;
        match (number(get, "RANK")?, number(get, "WORLD_SIZE")?) {
            (Some(process), Some(processes)) => torchrun(get, process, processes),
            (Some(_), None) => Err(half_set("WORLD_SIZE", "the number of processes", "RANK")),
            (None, Some(_)) => Err(half_set("RANK", "this process's number", "WORLD_SIZE")),
            (None, None) => match (number(get, "SLURM_PROCID")?, number(get, "SLURM_NTASKS")?) {
                (Some(process), Some(processes)) => slurm(get, process, processes),
                (Some(1..), None) => Err(half_set("SLURM_NTASKS", "the number of processes", "SLURM_PROCID")),
                _ => Ok(World::alone()),
            },
        }
    }

    /// Which of the GPUs that this process sees are its own, where a node gives the job `gpus` of them and the process sees `seen`.
    /// The processes of a node share its GPUs equally, in their order; where whoever started them lets each see its own only, it
    /// takes what it sees.
    pub fn share(&self, gpus: usize, seen: usize) -> Result<Range<usize>> {
        let each = gpus / self.locals;
        if each == 0 || !gpus.is_multiple_of(self.locals) {
            let what = format!("{gpus} GPUs cannot be shared equally by the {} processes of a node", self.locals);
            return Err(Error::input("gpus", what));
        }
        match seen {
            _ if seen >= gpus => Ok(self.local * each..(self.local + 1) * each),
            _ if seen == each => Ok(0..each),
            _ => {
                let own = if self.locals == 1 { String::new() } else { format!(", or the {each} that are this process's own") };
                Err(Error::input("gpus", format!("{gpus} GPUs expected on this node{own}; {seen} found")))
            }
        }
    }
}

fn torchrun(get: &dyn Fn(&str) -> Option<String>, process: usize, processes: usize) -> Result<World> {
    counted("RANK", process, "WORLD_SIZE", processes)?;
    let (local, locals) = match (number(get, "LOCAL_RANK")?, number(get, "LOCAL_WORLD_SIZE")?) {
        (Some(local), Some(locals)) => (local, locals),
        (None, None) => (0, 1),
        (Some(_), None) => return Err(half_set("LOCAL_WORLD_SIZE", "the number of processes on this node", "LOCAL_RANK")),
        (None, Some(_)) => return Err(half_set("LOCAL_RANK", "this process's number on its node", "LOCAL_WORLD_SIZE")),
    };
    counted("LOCAL_RANK", local, "LOCAL_WORLD_SIZE", locals)?;
    let master = match master(get)? {
        Some(master) => master,
        None if processes == 1 => World::alone().master,
        None => return Err(half_set("MASTER_ADDR", "the host of process 0", "RANK")),
    };
    let port = port(get)?.unwrap_or(PORT);
    let taken = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
    let port = if taken { port.checked_add(1).unwrap_or(port - 1) } else { port };
    Ok(World { process, processes, local, locals, master, port })
}

fn slurm(get: &dyn Fn(&str) -> Option<String>, process: usize, processes: usize) -> Result<World> {
    counted("SLURM_PROCID", process, "SLURM_NTASKS", processes)?;
    let local = number(get, "SLURM_LOCALID")?.unwrap_or(0);
    // What was asked for with --ntasks-per-node is inherited by steps of another shape; what the step has is exact.
    let (name, locals) = match get("SLURM_STEP_TASKS_PER_NODE") {
        Some(list) => {
            let node = number(get, "SLURM_NODEID")?.unwrap_or(0);
            let name = "SLURM_STEP_TASKS_PER_NODE";
            let what =
                || Error::input(name, format!("expected counts such as `2(x3),1` with one for node {node}, found `{list}`"));
            (name, tasks(&list, node).ok_or_else(what)?)
        }
        None => ("SLURM_NTASKS_PER_NODE", number(get, "SLURM_NTASKS_PER_NODE")?.unwrap_or(1)),
    };
    counted("SLURM_LOCALID", local, name, locals)?;
    let lists = ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"];
    let master = match (master(get)?, lists.iter().find_map(|name| Some((name, get(name)?)))) {
        (Some(master), _) => master,
        (None, Some((name, list))) => {
            let what = || Error::input(name, format!("expected hosts such as `node[01-04,7]`, found `{list}`"));
            first_host(&list).ok_or_else(what)?
        }
        (None, None) if processes == 1 => World::alone().master,
        (None, None) => return Err(half_set("SLURM_JOB_NODELIST", "the hosts of the job (or MASTER_ADDR)", "SLURM_PROCID")),
    };
    let port = match (port(get)?, number(get, "SLURM_JOB_ID")?) {
        (Some(port), _) => port,
        // Below what Linux gives to outgoing connections.
        (None, Some(job)) => 15_000 + (job % 10_000) as u16,
        (None, None) => PORT,
    };
    Ok(World { process, processes, local, locals, master, port })
}

fn half_set(name: &str, what: &str, other: &str) -> Error {
    Error::input(name, format!("expected {what}, since {other} is set; it is not set"))
}

fn number(get: &dyn Fn(&str) -> Option<String>, name: &str) -> Result<Option<usize>> {
    let parse = |text: String| text.parse().map_err(|_| Error::input(name, format!("expected a number from 0, found `{text}`")));
    get(name).map(parse).transpose()
}

fn counted(name: &str, value: usize, count_name: &str, count: usize) -> Result<()> {
    if count == 0 {
        return Err(Error::input(count_name, "expected a number from 1, found `0`"));
    }
    if value < count {
        return Ok(());
    }
    Err(Error::input(name, format!("expected a number below {count_name}, which is {count}; found `{value}`")))
}

fn master(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>> {
    match get("MASTER_ADDR") {
        Some(master) if master.is_empty() => Err(Error::input("MASTER_ADDR", "expected the host of process 0, found ``")),
        master => Ok(master),
    }
}

fn port(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<u16>> {
    let parse = |text: String| match text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => Err(Error::input("MASTER_PORT", format!("expected a port, 1 to 65535, found `{text}`"))),
    };
    get("MASTER_PORT").map(parse).transpose()
}

/// Tasks of a node in Slurm's form: `2(x3),1` is 2 on each of three nodes and 1 on the fourth.
fn tasks(list: &str, mut node: usize) -> Option<usize> {
    for part in list.split(',') {
        let (count, times) = part.split_once("(x").unwrap_or((part, "1)"));
        let (count, times): (usize, usize) = (count.parse().ok()?, times.strip_suffix(')')?.parse().ok()?);
        if node < times {
            return Some(count);
        }
        node -= times;
    }
    None
}

/// The first host of a list in Slurm's form: `node[01-04,7]`, `a1,b[2-3]`, `rack[1-2]node[3-4]`.
fn first_host(list: &str) -> Option<String> {
    let mut host = String::new();
    let mut rest = list;
    loop {
        let at = rest.find([',', '[']).unwrap_or(rest.len());
        host.push_str(&rest[..at]);
        let Some(bracket) = rest[at..].strip_prefix('[') else { break };
        let (inside, after) = bracket.split_once(']')?;
        let first = inside.split([',', '-']).next().filter(|first| !first.is_empty())?;
        host.push_str(first.bytes().all(|b| b.is_ascii_digit()).then_some(first)?);
        rest = after;
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    (!host.is_empty() && host.chars().all(fits)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a world is read as from `NAME=value` words.
    fn read(environment: &str) -> Result<World> {
        let set: Vec<(&str, &str)> = environment.split_whitespace().map(|word| word.split_once('=').unwrap()).collect();
        World::read(|name| set.iter().find(|(other, _)| *other == name).map(|(_, value)| value.to_string()))
    }

    fn world(process: usize, processes: usize, local: usize, locals: usize, master: &str, port: u16) -> World {
        World { process, processes, local, locals, master: master.into(), port }
    }

    #[test]
    fn torchrun_s_variables_are_read_and_win() {
        let own = "RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 MASTER_ADDR=node01 MASTER_PORT=1234";
        assert_eq!(read(own).unwrap(), world(5, 8, 1, 4, "node01", 1234));
        let both = format!("{own} SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_JOB_NODELIST=other");
        assert_eq!(read(&both).unwrap(), world(5, 8, 1, 4, "node01", 1234));
        assert_eq!(read("RANK=1 WORLD_SIZE=2 MASTER_ADDR=a").unwrap(), world(1, 2, 0, 1, "a", 29500));
        assert_eq!(read("RANK=0 WORLD_SIZE=1").unwrap(), World::alone());
        let agent = "TORCHELASTIC_USE_AGENT_STORE=True";
        assert_eq!(read(&format!("{own} {agent}")).unwrap().port, 1235);
        assert_eq!(read(&format!("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=65535 {agent}")).unwrap().port, 65534);
        assert_eq!(read(&format!("{own} TORCHELASTIC_USE_AGENT_STORE=False")).unwrap().port, 1234);
    }

    #[test]
    fn slurm_s_variables_are_read() {
        let step = "SLURM_PROCID=3 SLURM_NTASKS=4 SLURM_LOCALID=1 SLURM_JOB_NODELIST=node[01-02]";
        let per_node = format!("{step} SLURM_NTASKS_PER_NODE=2");
        assert_eq!(read(&per_node).unwrap(), world(3, 4, 1, 2, "node01", 29500));
        let exact = format!("{per_node} SLURM_STEP_TASKS_PER_NODE=1,3 SLURM_NODEID=1 SLURM_JOB_ID=123456");
        assert_eq!(read(&exact).unwrap(), world(3, 4, 1, 3, "node01", 18_456));
        let told = format!("{per_node} SLURM_STEP_NODELIST=node02 SLURM_JOB_ID=7");
        assert_eq!(read(&told).unwrap().master, "node02");
        assert_eq!(read(&format!("{told} MASTER_ADDR=ib0 MASTER_PORT=99")).unwrap(), world(3, 4, 1, 2, "ib0", 99));
        assert_eq!(read("SLURM_PROCID=0 SLURM_NTASKS=1").unwrap(), World::alone());
    }

    #[test]
    fn without_them_there_is_one_process() {
        for environment in ["", "MASTER_ADDR=a MASTER_PORT=b LOCAL_RANK=1", "SLURM_NTASKS=4", "SLURM_PROCID=0 SLURM_LOCALID=0"] {
            assert_eq!(read(environment).unwrap(), World::alone(), "{environment}");
        }
    }

    #[test]
    fn bad_and_half_set_values_are_named() {
        for (environment, expected) in [
            ("RANK=0", "WORLD_SIZE: expected the number of processes, since RANK is set; it is not set"),
            ("WORLD_SIZE=2", "RANK: expected this process's number, since WORLD_SIZE is set; it is not set"),
            ("RANK=x WORLD_SIZE=2", "RANK: expected a number from 0, found `x`"),
            ("RANK=-1 WORLD_SIZE=2", "RANK: expected a number from 0, found `-1`"),
            ("RANK=0 WORLD_SIZE=", "WORLD_SIZE: expected a number from 0, found ``"),
            ("RANK=0 WORLD_SIZE=0", "WORLD_SIZE: expected a number from 1, found `0`"),
            ("RANK=2 WORLD_SIZE=2 MASTER_ADDR=a", "RANK: expected a number below WORLD_SIZE, which is 2; found `2`"),
            ("RANK=0 WORLD_SIZE=2", "MASTER_ADDR: expected the host of process 0, since RANK is set; it is not set"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=", "MASTER_ADDR: expected the host of process 0, found ``"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=0", "MASTER_PORT: expected a port, 1 to 65535, found `0`"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=70000", "MASTER_PORT: expected a port, 1 to 65535, found `70000`"),
            (
                "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0",
                "LOCAL_WORLD_SIZE: expected the number of processes on this node, since LOCAL_RANK is set; it is not set",
            ),
            (
                "RANK=0 WORLD_SIZE=2 LOCAL_RANK=4 LOCAL_WORLD_SIZE=2",
                "LOCAL_RANK: expected a number below LOCAL_WORLD_SIZE, which is 2; found `4`",
            ),
            ("SLURM_PROCID=1", "SLURM_NTASKS: expected the number of processes, since SLURM_PROCID is set; it is not set"),
            (
                "SLURM_PROCID=0 SLURM_NTASKS=2",
                "SLURM_JOB_NODELIST: expected the hosts of the job (or MASTER_ADDR), since SLURM_PROCID is set; it is not set",
            ),
            (
                "SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_JOB_NODELIST=node[",
                "SLURM_JOB_NODELIST: expected hosts such as `node[01-04,7]`, found `node[`",
            ),
            (
                "SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_LOCALID=1",
                "SLURM_LOCALID: expected a number below SLURM_NTASKS_PER_NODE, which is 1; found `1`",
            ),
            (
                "SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_NODEID=2 SLURM_STEP_TASKS_PER_NODE=1(x2)",
                "SLURM_STEP_TASKS_PER_NODE: expected counts such as `2(x3),1` with one for node 2, found `1(x2)`",
            ),
        ] {
            let error = read(environment).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.exit_code()), (expected, 2), "{environment}");
        }
    }

    #[test]
    fn slurm_s_lists_are_parsed() {
        for (list, first) in [
            ("node01", "node01"),
            ("node[01-04,7]", "node01"),
            ("node[7,9]", "node7"),
            ("a1,b[2-3]", "a1"),
            ("rack[1-2]node[03-04]-ib,x", "rack1node03-ib"),
            ("gpu-3.cluster.local,gpu-4", "gpu-3.cluster.local"),
        ] {
            assert_eq!(first_host(list).as_deref(), Some(first), "{list}");
        }
        for list in ["", "[", "node[]", "node[a-b]", "node[1", ",a", "a b"] {
            assert_eq!(first_host(list), None, "{list}");
        }
        let counts = |list| (0..5).map(|node| tasks(list, node)).collect::<Vec<_>>();
        assert_eq!(counts("2(x3),1"), [Some(2), Some(2), Some(2), Some(1), None]);
        assert_eq!(counts("8"), [Some(8), None, None, None, None]);
        assert_eq!(counts("2(x"), [None; 5]);
    }

    #[test]
    fn a_node_s_gpus_are_shared_by_its_processes() {
        let share = |local, locals, gpus, seen| {
            let world = World { local, locals, ..World::alone() };
            world.share(gpus, seen).map_err(|error| error.to_string())
        };
        assert_eq!(share(0, 1, 8, 8), Ok(0..8));
        assert_eq!(share(0, 1, 2, 8), Ok(0..2));
        assert_eq!(share(3, 4, 8, 8), Ok(6..8));
        assert_eq!(share(3, 8, 8, 1), Ok(0..1));
        assert_eq!(share(0, 1, 8, 4), Err("gpus: 8 GPUs expected on this node; 4 found".into()));
        let own = "gpus: 8 GPUs expected on this node, or the 2 that are this process's own; 3 found";
        assert_eq!(share(0, 4, 8, 3), Err(own.into()));
        assert_eq!(share(0, 3, 8, 8), Err("gpus: 8 GPUs cannot be shared equally by the 3 processes of a node".into()));
    }
}
