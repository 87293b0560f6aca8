#include "tests/support/load_tally.h"
#include "common/json.h"

static const char *const failure_names[LOAD_FAILURES] = {
    [LOAD_OK] = "ok",
    [LOAD_CONNECT] = "connect",
    [LOAD_RESET] = "reset",
    [LOAD_NO_RESPONSE] = "no_response",
    [LOAD_CUT] = "cut",
    [LOAD_MALFORMED] = "malformed",
    [LOAD_STATUS] = "status",
    [LOAD_NO_DONE] = "no_done",
    [LOAD_ERROR_EVENT] = "error_event",
    [LOAD_TIMEOUT] = "timeout",
    [LOAD_UNFINISHED] = "unfinished",
};

const char *load_failure_name(enum load_failure failure)
{
    return failure_names[failure];
}

enum err load_tally_init(struct load_tally *tally)
{
    struct load_samples *both[] = { &tally->latency, &tally->ttft };
    *tally = (struct load_tally){ 0 };
    for (size_t i = 0; i < ARRAY_LEN(both); i++) {
        prng_seed(&both[i]->prng, 1);
        both[i]->us = calloc(LOAD_SAMPLES_MAX, sizeof(*both[i]->us));
        if (!both[i]->us)
            return ERR_NOMEM;
    }
    return OK;
}

void load_tally_release(struct load_tally *tally)
{
    free(tally->latency.us);
    free(tally->ttft.us);
    tally->latency.us = tally->ttft.us = NULL;
}

void load_samples_add(struct load_samples *samples, uint64_t us)
{
    uint32_t value = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
    samples->seen++;
    samples->sum_us += us;
    if (us > samples->max_us)
        samples->max_us = us;
    if (samples->count < LOAD_SAMPLES_MAX) {
        samples->us[samples->count++] = value;
        return;
    }
    uint64_t at = prng_u64(&samples->prng) % samples->seen;
    if (at < LOAD_SAMPLES_MAX)
        samples->us[at] = value;
}

void load_tally_value(struct load_header *header, struct span value)
{
    value = span_head(value, LOAD_VALUE_BYTES - 1);
    for (unsigned i = 0; i < header->count; i++) {
        if (span_eq(value, span_cstr(header->values[i].text))) {
            header->values[i].count++;
            return;
        }
    }
    if (header->count == LOAD_VALUES_MAX) {
        header->values[LOAD_VALUES_MAX - 1].count++;
        return;
    }
    if (header->count == LOAD_VALUES_MAX - 1)
        value = SPAN("other");
    struct load_value *row = &header->values[header->count++];
    memcpy(row->text, value.ptr, value.len);
    row->text[value.len] = '\0';
    row->count = 1;
}

uint64_t load_tally_failed(const struct load_tally *tally)
{
    uint64_t sum = 0;
    for (unsigned i = LOAD_OK + 1; i < LOAD_FAILURES; i++)
        sum += tally->failures[i];
    return sum;
}

