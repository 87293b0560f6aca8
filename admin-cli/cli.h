/* cli.h - what every command of the admin CLI works with: global options, the call to the control plane, exit codes. */
#pragma once
#include "admin-cli/contexts.h"
#include "common/arena.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/json.h"
#include "common/opts.h"
#include "proto/links.h"

/* Documented in `fairlead help exit-codes` and the man page; scripts rely on them. */
enum exit_code {
    EXIT_GOOD = 0,
    EXIT_REFUSED = 1,   /* the input is wrong; what is wrong was printed */
    EXIT_USAGE = 2,     /* the command line is wrong */
    EXIT_NOT_FOUND = 3, /* no such version, key, provider ... */
    EXIT_CONFLICT = 4,  /* the state is not what was expected; look, then try again */
    EXIT_DENIED = 5,
    EXIT_UNREACHABLE = 6, /* no control plane answers */
    EXIT_FAILED = 7,      /* something broke */
    EXIT_NOT_YET = 8,     /* --wait: the change is stored, but not every node serves it yet; or a reload goes on */
};

struct cli_command;
struct cli {
    const struct cli_command *command;
    struct opts_result given;
    char *home;    /* absolute */
    char *address; /* of the admin link */
    bool json, yes, dry_run, terminal;
    bool quiet; /* cli_fail says nothing: a try that may fail */
    uint32_t timeout_ms;
    struct context context;  /* in use; its name is NULL when there is none */
    const char *context_why; /* "--context", "$FAIRLEAD_HOME": what decided where commands go */
    struct arena arena;      /* of answers; commands that ask again and again reset it */
    struct arena lasting;    /* lives as long as the command */
};

struct cli_command {
    const char *path;      /* "policy push" */
    const char *arguments; /* "FILE", "[VERSION]", "" */
    unsigned args_least, args_most;
    bool changes;              /* takes --dry-run, --yes, --wait */
    bool local;                /* needs no control plane */
    bool nowhere;              /* is about no target: contexts are not looked up, so a bad file does not matter */
    const char *brief;         /* one line */
    const char *more;          /* paragraphs for --help and the man page */
    const struct opt *options; /* besides the global ones */
    size_t option_count;
    int (*run)(struct cli *cli);
};
extern const struct cli_command cli_commands[];
extern const unsigned cli_command_count;
extern const struct opt cli_global_options[];
extern const size_t cli_global_option_count;
extern const struct opt cli_change_options[];
extern const size_t cli_change_option_count;

