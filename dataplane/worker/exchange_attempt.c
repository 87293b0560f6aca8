#include "common/clock.h"
#include "common/log.h"
#include "common/units.h"
#include "dataplane/dialect/headers.h"
#include "dataplane/worker/exchange_internal.h"

#define CREDENTIALS_READ_EVERY_MS                                                                                      \
    1000u /* a refused credential makes us read its source again, but not with every request */

static struct board_series *series_of(struct exchange *x, uint32_t label)
{
    uint32_t route = 0;
    if (x->target.route)
        route = x->arm->compiled->route_labels[table_route_index(x->arm, x->target.route)];
    return board_series(x->core->region, x->principal.team->label, route, label);
}

struct board_arm *exchange_arm(const struct exchange *x)
{
    return board_arm(x->core->region, &(struct board_arm_id){ .version = x->arm->arm->policy_version,
                                                              .shadow = x->shadow != NULL,
                                                              .name = x->arm->arm->name });
}

/* What a shadow does is counted by its arm alone: no team asked for it. */
static void count_series(struct exchange *x, uint32_t label, enum series_counter counter)
{
    if (!x->shadow)
        board_add(&series_of(x, label)->counters[counter], 1);
}

static void count_attempt(struct exchange *x)
{
    count_series(x, x->attempt.label, SERIES_ATTEMPTS);
    board_add(&exchange_arm(x)->counters[ARM_ATTEMPTS], 1);
}

static void count_failure(struct exchange *x, bool timeout)
{
    count_series(x, x->attempt.label, SERIES_ATTEMPT_FAILURES);
    if (timeout)
        count_series(x, x->attempt.label, SERIES_ATTEMPT_TIMEOUTS);
    board_add(&exchange_arm(x)->counters[ARM_ATTEMPT_FAILURES], 1);
}

static uint32_t nearer(uint32_t route_ms, uint32_t model_ms)
{
    return route_ms ? route_ms : model_ms;
}

static struct timeouts timeouts_of(const struct exchange *x, const struct model *model)
{
    struct timeouts own = model->timeouts;
    const struct route *route = x->target.route;
    if (route)
        own = (struct timeouts){ .connect_ms = nearer(route->timeouts.connect_ms, own.connect_ms),
                                 .first_token_ms = nearer(route->timeouts.first_token_ms, own.first_token_ms),
                                 .idle_ms = nearer(route->timeouts.idle_ms, own.idle_ms),
                                 .total_ms = nearer(route->timeouts.total_ms, own.total_ms),
                                 .hold_ms = nearer(route->timeouts.hold_ms, own.hold_ms) };
    return own;
}

/* The provider's credentials in turn, from the one that stands next; ERR_NOT_FOUND when none of those left can be used.
 */
static enum err credential_of(struct exchange *x, struct span *ret_secret)
{
    struct attempt *a = &x->attempt;
    while (a->credentials_left > 0) {
        uint32_t at = a->credential;
        a->credential = (a->credential + 1) % a->provider->credentials.count;
        a->credentials_left--;
        if (x->core->config->credentials &&
            credentials_get(x->core->config->credentials, a->provider->credentials.items[at], a->provider->host,
                            ret_secret) == OK)
            return OK;
    }
    return ERR_NOT_FOUND;
}

static enum err headers_of(struct exchange *x, struct upstream_header **ret, unsigned *ret_count)
{
    struct attempt *a = &x->attempt;
    struct header_pair *pairs, secret = { .name = SPAN("") };
    unsigned count;
    bool needed = false;
    enum err err = headers_up(&x->arena, a->provider, x->headers, x->head->header_count, x->ask.stream, &pairs, &count);
    if (err == OK && a->provider->auth != AUTH_SCHEME_NONE) {
        struct span text;
        err = credential_of(x, &text);
        if (err == OK)
            err = headers_credential(&x->arena, a->provider->auth, text, &secret, &needed);
    }
    if (err)
        return err;
    struct upstream_header *all = ARENA_ARRAY(&x->arena, count + 1, struct upstream_header);
    if (!all)
        return ERR_NOMEM;
    for (unsigned i = 0; i < count; i++)
        all[i] = (struct upstream_header){ .name = pairs[i].name, .value = pairs[i].value };
    a->secret = secret.value;
    if (needed)
        all[count++] = (struct upstream_header){ .name = secret.name, .value = secret.value };
    *ret = all;
    *ret_count = count;
    return OK;
}

