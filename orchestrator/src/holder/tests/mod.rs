//! Frames, images, and the holder itself as a process of its own.

mod fetching;
mod records;
mod renewal;

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::attributes::Attributes;
use super::frame::{Name, News, Order, SIZE, Stage, Version};
use super::*;

/// What a test process is executed with, to be a holder.
const ARGS: [&str; 4] = ["--exact", "holder::tests::act_as_holder", "--test-threads=1", "--quiet"];

/// Set for a test process that is to be a holder.
const ENV_TEST: &str = "ORCHESTRATOR_TEST_HOLDER";

/// Starts a holder that ends when the answer is closed, and everything below it too.
pub(crate) fn start_holder() -> OwnedFd {
    let (ours, its) = socket::pair().expect("a socket pair");
    let mut holder = Command::new("/proc/self/exe")
        .args(ARGS)
        .env(ENV_TEST, "1")
        .stdin(Stdio::from(its))
        .stdout(Stdio::null())
        .spawn()
        .expect("this program");
    std::thread::spawn(move || holder.wait());
    ours
}

/// Not a test, but the holder for tests, in a process of its own.
#[test]
fn act_as_holder() {
    if env::var_os(ENV_TEST).is_none() {
        return;
    }
    if !SigSet::thread_get_mask().unwrap().contains(Signal::SIGCHLD) {
        // The other threads of a test program would take the signals. The mask is inherited.
        SigSet::all().thread_set_mask().unwrap();
        let args: Vec<_> = env::args().map(|arg| CString::new(arg).unwrap()).collect();
        let failed = nix::unistd::execv(c"/proc/self/exe", &args);
        panic!("{failed:?}");
    }
    let signals: SigSet = [Signal::SIGCHLD].into_iter().collect();
    let mut holder = match env::var(ENV_ROLE).as_deref() {
        Ok(HOLDER) => {
            renewal::before_it_goes_on();
            resume(&signals, false).unwrap()
        }
        Ok(AGAIN) => resume(&signals, true).unwrap(),
        _ => {
            let socket = io::stdin().as_fd().try_clone_to_owned().unwrap();
            prepare().unwrap();
            pass_on_no_files().unwrap();
            let files = more_files().unwrap();
            let mut holder = Holder::new(&signals, false, vec![1; 100], files).unwrap();
            holder.take(daemon::Daemon::new(0, socket));
            holder
        }
    };
    holder.serve_stranger();
    drop(holder);
    below::end_all_below().unwrap();
}

fn orders() -> impl Strategy<Value = Order> {
    let name = || (any::<[u8; 16]>(), any::<u64>()).prop_map(|(key, tag)| Name { key, tag });
    prop_oneof![
        any::<i32>().prop_map(|protocol| Order::Hello { protocol }),
        (name(), any::<i32>(), any::<[bool; 3]>(), any::<i32>()).prop_map(
            |(child, nice, [image, stdin, cgroup], listeners)| Order::Spawn {
                cgroup,
                child,
                nice,
                image,
                stdin,
                listeners
            }
        ),
        name().prop_map(|child| Order::Release { child }),
        (name(), any::<i32>()).prop_map(|(child, signal)| Order::Signal { child, signal }),
        (name(), any::<bool>()).prop_map(|(file, confirm)| Order::Keep { file, confirm }),
        name().prop_map(|child| Order::Output { child }),
        name().prop_map(|file| Order::Fetch { file }),
        name().prop_map(|file| Order::Forget { file }),
        (any::<bool>(), any::<bool>())
            .prop_map(|(image, program)| Order::Replace { image, program }),
        (any::<bool>(), any::<i32>()).prop_map(|(image, reads)| Order::Renew { image, reads }),
        Just(Order::Abandon),
        Just(Order::Notify),
        Just(Order::Able),
        Just(Order::Yield),
        Just(Order::Ready),
        Just(Order::End),
    ]
}

