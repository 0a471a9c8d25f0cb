//! Several logs read at once.

use super::*;

async fn merged(readers: Vec<LogReader>) -> Vec<(usize, ReadItem)> {
    let mut merged = MergedLogs::new(readers);
    let mut all = Vec::new();
    while let Some(items) = within(merged.next()).await.unwrap() {
        assert!(!items.is_empty());
        all.extend(items);
    }
    all
}

fn time((_, item): &(usize, ReadItem)) -> u64 {
    match item {
        ReadItem::Line(line) => line.time_ns,
        ReadItem::Missed { reason, .. } => panic!("{reason}"),
    }
}

#[tokio::test]
async fn lines_of_several_logs_come_in_the_order_of_time() {
    let bench = Bench::default();
    let logs = ["a", "b", "c"].map(|name| bench.open(name));
    for round in 0..300 {
        for (number, log) in logs.iter().enumerate() {
            let lines = (0..round % (number + 2)).map(|line| format!("{round} {line}\n"));
            log.append(LogStream::Telemetry, lines.collect::<String>().trim_end().as_bytes());
        }
    }
    for frugal in [false, true] {
        let reader = |log| {
            let reader = LogReader::open(log, ReadQuery::default());
            if frugal { reader.frugal() } else { reader }
        };
        let all = merged(logs.iter().map(reader).collect()).await;
        assert!(all.windows(2).all(|two| time(&two[0]) <= time(&two[1])));
        for (number, log) in logs.iter().enumerate() {
            let own = all.iter().filter(|(from, _)| *from == number);
            let own: Vec<_> = own.map(|(_, item)| item.clone()).collect();
            assert_eq!(own, read_all(log).await);
        }
    }
    assert!(merged(Vec::new()).await.is_empty());
}

#[tokio::test]
async fn who_follows_several_gets_what_is_kept_in_order_and_then_what_comes() {
    let bench = Bench::default();
    let logs = ["a", "b"].map(|name| bench.open(name));
    for round in 0..50 {
        logs[round % 2].append(LogStream::Orchestrator, format!("{round}").as_bytes());
    }
    let query = ReadQuery { follow: true, ..ReadQuery::default() };
    let mut merged =
        MergedLogs::new(logs.each_ref().map(|log| LogReader::open(log, query.clone())));
    let mut all = Vec::new();
    while all.len() < 50 {
        all.extend(within(merged.next()).await.unwrap().unwrap());
    }
    let expected: Vec<_> = (0..50).map(|round| round.to_string()).collect();
    let text = |items: &[(usize, ReadItem)]| {
        texts(&items.iter().map(|(_, item)| item.clone()).collect::<Vec<_>>())
    };
    assert_eq!(text(&all), expected);
    // One at a time, while the other is silent.
    for round in 0..20 {
        let from = usize::from(round % 3 == 0);
        logs[from].append(LogStream::Orchestrator, b"new");
        let items = within(merged.next()).await.unwrap().unwrap();
        assert_eq!((items[0].0, text(&items)), (from, vec!["new".to_owned()]));
    }
    within(logs[0].close()).await;
    logs[1].append(LogStream::Orchestrator, b"last");
    let items = within(merged.next()).await.unwrap().unwrap();
    assert_eq!((items[0].0, text(&items)), (1, vec!["last".to_owned()]));
    within(logs[1].close()).await;
    assert_eq!(within(merged.next()).await.unwrap(), None);
}

#[tokio::test]
async fn time_ends_what_is_read() {
    let bench = Bench::default();
    let log = bench.open("a");
    for text in ["one", "two", "three"] {
        log.append(LogStream::Orchestrator, text.as_bytes());
    }
    let all = read_all(&log).await;
    let ReadItem::Line(second) = &all[1] else { panic!() };
    let query = ReadQuery { until_ns: Some(second.time_ns), ..ReadQuery::default() };
    assert_eq!(read(&log, query.clone()).await, all[..2]);
    assert_eq!(read(&log, ReadQuery { tail: Some(1), ..query }).await, all[1..2]);
}
