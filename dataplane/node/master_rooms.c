#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "dataplane/node/feedback_secret.h"
#include "dataplane/node/master_internal.h"
#include "dataplane/node/metrics.h"
#include <errno.h>
#include <fcntl.h>

enum err master_write_file(struct master *m, const char *relative, struct span text)
{
    char *path = node_config_path(m->config, relative);
    const enum err err = path ? file_write_atomic(path, text, 0644) : ERR_NOMEM;
    if (err)
        log_error("home.write", LOG_STR("file", relative), LOG_ERR(err));
    free(path);
    return err;
}

/* Those that drain have theirs, too: room for some upgrades in a row over streams that last. */
unsigned master_regions(const struct node_config *config)
{
    return (unsigned)size_min(NODE_REGIONS_MAX, 8 * config->workers + 32);
}

static enum err open_board(struct master *m)
{
    char *path = node_config_board_path(m->config);
    const enum err err = path ? board_create(path, master_regions(m->config), &m->board) : ERR_NOMEM;
    if (err)
        log_error("board.create", LOG_STR("path", path ? path : ""), LOG_ERR(err),
                  LOG_STR("hint", err == ERR_INVALID ? "it must lie on a tmpfs: is /dev/shm one?" : ""));
    else
        tally_add_region(&m->ended, board_ended(m->board), false); /* of a master that was killed */
    if (!err)
        board_tickets_renew(m->board, clock_ms());
    free(path);
    return err;
}

static enum err open_store(struct master *m)
{
    char *path = node_config_path(m->config, HOME_NODE_STORE);
    const enum err err = path ? tablestore_open(path, false, &m->store) : ERR_NOMEM;
    if (err)
        log_error("store.open", LOG_STR("path", path ? path : ""), LOG_ERR(err),
                  LOG_STR("hint", err == ERR_CORRUPT ? "move it away: the control plane gives all of it again" : ""));
    free(path);
    return err;
}

static enum err open_records(struct master *m)
{
    char *path = node_config_path(m->config, HOME_RECORDS);
    const enum err err = path ? records_open(&m->records, path, m->config->limits.record_segment_bytes,
                                             m->config->limits.record_segments)
                              : ERR_NOMEM;
    if (err)
        log_error("records.open", LOG_STR("path", path ? path : ""), LOG_ERR(err));
    free(path);
    return err;
}

const char *master_operations_hint(enum err err)
{
    return err == ERR_EXISTS ? "another program listens there: choose another address with --operations" : "";
}

/* The socket of the master before, when it is where ours should be. */
static enum err operations_socket(struct master *m, struct address *address, int *ret_fd)
{
    struct heritage *from = m->inherits;
    struct address have;
    if (from && from->operations_fd >= 0 && strcmp(from->operations, m->config->operations) == 0 &&
        socket_address(from->operations_fd, &have) == OK) {
        *address = have;
        *ret_fd = from->operations_fd;
        from->operations_fd = -1;
        return OK;
    }
    return socket_listen(address, true, ret_fd);
}

static enum err open_exporter(struct master *m)
{
    struct address address;
    char text[ADDRESS_TEXT_BYTES], line[ADDRESS_TEXT_BYTES + 1];
    int fd;
    REQUIRE(address_parse(span_cstr(m->config->operations), &address) == OK); /* was checked with the configuration */
    enum err err = operations_socket(m, &address, &fd);
    (void)address_format(&address, text);
    if (!err) {
        m->operations_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        (void)snprintf(m->operations, sizeof(m->operations), "%s", m->config->operations);
        err = exporter_open(&m->exporter, &m->loop, fd, METRICS_BYTES_MAX, master_page, m);
    }
    if (err) {
        log_error("operations.listen", LOG_STR("address", text), LOG_ERR(err),
                  LOG_STR("hint", master_operations_hint(err)));
        return err;
    }
    log_info("operations.listening", LOG_STR("address", text));
    (void)snprintf(line, sizeof(line), "%s\n", text);
    return master_write_file(m, MASTER_OPERATIONS_FILE, span_cstr(line));
}

