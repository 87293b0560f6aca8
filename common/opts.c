#include "common/opts.h"
#include "common/buf.h"
#include "common/fault.h"
#include "common/units.h"

#include <stdarg.h>

#define HELP_WIDTH       100
#define HELP_COLUMN_MOST 34  /* a longer option puts its help on the next line */
#define HELP_LEFT_BYTES  256 /* what stands left of the help; longer names are cut there */

/* malloc'd; NULL when memory is out, which the caller of opts_parse has to bear. */
static char *message_of(const char *fmt, ...) PRINTF_LIKE(1, 2);
static char *message_of(const char *fmt, ...)
{
    va_list args, measured;
    va_start(args, fmt);
    va_copy(measured, args);
    int len = vsnprintf(NULL, 0, fmt, measured);
    va_end(measured);
    REQUIRE(len >= 0);
    char *text = fault_malloc((size_t)len + 1);
    if (text)
        (void)vsnprintf(text, (size_t)len + 1, fmt, args);
    va_end(args);
    return text;
}

struct parse {
    const struct opt *table;
    size_t count;
    int argc, at; /* at: the next argument */
    char *const *argv;
    struct opts_result *ret;
    char **message;
};

static const struct opt *by_name(const struct parse *p, struct span name)
{
    for (size_t i = 0; i < p->count; i++) {
        if (span_eq(name, span_cstr(p->table[i].name)))
            return &p->table[i];
    }
    return NULL;
}

static const struct opt *by_letter(const struct parse *p, char letter)
{
    for (size_t i = 0; i < p->count; i++) {
        if (p->table[i].letter && p->table[i].letter == letter)
            return &p->table[i];
    }
    return NULL;
}

static enum err unknown_option(const struct parse *p, struct span name)
{
    const struct opt *nearest = NULL;
    unsigned bound = 1 + (unsigned)(size_min(name.len, SPAN_DISTANCE_LEN_MAX) / 4);
    for (size_t i = 0; i < p->count; i++) {
        unsigned distance = span_distance(name, span_cstr(p->table[i].name), bound);
        if (distance <= bound && (!nearest || distance < span_distance(name, span_cstr(nearest->name), bound)))
            nearest = &p->table[i];
    }
    if (nearest)
        *p->message = message_of("unknown option --" SPAN_FMT "; did you mean --%s?", SPAN_ARG(name), nearest->name);
    else
        *p->message = message_of("unknown option --" SPAN_FMT, SPAN_ARG(name));
    return ERR_INVALID;
}

static enum err give(const struct parse *p, const struct opt *opt, const char *value)
{
    if (p->ret->given_count == OPTS_VALUES_MAX) {
        *p->message = message_of("more than %d options", OPTS_VALUES_MAX);
        return ERR_TOO_MANY;
    }
    p->ret->given[p->ret->given_count++] = (struct opts_given){ .opt = opt, .value = value };
    return OK;
}

bool opts_takes_next(enum opt_kind kind, const char *next)
{
    uint64_t ms;
    switch (kind) {
    case OPT_FLAG:
        return false;
    case OPT_TEXT:
    case OPT_MANY:
        return true;
    case OPT_TIME:
        return next && units_parse_duration(span_cstr(next), &ms) == OK;
    }
    return false;
}

/* Gives the option the argument that follows it, where it takes one. */
static enum err give_next(struct parse *p, const struct opt *opt)
{
    if (!opts_takes_next(opt->kind, p->at < p->argc ? p->argv[p->at] : NULL))
        return give(p, opt, NULL);
    if (p->at == p->argc) {
        *p->message = message_of("option --%s needs a value: --%s %s", opt->name, opt->name, opt->value);
        return ERR_INVALID;
    }
    return give(p, opt, p->argv[p->at++]);
}

/* "--name", "--name=value" or "--name value"; text stands behind the dashes. */
static enum err parse_long(struct parse *p, const char *text)
{
    struct span rest = span_cstr(text), name;
    (void)span_split(&rest, '=', &name);
    const struct opt *opt = by_name(p, name);
    if (!opt)
        return unknown_option(p, name);
    bool has_value = rest.ptr != NULL;
    if (opt->kind == OPT_FLAG && has_value) {
        *p->message = message_of("option --%s takes no value", opt->name);
        return ERR_INVALID;
    }
    if (has_value)
        return give(p, opt, rest.ptr); /* the tail of an argument: NUL-terminated */
    return give_next(p, opt);
}

