#include "dataplane/route/admit.h"
#include "dataplane/route/arms.h"
#include "dataplane/route/ask.h"
#include "dataplane/route/explain.h"
#include "dataplane/worker/exchange_internal.h"
#include "dataplane/worker/live.h"
#include "dataplane/worker/stream.h"

static const struct json_limits body_limits = {
    .bytes_max = 1u << 30,  /* the body's own limit comes first */
    .depth_max = 128,       /* as json_limits_default */
    .tokens_max = 2u << 20, /* 32 MiB of index for one body: an embedding of a million tokens still passes */
};

static enum err copy_headers(struct exchange *x)
{
    x->headers = ARENA_ARRAY(&x->arena, x->head->header_count, struct header_pair);
    if (!x->headers && x->head->header_count)
        return ERR_NOMEM;
    for (unsigned i = 0; i < x->head->header_count; i++) {
        x->headers[i] = (struct header_pair){ .name = x->head->headers[i].name, .value = x->head->headers[i].value };
        if (span_eq_nocase(x->headers[i].name, SPAN(ARMS_HEADER)))
            x->forced_arm = x->headers[i].value.ptr ? x->headers[i].value : SPAN("");
        else if (span_eq_nocase(x->headers[i].name, SPAN(EXPLAIN_HEADER)))
            x->explain = !span_empty(x->headers[i].value) && !span_eq(x->headers[i].value, SPAN("0"));
    }
    return OK;
}

static bool refuse(struct exchange *x, enum outcome outcome, const char *message)
{
    exchange_refuse_with(x, outcome, message);
    return false;
}

/* The client's certificate -> its team, when no key was sent. */
static enum err find_by_certificate(struct exchange *x)
{
    const struct stream_facts *client = x->sink->client;
    if (!x->core->loader.table)
        loader_refresh(&x->core->loader); /* as loader_key does */
    if (!x->core->loader.table)
        return ERR_AGAIN;
    return auth_by_certificate(&x->arena, span_cstr(client->certificate), span_cstr(client->team), &x->key);
}

/* The key in the headers -> its record. False: refused. */
static bool find_key(struct exchange *x)
{
    struct core *core = x->core;
    struct span text;
    const char *why = NULL;
    enum err err = auth_extract(x->headers, x->head->header_count, &text, &why);
    if (err == ERR_NOT_FOUND && x->sink->client->team) {
        err = find_by_certificate(x);
    } else if (err) {
        core_count(core, WORKER_UNAUTHORIZED);
        return refuse(x, err == ERR_NOT_FOUND ? OUTCOME_NO_KEY : OUTCOME_BAD_KEY, err == ERR_NOT_FOUND ? NULL : why);
    } else {
        struct sha256 hash = sha256_of(text);
        err = loader_key(&core->loader, &x->arena, &hash, &x->key);
    }
    if (err == ERR_AGAIN)
        return refuse(x, OUTCOME_NO_POLICY, NULL);
    if (err && err != ERR_NOT_FOUND)
        return refuse(x, OUTCOME_BUSY, NULL);
    return true;
}

/* The key's record, and its team in the newest table, which the request pins. */
static bool authenticate(struct exchange *x)
{
    struct core *core = x->core;
    const char *why = NULL;
    if (!find_key(x))
        return false;
    if (core->loader.table)
        x->table = table_ref(core->loader.table);
    const struct team_view *team = NULL;
    if (x->key && x->table)
        team = table_team(x->table, x->key->team);
    const enum err err = auth_judge(x->key, team, x->wall_ms, &why);
    if (!x->key || (err && x->table)) { /* no table: a directory, but no head yet, and so no team to judge by */
        x->key = NULL;
        core_count(core, WORKER_UNAUTHORIZED);
        return refuse(x, OUTCOME_BAD_KEY, why);
    }
    x->principal = (struct auth_principal){ .key = x->key, .team = team };
    request_id_sign(&core->id_key, x->key->team, x->request_id);
    return true;
}

static bool may_explain(struct exchange *x)
{
    const struct team_view *team = x->principal.team;
    if (!x->explain || !team || team->team->may & TEAM_MAY_EXPLAIN)
        return true;
    x->explain = false;
    exchange_refuse(x, &(struct reply_error){ .outcome = OUTCOME_DENIED,
                                              .message = "This key's team may not ask for explanations: leave the "
                                                         "header x-fairlead-explain out.",
                                              .code = "explain_not_allowed" });
    return false;
}

