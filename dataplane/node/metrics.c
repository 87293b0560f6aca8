#include "dataplane/node/metrics.h"
#include "common/fault.h"
#include "common/json.h"
#include "dataplane/route/breaker.h"

#define LABEL_BYTES_MAX (2 * NAME_BYTES_MAX + 3) /* each byte escaped */

struct page { /* errors stick */
    const struct metrics_source *source;
    struct buf *out;
    struct tally all;
    enum err err;
};

static void say(struct page *p, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void say(struct page *p, const char *fmt, ...)
{
    va_list args;
    if (p->err)
        return;
    va_start(args, fmt);
    p->err = buf_vprintf(p->out, fmt, args);
    va_end(args);
}

static void family(struct page *p, const char *name, const char *type, const char *help)
{
    say(p, "# HELP fairlead_%s %s\n# TYPE fairlead_%s %s\n", name, help, name, type);
}

static void one(struct page *p, const char *name, const char *type, const char *help, uint64_t value)
{
    family(p, name, type, help);
    say(p, "fairlead_%s %llu\n", name, (unsigned long long)value);
}

/* Label value: backslash, quote and line feed are escaped. */
static const char *escaped(struct span text, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < text.len && n + 3 < LABEL_BYTES_MAX; i++) {
        const char c = text.ptr[i];
        if (c == '\\' || c == '"' || c == '\n')
            out[n++] = '\\';
        out[n++] = c == '\n' ? 'n' : c;
    }
    out[n] = '\0';
    return out;
}

struct labels {
    char team[LABEL_BYTES_MAX], route[LABEL_BYTES_MAX], provider[LABEL_BYTES_MAX], model[LABEL_BYTES_MAX];
};

static void model_labels(const struct page *p, uint32_t model, struct labels *ret)
{
    const struct span name =
        model == BOARD_OTHER ? SPAN("none") : board_label_name(p->source->board, BOARD_LABEL_MODEL, model);
    const size_t slash = span_find_byte(name, '/');
    (void)escaped(name, ret->model);
    (void)escaped(slash == SIZE_MAX ? name : span_head(name, slash), ret->provider);
}

static void name_labels(const struct page *p, const struct tally_series *s, struct labels *ret)
{
    (void)escaped(board_label_name(p->source->board, BOARD_LABEL_TEAM, s->team), ret->team);
    (void)escaped(board_label_name(p->source->board, BOARD_LABEL_ROUTE, s->route), ret->route);
    model_labels(p, s->model, ret);
}

/* ---- by team, route and model ---- */

struct counter_row { /* rows of one family stand together */
    const char *name, *help;
    enum series_counter counter;
    const char *label; /* one more: outcome="ok"; "" for none */
};
static const struct counter_row counter_rows[] = {
    { "requests_total", "Client requests, by how they ended.", SERIES_OK, ",outcome=\"ok\"" },
    { "requests_total", NULL, SERIES_CLIENT_ERRORS, ",outcome=\"client_error\"" },
    { "requests_total", NULL, SERIES_ERRORS, ",outcome=\"error\"" },
    { "requests_total", NULL, SERIES_CANCELLED, ",outcome=\"cancelled\"" },
    { "requests_settled_total", "Client requests, all of them.", SERIES_REQUESTS, "" },
    { "streams_total", "Requests answered as a stream.", SERIES_STREAMS, "" },
    { "truncated_total", "Answers that failed after their first content.", SERIES_TRUNCATED, "" },
    { "attempts_total", "Tries at this model.", SERIES_ATTEMPTS, "" },
    { "attempt_failures_total", "Tries at this model that failed.", SERIES_ATTEMPT_FAILURES, "" },
    { "attempt_timeouts_total", "Tries at this model that timed out.", SERIES_ATTEMPT_TIMEOUTS, "" },
    { "failovers_total", "Requests that moved on from this model.", SERIES_FAILOVERS, "" },
    { "tokens_total", "Tokens, by kind.", SERIES_TOKENS_INPUT, ",kind=\"input\"" },
    { "tokens_total", NULL, SERIES_TOKENS_CACHED, ",kind=\"cached\"" },
    { "tokens_total", NULL, SERIES_TOKENS_OUTPUT, ",kind=\"output\"" },
    { "tokens_total", NULL, SERIES_TOKENS_REASONING, ",kind=\"reasoning\"" },
    { "estimated_total", "Requests whose usage was estimated.", SERIES_ESTIMATED, "" },
};

