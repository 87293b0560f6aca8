/* doctor: gathers what this machine and the control plane know, prints findings with what to do, worst last. */
#include "admin-cli/doctor.h"
#include "common/clock.h"
#include "proto/home.h"
#include <stdarg.h>

#define NODE_BYTES_MAX (512u << 10)

static const char *const level_names[] = { "ok", "note", "warning", "error" };

static const char *format(struct doctor *d, const char *fmt, va_list args)
{
    char text[2048];
    vsnprintf(text, sizeof(text), fmt, args);
    const char *copy = arena_printf(d->arena, "%s", text);
    return copy ? copy : "(out of memory)";
}

static void add(struct doctor *d, enum doctor_level level, const char *area, const char *what, const char *advice)
{
    d->levels[level]++;
    if (d->count < DOCTOR_FINDINGS_MAX)
        d->findings[d->count++] =
            (struct doctor_finding){ .level = level, .area = area, .what = what, .advice = advice ? advice : "" };
}

void doctor_add(struct doctor *d, enum doctor_level level, const char *area, const char *advice, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    add(d, level, area, format(d, fmt, args), advice);
    va_end(args);
}

void doctor_good_since(struct doctor *d, unsigned before, const char *area, const char *fmt, ...)
{
    va_list args;
    for (unsigned i = before; i < d->count; i++) {
        if (d->findings[i].level > DOCTOR_NOTE)
            return;
    }
    if (d->count == DOCTOR_FINDINGS_MAX) /* what was found may have found no room */
        return;
    va_start(args, fmt);
    add(d, DOCTOR_GOOD, area, format(d, fmt, args), NULL);
    va_end(args);
}

void doctor_disk(struct doctor *d, const char *whose, const char *path, uint64_t available_bytes, uint64_t bytes)
{
    const double gib = (double)available_bytes / (1u << 30);
    const double share = bytes ? (double)available_bytes / (double)bytes : 0;
    static const char *const advice = "make room: where it is full, changes are refused and records are lost";
    if (available_bytes < (UINT64_C(100) << 20) || share < 0.01)
        doctor_add(d, DOCTOR_ERROR, "disk", advice, "%s (%s) is as good as full: %.2f GiB left, %.1f%%", whose, path,
                   gib, share * 100);
    else if (available_bytes < (UINT64_C(1) << 30) || share < 0.05)
        doctor_add(d, DOCTOR_WARNING, "disk", advice, "%s (%s) is filling up: %.2f GiB left, %.1f%%", whose, path, gib,
                   share * 100);
    else
        doctor_add(d, DOCTOR_GOOD, "disk", NULL, "%s (%s): %.0f GiB left, %.0f%%", whose, path, gib, share * 100);
}

/* ---- asking ---- */

static bool ask(struct cli *cli, const char *command, struct json_index *ret)
{
    struct call call = { .command = command };
    const struct admin_reply *reply;
    return call_ask(cli, &call, &reply, ret) == EXIT_GOOD;
}

static void look_at_control(struct doctor *d, struct cli *cli)
{
    struct json_index status, providers, facts;
    const int64_t before_ms = clock_wall_ms();
    cli->quiet = true;
    const bool answers = ask(cli, "status", &status);
    const bool all = answers && ask(cli, "doctor", &facts) && ask(cli, "providers.list", &providers);
    cli->quiet = false;
    if (!answers) {
        doctor_add(
            d, DOCTOR_ERROR, "control plane",
            "`fairlead up` starts one, `fairlead status` tells why it cannot be asked; nodes serve on without it",
            "no answer at %s", cli->address);
        return;
    }
    if (!all) {
        doctor_add(d, DOCTOR_ERROR, "control plane", "install one version everywhere",
                   "it does not know the question: it is of another version");
        return;
    }
    doctor_add(d, DOCTOR_GOOD, "control plane", NULL, "answers at %s", cli->address);
    /* Between the two the middle is the best guess of when it was asked. */
    doctor_judge_control(d, cli, &status, &providers, &facts, before_ms + (clock_wall_ms() - before_ms) / 2);
}

