#include "tests/bench/replay/report.h"

/* ---- adding up ---- */

static void add_result(struct report_group *group, const struct play_result *result, uint64_t cost_nano)
{
    group->requests++;
    if (result->failure != LOAD_OK) {
        group->errors++;
        return;
    }
    group->input_tokens += result->input_tokens;
    group->output_tokens += result->output_tokens;
    if (cost_nano == PLAY_NO_COST)
        group->unpriced++;
    else
        group->cost_nano += cost_nano;
    if (result->content_seen)
        group->ttft.us[group->ttft.count++] = result->ttft_us;
    group->total.us[group->total.count++] = result->total_us;
}

static uint64_t cost_of(const struct play_result *result, const struct price_list *prices, const char *model)
{
    const struct price_entry *price = prices_find(prices, span_cstr(model));
    if (result->cost_nano != PLAY_NO_COST || !price)
        return result->cost_nano;
    return prices_cost(price, result->input_tokens, result->output_tokens);
}

static enum err open_group(struct report_group *group, const char *name, size_t most)
{
    *group = (struct report_group){ .name = name };
    group->ttft.us = calloc(most, sizeof(*group->ttft.us));
    group->total.us = calloc(most, sizeof(*group->total.us));
    return group->ttft.us && group->total.us ? OK : ERR_NOMEM;
}

static int compare_us(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void close_group(struct report_group *group)
{
    qsort(group->ttft.us, group->ttft.count, sizeof(*group->ttft.us), compare_us);
    qsort(group->total.us, group->total.count, sizeof(*group->total.us), compare_us);
}

static int compare_groups(const void *a, const void *b)
{
    return strcmp(((const struct report_group *)a)->name, ((const struct report_group *)b)->name);
}

static void compare_prices(struct report *report, const struct price_list *prices)
{
    const struct play *play = report->play;
    for (unsigned p = 0; p < prices->count; p++) {
        struct report_instead instead = { .price = &prices->entries[p] };
        for (size_t i = 0; i < play->plan->trace->count; i++) {
            const struct play_result *result = &play->results[i];
            if (result->ended && result->failure == LOAD_OK)
                instead.cost_nano += prices_cost(instead.price, result->input_tokens, result->output_tokens);
        }
        if (p == 0 || instead.cost_nano > report->dearest.cost_nano)
            report->dearest = instead;
        if (p == 0 || instead.cost_nano < report->cheapest.cost_nano)
            report->cheapest = instead;
    }
}

enum err report_make(const struct play *play, const struct price_list *prices, const char *trace_name,
                     struct report *report)
{
    size_t count = play->plan->trace->count;
    *report = (struct report){ .trace_name = trace_name, .play = play, .count = play->model_count };
    report->span_ns = play->plan->trace->rows[count - 1].at_ns - play->plan->zero_ns;
    enum err err = open_group(&report->all, "all", count);
    for (unsigned m = 0; err == OK && m < play->model_count; m++) {
        size_t most = 0;
        for (size_t i = 0; i < count; i++)
            most += play->results[i].named && play->results[i].model == m;
        err = open_group(&report->groups[m], play->models[m], size_max(most, 1));
    }
    if (err != OK)
        return err;
    for (size_t i = 0; i < count; i++) {
        const struct play_result *result = &play->results[i];
        if (!result->ended)
            continue;
        uint64_t cost_nano = cost_of(result, prices, play->models[result->model]);
        add_result(&report->groups[result->model], result, cost_nano);
        add_result(&report->all, result, cost_nano);
        report->usage_missing += result->failure == LOAD_OK && !result->usage_seen;
    }
    for (unsigned m = 0; m < report->count; m++)
        close_group(&report->groups[m]);
    close_group(&report->all);
    qsort(report->groups, report->count, sizeof(report->groups[0]), compare_groups);
    compare_prices(report, prices);
    return OK;
}

static void release_group(struct report_group *group)
{
    free(group->ttft.us);
    free(group->total.us);
}

void report_release(struct report *report)
{
    for (unsigned m = 0; m < report->count; m++)
        release_group(&report->groups[m]);
    release_group(&report->all);
}
