//! A machine of its own: what it is made of, and what it says.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tests::{binary, executable};

/// How long it may take: it boots in some seconds, on a machine that has nothing else to do.
const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// How often a machine is started whose emulated processors get stuck in its kernel, as no program in
/// it should be able to bring about: seen where other work held up the emulator.
const ATTEMPTS: usize = 3;

/// What the kernel says then, before it gives up.
const STUCK: &str = "watchdog: BUG: soft lockup";

/// The package that depends on the kernel's own.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Runs this program as the first of a machine, with the daemon and its command line; the answer
/// is what it has said on its serial line.
///
/// # Errors
///
/// Why there can be no machine here.
pub(crate) fn run(init: &[u8]) -> Result<String, String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("the guest is one for x86_64".into());
    }
    for (tool, package) in [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("busybox", "busybox-static"),
        ("setpriv", "util-linux"),
        ("cpio", "cpio"),
        ("dpkg-deb", "dpkg"),
    ] {
        if find(tool).is_none() {
            return Err(format!("{tool} is missing: install the package {package}"));
        }
    }
    let kernel = kernel()?;
    let dir = tempfile::Builder::new().prefix("orc-guest").tempdir().unwrap();
    let memory_disk = memory_disk(dir.path(), init)?;
    for _ in 0..ATTEMPTS {
        let said = boot(&kernel, &memory_disk);
        if !said.contains(STUCK) {
            return Ok(said);
        }
        eprintln!("the emulated processors got stuck in the kernel; once more: {said}");
    }
    Err(format!("the emulated processors got stuck in the kernel {ATTEMPTS} times"))
}

fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(tool)).find(|path| path.is_file())
}

/// What a command prints, if it works.
fn output(command: &mut Command) -> Result<String, String> {
    let shown = format!("{command:?}");
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{shown}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{shown}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Debian's kernel for clouds, unpacked beside what was built, not installed.
fn kernel() -> Result<PathBuf, String> {
    let dir = binary("orchestrator").parent().unwrap().with_file_name("guest");
    fs::create_dir_all(&dir).unwrap();
    if let Some(kernel) = image(&dir) {
        return Ok(kernel);
    }
    let depends = output(Command::new("apt-cache").args(["depends", KERNEL]))?;
    let package =
        depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let package = package.ok_or_else(|| format!("there is no package {KERNEL} here"))?;
    let package = format!("linux-image-{package}");
    let fetch = tempfile::tempdir_in(&dir).unwrap();
    output(Command::new("apt-get").args(["download", "-q", &package]).current_dir(&fetch))?;
    let file = fs::read_dir(&fetch).unwrap().flatten().next();
    let file = file.ok_or_else(|| format!("{package} could not be downloaded"))?.path();
    let unpacked = fetch.path().join("unpacked");
    output(Command::new("dpkg-deb").arg("-x").arg(file).arg(&unpacked))?;
    let found = image(&unpacked.join("boot")).ok_or("there is no kernel in its package")?;
    // In one step: another test may be looking.
    let kernel = dir.join(found.file_name().unwrap());
    fs::rename(found, &kernel).map_err(|error| error.to_string())?;
    Ok(kernel)
}

fn image(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let is_kernel = |path: &PathBuf| path.to_string_lossy().contains("/vmlinuz-");
    entries.into_iter().find(is_kernel)
}

/// All that the machine has.
fn memory_disk(dir: &Path, init: &[u8]) -> Result<PathBuf, String> {
    let root = dir.join("root");
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    executable(&root.join("init"), init);
    fs::copy(find("busybox").unwrap(), root.join("bin/busybox")).unwrap();
    let ours = ["orchestrator", "orchestrator-cli"].map(binary);
    for from in ours.into_iter().chain(find("setpriv")) {
        let to = root.join("bin").join(from.file_name().unwrap());
        // Without what only debuggers read, where that can be taken out.
        if output(Command::new("strip").arg("-o").arg(&to).arg(&from)).is_err() {
            fs::copy(&from, &to).unwrap();
        }
        let libraries = output(Command::new("ldd").arg(&from))?;
        for library in libraries.split_ascii_whitespace().filter(|word| word.starts_with('/')) {
            let to = root.join(&library[1..]);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(library, to).unwrap();
        }
    }
    let disk = dir.join("initrd");
    let pack = "find . | cpio --quiet -o -H newc > \"$0\"";
    output(Command::new("/bin/sh").args(["-c", pack]).arg(&disk).current_dir(&root))?;
    Ok(disk)
}

/// What it says until it is switched off.
fn boot(kernel: &Path, disk: &Path) -> String {
    let mut machine = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "768"])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-append", "console=ttyS0 quiet panic=-1 softlockup_panic=1 cgroup_no_v1=all"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(disk)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut serial = machine.stdout.take().unwrap();
    let (tell, told) = mpsc::sync_channel(64);
    let reader = std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(len @ 1..) = serial.read(&mut piece) {
            if tell.send(piece[..len].to_vec()).is_err() {
                return;
            }
        }
    });
    let until = Instant::now() + DEADLINE;
    let mut said = Vec::new();
    while let Ok(piece) = told.recv_timeout(until.saturating_duration_since(Instant::now())) {
        said.extend(piece);
    }
    let _ = machine.kill();
    machine.wait().unwrap();
    drop(told);
    reader.join().unwrap();
    String::from_utf8_lossy(&said).into_owned()
}
