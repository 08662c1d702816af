//! The types that every server has, with their arrays.
//!
//! Invariant: the numbers are those of `pg_type`, which Postgres never reassigns between major versions. A test
//! compares the table with the catalogue of a real server. Types that only the server itself uses in system catalogues
//! stand here too, as text: a feed may follow a table that copies them.

use super::Type;

/// A scalar type: its number, its array's (0 without one), what its text means.
pub(super) type Row = (u32, u32, Type);

/// `int2vector` and its array.
pub(super) const INT2_VECTOR: (u32, u32) = (22, 1006);
/// `oidvector` and its array.
pub(super) const OID_VECTOR: (u32, u32) = (30, 1013);
/// The only type whose array is not delimited by commas.
pub(super) const BOX: u32 = 603;

#[rustfmt::skip]
pub(super) const SCALARS: &[Row] = &[
    (16, 1000, Type::Boolean), // bool
    (17, 1001, Type::Bytea), // bytea
    (18, 1002, Type::Text), // char
    (19, 1003, Type::Text), // name
    (20, 1016, Type::Integer), // int8
    (21, 1005, Type::Integer), // int2
    (23, 1007, Type::Integer), // int4
    (24, 1008, Type::Text), // regproc
    (25, 1009, Type::Text), // text
    (26, 1028, Type::Text), // oid
    (27, 1010, Type::Text), // tid
    (28, 1011, Type::Text), // xid
    (29, 1012, Type::Text), // cid
    (114, 199, Type::Json), // json
    (142, 143, Type::Text), // xml
    (194, 0, Type::Text), // pg_node_tree
    (600, 1017, Type::Text), // point
    (601, 1018, Type::Text), // lseg
    (602, 1019, Type::Text), // path
    (603, 1020, Type::Text), // box
    (604, 1027, Type::Text), // polygon
    (628, 629, Type::Text), // line
    (650, 651, Type::Text), // cidr
    (700, 1021, Type::Float), // float4
    (701, 1022, Type::Float), // float8
    (718, 719, Type::Text), // circle
    (774, 775, Type::Text), // macaddr8
    (790, 791, Type::Text), // money
    (829, 1040, Type::Text), // macaddr
    (869, 1041, Type::Text), // inet
    (1033, 1034, Type::Text), // aclitem
    (1042, 1014, Type::Text), // bpchar
    (1043, 1015, Type::Text), // varchar
    (1082, 1182, Type::Text), // date
    (1083, 1183, Type::Text), // time
    (1114, 1115, Type::Timestamp), // timestamp
    (1184, 1185, Type::TimestampTz), // timestamptz
    (1186, 1187, Type::Text), // interval
    (1266, 1270, Type::Text), // timetz
    (1560, 1561, Type::Text), // bit
    (1562, 1563, Type::Text), // varbit
    (1700, 1231, Type::Numeric), // numeric
    (1790, 2201, Type::Text), // refcursor
    (2202, 2207, Type::Text), // regprocedure
    (2203, 2208, Type::Text), // regoper
    (2204, 2209, Type::Text), // regoperator
    (2205, 2210, Type::Text), // regclass
    (2206, 2211, Type::Text), // regtype
    (2950, 2951, Type::Text), // uuid
    (2970, 2949, Type::Text), // txid_snapshot
    (3220, 3221, Type::Text), // pg_lsn
    (3361, 0, Type::Text), // pg_ndistinct
    (3402, 0, Type::Text), // pg_dependencies
    (3614, 3643, Type::Text), // tsvector
    (3615, 3645, Type::Text), // tsquery
    (3642, 3644, Type::Text), // gtsvector
    (3734, 3735, Type::Text), // regconfig
    (3769, 3770, Type::Text), // regdictionary
    (3802, 3807, Type::Json), // jsonb
    (3904, 3905, Type::Text), // int4range
    (3906, 3907, Type::Text), // numrange
    (3908, 3909, Type::Text), // tsrange
    (3910, 3911, Type::Text), // tstzrange
    (3912, 3913, Type::Text), // daterange
    (3926, 3927, Type::Text), // int8range
    (4072, 4073, Type::Text), // jsonpath
    (4089, 4090, Type::Text), // regnamespace
    (4096, 4097, Type::Text), // regrole
    (4191, 4192, Type::Text), // regcollation
    (4451, 6150, Type::Text), // int4multirange
    (4532, 6151, Type::Text), // nummultirange
    (4533, 6152, Type::Text), // tsmultirange
    (4534, 6153, Type::Text), // tstzmultirange
    (4535, 6155, Type::Text), // datemultirange
    (4536, 6157, Type::Text), // int8multirange
    (4600, 0, Type::Text), // pg_brin_bloom_summary
    (4601, 0, Type::Text), // pg_brin_minmax_multi_summary
    (5017, 0, Type::Text), // pg_mcv_list
    (5038, 5039, Type::Text), // pg_snapshot
    (5069, 271, Type::Text), // xid8
];
