#include "dataplane/worker/reply.h"
#include "dataplane/dialect/openai_chat.h"
#include "dataplane/worker/http1.h"

static const struct {
    const char *name;
    unsigned status;
    const char *type; /* OpenAI's words: SDKs and people know them */
    const char *code;
    unsigned retry_after_s; /* 0: not said */
    const char *message;
} outcomes[OUTCOME_COUNT] = {
    [OUTCOME_OK] = { "ok", 200, "", "", 0, "" },
    [OUTCOME_PASSED] = { "passed", 400, "", "", 0, "" },
    [OUTCOME_MALFORMED] = { "malformed", 400, "invalid_request_error", "malformed_request", 0,
                            "The request is not well-formed HTTP/1.1. Nothing was sent to a provider." },
    [OUTCOME_HEAD_TOO_LARGE] = { "head_too_large", 431, "invalid_request_error", "headers_too_large", 0,
                                 "The request's headers are too large or too many. Send fewer or shorter headers." },
    [OUTCOME_HEAD_TIMEOUT] = { "head_timeout", 408, "invalid_request_error", "request_timeout", 0,
                               "The request's headers did not arrive in time. Send the request again, whole." },
    [OUTCOME_BODY_TIMEOUT] = { "body_timeout", 408, "invalid_request_error", "request_timeout", 0,
                               "The request's body did not arrive in time. Send the request again, whole." },
    [OUTCOME_BODY_TOO_LARGE] = { "body_too_large", 413, "invalid_request_error", "request_too_large", 0,
                                 "The request's body is too large for this gateway. Send less, or ask its operator to "
                                 "raise body_bytes." },
    [OUTCOME_BODY_ENCODED] = { "body_encoded", 415, "invalid_request_error", "unsupported_content_encoding", 0,
                               "Compressed request bodies are not taken. Send the body without Content-Encoding." },
    [OUTCOME_EXPECTATION] = { "expectation", 417, "invalid_request_error", "expectation_failed", 0,
                              "This gateway knows no expectation but 100-continue. Send the request without the "
                              "Expect header." },
    [OUTCOME_BAD_METHOD] = { "bad_method", 405, "invalid_request_error", "method_not_allowed", 0,
                             "This path does not take this method; the Allow header names those it takes." },
    [OUTCOME_BAD_PATH] = { "bad_path", 404, "invalid_request_error", "unknown_url", 0,
                           "There is nothing at this path. Use /v1/chat/completions, /v1/completions, /v1/embeddings "
                           "or /v1/models." },
    [OUTCOME_BAD_BODY] = { "bad_body", 400, "invalid_request_error", "invalid_request", 0,
                           "The request's body cannot be used." },
    [OUTCOME_NO_KEY] = { "no_key", 401, "invalid_request_error", "missing_api_key", 0,
                         "No API key was sent. Send one of this gateway's keys as \"Authorization: Bearer KEY\"." },
    [OUTCOME_BAD_KEY] = { "bad_key", 401, "invalid_request_error", "invalid_api_key", 0,
                          "The API key is not valid here. Use a key made by this gateway's operator, not a provider's "
                          "own key." },
    [OUTCOME_UNKNOWN_MODEL] = { "unknown_model", 404, "invalid_request_error", "model_not_found", 0,
                                "There is no such model. GET /v1/models lists those that this key may use." },
    [OUTCOME_DENIED] = { "denied", 403, "invalid_request_error", "model_not_allowed", 0,
                         "This key may not use this model. GET /v1/models lists those that it may use." },
    [OUTCOME_TOO_DEAR] = { "too_dear", 400, "invalid_request_error", "cost_limit_exceeded", 0,
                           "The request would cost more than its route allows. Send a shorter prompt or a lower "
                           "max_tokens." },
    [OUTCOME_UNSUITABLE] = { "unsuitable", 400, "invalid_request_error", "unsupported_request", 0,
                             "No model of this route can do what is asked for." },
    [OUTCOME_CANCELLED] = { "cancelled", 499, "", "", 0, "" },
    [OUTCOME_NO_POLICY] = { "no_policy", 503, "server_error", "no_policy", 1,
                            "No policy has been pushed to this gateway yet. Push one with \"fairlead policy push\"." },
    [OUTCOME_NO_CANDIDATE] = { "no_candidate", 503, "server_error", "no_model_available", 5,
                               "No model of this route can be used at the moment. Try again soon." },
    [OUTCOME_BUSY] = { "busy", 503, "server_error", "overloaded", 1, "This gateway is at its limit. Try again soon." },
    [OUTCOME_DRAINING] = { "draining", 503, "server_error", "shutting_down", 1,
                           "This gateway process is shutting down. Send the request again." },
    [OUTCOME_UPSTREAM_FAILED] = { "upstream_failed", 502, "server_error", "upstream_failed", 0,
                                  "Every model that was tried failed to answer. Try again." },
    [OUTCOME_UPSTREAM_LIMITED] = { "upstream_limited", 429, "rate_limit_error", "upstream_rate_limited", 1,
                                   "Every model that was tried is over its provider's rate limit. Try again later." },
    [OUTCOME_UPSTREAM_TIMEOUT] = { "upstream_timeout", 504, "server_error", "upstream_timeout", 0,
                                   "No model answered in time. Try again." },
    [OUTCOME_TRUNCATED] = { "truncated", 502, "server_error", "upstream_truncated", 0,
                            "The provider's answer broke off: what came before this is not complete. Send the request "
                            "again." },
    [OUTCOME_INTERNAL] = { "internal", 500, "server_error", "internal_error", 0,
                           "Something went wrong inside the gateway. Try again." },
};