/* Finds the command that the words of argv name (options may stand anywhere), runs it and gives the exit code. */
int cli_main(int argc, char *const *argv);
/* "fairlead: " and the text on stderr, unless cli->quiet; returns code. */
int cli_fail(const struct cli *cli, enum exit_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The team or key named by the option, else by the context in use; NULL. */
const char *cli_default(const struct cli *cli, const char *option);
/* Asks on the terminal, naming the context in use, unless --yes or --dry-run. Not a terminal and no --yes: false, told on stderr. */
bool cli_confirm(const struct cli *cli, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* n-th positional argument after the command's own words, or NULL. */
const char *cli_arg(const struct cli *cli, unsigned n);

/* ---- client.c: asking the control plane ---- */

#define CALL_ARGS_MAX 80u
struct call {
    const char *command;
    struct admin_arg args[CALL_ARGS_MAX];
    uint32_t arg_count;
    bool is_change;
};
void call_arg(struct call *call, const char *name, struct span value);
void call_arg_cstr(struct call *call, const char *name, const char *value); /* NULL: left out */
/* Copies options of the command line whose names are the same as the arguments'. */
void call_option(const struct cli *cli, struct call *call, const char *name);
/* Asks and waits. EXIT_GOOD with *ret_reply (in cli->arena) when answered OK; else the message was printed (and the
 * diagnostics in the result, if any) and the code tells the rest. Changes carry a request id and are repeated with the
 * same one when the link breaks. */
int call_send(struct cli *cli, const struct call *call, const struct admin_reply **ret_reply);
/* The reply's JSON indexed; REQUIREs good JSON from our own control plane to be checked: EXIT_FAILED otherwise. */
int call_index(struct cli *cli, const struct admin_reply *reply, struct json_index *ret);
/* Both at once. */
int call_ask(struct cli *cli, const struct call *call, const struct admin_reply **ret_reply, struct json_index *ret);
/* After a change: waits until every node lately heard of serves epoch, generation, directory (0: do not care).
 * EXIT_GOOD or EXIT_NOT_YET, names printed. */
int call_wait(struct cli *cli, uint64_t epoch, uint64_t generation, uint64_t directory, uint32_t limit_ms);
/* With --wait: call_wait for what a change's result says. Otherwise EXIT_GOOD. */
int call_wait_if_asked(struct cli *cli, const struct json_index *result);
/* A whole change: asks for it, prints its message (or its JSON), and waits if asked to. */
int call_change(struct cli *cli, struct call *call);
struct column;
/* A whole question whose answer is a list: asks it and prints the table (as render_table), or its JSON. */
int call_list(struct cli *cli, const struct call *call, const struct column *columns, size_t count, const char *empty);
/* The policy bundle of a file, by the control plane's program; appended. Diagnostics go to stderr. */
int cli_bundle(struct cli *cli, const char *file, struct buf *out);
/* Path of a sibling program ("fairlead-controlplane"): beside this one, else by PATH. malloc'd. */
char *cli_program(const char *name);

/* ---- render.c: JSON for people ---- */

enum column_kind {
    COLUMN_TEXT,
    COLUMN_AGE /* of a past ms time */,
    COLUMN_UNTIL /* a future ms time */,
    COLUMN_TIME,
    COLUMN_MS,       /* a duration in milliseconds */
    COLUMN_US,       /* a latency in microseconds; 0: unknown */
    COLUMN_USD,      /* US dollars, a decimal number */
    COLUMN_NANO_USD, /* nano-dollars, a whole number; shown in dollars */
    COLUMN_SHARE,    /* parts per million */
    COLUMN_SCORE,    /* a fraction, to three places */
    COLUMN_FRACTION, /* a fraction, as a percentage */
    COLUMN_LIST,
    COLUMN_WORD, /* a name of ours: no_harm as "no harm" */
    COLUMN_NUMBER,
    COLUMN_PROSE, /* a sentence; as the last column it is broken over lines, not cut */
    COLUMN_AUDIT  /* prose: what an audit entry says, with its reason in parentheses */
};
struct column {
    const char *title;
    const char *path; /* member name, or "a.b"; "^a": see render_nested */
    enum column_kind kind;
};
/* An aligned table of the objects in the array `token`; says `empty` when there are none. Cut to the terminal's width
 * only on a terminal. */
void render_table(const struct cli *cli, const struct json_index *ix, uint32_t array, const struct column *columns,
                  size_t count, const char *empty);
/* The line broken at spaces into lines of at most `width` columns, all but the first indented (at most by half of them). */
void render_wrapped(struct span line, size_t indent, size_t width);
/* The same with a row for each element of the array `member` in each object ("models" of a provider); an object without
 * any is one row. Paths that begin with '^' are looked up in the outer object. */
void render_nested(const struct cli *cli, const struct json_index *ix, uint32_t array, const char *member,
                   const struct column *columns, size_t count, const char *empty);
/* "name  value" lines of an object. */
void render_fields(const struct cli *cli, const struct json_index *ix, uint32_t object, const struct column *columns,
                   size_t count);
/* The diagnostics object of a check: file:line:column lines. */
void render_diagnostics(const struct cli *cli, const struct json_index *ix, uint32_t object, FILE *to);
void render_changes(const struct cli *cli, const struct json_index *ix, uint32_t array);
void render_json(struct span json); /* with a newline */
/* What a change says when it is done: its message, or with --json its result. */
void render_done(const struct cli *cli, const struct admin_reply *reply);
/* The same with diagnostics (on stderr) and changes before it. */
void render_outcome(const struct cli *cli, const struct admin_reply *reply, const struct json_index *ix);
/* Text of one member for printing: control bytes replaced; in the arena. */
const char *render_cell(const struct cli *cli, const struct json_index *ix, uint32_t object,
                        const struct column *column);
/* Somebody's text without control bytes, cut when it is very long; in the arena. */
const char *render_text(struct arena *arena, struct span text);
/* The same, never cut. */
const char *render_whole(struct arena *arena, struct span text);
/* The head of a UTF-8 text that takes at most `columns`: whole characters only. */
struct span render_head(struct span text, size_t columns);
size_t render_width(struct span text); /* columns: continuation bytes take none */
/* A whole text, line by line, behind two spaces: newlines and tabs are kept, other control bytes replaced. */
void render_long(const struct cli *cli, const struct json_index *ix, uint32_t object, const char *path);
uint32_t render_path(const struct json_index *ix, uint32_t object, const char *path); /* JSON_NONE */
uint64_t render_u64(const struct json_index *ix, uint32_t object, const char *path);  /* 0 when absent */

/* ---- the commands, by file ---- */
int run_policy_check(struct cli *cli); /* commands_policy.c */
int run_policy_diff(struct cli *cli);
int run_policy_push(struct cli *cli);
int run_policy_list(struct cli *cli);
int run_policy_show(struct cli *cli);
int run_rollback(struct cli *cli);
int run_rollout_status(struct cli *cli); /* commands_rollout.c */
int run_rollout_pause(struct cli *cli);
int run_rollout_resume(struct cli *cli);
int run_rollout_promote(struct cli *cli);
int run_rollout_abort(struct cli *cli);
int run_rollout_history(struct cli *cli);
int run_lock(struct cli *cli);
int run_unlock(struct cli *cli);
int run_experiment_start(struct cli *cli); /* commands_experiment.c */
int run_experiment_report(struct cli *cli);
int run_experiment_stop(struct cli *cli);
int run_shadow_start(struct cli *cli);
int run_shadow_status(struct cli *cli);
int run_shadow_stop(struct cli *cli);
int run_teams_apply(struct cli *cli); /* commands_directory.c */
int run_teams_diff(struct cli *cli);
int run_teams_list(struct cli *cli);
/* A new key, made here: only its hash leaves this process. */
#define KEY_TEXT_BYTES 47u /* "fl-", 43 characters of 5 bits each, and a NUL */
struct key_secret {
    char text[KEY_TEXT_BYTES];
    char hash[SHA256_HEX + 1];
};
void key_secret_make(struct key_secret *secret, struct call *call); /* adds hash and hint to the call */
int run_keys_create(struct cli *cli);
int run_keys_list(struct cli *cli);
int run_keys_rotate(struct cli *cli);
int run_keys_revoke(struct cli *cli);
int run_providers_list(struct cli *cli); /* commands_operate.c */
int run_providers_drain(struct cli *cli);
int run_providers_undrain(struct cli *cli);
int run_block(struct cli *cli);
int run_unblock(struct cli *cli);
int run_weights_show(struct cli *cli);
int run_weights_freeze(struct cli *cli);
int run_weights_unfreeze(struct cli *cli);
int run_weights_reset(struct cli *cli);
int run_prices_list(struct cli *cli);
int run_prices_show(struct cli *cli);
int run_prices_set(struct cli *cli);
int run_prices_unset(struct cli *cli);
int run_prices_accept(struct cli *cli);
int run_status(struct cli *cli); /* commands_status.c */
int run_nodes_list(struct cli *cli);
int run_nodes_adopt(struct cli *cli);
int run_nodes_pin(struct cli *cli);
int run_nodes_unpin(struct cli *cli);
int run_backup(struct cli *cli);
int run_restore(struct cli *cli);
int run_audit(struct cli *cli);   /* commands_audit.c */
int run_top(struct cli *cli);     /* top.c */
int run_costs(struct cli *cli);   /* commands_costs.c */
int run_doctor(struct cli *cli);  /* doctor.c */
int run_records(struct cli *cli); /* commands_records.c */
int run_explain(struct cli *cli); /* commands_explain.c */
int run_changes(struct cli *cli); /* commands_changes.c */
/* All that is recorded of one request, its own line and those of its shadows and feedback, as a JSON array in the arena:
 * from the control plane, else from this machine's node. EXIT_NOT_FOUND, EXIT_FAILED: told. */
int records_of(struct cli *cli, struct span id, struct span *ret_json);
/* One request's record in words. */
void records_print(const struct cli *cli, const struct json_index *ix, uint32_t record);
int run_reload(struct cli *cli); /* commands_node.c */
int run_upgrade(struct cli *cli);
/* Appends the status of this machine's node, JSON (metrics_status): ERR_NOT_FOUND: none runs here, or it is another
 * user's. ERR_TIMEOUT, ERR_CLOSED, ERR_IO, ERR_FULL, ERR_UNSUPPORTED (of another version). Says nothing. */
MUST_CHECK enum err node_status(struct cli *cli, struct buf *out);
int run_context_list(struct cli *cli); /* commands_context.c */
int run_context_show(struct cli *cli);
int run_context_use(struct cli *cli);
int run_context_add(struct cli *cli);
int run_context_remove(struct cli *cli);
/* Writes the home's first files from what is found. */
int init_files(struct cli *cli); /* init.c */
int run_init(struct cli *cli);
int run_policy_test(struct cli *cli); /* commands_policy_test.c */
int run_replay(struct cli *cli);      /* commands_replay.c */
int run_simulate(struct cli *cli);    /* commands_simulate.c */
/* A bounded simulation of what was pushed; result: the push's. Never fails. */
void simulate_after_push(struct cli *cli, const struct json_index *result);
/* Pid of who holds a lock in the home; 0 when nobody does. */
long cli_holder(const struct cli *cli, const char *lock); /* up.c */
int run_up(struct cli *cli);
int run_down(struct cli *cli);
int run_dev(struct cli *cli);        /* dev.c */
int run_completion(struct cli *cli); /* docs.c */
int run_man(struct cli *cli);
int run_help(struct cli *cli);
void docs_help_command(const struct cli_command *command);
void docs_help_all(FILE *to);
