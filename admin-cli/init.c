/* init: a first policy, directory and node configuration from what is found here: provider keys in the environment,
 * model servers on this machine. Keys are never written: the files name the variables. */
#include "admin-cli/cli.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/units.h"
#include "proto/home.h"
#include "proto/limits.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define LOCAL_WAIT_MS    1000u /* a server on this machine answers at once or is not there; in all */
#define PATH_BYTES_MAX   400u
#define LOCAL_MODELS_MAX 20u
#define TEXT_BYTES_MAX   (256u << 10)

struct files {
    struct buf providers, models, members, node, names;
    unsigned found;
};

/* Well-known models to begin with; each must be in the shipped price book. */
static const struct {
    const char *preset, *models[3];
} first_models[] = {
    { "openai", { "gpt-4o-mini", "gpt-4o", NULL } },
    { "groq", { "llama-3.1-8b-instant", "llama-3.3-70b-versatile", NULL } },
    { "mistral", { "mistral-small-latest", "mistral-large-latest", NULL } },
    { "deepseek", { "deepseek-chat", NULL, NULL } },
    { "xai", { "grok-3-mini", "grok-3", NULL } },
};

static enum err add_cloud(struct files *f, const char *preset, const char *env, struct span host)
{
    enum err err = buf_printf(&f->providers, "  %s: {preset: %s, credentials: [%s]}\n", preset, preset, preset);
    if (!err)
        err = buf_printf(&f->node, "  %s: {from: env:%s, hosts: [\"" SPAN_FMT "\"]}\n", preset, env, SPAN_ARG(host));
    if (!err)
        err = buf_printf(&f->names, "%s\"%s/*\"", f->names.len ? ", " : "", preset);
    for (size_t i = 0; !err && i < ARRAY_LEN(first_models); i++) {
        if (strcmp(first_models[i].preset, preset) != 0)
            continue;
        for (unsigned m = 0; !err && m < 3 && first_models[i].models[m]; m++)
            err = buf_printf(&f->members, "%s%s/%s", f->members.len ? ", " : "", preset, first_models[i].models[m]);
        if (!err)
            err = buf_printf(&f->models, "  \"%s/*\": {}\n", preset);
        f->found++;
        printf("found   %s by $%s\n", preset, env);
    }
    return err;
}

static struct span host_of(struct span url)
{
    const size_t scheme = span_find(url, SPAN("://"));
    struct span rest = scheme == SIZE_MAX ? url : span_skip(url, scheme + 3), host;
    if (!span_split(&rest, '/', &host))
        return url;
    const size_t colon = span_find_byte(host, ':');
    return colon == SIZE_MAX ? host : span_head(host, colon);
}

/* ---- local servers ---- */

/* Milliseconds left of `deadline_ms`, for poll. */
static int left_ms(uint64_t deadline_ms)
{
    const uint64_t now = clock_ms();
    return now >= deadline_ms ? 0 : (int)(deadline_ms - now);
}

