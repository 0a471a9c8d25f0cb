//! The smallest program: it waits for a signal. Starting it costs hardly more than the kernel's
//! part, and five hundred of them fit any machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The machine code of `loop { pause() }`; none where nobody has written it yet.
fn code() -> Option<(u16, &'static [u8])> {
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

/// Puts the program into `dir`; the answer is its path and its arguments.
pub(crate) fn program(dir: &Path) -> (PathBuf, Vec<&'static str>) {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u16 = 64 + 56;
    let Some((machine, code)) = code() else {
        return (PathBuf::from("/bin/sleep"), vec!["1000000"]);
    };
    let entry = BASE + u64::from(HEADERS);
    let size = u64::from(HEADERS) + code.len() as u64;
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
    let path = dir.join("pause");
    fs::write(&path, file).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (path, Vec::new())
}