static enum err open_changes(struct master *m)
{
    const struct master_options *o = m->options;
    struct changes_events events = master_changes_events;
    events.user = m;
    return changes_init(&m->changes, &(struct changes_options){ .loop = &m->loop,
                                                                .config = m->config,
                                                                .supervisor = &m->supervisor,
                                                                .file = o->file,
                                                                .program = o->program,
                                                                .arguments = o->arguments + 1,
                                                                .read = o->read,
                                                                .read_user = o->read_user,
                                                                .events = events });
}

/* A master that inherits has been given the copy in force. */
static enum err copy_config(struct master *m)
{
    char *message = NULL;
    if (m->inherits)
        return OK;
    const enum err err = changes_first(&m->changes, &message);
    if (err)
        log_error("config.read", LOG_STR("why", message ? message : err_name(err)));
    free(message);
    return err;
}

/* ---- the workers ---- */

static enum err hub_socket(struct master *m, int *ret_fd, bool *ret_successor)
{
    char *path = node_config_path(m->config, HOME_NODE_SOCKET);
    *ret_successor = path && file_exists(path); /* a master that ends well takes it away */
    if (m->inherits) {
        *ret_fd = m->inherits->hub_fd;
        m->inherits->hub_fd = -1;
        free(path);
        return OK;
    }
    const enum err err = path ? socket_listen_unix(path, 0600, false, ret_fd) : ERR_NOMEM;
    if (err)
        log_error("hub.listen", LOG_STR("path", path ? path : ""), LOG_ERR(err),
                  LOG_STR("hint", err == ERR_TOO_LARGE
                                      ? "the path of a socket may have 107 bytes: choose a shorter --home"
                                      : ""));
    free(path);
    return err;
}

static enum err open_supervisor(struct master *m)
{
    int fd;
    bool successor;
    const enum err err = hub_socket(m, &fd, &successor);
    if (err)
        return err;
    struct supervisor_events events = master_supervisor_events;
    events.user = m;
    m->opened_supervisor = true;
    return supervisor_open(&m->supervisor, &(struct supervisor_options){ .loop = &m->loop,
                                                                         .config = m->config,
                                                                         .board = m->board,
                                                                         .config_file = m->changes.copy,
                                                                         .worker_args = m->options->worker_args,
                                                                         .hub_fd = fd,
                                                                         .successor = successor,
                                                                         .heritage = m->inherits,
                                                                         .passed = m->passed,
                                                                         .events = events });
}

static enum err prepare_secret(struct master *m)
{
    const char *source = m->config->feedback_secret;
    const enum err err = feedback_secret_prepare(m->config);
    if (err)
        log_error("feedback.secret", LOG_STR("from", source ? source : "file:HOME/" HOME_FEEDBACK_SECRET), LOG_ERR(err),
                  LOG_STR("hint", "the variable or file that feedback_secret names must hold a secret"));
    return err;
}

enum err master_open_rooms(struct master *m)
{
    enum err err = open_changes(m);
    if (!err)
        err = copy_config(m);
    if (!err)
        err = prepare_secret(m);
    if (!err)
        err = open_board(m);
    if (!err)
        err = open_store(m);
    if (!err) {
        master_check_readers(m);
        err = open_records(m);
    }
    if (!err) {
        m->opened_replica = true;
        err = replica_open(&m->replica,
                           &(struct replica_options){ .loop = &m->loop,
                                                      .config = m->config,
                                                      .board = m->board,
                                                      .store = m->store,
                                                      .program = m->options->program,
                                                      .events = { .committed = master_committed, .user = m } });
    }
    if (!err)
        err = open_supervisor(m);
    if (!err)
        err = open_exporter(m);
    return err;
}
