// Fingerprints a payload: one `content.fingerprint` event with the SHA-256 of the data as its subject, for every event
// with data. Equal payloads get the same subject, so whatever keeps the subjects knows what it has seen before.
//
// Nothing is freed: an instance handles one event and is dropped with all its memory. What goes back to the host is
// made with malloc, because the generated code frees it.

#include <stdlib.h>
#include <string.h>

#include "function.h"
#include "sha256.h"

typedef exports_oncue_function_handler_event_t event_t;
typedef exports_oncue_function_handler_error_t error_t;

static const char HEX[] = "0123456789abcdef";

static void hex(const uint8_t digest[SHA256_BYTES], char text[2 * SHA256_BYTES + 1]) {
  for (size_t i = 0; i < SHA256_BYTES; i++) {
    text[2 * i] = HEX[digest[i] >> 4];
    text[2 * i + 1] = HEX[digest[i] & 15];
  }
  text[2 * SHA256_BYTES] = '\0';
}

// The host only reads what it is given, so a literal need not be copied.
static void info(const char *message) {
  function_string_t context, text;
  function_string_set(&context, "fingerprint");
  function_string_set(&text, message);
  wasi_logging_logging_log(WASI_LOGGING_LOGGING_LEVEL_INFO, &context, &text);
}

// Bad data stays bad, so it is rejected: a retry would only delay the dead letter.
static bool reject(error_t *error, const char *reason) {
  error->tag = ONCUE_FUNCTION_TYPES_ERROR_REJECT;
  function_string_dup(&error->val.reject, reason);
  return false;
}

// True is ok with `events`, false is the outcome in `error`.
bool exports_oncue_function_handler_handle(event_t *event, exports_oncue_function_handler_list_event_t *events,
                                           error_t *error) {
  if (event->data.len == 0) return reject(error, "no data");

  uint8_t digest[SHA256_BYTES];
  char fingerprint[2 * SHA256_BYTES + 1];
  sha256(event->data.ptr, event->data.len, digest);
  hex(digest, fingerprint);

  char json[sizeof "{\"sha256\":\"\"}" + 2 * SHA256_BYTES] = "{\"sha256\":\"";
  strcat(strcat(json, fingerprint), "\"}");
  info("fingerprinted the data");

  // All zero is absent or empty: the host fills in `id` and `source`, the same on each attempt.
  event_t *answer = calloc(1, sizeof *answer);
  if (answer == NULL) abort();
  function_string_dup(&answer->type, "content.fingerprint");
  answer->subject.is_some = true;
  function_string_dup(&answer->subject.val, fingerprint);
  answer->content_type.is_some = true;
  function_string_dup(&answer->content_type.val, "application/json");
  answer->data.ptr = (uint8_t *)strdup(json);
  answer->data.len = strlen(json);

  events->ptr = answer;
  events->len = 1;
  return true;
}