/* GET path of 127.0.0.1:port, bounded in time and bytes; false when nothing useful answers. */
static bool ask_local(uint16_t port, const char *path, struct buf *out)
{
    const struct sockaddr_in to = { .sin_family = AF_INET,
                                    .sin_port = htons(port),
                                    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    const uint64_t deadline_ms = clock_ms() + LOCAL_WAIT_MS;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    char request[PATH_BYTES_MAX + 100], piece[4096];
    if (fd < 0)
        return false;
    struct pollfd wait = { .fd = fd, .events = POLLOUT };
    bool good = connect(fd, (const struct sockaddr *)&to, sizeof(to)) == 0 || errno == EINPROGRESS;
    good = good && poll(&wait, 1, left_ms(deadline_ms)) == 1 && (wait.revents & POLLOUT);
    const int len = snprintf(request, sizeof(request),
                             "GET %s HTTP/1.0\r\nHost: 127.0.0.1:%u\r\nConnection: close\r\n\r\n", path, port);
    good = good && send(fd, request, (size_t)len, MSG_NOSIGNAL) == len;
    wait.events = POLLIN;
    while (good && poll(&wait, 1, left_ms(deadline_ms)) == 1) {
        const ssize_t n = read(fd, piece, sizeof(piece));
        if (n <= 0)
            break;
        good = buf_append(out, span_of(piece, (size_t)n)) == OK;
    }
    close(fd);
    return good && span_starts(buf_span(out), SPAN("HTTP/1.")) && span_find(buf_span(out), SPAN(" 200 ")) < 16;
}

/* What may stand in a name that we write between double quotes of YAML, where a pattern must not arise either. */
static bool plain_name(struct span name)
{
    for (size_t i = 0; i < name.len; i++) {
        const char c = name.ptr[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-_.:/@+", c)) ||
            c == '\0')
            return false;
    }
    return name.len > 0 && name.len <= NAME_BYTES_MAX / 2;
}

struct server {
    const char *name, *preset, *url;
    const char *price; /* YAML, for each of its models */
};

static enum err add_model(struct files *f, const struct server *server, struct span id)
{
    enum err err =
        buf_printf(&f->models, "  \"%s/" SPAN_FMT "\": {price: %s}\n", server->name, SPAN_ARG(id), server->price);
    if (!err)
        err = buf_printf(&f->members, "%s\"%s/" SPAN_FMT "\"", f->members.len ? ", " : "", server->name, SPAN_ARG(id));
    return err;
}

/* Adds a provider with the models that its /models lists (LOCAL_MODELS_MAX of them); nothing when it lists none. */
static enum err add_server(struct cli *cli, struct files *f, const struct server *server, struct span answer)
{
    struct json_index ix;
    const size_t body = span_find(answer, SPAN("\r\n\r\n"));
    const struct span json = body == SIZE_MAX ? SPAN("") : span_trim(span_skip(answer, body + 4));
    unsigned models = 0;
    enum err err = OK;
    if (json_index(&cli->arena, json, &json_limits_default, &ix, NULL) != OK)
        return OK; /* not an OpenAI-compatible server after all */
    const uint32_t data = json_get(&ix, 0, SPAN("data"));
    if (data == JSON_NONE || json_kind(&ix, data) != JSON_ARRAY)
        return OK;
    for (uint32_t t = json_first(&ix, data); !err && t != JSON_NONE && models < LOCAL_MODELS_MAX;
         t = json_next(&ix, data, t)) {
        struct span id;
        const uint32_t token = json_get(&ix, t, SPAN("id"));
        if (token == JSON_NONE || json_string(&cli->arena, &ix, token, &id) != OK || !plain_name(id))
            continue;
        models++;
        err = add_model(f, server, id);
    }
    if (err || models == 0)
        return err;
    f->found++;
    printf("found   %s at %s: %u model%s\n", server->name, server->url, models, models == 1 ? "" : "s");
    err =
        buf_printf(&f->providers, "  %s: {preset: %s, base_url: \"%s\"}\n", server->name, server->preset, server->url);
    return err ? err : buf_printf(&f->names, "%s\"%s/*\"", f->names.len ? ", " : "", server->name);
}

/* Splits "http://HOST[:PORT][/PATH]" of this machine; false for anything else. */
static bool split_local(struct span url, uint16_t *ret_port, struct span *ret_path)
{
    struct span rest = url, authority;
    uint64_t port = 80;
    if (!span_starts(url, SPAN("http://")))
        return false;
    rest = span_skip(rest, 7);
    const size_t slash = span_find_byte(rest, '/');
    authority = slash == SIZE_MAX ? rest : span_head(rest, slash);
    const size_t colon = span_find_byte(authority, ':');
    const struct span host = colon == SIZE_MAX ? authority : span_head(authority, colon);
    if (!span_eq(host, SPAN("127.0.0.1")) && !span_eq(host, SPAN("localhost")))
        return false;
    if (colon != SIZE_MAX &&
        (span_to_u64(span_skip(authority, colon + 1), &port) != OK || port == 0 || port > UINT16_MAX))
        return false;
    *ret_port = (uint16_t)port;
    *ret_path = slash == SIZE_MAX ? SPAN("") : span_skip(rest, slash);
    return plain_name(authority) && (ret_path->len == 0 || plain_name(*ret_path));
}

/* Asks a server of this machine for its models. */
static enum err look_local(struct cli *cli, struct files *f, const struct server *server)
{
    struct buf answer = BUF_INIT(1u << 20);
    struct span base;
    char path[PATH_BYTES_MAX];
    uint16_t port;
    enum err err = OK;
    if (!split_local(span_cstr(server->url), &port, &base))
        return OK;
    const bool slash = base.len && base.ptr[base.len - 1] == '/';
    const int len = snprintf(path, sizeof(path), SPAN_FMT "%smodels", SPAN_ARG(base), slash ? "" : "/");
    if (len > 0 && (size_t)len < sizeof(path) && ask_local(port, path, &answer))
        err = add_server(cli, f, server, buf_span(&answer));
    buf_release(&answer);
    return err;
}

/* ---- presets, as the control plane's program knows them ---- */

static int read_presets(struct cli *cli, struct buf *out)
{
    char *program = cli_program("fairlead-controlplane");
    char *argv[] = { program, (char *)"--presets", NULL };
    int ends[2], status = -1;
    pid_t pid;
    posix_spawn_file_actions_t actions;
    if (!program || pipe2(ends, O_CLOEXEC) != 0) {
        free(program);
        return cli_fail(cli, EXIT_FAILED, "a pipe cannot be made");
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    const int rc = posix_spawnp(&pid, program, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    char piece[4096];
    ssize_t n;
    enum err err = OK;
    while (rc == 0 && !err && (n = read(ends[0], piece, sizeof(piece))) > 0)
        err = buf_append(out, span_of(piece, (size_t)n));
    close(ends[0]);
    if (rc == 0)
        waitpid(pid, &status, 0);
    free(program);
    return rc == 0 && !err && status == 0 ? EXIT_GOOD
                                          : cli_fail(cli, EXIT_FAILED, "fairlead-controlplane --presets failed");
}

static enum err look_preset(struct cli *cli, struct files *f, const struct json_index *ix, uint32_t preset)
{
    struct span name = SPAN(""), url = SPAN(""), env = SPAN("");
    bool local = false;
    const uint32_t name_token = json_get(ix, preset, SPAN("name")), url_token = json_get(ix, preset, SPAN("base_url"));
    const uint32_t env_token = json_get(ix, preset, SPAN("key_env")), local_token = json_get(ix, preset, SPAN("local"));
    if (name_token == JSON_NONE || url_token == JSON_NONE || json_string(&cli->arena, ix, name_token, &name) != OK ||
        json_string(&cli->arena, ix, url_token, &url) != OK || span_empty(url))
        return OK;
    if (env_token != JSON_NONE && json_string(&cli->arena, ix, env_token, &env) != OK)
        env = SPAN("");
    if (local_token != JSON_NONE && json_bool(ix, local_token, &local) != OK)
        local = false;
    const char *name_text = arena_dup(&cli->arena, name).ptr, *url_text = arena_dup(&cli->arena, url).ptr;
    const char *env_text = arena_dup(&cli->arena, env).ptr;
    if (!name_text || !url_text || !env_text)
        return ERR_NOMEM;
    if (local)
        return look_local(cli, f,
                          &(struct server){ .name = name_text,
                                            .preset = name_text,
                                            .url = url_text,
                                            .price = "{input: 0, output: 0}" }); /* one's own machine */
    const char *key = env.len ? getenv(env_text) : NULL;
    if (key && *key) {
        for (size_t i = 0; i < ARRAY_LEN(first_models); i++) {
            if (span_eq(name, span_cstr(first_models[i].preset)))
                return add_cloud(f, name_text, env_text, host_of(url));
        }
        fprintf(stderr,
                "fairlead: $%s is set, but init knows no models of %s to begin with; add them to policy.yaml by hand\n",
                env_text, name_text);
    }
    return OK;
}

static int bad_demo(const struct cli *cli, const char *value, const char *why)
{
    return cli_fail(cli, EXIT_USAGE,
                    "--demo %s: %s; say NAME=http://127.0.0.1:PORT/v1 or, with US dollars per million "
                    "tokens, NAME=http://127.0.0.1:PORT/v1@0.15/0.60",
                    value, why);
}

/* "0.15/0.60" as YAML; NULL: not two prices. */
static const char *demo_price(struct cli *cli, struct span text)
{
    struct span output = text, input;
    int64_t nano;
    if (!span_split(&output, '/', &input) || !output.ptr || units_parse_usd(input, &nano) != OK ||
        units_parse_usd(output, &nano) != OK || input.ptr[0] == '$' || output.ptr[0] == '$')
        return NULL;
    return arena_printf(&cli->arena, "{input: " SPAN_FMT ", output: " SPAN_FMT "}", SPAN_ARG(input), SPAN_ARG(output));
}

/* --demo NAME=URL or NAME=URL@INPUT/OUTPUT: it was asked for, so it must be there. */
static int look_demo(struct cli *cli, struct files *f, const char *value)
{
    struct span rest = span_cstr(value), name = SPAN(""), path;
    struct server server = { .preset = "openai-compatible", .price = "{input: 0, output: 0}" };
    uint16_t port;
    if (!span_split(&rest, '=', &name) || !rest.ptr)
        return bad_demo(cli, value, "there is no '='");
    if (!plain_name(name) || span_find_byte(name, '/') != SIZE_MAX)
        return bad_demo(cli, value, "a provider's name is made of letters, digits and -");
    const size_t at = span_find_byte(rest, '@');
    if (at != SIZE_MAX)
        server.price = demo_price(cli, span_skip(rest, at + 1));
    if (!server.price)
        return bad_demo(cli, value, "what stands after the @ is no INPUT/OUTPUT");
    rest = span_head(rest, size_min(at, rest.len));
    if (!split_local(rest, &port, &path))
        return bad_demo(cli, value, "the URL is not one of this machine (http://127.0.0.1 or http://localhost)");
    server.name = arena_dup(&cli->arena, name).ptr;
    server.url = arena_dup(&cli->arena, rest).ptr;
    const unsigned before = f->found;
    const enum err err = server.name && server.url ? look_local(cli, f, &server) : ERR_NOMEM;
    if (err)
        return cli_fail(cli, EXIT_FAILED, "looking at %s: %s", value, err_name(err));
    if (f->found == before)
        return cli_fail(cli, EXIT_NOT_FOUND,
                        "--demo %s: no list of models comes from %s/models; is the server running?", value, server.url);
    return EXIT_GOOD;
}

/* ---- writing ---- */

static int write_file(struct cli *cli, const char *name, const struct buf *text)
{
    char *path = file_join(cli->home, name);
    char old[4096];
    int code = EXIT_GOOD;
    if (!path)
        return cli_fail(cli, EXIT_FAILED, "out of memory");
    if (file_exists(path) && !opts_flag(&cli->given, "force")) {
        printf("kept    %s (say --force to replace it)\n", path);
    } else {
        snprintf(old, sizeof(old), "%s.old", path);
        if (file_exists(path) && rename(path, old) == 0)
            printf("moved   %s to %s\n", path, old);
        const enum err err = file_write_atomic(path, buf_span(text), 0600);
        if (err)
            code = cli_fail(cli, EXIT_FAILED, "%s cannot be written: %s", path, err_name(err));
        else
            printf("wrote   %s\n", path);
    }
    free(path);
    return code;
}

static enum err compose(const struct files *f, struct buf *policy, struct buf *directory, struct buf *node)
{
    enum err err = buf_printf(
        policy,
        "# A first policy, made by `fairlead init`. Change it, `fairlead policy check` it, `fairlead policy push` it.\n"
        "schema: fairlead/1\nkind: policy\nproviders:\n" SPAN_FMT "models:\n",
        SPAN_ARG(buf_span(&f->providers)));
    if (!err)
        err = buf_append(policy, buf_span(&f->models));
    if (!err)
        err = buf_append_cstr(policy, "routes:\n  chat:\n    tiers:\n      - models: [");
    if (!err)
        err = buf_append(policy, buf_span(&f->members));
    if (!err)
        err = buf_append_cstr(policy, "]\n        prefer: cheapest      # or fastest, balanced; or a map of weights\n");
    if (!err)
        err = buf_printf(directory,
                         "# Teams and what they may use; live at once: `fairlead teams apply`. Keys: `fairlead keys "
                         "create --team default`.\n"
                         "schema: fairlead/1\nkind: directory\nteams:\n  default: {routes: [chat], models: [" SPAN_FMT
                         "]}\n",
                         SPAN_ARG(buf_span(&f->names)));
    if (!err)
        err = buf_append_cstr(node, "# This machine's node. Credentials stand here and nowhere else: where a key comes "
                                    "from, and where it may be sent.\n"
                                    "schema: fairlead/1\nkind: node\n");
    if (!err && f->node.len)
        err = buf_append_cstr(node, "credentials:\n");
    return err ? err : buf_append(node, buf_span(&f->node));
}

static int write_all(struct cli *cli, const struct files *f)
{
    struct buf policy = BUF_INIT(TEXT_BYTES_MAX * 4), directory = BUF_INIT(TEXT_BYTES_MAX),
               node = BUF_INIT(TEXT_BYTES_MAX);
    int code = EXIT_GOOD;
    if (compose(f, &policy, &directory, &node) != OK)
        code = cli_fail(cli, EXIT_FAILED, "out of memory");
    if (code == EXIT_GOOD && file_make_dirs(cli->home, 0700) != OK)
        code = cli_fail(cli, EXIT_FAILED, "the home %s cannot be made", cli->home);
    if (code == EXIT_GOOD)
        code = write_file(cli, HOME_POLICY, &policy);
    if (code == EXIT_GOOD)
        code = write_file(cli, HOME_DIRECTORY, &directory);
    if (code == EXIT_GOOD)
        code = write_file(cli, HOME_NODE_CONFIG, &node);
    buf_release(&policy);
    buf_release(&directory);
    buf_release(&node);
    return code;
}

static void print_next(const struct cli *cli)
{
    char *usual = file_default_home();
    const bool elsewhere = !usual || strcmp(usual, cli->home) != 0;
    const char *option = elsewhere ? " --home " : "", *home = elsewhere ? cli->home : "";
    printf("next    fairlead up --detach%s%s\n        fairlead keys create --team default%s%s\n", option, home, option,
           home);
    free(usual);
}

int init_files(struct cli *cli)
{
    struct files f = { .providers = BUF_INIT(TEXT_BYTES_MAX),
                       .models = BUF_INIT(TEXT_BYTES_MAX),
                       .members = BUF_INIT(TEXT_BYTES_MAX),
                       .node = BUF_INIT(TEXT_BYTES_MAX),
                       .names = BUF_INIT(TEXT_BYTES_MAX) };
    struct buf presets = BUF_INIT(1u << 20);
    struct json_index ix;
    int code = read_presets(cli, &presets);
    enum err err =
        code == EXIT_GOOD ? json_index(&cli->arena, buf_span(&presets), &json_limits_default, &ix, NULL) : OK;
    for (unsigned i = 0; code == EXIT_GOOD && !err && i < cli->given.given_count; i++) {
        if (strcmp(cli->given.given[i].opt->name, "demo") == 0)
            code = look_demo(cli, &f, cli->given.given[i].value);
    }
    for (uint32_t t = code == EXIT_GOOD && !err ? json_first(&ix, 0) : JSON_NONE; !err && t != JSON_NONE;
         t = json_next(&ix, 0, t))
        err = look_preset(cli, &f, &ix, t);
    if (code == EXIT_GOOD && err)
        code = cli_fail(cli, EXIT_FAILED, "looking for providers: %s", err_name(err));
    if (code == EXIT_GOOD && f.found == 0)
        code = cli_fail(cli, EXIT_NOT_FOUND,
                        "no provider found: set a key (OPENAI_API_KEY, GROQ_API_KEY, MISTRAL_API_KEY, ...), start a "
                        "local server, or "
                        "write %s/policy.yaml by hand (deploy/examples shows how)",
                        cli->home);
    if (code == EXIT_GOOD)
        code = write_all(cli, &f);
    buf_release(&f.providers);
    buf_release(&f.models);
    buf_release(&f.members);
    buf_release(&f.node);
    buf_release(&f.names);
    buf_release(&presets);
    return code;
}

int run_init(struct cli *cli)
{
    const int code = init_files(cli);
    if (code == EXIT_GOOD)
        print_next(cli);
    return code;
}
