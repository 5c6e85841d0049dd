//! Links over the real network of this machine.

use std::sync::mpsc::{Receiver, sync_channel};

use highwater_connectors::WakeHandle;
use highwater_exchange::Element;
use highwater_exchange::remote::{ChannelIndex, RemoteReceiver, RemoteSender, inbound, outbound};
use highwater_types::{Epoch, Nonce, Watermark};

use super::*;
use crate::hello::tests::hello;

const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn silent() -> WakeHandle {
    WakeHandle::new(|| {})
}

fn news() -> (impl Fn(LinkNews) + Send + Sync + Clone, Receiver<LinkNews>) {
    let (sender, receiver) = sync_channel(16);
    (move |news| sender.send(news).unwrap(), receiver)
}

fn one_out() -> (RemoteSender<u64>, (Arc<Bell>, Vec<OutboundPort>)) {
    let bell = Arc::new(Bell::new(1));
    let (end, port) = outbound(
        ChannelIndex(0),
        Arc::<Bell>::clone(&bell),
        silent(),
        Compression::Off,
    );
    (end, (bell, vec![port]))
}

fn one_in() -> (RemoteReceiver<u64>, (Arc<Bell>, Vec<InboundPort>)) {
    let bell = Arc::new(Bell::new(1));
    let (end, port) = inbound(ChannelIndex(0), Arc::<Bell>::clone(&bell), silent());
    (end, (bell, vec![port]))
}

async fn plane() -> DataPlane {
    DataPlane::bind(HERE, LinkSettings::default(), Wire::Clear)
        .await
        .unwrap()
}

/// Waits for what a link tells, off the runtime.
async fn told(receiver: Receiver<LinkNews>) -> (LinkNews, Receiver<LinkNews>) {
    let waiting = tokio::task::spawn_blocking(move || (receiver.recv().unwrap(), receiver));
    waiting.await.unwrap()
}

async fn arrives(receiver: &mut RemoteReceiver<u64>) -> Element<u64> {
    loop {
        if let Some(element) = receiver.pop().unwrap() {
            return element;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_comes_about_whichever_side_is_first() {
    for receiver_first in [true, false] {
        let (sending, receiving) = (plane().await, plane().await);
        let address = receiving.address().to_string();
        let ((mut out, out_ports), (mut inn, in_ports)) = (one_out(), one_in());
        let (tell, heard) = news();
        let (tell_too, heard_too) = news();
        let (connect, expect) = (
            || sending.connect(address, hello(), out_ports, tell),
            || receiving.expect(hello(), in_ports, tell_too),
        );
        let _links = if receiver_first {
            let expected = expect();
            (connect(), expected)
        } else {
            let connected = connect();
            sleep(Duration::from_millis(50)).await;
            (connected, expect())
        };
        let key = LinkKey::of(&hello());
        assert_eq!(told(heard).await.0, LinkNews::Up(key));
        assert_eq!(told(heard_too).await.0, LinkNews::Up(key));
        out.send(Element::Watermark(Watermark(5))).unwrap();
        let got = arrives(&mut inn).await;
        assert!(matches!(got, Element::Watermark(Watermark(5))));
        // What was written is counted behind the write: it may have arrived before.
        loop {
            let (sent, received) = (sending.board().read(), receiving.board().read());
            if sent[&hello().to].sent > 0 && received[&hello().from].received > 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_of_an_older_leadership_is_refused_and_the_right_one_still_comes() {
    let (sending, receiving) = (plane().await, plane().await);
    let address = receiving.address().to_string();
    let (_inn, in_ports) = one_in();
    let (tell, heard) = news();
    let _expected = receiving.expect(hello(), in_ports, tell);
    for change in [
        (|hello: &mut Hello| hello.epoch = Epoch(2)) as fn(&mut Hello),
        |hello| hello.pass = Nonce(1),
    ] {
        let mut theirs = hello();
        change(&mut theirs);
        let (tell, refused) = news();
        let (_out, ports) = one_out();
        let _link = sending.connect(address.clone(), theirs, ports, tell);
        let (news, _) = told(refused).await;
        assert!(
            matches!(&news, LinkNews::Failed(_, reason) if reason.contains("refuses the link")),
            "{news:?}"
        );
    }
    let (_out, ports) = one_out();
    let (tell, up) = news();
    let _link = sending.connect(address, hello(), ports, tell);
    assert_eq!(told(up).await.0, LinkNews::Up(LinkKey::of(&hello())));
    assert_eq!(told(heard).await.0, LinkNews::Up(LinkKey::of(&hello())));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_link_is_told_to_the_other_side() {
    let (sending, receiving) = (plane().await, plane().await);
    let address = receiving.address().to_string();
    let ((_out, out_ports), (mut inn, in_ports)) = (one_out(), one_in());
    let (tell, heard) = news();
    let _expected = receiving.expect(hello(), in_ports, |_| {});
    let link = sending.connect(address, hello(), out_ports, tell);
    told(heard).await;
    drop(link);
    let lost = loop {
        match inn.pop() {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(lost.to_string().contains("worker 0"), "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expectation_that_is_dropped_is_withdrawn_and_anewer_one_stays() {
    let receiving = plane().await;
    let (_first_end, first) = one_in();
    let (_second_end, second) = one_in();
    let older = receiving.expect(hello(), first, |_| {});
    let newer = receiving.expect(hello(), second, |_| {});
    drop(older);
    sleep(Duration::from_millis(20)).await;
    assert_eq!(receiving.expectations.locked().len(), 1);
    drop(newer);
    while !receiving.expectations.locked().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_nobody_answers_for_is_told_with_its_address() {
    let sending = plane().await;
    let nobody = TcpListener::bind(HERE).await.unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let (tell, heard) = news();
    let (_out, ports) = one_out();
    let _link = sending.connect(address.clone(), hello(), ports, tell);
    // The clock of this test stands still for whoever waits outside of the runtime.
    let news = loop {
        match heard.try_recv() {
            Ok(news) => break news,
            Err(_) => sleep(AGAIN_EVERY).await,
        }
    };
    assert!(
        matches!(&news, LinkNews::Failed(_, reason) if reason.contains(&address)),
        "{news:?}"
    );
}
