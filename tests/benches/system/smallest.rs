//! The smallest programs: one waits for a signal, one says first that it runs, one ends at once.
//! Starting them costs hardly more than the kernel's part, and a thousand of them fit any machine.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Machine code, and its `e_machine`, see elf(5). What it needs besides comes right behind it.
type Code = (u16, &'static [u8]);

/// `loop { pause() }`; none where nobody has written it yet.
fn pausing() -> Option<Code> {
    match std::env::consts::ARCH {
        // mov eax, SYS_pause; syscall; jmp to the beginning. EM_X86_64 is 62.
        "x86_64" => Some((62, &[0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7])),
        // mov x0..x4, 0; mov x8, SYS_ppoll; svc 0; b to the beginning. EM_AARCH64 is 183.
        "aarch64" => Some((
            183,
            &[
                0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x80, 0xd2, 0x02, 0x00, 0x80, 0xd2, 0x03, 0x00,
                0x80, 0xd2, 0x04, 0x00, 0x80, 0xd2, 0x28, 0x09, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4,
                0xf9, 0xff, 0xff, 0x17,
            ],
        )),
        _ => None,
    }
}

/// `fd = open(path, O_WRONLY); write(fd, &getpid(), 4); close(fd); loop { pause() }`; the path
/// comes behind it. None where nobody has written it yet.
fn announcing() -> Option<Code> {
    match std::env::consts::ARCH {
        // mov eax, SYS_open; lea rdi, [rip+path]; mov esi, O_WRONLY; xor edx, edx; syscall;
        // mov ebx, eax; mov eax, SYS_getpid; syscall; push rax; mov eax, SYS_write; mov edi, ebx;
        // mov rsi, rsp; mov edx, 4; syscall; mov eax, SYS_close; mov edi, ebx; syscall; and as
        // the one that waits.
        "x86_64" => Some((
            62,
            &[
                0xb8, 0x02, 0x00, 0x00, 0x00, 0x48, 0x8d, 0x3d, 0x36, 0x00, 0x00, 0x00, 0xbe, 0x01,
                0x00, 0x00, 0x00, 0x31, 0xd2, 0x0f, 0x05, 0x89, 0xc3, 0xb8, 0x27, 0x00, 0x00, 0x00,
                0x0f, 0x05, 0x50, 0xb8, 0x01, 0x00, 0x00, 0x00, 0x89, 0xdf, 0x48, 0x89, 0xe6, 0xba,
                0x04, 0x00, 0x00, 0x00, 0x0f, 0x05, 0xb8, 0x03, 0x00, 0x00, 0x00, 0x89, 0xdf, 0x0f,
                0x05, 0xb8, 0x22, 0x00, 0x00, 0x00, 0x0f, 0x05, 0xeb, 0xf7,
            ],
        )),
        // x8 is SYS_openat, with AT_FDCWD, the path and O_WRONLY; SYS_getpid; SYS_write, from the
        // stack; SYS_close; and as the one that waits.
        "aarch64" => Some((
            183,
            &[
                0x60, 0x0c, 0x80, 0x92, 0x21, 0x03, 0x00, 0x10, 0x22, 0x00, 0x80, 0xd2, 0x03, 0x00,
                0x80, 0xd2, 0x08, 0x07, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4, 0xf3, 0x03, 0x00, 0xaa,
                0x88, 0x15, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4, 0xe0, 0x0f, 0x1f, 0xf8, 0xe0, 0x03,
                0x13, 0xaa, 0xe1, 0x03, 0x00, 0x91, 0x82, 0x00, 0x80, 0xd2, 0x08, 0x08, 0x80, 0xd2,
                0x01, 0x00, 0x00, 0xd4, 0xe0, 0x03, 0x13, 0xaa, 0x28, 0x07, 0x80, 0xd2, 0x01, 0x00,
                0x00, 0xd4, 0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x80, 0xd2, 0x02, 0x00, 0x80, 0xd2,
                0x03, 0x00, 0x80, 0xd2, 0x04, 0x00, 0x80, 0xd2, 0x28, 0x09, 0x80, 0xd2, 0x01, 0x00,
                0x00, 0xd4, 0xf9, 0xff, 0xff, 0x17,
            ],
        )),
        _ => None,
    }
}

/// `exit(0)`; none where nobody has written it yet.
fn ending() -> Option<Code> {
    match std::env::consts::ARCH {
        // mov eax, SYS_exit; xor edi, edi; syscall.
        "x86_64" => Some((62, &[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05])),
        // mov x0, 0; mov x8, SYS_exit; svc 0.
        "aarch64" => {
            Some((183, &[0x00, 0x00, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4]))
        }
        _ => None,
    }
}

/// Puts the one that waits into `dir`; the answer is its path and its arguments.
pub(crate) fn pause(dir: &Path) -> (PathBuf, Vec<&'static str>) {
    match pausing() {
        Some(code) => (write(dir.join("pause"), code, &[]), Vec::new()),
        None => (PathBuf::from("/bin/sleep"), vec!["1000000"]),
    }
}

/// Puts the one that ends, with exit code 0, into `dir`; the answer is its path.
pub(crate) fn end(dir: &Path) -> PathBuf {
    ending().map_or_else(|| PathBuf::from("/bin/true"), |code| write(dir.join("end"), code, &[]))
}

/// Puts the one into `dir` that writes its number, four bytes as they are in memory, to the FIFO at
/// `fifo`, and then waits; the answer is its path. None where nobody has written it yet.
pub(crate) fn announce(dir: &Path, fifo: &Path) -> Option<PathBuf> {
    let path = [fifo.as_os_str().as_bytes(), &[0]].concat();
    Some(write(dir.join("announce"), announcing()?, &path))
}

fn write(path: PathBuf, (machine, code): Code, behind: &[u8]) -> PathBuf {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u16 = 64 + 56;
    let entry = BASE + u64::from(HEADERS);
    let size = u64::from(HEADERS) + (code.len() + behind.len()) as u64;
    let mut file = Vec::new();
    // See elf(5): the header of an ELF64 file, little-endian, ET_EXEC.
    file.extend(b"\x7fELF\x02\x01\x01");
    file.extend([0; 9]);
    file.extend(2_u16.to_le_bytes());
    file.extend(machine.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for field in [entry, 64, 0] {
        file.extend(field.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for field in [64_u16, 56, 1, 64, 0, 0] {
        file.extend(field.to_le_bytes());
    }
    // One program header: PT_LOAD, readable and executable, the whole file.
    file.extend(1_u32.to_le_bytes());
    file.extend(5_u32.to_le_bytes());
    for field in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(field.to_le_bytes());
    }
    file.extend(code);
    file.extend(behind);
    fs::write(&path, file).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
