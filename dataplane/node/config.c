#include "dataplane/node/config.h"
#include "common/arena.h"
#include "common/digest.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/units.h"
#include "common/yaml.h"
#include "dataplane/node/address.h"
#include "dataplane/node/config_internal.h"
#include "proto/home.h"
#include "proto/limits.h"
#include <errno.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <sys/vfs.h>
#include <unistd.h>

#define CONFIG_BYTES_MAX   (1u << 20) /* a node's file is written by hand */
#define CONFIG_ARENA_BYTES ((size_t)64 << 20)
#define MESSAGE_BYTES      1024u
#define KIB                1024ull
#define MIB                (1024ull * KIB)
#define GIB                (1024ull * MIB)
#define SECOND             1000ull
#define SHARE_ALL          1000000ull
#define WATCHDOG_LEAST_MS                                                                                              \
    500u /* a worker tells every 100 ms that it turns; shorter, and a busy machine is taken for a hang */

enum setting_kind {
    SETTING_NAME,
    SETTING_LINK,
    SETTING_ADDRESS,
    SETTING_FILE,
    SETTING_SOURCE,
    SETTING_LISTENERS,
    SETTING_RESOLVERS,
    SETTING_WORKERS,
    SETTING_COUNT,
    SETTING_BYTES,
    SETTING_TIME,
    SETTING_SHARE
};

struct setting {
    const char *name; /* "limits.idle": a field of the map `limits` */
    enum setting_kind kind;
    size_t offset;
    uint64_t otherwise, least, most; /* texts: `otherwise` is unused, see `written` */
    const char *written;             /* default as --help-config shows it; NULL: made of `otherwise` */
    const char *why;
};
#define AT(field)    offsetof(struct node_config, field)
#define LIMIT(field) offsetof(struct node_config, limits.field)

