/* top: nodes' figures live on one screen. The alternate screen and the terminal's mode are given back however it ends:
 * by q, a signal, an error, or stopped to the background. */
#include "admin-cli/fetch.h"
#include "admin-cli/top_screen.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/units.h"
#include "proto/home.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define PAGE_BYTES_MAX (64u << 20)
#define WINDOW_MS      10000u /* rates are over this: less flickers, more hides what happens now */
#define SAMPLES        24u    /* two a second fill the window */
#define PAGE_MS        2000u  /* to wait for a node; the screen stands still for as long */
#define ADMIN_MS       2000u
#define NODES_MAX_ASK  32u

#define SCREEN_ON  "\x1b[?1049h\x1b[?25l"
#define SCREEN_OFF "\x1b[0m\x1b[?25h\x1b[?1049l"

/* ---- the terminal ---- */

static struct termios saved_mode;
static volatile sig_atomic_t screen_on, end_asked, stop_asked, resized;

static void screen_leave(void) /* async-signal-safe: tcsetattr and write are (POSIX 2.4.3) */
{
    if (!screen_on)
        return;
    screen_on = 0;
    ssize_t ignored = write(STDOUT_FILENO, SCREEN_OFF, sizeof(SCREEN_OFF) - 1);
    (void)ignored;
    (void)tcsetattr(STDIN_FILENO, TCSANOW, &saved_mode);
}

static void screen_enter(void)
{
    struct termios mode = saved_mode;
    mode.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    mode.c_cc[VMIN] = 0;
    mode.c_cc[VTIME] = 0;
    (void)tcsetattr(STDIN_FILENO, TCSANOW, &mode);
    screen_on = 1;
    ssize_t ignored = write(STDOUT_FILENO, SCREEN_ON, sizeof(SCREEN_ON) - 1);
    (void)ignored;
}

static void on_signal(int number)
{
    if (number == SIGWINCH || number == SIGCONT)
        resized = 1;
    else if (number == SIGTSTP)
        stop_asked = 1;
    else
        end_asked = number;
}

static void on_crash(int number)
{
    screen_leave();
    signal(number, SIG_DFL);
    raise(number);
}

static const int handled[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP, SIGCONT };

/* Handled ones are only let through while we wait, so none is lost between a look at the flags and the wait. */
static void take_signals(sigset_t *ret_waiting)
{
    const struct sigaction act = { .sa_handler = on_signal }, crash = { .sa_handler = on_crash };
    sigset_t blocked;
    sigemptyset(&blocked);
    for (size_t i = 0; i < ARRAY_LEN(handled); i++) {
        sigaddset(&blocked, handled[i]);
        sigaction(handled[i], &act, NULL);
    }
    sigprocmask(SIG_BLOCK, &blocked, ret_waiting);
    for (size_t i = 0; i < ARRAY_LEN(handled); i++)
        sigdelset(ret_waiting, handled[i]);
    sigaction(SIGABRT, &crash, NULL);
    signal(SIGPIPE, SIG_IGN);
    atexit(screen_leave);
}

static void stop_for_now(void)
{
    stop_asked = 0;
    screen_leave();
    raise(SIGSTOP);
    screen_enter();
    resized = 1;
}

/* ---- looking ---- */

struct top {
    struct cli *cli;
    const char *nodes[NODES_MAX_ASK];
    unsigned node_count;
    char *own; /* this machine's node's address, read anew each time: it changes with a restart */
    struct top_sample samples[SAMPLES]; /* a ring */
    unsigned first, count;
    struct buf page;
    struct json_index status, providers, rollout;
    bool has_status, has_providers, has_rollout;
    uint64_t every_ms;
    const char *trouble;
};

static void read_own_address(struct top *top)
{
    struct buf text = BUF_INIT(4096);
    char *path = file_join(top->cli->home, HOME_RUN "/operations");
    free(top->own);
    top->own = NULL;
    if (path && file_read(path, 4000, &text) == OK) {
        const struct span line = span_head(buf_span(&text), span_find_eol(buf_span(&text)));
        const size_t end = span_find_byte(line, ' ');
        top->own = strndup(line.ptr, size_min(end, line.len));
    }
    buf_release(&text);
    free(path);
}

static void trouble(struct top *top, const char *address, enum err err)
{
    const char *text = arena_printf(&top->cli->arena, "%s%sno figures from %s (%s)", top->trouble,
                                    *top->trouble ? "; " : "", address, err_name(err));
    if (text)
        top->trouble = text;
}