fn news() -> impl Strategy<Value = News> {
    let name = || (any::<[u8; 16]>(), any::<u64>()).prop_map(|(key, tag)| Name { key, tag });
    let how = || {
        prop_oneof![
            any::<i32>().prop_map(How::Code),
            any::<i32>().prop_map(How::Signal),
            any::<i32>().prop_map(How::Dumped),
        ]
    };
    let stage = (0..22_u8).prop_map(|number| Stage::from_number(number).unwrap());
    prop_oneof![
        (any::<i32>(), any::<bool>()).prop_map(|(protocol, successor)| News::Welcome {
            protocol,
            successor,
            version: Version::OWN
        }),
        any::<i32>().prop_map(|errno| News::NotRenewed { errno }),
        Just(News::Renewed { version: Version::default() }),
        (name(), any::<i32>(), any::<i32>()).prop_map(|(child, pid, warning)| News::Spawned {
            child,
            pid,
            warning
        }),
        (name(), stage, any::<i32>()).prop_map(|(child, stage, errno)| News::NotSpawned {
            child,
            stage,
            errno
        }),
        (name(), any::<i32>(), how(), any::<u64>())
            .prop_map(|(child, pid, how, time_ns)| News::Exited { child, pid, how, time_ns }),
        (name(), any::<i32>()).prop_map(|(child, errno)| News::Signalled { child, errno }),
        name().prop_map(|file| News::Kept { file }),
        name().prop_map(|file| News::NotKept { file }),
        (name(), any::<bool>()).prop_map(|(child, is_there)| News::Output { child, is_there }),
        (name(), any::<bool>()).prop_map(|(file, is_there)| News::Fetched { file, is_there }),
        (any::<bool>(), any::<i32>(), any::<i32>())
            .prop_map(|(able, errno, pid)| News::Successor { able, errno, pid }),
        (any::<i32>(), how()).prop_map(|(pid, how)| News::SuccessorEnded { pid, how }),
        Just(News::Complete),
    ]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let limits = prop::collection::vec((0_u32..16, any::<u64>(), any::<u64>()), 0..3);
    let ids = (prop::option::of(any::<u32>()), prop::option::of(any::<u32>()));
    let groups = prop::option::of(prop::collection::vec(any::<u32>(), 0..5));
    let cpus = prop::collection::vec(0_u32..8192, 0..3);
    let rights = (prop::option::of(any::<u64>()), any::<u64>(), any::<bool>());
    let stdin = prop::option::of("/[a-z]{0,9}");
    (limits, ids, groups, cpus, rights, stdin).prop_map(
        |(limits, (uid, gid), groups, cpus, (bounding, ambient, no_new_privs), stdin)| Attributes {
            limits,
            nice: uid.map(u32::cast_signed),
            cpus,
            io_priority: gid,
            realtime: gid.zip(uid),
            umask: uid,
            groups,
            gid,
            uid,
            bounding,
            ambient,
            no_new_privs,
            stdin: stdin.map(Into::into),
        },
    )
}