/* Each limit says which accident or attack it stops. */
static const struct setting settings[] = {
    { "name", SETTING_NAME, AT(name), 0, 0, 0, "the host's name",
      "how the control plane and the records call this node" },
    { "control", SETTING_LINK, AT(control), 0, 0, 0, "ipc://HOME/" HOME_FETCH_SOCKET, "where tables are fetched" },
    { "evidence", SETTING_LINK, AT(evidence), 0, 0, 0, "ipc://HOME/" HOME_EVIDENCE_SOCKET, "where telemetry goes" },
    { "listen", SETTING_LISTENERS, AT(listeners), 0, 0, 0, "127.0.0.1:4000",
      "where clients connect: one address or a list of such and of maps, see below" },
    { "operations", SETTING_ADDRESS, AT(operations), 0, 0, 0, "127.0.0.1:4001",
      "/metrics, /livez, /readyz and /status" },
    { "ca_file", SETTING_FILE, AT(ca_file), 0, 0, 0, "the system's", "certificates that providers are verified by" },
    { "resolvers", SETTING_RESOLVERS, AT(resolvers), 0, 0, 0, "the system's",
      "name servers that are asked for providers' addresses: a list of IP[:port] (a libcurl without c-ares, as "
      "Debian's is, "
      "asks the system's for what goes through it: proxies, HTTP/2)" },
    { "feedback_secret", SETTING_SOURCE, AT(feedback_secret), 0, 0, 0,
      "file:HOME/" HOME_FEEDBACK_SECRET ", made when missing",
      "env:NAME or file:PATH: signs request ids, so that only their team gives feedback; the nodes behind one address "
      "need "
      "the same" },
    { "workers", SETTING_WORKERS, AT(workers), 0, 1, NODE_WORKERS_MAX, "one per core", "processes that serve" },
    { "records.ship", SETTING_SHARE, AT(records_ship_ppm), SHARE_ALL, 0, SHARE_ALL, NULL,
      "of the units (keys, users) whose records go to the control plane, which judges rollouts and reckons costs by "
      "them; 0%: none" },
    { "limits.head_bytes", SETTING_BYTES, LIMIT(head_bytes), 32 * KIB, KIB, 32 * KIB, NULL,
      "a head without end fills memory: 431" },
    { "limits.headers", SETTING_COUNT, LIMIT(headers), 100, 10, 100, NULL,
      "ten thousand tiny headers cost a search each: 431" },
    { "limits.head_time", SETTING_TIME, LIMIT(head_time_ms), 10 * SECOND, 100, 600 * SECOND, NULL,
      "in all, not idle: a head sent byte by byte holds a connection: 408" },
    { "limits.body_bytes", SETTING_BYTES, LIMIT(body_bytes), 32 * MIB, KIB, GIB, NULL, "one body fills memory: 413" },
    { "limits.body_time", SETTING_TIME, LIMIT(body_time_ms), 60 * SECOND, 100, 3600 * SECOND, NULL,
      "for each 64 KiB of a body: one that stalls or trickles holds its memory: 408" },
    { "limits.idle", SETTING_TIME, LIMIT(idle_ms), 75 * SECOND, 100, 24 * 3600 * SECOND, NULL,
      "kept-alive connections that say nothing use up descriptors" },
    { "limits.connections", SETTING_COUNT, LIMIT(connections), 10000, 1, 1000000, NULL,
      "per worker: clients without end use up descriptors and memory" },
    { "limits.buffered_bytes", SETTING_BYTES, LIMIT(buffered_bytes), 512 * MIB, MIB, 1024 * GIB, NULL,
      "per worker: bodies and unsent answers together fill memory: 503 with Retry-After" },
    { "limits.write_queue_bytes", SETTING_BYTES, LIMIT(write_queue_bytes), 64 * KIB, 4 * KIB, GIB, NULL,
      "per client: one that reads slowly makes us hold a fast answer; then its upstream is paused" },
    { "limits.write_stall", SETTING_TIME, LIMIT(write_stall_ms), 60 * SECOND, 100, 3600 * SECOND, NULL,
      "a client that takes nothing holds an upstream stream that is paid for" },
    { "limits.upstream_connections", SETTING_COUNT, LIMIT(upstream_connections), 4096, 1, 1000000, NULL,
      "per worker: a burst uses up ports towards one provider" },
    { "limits.upstream_idle", SETTING_COUNT, LIMIT(upstream_idle), 256, 0, 100000, NULL,
      "per worker, kept for reuse: descriptors held for nobody" },
    { "limits.drain", SETTING_TIME, LIMIT(drain_ms), 30 * SECOND, 0, 24 * 3600 * SECOND, NULL,
      "a stream without end keeps a stopping worker for ever" },
    { "limits.drain_first", SETTING_TIME, LIMIT(drain_first_ms), 3 * SECOND, 100, 3600 * SECOND, NULL,
      "new connections that ask nothing keep a stopping worker; a first packet lost twice comes after 3 s" },
    { "limits.drain_idle", SETTING_TIME, LIMIT(drain_idle_ms), SECOND, 100, 3600 * SECOND, NULL,
      "kept-alive connections keep a stopping worker; a request on its way is still answered" },
    { "limits.record_segment_bytes", SETTING_BYTES, LIMIT(record_segment_bytes), 64 * MIB, 64 * KIB, 64 * GIB, NULL,
      "a file of records that nobody can open or ship" },
    { "limits.record_segments", SETTING_COUNT, LIMIT(record_segments), 16, 1, 100000, NULL, "records fill the disk" },
    { "limits.http2_streams", SETTING_COUNT, LIMIT(http2_streams), 100, 1, 10000, NULL,
      "at once, per connection: one HTTP/2 client opens requests without end" },
    { "limits.watchdog", SETTING_TIME, LIMIT(watchdog_ms), SECOND, WATCHDOG_LEAST_MS, 600 * SECOND, NULL,
      "a worker that hangs holds its clients for ever: it is replaced; 0: never" },
};

/* ---- what is said ---- */

enum err config_complain(char **ret_message, const char *fmt, ...)
{
    char text[MESSAGE_BYTES];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    free(*ret_message);
    *ret_message = strdup(text);
    return *ret_message ? ERR_INVALID : ERR_NOMEM;
}

static void format_number(const struct setting *setting, uint64_t value, char *out)
{
    if (setting->kind == SETTING_TIME)
        (void)units_format_duration(value, out);
    else if (setting->kind == SETTING_BYTES && value >= MIB && value % MIB == 0)
        (void)snprintf(out, UNITS_TEXT_BYTES, "%lluMiB", (unsigned long long)(value / MIB));
    else if (setting->kind == SETTING_BYTES && value >= KIB && value % KIB == 0)
        (void)snprintf(out, UNITS_TEXT_BYTES, "%lluKiB", (unsigned long long)(value / KIB));
    else if (setting->kind == SETTING_SHARE)
        (void)snprintf(out, UNITS_TEXT_BYTES, "%llu%%", (unsigned long long)(value / (SHARE_ALL / 100)));
    else
        (void)snprintf(out, UNITS_TEXT_BYTES, "%llu", (unsigned long long)value);
}