static void inflight(struct exchange *x, int by)
{
    _Atomic uint32_t *word = &x->core->region->inflight[x->attempt.label < MODELS_MAX ? x->attempt.label : 0];
    uint32_t was = atomic_load_explicit(word, memory_order_relaxed);
    atomic_store_explicit(word, by > 0 ? was + 1 : was - 1, memory_order_relaxed);
}

/* Sends the attempt that x->attempt describes. The reason why it could not be sent, or RETRY_FAILURES. */
static enum retry_failure send_attempt(struct exchange *x)
{
    struct attempt *a = &x->attempt;
    struct span path;
    struct upstream_header *headers;
    unsigned header_count;
    enum err err = headers_of(x, &headers, &header_count);
    if (err == ERR_NOT_FOUND || err == ERR_INVALID)
        return RETRY_NO_CREDENTIAL;
    if (err == OK)
        err = openai_chat_path(&x->arena, a->provider, a->model, x->ask.endpoint, &path);
    if (err == OK)
        err = openai_chat_body(&x->arena, &x->ask, a->provider, a->model, &a->body);
    if (err)
        return RETRY_NO_CAPACITY;
    const struct upstream_request request = { .provider = a->provider,
                                              .method = SPAN("POST"),
                                              .path = path,
                                              .headers = headers,
                                              .header_count = header_count,
                                              .body_parts = a->body.parts,
                                              .body_part_count = a->body.part_count,
                                              .connect_timeout_ms = a->timeouts.connect_ms,
                                              .response_head_bytes_max = EXCHANGE_HEAD_BYTES };
    err = upstream_start(x->core->lane, &request, &exchange_upstream_events, x, &a->upstream);
    if (err)
        a->upstream = NULL;
    return err ? RETRY_NO_CAPACITY : RETRY_FAILURES;
}

/* Why it is this model's turn, in words. */
static const char *because(struct exchange *x, const struct plan_step *step, bool again)
{
    if (again)
        return "is tried with another credential";
    const char *words = plan_reason_text(step->reason);
    if (x->attempts > 0 || (step->reason != PLAN_WEIGHT && step->reason != PLAN_LESS_LOADED))
        return words;
    const unsigned permille = x->plan.propensity_ppb / 1000000;
    char number[UNITS_U64_BYTES + 2];
    size_t digits = units_put_u64(permille / 10, number);
    number[digits++] = '.';
    number[digits++] = (char)('0' + permille % 10);
    const struct span parts[] = { span_cstr(words), SPAN(" ("), span_of(number, digits), SPAN("% likely)") };
    const struct span more = arena_join(&x->arena, parts, ARRAY_LEN(parts));
    return more.ptr ? more.ptr : words;
}

/* Everything the attempt holds from here on is given back by exchange_attempt_close. */
static void open_attempt(struct exchange *x, const struct plan_step *step, enum breaker_pass pass, bool again)
{
    struct attempt *a = &x->attempt;
    if (!again && x->attempts > 0)
        count_series(x, x->last_label, SERIES_FAILOVERS);
    if (!again)
        x->tried[x->tried_count++] = step->model; /* no more than attempts: may_try */
    x->last_label = a->label;
    x->last_model = a->model;
    a->pass = pass;
    a->running = true;
    a->status = 0;
    a->event_stream = false;
    a->retry_after_ms = 0;
    a->content_ns = 0;
    a->phase = UPSTREAM_CONNECTING;
    a->started_ns = clock_ns();
    x->rows[x->attempts] = (struct ledger_attempt){ .model = a->model->name,
                                                    .why = plan_reason_name(step->reason),
                                                    .because = because(x, step, again) };
    x->attempts++;
    x->done_seen = x->finished = false;
    x->finish = FINISH_NONE;
    x->feed_message = NULL;
    x->usage = (struct usage){ .known = false };
    x->content_bytes = 0;
    buf_clear(&x->answer);
    buf_clear(&x->down);
    inflight(x, 1);
    count_attempt(x);
}

