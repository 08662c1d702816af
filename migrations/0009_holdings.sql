-- How often a feed was held since it last got anywhere and without a clean end: after three, what was under way may be
-- what kills nodes, and is parked before it runs.

alter table oncue.feeds add column holdings integer not null default 0;
alter table oncue.feeds add constraint feeds_holdings_are_not_negative check (holdings >= 0);