static bool admit(struct exchange *x)
{
    struct core *core = x->core;
    const struct node_limits *limits = &core->config->limits;
    const struct admit_load load = { .has_policy = x->table && x->table->head->arm_count > 0,
                                     .requests_open = core->retries.active - 1, /* this one is counted already */
                                     .requests_max = limits->connections,
                                     .bytes_buffered = core->buffered,
                                     .bytes_max = limits->buffered_bytes,
                                     .bytes_more =
                                         x->head->content_length > 0 ? (uint64_t)x->head->content_length : 0 };
    switch (admit_request(&load)) {
    case ADMIT_OK:
        return true;
    case ADMIT_NO_POLICY:
        return refuse(x, OUTCOME_NO_POLICY, NULL);
    case ADMIT_REQUESTS:
    case ADMIT_BYTES:
        return refuse(x, OUTCOME_BUSY, NULL);
    case ADMIT_REASONS:
        break;
    }
    return refuse(x, OUTCOME_INTERNAL, NULL);
}

/* Before a byte of the body is kept. */
static bool body_may_come(struct exchange *x)
{
    const struct header_pair *headers = x->headers;
    for (unsigned i = 0; i < x->head->header_count; i++)
        if (span_eq_nocase(headers[i].name, SPAN("content-encoding")) &&
            !span_eq_nocase(headers[i].value, SPAN("identity")) && !span_empty(headers[i].value))
            return refuse(x, OUTCOME_BODY_ENCODED, NULL);
    if (x->place.endpoint == ENDPOINT_FEEDBACK)
        x->body.max = size_min(x->body.max, EXCHANGE_FEEDBACK_BYTES);
    if (x->head->content_length > 0 && (uint64_t)x->head->content_length > x->body.max)
        return refuse(x, OUTCOME_BODY_TOO_LARGE, NULL);
    return true;
}

bool exchange_let_in(struct exchange *x)
{
    if (copy_headers(x))
        return refuse(x, OUTCOME_BUSY, NULL);
    if (x->head->expect_unknown)
        return refuse(x, OUTCOME_EXPECTATION, NULL);
    if (span_eq(x->head->path, SPAN("*")) && span_eq(x->head->method_name, SPAN("OPTIONS"))) {
        exchange_tell_methods(x);
        return false;
    }
    switch (openai_chat_place(&x->arena, x->head->method_name, x->head->path, &x->place)) {
    case OK:
        break;
    case ERR_NOT_FOUND:
        return refuse(x, OUTCOME_BAD_PATH, NULL);
    case ERR_UNSUPPORTED:
        exchange_refuse(x,
                        &(struct reply_error){ .outcome = OUTCOME_BAD_METHOD, .allow = span_cstr(x->place.allowed) });
        return false;
    case ERR_INVALID:
        return refuse(x, OUTCOME_MALFORMED, "The path holds a malformed %-escape.");
    default:
        return refuse(x, OUTCOME_BUSY, NULL);
    }
    if (!authenticate(x) || !may_explain(x) || !admit(x) || !body_may_come(x))
        return false;
    x->arm = &x->table->arms[0];
    if (x->head->expect_continue && x->head->has_body)
        x->sink->ops->go_on(x->sink);
    return true;
}

/* An index may be three times its body: it must not take the worker over its cap. */
static size_t ask_bytes_max(const struct core *core)
{
    const uint64_t most = core->config->limits.buffered_bytes;
    const uint64_t left = core->buffered < most ? most - core->buffered : 0;
    return (size_t)(left > EXCHANGE_ASK_BYTES ? EXCHANGE_ASK_BYTES : left);
}

static bool read_ask(struct exchange *x)
{
    struct ask_error error = { .param = NULL };
    x->ask_arena.max = ask_bytes_max(x->core);
    enum err err = ask_read(&x->ask_arena, x->place.endpoint, buf_span(&x->body), &body_limits, &x->ask, &error);
    exchange_account(x);
    if (err == ERR_NOMEM || core_is_full(x->core))
        return refuse(x, OUTCOME_BUSY, NULL);
    if (err) {
        exchange_refuse(
            x, &(struct reply_error){
                   .outcome = OUTCOME_BAD_BODY, .message = error.message, .param = error.param, .code = error.code });
        return false;
    }
    x->asked = true;
    x->asked_model = arena_dup(&x->arena, span_head(x->ask.model, LEDGER_TEXT_MAX));
    return true;
}

