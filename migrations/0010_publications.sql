-- Which publication a feed was decoded with: one of the same name that was dropped and made again is another. From
-- Postgres 18 on, the server passes over what it cannot find the publication for without an error.

alter table oncue.feeds add column publication_oid bigint;
