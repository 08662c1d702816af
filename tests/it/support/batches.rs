//! Batches of records, made by hand and produced by hand: what no client would send, and brokers store.
//!
//! Format: Kafka's protocol guide, "Record Batch" (magic 2), "Control Batch" and "Produce Request (Version: 3)".

use crc::{CRC_32_ISCSI, Crc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Bits of a batch's attributes.
const GZIP: i16 = 1;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;

/// How a transaction ended.
#[derive(Clone, Copy, Debug)]
pub enum Marker {
    Abort,
    Commit,
}

/// A batch.
#[derive(Clone, Debug)]
pub struct Batch {
    attributes: i16,
    count: i32,
    records: Vec<u8>,
}

impl Batch {
    /// Records of a transaction: keys and values.
    pub fn transactional(records: &[(&str, &str)]) -> Self {
        let records = records.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
        Self::new(TRANSACTIONAL, records)
    }

    /// The record that a broker writes at the end of a transaction.
    pub fn marker(marker: Marker) -> Self {
        let key = [0, 0, 0, marker as u8];
        // Version 0, of the coordinator's epoch 1.
        Self::new(TRANSACTIONAL | CONTROL, [(&key[..], &[0, 0, 0, 0, 0, 1][..])].into_iter())
    }

    /// A batch that says it is compressed and is not.
    pub fn broken() -> Self {
        Self { attributes: GZIP, count: 1, records: b"this is not what gzip makes".to_vec() }
    }

    fn new<'a>(attributes: i16, records: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut batch = Self { attributes, count: 0, records: Vec::new() };
        for (key, value) in records {
            let mut record = vec![0];
            for field in [0, batch.count] {
                varint(&mut record, i64::from(field));
            }
            for bytes in [key, value] {
                varint(&mut record, i64::try_from(bytes.len()).expect("short"));
                record.extend_from_slice(bytes);
            }
            // No headers.
            varint(&mut record, 0);
            varint(&mut batch.records, i64::try_from(record.len()).expect("short"));
            batch.records.extend(record);
            batch.count += 1;
        }
        batch
    }

    /// As it is sent, of the producer 7, at an offset that the broker fills in.
    fn bytes(&self) -> Vec<u8> {
        let now = time::OffsetDateTime::now_utc().unix_timestamp() * 1_000;
        let mut tail = Vec::new();
        tail.extend(self.attributes.to_be_bytes());
        tail.extend((self.count - 1).to_be_bytes());
        tail.extend(now.to_be_bytes());
        tail.extend(now.to_be_bytes());
        tail.extend(7_i64.to_be_bytes());
        tail.extend(0_i16.to_be_bytes());
        tail.extend((-1_i32).to_be_bytes());
        tail.extend(self.count.to_be_bytes());
        tail.extend(&self.records);
        let mut bytes = 0_i64.to_be_bytes().to_vec();
        bytes.extend(length(tail.len() + 4 + 1 + 4));
        bytes.extend(0_i32.to_be_bytes());
        bytes.push(2);
        bytes.extend(Crc::<u32>::new(&CRC_32_ISCSI).checksum(&tail).to_be_bytes());
        bytes.extend(tail);
        bytes
    }

    /// Appends it to a partition, by whichever of `servers` leads it; gives its first offset.
    pub async fn produce(&self, servers: &str, topic: &str, partition: i32) -> i64 {
        for server in servers.split(',') {
            if let Some(offset) = self.produce_to(server, topic, partition).await {
                return offset;
            }
        }
        panic!("none of {servers} takes a batch for {topic}/{partition}");
    }

    async fn produce_to(&self, server: &str, topic: &str, partition: i32) -> Option<i64> {
        let records = self.bytes();
        let mut request = Vec::new();
        // Produce, version 3, correlation 1, nobody's client, in no transaction that a coordinator knows, acks of all.
        request.extend([0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        request.extend(10_000_i32.to_be_bytes());
        request.extend(1_i32.to_be_bytes());
        request.extend(i16::try_from(topic.len()).expect("short").to_be_bytes());
        request.extend(topic.as_bytes());
        request.extend(1_i32.to_be_bytes());
        request.extend(partition.to_be_bytes());
        request.extend(length(records.len()));
        request.extend(records);
        let mut stream = TcpStream::connect(server).await.expect("the broker listens");
        stream.write_all(&length(request.len())).await.expect("it is sent");
        stream.write_all(&request).await.expect("it is sent");
        let size = stream.read_i32().await.expect("it answers");
        let mut answer = vec![0; usize::try_from(size).expect("a size")];
        stream.read_exact(&mut answer).await.expect("it answers");
        // Correlation, one topic with its name, one partition.
        let result = &answer[4 + 4 + 2 + topic.len() + 4 + 4..];
        let (error, offset) = (&result[..2], &result[2..10]);
        (error == [0, 0]).then(|| i64::from_be_bytes(offset.try_into().expect("eight bytes")))
    }
}

fn length(length: usize) -> [u8; 4] {
    i32::try_from(length).expect("short").to_be_bytes()
}

/// Zigzag, seven bits a byte, the lowest first.
fn varint(bytes: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while left > 0x7f {
        bytes.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
}