static int compare_us(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void sort(struct load_samples *samples)
{
    qsort(samples->us, samples->count, sizeof(*samples->us), compare_us);
}

/* Nearest rank: the least value that permille of the sorted samples do not exceed. */
static uint64_t rank(const struct load_samples *samples, uint64_t permille)
{
    if (samples->count == 0)
        return 0;
    uint64_t at = (samples->count * permille + 999) / 1000;
    return samples->us[at == 0 ? 0 : at - 1];
}

static void put_samples(struct json_writer *w, const char *key, const struct load_samples *samples)
{
    json_key(w, span_cstr(key));
    json_object_open(w);
    json_member_u64(w, "count", samples->seen);
    json_member_u64(w, "mean", samples->seen ? samples->sum_us / samples->seen : 0);
    json_member_u64(w, "p50", rank(samples, 500));
    json_member_u64(w, "p90", rank(samples, 900));
    json_member_u64(w, "p95", rank(samples, 950));
    json_member_u64(w, "p99", rank(samples, 990));
    json_member_u64(w, "p999", rank(samples, 999));
    json_member_u64(w, "max", samples->max_us);
    json_object_close(w);
}

static void put_failures(struct json_writer *w, const struct load_tally *tally)
{
    json_key(w, SPAN("failures"));
    json_object_open(w);
    for (unsigned i = LOAD_OK + 1; i < LOAD_FAILURES; i++) {
        if (tally->failures[i] > 0)
            json_member_u64(w, failure_names[i], tally->failures[i]);
    }
    json_object_close(w);
    json_key(w, SPAN("statuses"));
    json_object_open(w);
    for (unsigned i = 0; i < ARRAY_LEN(tally->statuses); i++) {
        char name[8];
        (void)snprintf(name, sizeof(name), "%u", i);
        if (tally->statuses[i] > 0)
            json_member_u64(w, name, tally->statuses[i]);
    }
    json_object_close(w);
}

static void put_headers(struct json_writer *w, const struct load_tally *tally)
{
    json_key(w, SPAN("headers"));
    json_object_open(w);
    for (unsigned i = 0; i < tally->header_count; i++) {
        json_key(w, tally->headers[i].name);
        json_object_open(w);
        for (unsigned k = 0; k < tally->headers[i].count; k++)
            json_member_u64(w, tally->headers[i].values[k].text, tally->headers[i].values[k].count);
        json_object_close(w);
    }
    json_object_close(w);
}

enum err load_tally_json(struct load_tally *tally, struct buf *out)
{
    struct json_writer w;
    uint64_t ok = tally->failures[LOAD_OK];
    sort(&tally->latency);
    sort(&tally->ttft);
    json_writer_init(&w, out);
    json_object_open(&w);
    json_member_u64(&w, "requests", tally->requests);
    json_member_u64(&w, "ok", ok);
    json_member_u64(&w, "failed", load_tally_failed(tally));
    json_member_u64(&w, "aborted", tally->aborted);
    json_member_u64(&w, "held", tally->held);
    put_failures(&w, tally);
    json_member_cstr(&w, "first_failure", tally->first_failure[0] ? tally->first_failure : NULL);
    json_key(&w, SPAN("seconds"));
    json_put_double(&w, tally->seconds);
    json_key(&w, SPAN("per_second"));
    json_put_double(&w, tally->seconds > 0 ? (double)ok / tally->seconds : 0);
    json_member_u64(&w, "connections", tally->connections);
    json_member_u64(&w, "waited", tally->waited);
    json_member_u64(&w, "events", tally->events);
    json_member_u64(&w, "bytes_in", tally->bytes_in);
    json_member_u64(&w, "bytes_out", tally->bytes_out);
    put_samples(&w, "latency_us", &tally->latency);
    put_samples(&w, "ttft_us", &tally->ttft);
    put_headers(&w, tally);
    json_object_close(&w);
    enum err err = json_writer_end(&w);
    return err == OK ? buf_append_byte(out, '\n') : err;
}

enum err load_tally_line(struct load_tally *tally, struct buf *out)
{
    sort(&tally->latency);
    sort(&tally->ttft);
    uint64_t ok = tally->failures[LOAD_OK];
    enum err err = buf_printf(
        out, "%llu ok, %llu failed, %llu aborted in %.2f s (%.0f/s); latency p50 %llu us, p99 %llu us, max %llu us",
        (unsigned long long)ok, (unsigned long long)load_tally_failed(tally), (unsigned long long)tally->aborted,
        tally->seconds, tally->seconds > 0 ? (double)ok / tally->seconds : 0,
        (unsigned long long)rank(&tally->latency, 500), (unsigned long long)rank(&tally->latency, 990),
        (unsigned long long)tally->latency.max_us);
    if (err == OK && tally->ttft.seen > 0)
        err = buf_printf(out, "; ttft p50 %llu us, p99 %llu us", (unsigned long long)rank(&tally->ttft, 500),
                         (unsigned long long)rank(&tally->ttft, 990));
    return err == OK ? buf_append_byte(out, '\n') : err;
}