const char *outcome_name(enum outcome outcome)
{
    return outcomes[outcome].name;
}

unsigned outcome_status(enum outcome outcome)
{
    return outcomes[outcome].status;
}

bool outcome_is_clients(enum outcome outcome)
{
    return outcome >= OUTCOME_PASSED && outcome < OUTCOME_CANCELLED;
}

enum outcome outcome_of_http1(enum err err)
{
    if (err == ERR_TOO_LARGE || err == ERR_TOO_MANY)
        return OUTCOME_HEAD_TOO_LARGE;
    return err == ERR_NOMEM ? OUTCOME_BUSY : OUTCOME_MALFORMED;
}

static struct openai_chat_error words(const struct reply_error *error)
{
    return (struct openai_chat_error){ .type = outcomes[error->outcome].type,
                                       .code = error->code ? error->code : outcomes[error->outcome].code,
                                       .param = error->param,
                                       .message = span_cstr(error->message ? error->message
                                                                           : outcomes[error->outcome].message) };
}

enum err reply_error_event(const struct reply_error *error, struct buf *out)
{
    struct openai_chat_error w = words(error);
    return openai_chat_write_error_event(out, &w);
}

enum err reply_error_body(const struct reply_error *error, struct buf *out)
{
    struct openai_chat_error w = words(error);
    return openai_chat_write_error(out, &w);
}

enum err reply_error_lines(const struct reply_error *error, struct buf *out)
{
    const unsigned retry_after_s = error->retry_after_s ? error->retry_after_s : outcomes[error->outcome].retry_after_s;
    enum err err = retry_after_s ? http1_write_header_u64(out, SPAN("retry-after"), retry_after_s) : OK;
    if (err == OK && outcomes[error->outcome].status == 401) /* RFC 9110 section 15.5.2, RFC 6750 section 3 */
        err = http1_write_header(out, SPAN("www-authenticate"),
                                 error->outcome == OUTCOME_NO_KEY
                                     ? SPAN("Bearer realm=\"fairlead\"")
                                     : SPAN("Bearer realm=\"fairlead\", error=\"invalid_token\""));
    if (err == OK && !span_empty(error->allow))
        err = http1_write_header(out, SPAN("allow"), error->allow);
    return err;
}