/* A worker's last resort is there from the beginning; it is worth no line before it is used. */
static bool unused(const struct tally_series *s)
{
    return s->counters[SERIES_REQUESTS] == 0 && s->counters[SERIES_ATTEMPTS] == 0;
}

static void say_counter(struct page *p, const char *name, const char *more, enum series_counter counter)
{
    const struct tally_series *s;
    struct labels l;
    for (uint32_t at = 0; !p->err && (s = tally_each(&p->all, &at));) {
        if (unused(s))
            continue;
        name_labels(p, s, &l);
        say(p, "fairlead_%s{team=\"%s\",route=\"%s\",provider=\"%s\",model=\"%s\"%s} ", name, l.team, l.route,
            l.provider, l.model, more);
        const uint64_t value = s->counters[counter];
        if (counter == SERIES_COST_NANO || counter == SERIES_COST_LIST_NANO) /* exact: money is no float here */
            say(p, "%llu.%09llu\n", (unsigned long long)(value / 1000000000u),
                (unsigned long long)(value % 1000000000u));
        else
            say(p, "%llu\n", (unsigned long long)value);
    }
}

static void series(struct page *p)
{
    for (size_t i = 0; i < ARRAY_LEN(counter_rows); i++) {
        const struct counter_row *row = &counter_rows[i];
        if (row->help)
            family(p, row->name, "counter", row->help);
        say_counter(p, row->name, row->label, row->counter);
    }
    family(p, "cost_usd_total", "counter", "US dollars charged.");
    say_counter(p, "cost_usd_total", "", SERIES_COST_NANO);
    family(p, "cost_list_usd_total", "counter", "US dollars at list prices.");
    say_counter(p, "cost_list_usd_total", "", SERIES_COST_LIST_NANO);
}

/* ---- histograms ---- */

static const uint32_t bounds_us[] = { 5000,    10000,   25000,   50000,    100000,   250000,   500000,
                                      1000000, 2500000, 5000000, 10000000, 30000000, 60000000, 120000000 };
static const uint32_t overhead_bounds_us[] = { 20,   50,    100,   200,   500,    1000,   2000,
                                               5000, 10000, 25000, 50000, 100000, 250000, 1000000 };