static void look_at_node(struct doctor *d, struct cli *cli)
{
    struct buf text = BUF_INIT(NODE_BYTES_MAX);
    struct json_index ix;
    const enum err err = node_status(cli, &text);
    const struct span copy = arena_dup(&cli->lasting, buf_span(&text)); /* the index borrows it */
    buf_release(&text);
    if (err == ERR_NOT_FOUND) {
        if (cli_holder(cli, HOME_NODE_LOCK))
            doctor_add(d, DOCTOR_NOTE, "node", "ask as its user, or as root", "this machine's node is another user's");
        return;
    }
    if (err || !copy.ptr || json_index(&cli->lasting, copy, &json_limits_default, &ix, NULL) != OK)
        doctor_add(d, DOCTOR_ERROR, "node", "its master hangs, or is of another version: look at its log",
                   "this machine's node does not answer (%s)", err_name(err ? err : ERR_SYNTAX));
    else
        doctor_judge_node(d, cli, &ix);
}

/* ---- telling ---- */

static int print_json(const struct cli *cli, const struct doctor *d)
{
    struct buf out = BUF_INIT(4u << 20);
    struct json_writer w;
    json_writer_init(&w, &out);
    json_object_open(&w);
    json_member_u64(&w, "errors", d->levels[DOCTOR_ERROR]);
    json_member_u64(&w, "warnings", d->levels[DOCTOR_WARNING]);
    json_key(&w, SPAN("findings"));
    json_array_open(&w);
    for (unsigned i = 0; i < d->count; i++) {
        json_object_open(&w);
        json_member_cstr(&w, "level", level_names[d->findings[i].level]);
        json_member_cstr(&w, "area", d->findings[i].area);
        json_member_cstr(&w, "finding", d->findings[i].what);
        json_member_cstr(&w, "advice", d->findings[i].advice);
        json_object_close(&w);
    }
    json_array_close(&w);
    json_object_close(&w);
    const enum err err = json_writer_end(&w);
    if (!err)
        render_json(buf_span(&out));
    buf_release(&out);
    return err ? cli_fail(cli, EXIT_FAILED, "out of memory") : EXIT_GOOD;
}

static void print_text(const struct doctor *d)
{
    unsigned told = 0;
    for (int level = DOCTOR_GOOD; level <= DOCTOR_ERROR; level++) {
        for (unsigned i = 0; i < d->count; i++) {
            const struct doctor_finding *f = &d->findings[i];
            if ((int)f->level != level)
                continue;
            printf("%-8s %-13s %s\n", level_names[level], f->area, f->what);
            if (*f->advice)
                printf("%-8s %-13s   -> %s\n", "", "", f->advice);
            told++;
        }
    }
    const unsigned errors = d->levels[DOCTOR_ERROR], warnings = d->levels[DOCTOR_WARNING];
    const unsigned all = d->levels[DOCTOR_GOOD] + d->levels[DOCTOR_NOTE] + errors + warnings;
    if (all > told)
        printf("... and %u more\n", all - told);
    if (errors + warnings == 0)
        printf("\nnothing is wrong\n");
    else
        printf("\n%u error%s, %u warning%s\n", errors, errors == 1 ? "" : "s", warnings, warnings == 1 ? "" : "s");
}

int run_doctor(struct cli *cli)
{
    struct doctor *d = arena_alloc(&cli->lasting, sizeof(*d));
    if (!d)
        return cli_fail(cli, EXIT_FAILED, "out of memory");
    d->arena = &cli->lasting;
    doctor_look_here(d, cli);
    look_at_node(d, cli);
    look_at_control(d, cli);
    if (cli->json) {
        const int code = print_json(cli, d);
        if (code != EXIT_GOOD)
            return code;
    } else {
        print_text(d);
    }
    return d->levels[DOCTOR_ERROR] ? EXIT_REFUSED : EXIT_GOOD;
}