static void point_at(struct exchange *x, uint32_t at)
{
    struct attempt *a = &x->attempt;
    const struct compiled *compiled = x->arm->compiled;
    uint32_t index = x->plan.steps[at].model;
    *a = (struct attempt){ .status = 0 };
    a->model = &compiled->artifact->models[index];
    a->provider = &compiled->artifact->providers[a->model->provider];
    a->label = compiled->model_labels[index];
    a->shared = board_model(x->core->board, a->label);
    a->timeouts = timeouts_of(x, a->model);
    a->credentials_left = a->provider->credentials.count;
    if (a->credentials_left)
        a->credential = (uint32_t)(x->core->credential_turn++ % a->credentials_left);
    x->price = x->arm->models[index].price;
}

static uint64_t after(uint64_t now_ms, uint64_t ms)
{
    return ms ? now_ms + ms : DEADLINE_NONE;
}

static void set_moments(struct exchange *x)
{
    const struct timeouts *t = &x->attempt.timeouts;
    uint64_t now_ms = core_now_ms(x->core);
    uint64_t first_ms = t->first_token_ms;
    if (first_ms && !x->ask.stream)
        first_ms += (uint64_t)EXCHANGE_WHOLE_IDLES * t->idle_ms;
    x->first_due = after(now_ms, first_ms);
    x->idle_due = DEADLINE_NONE;
    if (x->total_due == DEADLINE_NONE)
        x->total_due = after(now_ms, t->total_ms);
    /* From the first attempt on, not from a provider's head: most send theirs only with the first token, and the client
     * waits all the same. */
    if (x->ask.stream && x->hold_due == DEADLINE_NONE)
        x->hold_due = after(now_ms, t->hold_ms);
}

/* The last failure -> what the client is told. */
static enum outcome outcome_of_failure(const struct exchange *x)
{
    switch (x->last_failure) {
    case RETRY_TIMEOUT:
        return OUTCOME_UPSTREAM_TIMEOUT;
    case RETRY_STATUS:
        return x->last_status == 429 ? OUTCOME_UPSTREAM_LIMITED : OUTCOME_UPSTREAM_FAILED;
    case RETRY_NO_CREDENTIAL:
        return OUTCOME_NO_CANDIDATE;
    case RETRY_NO_CAPACITY:
        return OUTCOME_BUSY;
    case RETRY_CONNECT:
    case RETRY_TLS:
    case RETRY_RESET:
    case RETRY_PROTOCOL:
    case RETRY_ERROR_IN_200:
    case RETRY_REFUSAL_IN_200:
    case RETRY_EMPTY:
    case RETRY_GARBAGE:
    case RETRY_TOO_LARGE:
    case RETRY_FAILURES:
        break;
    }
    return OUTCOME_UPSTREAM_FAILED;
}

static enum err name_ceiling(const struct exchange *x, struct buf *text)
{
    char spent[UNITS_TEXT_BYTES], next[UNITS_TEXT_BYTES], most[UNITS_TEXT_BYTES];
    return buf_printf(text,
                      " No further attempt was made: those that were sent may cost %s USD, the next is estimated at %s "
                      "USD, and the route allows %s USD for one request.",
                      units_format_usd(x->spent_nano, spent), units_format_usd(x->refused_nano, next),
                      units_format_usd(x->target.route->max_cost_nano, most));
}