/* "-ab", "-cVALUE" or "-c VALUE"; text stands behind the dash. */
static enum err parse_letters(struct parse *p, const char *text)
{
    enum err err = OK;
    while (*text && !err) {
        const struct opt *opt = by_letter(p, *text);
        if (!opt) {
            *p->message = message_of("unknown option -%c", *text);
            return ERR_INVALID;
        }
        text++;
        if (opt->kind == OPT_FLAG)
            err = give(p, opt, NULL);
        else
            return *text ? give(p, opt, text) : give_next(p, opt);
    }
    return err;
}

static enum err add_arg(const struct parse *p, const char *arg)
{
    if (p->ret->arg_count == OPTS_VALUES_MAX) {
        *p->message = message_of("more than %d arguments", OPTS_VALUES_MAX);
        return ERR_TOO_MANY;
    }
    p->ret->args[p->ret->arg_count++] = arg;
    return OK;
}

enum err opts_parse(const struct opt *table, size_t count, int argc, char *const *argv, struct opts_result *ret,
                    char **ret_message)
{
    *ret = (struct opts_result){ .given_count = 0 };
    struct parse p = { table, count, argc, 1, argv, ret, ret_message };
    bool only_args = false;
    enum err err = OK;
    while (p.at < argc && !err) {
        const char *arg = argv[p.at++];
        if (only_args || arg[0] != '-' || arg[1] == '\0')
            err = add_arg(&p, arg); /* "-" alone is a file name: standard input */
        else if (strcmp(arg, "--") == 0)
            only_args = true;
        else if (arg[1] == '-')
            err = parse_long(&p, arg + 2);
        else
            err = parse_letters(&p, arg + 1);
    }
    return err;
}

static const struct opts_given *last_given(const struct opts_result *r, const char *name)
{
    for (unsigned i = r->given_count; i-- > 0;) {
        if (strcmp(r->given[i].opt->name, name) == 0)
            return &r->given[i];
    }
    return NULL;
}

bool opts_flag(const struct opts_result *r, const char *name)
{
    return last_given(r, name) != NULL;
}

const char *opts_text(const struct opts_result *r, const char *name, const char *otherwise)
{
    const struct opts_given *given = last_given(r, name);
    return given && given->value ? given->value : otherwise;
}

/* "  -h, --home DIR" into out; returns its length. */
static size_t left_of(const struct opt *opt, char out[HELP_LEFT_BYTES])
{
    char letter[8] = "    ";
    if (opt->letter)
        (void)snprintf(letter, sizeof letter, "-%c, ", opt->letter);
    bool value = opt->kind != OPT_FLAG && opt->value;
    int len = snprintf(out, HELP_LEFT_BYTES, "  %s--%s%s%s%s", letter, opt->name, value ? " " : "",
                       value ? opt->value : "", opt->kind == OPT_MANY ? " ..." : "");
    return size_min((size_t)len, HELP_LEFT_BYTES - 1);
}

/* Words of text from `column` on, broken before HELP_WIDTH. The cursor stands at the column already. */
static enum err put_wrapped(struct buf *out, struct span text, size_t column)
{
    size_t at = column;
    enum err err = OK;
    for (struct span word; !err && span_split(&text, ' ', &word);) {
        if (span_empty(word))
            continue;
        if (at > column && at + 1 + word.len > HELP_WIDTH) {
            err = buf_printf(out, "\n%*s", (int)column, "");
            at = column;
        } else if (at > column) {
            err = buf_append_byte(out, ' ');
            at++;
        }
        if (!err)
            err = buf_append(out, word);
        at += word.len;
    }
    return err ? err : buf_append_byte(out, '\n');
}

enum err opts_help(const struct opt *table, size_t count, struct buf *out)
{
    char left[HELP_LEFT_BYTES];
    size_t column = 0;
    for (size_t i = 0; i < count; i++) {
        size_t wanted = left_of(&table[i], left) + 2;
        if (wanted <= HELP_COLUMN_MOST)
            column = size_max(column, wanted);
    }
    if (column == 0)
        column = HELP_COLUMN_MOST;
    for (size_t i = 0; i < count; i++) {
        size_t len = left_of(&table[i], left);
        enum err err = buf_append_cstr(out, left);
        if (!err && len + 2 > column)
            err = buf_printf(out, "\n%*s", (int)column, "");
        else if (!err)
            err = buf_printf(out, "%*s", (int)(column - len), "");
        if (!err)
            err = put_wrapped(out, span_cstr(table[i].help), column);
        if (err)
            return err;
    }
    return OK;
}
