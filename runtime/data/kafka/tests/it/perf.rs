//! temp
use crate::broker::*;
use highwater_connectors::contract::*;
use highwater_connectors::*;
use highwater_kafka::*;
fn cpu() -> f64 {
    let t = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = t.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
#[test]
fn zz_perf() {
    let cluster = Cluster::shared();
    cluster.topic("perf", 8);
    let payload = vec![b'x'; 134];
    let sink = KafkaSink::new(cluster.connection(), "perf", |_: &u64, out: &mut Vec<u8>| out.extend_from_slice(&[b'x'; 134]));
    let SinkWriter::Transactional(mut encoder) = sink.writer(&writer_context(0)).unwrap() else { panic!() };
    let mut target = sink.target(&writer_context(0)).unwrap().unwrap();
    let n = 4_000_000u64;
    let (t, c) = (std::time::Instant::now(), cpu());
    let mut sent = 0;
    let mut number = 0;
    let mut lat = Vec::new();
    while sent < n {
        number += 1;
        let s = std::time::Instant::now();
        target.open_session().unwrap();
        let a = s.elapsed();
        target.begin().unwrap();
        for _ in 0..400 {
            let mut chunk = highwater_types::Chunk::new();
            for i in 0..1000 { chunk.push(i, highwater_types::EventTime(5)); }
            sent += 1000;
            let mut batch = OutputBatch::default();
            encoder.encode(&mut chunk, &mut batch).unwrap();
            target.send(&batch).unwrap();
        }
        let s = std::time::Instant::now();
        target.flush().unwrap();
        let f = s.elapsed();
        let s = std::time::Instant::now();
        target.commit(Marker { number, kind: MarkerKind::Output, epoch: 1, attempt: 1 }).unwrap();
        lat.push((a, f, s.elapsed()));
    }
    println!("produce {:.2} M/s, cpu {:.2} us/rec; open/flush/commit {:?}", n as f64 / t.elapsed().as_secs_f64() / 1e6, (cpu() - c) / n as f64 * 1e6, lat);
    drop(payload);
    for _ in 0..2 {
    let source = KafkaSource::new(cluster.connection(), "perf", |p: &[u8]| Ok::<u64, DecodeFailure>(p.len() as u64)).until(EndPosition::Latest);
    let splits = source.enumerator().unwrap().discover().unwrap().splits;
    let (w, r) = std::sync::mpsc::sync_channel(1);
    let ctx = ReaderContext { wake: WakeHandle::new(move || { w.try_send(()).ok(); }), ..reader_context() };
    let (t, c) = (std::time::Instant::now(), cpu());
    let mut reader = source.reader(&ctx).unwrap();
    reader.add_splits(splits).unwrap();
    reader.no_more_splits();
    let (mut count, mut polls, mut first) = (0u64, 0u64, None);
    let mut out = SourceOutput::default();
    loop {
        match reader.poll(&mut out).unwrap() {
            ReaderPoll::Records(_) => { first.get_or_insert(t.elapsed()); polls += 1; count += out.records.len() as u64; out.records.clear(); }
            ReaderPoll::Nothing => { r.recv().unwrap(); }
            ReaderPoll::EndOfInput => break,
            ReaderPoll::SplitEnded(_) => {}
        }
    }
    println!("consume {count} {:.2} M/s, cpu {:.3} us/rec, {:.0} rec/poll first {:?}", count as f64 / t.elapsed().as_secs_f64() / 1e6, (cpu() - c) / count as f64 * 1e6, count as f64 / polls as f64, first);
    }
}