static void take_page(struct top *top, struct top_sample *sample, const char *address)
{
    buf_clear(&top->page);
    enum err err = fetch_page(address, "/metrics", PAGE_MS, &top->page);
    if (!err)
        err = top_sample_add(sample, buf_span(&top->page));
    if (err)
        trouble(top, address, err);
}

static void take_sample(struct top *top)
{
    if (top->count == SAMPLES) {
        top_sample_release(&top->samples[top->first]);
        top->first = (top->first + 1) % SAMPLES;
        top->count--;
    }
    struct top_sample *sample = &top->samples[(top->first + top->count++) % SAMPLES];
    top_sample_begin(sample, clock_ms());
    for (unsigned i = 0; i < top->node_count; i++)
        take_page(top, sample, top->nodes[i]);
    if (top->node_count == 0) {
        read_own_address(top);
        if (top->own)
            take_page(top, sample, top->own);
        else
            top->trouble = "no node runs in this home: --node HOST:PORT names operations addresses of others";
    }
}

static bool ask(struct cli *cli, const char *command, struct json_index *ret)
{
    struct call call = { .command = command };
    const struct admin_reply *reply;
    return call_ask(cli, &call, &reply, ret) == EXIT_GOOD;
}

/* An older control plane knows no rollouts: the rest is shown all the same. */
static void ask_control(struct top *top)
{
    struct cli *cli = top->cli;
    cli->quiet = true;
    top->has_status = ask(cli, "status", &top->status);
    top->has_providers = top->has_status && ask(cli, "providers.list", &top->providers);
    top->has_rollout = top->has_status && ask(cli, "rollout.status", &top->rollout);
    cli->quiet = false;
}

/* The oldest within the window; the newest but one when all are older. */
static const struct top_sample *base_of(const struct top *top, const struct top_sample *newest)
{
    const struct top_sample *base = newest;
    for (unsigned i = top->count - 1; i-- > 0;) {
        const struct top_sample *one = &top->samples[(top->first + i) % SAMPLES];
        if (one->nodes != newest->nodes) /* another set of nodes: their sums cannot be compared */
            break;
        if (base != newest && newest->at_ms - one->at_ms > WINDOW_MS)
            break;
        base = one;
    }
    return base;
}

static enum err look(struct top *top, struct top_change *change, struct top_view *view)
{
    struct cli *cli = top->cli;
    arena_reset(&cli->arena);
    top->trouble = "";
    take_sample(top);
    ask_control(top);
    const struct top_sample *newest = &top->samples[(top->first + top->count - 1) % SAMPLES];
    const enum err err = top_compare(&cli->arena, base_of(top, newest), newest, change);
    const char *source = top->node_count == 0
                             ? "this node"
                             : arena_printf(&cli->arena, "%u of %u nodes", newest->nodes, top->node_count);
    *view = (struct top_view){ .cli = cli,
                               .sample = newest,
                               .change = change,
                               .status = top->has_status ? &top->status : NULL,
                               .providers = top->has_providers ? &top->providers : NULL,
                               .rollout = top->has_rollout ? &top->rollout : NULL,
                               .trouble = top->trouble,
                               .source = source ? source : "",
                               .wall_ms = clock_wall_ms() };
    return err;
}

/* ---- once ---- */

static int once(struct top *top)
{
    struct top_change change;
    struct top_view view;
    struct buf out = BUF_INIT(PAGE_BYTES_MAX);
    enum err err = look(top, &change, &view);
    if (!err) {
        poll(NULL, 0, (int)top->every_ms);
        err = look(top, &change, &view);
    }
    if (!err)
        err = top->cli->json ? top_json(&view, &out) : top_frame(&view, SIZE_MAX, SIZE_MAX, false, &out);
    if (!err && top->cli->json)
        render_json(buf_span(&out));
    else if (!err)
        fwrite(out.data + out.start, 1, out.len, stdout);
    const bool answered = !err && view.sample->nodes > 0;
    buf_release(&out);
    if (err)
        return cli_fail(top->cli, EXIT_FAILED, "out of memory");
    return answered ? EXIT_GOOD : EXIT_UNREACHABLE;
}

/* ---- live ---- */

static bool write_all(struct span bytes)
{
    while (bytes.len) {
        const ssize_t n = write(STDOUT_FILENO, bytes.ptr, bytes.len);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd one = { .fd = STDOUT_FILENO, .events = POLLOUT };
            poll(&one, 1, 1000);
        } else if (n < 0 && errno != EINTR) {
            return false; /* the terminal went */
        }
        bytes = span_skip(bytes, n > 0 ? (size_t)n : 0);
    }
    return true;
}

