#include "controlplane/prober/prober.h"
#include "common/arena.h"
#include "common/buf.h"
#include "common/clock.h"
#include "common/digest.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/notify.h"
#include "controlplane/prober/probe.h"
#include "proto/channel.h"
#include "proto/wire.h"
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define JITTER_SHARE 5 /* a fifth of the interval, in all: a thousand probers must not ask in step */

/* One target and its probe. */
struct job {
    char *print;                /* all that the target says: another text is another target */
    struct probe_target target; /* in `arena` */
    struct arena arena;
    uint64_t next_ms;
    struct probe *probe;   /* under way, or NULL */
    bool done;             /* at least once */
    bool wanted;           /* in the last reply */
    bool was_ok, has_been; /* for the log: only turns are news */
};
struct prober {
    const struct prober_options *options;
    struct probe_setup setup;
    CURLM *multi;
    struct channel_client *link;
    struct notify manager;
    int signals;
    struct job **jobs;
    uint32_t job_count, job_capacity, running;
    struct probe_result results[PROBER_RESULTS_MAX];
    char (*texts)[256];                /* of results: provider's name, then why */
    uint32_t result_count, sent_count; /* the first sent_count are in the report that is in flight */
    struct buf report;                 /* in flight, or to go again */
    char incarnation[17];
    uint64_t seq;
    uint64_t report_at_ms;
    bool in_flight, known, stop;
    bool asked_in_vain; /* logged already */
    struct prng prng;
};

/* ---- targets ---- */

static char *fingerprint(const struct probe_target *t)
{
    struct buf text = BUF_INIT(64u << 10);
    enum err err =
        buf_printf(&text, SPAN_FMT "\n" SPAN_FMT "\n%d %d %d %u %u\n" SPAN_FMT "\n" SPAN_FMT "\n" SPAN_FMT,
                   SPAN_ARG(t->provider), SPAN_ARG(t->base_url), (int)t->how, (int)t->auth, (int)t->path_style,
                   t->every_ms, t->timeout_ms, SPAN_ARG(t->query), SPAN_ARG(t->model), SPAN_ARG(t->proxy));
    for (uint32_t i = 0; i < t->credentials.count && !err; i++)
        err = buf_printf(&text, "\n" SPAN_FMT, SPAN_ARG(t->credentials.items[i]));
    char *copy = err || !buf_cstr(&text) ? NULL : strdup(buf_cstr(&text));
    buf_release(&text);
    return copy;
}

static void job_stop(struct prober *p, struct job *job)
{
    if (!job->probe)
        return;
    curl_multi_remove_handle(p->multi, probe_handle(job->probe));
    probe_free(job->probe);
    job->probe = NULL;
    p->running--;
}

static void job_free(struct prober *p, struct job *job)
{
    job_stop(p, job);
    arena_release(&job->arena);
    free(job->print);
    free(job);
}

static struct job *job_new(const struct probe_target *t, char *print, uint64_t now_ms)
{
    struct job *job = fault_calloc(1, sizeof *job);
    if (!job)
        return NULL;
    arena_init(&job->arena, 64u << 10);
    struct span *names = ARENA_ARRAY(&job->arena, (size_t)t->credentials.count + 1, struct span);
    job->target = *t;
    job->target.provider = arena_dup(&job->arena, t->provider);
    job->target.base_url = arena_dup(&job->arena, t->base_url);
    job->target.query = arena_dup(&job->arena, t->query);
    job->target.model = arena_dup(&job->arena, t->model);
    job->target.proxy = arena_dup(&job->arena, t->proxy);
    bool good = names && job->target.provider.ptr && job->target.base_url.ptr && job->target.query.ptr &&
                job->target.model.ptr && job->target.proxy.ptr;
    for (uint32_t i = 0; i < t->credentials.count && good; i++) {
        names[i] = arena_dup(&job->arena, t->credentials.items[i]);
        good = names[i].ptr;
    }
    if (!good) {
        arena_release(&job->arena);
        free(job);
        return NULL;
    }
    job->target.credentials.items = names;
    job->print = print;
    job->next_ms = now_ms; /* a new provider's health is wanted now */
    return job;
}

