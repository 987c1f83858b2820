//! Signals that a kernel raises: a touched guard page, a misaligned access, a division by zero. The handler makes the coroutine return,
//! so that the launch ends with a fault instead of the process.

use crate::{
    machine::{Machine, Running},
    memory,
};
use corosensei::trap::TrapHandlerRegs;
use std::{cell::Cell, ffi::c_void, mem::MaybeUninit, process::Command, ptr, sync::OnceLock};

const SIGNALS: [i32; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

/// What the handler saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trap {
    signal: i32,
    address: usize,
    program: usize,
    /// Of an access: whether it wrote.
    wrote: bool,
    overflow: bool,
    /// In the window of the block's shared memory or its guards.
    shared: bool,
    /// It is that of a block of the cluster that has returned.
    closed: bool,
}

thread_local! {
    /// The machine whose coroutines run now.
    static RUNNING: Cell<*mut Machine> = const { Cell::new(ptr::null_mut()) };
}

/// Runs a machine so that a signal in one of its coroutines ends that coroutine.
pub(crate) fn guarded<R>(machine: *mut Machine, run: impl FnOnce() -> R) -> R {
    RUNNING.set(machine);
    let result = run();
    RUNNING.set(ptr::null_mut());
    result
}

static BEFORE: OnceLock<[libc::sigaction; SIGNALS.len()]> = OnceLock::new();

/// Installs the handlers, once a process, and a stack for them, once a thread of the operating system.
pub(crate) fn install() {
    BEFORE.get_or_init(|| {
        SIGNALS.map(|signal| {
            // SAFETY: plain calls with structures of ours.
            unsafe {
                let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
                action.sa_sigaction = handle as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigemptyset(&mut action.sa_mask);
                let mut before = MaybeUninit::zeroed().assume_init();
                libc::sigaction(signal, &action, &mut before);
                before
            }
        })
    });
    // The thread's own stack may be a coroutine's that has just overflowed.
    // SAFETY: plain calls; the stack is given up with the process, as threads of tests are few.
    unsafe {
        let mut stack: libc::stack_t = MaybeUninit::zeroed().assume_init();
        libc::sigaltstack(ptr::null(), &mut stack);
        if stack.ss_flags & libc::SS_DISABLE != 0 {
            const BYTES: usize = 64 << 10;
            let memory = Box::leak(vec![0u8; BYTES].into_boxed_slice());
            stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: BYTES };
            libc::sigaltstack(&stack, ptr::null_mut());
        }
    }
}

unsafe extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands over both; the machine is the one whose coroutine was interrupted.
    unsafe {
        let machine = RUNNING.get();
        if !machine.is_null() && end_coroutine(machine, signal, (*info).si_addr() as usize, context.cast()) {
            return;
        }
        pass_on(signal, info, context);
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
unsafe fn end_coroutine(machine: *mut Machine, signal: i32, address: usize, context: *mut libc::ucontext_t) -> bool {
    // SAFETY: as in `handle`. The coroutine's frames are given up: they are C++ without destructors, or ours and own nothing.
    unsafe {
        let registers = &mut (*context).uc_mcontext.gregs;
        let stack = registers[libc::REG_RSP as usize] as usize;
        let current = (*machine).current;
        if current.is_null() || (*current).worker.is_null() {
            return false;
        }
        let escape = (*(*current).worker).escape();
        if !escape.stack_ptr_in_bounds(stack) {
            return false;
        }
        let blocks = (*machine).blocks.iter().map(|block| &block.arena);
        (*machine).trap = Some(Trap {
            signal,
            address,
            program: registers[libc::REG_RIP as usize] as usize,
            wrote: registers[libc::REG_ERR as usize] & 2 != 0,
            overflow: address.abs_diff(stack) < 64 << 10 && escape.stack_ptr_in_bounds(address),
            shared: blocks.clone().any(|arena| arena.around(address)),
            closed: blocks.clone().any(|arena| arena.around(address) && arena.closed()),
        });
        let TrapHandlerRegs { rip, rsp, rbp, rdi, rsi } = escape.setup_trap_handler(|| ());
        registers[libc::REG_RIP as usize] = rip as i64;
        registers[libc::REG_RSP as usize] = rsp as i64;
        registers[libc::REG_RBP as usize] = rbp as i64;
        registers[libc::REG_RDI as usize] = rdi as i64;
        registers[libc::REG_RSI as usize] = rsi as i64;
        true
    }
}

/// Elsewhere the registers have other names: a fault there ends the process, as it would without this file.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
unsafe fn end_coroutine(_: *mut Machine, _: i32, _: usize, _: *mut libc::ucontext_t) -> bool {
    false
}

/// What would have happened without us.
unsafe fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    let at = SIGNALS.iter().position(|known| *known == signal);
    let Some(before) = at.and_then(|at| BEFORE.get().map(|before| &before[at])) else { return };
    // SAFETY: the handler that was installed before, or the default action when the instruction is run again.
    unsafe {
        match before.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                libc::signal(signal, libc::SIG_DFL);
            }
            handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: unsafe extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void) = std::mem::transmute(handler);
                handler(signal, info, context);
            }
            handler => {
                let handler: unsafe extern "C" fn(i32) = std::mem::transmute(handler);
                handler(signal);
            }
        }
    }
}

impl Trap {
    /// What the thread did, in words.
    pub fn describe(&self, running: &Running) -> String {
        match self.signal {
            libc::SIGILL => return "a misaligned access, or a trap of the kernel's own".to_string(),
            libc::SIGFPE => return "an integer division by zero".to_string(),
            _ if self.overflow => return "its stack of 256 KiB is full".to_string(),
            _ => {}
        }
        let did = if self.wrote { "writes" } else { "reads" };
        if self.closed {
            return format!("{did} shared memory of a block of the cluster that has returned");
        }
        if self.shared {
            return format!("{did} outside of shared memory");
        }
        match memory::around(self.address) {
            Some(region) => {
                let name = match running.names(region) {
                    names if names.is_empty() => "a buffer that is no argument".to_string(),
                    names => format!("`{}`", names.join("` or `")),
                };
                let freed = if region.freed { ", which has been freed" } else { "" };
                format!("{did} {name}{freed}, {}", region.relate(self.address))
            }
            None => format!("{did} address {:#x}, which is no device memory", self.address),
        }
    }

    /// The line of the instruction, as binutils' addr2line finds it; none where that is not installed.
    pub fn place(&self) -> Option<String> {
        // SAFETY: a plain call.
        let base = unsafe {
            let mut found: libc::Dl_info = MaybeUninit::zeroed().assume_init();
            if libc::dladdr(self.program as *const c_void, &mut found) == 0 {
                return None;
            }
            found.dli_fbase as usize
        };
        let program = std::env::current_exe().ok()?;
        let offset = format!("{:#x}", self.program - base);
        let output = Command::new("addr2line").arg("-e").arg(program).arg(offset).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let place = text.lines().next()?.split(" (").next()?.rsplit('/').next()?.to_string();
        (!place.starts_with('?')).then_some(place)
    }
}
