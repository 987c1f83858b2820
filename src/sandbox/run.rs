//! Runs a program from start to end: input goes in, output comes out.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use super::watch::Excess;
use super::{Ended, Program, Running, Sandbox, pipe};
use crate::error::{Error, Result};

/// What a program that was run to its end came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// How it ended.
    pub ended: Ended,
    /// Its time was over: by the clock, or by the limit on processor time.
    pub timed_out: bool,
    /// It was killed for its memory, where that is [`super::Memory::Resident`].
    pub over_memory: bool,
    /// It was killed because it wrote more than it may, on a pipe or on the disk.
    pub flooded: bool,
    /// It was killed because it started more processes than it may.
    pub over_processes: bool,
    /// Standard output, at most `Limits::output` bytes.
    pub stdout: Vec<u8>,
    /// Standard error, at most `Limits::output` bytes.
    pub stderr: Vec<u8>,
    /// Seconds from its start to its end.
    pub seconds: f64,
}

/// One of our ends, until the other side closes it.
struct Stream {
    file: Option<File>,
    bytes: Vec<u8>,
}

impl Stream {
    fn new(pipe: OwnedFd) -> Result<Stream> {
        Ok(Stream { file: Some(nonblocking(pipe)?), bytes: Vec::new() })
    }

    fn fd(&self) -> i32 {
        self.file.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Reads what is there; `false` when it is more than `limit` in all.
    fn fill(&mut self, limit: usize) -> bool {
        let mut block = [0; 65536];
        while let Some(file) = &mut self.file {
            match file.read(&mut block) {
                Ok(0) => self.file = None,
                Ok(n) => {
                    let room = limit - self.bytes.len();
                    self.bytes.extend_from_slice(&block[..n.min(room)]);
                    if n > room {
                        return false;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => self.file = None,
            }
        }
        true
    }
}

impl Sandbox {
    /// Runs a program to its end with `input` on its standard input. What it leaves running is killed. An
    /// [`Error::Machine`] names the step that the kernel refused; whatever the program does is an [`Output`].
    pub fn run(&self, program: &Program<'_>, input: &[u8]) -> Result<Output> {
        let (their_input, our_input) = pipe()?;
        let (our_output, their_output) = pipe()?;
        let (our_error, their_error) = pipe()?;
        let mut running = self.start(program, Some([&their_input, &their_output, &their_error]), false)?;
        drop((their_input, their_output, their_error));
        let (mut stdout, mut stderr) = (Stream::new(our_output)?, Stream::new(our_error)?);
        let (mut stdin, mut rest) = (Some(nonblocking(our_input)?), input);
        let limit = program.limits.output;
        let (mut timed_out, mut flooded) = (false, false);
        let ended = loop {
            if running.look().is_some() {
                break Ended::Killed;
            }
            let left = running.left();
            if left.is_zero() {
                timed_out = true;
                break running.kill();
            }
            if rest.is_empty() {
                stdin = None;
            }
            let entry = |fd, events| libc::pollfd { fd, events, revents: 0 };
            let mut poll = [
                entry(running.handle.as_raw_fd(), libc::POLLIN),
                entry(stdout.fd(), libc::POLLIN),
                entry(stderr.fd(), libc::POLLIN),
                entry(stdin.as_ref().map_or(-1, AsRawFd::as_raw_fd), libc::POLLOUT),
            ];
            let slice = left.min(running.watch.slice()).as_millis() as i32 + 1;
            // SAFETY: `poll` is alive during the call, and its length is passed.
            unsafe { libc::poll(poll.as_mut_ptr(), poll.len() as libc::nfds_t, slice) };
            if poll[3].revents != 0 {
                match stdin.as_mut().map(|file| file.write(rest)) {
                    Some(Ok(n)) => rest = &rest[n..],
                    Some(Err(e)) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    // It does not read what it gets.
                    _ => rest = &[],
                }
            }
            let fits = stdout.fill(limit) & stderr.fill(limit);
            if !fits {
                flooded = true;
                break running.kill();
            }
            if poll[0].revents != 0 {
                let ended = running.reap(false);
                flooded = !(stdout.fill(limit) & stderr.fill(limit));
                break ended;
            }
        };
        timed_out |= matches!(ended, Ended::Signal(libc::SIGKILL | libc::SIGXCPU));
        Ok(output(&running, ended, timed_out, flooded, stdout, stderr))
    }
}

fn output(running: &Running, ended: Ended, timed_out: bool, flooded: bool, stdout: Stream, stderr: Stream) -> Output {
    Output {
        ended,
        timed_out,
        over_memory: running.excess == Some(Excess::Memory),
        flooded: flooded || running.excess == Some(Excess::Disk),
        over_processes: running.excess == Some(Excess::Processes),
        stdout: stdout.bytes,
        stderr: stderr.bytes,
        seconds: running.start.elapsed().as_secs_f64(),
    }
}

fn nonblocking(pipe: OwnedFd) -> Result<File> {
    // SAFETY: the calls concern the flags of a descriptor that we own.
    let done = unsafe {
        let flags = libc::fcntl(pipe.as_raw_fd(), libc::F_GETFL);
        libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK)
    };
    if done < 0 {
        return Err(Error::Machine(format!("a pipe could not be made non-blocking: {}", std::io::Error::last_os_error())));
    }
    Ok(File::from(pipe))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::sandbox::tests::without_namespaces;
    use crate::sandbox::{Folder, Limits, Memory, Mode, Processes};

    fn limits(seconds: u64) -> Limits {
        let memory = Memory::Resident(2 << 30);
        Limits { memory, disk: 256 << 20, output: 1 << 16, ..Limits::of(Duration::from_secs(seconds)) }
    }

    /// A folder of the host's, removed afterwards.
    struct Kept(PathBuf);

    impl Kept {
        fn new(name: &str) -> Kept {
            let folder = std::env::temp_dir().join(format!("kept-{name}-{}", std::process::id()));
            std::fs::create_dir(&folder).unwrap();
            Kept(folder)
        }
    }

    impl Drop for Kept {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn sandboxes() -> [Sandbox; 2] {
        [Sandbox::new(Mode::Strict).unwrap(), without_namespaces()]
    }

    fn bash(sandbox: &Sandbox, folder: Folder<'_>, script: &str, environment: &[(&str, &str)], reads: &[PathBuf]) -> Output {
        let args = ["-c", script];
        let program = Program {
            folder,
            environment,
            reads,
            processes: Processes::Tree(64),
            ..Program::new(Path::new("/bin/bash"), &args, limits(60))
        };
        sandbox.run(&program, b"").unwrap()
    }

    #[test]
    fn input_and_output_go_through_whole_and_at_once() {
        let sandbox = Sandbox::new(Mode::Strict).unwrap();
        let program =
            Program { limits: Limits { output: 8 << 20, ..limits(20) }, ..Program::new(Path::new("/bin/cat"), &[], limits(20)) };
        let input: Vec<u8> = (0..4 << 20).map(|i: u32| (i % 251) as u8).collect();
        let output = sandbox.run(&program, &input).unwrap();
        assert_eq!((output.ended, output.stdout == input, output.stderr.len()), (Ended::Exit(0), true, 0));
        assert!(!output.timed_out && !output.flooded && !output.over_memory);
        // One that never reads, and one that writes without end.
        let output = sandbox.run(&Program::new(Path::new("/bin/true"), &[], limits(20)), &input).unwrap();
        assert_eq!(output.ended, Ended::Exit(0));
        let output = sandbox.run(&Program::new(Path::new("/usr/bin/yes"), &[], limits(20)), b"").unwrap();
        assert_eq!((output.ended, output.flooded, output.stdout.len()), (Ended::Killed, true, 1 << 16));
        let output =
            sandbox.run(&Program::new(Path::new("/bin/sleep"), &["9"], Limits::of(Duration::from_millis(300))), b"").unwrap();
        assert_eq!((output.ended, output.timed_out), (Ended::Killed, true));
    }

    #[test]
    fn tools_run() {
        let rust = Command::new("rustc").args(["--print", "sysroot"]).output().ok();
        let rust = rust.and_then(|o| String::from_utf8(o.stdout).ok()).map(|s| s.trim().to_owned()).unwrap_or_default();
        let reads = [PathBuf::from(&rust)];
        let path = format!("{rust}/bin:/usr/local/bin:/usr/bin:/bin");
        let tools = [
            ("bash", "x=$(echo a | tr a b); [ $x = b ] && (echo $x) > out && mkdir d && mv out d/ && cat d/out"),
            ("make", "printf 'b: a\\n\\tcp a b && cat b\\n' > Makefile; echo b > a; make -s -j2 b"),
            ("g++", "printf '#include <iostream>\\nint main() { std::cout << \"b\\\\n\"; }' > a.cc; g++ -O0 -o a a.cc && ./a"),
            (
                "javac",
                "printf 'class A { public static void main(String[] a) { System.out.println(\"b\"); } }' > A.java; javac A.java && java -cp . A",
            ),
            ("node", "node -e 'console.log(require(\"child_process\").execSync(\"echo b\").toString().trim())'"),
            (
                "git",
                "git init -q . && echo b > a && git add a && git -c user.name=a -c user.email=a commit -qm a && git show HEAD:a",
            ),
            ("rustc", "printf 'fn main() { println!(\"b\"); }' > a.rs; rustc -C linker=/usr/bin/gcc a.rs && ./a"),
            (
                "python3",
                "/usr/bin/python3 -c 'import subprocess; print(subprocess.run([\"echo\", \"b\"], capture_output=True, text=True).stdout.strip())'",
            ),
        ];
        for sandbox in sandboxes() {
            for (tool, script) in tools {
                let kept = Kept::new(tool);
                if bash(&sandbox, Folder::Fresh, &format!("command -v {tool}"), &[("PATH", &path)], &reads).ended
                    != Ended::Exit(0)
                {
                    println!("skipped: {tool} is not on this machine");
                    continue;
                }
                for folder in [Folder::Fresh, Folder::Kept(&kept.0)] {
                    let output = bash(&sandbox, folder, script, &[("HOME", "."), ("PATH", &path)], &reads);
                    // Where modes cannot be changed, only the host makes a program of what was linked.
                    let linked = script.ends_with("./a") && !sandbox.read_only;
                    let want = if linked { (Ended::Exit(126), "") } else { (Ended::Exit(0), "b\n") };
                    let said = String::from_utf8_lossy(&output.stdout);
                    assert_eq!((output.ended, said.as_ref()), want, "{tool} in {folder:?}: {output:?}");
                }
                if script.ends_with("./a") {
                    let executable = kept.0.join("a");
                    let program = Program { folder: Folder::Kept(&kept.0), ..Program::new(&executable, &[], limits(20)) };
                    assert_eq!(sandbox.run(&program, b"").unwrap().stdout, b"b\n", "{tool}");
                }
            }
        }
    }
}