/* The arm that the client names: whoever may choose is told which there are, others not even that. */
static bool force_arm(struct exchange *x, struct span route, const struct arm_units *units)
{
    const struct head *head = x->table->head;
    if (!(x->principal.team->team->may & TEAM_MAY_CHOOSE_ARM)) {
        exchange_refuse(x, &(struct reply_error){ .outcome = OUTCOME_DENIED,
                                                  .message = "This key's team may not choose an arm. Send the request "
                                                             "without the header " ARMS_HEADER ".",
                                                  .param = ARMS_HEADER,
                                                  .code = "arm_not_allowed" });
        return false;
    }
    const uint32_t arm = head_arm(head, x->forced_arm);
    if (arm == head->arm_count) {
        exchange_refuse(x, &(struct reply_error){ .outcome = OUTCOME_BAD_BODY,
                                                  .message = "There is no such arm now. Send the request without the "
                                                             "header " ARMS_HEADER ", or with an arm that is live.",
                                                  .param = ARMS_HEADER,
                                                  .code = "unknown_arm" });
        return false;
    }
    x->choice = arms_force(head, route, units, arm);
    return true;
}

/* asked: the name in the request, "" for none. What it means is looked up by the stable arm's names: which assignment
 * covers it must not depend on the arm. False: refused. */
static bool choose_arm(struct exchange *x, struct span asked)
{
    const struct head *head = x->table->head;
    const bool listing = x->place.endpoint == ENDPOINT_MODELS || x->place.endpoint == ENDPOINT_MODEL;
    x->arm_chosen = true;
    if (head->assignment_count == 0 && !x->forced_arm.ptr)
        return true; /* all-zero is the stable arm, for want of another */
    const struct arm_units units = { .key = x->key->id,
                                     .user = listing ? SPAN("") : ask_user(&x->ask_arena, &x->ask),
                                     .headers = x->headers,
                                     .header_count = x->head->header_count,
                                     /* a list that changes with each look would be of no use */
                                     .request = listing ? x->key->id : span_cstr(x->request_id) };
    const struct span route = resolve_route_meant(&x->table->arms[0], asked);
    if (!x->forced_arm.ptr)
        x->choice = arms_choose(head, route, &units);
    else if (!force_arm(x, route, &units))
        return false;
    x->arm = &x->table->arms[x->choice.arm];
    return true;
}

/* Which status tells best why nothing can serve: what the client can change, what an operator can, or only time. */
static enum outcome outcome_of(enum plan_reason reason)
{
    switch (reason) {
    case PLAN_TOO_DEAR:
        return OUTCOME_TOO_DEAR;
    case PLAN_TOO_LONG:
    case PLAN_NO_JSON:
    case PLAN_NO_AUDIO:
    case PLAN_NO_IMAGES:
    case PLAN_NO_TOOLS:
    case PLAN_NO_STREAM:
    case PLAN_NO_ENDPOINT:
        return OUTCOME_UNSUITABLE;
    case PLAN_REGION:
    case PLAN_RETENTION:
    case PLAN_TRAINING:
        return OUTCOME_DENIED;
    case PLAN_NONE:
    case PLAN_DIRECT:
    case PLAN_ONLY:
    case PLAN_WEIGHT:
    case PLAN_LESS_LOADED:
    case PLAN_CHEAPEST:
    case PLAN_FASTEST:
    case PLAN_NEXT:
    case PLAN_NEXT_TIER:
    case PLAN_LEAST_BAD:
    case PLAN_BEYOND:
    case PLAN_OUT_OF_BOUNDS:
    case PLAN_PROBED:
    case PLAN_EJECTED:
    case PLAN_DOWN:
    case PLAN_TRIED:
    case PLAN_NO_CREDENTIAL:
    case PLAN_DRAINED:
    case PLAN_BLOCKED:
    case PLAN_REASONS:
        break;
    }
    return OUTCOME_NO_CANDIDATE;
}