/* A bucket counts below a bound when all of it lies there: at most one bucket's width (1/16) is told too high. */
static void say_hist(struct page *p, const char *name, const char *labels, const struct hist *hist,
                     const uint32_t *bounds, size_t bound_count)
{
    const char *comma = labels[0] ? "," : "";
    uint64_t below = 0;
    unsigned bucket = 0;
    for (size_t i = 0; i < bound_count; i++) {
        for (; bucket < HIST_BUCKETS && hist_bucket_ceiling(bucket) <= bounds[i]; bucket++)
            below += hist->buckets[bucket];
        say(p, "fairlead_%s_bucket{%s%sle=\"%g\"} %llu\n", name, labels, comma, bounds[i] / 1e6,
            (unsigned long long)below);
    }
    for (; bucket < HIST_BUCKETS;
         bucket++) /* count and buckets are not read in one instant: of the two, buckets hold */
        below += hist->buckets[bucket];
    say(p, "fairlead_%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, comma, (unsigned long long)below);
    const char *open = labels[0] ? "{" : "", *close = labels[0] ? "}" : "";
    say(p, "fairlead_%s_sum%s%s%s %llu.%06llu\n", name, open, labels, close, (unsigned long long)(hist->sum / 1000000u),
        (unsigned long long)(hist->sum % 1000000u));
    say(p, "fairlead_%s_count%s%s%s %llu\n", name, open, labels, close, (unsigned long long)below);
}

static void histograms(struct page *p)
{
    struct tally coarse = { .slots = NULL }; /* by route and model: by team, too, would be most of the page */
    const struct tally_series *s;
    for (uint32_t at = 0; (s = tally_each(&p->all, &at));) {
        struct tally_series *into = tally_series(&coarse, 0, s->route, s->model);
        if (into)
            tally_merge_series(into, s);
    }
    for (int which = 0; which < 2; which++) {
        const char *name = which ? "duration_seconds" : "ttft_seconds";
        family(p, name, "histogram",
               which ? "From the request's head to the answer's end."
                     : "From the request's head to the first content.");
        for (uint32_t at = 0; !p->err && (s = tally_each(&coarse, &at));) {
            char text[3 * LABEL_BYTES_MAX + 64];
            struct labels l;
            if (unused(s))
                continue;
            name_labels(p, s, &l);
            (void)snprintf(text, sizeof(text), "route=\"%s\",provider=\"%s\",model=\"%s\"", l.route, l.provider,
                           l.model);
            say_hist(p, name, text, which ? &s->duration_us : &s->ttft_us, bounds_us, ARRAY_LEN(bounds_us));
        }
    }
    family(p, "overhead_seconds", "histogram", "What Fairlead itself added to a request.");
    say_hist(p, "overhead_seconds", "", &p->all.overhead_us, overhead_bounds_us, ARRAY_LEN(overhead_bounds_us));
    tally_release(&coarse);
}

/* ---- by arm ---- */

struct arm_row {
    const char *name, *help;
    enum arm_counter counter;
    const char *label;
};
static const struct arm_row arm_rows[] = {
    { "arm_requests_total", "Requests by the arm that they obeyed, by how they ended.", ARM_OK, ",outcome=\"ok\"" },
    { "arm_requests_total", NULL, ARM_CLIENT_ERRORS, ",outcome=\"client_error\"" },
    { "arm_requests_total", NULL, ARM_ERRORS, ",outcome=\"error\"" },
    { "arm_requests_total", NULL, ARM_CANCELLED, ",outcome=\"cancelled\"" },
    { "arm_attempts_total", "Tries at models.", ARM_ATTEMPTS, "" },
    { "arm_attempt_failures_total", "Tries at models that failed.", ARM_ATTEMPT_FAILURES, "" },
    { "arm_tokens_total", "Tokens, by kind.", ARM_TOKENS_INPUT, ",kind=\"input\"" },
    { "arm_tokens_total", NULL, ARM_TOKENS_CACHED, ",kind=\"cached\"" },
    { "arm_tokens_total", NULL, ARM_TOKENS_OUTPUT, ",kind=\"output\"" },
    { "arm_tokens_total", NULL, ARM_TOKENS_REASONING, ",kind=\"reasoning\"" },
    { "arm_cost_usd_total", "US dollars charged; of shadows: spent.", ARM_COST_NANO, "" },
    { "arm_cost_list_usd_total", "US dollars at list prices.", ARM_COST_LIST_NANO, "" },
};

/* policy="17": the same number as in the header x-fairlead-policy. */
static const char *arm_labels(const struct tally_arm *arm, char *out, size_t size)
{
    char name[LABEL_BYTES_MAX];
    (void)snprintf(out, size, "policy=\"%u\",arm=\"%s\",traffic=\"%s\"", arm->version,
                   escaped(span_of(arm->name, arm->name_len), name), arm->shadow ? "shadow" : "clients");
    return out;
}

static void arms(struct page *p)
{
    char labels[LABEL_BYTES_MAX + 64];
    for (size_t i = 0; i < ARRAY_LEN(arm_rows); i++) {
        const struct arm_row *row = &arm_rows[i];
        if (row->help)
            family(p, row->name, "counter", row->help);
        for (uint32_t a = 0; a < p->all.arm_count && !p->err; a++) {
            const uint64_t value = p->all.arms[a].counters[row->counter];
            say(p, "fairlead_%s{%s%s} ", row->name, arm_labels(&p->all.arms[a], labels, sizeof(labels)), row->label);
            if (row->counter == ARM_COST_NANO || row->counter == ARM_COST_LIST_NANO)
                say(p, "%llu.%09llu\n", (unsigned long long)(value / 1000000000u),
                    (unsigned long long)(value % 1000000000u));
            else
                say(p, "%llu\n", (unsigned long long)value);
        }
    }
    family(p, "arm_ttft_seconds", "histogram", "From the start of the attempt that served to its first content.");
    for (uint32_t a = 0; a < p->all.arm_count && !p->err; a++)
        say_hist(p, "arm_ttft_seconds", arm_labels(&p->all.arms[a], labels, sizeof(labels)), &p->all.arms[a].ttft_us,
                 bounds_us, ARRAY_LEN(bounds_us));
}

/* ---- models ---- */

static void models(struct page *p)
{
    static const enum breaker_state states[] = { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN, BREAKER_PROBING };
    struct board *board = p->source->board;
    const uint32_t count = board_label_count(board, BOARD_LABEL_MODEL);
    struct labels l;
    family(p, "breaker_state", "gauge", "1 for the state that a model's breaker is in.");
    for (uint32_t id = 1; id < count && id < MODELS_MAX && !p->err; id++) {
        const enum breaker_state now = breaker_state(atomic_load(&board_model(board, id)->breaker), p->source->now_ms);
        model_labels(p, id, &l);
        for (size_t i = 0; i < ARRAY_LEN(states); i++)
            say(p, "fairlead_breaker_state{provider=\"%s\",model=\"%s\",state=\"%s\"} %d\n", l.provider, l.model,
                breaker_state_name(states[i]), states[i] == now);
    }
    family(p, "outstanding_attempts", "gauge", "Tries at this model that run now.");
    for (uint32_t id = 1; id < count && id < MODELS_MAX && !p->err; id++) {
        model_labels(p, id, &l);
        say(p, "fairlead_outstanding_attempts{provider=\"%s\",model=\"%s\"} %u\n", l.provider, l.model,
            board_inflight(board, id));
    }
}

struct certificate_row {
    struct span provider;
    int64_t expires_at_ms;
};

static int by_provider_then_date(const void *left, const void *right)
{
    const struct certificate_row *a = left, *b = right;
    const int order = span_cmp(a->provider, b->provider);
    return order ? order : (a->expires_at_ms > b->expires_at_ms) - (a->expires_at_ms < b->expires_at_ms);
}

/* For each provider the earliest that one of its models has met. */
static void certificates(struct page *p)
{
    struct board *board = p->source->board;
    const uint32_t labels = board_label_count(board, BOARD_LABEL_MODEL);
    struct certificate_row *rows = fault_calloc(MODELS_MAX, sizeof(*rows));
    uint32_t count = 0;
    family(p, "certificate_expires_seconds", "gauge",
           "Seconds until the provider's certificate expires, as last met by a request; negative: it has.");
    if (!rows)
        p->err = p->err ? p->err : ERR_NOMEM;
    for (uint32_t id = 1; rows && id < labels && id < MODELS_MAX; id++) {
        const int64_t at_ms = atomic_load(&board_model(board, id)->certificate_expires_at_ms);
        const struct span name = board_label_name(board, BOARD_LABEL_MODEL, id);
        const size_t slash = span_find_byte(name, '/');
        if (at_ms != 0)
            rows[count++] = (struct certificate_row){ .provider = slash == SIZE_MAX ? name : span_head(name, slash),
                                                      .expires_at_ms = at_ms };
    }
    if (count > 0)
        qsort(rows, count, sizeof(*rows), by_provider_then_date);
    for (uint32_t i = 0; i < count; i++) {
        char provider[LABEL_BYTES_MAX];
        if (i > 0 && span_eq(rows[i].provider, rows[i - 1].provider))
            continue;
        say(p, "fairlead_certificate_expires_seconds{provider=\"%s\"} %.3f\n", escaped(rows[i].provider, provider),
            (double)(rows[i].expires_at_ms - p->source->wall_ms) / 1000.0);
    }
    free(rows);
}

/* ---- the node ---- */

struct worker_row {
    const char *name, *type, *help;
    enum worker_counter counter;
};
static const struct worker_row worker_rows[] = {
    { "connections_accepted_total", "counter", "Client connections accepted.", WORKER_CONNECTIONS_ACCEPTED },
    { "connections_refused_total", "counter", "Client connections over the cap.", WORKER_CONNECTIONS_REFUSED },
    { "connections_open", "gauge", "Client connections open.", WORKER_CONNECTIONS_OPEN },
    { "requests_open", "gauge", "Requests under way.", WORKER_REQUESTS_OPEN },
    { "streams_open", "gauge", "Streams under way.", WORKER_STREAMS_OPEN },
    { "buffered_bytes", "gauge", "Bodies, answers and unsent output held in memory.", WORKER_BYTES_BUFFERED },
    { "table_switches_total", "counter", "Tables taken by workers.", WORKER_TABLE_SWITCHES },
    { "table_errors_total", "counter", "Tables that a worker could not take.", WORKER_TABLE_ERRORS },
    { "bad_requests_total", "counter", "Malformed HTTP.", WORKER_BAD_REQUESTS },
    { "unauthorized_total", "counter", "Requests without a valid key.", WORKER_UNAUTHORIZED },
    { "upstream_connects_total", "counter", "Connections made to providers.", WORKER_UPSTREAM_CONNECTS },
    { "upstream_reused_total", "counter", "Tries over a connection that was there.", WORKER_UPSTREAM_REUSED },
    { "shadows_open", "gauge", "Shadow requests under way.", WORKER_SHADOWS_OPEN },
    { "shadows_skipped_total", "counter", "Shadow requests not sent: a worker had enough to do.",
      WORKER_SHADOWS_SKIPPED },
    { "loop_turns_total", "counter", "Turns of the workers' loops.", WORKER_LOOP_TURNS },
};

static void version_gauge(struct page *p, const char *name, const char *help, uint64_t committed, uint64_t serving)
{
    family(p, name, "gauge", help);
    say(p, "fairlead_%s{of=\"committed\"} %llu\nfairlead_%s{of=\"serving\"} %llu\n", name,
        (unsigned long long)committed, name, (unsigned long long)serving);
}

static uint64_t unresolved_count(const struct metrics_source *s)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < s->replica->credentials.count; i++)
        count += !credentials_resolved(s->config->credentials, s->replica->credentials.items[i]);
    return count;
}