/* "No model answered: openai/gpt-4o (status 500), vllm/llama (timeout). Try again." */
static void give_up(struct exchange *x)
{
    struct buf text = BUF_INIT(4096);
    enum err err = buf_append(&text, SPAN("No model answered: "));
    for (unsigned i = 0; i < x->attempts && err == OK; i++) {
        const struct ledger_attempt *row = &x->rows[i];
        err = buf_printf(&text, "%s" SPAN_FMT " (", i ? ", " : "", SPAN_ARG(row->model));
        if (err == OK && row->status && row->status / 100 != 2)
            err = buf_printf(&text, "status %u)", row->status);
        else if (err == OK)
            err = buf_printf(&text, "%s)", row->error ? row->error : "failed");
    }
    if (err == OK)
        err = buf_append_byte(&text, '.');
    if (err == OK && x->refused_nano)
        err = name_ceiling(x, &text);
    if (err == OK)
        err = buf_append(&text, SPAN(" Try again."));
    const char *message = err == OK && x->attempts ? buf_cstr(&text) : NULL;
    exchange_refuse(x, &(struct reply_error){ .outcome = x->attempts ? outcome_of_failure(x) : OUTCOME_NO_CANDIDATE,
                                              .message = message,
                                              .retry_after_s = (x->retry_after_ms + 999) / 1000 });
    buf_release(&text);
}

uint32_t exchange_attempts_max(const struct exchange *x)
{
    /* Without a route it is one model, with each of its credentials once. */
    const struct route *route = x->target.route;
    return route && route->attempts < ATTEMPTS_MAX ? route->attempts : ATTEMPTS_MAX;
}

void exchange_note_ceiling(struct exchange *x, int64_t estimate_nano)
{
    if (!x->refused_nano || estimate_nano < x->refused_nano)
        x->refused_nano = estimate_nano;
}

/* A shadow keeps away from a model that clients are kept from, but neither probes it nor has a say. */
static enum breaker_pass enter(struct exchange *x, bool forced)
{
    _Atomic uint64_t *breaker = &x->attempt.shared->breaker;
    const uint64_t now_ms = core_now_ms(x->core);
    if (!x->shadow)
        return breaker_enter(breaker, forced, now_ms);
    return forced || breaker_state(atomic_load(breaker), now_ms) == BREAKER_CLOSED ? BREAKER_PASS_ORDINARY
                                                                                   : BREAKER_PASS_REFUSED;
}

/* Attempts after the first need a place in the worker's retry budget. */
static bool may_try(struct exchange *x)
{
    if (x->attempts >= exchange_attempts_max(x))
        return false;
    if (x->attempts == 0 || x->shadow)
        return true; /* how many shadows there are is bounded, and a client's retry shall find its place */
    x->attempt.holds_place = retry_take(&x->core->retries);
    return x->attempt.holds_place;
}

void exchange_next_attempt(struct exchange *x)
{
    while (x->next_step < x->plan.count || exchange_plan_again(x)) {
        const struct plan_step *step = &x->plan.steps[x->next_step];
        bool again = x->again;
        x->again = false;
        if (select_too_dear(x->target.route, x->spent_nano, step->estimate_nano)) {
            exchange_note_ceiling(x, step->estimate_nano);
            x->next_step++;
            continue;
        }
        if (!again)
            point_at(x, x->next_step);
        const enum breaker_pass pass = enter(x, again || step->forced);
        if (pass == BREAKER_PASS_REFUSED) {
            x->next_step++; /* another request probes it now */
            x->last_failure = x->attempts ? x->last_failure : RETRY_CONNECT;
            continue;
        }
        if (!may_try(x)) {
            if (pass == BREAKER_PASS_PROBE)
                (void)breaker_probe_end(&x->attempt.shared->breaker, BREAKER_PROBE_ABANDONED, core_now_ms(x->core));
            break;
        }
        open_attempt(x, step, pass, again);
        enum retry_failure failure = send_attempt(x);
        if (failure == RETRY_FAILURES) {
            exchange_go(x, EXCHANGE_TRYING);
            exchange_account(x);
            set_moments(x);
            exchange_rest(x);
            exchange_rearm(x);
            return;
        }
        x->last_failure = failure;
        x->last_status = 0;
        count_failure(x, false);
        exchange_attempt_abandon(x);
        x->rows[x->attempts - 1].error = retry_failure_name(failure);
        x->next_step++;
    }
    give_up(x);
}