static void want(struct prober *p, const struct probe_target *t, uint64_t now_ms)
{
    char *print = fingerprint(t);
    if (!print)
        return; /* comes again with the next reply */
    for (uint32_t i = 0; i < p->job_count; i++) {
        if (strcmp(p->jobs[i]->print, print) == 0) {
            p->jobs[i]->wanted = true;
            free(print);
            return;
        }
    }
    if (p->job_count == p->job_capacity) {
        uint32_t capacity = p->job_capacity ? 2 * p->job_capacity : 16;
        struct job **jobs = fault_realloc(p->jobs, capacity * sizeof(struct job *));
        if (!jobs) {
            free(print);
            return;
        }
        p->jobs = jobs;
        p->job_capacity = capacity;
    }
    struct job *job = job_new(t, print, now_ms);
    if (!job) {
        free(print);
        return;
    }
    job->wanted = true;
    p->jobs[p->job_count++] = job;
}

static void take_targets(struct prober *p, const struct evidence_reply *reply, uint64_t now_ms)
{
    uint32_t kept = 0, before = p->job_count;
    for (uint32_t i = 0; i < p->job_count; i++)
        p->jobs[i]->wanted = false;
    for (uint32_t i = 0; i < reply->target_count; i++) {
        if (reply->targets[i].how != PROBE_HOW_NONE)
            want(p, &reply->targets[i], now_ms);
    }
    for (uint32_t i = 0; i < p->job_count; i++) {
        if (p->jobs[i]->wanted)
            p->jobs[kept++] = p->jobs[i];
        else
            job_free(p, p->jobs[i]);
    }
    p->job_count = kept;
    if (kept != before || !p->known)
        log_info("targets", LOG_U64("count", kept));
    p->known = true;
}

/* ---- results ---- */

static void add_result(struct prober *p, const struct job *job, const struct probe_verdict *v)
{
    if (p->result_count == PROBER_RESULTS_MAX) {
        if (p->sent_count == PROBER_RESULTS_MAX)
            return;
        /* Drop the oldest that is not in flight. The spans of results point into texts of the same index. */
        uint32_t at = p->sent_count;
        memmove(p->results + at, p->results + at + 1, (p->result_count - at - 1) * sizeof *p->results);
        memmove(p->texts + at, p->texts + at + 1, (p->result_count - at - 1) * sizeof *p->texts);
        p->result_count--;
    }
    uint32_t at = p->result_count++;
    int named = snprintf(p->texts[at], sizeof p->texts[at], SPAN_FMT,
                         SPAN_ARG(span_head(job->target.provider, NAME_BYTES_MAX)));
    snprintf(p->texts[at] + named + 1, sizeof p->texts[at] - (size_t)named - 1, "%s", v->why);
    p->results[at] = (struct probe_result){ .ok = v->ok,
                                            .latency_us = v->latency_us,
                                            .at_ms = clock_wall_ms(),
                                            .certificate_expires_at_ms = v->certificate_expires_at_ms };
}

static void point_texts(struct prober *p)
{
    REQUIRE(p->texts);
    for (uint32_t i = 0; i < p->result_count; i++) {
        p->results[i].provider = span_cstr(p->texts[i]);
        p->results[i].why = span_cstr(p->texts[i] + strlen(p->texts[i]) + 1);
        p->results[i].model = SPAN("");
    }
}

static void drop_sent(struct prober *p)
{
    REQUIRE(p->texts && p->sent_count <= p->result_count);
    p->result_count -= p->sent_count;
    memmove(p->results, p->results + p->sent_count, p->result_count * sizeof *p->results);
    memmove(p->texts, p->texts + p->sent_count, p->result_count * sizeof *p->texts);
    p->sent_count = 0;
}

/* ---- the link ---- */

static void on_reply(void *user, enum err err, struct span bytes)
{
    struct prober *p = user;
    struct evidence_reply *reply;
    struct arena arena;
    p->in_flight = false;
    arena_init(&arena, 64u << 20);
    if (!err)
        err = wire_decode_evidence_reply(&arena, bytes, &reply);
    if (err) {
        if (err != ERR_CANCELLED && !p->asked_in_vain)
            log_warn("control.away", LOG_ERR(err));
        p->asked_in_vain = true;
    } else {
        if (reply->error.len > 0)
            log_warn("report.refused", LOG_SPAN("why", reply->error));
        if (p->asked_in_vain)
            log_info("control.back", LOG_U64("results", p->result_count));
        p->asked_in_vain = false;
        buf_clear(&p->report);
        drop_sent(p);
        take_targets(p, reply, clock_ms());
    }
    arena_release(&arena);
}