static void tables(struct page *p)
{
    const struct replica *r = p->source->replica;
    static const char *const kinds[] = { [OBJECT_HEAD] = "head",
                                         [OBJECT_ARTIFACT] = "artifact",
                                         [OBJECT_EVIDENCE] = "evidence",
                                         [OBJECT_DIRECTORY] = "directory" };
    version_gauge(p, "epoch", "Epoch of the table.", r->committed.epoch, r->serving.epoch);
    version_gauge(p, "generation", "Generation of the table.", r->committed.generation, r->serving.generation);
    version_gauge(p, "evidence_sequence", "Sequence of the evidence.", r->committed.evidence_seq,
                  r->serving.evidence_seq);
    version_gauge(p, "directory_sequence", "Sequence of the directory.", r->committed.directory_seq,
                  r->serving.directory_seq);
    family(p, "evidence_expires_seconds", "gauge", "Seconds until the evidence expires; negative: it has.");
    if (r->evidence_expires_at_ms)
        say(p, "fairlead_evidence_expires_seconds %.3f\n",
            (double)(r->evidence_expires_at_ms - p->source->wall_ms) / 1000.0);
    family(p, "nacks_total", "counter", "Objects refused, by kind.");
    for (size_t kind = OBJECT_HEAD; kind < ARRAY_LEN(kinds); kind++)
        say(p, "fairlead_nacks_total{kind=\"%s\"} %llu\n", kinds[kind], (unsigned long long)r->nacks_by_kind[kind]);
    one(p, "table_commits_total", "counter", "Changes of the table committed to the store.", r->applies);
    one(p, "table_reverts_total", "counter", "Tables reverted because workers crashed.", r->reverts);
    one(p, "table_pinned", "gauge", "1 while the table is pinned by hand.", r->pinned);
    one(p, "control_connected", "gauge", "1 while the control plane answers.", r->contact);
    one(p, "unresolved_credentials", "gauge", "Credentials that the policy names and this node does not have.",
        unresolved_count(p->source));
}