struct select_input exchange_select_input(struct exchange *x, struct live *live)
{
    struct core *core = x->core;
    *live = (struct live){ .board = core->board,
                           .compiled = x->arm->compiled,
                           .credentials = core->config->credentials,
                           .cool_until_ms = core->cool_until_ms };
    int64_t wall_ms = core_wall_ms(x->core); /* not the head's: a long body, or attempts, came in between */
    return (struct select_input){ .arm = x->arm,
                                  .target = x->target,
                                  .ask = &x->ask,
                                  .team_require = &x->principal.team->team->require,
                                  .evidence_valid = table_evidence_valid(x->table, wall_ms),
                                  .wall_ms = wall_ms,
                                  .spent_nano = x->spent_nano,
                                  .now_ms = core_now_ms(x->core),
                                  .source = { .live = live_read, .user = live } };
}

static bool choose(struct exchange *x)
{
    struct live live;
    const struct select_input input = exchange_select_input(x, &live);
    switch (select_plan(&x->arena, &input, &x->core->prng, &x->plan)) {
    case OK:
        return true;
    case ERR_NO_CANDIDATE:
        exchange_refuse(x, &(struct reply_error){ .outcome = outcome_of(plan_chief_reason(&x->plan)),
                                                  .message = plan_explain(&x->arena, &input, &x->plan),
                                                  .param = "model" });
        return false;
    default:
        return refuse(x, OUTCOME_BUSY, NULL);
    }
}

bool exchange_plan_again(struct exchange *x)
{
    /* A model asked for by name is the only one: once it was tried, nothing is left. */
    uint32_t most = x->target.route ? exchange_attempts_max(x) : 1;
    uint32_t made = x->target.route ? x->attempts : x->tried_count;
    if (made >= most || x->replans++ >= ATTEMPTS_MAX)
        return false;
    struct live live;
    struct select_input input = exchange_select_input(x, &live);
    struct plan plan;
    input.tried = x->tried;
    input.tried_count = x->tried_count;
    input.attempts_max = most - made;
    enum err err = select_plan(&x->arena, &input, &x->core->prng, &plan);
    for (uint32_t i = 0; err == ERR_NO_CANDIDATE && x->spent_nano && i < plan.all_count; i++)
        if (plan.all[i].reason == PLAN_TOO_DEAR)
            exchange_note_ceiling(x, plan.all[i].estimate_nano);
    if (err)
        return false;
    plan.propensity_ppb = x->plan.propensity_ppb; /* of the first choice of all */
    plan.all = x->plan.all;                       /* what is tried again was a candidate then, too */
    plan.all_count = x->plan.all_count;
    x->plan = plan;
    x->next_step = 0;
    return true;
}

static void set_deadlines(struct exchange *x)
{
    const struct route *route = x->target.route;
    uint64_t now_ms = core_now_ms(x->core);
    if (!route)
        return;
    if (route->deadline_ms)
        x->content_due = now_ms + route->deadline_ms;
    if (route->timeouts.total_ms)
        x->total_due = now_ms + route->timeouts.total_ms;
}

bool exchange_decide(struct exchange *x)
{
    if (x->place.endpoint == ENDPOINT_MODELS || x->place.endpoint == ENDPOINT_MODEL) {
        if (choose_arm(x, x->place.model))
            exchange_models(x);
        return false;
    }
    if (x->place.endpoint == ENDPOINT_FEEDBACK) {
        exchange_feedback(x);
        return false;
    }
    if (!read_ask(x) || (!x->shadow && !choose_arm(x, x->ask.model)))
        return false;
    if (x->arm->compiled->artifact->content.share_ppm && !x->shadow)
        exchange_content_begin(x);
    /* Traits and guard have their place here. */
    if (resolve_name(x->arm, &x->principal, x->ask.model, &x->target)) {
        exchange_refuse(x, &(struct reply_error){
                               .outcome = OUTCOME_UNKNOWN_MODEL,
                               .message = resolve_not_found_message(&x->arena, x->arm, &x->principal, x->ask.model),
                               .param = "model" });
        return false;
    }
    if (!choose(x))
        return false;
    set_deadlines(x);
    return true;
}
