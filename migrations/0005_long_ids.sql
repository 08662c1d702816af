-- Producers choose the ids of events, and some are kilobytes long: a B-tree refuses entries above 2,704 bytes, and with
-- them the settlement that brings one. A hash index takes any length, and ids are only ever looked up whole.

drop index oncue.ledger_by_event;
create index ledger_by_event on oncue.ledger using hash (event_id);