static void verdict(struct exchange *x, bool failed)
{
    struct attempt *a = &x->attempt;
    uint64_t now_ms = core_now_ms(x->core);
    bool changed = false;
    if (x->shadow) {
        a->pass = BREAKER_PASS_REFUSED; /* its arm may have timeouts that no client has agreed to */
        return;
    }
    if (a->pass == BREAKER_PASS_ORDINARY)
        changed = breaker_record(&a->shared->breaker, &a->shared->breaker_extra, failed, now_ms);
    else if (a->pass == BREAKER_PASS_PROBE)
        changed =
            breaker_probe_end(&a->shared->breaker, failed ? BREAKER_PROBE_FAILURE : BREAKER_PROBE_SUCCESS, now_ms);
    if (changed)
        log_warn("breaker.changed", LOG_SPAN("model", a->model->name),
                 LOG_STR("state", breaker_state_name(breaker_state(atomic_load(&a->shared->breaker), now_ms))));
    a->pass = BREAKER_PASS_REFUSED;
}

void exchange_attempt_succeeded(struct exchange *x)
{
    struct attempt *a = &x->attempt;
    verdict(x, false);
    a->content_ns = clock_ns();
    uint64_t ttft_us = (a->content_ns - a->started_ns) / 1000;
    x->rows[x->attempts - 1].ttft_us = ttft_us;
    if (!x->ask.stream)
        return; /* the time of a whole answer says nothing about first tokens */
    x->ttft_us = ttft_us;
    board_hist_add(&exchange_arm(x)->ttft_us, ttft_us);
    if (x->shadow)
        return;
    uint64_t old = atomic_load_explicit(&a->shared->ttft_ewma_us, memory_order_relaxed);
    uint64_t ewma = old ? (old * 7 + ttft_us) / 8 : ttft_us; /* a lost update between workers is one sample less */
    atomic_store_explicit(&a->shared->ttft_ewma_us,
                          (uint32_t)(ewma > UINT32_MAX ? UINT32_MAX
                                     : ewma            ? ewma
                                                       : 1),
                          memory_order_relaxed);
    board_hist_add(&series_of(x, a->label)->ttft_us, ttft_us);
}

/* The lane is through with its headers. What is freed may be read again by whoever gets the memory next. */
static void forget_secret(struct attempt *a)
{
    if (a->secret.len)
        explicit_bzero((char *)(uintptr_t)a->secret.ptr, a->secret.len);
    a->secret = SPAN("");
}

void exchange_attempt_close(struct exchange *x, const char *error)
{
    struct attempt *a = &x->attempt;
    if (!a->running)
        return;
    if (a->upstream) {
        a->phase = upstream_phase(a->upstream);
        upstream_cancel(a->upstream);
        a->upstream = NULL;
    }
    forget_secret(a);
    a->running = false;
    x->paused = false;
    struct ledger_attempt *row = &x->rows[x->attempts - 1];
    row->status = a->status;
    row->error = error;
    row->duration_us = (clock_ns() - a->started_ns) / 1000;
    inflight(x, -1);
    if (a->holds_place)
        retry_give(&x->core->retries);
    a->holds_place = false;
    if (x->framing)
        sse_release(&x->framer);
    event_mold_release(&x->mold);
    x->framing = false;
    exchange_account(x);
    x->first_due = x->idle_due = x->tail_due = DEADLINE_NONE;
}

void exchange_attempt_abandon(struct exchange *x)
{
    struct attempt *a = &x->attempt;
    if (!a->running)
        return;
    if (a->pass == BREAKER_PASS_PROBE)
        (void)breaker_probe_end(&a->shared->breaker, BREAKER_PROBE_ABANDONED, core_now_ms(x->core));
    a->pass = BREAKER_PASS_REFUSED;
    exchange_attempt_close(x, x->content_seen ? NULL : "abandoned");
}

