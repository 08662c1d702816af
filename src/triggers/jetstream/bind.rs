//! Finds or makes the stream and the durable consumer of a trigger.
//!
//! Invariant: an existing consumer keeps its position: only what the server lets change is changed. A consumer that
//! would lose messages (no explicit acknowledgement, a bound on deliveries) is refused.

use std::time::Duration;

use async_nats::jetstream::Context as JetStream;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull::Config};
use async_nats::jetstream::stream;

use crate::triggers::spec::parse_time;
use crate::triggers::{Failure, JetStreamSpec, Start};

/// A consumer and the identity of its stream.
pub(super) struct Bound {
    pub(super) consumer: Consumer<Config>,
    /// When the stream was created, in nanoseconds since 1970: sequences start anew when a stream is recreated.
    pub(super) identity: String,
    /// The stream's last sequence when the consumer had to be made anew for a trigger that had one; else 0.
    pub(super) known_until: u64,
}

/// Binds `trigger` to its stream and consumer; `known` says that it was bound to the stream before.
pub(super) async fn bind(
    jetstream: &JetStream,
    spec: &JetStreamSpec,
    trigger: &str,
    known: bool,
) -> Result<Bound, Failure> {
    let stream = find_stream(jetstream, spec).await?;
    let identity = stream.cached_info().created.unix_timestamp_nanos().to_string();
    let durable = spec.durable(trigger);
    let wanted = config(spec, &durable)?;
    let (consumer, known_until) = match stream.get_consumer::<Config>(&durable).await {
        Ok(found) => (adapt(&stream, found, wanted).await?, 0),
        Err(_) if known && spec.start != Start::All => return Err(lost(&durable, trigger)),
        Err(_) => {
            let text = format!("cannot create consumer \"{durable}\" on stream \"{}\"", spec.stream);
            let made = stream.create_consumer(wanted).await.map_err(|e| Failure::again(&text, e))?;
            (made, if known { stream.cached_info().state.last_sequence } else { 0 })
        }
    };
    Ok(Bound { consumer, identity, known_until })
}

/// The gap of a consumer that is gone, with its position, and cannot be found again by reading everything.
fn lost(durable: &str, trigger: &str) -> Failure {
    Failure::Gap(format!(
        "consumer \"{durable}\" was deleted, and with it the position: `oncue trigger resume {trigger} --accept-gap` \
         begins by `start` again"
    ))
}

async fn find_stream(jetstream: &JetStream, spec: &JetStreamSpec) -> Result<stream::Stream, Failure> {
    let missing = match jetstream.get_stream(&spec.stream).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    if !spec.create_stream {
        let hint = "create it, or set create_stream = true on the trigger";
        return Err(Failure::Again(format!("cannot open stream \"{}\": {missing}; {hint}", spec.stream)));
    }
    let config =
        stream::Config { name: spec.stream.clone(), subjects: spec.subjects.clone(), ..stream::Config::default() };
    jetstream
        .get_or_create_stream(config)
        .await
        .map_err(|e| Failure::again(&format!("cannot create stream \"{}\"", spec.stream), e))
}

fn config(spec: &JetStreamSpec, durable: &str) -> Result<Config, Failure> {
    let deliver_policy = match &spec.start {
        Start::All => DeliverPolicy::All,
        Start::New => DeliverPolicy::New,
        Start::Sequence(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence: *start_sequence },
        Start::Time(text) => {
            let start_time = parse_time(text).map_err(|e| Failure::Again(e.to_string()))?;
            DeliverPolicy::ByStartTime { start_time }
        }
    };
    let (filter_subject, filter_subjects) = match spec.subjects.as_slice() {
        [one] => (one.clone(), Vec::new()),
        many => (String::new(), many.to_vec()),
    };
    Ok(Config {
        durable_name: Some(durable.to_owned()),
        description: Some("oncue trigger".to_owned()),
        deliver_policy,
        ack_policy: AckPolicy::Explicit,
        ack_wait: spec.ack_wait(),
        max_deliver: -1,
        max_ack_pending: spec.max_ack_pending,
        max_waiting: 512,
        filter_subject,
        filter_subjects,
        // Never removed for being idle: an outage must not lose the position.
        inactive_threshold: Duration::ZERO,
        ..Config::default()
    })
}

async fn adapt(stream: &stream::Stream, found: Consumer<Config>, wanted: Config) -> Result<Consumer<Config>, Failure> {
    let has = &found.cached_info().config;
    let name = &found.cached_info().name;
    if has.ack_policy != AckPolicy::Explicit {
        let text =
            format!("consumer \"{name}\" does not acknowledge explicitly: name another one with durable = \"…\"");
        return Err(Failure::Again(text));
    }
    let same = has.filter_subject == wanted.filter_subject
        && has.filter_subjects == wanted.filter_subjects
        && has.ack_wait == wanted.ack_wait
        && has.max_ack_pending == wanted.max_ack_pending
        && has.max_deliver == -1
        && has.backoff.is_empty();
    if same {
        return Ok(found);
    }
    let changed = Config {
        durable_name: Some(name.clone()),
        deliver_policy: has.deliver_policy,
        description: has.description.clone(),
        num_replicas: has.num_replicas,
        memory_storage: has.memory_storage,
        max_waiting: has.max_waiting,
        inactive_threshold: has.inactive_threshold,
        ..wanted
    };
    let text = format!("consumer \"{name}\" is there with other settings and cannot be changed");
    stream.update_consumer(changed).await.map_err(|e| Failure::again(&text, e))
}

/// The gap of a stream that is not the one that the trigger was bound to.
pub(super) fn recreated(stream: &str, known: &str, found: &str, trigger: &str) -> Failure {
    Failure::Gap(format!(
        "stream \"{stream}\" was recreated (created at {found} ns, known {known} ns): what the old one held and was not \
         read is gone; `oncue trigger resume {trigger} --accept-gap` goes on with the new one"
    ))
}
