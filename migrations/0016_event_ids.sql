-- Some producers give every event the same id. A hash index keeps all entries of one id in one chain of pages, which is walked
-- for each that is added: after 100,000 events of one id each more costs 77 µs, and so on. A B-tree takes them as they come; it
-- refuses entries above 2,704 bytes, so that ids are indexed by their beginning.

drop index oncue.ledger_by_event;
create index ledger_by_event on oncue.ledger (left(event_id, 128));