proptest! {
    #[test]
    fn steps_that_are_none_are_refused(at in 0_usize..40, word in any::<u64>(), it in attributes()) {
        let program = image::Program {
            path: OsStr::new("/x"), cwd: OsStr::new("/"), args: &[], env: &[], attributes: Some(&it),
        };
        let mut memory = image::Words::new();
        image::copy(&program.image().unwrap(), &mut memory).unwrap();
        let words = memory.image();
        // It need not be refused, but whatever is there panics nobody.
        if let Some(place) = words.get_mut(at) {
            *place = word;
        }
        let _ = image::locate(words);
    }

    #[test]
    fn what_is_said_is_heard(order in orders(), news in news()) {
        prop_assert_eq!(Order::decode(&order.encode()), Some(order));
        prop_assert_eq!(News::decode(&news.encode()), Some(news));
        prop_assert_eq!(Order::decode(&order.encode()[..SIZE - 1]), None);
    }

    #[test]
    fn noise_is_no_reason_to_panic(noise in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = (Order::decode(&noise), News::decode(&noise));
    }

    /// Whatever is in it: every address that comes out is that of a string inside.
    #[test]
    fn an_image_that_is_none_is_refused(
        mut words in prop::collection::vec(prop_oneof![0..12_u64, 0..200_u64, any::<u64>()], 0..24),
    ) {
        let range = words.as_ptr_range();
        let inside = |address: u64| (range.start as u64..range.end as u64).contains(&address);
        if let Some(located) = image::locate(&mut words) {
            prop_assert!(inside(located.path as u64) && inside(located.cwd as u64));
            prop_assert!(inside(located.args as u64) && inside(located.env as u64));
            let table = usize::try_from(words[0]).unwrap();
            prop_assert!(words[1..table].iter().all(|&word| word == 0 || inside(word)));
            prop_assert_eq!(words[table - 1], 0);
            prop_assert_eq!(words.last().unwrap().to_ne_bytes()[7], 0);
        }
    }

    #[test]
    fn no_noise_has_room_for_a_number(
        words in prop::collection::vec(prop_oneof![0..12_u64, 0..200_u64, any::<u64>()], 0..24),
    ) {
        prop_assert_eq!(image::place_for_pid(&words), None);
    }

    #[test]
    fn an_image_has_room_for_a_number_where_that_is_wanted(
        before in prop::collection::vec("[A-Z]{1,9}=[a-z]{0,9}", 0..4),
        after in prop::collection::vec("[A-Z]{1,9}=[a-z]{0,9}", 0..4),
        arg in "(LISTEN_PID=0000000000)?", nice in prop::option::of(-20..=19),
    ) {
        let attributes = nice.map(|nice| Attributes { nice: Some(nice), ..Attributes::default() });
        let room = "LISTEN_PID=0000000000".to_owned();
        let env: Vec<_> = before.iter().chain([&room]).chain(&after).cloned().collect();
        let os = [OsStr::new(&arg)];
        let image = |env: &[String]| {
            let vars: Vec<Vec<u8>> = env.iter().map(|v| v.clone().into_bytes()).collect();
            let program = image::Program {
                path: OsStr::new("/bin/sh"),
                cwd: OsStr::new("/"),
                args: &os,
                env: &vars,
                attributes: attributes.as_ref(),
            };
            let mut memory = image::Words::new();
            image::copy(&program.image().unwrap(), &mut memory).unwrap();
            memory
        };
        let mut memory = image(&env);
        let bytes: Vec<u8> = memory.image().iter().flat_map(|word| word.to_ne_bytes()).collect();
        let at = image::place_for_pid(memory.image()).unwrap();
        prop_assert_eq!(&bytes[at - 11..=at + 10], b"LISTEN_PID=0000000000\0");
        // Not that of an argument.
        let args = if arg.is_empty() { 0 } else { 1 };
        let earlier = bytes[..at].windows(11).filter(|it| it == b"LISTEN_PID=").count();
        prop_assert_eq!(earlier, 1 + args);
        prop_assert_eq!(image::place_for_pid(image(&before).image()), None);
        prop_assert_eq!(image::place_for_pid(image(&["LISTEN_PID=1".to_owned()]).image()), None);
    }

    #[test]
    fn an_image_has_what_was_put_in(
        args in prop::collection::vec("[a-z ]{0,20}", 0..6),
        env in prop::collection::vec("[A-Z]{1,9}=[a-z]{0,9}", 0..6),
        attributes in attributes(),
    ) {
        let os: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        let vars: Vec<Vec<u8>> = env.iter().map(|v| v.clone().into_bytes()).collect();
        let program = image::Program {
            path: OsStr::new("/bin/sh"), cwd: OsStr::new("/"), args: &os, env: &vars,
            attributes: Some(&attributes),
        };
        let mut memory = image::Words::new();
        image::copy(&program.image().unwrap(), &mut memory).unwrap();
        let words = memory.image();
        let base = words.as_ptr() as u64;
        image::locate(words).unwrap();
        // As the kernel reads it, but by offsets.
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let text = |address: u64| {
            let at = usize::try_from(address - base).unwrap();
            CStr::from_bytes_until_nul(&bytes[at..]).unwrap().to_str().unwrap().to_owned()
        };
        prop_assert_eq!((text(words[1]), text(words[2])), ("/bin/sh".into(), "/".into()));
        let end = usize::try_from(words[0] & !(1 << 63)).unwrap();
        prop_assert_eq!(words[0] >> 63 == 1, attributes != Attributes::default());
        if let Some(path) = &attributes.stdin {
            let end_of_steps = end + 1 + usize::try_from(words[end]).unwrap();
            prop_assert_eq!(text(words[end_of_steps - 1]), path.to_str().unwrap());
        }
        let table = &words[3..end];
        let mut lists = table.split(|&word| word == 0);
        let mut next = || lists.next().unwrap().iter().map(|&word| text(word)).collect::<Vec<_>>();
        prop_assert_eq!(next(), args);
        prop_assert_eq!(next(), env);
    }
}

