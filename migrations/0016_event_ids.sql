-- An event's id may have 8,192 bytes, of which a B-tree takes 2,704 at most: the ledger refused rows of such events, which
-- became dead letters although they had run. Their ids are indexed by their beginning.

drop index oncue.ledger_by_event;
create index ledger_by_event on oncue.ledger (left(event_id, 128));