static void node(struct page *p)
{
    const struct metrics_source *s = p->source;
    family(p, "build_info", "gauge", "Always 1.");
    say(p, "fairlead_build_info{version=\"%s\"} 1\n", FAIRLEAD_VERSION);
    one(p, "uptime_seconds", "gauge", "Since this master began.", (s->now_ms - s->started_ms) / 1000);
    one(p, "workers", "gauge", "Worker processes wanted.", s->supervisor->slot_count);
    one(p, "workers_up", "gauge", "Worker processes that serve.", supervisor_up(s->supervisor));
    one(p, "worker_stuck_total", "counter", "Workers whose loop did not turn and that were replaced for it.", s->stuck);
    one(p, "worker_starved_total", "counter", "Times that a worker wanted to run and got no CPU for too long.",
        s->starved);
    one(p, "worker_restarts_total", "counter", "Worker processes that ended unasked.", s->supervisor->restarts);
    for (size_t i = 0; i < ARRAY_LEN(worker_rows); i++)
        one(p, worker_rows[i].name, worker_rows[i].type, worker_rows[i].help, p->all.workers[worker_rows[i].counter]);
    one(p, "records_written_total", "counter", "Request records written.", s->records->written);
    family(p, "records_dropped_total", "counter", "Request records lost, by where.");
    say(p, "fairlead_records_dropped_total{where=\"ring\"} %llu\n",
        (unsigned long long)p->all.workers[WORKER_RECORDS_DROPPED]);
    say(p, "fairlead_records_dropped_total{where=\"disk\"} %llu\n", (unsigned long long)s->records->dropped);
    one(p, "records_shipped_total", "counter", "Request records that the control plane acknowledged.",
        s->shipper->shipped);
    one(p, "records_ship_lost_total", "counter",
        "Request records whose segment was removed before they were acknowledged.", s->shipper->lost);
    family(p, "loop_age_seconds", "gauge", "Since a worker's loop last turned.");
    for (unsigned i = 0; i < s->supervisor->slot_count; i++) {
        const struct board_region *region = supervisor_region(s->supervisor, i);
        const uint64_t last = region ? atomic_load(&region->counters[WORKER_LOOP_LAST_MS]) : 0;
        if (region)
            say(p, "fairlead_loop_age_seconds{slot=\"%u\"} %.3f\n", i,
                last && s->now_ms > last ? (double)(s->now_ms - last) / 1000.0 : 0.0);
    }
}