static enum err draw(const struct top_view *view, struct buf *out)
{
    struct winsize size;
    const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0;
    buf_clear(out);
    enum err err = buf_append_cstr(out, "\x1b[H");
    if (!err)
        err = top_frame(view, known ? size.ws_col : 80, known ? size.ws_row : 24, true, out);
    if (!err)
        err = buf_append_cstr(out, "\x1b[J");
    return err ? err : write_all(buf_span(out)) ? OK : ERR_IO;
}

/* False: it is over. *ret_due: another look is due, not only another drawing. */
static bool wait_for_keys(const sigset_t *waiting, uint64_t due_ms, bool *ret_due)
{
    for (;;) {
        const uint64_t now = clock_ms();
        const uint64_t left = due_ms > now ? due_ms - now : 0;
        const struct timespec time = { .tv_sec = (time_t)(left / 1000), .tv_nsec = (long)(left % 1000) * 1000000 };
        struct pollfd keys = { .fd = STDIN_FILENO, .events = POLLIN };
        const int n = ppoll(&keys, 1, &time, waiting);
        char pressed[64];
        if (end_asked)
            return false;
        if (stop_asked)
            stop_for_now();
        *ret_due = clock_ms() >= due_ms;
        if (resized || *ret_due) {
            resized = 0;
            return true;
        }
        if (n <= 0)
            continue;
        const ssize_t got = read(STDIN_FILENO, pressed, sizeof(pressed));
        if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN))
            return false; /* nobody is there any more */
        for (ssize_t i = 0; i < got; i++) {
            if (pressed[i] == 'q' || pressed[i] == 'Q')
                return false;
        }
    }
}

static int live(struct top *top)
{
    struct buf out = BUF_INIT(PAGE_BYTES_MAX);
    struct top_change change;
    struct top_view view;
    sigset_t waiting;
    enum err err = OK;
    bool due = true;
    uint64_t due_ms = 0;
    if (tcgetattr(STDIN_FILENO, &saved_mode) != 0)
        return once(top);
    take_signals(&waiting);
    screen_enter();
    do {
        if (due) {
            due_ms = clock_ms() + (top->count == 0 ? top->every_ms / 2 : top->every_ms); /* rates come soon */
            err = look(top, &change, &view);
        }
        if (!err)
            err = draw(&view, &out);
    } while (!err && wait_for_keys(&waiting, due_ms, &due));
    screen_leave();
    buf_release(&out);
    return err && err != ERR_IO ? cli_fail(top->cli, EXIT_FAILED, "out of memory") : EXIT_GOOD;
}

int run_top(struct cli *cli)
{
    struct top *top = arena_alloc(&cli->lasting, sizeof(*top));
    const char *every = opts_text(&cli->given, "every", "1s");
    if (!top)
        return cli_fail(cli, EXIT_FAILED, "out of memory");
    *top = (struct top){ .cli = cli, .page = BUF_INIT(PAGE_BYTES_MAX), .trouble = "" };
    if (units_parse_duration(span_cstr(every), &top->every_ms) != OK || top->every_ms < 200 || top->every_ms > 3600000)
        return cli_fail(cli, EXIT_USAGE, "--every: '%s' is no duration of 200ms to 1h", every);
    for (unsigned i = 0; i < cli->given.given_count; i++) {
        if (strcmp(cli->given.given[i].opt->name, "node") != 0)
            continue;
        if (top->node_count == NODES_MAX_ASK)
            return cli_fail(cli, EXIT_USAGE, "at most %u nodes", NODES_MAX_ASK);
        if (!fetch_is_address(cli->given.given[i].value))
            return cli_fail(cli, EXIT_USAGE, "--node: '%.100s' is no HOST:PORT", cli->given.given[i].value);
        top->nodes[top->node_count++] = cli->given.given[i].value;
    }
    if (cli->timeout_ms > ADMIN_MS && !opts_text(&cli->given, "timeout", NULL))
        cli->timeout_ms = ADMIN_MS;
    const bool terminal = cli->terminal && isatty(STDIN_FILENO);
    const int code = !terminal || cli->json || opts_flag(&cli->given, "once") ? once(top) : live(top);
    for (unsigned i = 0; i < top->count; i++)
        top_sample_release(&top->samples[(top->first + i) % SAMPLES]);
    buf_release(&top->page);
    free(top->own);
    return code;
}
