#include "common/clock.h"
#include "common/log.h"
#include "dataplane/account/usage.h"
#include "dataplane/worker/exchange_internal.h"
#include "dataplane/worker/stream.h"

static enum ledger_outcome ledger_of(enum outcome outcome)
{
    if (outcome == OUTCOME_OK)
        return LEDGER_OK;
    if (outcome == OUTCOME_CANCELLED)
        return LEDGER_CANCELLED;
    if (outcome == OUTCOME_TRUNCATED)
        return LEDGER_TRUNCATED;
    return outcome_is_clients(outcome) ? LEDGER_CLIENT_ERROR : LEDGER_ERROR;
}

static void count(struct exchange *x, enum outcome outcome, uint64_t duration_us)
{
    struct core *core = x->core;
    uint32_t route = 0, model = x->attempts ? x->last_label : 0;
    if (x->target.route)
        route = x->arm->compiled->route_labels[table_route_index(x->arm, x->target.route)];
    struct board_series *series =
        board_series(core->region, x->principal.team ? x->principal.team->label : 0, route, model);
    _Atomic uint64_t *c = series->counters;
    board_add(&c[SERIES_REQUESTS], 1);
    switch (ledger_of(outcome)) {
    case LEDGER_OK:
        board_add(&c[SERIES_OK], 1);
        break;
    case LEDGER_CLIENT_ERROR:
        board_add(&c[SERIES_CLIENT_ERRORS], 1);
        break;
    case LEDGER_CANCELLED:
        board_add(&c[SERIES_CANCELLED], 1);
        break;
    case LEDGER_TRUNCATED:
        board_add(&c[SERIES_TRUNCATED], 1);
        board_add(&c[SERIES_ERRORS], 1);
        break;
    case LEDGER_ERROR:
    case LEDGER_OUTCOMES:
        board_add(&c[SERIES_ERRORS], 1);
        break;
    }
    if (x->head_sent)
        board_add(&c[SERIES_STREAMS], 1);
    board_add(&c[SERIES_TOKENS_INPUT], x->usage.input);
    board_add(&c[SERIES_TOKENS_CACHED], x->usage.cached);
    board_add(&c[SERIES_TOKENS_OUTPUT], x->usage.output);
    board_add(&c[SERIES_TOKENS_REASONING], x->usage.reasoning);
    board_add(&c[SERIES_COST_NANO], (uint64_t)x->cost.charged_nano);
    board_add(&c[SERIES_COST_LIST_NANO], (uint64_t)x->cost.list_nano);
    if (x->usage.estimated)
        board_add(&c[SERIES_ESTIMATED], 1);
    board_hist_add(&series->duration_us, duration_us);
    if (x->attempts)
        board_hist_add(&core->region->overhead_us, x->overhead_ns / 1000);
}

static void count_in_arm(struct exchange *x, enum outcome outcome)
{
    static const enum arm_counter counters[] = { [LEDGER_OK] = ARM_OK,
                                                 [LEDGER_CLIENT_ERROR] = ARM_CLIENT_ERRORS,
                                                 [LEDGER_ERROR] = ARM_ERRORS,
                                                 [LEDGER_CANCELLED] = ARM_CANCELLED,
                                                 [LEDGER_TRUNCATED] = ARM_ERRORS };
    _Atomic uint64_t *c = exchange_arm(x)->counters;
    board_add(&c[counters[ledger_of(outcome)]], 1);
    board_add(&c[ARM_TOKENS_INPUT], x->usage.input);
    board_add(&c[ARM_TOKENS_CACHED], x->usage.cached);
    board_add(&c[ARM_TOKENS_OUTPUT], x->usage.output);
    board_add(&c[ARM_TOKENS_REASONING], x->usage.reasoning);
    board_add(&c[ARM_COST_NANO], (uint64_t)x->cost.charged_nano);
    board_add(&c[ARM_COST_LIST_NANO], (uint64_t)x->cost.list_nano);
}