enum err metrics_write(const struct metrics_source *source, struct buf *out)
{
    struct page p = { .source = source, .out = out };
    tally_sum(&p.all, source->ended, source->board);
    node(&p);
    tables(&p);
    series(&p);
    histograms(&p);
    arms(&p);
    models(&p);
    certificates(&p);
    tally_release(&p.all);
    return p.err;
}

/* ---- /readyz ---- */

enum err metrics_ready(const struct metrics_source *s, bool *ret_ready, struct buf *out)
{
    const size_t before = out->len;
    enum err err = OK;
    if (s->supervisor->draining)
        err = buf_append_cstr(out, "draining\n");
    if (!err && supervisor_up(s->supervisor) == 0)
        err = buf_append_cstr(out, "no worker is up\n");
    if (!err && s->replica->committed.generation == 0)
        err = buf_append_cstr(out, "no policy has arrived yet: push one, or look at the link to the control plane\n");
    else if (!err && s->replica->serving.generation == 0)
        err = buf_append_cstr(out, "a worker serves no table yet\n");
    *ret_ready = out->len == before;
    return err || !*ret_ready ? err : buf_append_cstr(out, "ready\n");
}

/* ---- /status ---- */

static void version_json(struct json_writer *w, const char *key, const struct table_version *v)
{
    json_key(w, span_cstr(key));
    json_object_open(w);
    json_member_u64(w, "epoch", v->epoch);
    json_member_u64(w, "generation", v->generation);
    json_member_u64(w, "evidence", v->evidence_seq);
    json_member_u64(w, "directory", v->directory_seq);
    json_object_close(w);
}

static void process_json(struct json_writer *w, const struct metrics_source *s, const struct process *p)
{
    const struct board_region *region = p->region == PROCESS_NO_REGION ? NULL : board_region(s->board, p->region);
    const uint64_t started_ms = p->started_ms || !region ? p->started_ms : atomic_load(&region->started_ms);
    json_member_u64(w, "pid", p->pid);
    json_member_bool(w, "adopted", p->adopted);
    json_member_u64(w, "roll", p->generation);
    json_member_u64(w, "age_ms", started_ms && s->now_ms > started_ms ? s->now_ms - started_ms : 0);
    json_member_u64(w, "connections", region ? atomic_load(&region->counters[WORKER_CONNECTIONS_OPEN]) : 0);
    json_member_u64(w, "requests", region ? atomic_load(&region->counters[WORKER_REQUESTS_OPEN]) : 0);
    json_member_u64(w, "generation", region ? atomic_load(&region->serving_generation) : 0);
}