/* ---- one value ---- */

enum err config_set_text(char **at, struct span text)
{
    char *copy = fault_malloc(text.len + 1);
    if (!copy)
        return ERR_NOMEM;
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = '\0';
    free(*at);
    *at = copy;
    return OK;
}

bool config_printable(struct span text)
{
    for (size_t i = 0; i < text.len; i++) {
        if ((unsigned char)text.ptr[i] <= ' ' || (unsigned char)text.ptr[i] >= 0x7f)
            return false;
    }
    return text.len > 0;
}

static enum err set_checked_text(const struct setting *setting, char **at, struct span text, char **ret_message)
{
    struct address address;
    if (setting->kind == SETTING_ADDRESS && address_parse(text, &address))
        return config_complain(ret_message, "%s: '" SPAN_FMT "' is not an address such as 127.0.0.1:4000 or [::1]:4000",
                               setting->name, SPAN_ARG(text));
    if (setting->kind == SETTING_NAME && (!config_printable(text) || text.len > NAME_BYTES_MAX))
        return config_complain(ret_message, "%s: printable characters without spaces, at most %u", setting->name,
                               NAME_BYTES_MAX);
    if (setting->kind == SETTING_LINK && !span_starts(text, SPAN("ipc:///")) && !span_starts(text, SPAN("tcp://")) &&
        !span_starts(text, SPAN("tls+tcp://")))
        return config_complain(ret_message, "%s: ipc:///PATH, tcp://127.0.0.1:PORT or tls+tcp://HOST:PORT",
                               setting->name);
    if (setting->kind == SETTING_FILE && span_empty(text))
        return config_complain(ret_message, "%s: the path of a file", setting->name);
    if (setting->kind == SETTING_SOURCE &&
        (text.len <= 5 || (!span_starts(text, SPAN("file:")) && (text.len <= 4 || !span_starts(text, SPAN("env:"))))))
        return config_complain(ret_message, "%s: env:NAME or file:PATH", setting->name);
    return config_set_text(at, text);
}

static enum err set_number(const struct setting *setting, struct node_config *config, struct span text,
                           char **ret_message)
{
    uint64_t value = 0;
    uint32_t ppm = 0;
    char least[UNITS_TEXT_BYTES], most[UNITS_TEXT_BYTES];
    enum err err = setting->kind == SETTING_TIME    ? units_parse_duration(text, &value)
                   : setting->kind == SETTING_BYTES ? units_parse_bytes(text, &value)
                   : setting->kind == SETTING_SHARE ? units_parse_share(text, &ppm)
                                                    : span_to_u64(text, &value);
    if (setting->kind == SETTING_SHARE)
        value = ppm;
    format_number(setting, setting->least, least);
    format_number(setting, setting->most, most);
    if (err)
        return config_complain(ret_message, "%s: '" SPAN_FMT "' is not %s, such as %s", setting->name, SPAN_ARG(text),
                               setting->kind == SETTING_TIME    ? "a time"
                               : setting->kind == SETTING_BYTES ? "a size"
                               : setting->kind == SETTING_SHARE ? "a share"
                                                                : "a whole number",
                               most);
    const bool never = value == 0 && setting->offset == LIMIT(watchdog_ms);
    if (!never && (value < setting->least || value > setting->most))
        return config_complain(ret_message, "%s: between %s and %s (%s)", setting->name, least, most, setting->why);
    if (setting->kind == SETTING_WORKERS)
        config->workers = (unsigned)value;
    else
        memcpy((char *)config + setting->offset, &value, sizeof(value));
    return OK;
}

static enum err set(const struct setting *setting, struct node_config *config, struct span text, char **ret_message)
{
    switch (setting->kind) {
    case SETTING_NAME:
    case SETTING_LINK:
    case SETTING_ADDRESS:
    case SETTING_FILE:
    case SETTING_SOURCE:
        return set_checked_text(setting, (char **)(void *)((char *)config + setting->offset), text, ret_message);
    case SETTING_LISTENERS:
        return config_listen(config, &text, 1, ret_message);
    case SETTING_RESOLVERS:
        return config_set_resolvers(config, &text, 1, ret_message);
    case SETTING_WORKERS:
    case SETTING_COUNT:
    case SETTING_BYTES:
    case SETTING_TIME:
    case SETTING_SHARE:
        return set_number(setting, config, text, ret_message);
    }
    return ERR_INVALID;
}