static void send_report(struct prober *p, uint64_t now_ms)
{
    enum err err = OK;
    if (p->report.len == 0) { /* else: the last one again, with its sequence number */
        point_texts(p);
        const struct evidence_report report = { .protocol = LINK_PROTOCOL,
                                                .source = EVIDENCE_FROM_PROBER,
                                                .sender = SPAN("prober"),
                                                .incarnation = span_cstr(p->incarnation),
                                                .seq = ++p->seq,
                                                .probes = p->results,
                                                .probe_count = p->result_count };
        err = wire_encode_evidence_report(&report, &p->report);
        p->sent_count = p->result_count;
    }
    p->report_at_ms = now_ms;
    if (!err)
        err = channel_send(p->link, buf_span(&p->report), PROBER_ASK_TIMEOUT_MS, on_reply, p);
    if (err)
        log_error("report.unsent", LOG_ERR(err));
    else
        p->in_flight = true;
}

/* ---- probing ---- */

static void finish(struct prober *p, struct job *job, struct probe_verdict v)
{
    job_stop(p, job);
    job->done = true;
    if (!job->has_been || job->was_ok != v.ok)
        log_info(v.ok ? "probe.good" : "probe.failed", LOG_SPAN("provider", job->target.provider),
                 LOG_STR("why", v.why), LOG_U64("latency_us", v.latency_us));
    job->was_ok = v.ok;
    job->has_been = true;
    add_result(p, job, &v);
}

static void start(struct prober *p, struct job *job, uint64_t now_ms)
{
    const char *why = NULL;
    uint64_t every = job->target.every_ms >= 100 ? job->target.every_ms : 100;
    job->next_ms = now_ms + every - every / JITTER_SHARE / 2 + prng_u64(&p->prng) % (every / JITTER_SHARE + 1);
    enum err err = probe_new(&p->setup, &job->target, &job->probe, &why);
    if (err == ERR_INVALID) {
        struct probe_verdict v = { 0 };
        snprintf(v.why, sizeof v.why, "%s", why);
        finish(p, job, v);
        return;
    }
    if (err)
        return; /* out of memory: the next round tries again */
    p->running++;
    if (curl_easy_setopt(probe_handle(job->probe), CURLOPT_PRIVATE, job) != CURLE_OK ||
        curl_multi_add_handle(p->multi, probe_handle(job->probe)) != CURLM_OK)
        job_stop(p, job);
}

static void start_due(struct prober *p, uint64_t now_ms)
{
    for (uint32_t i = 0; i < p->job_count && p->running < PROBER_AT_ONCE_MAX; i++) {
        struct job *job = p->jobs[i];
        if (!job->probe && job->next_ms <= now_ms && !(p->options->once && job->done))
            start(p, job, now_ms);
    }
}

static void collect(struct prober *p)
{
    int left;
    CURLMsg *m;
    while ((m = curl_multi_info_read(p->multi, &left))) {
        struct job *job = NULL;
        if (m->msg != CURLMSG_DONE || curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&job) != CURLE_OK ||
            !job)
            continue;
        finish(p, job, probe_judge(job->probe, m->data.result));
    }
}

/* ---- the loop ---- */

static void on_wake(void *user)
{
    curl_multi_wakeup(user); /* thread-safe */
}

static void read_signals(struct prober *p)
{
    struct signalfd_siginfo info;
    while (read(p->signals, &info, sizeof info) == (ssize_t)sizeof info)
        p->stop = true;
}