static void workers_json(struct json_writer *w, const struct metrics_source *s)
{
    json_key(w, SPAN("workers"));
    json_array_open(w);
    for (unsigned i = 0; i < s->supervisor->slot_count; i++) {
        const struct slot *slot = &s->supervisor->slots[i];
        const struct process none = { .region = PROCESS_NO_REGION };
        json_object_open(w);
        json_member_u64(w, "slot", i);
        json_member_cstr(w, "state", slot_state_name(slot_state(slot)));
        json_member_u64(w, "starts", slot->starts);
        process_json(w, s, slot->process ? slot->process : &none);
        json_object_close(w);
    }
    json_array_close(w);
    json_key(w, SPAN("draining_workers")); /* beside those in the slots */
    json_array_open(w);
    for (const struct process *p = s->supervisor->processes; p; p = p->next) {
        if (p->state != PROCESS_DRAINING || s->supervisor->slots[p->slot].process == p)
            continue;
        json_object_open(w);
        json_member_u64(w, "slot", p->slot);
        process_json(w, s, p);
        json_member_i64(w, "killed_at_ms", p->kill_ms ? s->wall_ms + (int64_t)(p->kill_ms - s->now_ms) : 0);
        json_object_close(w);
    }
    json_array_close(w);
}

static void tables_json(struct json_writer *w, const struct replica *r)
{
    version_json(w, "committed", &r->committed);
    version_json(w, "serving", &r->serving);
    json_key(w, SPAN("arms"));
    json_array_open(w);
    for (uint32_t i = 0; i < r->arm_count; i++) {
        json_object_open(w);
        json_member_string(w, "arm", r->arms[i].name);
        json_member_u64(w, "version", r->arms[i].policy_version);
        json_member_decimal(w, "share", r->arms[i].share, 4);
        json_object_close(w);
    }
    json_array_close(w);
    json_member_bool(w, "pinned", r->pinned);
    json_member_bool(w, "control_connected", r->contact);
    json_member_i64(w, "evidence_expires_at_ms", r->evidence_expires_at_ms);
    json_key(w, SPAN("nacks"));
    json_array_open(w);
    for (unsigned i = 0; i < r->nack_count; i++) {
        json_object_open(w);
        json_member_u64(w, "kind", r->nacks[i].nack.kind);
        json_member_u64(w, "epoch", r->nacks[i].nack.epoch);
        json_member_u64(w, "seq", r->nacks[i].nack.seq);
        json_member_cstr(w, "reason", r->nacks[i].text);
        json_member_i64(w, "at_ms", r->nacks[i].nack.at_ms);
        json_object_close(w);
    }
    json_array_close(w);
}

static void change_json(struct json_writer *w, const struct heritage_change *last)
{
    if (!last || last->at_ms == 0)
        return;
    json_key(w, SPAN("last_change"));
    json_object_open(w);
    json_member_cstr(w, "change", last->upgrade ? "upgrade" : "reload");
    json_member_cstr(w, "outcome", last->failed ? "failed" : "done");
    if (last->failed)
        json_member_cstr(w, "why", last->why);
    json_member_i64(w, "at_ms", last->at_ms);
    json_member_u64(w, "ms", last->took_ms);
    json_object_close(w);
}

enum err metrics_status(const struct metrics_source *s, struct buf *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_open(&w);
    json_member_cstr(&w, "node", s->config->name);
    json_member_cstr(&w, "version", FAIRLEAD_VERSION);
    json_member_cstr(&w, "listen", s->listen);
    json_member_cstr(&w, "incarnation", s->replica->incarnation);
    json_member_u64(&w, "uptime_ms", s->now_ms - s->started_ms);
    json_member_bool(&w, "draining", s->supervisor->draining);
    json_member_u64(&w, "restarts", s->supervisor->restarts);
    tables_json(&w, s->replica);
    json_key(&w, SPAN("unresolved_credentials"));
    json_array_open(&w);
    for (uint32_t i = 0; i < s->replica->credentials.count; i++) {
        if (!credentials_resolved(s->config->credentials, s->replica->credentials.items[i]))
            json_put_string(&w, s->replica->credentials.items[i]);
    }
    json_array_close(&w);
    json_member_u64(&w, "records_written", s->records->written);
    json_member_u64(&w, "records_dropped", s->records->dropped);
    json_member_u64(&w, "records_shipped", s->shipper->shipped);
    json_member_u64(&w, "records_ship_lost", s->shipper->lost);
    json_member_u64(&w, "roll", s->supervisor->generation);
    change_json(&w, s->last_change);
    workers_json(&w, s);
    json_object_close(&w);
    enum err err = json_writer_end(&w);
    return err ? err : buf_append_byte(out, '\n');
}