static const struct setting *find(const char *prefix, struct span name)
{
    const size_t skip = strlen(prefix);
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        const char *full = settings[i].name;
        if (strncmp(full, prefix, skip) == 0 && span_eq(name, span_cstr(full + skip)))
            return &settings[i];
    }
    return NULL;
}

static uint64_t bit_of(const struct setting *setting)
{
    _Static_assert(ARRAY_LEN(settings) <= 64, "struct node_config's `written` has a bit for each");
    return UINT64_C(1) << (setting - settings);
}

static void outrank(struct node_config *config, const struct setting *by_flag)
{
    if (config->written & bit_of(by_flag))
        config->outranked = by_flag->name;
}

enum err node_config_set(struct node_config *config, const char *field, const char *value, char **ret_message)
{
    const struct setting *setting = find("", span_cstr(field));
    REQUIRE(setting);
    outrank(config, setting);
    return set(setting, config, span_cstr(value), ret_message);
}

enum err node_config_listen(struct node_config *config, const char *const *addresses, unsigned count,
                            char **ret_message)
{
    struct span texts[NODE_LISTENERS_MAX + 1];
    count = (unsigned)size_min(count, ARRAY_LEN(texts)); /* one too many is told below */
    outrank(config, find("", SPAN("listen")));
    for (unsigned i = 0; i < count; i++)
        texts[i] = span_cstr(addresses[i]);
    return config_listen(config, texts, count, ret_message);
}

/* ---- defaults ---- */

static unsigned cores(void)
{
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > (long)NODE_WORKERS_MAX ? NODE_WORKERS_MAX : (unsigned)n;
}

static enum err set_link(char **at, const char *home, const char *socket)
{
    char text[PATH_MAX + 64];
    (void)snprintf(text, sizeof(text), "ipc://%s/%s", home, socket);
    return config_set_text(at, span_cstr(text));
}

static enum err set_defaults(struct node_config *config)
{
    char host[HOST_NAME_MAX + 1] = "node", *unused = NULL;
    if (gethostname(host, sizeof(host) - 1) || !config_printable(span_cstr(host)))
        (void)snprintf(host, sizeof(host), "node");
    enum err err = config_set_text(&config->name, span_cstr(host));
    if (!err)
        err = set_link(&config->control, config->home, HOME_FETCH_SOCKET);
    if (!err)
        err = set_link(&config->evidence, config->home, HOME_EVIDENCE_SOCKET);
    if (!err)
        err = config_listen(config, &SPAN("127.0.0.1:4000"), 1, &unused);
    if (!err)
        err = config_set_text(&config->operations, SPAN("127.0.0.1:4001"));
    config->workers = cores();
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        if (settings[i].kind >= SETTING_COUNT)
            memcpy((char *)config + settings[i].offset, &settings[i].otherwise, sizeof(uint64_t));
    }
    return err;
}

/* Absolute, without links where it exists already: its hash names the board. */
static enum err set_home(struct node_config *config, const char *home)
{
    char path[PATH_MAX], cwd[PATH_MAX];
    char *given = home ? strdup(home) : file_default_home();
    if (!given)
        return ERR_NOMEM;
    enum err err;
    if (realpath(given, path))
        err = config_set_text(&config->home, span_cstr(path));
    else if (given[0] == '/')
        err = config_set_text(&config->home, span_cstr(given));
    else if (getcwd(cwd, sizeof(cwd)) && (config->home = file_join(cwd, given)))
        err = OK;
    else
        err = ERR_NOMEM;
    free(given);
    return err;
}

/* ---- the file ---- */

static void on_fault(void *user, uint32_t line, uint32_t column, const char *message)
{
    struct config_reading *r = user;
    if (r->failed)
        return; /* the first */
    (void)config_complain(r->message, "%s:%u:%u: %s", r->file, line, column, message);
    r->failed = true;
}

enum err config_fault_at(const struct config_reading *r, const struct yaml_node *node, const char *fmt, ...)
{
    char text[MESSAGE_BYTES];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return config_complain(r->message, "%s:%u:%u: %s", r->file, node->line, node->column, text);
}

enum err config_unknown_field(const struct config_reading *r, const struct yaml_node *key, const char *prefix,
                              const char *const *known, size_t count)
{
    const char *best = NULL;
    unsigned bound = 1 + (unsigned)(size_min(key->text.len, SPAN_DISTANCE_LEN_MAX) / 4);
    for (size_t i = 0; i < count; i++) {
        const unsigned distance = span_distance(key->text, span_cstr(known[i]), bound);
        if (distance <= bound) {
            best = known[i];
            bound = distance ? distance - 1 : 0;
        }
    }
    return config_fault_at(r, key, "unknown field '%s" SPAN_FMT "'%s%s%s", prefix,
                           SPAN_ARG(span_head(key->text, NAME_BYTES_MAX)), best ? "; did you mean '" : "",
                           best ? best : "", best ? "'?" : "");
}