/* Milliseconds until something is due, a second at most. */
static int until_next(const struct prober *p, uint64_t now_ms)
{
    uint64_t next = now_ms + 1000;
    if (!p->in_flight) {
        uint64_t report = p->report_at_ms + (p->result_count > 0 || !p->known ? PROBER_REPORT_MS : PROBER_HELLO_MS);
        next = report < next ? report : next;
    }
    for (uint32_t i = 0; i < p->job_count; i++) {
        if (!p->jobs[i]->probe && p->jobs[i]->next_ms < next && !(p->options->once && p->jobs[i]->done))
            next = p->jobs[i]->next_ms;
    }
    return next > now_ms ? (int)(next - now_ms) : 0;
}

static bool all_done(const struct prober *p)
{
    for (uint32_t i = 0; i < p->job_count; i++) {
        if (!p->jobs[i]->done)
            return false;
    }
    return p->known;
}

static bool report_due(const struct prober *p, uint64_t now_ms)
{
    if (p->in_flight)
        return false;
    if (p->report_at_ms == 0 || (p->options->once && all_done(p) && p->result_count > 0))
        return true;
    uint64_t wait = p->result_count > 0 || p->report.len > 0 || !p->known ? PROBER_REPORT_MS : PROBER_HELLO_MS;
    return now_ms - p->report_at_ms >= wait;
}

static enum err loop(struct prober *p)
{
    uint64_t credentials_at_ms = 0;
    struct curl_waitfd waits = { .fd = p->signals, .events = CURL_WAIT_POLLIN };
    while (!p->stop) {
        uint64_t now_ms = clock_ms();
        int running;
        notify_alive(&p->manager, now_ms);
        if (now_ms - credentials_at_ms >= 1000) {
            (void)credentials_refresh(p->options->credentials);
            credentials_at_ms = now_ms;
        }
        start_due(p, now_ms);
        if (curl_multi_perform(p->multi, &running) != CURLM_OK)
            return ERR_IO;
        collect(p);
        channel_client_dispatch(p->link);
        if (p->options->once && all_done(p) && p->result_count == 0 && !p->in_flight)
            return OK;
        if (p->options->once && p->asked_in_vain)
            return ERR_TIMEOUT;
        if (report_due(p, clock_ms()))
            send_report(p, clock_ms());
        if (curl_multi_poll(p->multi, &waits, 1, until_next(p, clock_ms()), NULL) != CURLM_OK)
            return ERR_IO;
        read_signals(p);
    }
    return OK;
}

static enum err open_all(struct prober *p)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0 || (p->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)) < 0)
        return ERR_IO;
    p->texts = fault_calloc(PROBER_RESULTS_MAX, sizeof *p->texts);
    p->multi = curl_multi_init();
    if (!p->multi || !p->texts)
        return ERR_NOMEM;
    const struct channel_client_options link = {
        .address = p->options->address, .parallel = 1, .wake = on_wake, .wake_user = p->multi
    };
    return channel_client_open(&link, &p->link);
}

enum err prober_run(const struct prober_options *options)
{
    struct prober *p = fault_calloc(1, sizeof *p);
    uint64_t seed;
    if (!p || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        free(p);
        return ERR_NOMEM;
    }
    p->options = options;
    p->setup = (struct probe_setup){ options->credentials, options->ca_file, "fairlead-prober/" FAIRLEAD_VERSION };
    p->signals = -1;
    notify_open(&p->manager);
    buf_init(&p->report, FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES);
    random_bytes(&seed, sizeof seed);
    prng_seed(&p->prng, seed);
    random_id("", sizeof p->incarnation - 1, p->incarnation);
    enum err err = open_all(p);
    if (err) {
        log_error("prober.start", LOG_STR("address", options->address), LOG_ERR(err));
    } else {
        log_info("prober.started", LOG_STR("version", FAIRLEAD_VERSION), LOG_STR("evidence", options->address));
        notify_say(&p->manager, "READY=1\nSTATUS=probing");
        err = loop(p);
        notify_say(&p->manager, "STOPPING=1");
    }
    if (p->link)
        channel_client_close(p->link); /* its wake-ups use the multi: first */
    for (uint32_t i = 0; i < p->job_count; i++)
        job_free(p, p->jobs[i]);
    curl_multi_cleanup(p->multi);
    if (p->signals >= 0)
        close(p->signals);
    notify_close(&p->manager);
    buf_release(&p->report);
    free(p->jobs);
    free(p->texts);
    free(p);
    curl_global_cleanup();
    return err;
}