void exchange_attempt_broke(struct exchange *x)
{
    struct attempt *a = &x->attempt;
    count_failure(x, false);
    /* Its success at first content was a verdict already; an ordinary failure follows. */
    if (!x->shadow && breaker_record(&a->shared->breaker, &a->shared->breaker_extra, true, core_now_ms(x->core)))
        log_warn("breaker.changed", LOG_SPAN("model", a->model->name), LOG_STR("state", "open"));
    exchange_attempt_close(x, "truncated");
}

/* Sent, and without an answer that tells what it cost: its provider may bill it. */
static void note_spent(struct exchange *x)
{
    if (x->attempt.phase >= UPSTREAM_SENT &&
        __builtin_add_overflow(x->spent_nano, x->plan.steps[x->next_step].estimate_nano, &x->spent_nano))
        x->spent_nano = INT64_MAX;
}

void exchange_attempt_overdue(struct exchange *x)
{
    struct attempt *a = &x->attempt;
    if (!a->running || x->content_seen)
        return;
    count_failure(x, true);
    /* The last of a chain may have had next to no time: that says nothing about it. */
    if ((clock_ns() - a->started_ns) * 2 >= clock_ns() - x->began_ns)
        verdict(x, true);
    exchange_attempt_abandon(x);
    x->rows[x->attempts - 1].error = retry_failure_name(RETRY_TIMEOUT);
    note_spent(x);
}

static void credential_refused(struct exchange *x)
{
    struct core *core = x->core;
    uint64_t now_ms = core_now_ms(core);
    if (now_ms - core->credentials_read_ms < CREDENTIALS_READ_EVERY_MS || !core->config->credentials)
        return;
    core->credentials_read_ms = now_ms;
    log_warn("credential.refused", LOG_SPAN("provider", x->attempt.provider->name),
             LOG_U64("status", x->attempt.status));
    (void)credentials_refresh(core->config->credentials);
}

void exchange_attempt_failed(struct exchange *x, enum retry_failure failure)
{
    struct attempt *a = &x->attempt;
    struct core *core = x->core;
    struct retry_rule rule = retry_rule(failure, a->status, x->content_seen);
    x->last_failure = failure;
    x->last_status = failure == RETRY_STATUS ? a->status : 0;
    if (rule.pass_through) {
        verdict(x, false);
        exchange_pass(x);
        return;
    }
    if (rule.breaker)
        verdict(x, true);
    else if (a->pass == BREAKER_PASS_ORDINARY)
        a->pass = BREAKER_PASS_REFUSED;
    count_failure(x, failure == RETRY_TIMEOUT);
    if (a->retry_after_ms && (!x->retry_after_ms || a->retry_after_ms < x->retry_after_ms))
        x->retry_after_ms = a->retry_after_ms;
    if (rule.cool_down && a->retry_after_ms && a->label && a->label < MODELS_MAX)
        core->cool_until_ms[a->label] = core_now_ms(core) + a->retry_after_ms;
    log_debug("attempt.failed", LOG_STR("request", x->request_id), LOG_SPAN("model", a->model->name),
              LOG_STR("failure", retry_failure_name(failure)), LOG_U64("status", a->status));
    bool other_credential = rule.credential_bad && a->credentials_left > 0;
    if (rule.credential_bad)
        credential_refused(x);
    exchange_attempt_abandon(x); /* a probe without a verdict is given back */
    x->rows[x->attempts - 1].error = retry_failure_name(failure);
    x->usage = (struct usage){ .known = false }; /* of an answer that the client does not get */
    if (rule.maybe_billed)
        note_spent(x);
    x->again = other_credential;
    if (!other_credential)
        x->next_step++;
    if (!rule.next && !other_credential) {
        give_up(x);
        return;
    }
    exchange_go(x, EXCHANGE_RETRYING);
    exchange_rest(x);
    exchange_rearm(x);
}