#[test]
fn a_holder_from_before_takes_an_image_with_steps_for_none() {
    let attributes = Attributes { no_new_privs: true, ..Attributes::default() };
    let program = |attributes| image::Program {
        path: OsStr::new("/x"),
        cwd: OsStr::new("/"),
        args: &[],
        env: &[],
        attributes,
    };
    let image = program(Some(&attributes)).image().unwrap();
    // It looks for so many words, and refuses an image that is shorter.
    let words = u64::from_ne_bytes(*image.first_chunk().unwrap());
    assert!(words > image.len() as u64 / 8);
    // Without steps it is what it was.
    let nothing = Attributes::default();
    let plain = program(Some(&nothing)).image().unwrap();
    assert_eq!(plain, program(None).image().unwrap());
    assert_eq!(plain[..8], 5_u64.to_ne_bytes());
}

#[test]
fn a_version_is_text_or_not_known() {
    assert_eq!(Version::OWN.text(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(Version::default().text(), None);
}

#[test]
fn an_image_that_is_longer_than_a_datagram_is_whole() {
    let long = "x".repeat(3 * frame::MAX_DATAGRAM);
    for text in ["short", &long, "short again"] {
        let args = [OsStr::new("a"), OsStr::new(text)];
        let program = image::Program {
            path: OsStr::new("/x"),
            cwd: OsStr::new("/"),
            args: &args,
            env: &[],
            attributes: None,
        };
        let image = program.image().unwrap();
        let mut memory = image::Words::new();
        // In pieces, as it is read from a file.
        image.chunks(4096).for_each(|piece| image::copy(piece, &mut memory).unwrap());
        let copied: Vec<u8> = memory.image().iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(copied, image);
        memory.clear();
        assert!(memory.image().is_empty());
    }
}

#[test]
fn an_image_can_name_another_program() {
    let args = [OsStr::new("a")];
    let program = image::Program {
        path: OsStr::new("/x"),
        cwd: OsStr::new("/"),
        args: &args,
        env: &[],
        attributes: None,
    };
    for path in [c"/proc/self/fd/7", c"/proc/self/fd/71", c"/", c"/1234567"] {
        let mut memory = image::Words::new();
        image::copy(&program.image().unwrap(), &mut memory).unwrap();
        assert!(image::name_program(&mut memory, path).unwrap());
        let words = memory.image();
        let base = words.as_ptr() as u64;
        image::locate(words).unwrap();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let at = usize::try_from(words[1] - base).unwrap();
        assert_eq!(CStr::from_bytes_until_nul(&bytes[at..]), Ok(path));
    }
    assert!(!image::name_program(&mut image::Words::new(), c"/x").unwrap());
}

#[test]
fn a_string_with_a_zero_byte_is_refused() {
    let program = image::Program {
        path: OsStr::new("/bin/sh"),
        cwd: OsStr::new("/"),
        args: &[OsStr::new("a\0b")],
        env: &[],
        attributes: None,
    };
    assert_eq!(program.image(), Err(image::ZeroByte));
}
