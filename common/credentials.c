#include "common/credentials.h"
#include "common/fault.h"
#include "common/yaml.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CREDENTIALS_MAX      1000u /* names in one file that people write: more is a runaway generator */
#define CREDENTIAL_HOSTS_MAX 64u   /* of one credential: a longer list guards nothing */
#define CREDENTIAL_NAME_MAX  200u

/* Where a file stood when it was read last: the same means unchanged, and it is not read again. */
struct file_mark {
    dev_t device;
    ino_t inode;
    off_t bytes;
    struct timespec modified;
};

struct credential {
    char *name;
    bool from_file;
    char *source; /* variable or path */
    char **hosts; /* lower case */
    unsigned host_count;
    struct file_mark mark;
    bool resolved;
    size_t secret_bytes;
    char *secret; /* a slot of CREDENTIAL_BYTES_MAX in `pages` of its own, kept out of core dumps */
};

struct credentials {
    struct credential *items;
    unsigned count, capacity;
};

/* ---- memory ---- */

/* Whole pages, because advice holds for pages only. */
static char *secret_new(void)
{
    if (fault_hit(FAULT_ALLOC))
        return NULL;
    void *pages = mmap(NULL, CREDENTIAL_BYTES_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return NULL;
    if (madvise(pages, CREDENTIAL_BYTES_MAX, MADV_DONTDUMP) != 0) {
        munmap(pages, CREDENTIAL_BYTES_MAX);
        return NULL;
    }
    return pages;
}

static void credential_release(struct credential *c)
{
    if (c->secret) {
        explicit_bzero(c->secret, CREDENTIAL_BYTES_MAX);
        munmap(c->secret, CREDENTIAL_BYTES_MAX);
    }
    for (unsigned i = 0; c->hosts && i < c->host_count; i++)
        free(c->hosts[i]);
    free(c->hosts);
    free(c->source);
    free(c->name);
}

enum err credentials_new(struct credentials **ret)
{
    struct credentials *credentials = fault_calloc(1, sizeof *credentials);
    if (!credentials)
        return ERR_NOMEM;
    *ret = credentials;
    return OK;
}

void credentials_free(struct credentials *credentials)
{
    if (!credentials)
        return;
    for (unsigned i = 0; i < credentials->count; i++)
        credential_release(&credentials->items[i]);
    free(credentials->items);
    free(credentials);
}

static char *copy_text(struct span text, bool lower)
{
    char *copy = fault_malloc(text.len + 1);
    if (!copy)
        return NULL;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        copy[i] = lower && c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
    }
    copy[text.len] = '\0';
    return copy;
}

static struct credential *find(const struct credentials *credentials, struct span name)
{
    for (unsigned i = 0; i < credentials->count; i++) {
        if (span_eq(span_cstr(credentials->items[i].name), name))
            return &credentials->items[i];
    }
    return NULL;
}

/* ---- reading ---- */

/* A header value: printable ASCII. A source that holds anything else (a key with a stray newline inside, a binary file)
 * is not resolved, rather than sent. */
static bool secret_is_good(struct span secret)
{
    for (size_t i = 0; i < secret.len; i++) {
        if (secret.ptr[i] <= ' ' || secret.ptr[i] > '~')
            return false;
    }
    return secret.len > 0 && secret.len < CREDENTIAL_BYTES_MAX;
}

/* True when what requests would send is now different. text NULL: nothing there. */
static bool settle(struct credential *c, const char *text, size_t bytes)
{
    while (bytes > 0 && (text[bytes - 1] == '\n' || text[bytes - 1] == '\r'))
        bytes--;
    bool resolved = text && secret_is_good(span_of(text, bytes));
    bool changed =
        resolved != c->resolved || (resolved && (bytes != c->secret_bytes || memcmp(text, c->secret, bytes) != 0));
    if (!changed)
        return false;
    explicit_bzero(c->secret, CREDENTIAL_BYTES_MAX);
    if (resolved)
        memcpy(c->secret, text, bytes);
    c->secret_bytes = resolved ? bytes : 0;
    c->resolved = resolved;
    return true;
}

static bool same_mark(const struct file_mark *a, const struct file_mark *b)
{
    return a->device == b->device && a->inode == b->inode && a->bytes == b->bytes &&
           a->modified.tv_sec == b->modified.tv_sec && a->modified.tv_nsec == b->modified.tv_nsec;
}

