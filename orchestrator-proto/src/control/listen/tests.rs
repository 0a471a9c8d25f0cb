//! Sockets as texts, and what is wrong with them.

use super::*;
use proptest::prelude::*;

fn listen(text: &str) -> Listen {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn texts() {
    for text in [
        "tcp:127.0.0.1:8080",
        "http=tcp:[::1]:80",
        "udp:0.0.0.0:53",
        "unix:/run/a",
        "unix:/run/a=b:c",
        "a.B_9-=unix-datagram:/run/a,mode=0660",
        "unix:/run/a,mode=x,mode=0600",
        "unix:relative",
    ] {
        assert_eq!(listen(text).to_string(), text);
    }
    assert_eq!(listen("unix:/a,mode=600").to_string(), "unix:/a");
    assert_eq!(listen("unix:/a,b").path(), Some("/a,b"));
    assert_eq!(listen("n=unix:/a").name(), "n");
    assert_eq!(listen("unix:/a").name(), Listen::UNNAMED);
}

#[test]
fn what_is_wrong_is_said() {
    for (text, said) in [
        ("", "is no socket"),
        ("8080", "is no socket"),
        ("sctp:1.2.3.4:5", "is no socket"),
        ("unix:", "is no socket"),
        ("unix:,mode=0600", "is no socket"),
        ("tcp:8080", "IP address"),
        ("tcp:localhost:80", "IP address"),
        ("tcp:127.0.0.1", "IP address"),
        ("tcp:1.2.3.4:70000", "IP address"),
        ("udp:127.0.0.1:0", "port 0"),
        ("=tcp:1.2.3.4:5", "empty"),
        ("a b=tcp:1.2.3.4:5", "characters"),
        ("unix:/a,mode=0888", "octal"),
        ("unix:/a,mode=", "octal"),
        ("unix:/a,mode=+66", "octal"),
        ("unix:/a,mode=1777", "octal"),
    ] {
        let error = text.parse::<Listen>().unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }
    let long = format!("unix:/{}", "x".repeat(Listen::MAX_PATH));
    for (text, said) in [
        ("unix:a", "not absolute"),
        ("unix:/a/", "directory"),
        ("unix:/a\0b", "zero byte"),
        (long.as_str(), "at most 107"),
    ] {
        let error = listen(text).check().unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn one_instance_has_each_socket_once_and_not_too_many() {
    let all =
        |texts: &[&str]| Listen::check_all(&texts.iter().map(|it| listen(it)).collect::<Vec<_>>());
    all(&["a=tcp:127.0.0.1:80", "a=tcp:[::1]:80", "udp:127.0.0.1:80"]).unwrap();
    let twice = all(&["a=tcp:127.0.0.1:80", "tcp:127.0.0.1:80"]).unwrap_err();
    assert_eq!(twice, "the socket tcp:127.0.0.1:80 is given twice");
    all(&["unix:/a", "unix-datagram:/a,mode=0666"]).unwrap_err();
    let many: Vec<_> = (1..=17).map(|port| format!("tcp:127.0.0.1:{port}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    all(&many[..16]).unwrap();
    assert!(all(&many).unwrap_err().contains("at most 16"));
}

#[test]
fn the_same_socket() {
    let same = |a: &str, b: &str| listen(a).is_same_socket(&listen(b));
    assert!(same("a=unix:/x", "b=unix:/x,mode=0666"));
    assert!(same("a=tcp:1.2.3.4:5", "tcp:1.2.3.4:5"));
    assert!(!same("unix:/x", "unix-datagram:/x"));
    assert!(!same("tcp:1.2.3.4:5", "udp:1.2.3.4:5"));
}

fn any_listen() -> impl Strategy<Value = Listen> {
    let address = (any::<std::net::IpAddr>(), 1..=u16::MAX)
        .prop_map(|(ip, port)| ListenAddress(SocketAddr::new(ip, port)));
    let mode = (0..=0o777_u16).prop_map(ListenMode);
    let path = "/[a-z=:,]{1,8}(,mode=[0-9x]{0,4})?";
    let socket = prop_oneof![
        address.clone().prop_map(ListenSocket::Tcp),
        address.prop_map(ListenSocket::Udp),
        (path, mode.clone()).prop_map(|(path, mode)| ListenSocket::Unix { path, mode }),
        (path, mode).prop_map(|(path, mode)| ListenSocket::UnixDatagram { path, mode }),
    ];
    (prop::option::of("[a-zA-Z0-9._-]{1,12}"), socket)
        .prop_map(|(name, socket)| Listen { name, socket })
}

proptest! {
    #[test]
    fn each_is_what_its_text_says(listen in any_listen()) {
        prop_assert_eq!(listen.to_string().parse::<Listen>().unwrap(), listen.clone());
        let json = serde_json::to_string(&listen).unwrap();
        prop_assert_eq!(serde_json::from_str::<Listen>(&json).unwrap(), listen.clone());
        let bytes = postcard::to_allocvec(&listen).unwrap();
        prop_assert_eq!(postcard::from_bytes::<Listen>(&bytes).unwrap(), listen);
    }

    #[test]
    fn no_text_panics(text in any::<String>(), like in "([a-z]=)?(tcp|unix):[0-9a-z:.,=/]{0,20}") {
        let _ = text.parse::<Listen>();
        let _ = like.parse::<Listen>();
    }
}