/* Fields at the top that are no settings. */
static const char *const others[] = { "schema", "kind", "limits", "records", "credentials" };

static enum err unknown_setting(const struct config_reading *r, const struct yaml_node *key, const char *prefix)
{
    const char *known[ARRAY_LEN(settings) + ARRAY_LEN(others)];
    size_t count = 0;
    const size_t skip = strlen(prefix);
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        const char *name = settings[i].name;
        if (strncmp(name, prefix, skip) == 0 && !strchr(name + skip, '.'))
            known[count++] = name + skip;
    }
    for (size_t i = 0; skip == 0 && i < ARRAY_LEN(others); i++)
        known[count++] = others[i];
    return config_unknown_field(r, key, prefix, known, count);
}

static enum err read_setting(const struct config_reading *r, struct node_config *config, const char *prefix,
                             const struct yaml_node *value)
{
    const struct setting *setting = find(prefix, value->key->text);
    char *why = NULL;
    if (!setting || memchr(value->key->text.ptr, '.', value->key->text.len))
        return unknown_setting(r, value->key, prefix);
    config->written |= bit_of(setting);
    if (setting->kind == SETTING_LISTENERS)
        return config_read_listeners(r, config, value);
    if (setting->kind == SETTING_RESOLVERS)
        return config_read_resolvers(r, config, value);
    if (value->kind != YAML_SCALAR || yaml_is_null(value))
        return config_fault_at(r, value, "one value must stand here");
    enum err err = set(setting, config, value->text, &why);
    if (err == ERR_INVALID)
        err = config_fault_at(r, value, "%s", why);
    free(why);
    return err;
}

/* Settings whose names begin with the map's, a dot included in prefix. */
static enum err read_group(const struct config_reading *r, struct node_config *config, const char *prefix,
                           const struct yaml_node *map)
{
    enum err err = OK;
    if (yaml_is_null(map))
        return OK;
    if (map->kind != YAML_MAP)
        return config_fault_at(r, map, SPAN_FMT ": a map must stand here", SPAN_ARG(map->key->text));
    for (const struct yaml_node *child = map->first; child && !err; child = child->next)
        err = read_setting(r, config, prefix, child);
    return err;
}

static enum err read_credentials(const struct config_reading *r, struct node_config *config,
                                 const struct yaml_node *map)
{
    const struct yaml_node *where = map;
    const char *why = "";
    enum err err = credentials_from_yaml(config->credentials, yaml_is_null(map) ? NULL : map, &where, &why);
    return err == ERR_INVALID ? config_fault_at(r, where, "%s", why) : err;
}

static enum err expect(const struct config_reading *r, const struct yaml_node *root, const char *name,
                       const char *value)
{
    const struct yaml_node *node = yaml_get(root, name);
    if (node && node->kind == YAML_SCALAR && span_eq(node->text, span_cstr(value)))
        return OK;
    return config_fault_at(r, node ? node : root, "%s: must be %s", name, value);
}

static enum err read_root(const struct config_reading *r, struct node_config *config, const struct yaml_node *root)
{
    if (root->kind != YAML_MAP)
        return config_fault_at(r, root, "a map of settings must stand here");
    if (root->next)
        return config_fault_at(r, root->next, "one document only");
    enum err err = expect(r, root, "schema", "fairlead/1");
    if (!err)
        err = expect(r, root, "kind", "node");
    for (const struct yaml_node *child = root->first; child && !err; child = child->next) {
        const struct span name = child->key->text;
        if (span_eq(name, SPAN("schema")) || span_eq(name, SPAN("kind")))
            continue;
        if (span_eq(name, SPAN("limits")))
            err = read_group(r, config, "limits.", child);
        else if (span_eq(name, SPAN("records")))
            err = read_group(r, config, "records.", child);
        else if (span_eq(name, SPAN("credentials")))
            err = read_credentials(r, config, child);
        else
            err = read_setting(r, config, "", child);
    }
    return err;
}

