/* Any bytes as node.yaml: it is refused with a reason, or every setting is within its bounds. The file is one in memory,
 * since the configuration is read by path. Seeds: tests/fuzz/seeds/node_config. */
#include "common/arena.h"
#include "dataplane/node/config.h"
#include "tests/fuzz/fuzz.h"
#include <sys/mman.h>
#include <unistd.h>

static int memory_file(const uint8_t *data, size_t size)
{
    int fd = memfd_create("node.yaml", MFD_CLOEXEC);
    MUST(fd >= 0);
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, data + done, size - done);
        MUST(n > 0);
        done += (size_t)n;
    }
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct node_config config;
    char path[32], *message = NULL;
    if (size > 1u << 20)
        return 0;
    int fd = memory_file(data, size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const enum err err = node_config_load("/nowhere", path, &config, &message);
    if (err) {
        MUST(message && message[0]);
        free(message);
    } else {
        MUST(config.name[0] && config.control[0] && config.evidence[0] && config.listener_count > 0 &&
             config.operations[0]);
        for (unsigned i = 0; i < config.listener_count; i++)
            MUST(config.listeners[i].address[0] && !config.listeners[i].certificate == !config.listeners[i].key);
        MUST(config.limits.head_bytes > 0 && config.limits.body_bytes > 0 && config.limits.connections > 0);
        for (unsigned i = 0; i < credentials_count(config.credentials); i++)
            MUST(credentials_name(config.credentials, i).len > 0);
        node_config_release(&config);
    }
    close(fd);
    return 0;
}