/* Fills text with at most CREDENTIAL_BYTES_MAX bytes of the file. -1: cannot be read. */
static ssize_t read_all(int fd, char *text)
{
    size_t got = 0;
    while (got < CREDENTIAL_BYTES_MAX) {
        ssize_t n = read(fd, text + got, CREDENTIAL_BYTES_MAX - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    return (ssize_t)got;
}

static bool refresh_file(struct credential *c)
{
    struct stat st;
    int fd = open(c->source, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO in its place must not stop us */
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        if (fd >= 0)
            close(fd);
        c->mark = (struct file_mark){ .bytes = -1 };
        return settle(c, NULL, 0);
    }
    struct file_mark mark = { st.st_dev, st.st_ino, st.st_size, st.st_mtim };
    if (same_mark(&mark, &c->mark)) {
        close(fd);
        return false;
    }
    char text[CREDENTIAL_BYTES_MAX];
    ssize_t got = read_all(fd, text);
    close(fd);
    /* Not remembered when it could not be read or is too long: tried again next time. */
    c->mark = got >= 0 ? mark : (struct file_mark){ .bytes = -1 };
    bool changed = settle(c, got >= 0 ? text : NULL, got >= 0 ? (size_t)got : 0);
    explicit_bzero(text, sizeof text);
    return changed;
}

static bool refresh(struct credential *c)
{
    if (c->from_file)
        return refresh_file(c);
    const char *value = getenv(c->source);
    return settle(c, value, value ? strnlen(value, CREDENTIAL_BYTES_MAX) : 0);
}

unsigned credentials_refresh(struct credentials *credentials)
{
    unsigned changed = 0;
    for (unsigned i = 0; i < credentials->count; i++)
        changed += refresh(&credentials->items[i]);
    return changed;
}

/* ---- declaring ---- */

static bool host_is_good(struct span host)
{
    if (span_starts(host, SPAN("*.")))
        host = span_skip(host, 2);
    for (size_t i = 0; i < host.len; i++) {
        char c = host.ptr[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && c != '-' && c != '.' && c != '_' && c != ':') /* ':' of IPv6 addresses */
            return false;
    }
    return host.len > 0 && host.len <= 255;
}

/* What is wrong with a declaration, or NULL. */
static const char *judge(struct span name, struct span from, const struct span *hosts, unsigned host_count)
{
    if (name.len == 0 || name.len > CREDENTIAL_NAME_MAX)
        return "a credential's name must have 1 to 200 bytes";
    bool env = span_starts(from, SPAN("env:")) && from.len > 4;
    bool file = span_starts(from, SPAN("file:")) && from.len > 5;
    if (!env && !file)
        return "'from' must be env:NAME or file:PATH";
    if (memchr(from.ptr, '\0', from.len))
        return "'from' holds a NUL byte";
    if (host_count == 0)
        return "'hosts' must name the hosts that this credential may be sent to";
    if (host_count > CREDENTIAL_HOSTS_MAX)
        return "'hosts' has more than 64 entries";
    for (unsigned i = 0; i < host_count; i++) {
        if (!host_is_good(hosts[i]))
            return "a host must be a plain name, an address or *.suffix, without scheme, port or path";
    }
    return NULL;
}

static enum err fill(struct credential *c, struct span name, struct span from, const struct span *hosts, unsigned count)
{
    c->from_file = span_starts(from, SPAN("file:"));
    c->name = copy_text(name, false);
    c->source = copy_text(span_skip(from, c->from_file ? 5 : 4), false);
    c->hosts = fault_calloc(count, sizeof *c->hosts);
    c->secret = secret_new();
    if (!c->name || !c->source || !c->hosts || !c->secret)
        return ERR_NOMEM;
    c->host_count = count;
    for (unsigned i = 0; i < count; i++) {
        c->hosts[i] = copy_text(hosts[i], true);
        if (!c->hosts[i])
            return ERR_NOMEM;
    }
    c->mark.bytes = -1;
    return OK;
}

enum err credentials_add(struct credentials *credentials, struct span name, struct span from, const struct span *hosts,
                         unsigned host_count, const char **ret_why)
{
    const char *why = judge(name, from, hosts, host_count);
    if (!why && credentials->count == CREDENTIALS_MAX)
        why = "there are more than 1000 credentials";
    if (why) {
        *ret_why = why;
        return ERR_INVALID;
    }
    if (find(credentials, name)) {
        *ret_why = "this credential is declared twice";
        return ERR_EXISTS;
    }
    if (credentials->count == credentials->capacity) {
        unsigned capacity = credentials->capacity ? 2 * credentials->capacity : 8;
        struct credential *items = fault_realloc(credentials->items, capacity * sizeof *items);
        if (!items)
            return ERR_NOMEM;
        credentials->items = items;
        credentials->capacity = capacity;
    }
    struct credential c = { 0 };
    enum err err = fill(&c, name, from, hosts, host_count);
    if (err) {
        credential_release(&c);
        return err;
    }
    (void)refresh(&c);
    credentials->items[credentials->count++] = c;
    return OK;
}

/* ---- node.yaml ---- */

static bool field_is_known(const struct yaml_node *field)
{
    return span_eq(field->key->text, SPAN("from")) || span_eq(field->key->text, SPAN("hosts"));
}

static const char *read_hosts(const struct yaml_node *list, struct span *hosts, unsigned *count)
{
    if (!list || list->kind != YAML_LIST)
        return "'hosts' must be a list: hosts: [api.example.com]";
    for (const struct yaml_node *item = list->first; item; item = item->next) {
        if (item->kind != YAML_SCALAR)
            return "a host must be a plain text";
        if (*count == CREDENTIAL_HOSTS_MAX)
            return "'hosts' has more than 64 entries";
        hosts[(*count)++] = item->text;
    }
    return NULL;
}

enum err credentials_from_yaml(struct credentials *credentials, const struct yaml_node *map,
                               const struct yaml_node **ret_node, const char **ret_why)
{
    if (!map || yaml_is_null(map))
        return OK;
    *ret_node = map;
    if (map->kind != YAML_MAP) {
        *ret_why = "'credentials' must be a map: name: {from: env:NAME, hosts: [api.example.com]}";
        return ERR_INVALID;
    }
    for (const struct yaml_node *item = map->first; item; item = item->next) {
        struct span hosts[CREDENTIAL_HOSTS_MAX];
        unsigned count = 0;
        *ret_node = item;
        if (item->kind != YAML_MAP) {
            *ret_why = "a credential must be a map: {from: env:NAME, hosts: [api.example.com]}";
            return ERR_INVALID;
        }
        for (const struct yaml_node *field = item->first; field; field = field->next) {
            if (!field_is_known(field)) {
                *ret_node = field;
                *ret_why = "a credential has only 'from' and 'hosts'";
                return ERR_INVALID;
            }
        }
        const struct yaml_node *from = yaml_get(item, "from");
        if (!from || from->kind != YAML_SCALAR) {
            *ret_why = "'from' is missing: env:NAME or file:PATH";
            return ERR_INVALID;
        }
        const char *why = read_hosts(yaml_get(item, "hosts"), hosts, &count);
        if (why) {
            *ret_why = why;
            return ERR_INVALID;
        }
        enum err err = credentials_add(credentials, item->key->text, from->text, hosts, count, ret_why);
        if (err)
            return err == ERR_EXISTS ? ERR_INVALID : err;
    }
    return OK;
}

/* ---- using ---- */

/* "*.example.com" stands for every name below example.com, not for itself (as in certificates, but of any depth:
 * Azure's resources are below one suffix). */
static bool host_allowed(const struct credential *c, struct span host)
{
    for (unsigned i = 0; i < c->host_count; i++) {
        struct span rule = span_cstr(c->hosts[i]);
        if (rule.ptr[0] != '*') {
            if (span_eq_nocase(rule, host))
                return true;
            continue;
        }
        struct span suffix = span_skip(rule, 1); /* ".example.com" */
        if (host.len > suffix.len && span_eq_nocase(span_skip(host, host.len - suffix.len), suffix))
            return true;
    }
    return false;
}

enum err credentials_get(struct credentials *credentials, struct span name, struct span host, struct span *ret_secret)
{
    const struct credential *c = find(credentials, name);
    if (!c)
        return ERR_NOT_FOUND;
    if (!host_allowed(c, host))
        return ERR_DENIED;
    if (!c->resolved)
        return ERR_UNAUTHORIZED;
    *ret_secret = span_of(c->secret, c->secret_bytes);
    return OK;
}

bool credentials_resolved(const struct credentials *credentials, struct span name)
{
    const struct credential *c = find(credentials, name);
    return c && c->resolved;
}

unsigned credentials_count(const struct credentials *credentials)
{
    return credentials->count;
}

struct span credentials_name(const struct credentials *credentials, unsigned index)
{
    REQUIRE(index < credentials->count);
    return span_cstr(credentials->items[index].name);
}