static enum err read_file(struct node_config *config, const char *path, char **ret_message)
{
    struct config_reading r = { .file = config->source ? config->source : path, .message = ret_message };
    struct buf text = BUF_INIT(CONFIG_BYTES_MAX);
    struct arena arena;
    const struct yaml_node *root = NULL;
    arena_init(&arena, CONFIG_ARENA_BYTES);
    enum err err = file_read(path, CONFIG_BYTES_MAX, &text);
    if (err)
        (void)config_complain(ret_message, "%s: %s", r.file, err == ERR_IO ? strerror(errno) : err_name(err));
    if (!err) {
        err = yaml_parse(&arena, r.file, buf_span(&text), on_fault, &r, &root);
        if (err && !r.failed)
            (void)config_complain(ret_message, "%s: %s", r.file, err_name(err));
    }
    if (!err && root)
        err = read_root(&r, config, root);
    arena_release(&arena);
    buf_release(&text);
    return err;
}

static enum err choose_file(struct node_config *config, const char *file)
{
    if (file)
        return config_set_text(&config->source, span_cstr(file));
    char *path = file_join(config->home, HOME_NODE_CONFIG);
    if (path && file_exists(path)) {
        config->source = path;
        return OK;
    }
    free(path);
    return path ? OK : ERR_NOMEM;
}

enum err node_config_load_copy(const char *home, const char *file, const char *copy, struct node_config *ret,
                               char **ret_message)
{
    struct node_config config = { .home = NULL };
    *ret_message = NULL;
    enum err err = set_home(&config, home);
    if (!err)
        err = set_defaults(&config);
    if (!err)
        err = credentials_new(&config.credentials);
    if (!err)
        err = choose_file(&config, file);
    if (!err && (copy || config.source))
        err = read_file(&config, copy ? copy : config.source, ret_message);
    if (err) {
        node_config_release(&config);
        if (!*ret_message)
            *ret_message = strdup(err_name(err));
        return err;
    }
    (void)credentials_refresh(config.credentials);
    *ret = config;
    return OK;
}

enum err node_config_load(const char *home, const char *file, struct node_config *ret, char **ret_message)
{
    return node_config_load_copy(home, file, NULL, ret, ret_message);
}

void node_config_release(struct node_config *config)
{
    if (!config)
        return;
    free(config->home);
    free(config->name);
    free(config->control);
    free(config->evidence);
    config_release_listeners(config);
    free(config->operations);
    free(config->ca_file);
    free(config->resolvers);
    free(config->feedback_secret);
    free(config->source);
    credentials_free(config->credentials);
    *config = (struct node_config){ .home = NULL };
}

enum err node_config_describe(struct buf *out)
{
    enum err err = buf_append_cstr(out, "schema: fairlead/1\nkind: node\n\n");
    for (size_t i = 0; i < ARRAY_LEN(settings) && !err; i++) {
        const struct setting *s = &settings[i];
        char otherwise[UNITS_TEXT_BYTES], least[UNITS_TEXT_BYTES], most[UNITS_TEXT_BYTES];
        format_number(s, s->otherwise, otherwise);
        format_number(s, s->least, least);
        format_number(s, s->most, most);
        err = buf_printf(out, "%s\n    default %s", s->name, s->written ? s->written : otherwise);
        if (!err && s->kind >= SETTING_WORKERS)
            err = buf_printf(out, "; %s to %s", least, most);
        if (!err)
            err = buf_printf(out, "\n    %s\n", s->why);
    }
    if (!err)
        err = buf_append_cstr(out, config_listeners_text);
    if (!err)
        err =
            buf_append_cstr(out, "credentials\n    default none\n    {NAME: {from: env:VARIABLE or file:PATH, hosts: "
                                 "[HOST or \"*.SUFFIX\"]}}:\n"
                                 "    what the names in policies stand for, and the hosts that each may be sent to\n");
    return err;
}

char *node_config_path(const struct node_config *config, const char *relative)
{
    return file_join(config->home, relative);
}

char *node_config_board_path(const struct node_config *config)
{
    struct statfs fs;
    char path[128], hex[SHA256_HEX + 1];
    char *run = file_join(config->home, HOME_RUN);
    if (!run)
        return NULL;
    const bool tmpfs = statfs(run, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
    free(run);
    if (tmpfs)
        return file_join(config->home, HOME_RUN "/board");
    const struct sha256 hash = sha256_of(span_cstr(config->home));
    (void)snprintf(path, sizeof(path), "/dev/shm/fairlead-%u-%.16s", (unsigned)getuid(),
                   hex_encode(hash.bytes, SHA256_BYTES, hex));
    return strdup(path);
}
