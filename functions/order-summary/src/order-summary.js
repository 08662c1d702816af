// Adds up an order: one `order.summary` event for every event with an order as its data, and an `order.large` event
// as well when the total reaches the configuration value `large_total`. Money is in minor units (cents), so that sums
// are exact.

import { get as config } from "wasi:config/store@0.2.0-rc.1";
import { log } from "wasi:logging/logging@0.1.0-draft";

export const handler = {
  handle(event) {
    const order = parse(event.data);
    const total = order.items.reduce((sum, item) => sum + item.quantity * item.price, 0);
    log("info", "order-summary", `order of ${order.items.length} items in event ${event.id}`);

    const large = config("large_total");
    const summary = {
      order: order.id,
      currency: order.currency,
      items: order.items.reduce((sum, item) => sum + item.quantity, 0),
      total,
    };
    const events = [json("order.summary", order.id, summary)];
    if (large && total >= Number(large)) events.push(json("order.large", order.id, summary));
    return events;
  },
};

// What is wrong with an order stays wrong, so it is rejected: a retry would only delay the dead letter.
function parse(data) {
  let order;
  try {
    order = JSON.parse(new TextDecoder().decode(data));
  } catch (error) {
    throw reject(`data is not JSON: ${error.message}`);
  }
  // The id becomes an attribute of an event, and those have no control characters.
  if (typeof order?.id !== "string" || /\p{Cc}/u.test(order.id)) throw reject("no id in data");
  if (!Array.isArray(order.items)) throw reject("no items in data");
  for (const [index, item] of order.items.entries()) {
    if (!Number.isSafeInteger(item?.quantity) || !Number.isSafeInteger(item?.price)) {
      throw reject(`items[${index}] needs a whole quantity and a whole price in cents`);
    }
  }
  return order;
}

// What is thrown in this shape is an outcome: { tag: "retry" | "retry-after" | "reject", val }. Anything else that is
// thrown ends the run as a trap.
function reject(reason) {
  return { tag: "reject", val: reason };
}

// `id` and `source` stay empty: the host fills them in, the same on each attempt.
function json(type, subject, value) {
  return {
    id: "",
    source: "",
    type,
    subject,
    time: undefined,
    contentType: "application/json",
    extensions: [],
    data: new TextEncoder().encode(JSON.stringify(value)),
  };
}