static void record(struct exchange *x, enum outcome outcome, const char *error, uint64_t duration_us)
{
    struct core *core = x->core;
    const struct ledger_features features = { .input_tokens = usage_tokens_of_bytes(x->ask.input_bytes),
                                              .max_output = x->ask.max_output_tokens,
                                              .choices = x->ask.choices,
                                              .tools = x->ask.has_tools,
                                              .images = x->ask.has_images,
                                              .audio = x->ask.has_audio,
                                              .json = x->ask.wants_json };
    struct ledger_record r = { .time_ms = x->wall_ms,
                               .request_id = span_cstr(x->request_id),
                               .node = span_cstr(core->config->name),
                               .worker = core->slot,
                               .client = span_cstr(x->sink->client->client),
                               .key_id = x->key->id,
                               .team = x->key->team,
                               .asked = x->asked_model,
                               .endpoint = x->place.endpoint,
                               .stream = x->asked && x->ask.stream,
                               .attempt_count = x->attempts,
                               .propensity_ppb = x->plan.propensity_ppb,
                               .status = outcome == OUTCOME_CANCELLED && !x->status_sent ? outcome_status(outcome)
                                                                                         : x->status_sent,
                               .outcome = ledger_of(outcome),
                               .finish = x->finish,
                               .features = x->asked ? &features : NULL,
                               .error = error,
                               .message = x->refusal,
                               .usage = x->usage,
                               .cost = x->cost,
                               .input_bytes = x->input_bytes,
                               .output_bytes = x->output_bytes,
                               .ttft_us = x->ttft_us,
                               .total_us = duration_us,
                               .overhead_us = x->overhead_ns / 1000 };
    memcpy(r.attempts, x->rows, sizeof(r.attempts));
    if (x->attempts)
        r.model = x->rows[x->attempts - 1].model;
    if (x->target.route)
        r.route = x->target.route->name;
    if (x->arm) {
        r.arm = x->arm->arm->name;
        r.policy_version = x->arm->arm->policy_version;
        r.epoch = x->table->version.epoch;
        r.generation = x->table->version.generation;
        r.book_version = x->table->evidence ? x->table->evidence->book_version : 0;
    }
    if (x->arm_chosen) {
        r.arm_why = arm_why_name(x->choice.why);
        r.forced = x->choice.why == ARM_FORCED;
    }
    if (x->arm_chosen && x->choice.assignment) {
        r.assignment = x->choice.assignment->id;
        r.unit_kind = unit_kind_name(x->choice.unit_kind);
        r.unit = x->choice.unit;
    }
    if (x->arm && x->last_model) {
        const struct model_view *view = &x->arm->models[table_model_index(x->arm, x->last_model)];
        bool from_evidence = view->price != &x->last_model->price;
        r.price_source = view->price_source;
        r.price_stale = view->price_stale || (from_evidence && !table_evidence_valid(x->table, core_wall_ms(core)));
    }
    if (x->shadow)
        exchange_shadow_settle(x, &r);
    struct buf *out = &core->record;
    buf_clear(out);
    enum err err = ledger_write(&r, out);
    if (err == OK)
        err = board_record_put(core->region, buf_span(out));
    if (err)
        core_count(core, WORKER_RECORDS_DROPPED);
    buf_clear(out);
}

/* Strangers are counted (WORKER_UNAUTHORIZED) and leave no record: they must not be able to fill disks. */
void exchange_settle(struct exchange *x, enum outcome outcome, const char *error)
{
    if (!x->key)
        return;
    uint64_t duration_us = (clock_ns() - x->began_ns) / 1000;
    if (!x->shadow)
        count(x, outcome, duration_us);
    if (x->arm_chosen && !exchange_shadow_unsent(x))
        count_in_arm(x, outcome);
    if (x->place.endpoint != ENDPOINT_FEEDBACK || outcome != OUTCOME_OK) /* its line is the feedback itself */
        record(x, outcome, error, duration_us);
    if (x->content)
        exchange_content_settle(x);
}
